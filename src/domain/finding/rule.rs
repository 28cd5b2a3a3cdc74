//! A rule as it is written, and the bounds that it must keep.

use std::collections::BTreeSet;

use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::examined_text::normalised;
use super::{FindingAction, FindingTarget, Severity};

/// Most patterns of one rule.
pub(super) const MAX_PATTERNS: usize = 32;
/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 500;
const MAX_TITLE: usize = 200;
const MAX_EXAMPLES: usize = 100;
/// Longest example, in bytes; as long as a text of a step.
const MAX_EXAMPLE: usize = 16 * 1024;
/// Most memory of one compiled expression, in bytes.
const MAX_COMPILED: usize = 128 * 1024;
/// Deepest nesting of an expression.
const MAX_NESTING: u32 = 50;

/// A rule that examines steps of agents, or events of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "rule")]
pub struct Rule {
    /// Two to eight capital letters, a hyphen, three to five digits. `CE`, `IAP` and `AC` are the built-in rules.
    #[schemars(regex(pattern = "^[A-Z]{2,8}-[0-9]{3,5}$"), example = &"ACME-001")]
    pub id: String,
    /// What the rule finds, in words for people.
    #[schemars(length(min = 1, max = 200), example = &"Payroll data leaves the company")]
    pub title: String,
    /// How bad it is what the rule finds.
    pub severity: Severity,
    /// The texts in which the patterns are searched.
    #[schemars(length(min = 1), example = ["input"])]
    pub targets: BTreeSet<FindingTarget>,
    /// Whether one pattern is enough, or all are needed. All of them may be in different targets of the rule.
    #[serde(default)]
    pub match_mode: MatchMode,
    /// What is searched in the texts.
    #[schemars(length(min = 1, max = 32))]
    pub patterns: Vec<Pattern>,
    /// What follows from a match. The strongest action of several matches applies.
    pub action: FindingAction,
    /// What the rule matches, and what it must not match. The examples are the tests of the rule.
    #[serde(default, skip_serializing_if = "RuleExamples::is_empty")]
    pub examples: RuleExamples,
}

/// How many patterns of a rule have to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatchMode {
    /// One pattern is enough.
    #[default]
    Any,
    /// All patterns are needed.
    All,
}

/// A fixed text or a regular expression: exactly one of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// A fixed text, in any case unless `case_sensitive` is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500), example = &"/var/run/docker.sock")]
    pub contains: Option<String>,
    /// A regular expression of the Rust crate `regex`: without references to groups, and with linear time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500), example = &r"\bnsenter\s+-t\b")]
    pub regex: Option<String>,
    /// Whether upper and lower case differ in `contains`. An expression says this itself, by `(?i)`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub case_sensitive: bool,
}

/// The tests of a rule. An example is examined as the first target of the rule, in the order tool, input, output, reasoning,
/// event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleExamples {
    /// Each of these texts must match.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub matching: Vec<String>,
    /// None of these texts may match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_match: Vec<String>,
}

impl RuleExamples {
    fn is_empty(&self) -> bool {
        self.matching.is_empty() && self.no_match.is_empty()
    }
}

/// Why a rule cannot be used: the member, by its path in the rule, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{member}: {why}")]
pub struct InvalidRule {
    pub member: String,
    pub why: String,
}

impl InvalidRule {
    fn new(member: impl Into<String>, why: impl Into<String>) -> Self {
        Self { member: member.into(), why: why.into() }
    }
}

/// A pattern that can be used.
#[derive(Debug, Clone)]
pub(super) enum CheckedPattern {
    Contains { text: String, case_sensitive: bool },
    Regex(Box<CheckedRegex>),
}

#[derive(Debug, Clone)]
pub(super) struct CheckedRegex {
    pub(super) expression: Regex,
    pub(super) hir: regex_syntax::hir::Hir,
}

impl Rule {
    /// Checks the bounds of all members. Compiles the patterns, which takes time.
    pub fn check(&self) -> Result<(), InvalidRule> {
        self.checked().map(drop)
    }

    /// Checks the bounds of all members and compiles the patterns.
    pub(super) fn checked(&self) -> Result<Vec<CheckedPattern>, InvalidRule> {
        let id = self.id.split_once('-').filter(|(letters, digits)| {
            (2..=8).contains(&letters.len())
                && letters.bytes().all(|one| one.is_ascii_uppercase())
                && (3..=5).contains(&digits.len())
                && digits.bytes().all(|one| one.is_ascii_digit())
        });
        if id.is_none() {
            let why =
                "id is two to eight capital letters, a hyphen and three to five digits, such as ACME-001";
            return Err(InvalidRule::new("id", why));
        }
        let shown = !self.title.trim().is_empty() && !self.title.contains(char::is_control);
        if !shown || self.title.len() > MAX_TITLE {
            let why = format!("title is 1 to {MAX_TITLE} bytes without control characters");
            return Err(InvalidRule::new("title", why));
        }
        if self.targets.is_empty() {
            let why = "targets is an empty list: name at least one of tool, input, output, reasoning, event";
            return Err(InvalidRule::new("targets", why));
        }
        if self.targets.contains(&FindingTarget::Event) && self.action > FindingAction::Flag {
            let why =
                "a rule about events has the action record or flag: what an event records was decided before";
            return Err(InvalidRule::new("action", why));
        }
        if !(1..=MAX_PATTERNS).contains(&self.patterns.len()) {
            let why = format!("a rule has 1 to {MAX_PATTERNS} patterns");
            return Err(InvalidRule::new("patterns", why));
        }
        let examples = [&self.examples.matching, &self.examples.no_match];
        if examples.iter().any(|list| list.len() > MAX_EXAMPLES)
            || examples.iter().any(|list| list.iter().any(|one| one.len() > MAX_EXAMPLE))
        {
            let why = format!("at most {MAX_EXAMPLES} examples of a kind, of {MAX_EXAMPLE} bytes each");
            return Err(InvalidRule::new("examples", why));
        }
        let patterns = self.patterns.iter().enumerate().map(|(index, one)| {
            one.checked().map_err(|(member, why)| InvalidRule::new(format!("patterns[{index}]{member}"), why))
        });
        patterns.collect()
    }
}

impl Pattern {
    /// The pattern, or the member that is wrong with the reason.
    fn checked(&self) -> Result<CheckedPattern, (&'static str, String)> {
        let (member, text) = match (&self.contains, &self.regex) {
            (Some(text), None) => (".contains", text),
            (None, Some(expression)) => (".regex", expression),
            _ => return Err(("", "a pattern has either contains or regex".to_owned())),
        };
        if text.is_empty() || text.len() > MAX_PATTERN {
            return Err((member, format!("a pattern is 1 to {MAX_PATTERN} bytes")));
        }
        if self.regex.is_some() {
            if self.case_sensitive {
                let why = "case_sensitive is for contains: an expression matches the case unless it begins with (?i)";
                return Err((".case_sensitive", why.to_owned()));
            }
            return compiled(text)
                .map(|regex| CheckedPattern::Regex(Box::new(regex)))
                .map_err(|why| (member, why));
        }
        let text = normalised(text);
        if text.trim().is_empty() {
            return Err((member, "the pattern has only spaces and invisible characters".to_owned()));
        }
        Ok(CheckedPattern::Contains { text, case_sensitive: self.case_sensitive })
    }
}

/// Compiles an expression; the error says in one line why it cannot be used.
fn compiled(expression: &str) -> Result<CheckedRegex, String> {
    let mut parser = regex_syntax::ParserBuilder::new();
    let hir = parser.nest_limit(MAX_NESTING).build().parse(expression).map_err(|error| {
        let why = match &error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            other => other.to_string(),
        };
        format!("this regular expression cannot be used: {why}")
    })?;
    let mut builder = RegexBuilder::new(expression);
    builder.size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).nest_limit(MAX_NESTING);
    let expression = builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => format!(
            "this regular expression is too large: it needs more than {MAX_COMPILED} bytes; count less, or use fewer classes"
        ),
        other => format!("this regular expression cannot be used: {other}"),
    })?;
    Ok(CheckedRegex { expression, hir })
}
