//! Which reported steps are new. Pure.

use std::collections::{BTreeMap, BTreeSet};

use time::{Duration, OffsetDateTime};

use super::{CheckedStep, StepOutcome};
use crate::domain::row_mac::RowMac;

/// A step can be repeated for at least this long.
const MIN_KEPT: Duration = Duration::days(1);

/// What a report of a step changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepRecord {
    /// The step is new, and a use.
    New,
    /// The step was reported before it was done, and is done now.
    Done,
}

/// The id of a step under its delegation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepKey {
    pub delegation_id: String,
    pub tool_use_id: String,
}

/// A step that has an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentifiedStep {
    pub key: StepKey,
    pub kept_until: OffsetDateTime,
    is_done: bool,
    /// Identifies the use of the tool.
    content: Vec<u8>,
    /// Whether the step says what the tool got.
    names_input: bool,
}

impl IdentifiedStep {
    /// The step with its id, if it has one.
    pub fn of(
        step: &CheckedStep,
        rows: &RowMac,
        delegation: StepDelegation<'_>,
        now: OffsetDateTime,
    ) -> Option<Self> {
        let tool_use_id = step.step.tool_use_id.clone()?;
        Some(Self {
            key: StepKey { delegation_id: delegation.id.to_owned(), tool_use_id },
            kept_until: delegation.expires_at.max(now + MIN_KEPT),
            is_done: step.step.outcome != StepOutcome::Proposed,
            content: step.content(rows),
            names_input: step.names_input(),
        })
    }
}

/// The delegation of steps.
#[derive(Debug, Clone, Copy)]
pub struct StepDelegation<'a> {
    pub id: &'a str,
    pub expires_at: OffsetDateTime,
}

/// A step that was reported before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownStep {
    pub is_done: bool,
    pub content: Vec<u8>,
    pub kept_until: OffsetDateTime,
}

/// Steps that were reported before, and those that are recorded now. The uses of their delegations are locked.
#[derive(Debug, Default)]
pub struct KnownSteps {
    known: BTreeMap<StepKey, KnownStep>,
    changed: BTreeSet<StepKey>,
}

impl KnownSteps {
    pub fn new(known: BTreeMap<StepKey, KnownStep>) -> Self {
        Self { known, changed: BTreeSet::new() }
    }

    /// What a report of a step changes; `None` if it is a repetition. A known id with another use of a tool is a new step.
    pub fn change(&self, step: &IdentifiedStep) -> Option<StepRecord> {
        match self.repeated(step) {
            Some(before) if step.is_done && !before.is_done => Some(StepRecord::Done),
            Some(_) => None,
            None => Some(StepRecord::New),
        }
    }

    /// Records a step that changes something.
    pub fn record(&mut self, step: &IdentifiedStep) {
        let content =
            self.repeated(step).map_or_else(|| step.content.clone(), |before| before.content.clone());
        let known = KnownStep { is_done: step.is_done, content, kept_until: step.kept_until };
        self.known.insert(step.key.clone(), known);
        self.changed.insert(step.key.clone());
    }

    /// The steps that were recorded, ordered.
    pub fn changed(&self) -> impl Iterator<Item = (&StepKey, &KnownStep)> {
        self.changed.iter().filter_map(|key| self.known.get_key_value(key))
    }

    /// The same use of the tool, as known. What came of a step is reported with or without its input.
    fn repeated(&self, step: &IdentifiedStep) -> Option<&KnownStep> {
        let known = self.known.get(&step.key)?;
        let is_same = known.content == step.content || step.is_done && !step.names_input;
        is_same.then_some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::from_seconds;

    fn step(delegation_id: &str, content: &str, outcome: StepOutcome) -> IdentifiedStep {
        IdentifiedStep {
            key: StepKey { delegation_id: delegation_id.to_owned(), tool_use_id: "t".to_owned() },
            kept_until: from_seconds(1_000).unwrap(),
            is_done: outcome != StepOutcome::Proposed,
            content: content.as_bytes().to_vec(),
            names_input: !content.is_empty(),
        }
    }

    #[test]
    fn a_step_is_new_once_and_done_once_under_its_delegation() {
        use StepOutcome::{Failed, Proposed, Succeeded};
        let mut known = KnownSteps::default();
        let mut report = |one: IdentifiedStep| {
            let change = known.change(&one);
            change.iter().for_each(|_| known.record(&one));
            change
        };
        assert_eq!(report(step("d", "ls", Proposed)), Some(StepRecord::New));
        assert_eq!(report(step("d", "ls", Proposed)), None);
        assert_eq!(report(step("d", "", Succeeded)), Some(StepRecord::Done), "without its input");
        assert_eq!(report(step("d", "ls", Failed)), None);
        assert_eq!(report(step("d", "ls", Proposed)), None, "the input is still known");
        assert_eq!(report(step("d", "rm", Proposed)), Some(StepRecord::New), "another use of a tool");
        assert_eq!(report(step("e", "ls", Proposed)), Some(StepRecord::New), "another delegation");
        assert_eq!(known.changed().count(), 2);
    }
}
