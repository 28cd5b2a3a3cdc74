//! Findings of rules about the events of a batch. Rules need no statement: they examine the event, and how often this server
//! has refused the client.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::{Duration, OffsetDateTime};

use crate::domain::audit::examined_event::{EventFact, described};
use crate::domain::audit::{Actor, Event, EventOutcome};
use crate::domain::finding::{CurrentRules, Finding, FindingTarget, RuleSet};

/// How long a refusal counts.
const WINDOW: Duration = Duration::minutes(5);
/// After so many refusals, the count begins again.
const BURST: usize = 10;
/// Most clients whose refusals are counted.
const MAX_CLIENTS: usize = 10_000;

/// Examines events by the rules that a server uses.
#[derive(Debug)]
pub(super) struct EventRules {
    rules: CurrentRules,
    /// The refusals of each client in the last minutes, at this server.
    refusals: Mutex<HashMap<String, Times>>,
}

type Times = VecDeque<OffsetDateTime>;

impl EventRules {
    pub(super) fn new(rules: CurrentRules) -> Self {
        Self { rules, refusals: Mutex::default() }
    }

    /// The findings of one batch, by the rules of this moment.
    pub(super) fn of_batch(&self) -> BatchFindings<'_> {
        BatchFindings { rules: self, set: self.rules.set(), counted: HashMap::new(), latest: None }
    }

    fn refusals(&self) -> MutexGuard<'_, HashMap<String, Times>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The refusals that a batch adds count only after its commit: a batch can be recorded again.
#[derive(Debug)]
pub(super) struct BatchFindings<'a> {
    rules: &'a EventRules,
    set: RuleSet,
    /// Clients with a refusal in this batch, with their earlier refusals.
    counted: HashMap<String, Times>,
    /// The time of the latest refusal.
    latest: Option<OffsetDateTime>,
}

impl BatchFindings<'_> {
    /// The findings of an event, about which the batch knows these facts.
    pub(super) fn of(&mut self, event: &Event, facts: &[EventFact]) -> Vec<Finding> {
        let text = match (&event.actor, event.outcome()) {
            (Actor::Client { client_id, .. }, EventOutcome::Refused) => {
                let refusals = EventFact::RefusalsIn5Minutes(self.count(client_id, event.at));
                described(event, &[facts, &[refusals]].concat())
            }
            _ => described(event, facts),
        };
        self.set.examine_text(FindingTarget::Event, &text)
    }

    /// The number of refusals of a client in the window, with this one.
    fn count(&mut self, client_id: &str, at: OffsetDateTime) -> usize {
        self.latest = self.latest.max(Some(at));
        let earlier = || self.rules.refusals().get(client_id).cloned().unwrap_or_else(Times::new);
        let times = self.counted.entry(client_id.to_owned()).or_insert_with(earlier);
        times.retain(|earlier| at - *earlier < WINDOW);
        times.push_back(at);
        let count = times.len();
        if count >= BURST {
            times.clear();
        }
        count
    }

    /// The batch is committed: its refusals count from now on.
    pub(super) fn keep(self) {
        let Some(now) = self.latest else { return };
        let mut refusals = self.rules.refusals();
        if refusals.len() + self.counted.len() > MAX_CLIENTS {
            refusals.retain(|_, times| times.back().is_some_and(|last| now - *last < WINDOW));
        }
        for (client_id, times) in self.counted {
            if refusals.len() < MAX_CLIENTS || refusals.contains_key(&client_id) {
                refusals.insert(client_id, times);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::finding::built_in;
    use crate::platform::clock::from_seconds;

    #[test]
    fn refusals_are_counted_for_five_minutes_and_for_each_client_alone() {
        let rules = RuleSet::compile(built_in().unwrap()).unwrap();
        let rules = EventRules::new(CurrentRules::new(0, rules));
        let at = |seconds: i64| from_seconds(1_700_000_000 + seconds).unwrap();
        let count = |client: &str, seconds| {
            let mut batch = rules.of_batch();
            let count = batch.count(client, at(seconds));
            batch.keep();
            count
        };
        let counts: Vec<usize> = (0..12).map(|n| count("a", n)).collect();
        assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2]);
        assert_eq!(count("b", 12), 1);
        let counts: Vec<usize> = (0..4).map(|n| count("b", 12 + n * 150)).collect();
        assert_eq!(counts, [2, 3, 2, 2], "two of them are too old after five minutes");
        // A batch that was not committed does not count.
        assert_eq!([rules.of_batch().count("c", at(500)), rules.of_batch().count("c", at(500))], [1, 1]);
        let mut batch = rules.of_batch();
        assert_eq!([batch.count("c", at(500)), batch.count("c", at(500))], [1, 2], "two of one batch");
        for n in 0..2 * MAX_CLIENTS {
            count(&n.to_string(), 600);
        }
        assert_eq!(rules.refusals().len(), MAX_CLIENTS);
        assert_eq!(count("new", 900), 1);
        assert_eq!(rules.refusals().len(), 1);
    }
}
