//! The examples of a rule are its tests.

use serde::Serialize;

use super::rule::Rule;
use super::rule_set::RuleSet;

/// An example with another result than its list says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedExample {
    pub rule: String,
    /// The list that the example is in: `match` or `no_match`.
    pub list: &'static str,
    /// The place of the example in its list, from 0.
    pub index: usize,
}

/// The examples that fail. Each is examined as the first target of its rule.
pub fn failed_examples(rule: &Rule) -> Vec<FailedExample> {
    let set = RuleSet::compile(vec![rule.clone()]);
    let matches = |text: &String| match (&set, rule.targets.first()) {
        (Ok(set), Some(target)) => !set.examine_text(*target, text).is_empty(),
        _ => false,
    };
    let failed = |list: &'static str, index| FailedExample { rule: rule.id.clone(), list, index };
    let (yes, no) = (&rule.examples.matching, &rule.examples.no_match);
    let yes =
        yes.iter().enumerate().filter(|(_, text)| !matches(text)).map(|(index, _)| failed("match", index));
    let no =
        no.iter().enumerate().filter(|(_, text)| matches(text)).map(|(index, _)| failed("no_match", index));
    yes.chain(no).collect()
}
