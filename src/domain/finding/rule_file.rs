//! A file of rules: a manifest that has only the member `rules`. A file is used as a whole, or refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::rule::Rule;
use super::rule_set::MAX_RULES;
use crate::platform::yaml::{self, InvalidDeclaration, Place};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    rules: Vec<Rule>,
}

/// Reads a file of rules.
///
/// # Errors
/// The place and the reason of the first error.
pub fn read_rules(origin: &str, text: &str) -> Result<Vec<Rule>, InvalidDeclaration> {
    let (RuleFile { rules }, places) = yaml::read(origin, text)?;
    let places = Arc::new(places);
    let place = |index: usize| Place::new(&places, format!("rules[{index}]"));
    if rules.len() > MAX_RULES {
        return Err(place(MAX_RULES).whole(format!("a file has at most {MAX_RULES} rules")));
    }
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, rule) in rules.iter().enumerate() {
        rule.checked().map_err(|invalid| {
            place(index).fault(&invalid.member, format!("{}: {}", rule.id, invalid.why))
        })?;
        if let Some(before) = first.insert(&rule.id, index) {
            let why = format!("{} is declared twice: first at {}", rule.id, place(before));
            return Err(place(index).whole(why));
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "{id: AA-001, title: t, severity: low, targets: [input], action: flag, patterns: [{contains: abc}]}";

    fn refusal(rule: &str) -> String {
        read_rules("r.yaml", &format!("rules:\n  - {rule}\n")).unwrap_err().to_string()
    }

    #[test]
    fn each_mistake_is_named_with_its_place() {
        assert_eq!(read_rules("r.yaml", &format!("rules: [{GOOD}]")).unwrap().len(), 1);
        let with = |from: &str, to: &str| refusal(&GOOD.replace(from, to));
        for (said, expected) in [
            (with("AA-001", "AAA-01"), "r.yaml:2:10: rules[0].id: AAA-01: id is two to eight"),
            (with("AA-001", "aa-001"), "id is two to eight"),
            (with("AA-001", "AAAAAAAAA-001"), "id is two to eight"),
            (with("title: t", "title: ' '"), "title is 1 to 200"),
            (with("title: t", "title: \"a\\nb\""), "without control characters"),
            (with("low", "bad"), "there are: low, medium, high, critical"),
            (with("[input]", "[]"), "targets is an empty list"),
            (with("[input]", "[files]"), "there are: tool, input, output, reasoning, event"),
            (with("action: flag", "action: kill"), "there are: record, flag, confirm, block, suspend"),
            (with("[input], action: flag", "[event], action: block"), "has the action record or flag"),
            (with("action: flag", "action: flag, colour: red"), "there is no member `colour`"),
            (with("[{contains: abc}]", "[]"), "1 to 32 patterns"),
            (with("{contains: abc}", "{}"), "rules[0].patterns[0]: AA-001: a pattern has either"),
            (with("{contains: abc}", "{contains: a, regex: b}"), "a pattern has either"),
            (with("contains: abc", "contains: \"\\u200b \""), "only spaces and invisible"),
            (with("contains: abc", "regex: abc, case_sensitive: true"), "case_sensitive is for contains"),
            (
                with("contains: abc", "regex: '(a'"),
                "rules[0].patterns[0].regex: AA-001: this regular expression cannot be used: unclosed group",
            ),
            (with("contains: abc", r"regex: '(a)\1'"), "backreferences are not supported"),
            (with("contains: abc", "regex: '(?=a)'"), "-around, including"),
            (with("contains: abc", r"regex: '(\w{50}){50}'"), "is too large: it needs more than"),
            (with("contains: abc", r"regex: '((((a{99}){99}){99}){99}){99}'"), "is too large"),
            (with("contains: abc", &format!("regex: '{}a{}'", "(".repeat(99), ")".repeat(99))), "nested"),
            (with("contains: abc", &format!("contains: {}", "a".repeat(501))), "1 to 500 bytes"),
            (with("patterns:", "examples: {match: ["), "r.yaml:"),
            (refusal(&format!("{GOOD}\n  - {GOOD}")), "AA-001 is declared twice: first at r.yaml:2:5"),
            (GOOD.to_owned() + &refusal("{id: AA-001, title: t"), "r.yaml:"),
        ] {
            assert!(said.contains(expected), "{said}\n{expected}");
        }
        let many: String =
            (0..=1_000).map(|n| format!("  - {}\n", GOOD.replace("001", &format!("{n:04}")))).collect();
        let said = read_rules("r.yaml", &format!("rules:\n{many}")).unwrap_err().to_string();
        assert!(said.contains("r.yaml:1002:5") && said.contains("at most 1000 rules"), "{said}");
    }
}
