//! The ledger records every exchange as one entry and commits entries in batches. While one batch commits, the next
//! one collects. A reply is sent only after the commit of its batch. Every effect has its event, and every event its
//! effect.

mod batch;
mod guard;
mod store;
pub mod sweep;

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::audit::Event;
use super::audit::store::LeafRef;
use super::ceremony::Asking;
use super::delegation::Delegation;
use super::delegation::candidates::Between;
use super::principal::Principal;
use super::refusal::Refusal;
use super::row_mac::RowMac;
use super::token::TokenRecord;
use crate::platform::config;
use crate::platform::db;
use crate::platform::fault::{Context, Fault};

/// An id that is accepted once: a `jti` of a DPoP proof or assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SingleUseId {
    /// Replay-cache key: truncated SHA-256 of kind, client or key, target and `jti`.
    pub id: [u8; 16],
    /// From this time on, no verifier accepts the proof or assertion.
    pub expires_at: OffsetDateTime,
    /// The refusal of an id that was used before.
    pub on_replay: Refusal,
    /// The refusal where the id may have been used and purged: the clock is behind the last purge.
    pub if_forgotten: Refusal,
}

/// What an entry relies on. The ledger checks it again, under locks, before the entry takes effect.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// The requesting client, as of the version on which its authentication was decided.
    pub client: Option<(String, i64)>,
    /// Earlier actors, which must not be disabled.
    pub earlier_actors: Vec<String>,
    /// Delegations that must be active; a use is counted on each.
    pub path: Vec<String>,
    /// Delegations that must be active too: those that ephemeral agents were created for. No use is counted on them.
    pub ephemeral_delegation: Vec<String>,
    /// Tokens of this server that must be valid, with all tokens of their lineage.
    pub tokens: Vec<Uuid>,
    /// Tokens of trusted issuers: subject, and time of issue by the clock of the issuer.
    pub subjects: Vec<(Principal, OffsetDateTime)>,
    /// A connection of the vault, with the versions of the connection and of its provider on which the response is
    /// based.
    pub connection: Option<(String, (i64, i64))>,
    /// The version of the registry on which the decision is based.
    pub registry: Option<i64>,
    /// Whether the decision read the path for this request or took it from a cache.
    pub freshness: Freshness,
    /// The candidates among which a decision from the cache chose.
    pub choice: Option<Choice>,
}

/// The candidates of an exchange, as of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub between: Between,
    /// The number of changes among the candidates; `None` if none was ever recorded.
    pub version: Option<i64>,
}

/// Where the data comes from that a guard compares with the stored rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// Read for this request: a delegation of the path that is not active rejects the entry.
    #[default]
    Fresh,
    /// Read for an earlier request, with the expiry that the path had at that time. A delegation that is not active, or
    /// a changed expiry, returns the entry for another decision: another delegation may grant the request.
    Cached(OffsetDateTime),
}

#[derive(Debug, Clone)]
pub enum Write {
    /// Nothing but the ids that the entry uses.
    Nothing,
    Token(Box<TokenInsert>),
    /// A confirmation that the delegator has to decide.
    Ceremony(Box<Asking>),
    /// A credential leaves the vault, or the proxy uses it: only the use is counted.
    Retrieval,
}

#[derive(Debug, Clone)]
pub struct TokenInsert {
    pub token: TokenRecord,
    /// The delegation that a `may_act` claim leads to, where the ledger does not have it yet.
    pub create: Option<Delegation>,
    /// The confirmations that the token uses.
    pub ceremonies: Vec<Uuid>,
}

/// One use: recorded as a whole, or not at all.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When the request was received.
    pub now: OffsetDateTime,
    /// Ids that are recorded as used, whatever the outcome of the entry.
    pub single_use_ids: Vec<SingleUseId>,
    pub guards: Guards,
    pub write: Write,
    /// The event of the audit log; `None` for an entry that only uses ids.
    pub event: Option<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The entry took effect, or is the record of a refusal; with the position of its event, if it has an event.
    Committed(Option<LeafRef>),
    /// A guard failed; the event records this refusal.
    Rejected(Refusal),
    /// The data of the decision has changed since. Only the used ids were recorded; the caller decides again.
    Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerError {
    Full,
    /// The database did not respond, or failed. The entry may or may not have been recorded.
    Failed,
}

type PendingEntry = (Entry, oneshot::Sender<Result<CommitOutcome, LedgerError>>);

/// A handle of the ledger; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    queue: mpsc::Sender<PendingEntry>,
    timeout: Duration,
}

impl Ledger {
    /// Starts the ledger on a thread and a database connection of its own. When the last handle is dropped, it
    /// records all queued entries, ends, and signals its end on the receiver.
    pub fn start(
        options: PgConnectOptions,
        settings: &config::Ledger,
        rows: RowMac,
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
        let writer = Writer { options, timeout, most: settings.batch, rows, connection: None };
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

struct Writer {
    options: PgConnectOptions,
    timeout: Duration,
    most: usize,
    rows: RowMac,
    connection: Option<PgConnection>,
}

impl Entry {
    fn issue(&self) -> Option<&TokenInsert> {
        match &self.write {
            Write::Token(issue) => Some(issue),
            Write::Nothing | Write::Ceremony(_) | Write::Retrieval => None,
        }
    }

    /// Whether the entry counts as a use of its delegation and of every ancestor.
    fn is_use(&self) -> bool {
        matches!(self.write, Write::Token(_) | Write::Retrieval)
    }
}

impl Writer {
    async fn run(mut self, mut entries: mpsc::Receiver<PendingEntry>) {
        let mut gathered = Vec::with_capacity(self.most);
        while entries.recv_many(&mut gathered, self.most).await > 0 {
            metrics::gauge!("actchain_ledger_queue_depth").set(entries.len() as f64);
            // Entries whose caller gave up waiting are not recorded.
            let batch: Vec<PendingEntry> =
                gathered.drain(..).filter(|(_, reply)| !reply.is_closed()).collect();
            if !batch.is_empty() {
                self.record(batch).await;
            }
        }
    }

    async fn record(&mut self, batch: Vec<PendingEntry>) {
        let started = Instant::now();
        metrics::histogram!("actchain_ledger_batch_size").record(batch.len() as f64);
        let (entries, replies): (Vec<Entry>, Vec<_>) = batch.into_iter().unzip();
        match self.attempt(&entries).await {
            Ok(outcomes) => {
                metrics::histogram!("actchain_ledger_commit_seconds").record(started.elapsed().as_secs_f64());
                for (outcome, reply) in outcomes.into_iter().zip(replies) {
                    // The receiver may have been dropped, as when a client disconnects.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(problem) => {
                tracing::error!(error = %problem.fault, entries = entries.len(), "a batch was not recorded");
                self.one_by_one(problem.whose, entries, replies).await;
            }
        }
    }

    /// Records the entries of a failed batch one by one, so that an invalid entry fails alone. Once the database
    /// itself fails, the rest fails at once: entries that are queued behind have waited long enough.
    async fn one_by_one(
        &mut self,
        mut whose: FailureScope,
        entries: Vec<Entry>,
        replies: Vec<oneshot::Sender<Result<CommitOutcome, LedgerError>>>,
    ) {
        for (entry, reply) in entries.into_iter().zip(replies) {
            let mut outcome = Err(LedgerError::Failed);
            if whose == FailureScope::Content && !reply.is_closed() {
                match self.attempt(std::slice::from_ref(&entry)).await {
                    Ok(outcomes) => outcome = outcomes.into_iter().next().ok_or(LedgerError::Failed),
                    Err(problem) => {
                        tracing::error!(error = %problem.fault, "an entry was not recorded");
                        whose = problem.whose;
                    }
                }
            }
            let _ = reply.send(outcome);
        }
    }

    async fn attempt(&mut self, entries: &[Entry]) -> Result<Vec<CommitOutcome>, Problem> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => db::connect(self.options.clone(), self.timeout).await.map_err(Problem::of_database)?,
        };
        match tokio::time::timeout(self.timeout, batch::record(&self.rows, &mut connection, entries)).await {
            Ok(Ok(outcomes)) => {
                self.connection = Some(connection);
                Ok(outcomes)
            }
            Ok(Err(error)) => {
                let whose = whose(&error);
                // A connection whose transaction failed is not reused.
                drop(connection);
                Err(Problem { whose, fault: error.into() })
            }
            Err(_) => Err(Problem::of_database(Fault::new("the database took too long"))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailureScope {
    Content,
    Database,
}

struct Problem {
    whose: FailureScope,
    fault: Fault,
}

impl Problem {
    fn of_database(fault: Fault) -> Self {
        Self { whose: FailureScope::Database, fault }
    }
}

/// An error in a batch: of the database, or of the code that assembles the batch.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<BatchError> for Fault {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Sql(error) => error.into(),
            BatchError::Fault(fault) => fault,
        }
    }
}

/// SQLSTATE classes 22 (data), 23 (integrity) and 40 (rollback for a conflict) are caused by the content of the
/// entries.
fn whose(error: &BatchError) -> FailureScope {
    let cause = match error {
        BatchError::Sql(error) => error,
        // A store function returns the error of the database as the cause of a fault.
        BatchError::Fault(fault) => {
            match std::error::Error::source(fault).and_then(|cause| cause.downcast_ref()) {
                Some(error) => error,
                None => return FailureScope::Content,
            }
        }
    };
    let code = match cause {
        sqlx::Error::Database(error) => error.code().map(|code| code.into_owned()),
        _ => None,
    };
    match code {
        Some(code) if ["22", "23", "40"].iter().any(|class| code.starts_with(class)) => FailureScope::Content,
        _ => FailureScope::Database,
    }
}

fn uuid_of(id: [u8; 16]) -> Uuid {
    Uuid::from_bytes(id)
}
