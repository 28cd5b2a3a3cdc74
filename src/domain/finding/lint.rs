//! Mistakes in rules that can be used, but do not do what their author wants.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::FindingTarget;
use super::examined_text::{ExaminedText, normalised};
use super::literals;
use super::rule::{CheckedPattern, MatchMode, Pattern, Rule};
use super::rule_set::RuleSet;

/// Fewest characters of a fixed text that is not in every other text.
const MIN_TEXT: usize = 3;
/// Ordinary texts: no rule should match all of them.
const ORDINARY: [&str; 4] =
    ["ls", "0", "Read the file and say what is in it.", "{\"path\": \"src/main.rs\"}"];

/// A mistake in a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LintWarning {
    pub rule: String,
    /// The place of the pattern in its rule, from 0, if the mistake is in one pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<usize>,
    pub problem: String,
}

/// The mistakes of rules that [`super::read_rules`] has accepted.
pub fn lint(rules: &[Rule]) -> Vec<LintWarning> {
    let mut warnings = Vec::new();
    let mut same: BTreeMap<(&BTreeSet<FindingTarget>, MatchMode, BTreeSet<&Pattern>), &str> = BTreeMap::new();
    for rule in rules {
        let mut warn = |pattern: Option<usize>, problem: &str| {
            warnings.push(LintWarning { rule: rule.id.clone(), pattern, problem: problem.to_owned() });
        };
        if rule.examples.matching.is_empty() {
            warn(None, "has no example under `match`: add a text that the rule finds");
        }
        if rule.examples.no_match.is_empty() {
            warn(None, "has no example under `no_match`: add a harmless text that is similar");
        }
        for (index, pattern) in rule.checked().into_iter().flatten().enumerate() {
            pattern_problems(&pattern).into_iter().for_each(|problem| warn(Some(index), problem));
            let shown = rule.patterns.get(index).is_some_and(|one| is_shown(rule, one));
            if !shown && !rule.examples.matching.is_empty() {
                warn(Some(index), "matches no example under `match`: add one, or remove the pattern");
            }
        }
        let patterns: BTreeSet<&Pattern> = rule.patterns.iter().collect();
        if patterns.len() < rule.patterns.len() {
            warn(None, "has a pattern twice");
        }
        let first = *same.entry((&rule.targets, rule.match_mode, patterns)).or_insert(&rule.id);
        if first != rule.id {
            warn(None, &format!("has the same patterns and targets as {first}"));
        }
    }
    warnings
}

fn pattern_problems(pattern: &CheckedPattern) -> Vec<&'static str> {
    let mut problems = Vec::new();
    match pattern {
        CheckedPattern::Contains { text, .. } => {
            if text.chars().count() < MIN_TEXT {
                problems.push("is so short that it is in ordinary texts: write more of it");
            }
        }
        CheckedPattern::Regex(checked) => {
            let properties = checked.hir.properties();
            let texts = literals::required(&checked.hir);
            let impossible = |text: &String| normalised(text).trim() != text.trim();
            if properties.minimum_len().is_none() || texts.iter().any(|texts| texts.iter().all(impossible)) {
                problems.push(
                    "can never match: a class is empty, or a fixed text has what is replaced before the search, such as two spaces",
                );
            } else if ORDINARY.iter().all(|text| checked.expression.is_match(&ExaminedText::of(text).plain)) {
                problems.push("matches everything: write what is special about the texts");
            } else if texts.is_none() {
                problems.push(
                    "has no fixed text, so that it runs on every text: write a part of it without classes",
                );
            }
        }
    }
    problems
}

/// Whether an example shows what the pattern finds.
fn is_shown(rule: &Rule, pattern: &Pattern) -> bool {
    let alone = Rule { patterns: vec![pattern.clone()], match_mode: MatchMode::Any, ..rule.clone() };
    let (Ok(set), Some(target)) = (RuleSet::compile(vec![alone]), rule.targets.first()) else { return false };
    rule.examples.matching.iter().any(|text| !set.examine_text(*target, text).is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::read_rules;
    use super::*;

    #[test]
    fn each_mistake_has_its_warning() {
        let rule = |n: usize, pattern: &str, matching: &str| {
            format!(
                "  - {{id: AA-{n:03}, title: t, severity: low, targets: [input], action: flag, patterns: [{pattern}],
     examples: {{match: ['{matching}'], no_match: [other]}}}}\n"
            )
        };
        let problems = |text: &str| {
            let rules = read_rules("test", &format!("rules:\n{text}")).unwrap();
            lint(&rules).into_iter().map(|one| format!("{} {}", one.rule, one.problem)).collect::<Vec<_>>()
        };
        assert_eq!(problems(&rule(1, "{contains: nsenter}", "nsenter -t 1")), Vec::<String>::new());
        for (pattern, matching, expected) in [
            ("{contains: ls}", "ls", "AA-001 is so short"),
            ("{regex: '.*'}", "ls", "AA-001 matches everything"),
            ("{regex: ''}", "ls", ""),
            ("{regex: '[a-z0-9]'}", "ls", "AA-001 matches everything"),
            ("{regex: 'ab|'}", "ls", "AA-001 matches everything"),
            ("{regex: '[a&&b]'}", "ls", "AA-001 can never match"),
            ("{regex: 'rm  -rf'}", "rm  -rf", "AA-001 can never match"),
            ("{regex: '[a-z]{4}[0-9]{4}'}", "abcd1234", "AA-001 has no fixed text"),
            ("{contains: abc}, {contains: abc}", "abc", "AA-001 has a pattern twice"),
            ("{contains: abc}, {contains: xyz}", "abc", "AA-001 matches no example"),
        ] {
            if expected.is_empty() {
                assert!(read_rules("test", &format!("rules:\n{}", rule(1, pattern, matching))).is_err());
                continue;
            }
            let said = problems(&rule(1, pattern, matching));
            assert!(said.first().is_some_and(|one| one.starts_with(expected)), "{pattern}: {said:?}");
        }
        let twice = rule(1, "{contains: abc}", "abc") + &rule(2, "{contains: abc}", "abc");
        assert_eq!(problems(&twice), ["AA-002 has the same patterns and targets as AA-001"]);
        let bare = "  - {id: AA-001, title: t, severity: low, targets: [input], action: flag, patterns: [{contains: abc}]}";
        assert_eq!(problems(bare).len(), 2);
    }
}
