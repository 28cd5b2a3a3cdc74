//! Findings in sessions: found by rule, counted, shown in the trace, and exported as SARIF.

use actchain::domain::audit::{Actor, Event, EventKind};
use actchain::domain::console::ConsoleRole;
use actchain::domain::finding::{Finding, FindingAction, FindingTarget, Severity};
use actchain::domain::principal::Principal;
use actchain::services::transaction::AuditedTransaction;
use serde_json::{Value, json};

use crate::support::audit::{Dice, all_pages, auditor, cover, event, fill, read};
use crate::support::browser::Browser;
use crate::support::world::{IDP, World};

const SESSIONS: &str = "/api/v1/sessions";

fn found(rule: &str, severity: Severity) -> Finding {
    Finding { rule: rule.to_owned(), severity, action: FindingAction::Block, target: FindingTarget::Input }
}

/// An exchange in a session.
fn exchange(world: &World, session: &str, findings: Vec<Finding>) -> Event {
    let mut one = event(world, &mut Dice(3), 9);
    one.kind = EventKind::TokenExchanged {
        exp: 0,
        kid: "k".into(),
        introspected: None,
        refresh_token: None,
        exceptions: Vec::new(),
    };
    (one.session_id, one.findings, one.reason) = (Some(session.to_owned()), findings, None);
    one
}

async fn record(world: &World, events: &[Event]) {
    AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(events).await.unwrap();
}

/// A session with findings of a built-in rule and of a rule that this server has no more, and one without findings.
async fn with_findings(world: &World) {
    let both = vec![found("CE-001", Severity::Critical), found("ACME-001", Severity::Low)];
    let events = [
        exchange(world, "flagged", Vec::new()),
        exchange(world, "flagged", both),
        exchange(world, "clean", Vec::new()),
        exchange(world, "flagged", vec![found("CE-001", Severity::Medium)]),
    ];
    record(world, &events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_found_and_counted_by_findings_in_the_index_and_after_it() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    with_findings(&world).await;
    for is_indexed in [false, true] {
        if is_indexed {
            fill(&world, &mut Dice(2), 1_100).await;
            assert!(cover(&world).await >= 1_024);
        }
        for (query, expected) in [
            ("has_findings=true", vec!["flagged"]),
            ("rule=CE-001", vec!["flagged"]),
            ("rule=ACME-001&has_findings=true", vec!["flagged"]),
            ("rule=CE-002", vec![]),
        ] {
            let page = read(&world, (&auditor, &token), &format!("{SESSIONS}?{query}")).await.json;
            let items = page["items"].as_array().unwrap();
            let ids: Vec<&str> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
            assert_eq!(ids, expected, "{query}, indexed: {is_indexed}");
            assert!(items.iter().all(|item| (&item["events"], &item["findings"]) == (&json!(3), &json!(2))));
        }
        let clean = read(&world, (&auditor, &token), &format!("{SESSIONS}/clean")).await.json;
        assert_eq!(clean["findings"], json!(0));
        let logs = read(&world, (&auditor, &token), "/api/v1/audit-logs?rule=CE-001").await.json;
        assert_eq!(logs["items"].as_array().unwrap().len(), 2);
        let trace = read(&world, (&auditor, &token), &format!("{SESSIONS}/flagged/trace")).await.json;
        let rules: Vec<Vec<&Value>> = trace["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["findings"].as_array().into_iter().flatten().map(|one| &one["rule"]).collect())
            .collect();
        assert_eq!(rules, [vec![], vec![&json!("CE-001"), &json!("ACME-001")], vec![&json!("CE-001")]]);
        let shape = json!({"rule": "ACME-001", "severity": "low", "action": "block", "target": "input"});
        assert_eq!(trace["items"][1]["findings"][1], shape);
    }
    let bad = read(&world, (&auditor, &token), &format!("{SESSIONS}?has_findings=no")).await;
    assert_eq!((bad.status, bad.reason()), (400, "malformed_request"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sarif_has_a_result_for_each_finding_under_a_rule_that_it_describes() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    with_findings(&world).await;
    let file = read(&world, (&auditor, &token), &format!("{SESSIONS}/flagged/export?format=sarif")).await;
    assert_eq!((file.status, file.header("content-type")), (200, Some("application/sarif+json")));
    assert_eq!((&file.json["version"], file.json["runs"].as_array().unwrap().len()), (&json!("2.1.0"), 1));
    let run = &file.json["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let ids: std::collections::BTreeSet<&str> =
        rules.iter().map(|rule| rule["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rules.len());
    for id in ["CE-001", "CE-012", "IAP-016", "IAP-017", "AC-001", "ACME-001"] {
        assert!(ids.contains(id), "{id}");
    }
    for rule in rules {
        for member in
            ["/shortDescription/text", "/fullDescription/text", "/help/text", "/defaultConfiguration/level"]
        {
            assert!(
                rule.pointer(member).and_then(Value::as_str).is_some_and(|text| !text.is_empty()),
                "{rule}"
            );
        }
    }
    let results = run["results"].as_array().unwrap();
    let short: Vec<(&str, &str)> =
        results.iter().map(|one| (one["ruleId"].as_str().unwrap(), one["level"].as_str().unwrap())).collect();
    assert_eq!(short, [("CE-001", "error"), ("ACME-001", "note"), ("CE-001", "warning")]);
    for result in results {
        let place = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[place]["id"], result["ruleId"]);
        assert!(result["message"]["text"].is_string() && result["partialFingerprints"].is_object());
        let kinds: Vec<&Value> = result["locations"][0]["logicalLocations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["kind"])
            .collect();
        assert!(kinds.contains(&&json!("session")) && kinds.contains(&&json!("event")), "{kinds:?}");
    }
    let print = |place: usize| &results[place]["partialFingerprints"]["actchainFinding/v2"];
    assert!(print(0).is_string() && print(0) == print(2) && print(0) != print(1));
    assert_eq!(run["properties"]["session"]["id"], "flagged");

    let clean = read(&world, (&auditor, &token), &format!("{SESSIONS}/clean/export?format=sarif")).await;
    assert_eq!(
        (clean.json["runs"].as_array().unwrap().len(), &clean.json["runs"][0]["results"]),
        (1, &json!([]))
    );
    let csv = read(&world, (&auditor, &token), &format!("{SESSIONS}/flagged/export?format=csv")).await.text;
    assert!(csv.contains("# findings,2,") && csv.contains("\"CE-001 ACME-001\",\"\",\"\"\r\n"), "{csv}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_reads_of_declared_rules_only_those_that_found_something() {
    let world = World::new().await;
    let of_bob = |session: &str, findings| {
        let subject = Some(Principal::new(IDP, "bob"));
        Event { subject, ..exchange(&world, session, findings) }
    };
    let both = vec![found("CE-001", Severity::Critical), found("ACME-001", Severity::Low)];
    record(&world, &[of_bob("flagged", both), of_bob("clean", Vec::new())]).await;
    let rule = |id: &str, title: &str| {
        json!({"id": id, "title": title, "severity": "low", "targets": ["input"], "match_mode": "any", "action": "record",
               "patterns": [{"contains": "word"}], "examples": {"match": ["word"], "no_match": ["other"]}})
    };
    let rules = json!({"rules": [rule("ACME-001", "Payroll"), rule("ACME-002", "Secret project")]});
    world.as_admin("POST", "/api/v1/apply", rules).await.with_status(200);
    let exported = async |session: &str| {
        let path = format!("{SESSIONS}/{session}/export?format=sarif");
        world.as_user("bob", "GET", &path, json!({})).await.with_status(200).text
    };
    let flagged = exported("flagged").await;
    assert!(flagged.contains("Payroll") && !flagged.contains("Secret project"), "{flagged}");
    let clean = exported("clean").await;
    assert!(clean.contains("CE-001") && !clean.contains("Payroll"), "{clean}");
}

/// A proof of `agent` by this key, under a delegation whose id ends so, in one chain.
fn proof(world: &World, key: &str, delegation: &str) -> Event {
    let mut one = exchange(world, "keys", Vec::new());
    one.actor = Actor::client("agent", Some(key.to_owned()));
    one.txn = Some("one chain".to_owned());
    one.delegation_id = Some(delegation.to_owned());
    one.delegation_path = vec!["D".into(), delegation.to_owned()];
    one
}

/// A delegator's confirmation, outside the session.
fn activated(world: &World, new_key: Option<&str>, path: &[&str]) -> Event {
    let terms = json!({"delegator": {"iss": IDP, "sub": "alice"}, "delegate": "agent", "origin": "granted",
        "scopes": null, "audiences": null, "authorization_details": null, "capability_ceiling": null,
        "ceremony_required_for": [], "max_uses": null, "max_depth": null, "expires_at": "2026-01-01T00:00:00.000000Z"});
    let terms = serde_json::from_value(terms).unwrap();
    let kind =
        EventKind::DelegationActivated { terms, new_key: new_key.is_some(), jkt: new_key.map(str::to_owned) };
    let path: Vec<String> = path.iter().map(|id| (*id).to_owned()).collect();
    let delegation_id = path.last().cloned();
    Event {
        delegation_id,
        delegation_path: path,
        ..Event::new(world.server.clock.now(), kind, Actor::Server)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_names_the_earlier_key_of_an_actor_that_proves_another_one_unless_a_delegator_confirmed_it()
{
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let before = world.server.events().await.len() as u64;
    let first = 1_019;
    fill(&world, &mut Dice(1), first - before).await;
    record(
        &world,
        &[
            proof(&world, "k1", "E"),
            proof(&world, "k2", "E"),
            activated(&world, Some("k3"), &["D", "E"]),
            proof(&world, "k3", "E"),
            // Neither a confirmation without a new key, nor of another one, nor of a descendant or of another delegation.
            activated(&world, None, &["D", "E"]),
            activated(&world, Some("k9"), &["D", "E"]),
            activated(&world, Some("k4"), &["D", "E", "F"]),
            activated(&world, Some("k4"), &["D"]),
            proof(&world, "k4", "E"),
            proof(&world, "k5", "F"),
            proof(&world, "k4", "E"),
        ],
    )
    .await;
    // The first five are in the index.
    assert_eq!(cover(&world).await, 1_024);
    let earlier = |key: &str, place: u64| json!({"jkt": key, "seq": first + place});
    let wanted = [Value::Null, earlier("k1", 0), Value::Null, earlier("k3", 3), Value::Null, Value::Null];
    let trace = format!("{SESSIONS}/keys/trace");
    for path in [trace.clone(), format!("{trace}?limit=1"), format!("{trace}?limit=2")] {
        let items = all_pages(&world, (&auditor, &token), &path).await;
        assert_eq!(
            items.iter().map(|item| item["earlier_key"].clone()).collect::<Vec<_>>(),
            wanted,
            "{path}"
        );
    }
    let export = format!("{SESSIONS}/keys/export?format=");
    let file = read(&world, (&auditor, &token), &format!("{export}json")).await.with_status(200).json;
    let items = file["items"].as_array().unwrap();
    assert_eq!(items.iter().map(|item| item["earlier_key"].clone()).collect::<Vec<_>>(), wanted);
    let rows = read(&world, (&auditor, &token), &format!("{export}csv")).await.with_status(200).text;
    let last =
        rows.lines().filter(|row| row.contains("one chain")).map(|row| row.rsplit(',').next().unwrap());
    assert_eq!(last.collect::<Vec<_>>(), ["\"\"", "\"k1\"", "\"\"", "\"k3\"", "\"\"", "\"\""]);
    let sarif = read(&world, (&auditor, &token), &format!("{export}sarif")).await.with_status(200).json;
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert!(results.len() == 2 && results.iter().all(|one| one["ruleId"] == "key_drift"), "{sarif:#}");
    let ann = Principal::new(IDP, "ann");
    let mut browser = Browser::of(&world.server, ConsoleRole::Auditor, Some(&ann)).await;
    let page = browser.get("/console/sessions/keys").await.with_status(200).text;
    let marked: Vec<&str> = page.split("<li id=\"seq-").filter(|item| item.contains("key_drift")).collect();
    assert!(marked.len() == 2 && marked.iter().all(|item| item.contains(" data-finding")), "{page}");
    assert!(marked[1].contains(&format!("event {}", first + 3)) && marked[1].contains(">k3<"), "{page}");
}
