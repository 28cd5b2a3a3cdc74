//! Rules that examine what agents do, and their findings. A finding names its rule; it never contains text of an agent.

mod built_in;
mod current;
mod declared;
mod examined_text;
mod example;
mod json_text;
mod lint;
mod literals;
mod rule;
mod rule_file;
mod rule_set;
pub mod store;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::built_in::built_in;
pub use self::current::CurrentRules;
pub use self::declared::DeclaredRules;
pub use self::examined_text::is_invisible;
pub use self::example::{FailedExample, failed_examples};
pub use self::lint::{LintWarning, lint};
pub use self::rule::{InvalidRule, MatchMode, Pattern, Rule, RuleExamples};
pub use self::rule_file::read_rules;
pub use self::rule_set::{ExaminedStep, MAX_RULES, RuleSet};

/// How bad it is what a rule finds.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Severity {
    /// An operation that an auditor should see, and that is harmless by itself.
    Low,
    /// Often harmless, sometimes the first step of an attack.
    Medium,
    /// An operation with few harmless reasons.
    High,
    /// An attack, unless its author says otherwise.
    Critical,
}

/// What follows from a finding. The strongest action of several findings applies.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FindingAction {
    /// The finding is in the event.
    Record,
    /// The agent's tool shows the finding to its user.
    Flag,
    /// An agent that asks before a step has to wait for a confirmation by the delegator.
    Confirm,
    /// An agent that asks before a step is refused.
    Block,
    /// The delegation is suspended until its delegator evaluates it again.
    Suspend,
}

/// A text that rules examine.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FindingTarget {
    /// The name of the tool that a step uses.
    Tool,
    /// What the tool is called with.
    Input,
    /// What the tool answered.
    Output,
    /// What the agent says about the step.
    Reasoning,
    /// Members of an event of the audit log, one `name: value` a line.
    Event,
}

/// A rule that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Id of the rule, such as `CE-005`.
    pub rule: String,
    pub severity: Severity,
    pub action: FindingAction,
    /// The first target in which a pattern of the rule matched.
    pub target: FindingTarget,
}
