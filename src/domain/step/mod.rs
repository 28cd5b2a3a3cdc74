//! Steps: what an agent reports of its work, such as the use of a tool. A step counts as a use.

pub mod known;
pub mod store;

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::finding::{ExaminedStep, Finding, FindingAction, RuleSet};
use super::refusal::Refusal;
use super::row_mac::{MacRow, RowMac};
use crate::platform::fault::Fault;
use actchain_protocol::canonical_json;
use actchain_protocol::digest::{hex, sha256};

/// Steps in one report.
const MAX_STEPS: usize = 100;
/// The longest text of a step, in bytes.
pub const MAX_TEXT: usize = 16 * 1024;
/// The longest name of a tool, and the longest id of its use.
const MAX_NAME: usize = 128;
/// The longest plan, in steps.
const MAX_PLAN: u32 = 100_000;
/// The largest integer that all JSON readers agree about.
const MAX_INTEGER: u64 = (1 << 53) - 1;
/// The longest duration: 30 days.
const MAX_TOOK_MS: u64 = 30 * 24 * 3600 * 1000;

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum StepOutcome {
    /// Reported before it is done.
    Proposed,
    Succeeded,
    Failed,
    /// The agent did not do it, because it was not allowed to.
    Refused,
}

/// What an agent may do that asked before a step, by the strongest action of the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepDecision {
    Allow,
    /// The agent may do it, and shows its user what was found.
    Flag,
    /// The user has to confirm it first.
    Confirm,
    Block,
}

impl StepDecision {
    /// Before any confirmation.
    pub fn by(findings: &[Finding]) -> Self {
        match findings.iter().map(|finding| finding.action).max() {
            None | Some(FindingAction::Record) => Self::Allow,
            Some(FindingAction::Flag) => Self::Flag,
            Some(FindingAction::Confirm) => Self::Confirm,
            Some(FindingAction::Block | FindingAction::Suspend) => Self::Block,
        }
    }
}

/// What the log says of a step. Its texts are beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepDetail {
    pub tool: String,
    pub outcome: StepOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Number of the step in the agent's plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_step: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_total: Option<u32>,
    /// The agent's id of the use of the tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_use_id: Option<String>,
    /// The answer, if the agent asked before the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<StepDecision>,
    /// The confirmation that the step needs or uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceremony: Option<Uuid>,
}

/// A step as an agent reports it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportedStep {
    pub tool: String,
    pub outcome: StepOutcome,
    /// A text, or any other JSON.
    pub input: Option<Value>,
    pub output: Option<Value>,
    pub reasoning: Option<String>,
    pub input_sha256: Option<String>,
    pub output_sha256: Option<String>,
    pub reasoning_sha256: Option<String>,
    pub took_ms: Option<u64>,
    pub plan_step: Option<u32>,
    pub plan_total: Option<u32>,
    /// The agent's id of the use of the tool: a step is recorded once under it.
    pub tool_use_id: Option<String>,
}

/// The texts of a step, which are kept beside the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepTexts {
    pub input: Option<String>,
    pub output: Option<String>,
    pub reasoning: Option<String>,
}

impl ReportedStep {
    /// Whether a digest takes the place of a text.
    fn is_hidden(&self) -> bool {
        self.input_sha256.is_some() && self.input.is_none()
            || self.output_sha256.is_some() && self.output.is_none()
            || self.reasoning_sha256.is_some() && self.reasoning.is_none()
    }

    /// The texts, if the step can be recorded.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] with the rule that it breaks.
    pub fn texts(&self) -> Result<StepTexts, Refusal> {
        if !is_name(&self.tool) {
            return Err(Refusal::Malformed("tool is 1 to 128 letters, digits and the characters _ . : / -"));
        }
        if self.tool_use_id.as_deref().is_some_and(|id| !is_name(id)) {
            return Err(Refusal::Malformed(
                "tool_use_id is 1 to 128 letters, digits and the characters _ . : / -",
            ));
        }
        let is_plan = match (self.plan_step, self.plan_total) {
            (None, None) => true,
            (Some(step), None) => (1..=MAX_PLAN).contains(&step),
            (Some(step), Some(total)) => (1..=total).contains(&step) && total <= MAX_PLAN,
            (None, Some(_)) => false,
        };
        if !is_plan {
            return Err(Refusal::Malformed("plan_step is 1 to plan_total, and plan_total at most 100000"));
        }
        if self.took_ms.is_some_and(|took| took > MAX_TOOK_MS) {
            return Err(Refusal::Malformed("took_ms is at most 30 days"));
        }
        Ok(StepTexts {
            input: text(self.input.as_ref(), self.input_sha256.as_deref())?,
            output: text(self.output.as_ref(), self.output_sha256.as_deref())?,
            reasoning: text(
                self.reasoning.clone().map(Value::String).as_ref(),
                self.reasoning_sha256.as_deref(),
            )?,
        })
    }
}

/// Whether a value has an integer that JSON readers do not agree about (RFC 7493 §2.2): two of them can have the same
/// canonical text.
fn is_ambiguous(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.as_i64().map_or(number.is_u64(), |integer| integer.unsigned_abs() > MAX_INTEGER)
        }
        Value::Array(items) => items.iter().any(is_ambiguous),
        Value::Object(members) => members.values().any(is_ambiguous),
        _ => false,
    }
}

/// Letters, digits and a few characters: a name, and no text.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:/-".contains(&byte))
}

fn text(value: Option<&Value>, digest: Option<&str>) -> Result<Option<String>, Refusal> {
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err(Refusal::Malformed("A digest is 64 lower-case hexadecimal digits"));
    }
    let Some(value) = value else { return Ok(None) };
    let text = match value {
        Value::String(text) => text.clone(),
        other if is_ambiguous(other) => {
            return Err(Refusal::Malformed(
                "A text has an integer of more than 53 bits; send it as a string",
            ));
        }
        other => canonical_json::to_string(other)
            .map_err(|_| Refusal::Malformed("A text has a number that JSON readers do not agree about"))?,
    };
    if text.len() > MAX_TEXT {
        return Err(Refusal::Malformed("A text is at most 16384 bytes; send the digest of a longer one"));
    }
    if digest.is_some_and(|digest| digest != hex(&sha256(&[text.as_bytes()]))) {
        return Err(Refusal::Malformed("A digest is not that of its text"));
    }
    Ok(Some(text))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A step that can be recorded, with what rules find in it.
#[derive(Debug, Clone)]
pub struct CheckedStep {
    pub step: ReportedStep,
    pub texts: StepTexts,
    pub findings: Vec<Finding>,
}

impl CheckedStep {
    /// Whether the step says what the tool got.
    pub fn names_input(&self) -> bool {
        self.step.input.is_some() || self.step.input_sha256.is_some()
    }

    /// Identifies the use of the tool: a step under a known id that differs in it is another step.
    pub fn content(&self, rows: &RowMac) -> Vec<u8> {
        rows.of(&StepContent { step: self, client_id: "", rules: Vec::new() })
    }

    /// Identifies what a confirmation is about: the same use of the same tool by the same client, for the same rules. A guess
    /// of the input cannot be tested without the key.
    pub fn fingerprint(&self, rows: &RowMac, client_id: &str) -> Result<[u8; 32], Fault> {
        let rules = self.findings.iter().map(|finding| finding.rule.as_str()).collect();
        let mac = rows.of(&StepContent { step: self, client_id, rules });
        mac.first_chunk::<32>().copied().ok_or_else(|| Fault::new("a MAC is too short"))
    }
}

/// A use of a tool, for its MAC.
struct StepContent<'a> {
    step: &'a CheckedStep,
    client_id: &'a str,
    rules: Vec<&'a str>,
}

impl MacRow for StepContent<'_> {
    const TABLE: &'static str = "reported_step";
    const KEY: &'static str = "tool";

    fn row_id(&self) -> &str {
        &self.step.step.tool
    }

    fn content(&self) -> Value {
        let CheckedStep { step, texts, .. } = self.step;
        json!([self.client_id, self.rules, texts.input, step.input_sha256])
    }
}

/// A report of some steps.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepReport {
    /// The `sid` of a token, or the client's name for the piece of work.
    pub session_id: Option<String>,
    /// Whether the agent asks before it does them.
    #[serde(default)]
    pub ask: bool,
    pub steps: Vec<ReportedStep>,
}

/// How long a text can be as JSON, in bytes: a control character is written as six.
fn written_length(text: &str) -> usize {
    2 + text.bytes().map(|byte| if byte < b' ' { 6 } else { 2 }).sum::<usize>()
}

/// How long a value can be as JSON, in bytes.
fn length(value: &Value) -> usize {
    match value {
        Value::String(text) => written_length(text),
        Value::Array(items) => 2 + items.iter().map(|one| 1 + length(one)).sum::<usize>(),
        Value::Object(members) => {
            2 + members.iter().map(|(name, value)| 2 + written_length(name) + length(value)).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 24,
    }
}

impl StepReport {
    /// How long all texts can be, in bytes.
    pub fn length(&self) -> usize {
        let of_step = |step: &ReportedStep| {
            let texts = [&step.input, &step.output].into_iter().flatten().map(length).sum::<usize>();
            texts + step.reasoning.as_deref().map_or(0, written_length)
        };
        self.steps.iter().map(of_step).sum()
    }

    /// The steps with what rules find in them. Of several under one `tool_use_id`, one counts: the first that is done, else
    /// the first.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] with the rule that the report breaks.
    pub fn examined(self, rules: &RuleSet) -> Result<Vec<CheckedStep>, Refusal> {
        if !(1..=MAX_STEPS).contains(&self.steps.len()) {
            return Err(Refusal::Malformed("steps has 1 to 100 members"));
        }
        if self.ask && self.steps.iter().any(|step| step.outcome != StepOutcome::Proposed) {
            return Err(Refusal::Malformed("ask is about steps whose outcome is proposed"));
        }
        if self.ask && self.steps.iter().any(ReportedStep::is_hidden) {
            return Err(Refusal::Malformed("ask is about texts, and not about their digests"));
        }
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut steps: Vec<(ReportedStep, StepTexts)> = Vec::with_capacity(self.steps.len());
        for step in self.steps {
            let texts = step.texts()?;
            let Some(id) = step.tool_use_id.clone() else {
                steps.push((step, texts));
                continue;
            };
            match places.get(&id).and_then(|place| steps.get_mut(*place)) {
                Some(earlier)
                    if earlier.0.outcome == StepOutcome::Proposed
                        && step.outcome != StepOutcome::Proposed =>
                {
                    *earlier = (step, texts);
                }
                Some(_) => {}
                None => {
                    places.insert(id, steps.len());
                    steps.push((step, texts));
                }
            }
        }
        let examined = steps.into_iter().map(|(step, texts)| {
            let findings = rules.examine(&ExaminedStep {
                tool: &step.tool,
                input: texts.input.as_deref(),
                output: texts.output.as_deref(),
                reasoning: texts.reasoning.as_deref(),
            });
            CheckedStep { step, texts, findings }
        });
        Ok(examined.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_as_at_least_as_long_as_its_texts() {
        for input in [json!("a\u{1}\""), json!([[], [], [{}]]), json!({"\u{2}": [null, 1.5e300, -9]})] {
            let step = json!({"tool": "t", "outcome": "proposed", "input": input, "reasoning": "why"});
            let report: StepReport = serde_json::from_value(json!({"steps": [step]})).unwrap();
            let texts = report.steps[0].texts().unwrap();
            let length =
                texts.input.map_or(0, |text| text.len()) + texts.reasoning.map_or(0, |text| text.len());
            assert!(report.length() >= length, "{input}");
        }
    }
}
