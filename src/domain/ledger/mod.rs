//! The ledger records every exchange as one entry and commits entries in batches. While one batch commits, the next
//! one collects. A reply is sent only after the commit of its batch. Every effect has its event, and every event its
//! effect.

mod baselines;
mod batch;
mod batch_error;
mod entry;
mod findings;
mod guard;
mod sessions;
mod snapshot;
mod steps;
mod store;
pub mod sweep;
mod writer;
mod writing;

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::sync::{mpsc, oneshot};

pub use self::entry::{
    Choice, CommitOutcome, Committed, CommittedSteps, Entry, Freshness, Guards, OfflineUse, SingleUseId,
    StepInsert, StepsInsert, TokenInsert, Write,
};
use self::findings::EventRules;
pub use self::writer::LedgerError;
use self::writer::{PendingEntry, Writer};
use super::baseline::cache::BaselineCache;
use super::finding::CurrentRules;
use super::person::cache::PersonCache;
use super::row_mac::RowMac;
use super::session::cache::SessionCache;
use crate::platform::config;
use crate::platform::fault::{Context, Fault};

/// A handle of the ledger; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    queue: mpsc::Sender<PendingEntry>,
    timeout: Duration,
}

impl Ledger {
    /// Starts the ledger on a thread and a database connection of its own. When the last handle is dropped, it
    /// records all queued entries, ends, and signals its end on the receiver. Events have the findings of these rules.
    pub fn start(
        options: PgConnectOptions,
        settings: &config::LedgerConfig,
        rows: RowMac,
        rules: CurrentRules,
    ) -> Result<(Self, oneshot::Receiver<()>), Fault> {
        let (queue, entries) = mpsc::channel(settings.queue);
        let timeout = settings.timeout;
        // Custom plans are no better here, and planning costs more than execution. Plans are kept while tables grow,
        // so each row has to be found by index: hash and merge joins read whole tables.
        let options = options.options([
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ]);
        let (persons, sessions) = (PersonCache::default(), SessionCache::default());
        let baselines = BaselineCache::default();
        let (most, rules) = (settings.batch, EventRules::new(rules));
        let connection = None;
        let writer = Writer { options, timeout, most, rows, rules, persons, sessions, baselines, connection };
        // A thread of its own: on a work-stealing runtime, each response of the database would wake more threads than
        // necessary.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("the ledger")?;
        let (done, ended) = oneshot::channel();
        let run = move || {
            runtime.block_on(writer.run(entries));
            // The receiver may have been dropped.
            let _ = done.send(());
        };
        std::thread::Builder::new().name("ledger".into()).spawn(run).context("the ledger")?;
        Ok((Self { queue, timeout }, ended))
    }

    /// Whether an entry would be refused at this moment.
    pub fn is_full(&self) -> bool {
        self.queue.capacity() == 0
    }

    /// Records an entry; returns when the entry is durable.
    ///
    /// # Errors
    /// [`LedgerError::Full`] at once if the queue is full; [`LedgerError::Failed`] if the database fails or does not
    /// respond in time.
    pub async fn record(&self, entry: Entry) -> Result<CommitOutcome, LedgerError> {
        self.enqueue(entry)?.await
    }

    /// Puts an entry into the queue at once. The entry is recorded before every later entry, unless the returned
    /// future is dropped.
    ///
    /// # Errors
    /// As [`Ledger::record`].
    pub fn enqueue(
        &self,
        entry: Entry,
    ) -> Result<impl Future<Output = Result<CommitOutcome, LedgerError>> + Send + 'static, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send((entry, reply)).map_err(|_| LedgerError::Full)?;
        let timeout = self.timeout;
        Ok(async move {
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(recorded)) => recorded,
                Ok(Err(_)) | Err(_) => Err(LedgerError::Failed),
            }
        })
    }
}
