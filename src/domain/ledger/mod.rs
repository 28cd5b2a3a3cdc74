//! The ledger: every exchange is one entry, recorded in batches. While one batch commits, the next gathers. A reply
//! leaves only after the commit of its batch; no effect without its event, no event without its effect.

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

/// Something that may be used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SingleUseId {
    /// Stands for it.
    pub id: [u8; 16],
    /// From when on nobody would accept it any more.
    pub expires_at: OffsetDateTime,
    /// The refusal of an id that was used before.
    pub on_replay: Refusal,
    /// The refusal of an id that may have been used and forgotten: the clock is behind the one of the last sweep.
    pub if_forgotten: Refusal,
}

/// What an entry relies on; looked at again under locks before it takes effect.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// The client that asks, as of the version on which its proof was judged.
    pub client: Option<(String, i64)>,
    /// Earlier actors, which must not be disabled.
    pub earlier_actors: Vec<String>,
    /// Delegations that must be active; a use is counted on each.
    pub path: Vec<String>,
    /// Delegations that must be active besides: those that an agent was made for.
    pub ephemeral_delegation: Vec<String>,
    /// Tokens of ours that must stand, with all that they were made from.
    pub tokens: Vec<Uuid>,
    /// Tokens of others: whom they are about, and when they were issued by the clock of whoever issued them.
    pub subjects: Vec<(Principal, OffsetDateTime)>,
    /// A connection of the vault, as of the versions of it and of its provider on which the answer rests.
    pub connection: Option<(String, (i64, i64))>,
    /// The registry's version on which the decision rests.
    pub registry: Option<i64>,
    /// Where the decision's knowledge of the path comes from.
    pub freshness: Freshness,
    /// The candidates among which a remembered decision chose.
    pub choice: Option<Choice>,
}

/// The candidates of an exchange, as of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// From whom to whom.
    pub between: Between,
    /// The number of changes among them; `None` if none was ever recorded.
    pub version: Option<i64>,
}

/// Where knowledge comes from that a guard compares with what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// Read for this very request: a guard that fails refuses it.
    #[default]
    Fresh,
    /// Read for an earlier one, when the path was to end then: a guard that fails sends it back, for there may be another
    /// way by now; and so does an end that has been moved.
    Cached(OffsetDateTime),
}

/// What an entry changes.
#[derive(Debug, Clone)]
pub enum Write {
    /// Nothing besides the ids that it spends.
    Nothing,
    /// A token is issued.
    Token(Box<TokenInsert>),
    /// A confirmation is asked for.
    Ceremony(Box<Asking>),
    /// A credential leaves the vault, or is made use of: nothing but a use.
    Retrieval,
}

/// A token that is issued.
#[derive(Debug, Clone)]
pub struct TokenInsert {
    pub token: TokenRecord,
    /// The delegation that a `may_act` claim leads to.
    pub create: Option<Delegation>,
    /// The confirmations that it uses up.
    pub ceremonies: Vec<Uuid>,
}

/// One use, to be recorded as a whole or not at all.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When the request came in.
    pub now: OffsetDateTime,
    /// What it uses up, whatever becomes of it.
    pub single_use_ids: Vec<SingleUseId>,
    /// What it relies on.
    pub guards: Guards,
    /// What it changes.
    pub write: Write,
    /// What the log will say; nothing of what only spends ids.
    pub event: Option<Event>,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It took effect, or was a refusal to begin with; where its event stands, if it has one.
    Committed(Option<LeafRef>),
    /// A guard failed; that is what the log says now.
    Rejected(Refusal),
    /// It was decided on knowledge that has changed since. Nothing was recorded but what it spent; decide again.
    Retry,
}

/// Why an entry was not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerError {
    /// Too many entries wait already.
    Full,
    /// The database did not answer, or failed. The entry may or may not have been recorded.
    Failed,
}

type PendingEntry = (Entry, oneshot::Sender<Result<CommitOutcome, LedgerError>>);

/// The way into the ledger; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    queue: mpsc::Sender<PendingEntry>,
    timeout: Duration,
}

impl Ledger {
    /// Starts the ledger, with a thread and a connection of its own. It ends, after recording all that waits, when the
    /// last handle is dropped, and then says so.
    pub fn start(
        options: PgConnectOptions,
        settings: &config::Ledger,
        rows: RowMac,
    ) -> Result<(Self, oneshot::Receiver<()>), Fault> {
        let (queue, entries) = mpsc::channel(settings.queue);
        let timeout = settings.timeout;
        // Custom plans are not better here, and planning a statement for each batch costs more than its execution. A plan is
        // kept while the tables grow, so it has to find each row by an index: hash and merge joins read whole tables.
        let options = options.options([
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ]);
        let writer = Writer { options, timeout, most: settings.batch, rows, connection: None };
        // A thread of its own: on a runtime that shares its work among threads, each answer of the database would wake
        // more of them than are needed.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("the ledger")?;
        let (done, ended) = oneshot::channel();
        let run = move || {
            runtime.block_on(writer.run(entries));
            // Nobody may be waiting for the end.
            let _ = done.send(());
        };
        std::thread::Builder::new().name("ledger".into()).spawn(run).context("the ledger")?;
        Ok((Self { queue, timeout }, ended))
    }

    /// Records an entry; returns when it is durable.
    ///
    /// # Errors
    /// [`LedgerError::Full`] at once when the queue is full, [`LedgerError::Failed`] when the database fails or does not
    /// answer in time.
    pub async fn record(&self, entry: Entry) -> Result<CommitOutcome, LedgerError> {
        self.enqueue(entry)?.await
    }

    /// Puts an entry into the queue at once. It is recorded before every entry that comes after it, as long as the future
    /// that is answered is not dropped.
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
    /// The token it issues, if it does.
    fn issue(&self) -> Option<&TokenInsert> {
        match &self.write {
            Write::Token(issue) => Some(issue),
            Write::Nothing | Write::Ceremony(_) | Write::Retrieval => None,
        }
    }

    /// Whether it counts as a use of its delegation, and of every one above.
    fn is_use(&self) -> bool {
        matches!(self.write, Write::Token(_) | Write::Retrieval)
    }
}

impl Writer {
    async fn run(mut self, mut entries: mpsc::Receiver<PendingEntry>) {
        let mut gathered = Vec::with_capacity(self.most);
        while entries.recv_many(&mut gathered, self.most).await > 0 {
            metrics::gauge!("actchain_ledger_queue_depth").set(entries.len() as f64);
            // Whoever gave up waiting gets nothing recorded in its name.
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
                    // A receiver that is gone lost its answer, as when a connection breaks.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(problem) => {
                tracing::error!(error = %problem.fault, entries = entries.len(), "a batch was not recorded");
                self.one_by_one(problem.whose, entries, replies).await;
            }
        }
    }

    /// A batch that failed for what is in it is recorded entry by entry, so that a bad one fails alone. Once the
    /// database itself fails, nothing more is tried: those that wait behind have waited long enough.
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
                // A connection whose transaction failed is not trusted with the next one.
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

/// An error in a batch: of the database, or of the flows that put the batch together.
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

/// SQLSTATE classes 22 (data), 23 (integrity) and 40 (rollback for a conflict) come from what was sent.
fn whose(error: &BatchError) -> FailureScope {
    let cause = match error {
        BatchError::Sql(error) => error,
        // A store that was asked on the way says it as the cause of a fault.
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
