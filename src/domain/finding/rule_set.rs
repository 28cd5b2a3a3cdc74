//! Rules that are compiled together. One search finds all fixed texts; an expression runs only where its fixed texts are.

use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::AhoCorasick;
use regex::Regex;

use super::examined_text::{ExaminedText, folded};
use super::literals;
use super::rule::{CheckedPattern, InvalidRule, MatchMode, Rule};
use super::{Finding, FindingTarget};

/// Most rules of a set that have been declared.
pub const MAX_RULES: usize = 1_000;

/// The texts of one step, bounded by the caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExaminedStep<'a> {
    pub tool: &'a str,
    pub input: Option<&'a str>,
    pub output: Option<&'a str>,
    pub reasoning: Option<&'a str>,
}

/// Compiled rules; cheap to clone. Rules that are off are not in the set. Every exchange is examined by the rules about
/// events alone, so that the number of rules about steps costs it nothing.
#[derive(Debug, Clone)]
pub struct RuleSet {
    about_steps: Arc<Compiled>,
    about_events: Arc<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    rules: Vec<CompiledRule>,
    /// All fixed texts in lower case.
    texts: AhoCorasick,
    /// The patterns that each fixed text makes possible.
    possible: Vec<Vec<PatternPlace>>,
    /// Patterns without a fixed text.
    always: Vec<PatternPlace>,
}

#[derive(Debug)]
struct CompiledRule {
    rule: Rule,
    patterns: Vec<CompiledPattern>,
}

#[derive(Debug)]
enum CompiledPattern {
    /// The fixed text was found in lower case; that is enough.
    Found,
    CaseSensitive(String),
    Expression(Regex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PatternPlace {
    rule: usize,
    pattern: usize,
}

/// The patterns of a rule that matched, as bits, and where the first of them did.
struct Matched {
    patterns: u32,
    target: FindingTarget,
}

impl RuleSet {
    /// Compiles rules.
    ///
    /// # Errors
    /// The index of the rule that cannot be used, with the reason.
    pub fn compile(rules: Vec<Rule>) -> Result<Self, (usize, InvalidRule)> {
        let rules: Vec<(usize, Rule)> = rules.into_iter().enumerate().collect();
        let is_about_events = |rule: &Rule| rule.targets.contains(&FindingTarget::Event);
        let about_events = rules.iter().filter(|(_, rule)| is_about_events(rule)).cloned().collect();
        let only_events = |rule: &Rule| is_about_events(rule) && rule.targets.len() == 1;
        let about_steps = rules.into_iter().filter(|(_, rule)| !only_events(rule)).collect();
        Ok(Self {
            about_steps: Arc::new(Compiled::of(about_steps)?),
            about_events: Arc::new(Compiled::of(about_events)?),
        })
    }

    /// The findings of a step, in the order of the rules; one for each rule.
    pub fn examine(&self, step: &ExaminedStep<'_>) -> Vec<Finding> {
        let texts = [
            (FindingTarget::Tool, Some(step.tool)),
            (FindingTarget::Input, step.input),
            (FindingTarget::Output, step.output),
            (FindingTarget::Reasoning, step.reasoning),
        ];
        let texts = texts.into_iter().filter_map(|(target, text)| Some((target, text?)));
        self.about_steps.examine(texts.filter(|(_, text)| !text.is_empty()))
    }

    /// The findings of rules about one text.
    pub fn examine_text(&self, target: FindingTarget, text: &str) -> Vec<Finding> {
        let compiled = if target == FindingTarget::Event { &self.about_events } else { &self.about_steps };
        compiled.examine(std::iter::once((target, text)))
    }
}

impl Compiled {
    fn of(rules: Vec<(usize, Rule)>) -> Result<Self, (usize, InvalidRule)> {
        let mut possible: BTreeMap<String, Vec<PatternPlace>> = BTreeMap::new();
        let (mut always, mut compiled) = (Vec::new(), Vec::with_capacity(rules.len()));
        for (place, (index, rule)) in rules.into_iter().enumerate() {
            let checked = rule.checked().map_err(|invalid| (index, invalid))?;
            let mut patterns = Vec::with_capacity(checked.len());
            for (pattern, checked) in checked.into_iter().enumerate() {
                let at = PatternPlace { rule: place, pattern };
                patterns.push(match checked {
                    CheckedPattern::Contains { text, case_sensitive } => {
                        possible.entry(folded(&text)).or_default().push(at);
                        match case_sensitive {
                            true => CompiledPattern::CaseSensitive(text),
                            false => CompiledPattern::Found,
                        }
                    }
                    CheckedPattern::Regex(checked) => {
                        match literals::required(&checked.hir) {
                            Some(texts) => {
                                texts.into_iter().for_each(|text| possible.entry(text).or_default().push(at));
                            }
                            None => always.push(at),
                        }
                        CompiledPattern::Expression(checked.expression)
                    }
                });
            }
            compiled.push(CompiledRule { rule, patterns });
        }
        let (texts, possible): (Vec<String>, Vec<_>) = possible.into_iter().unzip();
        let texts = AhoCorasick::new(&texts).map_err(|error| {
            (0, InvalidRule { member: "patterns".to_owned(), why: format!("all rules together: {error}") })
        })?;
        Ok(Self { rules: compiled, texts, possible, always })
    }

    fn examine<'a>(&self, texts: impl Iterator<Item = (FindingTarget, &'a str)>) -> Vec<Finding> {
        let mut matched: BTreeMap<usize, Matched> = BTreeMap::new();
        for (target, text) in texts {
            let text = ExaminedText::of(text);
            for place in self.possible_patterns(&text) {
                let Some(one) = self.rules.get(place.rule) else { continue };
                let pattern = one.patterns.get(place.pattern);
                if one.rule.targets.contains(&target) && pattern.is_some_and(|pattern| pattern.matches(&text))
                {
                    let first = Matched { patterns: 0, target };
                    matched.entry(place.rule).or_insert(first).patterns |= 1 << place.pattern;
                }
            }
        }
        let findings = matched.into_iter().filter_map(|(index, matched)| {
            let CompiledRule { rule, patterns } = self.rules.get(index)?;
            let enough = match rule.match_mode {
                MatchMode::Any => true,
                MatchMode::All => matched.patterns.count_ones() as usize == patterns.len(),
            };
            enough.then(|| Finding {
                rule: rule.id.clone(),
                severity: rule.severity,
                action: rule.action,
                target: matched.target,
            })
        });
        findings.collect()
    }

    /// The patterns that can match a text, by its fixed texts.
    fn possible_patterns(&self, text: &ExaminedText) -> Vec<PatternPlace> {
        let mut seen = vec![false; self.possible.len()];
        let mut places = self.always.clone();
        for found in self.texts.find_overlapping_iter(&text.folded) {
            let index = found.pattern().as_usize();
            if let Some(seen) = seen.get_mut(index).filter(|seen| !**seen) {
                *seen = true;
                places.extend(self.possible.get(index).into_iter().flatten());
            }
        }
        places.sort_unstable();
        places.dedup();
        places
    }
}

impl CompiledPattern {
    /// Whether the pattern matches a text that has its fixed text.
    fn matches(&self, text: &ExaminedText) -> bool {
        match self {
            Self::Found => true,
            Self::CaseSensitive(exact) => text.plain.contains(exact),
            Self::Expression(expression) => expression.is_match(&text.plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_rules;
    use super::*;

    fn set(rules: &str) -> RuleSet {
        RuleSet::compile(read_rules("test", rules).unwrap()).unwrap()
    }

    fn found(set: &RuleSet, step: &ExaminedStep<'_>) -> Vec<(String, FindingTarget)> {
        set.examine(step).into_iter().map(|one| (one.rule, one.target)).collect()
    }

    #[test]
    fn a_rule_reads_its_own_targets_alone() {
        let set = set("rules:
  - {id: AA-001, title: t, severity: low, targets: [input], action: flag, patterns: [{contains: Docker.sock}]}
  - {id: AA-002, title: t, severity: low, targets: [tool, output], action: flag, patterns: [{regex: '^bash$'}]}");
        let input = ExaminedStep { tool: "bash", input: Some("ls DOCKER.SOCK"), ..ExaminedStep::default() };
        let both = [("AA-001".to_owned(), FindingTarget::Input), ("AA-002".to_owned(), FindingTarget::Tool)];
        assert_eq!(found(&set, &input), both);
        let output = ExaminedStep { tool: "sh", output: Some("docker.sock"), ..ExaminedStep::default() };
        assert_eq!(found(&set, &output), []);
        let output = ExaminedStep { tool: "sh", output: Some("bash"), ..ExaminedStep::default() };
        assert_eq!(found(&set, &output), [("AA-002".to_owned(), FindingTarget::Output)]);
    }

    #[test]
    fn all_patterns_may_be_in_different_targets() {
        let set = set("rules:
  - {id: AA-001, title: t, severity: high, targets: [input, reasoning], match_mode: all, action: block,
     patterns: [{contains: payroll}, {regex: 'ftp://'}, {contains: EU, case_sensitive: true}]}");
        let one = |input, reasoning| ExaminedStep {
            tool: "t",
            input: Some(input),
            output: Some("payroll ftp:// EU"),
            reasoning: Some(reasoning),
        };
        assert_eq!(found(&set, &one("payroll of the EU", "to ftp://x")).len(), 1);
        assert_eq!(found(&set, &one("to ftp://x", "payroll of the EU")).len(), 1);
        assert_eq!(found(&set, &one("payroll of the eu", "to ftp://x")), []);
        assert_eq!(found(&set, &one("payroll of the EU", "to sftp")), []);
    }

    #[test]
    fn one_rule_has_one_finding_in_its_first_target() {
        let set = set("rules:
  - {id: AA-001, title: t, severity: critical, targets: [input, output], action: suspend,
     patterns: [{contains: abc}, {contains: bcd}]}");
        let step =
            ExaminedStep { tool: "t", input: Some("abcd"), output: Some("abcd"), ..ExaminedStep::default() };
        assert_eq!(found(&set, &step), [("AA-001".to_owned(), FindingTarget::Input)]);
    }

    #[test]
    fn a_thousand_rules_examine_long_hostile_texts() {
        let rule = |n: usize| {
            format!(
                "  - {{id: AA-{n:03}, title: t, severity: low, targets: [input], action: flag, patterns: [
     {{contains: 'word{n} of'}}, {{regex: '(?i)\\bcommand{n}\\s+(-\\w+\\s+)*target'}}, {{regex: '(a+)+b{n}c$'}}]}}\n"
            )
        };
        let rules: String = (0..1_000).map(rule).collect();
        let set = set(&format!("rules:\n{rules}"));
        let examine = |text: &str| {
            found(&set, &ExaminedStep { tool: "t", input: Some(text), ..ExaminedStep::default() })
        };
        assert_eq!(examine(&"a".repeat(16_384)), []);
        assert_eq!(examine(&format!("{}b7c!", "a".repeat(16_380))), []);
        assert_eq!(examine(&"\u{200b}\u{202e}e\u{301}".repeat(2_000)), []);
        assert_eq!(examine(&"command1 -x ".repeat(1_300)), []);
        let last = format!("{}Command999  -x -y\tTARGET", "filler ".repeat(2_000));
        assert_eq!(examine(&last), [("AA-999".to_owned(), FindingTarget::Input)]);
    }
}
