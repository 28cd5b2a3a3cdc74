//! The rules that come with the server.

use super::read_rules;
use super::rule::Rule;
use crate::platform::yaml::InvalidDeclaration;

/// The names of the files of rules, with their texts.
const FILES: [(&str, &str); 3] = [
    ("chains.yaml", include_str!("../../../rules/chains.yaml")),
    ("container-escape.yaml", include_str!("../../../rules/container-escape.yaml")),
    ("exploit-knowledge.yaml", include_str!("../../../rules/exploit-knowledge.yaml")),
];

/// All built-in rules, by id.
///
/// # Errors
/// A mistake in a file of the server; the tests read all of them.
pub fn built_in() -> Result<Vec<Rule>, InvalidDeclaration> {
    let mut rules = Vec::new();
    for (name, text) in FILES {
        rules.extend(read_rules(name, text)?);
    }
    rules.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::super::{failed_examples, lint};
    use super::*;

    #[test]
    fn the_examples_of_built_in_rules_say_what_they_find() {
        let rules = built_in().unwrap();
        let failed: Vec<_> = rules.iter().flat_map(failed_examples).collect();
        assert_eq!(failed, []);
        assert_eq!(lint(&rules), []);
        for rule in &rules {
            let (yes, no) = (rule.examples.matching.len(), rule.examples.no_match.len());
            assert!(yes >= 3 && no >= 3, "{}: {yes} and {no} examples", rule.id);
        }
    }

    #[test]
    fn the_harmless_examples_of_a_rule_are_harmless_for_all_rules() {
        let rules = built_in().unwrap();
        let set = super::super::RuleSet::compile(rules.clone()).unwrap();
        for rule in &rules {
            for text in &rule.examples.no_match {
                let target = *rule.targets.first().unwrap();
                let found = set.examine_text(target, text);
                assert_eq!(found, [], "{}: {text}", rule.id);
            }
        }
    }
}
