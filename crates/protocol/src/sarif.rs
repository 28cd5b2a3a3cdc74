//! Findings of the log as SARIF 2.1.0 (OASIS), written in pieces: the head, then each result, then the tail. Together
//! they are one document of any length.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::severity::{Severity, text};
use crate::base64url;
use crate::digest::sha256;

/// The registered media type of a SARIF file.
pub const MEDIA_TYPE: &str = "application/sarif+json";
/// The `$schema` of the document.
pub const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
/// The names of the fingerprints, without and with details. The input of a version never changes; another selection needs
/// another version (SARIF 2.1.0 §3.27.16).
const FINGERPRINT: &str = "actchainFinding/v1";
const DETAILED_FINGERPRINT: &str = "actchainFinding/v2";

/// What the document is about: names its runs, and the location of its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// A selection of the audit log.
    Log,
    /// The events of one session.
    Session,
}

impl Category {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "audit",
            Self::Session => "session",
        }
    }

    /// Kinds of logical locations, with the members of the event that name them.
    fn locations(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Log => {
                &[("chain", "/txn"), ("delegation", "/delegation_id"), ("client", "/actor/client_id")]
            }
            Self::Session => &[
                ("session", "/session_id"),
                ("delegation", "/delegation_id"),
                ("client", "/actor/client_id"),
                ("event", "/seq"),
            ],
        }
    }
}

/// What a finding can be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Stable id, such as the reason of a refusal.
    pub id: Cow<'static, str>,
    /// The rule in one sentence.
    pub sentence: Cow<'static, str>,
    /// The full description.
    pub meaning: Cow<'static, str>,
    /// What to do about a finding.
    pub advice: Cow<'static, str>,
    /// The severity of findings that name this rule.
    pub severity: Severity,
}

/// A finding in one event.
#[derive(Debug, Clone)]
pub struct Finding<'a> {
    /// Index in the list of rules.
    pub rule: usize,
    /// The event of the log, as it was recorded.
    pub event: &'a Value,
    /// One sentence for people; not part of the fingerprint.
    pub message: String,
    /// The severity of this finding, if it is not that of its rule.
    pub severity: Option<Severity>,
    /// What distinguishes the finding from others of the same rule.
    pub details: BTreeMap<&'static str, String>,
}

/// Most results of one run: code scanning services accept no more (GitHub: 25,000).
pub const MAX_RESULTS: usize = 25_000;

/// Facts that each run states at its end.
#[derive(Debug, Clone)]
pub struct RunEnd {
    /// Time at which the log was read.
    pub at: String,
    /// Members of the property bag.
    pub properties: Value,
}

/// Writes one document with one run, which may have no results. More than [`MAX_RESULTS`] results continue in further
/// runs.
#[derive(Debug)]
pub struct Writer {
    category: Category,
    rules: Vec<Rule>,
    end: RunEnd,
    runs: usize,
    /// Number of results in the current run.
    found: usize,
}

impl Writer {
    /// A writer with these rules, which each run lists in full.
    pub fn new(category: Category, rules: Vec<Rule>, end: RunEnd) -> Self {
        Self { category, rules, end, runs: 1, found: 0 }
    }

    /// The place of the rule with this id; adds the rule that `make` describes if there is none.
    pub fn place(&mut self, id: &str, make: impl FnOnce() -> Rule) -> usize {
        let found = self.rules.iter().position(|rule| rule.id == id);
        found.unwrap_or_else(|| {
            self.rules.push(make());
            self.rules.len() - 1
        })
    }

    /// The beginning of the document.
    pub fn head(&self) -> String {
        format!("{{\"$schema\":\"{SCHEMA}\",\"version\":\"2.1.0\",\"runs\":[{}", self.run_head())
    }

    /// Writes the next finding. A finding without a rule is skipped.
    pub fn result(&mut self, finding: &Finding<'_>) -> String {
        let Some(rule) = self.rules.get(finding.rule) else { return String::new() };
        let result = result(self.category, rule, finding).to_string();
        let mut text = String::new();
        if self.found == MAX_RESULTS {
            (self.runs, self.found) = (self.runs + 1, 0);
            text = format!("{},\n{}", self.run_tail(), self.run_head());
        } else if self.found > 0 {
            text.push_str(",\n");
        }
        self.found += 1;
        text + &result
    }

    /// The end of the document: that the analysis is complete, when, and the property bag.
    pub fn tail(&self) -> String {
        format!("{}]}}\n", self.run_tail())
    }

    fn run_head(&self) -> String {
        // Services distinguish the runs of a document by category, the part of the id before the last slash.
        let category = self.category.name();
        let id = match self.runs {
            1 => format!("actchain/{category}/"),
            run => format!("actchain/{category}/{run}/"),
        };
        let details = json!({"id": id});
        format!("{{\"automationDetails\":{details},\"columnKind\":\"unicodeCodePoints\",\"results\":[\n")
    }

    /// The rules are at the end: a result can add one.
    fn run_tail(&self) -> String {
        let tool = json!({"driver": {
            "name": "actchain",
            "semanticVersion": env!("CARGO_PKG_VERSION"),
            "rules": self.rules.iter().map(described).collect::<Vec<_>>(),
        }});
        let invocations = json!([{"executionSuccessful": true, "endTimeUtc": self.end.at}]);
        format!("\n],\"tool\":{tool},\"invocations\":{invocations},\"properties\":{}}}", self.end.properties)
    }
}

fn described(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "shortDescription": {"text": rule.sentence},
        "fullDescription": {"text": plain(&rule.meaning)},
        "help": {"text": plain(&rule.advice), "markdown": rule.advice},
        "defaultConfiguration": {"level": rule.severity.level()},
        "properties": {"security-severity": format!("{}.0", rule.severity.cef()), "tags": ["security"]},
    })
}

/// Text without Markdown code marks.
fn plain(markdown: &str) -> String {
    markdown.replace('`', "")
}

fn result(category: Category, rule: &Rule, finding: &Finding<'_>) -> Value {
    let event = finding.event;
    let details = (!finding.details.is_empty()).then(|| json!(finding.details));
    let mut properties = Map::new();
    for (name, value) in [
        ("seq", event.get("seq")),
        ("eventId", event.get("id")),
        ("at", event.get("at")),
        ("action", event.get("action")),
        ("requestId", event.get("request_id")),
    ] {
        properties.insert(name.to_owned(), value.cloned().unwrap_or(Value::Null));
    }
    let (mut name, mut print) = (FINGERPRINT, vec![json!(rule.id), json!(identity(event))]);
    if let Some(details) = details {
        name = DETAILED_FINGERPRINT;
        print.push(details.clone());
        properties.insert("details".to_owned(), details);
    }
    let print = base64url::encode(sha256(&[json!(print).to_string().as_bytes()]));
    json!({
        "ruleId": rule.id,
        "ruleIndex": finding.rule,
        "kind": "fail",
        "level": finding.severity.unwrap_or(rule.severity).level(),
        "message": {"text": finding.message},
        "locations": [location(category, event)],
        "partialFingerprints": {name: print},
        "properties": properties,
    })
}

/// The location of an event. SARIF needs a file, so the chain, delegation or client of the event takes its place as a
/// relative URI (SARIF 2.1.0 §3.27.12).
fn location(category: Category, event: &Value) -> Value {
    let name = |pointer: &str| match event.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let named: Vec<(&str, String)> =
        category.locations().iter().filter_map(|(kind, pointer)| Some((*kind, name(pointer)?))).collect();
    let logical: Vec<Value> = named
        .iter()
        .map(|(kind, name)| json!({"kind": kind, "name": name, "fullyQualifiedName": format!("{kind}/{name}")}))
        .collect();
    let uri = named
        .first()
        .map_or_else(|| "events".to_owned(), |(kind, name)| format!("{kind}s/{}", segment(name)));
    json!({
        "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}},
        "logicalLocations": logical,
    })
}

/// A segment of a relative URI (RFC 3986 §3.3).
fn segment(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

/// The members of an event in a fingerprint: client, subject, delegation, target and action. The position in the log and
/// values that differ in every request are left out.
fn identity(event: &Value) -> [Option<&str>; 6] {
    ["/actor/client_id", "/subject/iss", "/subject/sub", "/delegation_id", "/target", "/action"]
        .map(|pointer| text(event, pointer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [Rule; 2] = [
        Rule {
            id: Cow::Borrowed("dpop_proof_replayed"),
            sentence: Cow::Borrowed("It was used before"),
            meaning: Cow::Borrowed("A `jti` came twice."),
            advice: Cow::Borrowed("Find out who else has it."),
            severity: Severity::High,
        },
        Rule {
            id: Cow::Borrowed("delegation_expired"),
            sentence: Cow::Borrowed("It has expired"),
            meaning: Cow::Borrowed("It has expired."),
            advice: Cow::Borrowed("Renew it."),
            severity: Severity::Low,
        },
    ];

    fn writer() -> Writer {
        let end = RunEnd { at: "2026-01-01T00:00:00Z".into(), properties: json!({"size": 2}) };
        Writer::new(Category::Log, RULES.to_vec(), end)
    }

    fn finding(rule: usize, event: &Value) -> Finding<'_> {
        Finding { rule, event, message: "m".into(), severity: None, details: BTreeMap::new() }
    }

    fn document(findings: &[(usize, Value)]) -> Value {
        let mut writer = writer();
        let mut text = writer.head();
        for (rule, event) in findings {
            text.push_str(&writer.result(&finding(*rule, event)));
        }
        text.push_str(&writer.tail());
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn nothing_found_is_a_run_without_results() {
        let whole = document(&[]);
        assert_eq!(whole["runs"].as_array().unwrap().len(), 1);
        let run = &whole["runs"][0];
        assert_eq!((&run["results"], &run["properties"]["size"]), (&json!([]), &json!(2)));
        assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn rules_say_what_they_mean_and_what_to_do() {
        let rule = &document(&[])["runs"][0]["tool"]["driver"]["rules"][0];
        assert_eq!(rule["fullDescription"]["text"], "A jti came twice.");
        assert_eq!(
            rule["help"],
            json!({"text": "Find out who else has it.", "markdown": "Find out who else has it."})
        );
    }

    #[test]
    fn more_results_than_a_service_takes_of_one_run_go_on_in_another() {
        let event = json!({"seq": 1, "actor": {"client_id": "a"}});
        for (count, runs) in [(MAX_RESULTS, vec![MAX_RESULTS]), (MAX_RESULTS + 1, vec![MAX_RESULTS, 1])] {
            let whole = document(&vec![(0, event.clone()); count]);
            let all = whole["runs"].as_array().unwrap();
            assert_eq!(
                all.iter().map(|run| run["results"].as_array().unwrap().len()).collect::<Vec<_>>(),
                runs
            );
            for (place, run) in all.iter().enumerate() {
                let id = ["actchain/audit/", "actchain/audit/2/"][place];
                assert_eq!(run["automationDetails"]["id"], id);
                assert_eq!(run["invocations"][0]["executionSuccessful"], true);
                assert_eq!(run["tool"], all[0]["tool"]);
            }
        }
    }

    #[test]
    fn results_refer_to_existing_rules() {
        let event = json!({"seq": 1, "txn": "t/ä", "delegation_id": "D", "actor": {"client_id": "a"}});
        let whole = document(&[(1, event.clone()), (0, event), (2, json!({}))]);
        assert_eq!((&whole["$schema"], &whole["version"]), (&json!(SCHEMA), &json!("2.1.0")));
        let run = &whole["runs"][0];
        assert_eq!(run["tool"]["driver"]["name"], "actchain");
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), 2, "one of no rule is passed over");
        for result in results {
            let place = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            let rule = &run["tool"]["driver"]["rules"][place];
            assert_eq!(result["ruleId"], rule["id"]);
            assert_eq!(result["level"], rule["defaultConfiguration"]["level"]);
            assert!(
                ["note", "warning", "error"].contains(&result["level"].as_str().unwrap()),
                "SARIF 2.1.0 §3.27.10"
            );
            assert_eq!((&result["kind"], result["message"]["text"].is_string()), (&json!("fail"), true));
        }
        assert_eq!((&results[0]["level"], &results[1]["level"]), (&json!("note"), &json!("error")));
        assert_eq!(run["invocations"][0]["executionSuccessful"], true);
    }

    #[test]
    fn locations_are_relative_and_name_chain_and_delegation() {
        let event = json!({"txn": "t/ä", "delegation_id": "D", "actor": {"client_id": "a"}});
        let whole = document(&[(0, event), (0, json!({}))]);
        let place = |at: usize| whole["runs"][0]["results"][at]["locations"][0].clone();
        assert_eq!(place(0)["physicalLocation"]["artifactLocation"]["uri"], "chains/t%2F%C3%A4");
        let names: Vec<Value> = place(0)["logicalLocations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["fullyQualifiedName"].clone())
            .collect();
        assert_eq!(names, [json!("chain/t/ä"), json!("delegation/D"), json!("client/a")]);
        assert_eq!(place(1)["physicalLocation"]["artifactLocation"]["uri"], "events");
    }

    #[test]
    fn the_same_finding_has_the_same_fingerprint() {
        let print = |rule: usize, event: Value| {
            document(&[(rule, event)])["runs"][0]["results"][0]["partialFingerprints"][FINGERPRINT].clone()
        };
        let one =
            json!({"seq": 1, "id": "x", "at": "1", "txn": "t", "actor": {"client_id": "a"}, "target": "b"});
        let again =
            json!({"seq": 9, "id": "y", "at": "2", "txn": "u", "actor": {"client_id": "a"}, "target": "b"});
        let moved = json!({"seq": 1, "actor": {"client_id": "ab"}});
        assert_eq!(print(0, one.clone()), print(0, again));
        assert_ne!(print(0, one.clone()), print(1, one.clone()));
        assert_ne!(print(0, one), print(0, moved));
        assert_eq!(
            print(0, json!({"actor": {"client_id": "a"}})),
            "OidXmYy0lVX4nPCbzY-mvgyD_mlnvvTh05xWsFSAFkg",
            "version 1 never changes its meaning"
        );
    }

    #[test]
    fn a_session_has_locations_of_its_own_and_lists_rules_that_it_meets() {
        let end = RunEnd { at: "2026-01-01T00:00:00Z".into(), properties: json!({}) };
        let mut writer = Writer::new(Category::Session, RULES.to_vec(), end);
        let event = json!({"seq": 7, "session_id": "s/1", "delegation_id": "D", "txn": "t",
            "actor": {"client_id": "a"}});
        let mut text = writer.head();
        for target in ["input", "input", "output"] {
            let make = || Rule { id: Cow::Owned("CE-001".into()), ..RULES[0].clone() };
            let rule = writer.place("CE-001", make);
            let details = BTreeMap::from([("target", target.to_owned())]);
            text.push_str(&writer.result(&Finding {
                severity: Some(Severity::Critical),
                details,
                ..finding(rule, &event)
            }));
        }
        text.push_str(&writer.tail());
        let run = serde_json::from_str::<Value>(&text).unwrap()["runs"][0].clone();
        assert_eq!(run["automationDetails"]["id"], "actchain/session/");
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        assert_eq!((rules.len(), &rules[2]["id"]), (3, &json!("CE-001")), "each rule once");
        let results = run["results"].as_array().unwrap();
        assert_eq!((&results[0]["ruleIndex"], &results[0]["level"]), (&json!(2), &json!("error")));
        let place = &results[0]["locations"][0];
        assert_eq!(place["physicalLocation"]["artifactLocation"]["uri"], "sessions/s%2F1");
        let names: Vec<&Value> = place["logicalLocations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["fullyQualifiedName"])
            .collect();
        assert_eq!(names, ["session/s/1", "delegation/D", "client/a", "event/7"]);
        let print = |place: usize| &results[place]["partialFingerprints"][DETAILED_FINGERPRINT];
        assert!(print(0).is_string() && print(0) == print(1) && print(0) != print(2));
        assert_eq!(results[2]["properties"]["details"], json!({"target": "output"}));
    }
}
