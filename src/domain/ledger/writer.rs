//! Takes entries from the queue and records them in batches, on one connection.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{mpsc, oneshot};

use super::batch;
use super::batch_error::{BatchError, FailureScope};
use super::entry::{CommitOutcome, Entry};
use super::findings::EventRules;
use super::writing::Writing;
use crate::domain::baseline::cache::BaselineCache;
use crate::domain::person::cache::PersonCache;
use crate::domain::row_mac::RowMac;
use crate::domain::session::cache::SessionCache;
use crate::platform::db;
use crate::platform::fault::Fault;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerError {
    Full,
    /// The database did not respond, or failed. The entry may or may not have been recorded.
    Failed,
}

pub(super) type PendingEntry = (Entry, oneshot::Sender<Result<CommitOutcome, LedgerError>>);

pub(super) struct Writer {
    pub(super) options: PgConnectOptions,
    pub(super) timeout: Duration,
    pub(super) most: usize,
    pub(super) rows: RowMac,
    pub(super) rules: EventRules,
    pub(super) persons: PersonCache,
    pub(super) sessions: SessionCache,
    pub(super) baselines: BaselineCache,
    pub(super) connection: Option<PgConnection>,
}

/// Steps of one batch: those of one agent must not take the time of all others.
const MOST_STEPS: usize = 256;

/// How many of the gathered entries one batch has, at least one.
fn batch_length(gathered: &[PendingEntry]) -> usize {
    let mut steps = 0;
    let fits = |(entry, _): &&PendingEntry| {
        steps += entry.steps().map_or(0, |report| report.steps.len());
        steps <= MOST_STEPS
    };
    gathered.iter().take_while(fits).count().max(1)
}

impl Writer {
    pub(super) async fn run(mut self, mut entries: mpsc::Receiver<PendingEntry>) {
        let mut gathered = Vec::with_capacity(self.most);
        while !gathered.is_empty() || entries.recv_many(&mut gathered, self.most).await > 0 {
            metrics::gauge!("actchain_ledger_queue_depth").set(entries.len() as f64);
            let length = batch_length(&gathered);
            // Entries whose caller gave up waiting are not recorded.
            let batch: Vec<PendingEntry> =
                gathered.drain(..length).filter(|(_, reply)| !reply.is_closed()).collect();
            if !batch.is_empty() {
                self.record(batch).await;
            }
        }
    }

    async fn record(&mut self, batch: Vec<PendingEntry>) {
        let started = Instant::now();
        metrics::histogram!("actchain_ledger_batch_size").record(batch.len() as f64);
        let (mut entries, replies): (Vec<Entry>, Vec<_>) = batch.into_iter().unzip();
        match self.attempt(&mut entries).await {
            Ok(outcomes) => {
                metrics::histogram!("actchain_ledger_commit_seconds").record(started.elapsed().as_secs_f64());
                for (outcome, reply) in outcomes.into_iter().zip(replies) {
                    // The receiver may have been dropped, as when a client disconnects.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(failed) => {
                tracing::error!(error = %failed.fault, entries = entries.len(), "a batch was not recorded");
                self.one_by_one(failed.scope, entries, replies).await;
            }
        }
    }

    /// Records the entries of a failed batch one by one, so that an invalid entry fails alone. Once the database
    /// itself fails, the rest fails at once: entries that are queued behind have waited long enough.
    async fn one_by_one(
        &mut self,
        mut scope: FailureScope,
        entries: Vec<Entry>,
        replies: Vec<oneshot::Sender<Result<CommitOutcome, LedgerError>>>,
    ) {
        for (mut entry, reply) in entries.into_iter().zip(replies) {
            let mut outcome = Err(LedgerError::Failed);
            if scope == FailureScope::Content && !reply.is_closed() {
                match self.attempt(std::slice::from_mut(&mut entry)).await {
                    Ok(outcomes) => outcome = outcomes.into_iter().next().ok_or(LedgerError::Failed),
                    Err(failed) => {
                        tracing::error!(error = %failed.fault, "an entry was not recorded");
                        scope = failed.scope;
                    }
                }
            }
            let _ = reply.send(outcome);
        }
    }

    async fn attempt(&mut self, entries: &mut [Entry]) -> Result<Vec<CommitOutcome>, FailedAttempt> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                db::connect(self.options.clone(), self.timeout).await.map_err(FailedAttempt::of_database)?
            }
        };
        match tokio::time::timeout(self.timeout, self.write(&mut connection, entries)).await {
            Ok(Ok(outcomes)) => {
                self.connection = Some(connection);
                Ok(outcomes)
            }
            Ok(Err(error)) => {
                let scope = error.scope();
                // A connection whose transaction failed is not reused.
                drop(connection);
                Err(FailedAttempt { scope, fault: error.into() })
            }
            Err(_) => Err(FailedAttempt::of_database(Fault::new("the database took too long"))),
        }
    }

    /// Records a batch. If a person is erased meanwhile, the batch is recorded with names that are read again.
    async fn write(
        &self,
        connection: &mut PgConnection,
        entries: &mut [Entry],
    ) -> Result<Vec<CommitOutcome>, BatchError> {
        loop {
            let names = self.persons.assign_names(connection, batch::principals(entries)?).await?;
            let writing = Writing {
                rows: &self.rows,
                rules: &self.rules,
                names: &names,
                sessions: &self.sessions,
                baselines: &self.baselines,
            };
            match batch::record(writing, connection, entries).await {
                Err(BatchError::Erased(erasures)) => self.persons.outdate(erasures),
                done => return done,
            }
        }
    }
}

/// Why entries were not recorded.
struct FailedAttempt {
    scope: FailureScope,
    fault: Fault,
}

impl FailedAttempt {
    fn of_database(fault: Fault) -> Self {
        Self { scope: FailureScope::Database, fault }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{StepInsert, StepsInsert, Write};
    use super::*;
    use crate::domain::audit::{Actor, Event, EventKind};
    use crate::platform::clock::from_seconds;

    /// An entry with so many steps; without any, that of an exchange.
    fn entry(steps: usize) -> PendingEntry {
        let now = from_seconds(1_000).unwrap();
        let event = Event::new(now, EventKind::ClientEnabled, Actor::client("c", None));
        let steps = vec![StepInsert { identified: None, event }; steps];
        let write = match steps.is_empty() {
            true => Write::Nothing,
            false => Write::Steps(Box::new(StepsInsert { steps, session: None })),
        };
        (Entry { write, ..Entry::at(now) }, oneshot::channel().0)
    }

    #[test]
    fn the_steps_of_one_batch_are_bounded_and_no_entry_waits_for_ever() {
        let length = |steps: &[usize]| batch_length(&steps.iter().copied().map(entry).collect::<Vec<_>>());
        assert_eq!(length(&[0; 128]), 128);
        assert_eq!(length(&[10; 128]), 25);
        assert_eq!(length(&[250, 0, 6, 0, 1, 0]), 4);
        assert_eq!(length(&[1_000, 0]), 1);
    }
}
