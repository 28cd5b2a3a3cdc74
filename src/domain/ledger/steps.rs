//! The reported steps of a batch.

use super::entry::{CommittedSteps, Entry};
use super::snapshot::Snapshot;
use crate::domain::audit::Event;
use crate::domain::audit::examined_event::EventFact;
use crate::domain::refusal::Refusal;
use crate::domain::step::known::StepRecord;

/// What an accepted report changes.
#[derive(Debug, Default)]
pub(super) struct EvaluatedSteps {
    /// For each step, whether it is recorded.
    recorded: Vec<bool>,
    /// Number of new steps.
    pub(super) uses: i64,
    /// Whether nothing has used the delegation before.
    is_first_use: bool,
    after: Option<CommittedSteps>,
}

impl EvaluatedSteps {
    /// Events of the recorded steps. The facts about the first one are not true of the others.
    pub(super) fn events<'a>(
        &self,
        entry: &'a Entry,
    ) -> impl Iterator<Item = (&'a Event, &'static [EventFact])> {
        let steps = entry.steps().into_iter().flat_map(|report| &report.steps).zip(&self.recorded);
        let mut facts: &[EventFact] =
            if self.is_first_use { &[EventFact::FirstUseOfDelegation] } else { &[] };
        steps
            .filter(|(_, recorded)| **recorded)
            .map(move |(step, _)| (&step.event, std::mem::take(&mut facts)))
    }

    pub(super) fn committed(&self) -> Option<CommittedSteps> {
        self.after
    }
}

/// Decides which steps of an accepted entry are recorded.
///
/// # Errors
/// A refusal if the path has fewer uses than there are new steps.
pub(super) fn evaluate(entry: &Entry, snapshot: &mut Snapshot) -> Result<EvaluatedSteps, Refusal> {
    let Some(report) = entry.steps() else { return Ok(EvaluatedSteps::default()) };
    let change = |identified: Option<_>| match identified {
        None => Some(StepRecord::New),
        Some(identified) => snapshot.steps.change(identified),
    };
    let changes: Vec<_> = report.steps.iter().map(|step| change(step.identified.as_ref())).collect();
    let count = changes.iter().filter(|change| **change == Some(StepRecord::New)).count();
    let uses = i64::try_from(count).map_err(|_| Refusal::TooFewUses)?;
    let path = || entry.guards.path.iter().filter_map(|id| snapshot.delegations.get(id));
    let left = path().filter_map(|facts| facts.uses_left()).min();
    if left.is_some_and(|left| uses > left) {
        return Err(Refusal::TooFewUses);
    }
    let recorded: Vec<bool> = changes.iter().map(Option::is_some).collect();
    let uses_before = path().next_back().map_or(0, |facts| facts.uses);
    let after = CommittedSteps {
        recorded: recorded.iter().filter(|recorded| **recorded).count(),
        uses: uses_before + uses,
        uses_left: left.map(|left| left - uses),
    };
    for (step, _) in report.steps.iter().zip(&recorded).filter(|(_, recorded)| **recorded) {
        step.identified.iter().for_each(|identified| snapshot.steps.record(identified));
    }
    Ok(EvaluatedSteps { recorded, uses, is_first_use: uses_before == 0, after: Some(after) })
}
