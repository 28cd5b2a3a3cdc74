//! Numbers of events by what they record: exchanges, retrievals, steps, refusals and findings.

use serde::Serialize;

use super::action::Action;
use super::field::Field;

/// The `outcome` of a refusal.
pub(super) const REFUSED: &str = "refused";

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EventCounts {
    pub events: u64,
    /// Exchanges, and uses of refresh tokens.
    pub exchanges: u64,
    /// Retrieved credentials, and requests through the proxy.
    pub retrievals: u64,
    pub refusals: u64,
    pub steps: u64,
    /// Events with a finding.
    pub findings: u64,
}

pub(super) type Counter = fn(&mut EventCounts) -> &mut u64;

/// The fields and values whose events are counted.
pub(super) fn counted() -> [(Field, &'static str, Counter); 7] {
    [
        (Field::Action, Action::TokenExchanged.name(), |counts| &mut counts.exchanges),
        (Field::Action, Action::TokenRefreshed.name(), |counts| &mut counts.exchanges),
        (Field::Action, Action::VaultTokenRetrieved.name(), |counts| &mut counts.retrievals),
        (Field::Action, Action::VaultProxyCalled.name(), |counts| &mut counts.retrievals),
        (Field::Action, Action::DelegationStep.name(), |counts| &mut counts.steps),
        (Field::Outcome, REFUSED, |counts| &mut counts.refusals),
        (Field::Flagged, "true", |counts| &mut counts.findings),
    ]
}

/// The members of a document by which its event is counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountedMembers<'a> {
    pub(super) action: &'a str,
    pub(super) outcome: &'a str,
    /// How many findings the event has.
    pub(super) findings: usize,
}

impl EventCounts {
    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.exchanges += other.exchanges;
        self.retrievals += other.retrievals;
        self.refusals += other.refusals;
        self.steps += other.steps;
        self.findings += other.findings;
    }

    pub(super) fn count(&mut self, event: CountedMembers<'_>) {
        self.events += 1;
        for (field, value, counter) in counted() {
            let is_counted = match field {
                Field::Action => event.action == value,
                Field::Outcome => event.outcome == value,
                _ => event.findings > 0,
            };
            *counter(self) += u64::from(is_counted);
        }
    }
}
