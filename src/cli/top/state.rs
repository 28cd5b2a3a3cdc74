//! What the screen knows: the last reading, what has changed since the one before, and since when the database is not reachable.

use time::{Duration, OffsetDateTime};

use crate::platform::fault::Fault;
use crate::services::top::{LedgerMetrics, TopSnapshot};

/// A reading that succeeded.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) at: OffsetDateTime,
    pub(super) snapshot: TopSnapshot,
    /// What the ledger did since the reading before, and the time in between.
    pub(super) ledger: Option<(LedgerMetrics, Duration)>,
}

/// A database that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outage {
    /// The first reading that failed.
    pub(super) since: OffsetDateTime,
    pub(super) why: String,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) issuer: String,
    /// Which database is read.
    pub(super) place: String,
    pub(super) every: Option<std::time::Duration>,
    pub(super) reading: Option<Reading>,
    pub(super) outage: Option<Outage>,
}

impl State {
    pub(super) fn new(issuer: String, place: String) -> Self {
        Self { issuer, place, every: None, reading: None, outage: None }
    }

    /// Takes over a reading. After a failed one, the last reading stays.
    pub(super) fn apply(&mut self, at: OffsetDateTime, read: Result<TopSnapshot, Fault>) {
        match read {
            Err(fault) => {
                let since = self.outage.as_ref().map_or(at, |outage| outage.since);
                self.outage = Some(Outage { since, why: fault.to_string() });
            }
            Ok(snapshot) => {
                self.outage = None;
                let ledger = self.reading.as_ref().and_then(|before| {
                    let (earlier, now) = (&before.snapshot.ledger, &snapshot.ledger);
                    let is_same = earlier.source == now.source;
                    let (earlier, now) = (earlier.metrics.as_ref().ok()?, now.metrics.as_ref().ok()?);
                    is_same
                        .then(|| now.since(earlier))
                        .flatten()
                        .map(|difference| (difference, at - before.at))
                });
                self.reading = Some(Reading { at, snapshot, ledger });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::top::{LedgerState, Part};

    fn snapshot(batches: f64) -> TopSnapshot {
        TopSnapshot {
            server: None,
            rates: Part::Read(Vec::new()),
            waiting: Part::Unreadable { error: String::new() },
            chains: Part::Read(Vec::new()),
            events: Part::Read(Vec::new()),
            findings: Part::Read(Vec::new()),
            log: Part::Unreadable { error: String::new() },
            ledger: LedgerState {
                source: Some("http://127.0.0.1:1/metrics".to_owned()),
                metrics: Ok(LedgerMetrics { batches, ..LedgerMetrics::default() }),
            },
            settings: Part::Read(Vec::new()),
        }
    }

    #[test]
    fn an_outage_keeps_its_first_time_and_the_last_reading_and_ends_with_a_reading() {
        let at = |second: i64| OffsetDateTime::UNIX_EPOCH + Duration::seconds(second);
        let mut state = State::new(String::new(), String::new());
        state.apply(at(1), Ok(snapshot(3.0)));
        for second in [2, 3] {
            state.apply(at(second), Err(Fault::new("no answer")));
        }
        assert_eq!(state.outage, Some(Outage { since: at(2), why: "no answer".to_owned() }));
        assert_eq!(state.reading.as_ref().map(|reading| reading.at), Some(at(1)));
        state.apply(at(4), Ok(snapshot(5.0)));
        assert_eq!(state.outage, None);
        let (ledger, time) = state.reading.and_then(|reading| reading.ledger).unwrap();
        assert_eq!((ledger.batches, time), (2.0, Duration::seconds(3)));
    }
}
