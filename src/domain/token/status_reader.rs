//! Reads the status of tokens for many requests at once: while one read runs, the questions of the next gather. Each
//! answer comes from a read that began after its question.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{FromRow, PgConnection};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{InactiveToken, TokenStatus};
use crate::domain::delegation;
use crate::domain::row_mac::RowMac;
use crate::platform::db;
use crate::platform::fault::{Context, Fault};

/// What a request asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusQuestion {
    /// A client whose version is asked.
    pub client_id: Option<String>,
    pub jti: Option<Uuid>,
}

/// The stored facts that a question is about.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusAnswer {
    pub registry_version: i64,
    /// `None` if no such client is stored, or none was asked about.
    pub client_version: Option<i64>,
    /// `None` if the token is not recorded: it is expired and purged, or was never issued.
    pub token: Option<Arc<TokenStatus>>,
}

type PendingQuestion = (StatusQuestion, oneshot::Sender<Result<StatusAnswer, Fault>>);

/// Questions of one read.
const MOST: usize = 256;
/// Questions that wait. Each comes from a request that waits, too.
const QUEUE: usize = 4_096;

/// A handle of the reader; cheap to clone.
#[derive(Debug, Clone)]
pub struct StatusReader {
    queue: mpsc::Sender<PendingQuestion>,
    patience: Duration,
}

impl StatusReader {
    /// Starts the reader on a thread and a database connection of its own. It ends when the last handle is dropped.
    /// `timeout` limits the opening of a connection, and a third of it limits a read.
    pub fn start(options: PgConnectOptions, timeout: Duration, rows: RowMac) -> Result<Self, Fault> {
        let (queue, questions) = mpsc::channel(QUEUE);
        let patience = timeout / 3;
        let reader = Reader { options, connecting: timeout, patience, rows, connection: None };
        // A thread of its own, as for the ledger: each response of the database wakes this thread alone.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("the reader of statuses")?;
        let run = move || runtime.block_on(reader.run(questions));
        std::thread::Builder::new().name("statuses".into()).spawn(run).context("the reader of statuses")?;
        Ok(Self { queue, patience })
    }

    /// Reads what is stored now.
    ///
    /// # Errors
    /// At once if too many questions wait; if the database fails or does not respond in time.
    pub async fn read(&self, question: StatusQuestion) -> Result<StatusAnswer, Fault> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send((question, reply)).map_err(|refused| match refused {
            TrySendError::Full(_) => Fault::new("too many reads of statuses wait for the database"),
            TrySendError::Closed(_) => Fault::new("the reader of statuses has ended"),
        })?;
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => Err(Fault::new("the database does not answer")),
        }
    }
}

struct Reader {
    options: PgConnectOptions,
    /// Time limit for opening a connection.
    connecting: Duration,
    /// Time limit for a read.
    patience: Duration,
    rows: RowMac,
    connection: Option<PgConnection>,
}

impl Reader {
    async fn run(mut self, mut questions: mpsc::Receiver<PendingQuestion>) {
        let mut gathered = Vec::with_capacity(MOST);
        while questions.recv_many(&mut gathered, MOST).await > 0 {
            self.answer(std::mem::take(&mut gathered)).await;
        }
    }

    /// Questions of a read that failed are asked one by one, so that a damaged row fails alone. Who gave up waiting is
    /// left out.
    async fn answer(&mut self, mut pending: Vec<PendingQuestion>) {
        pending.retain(|(_, reply)| !reply.is_closed());
        if pending.is_empty() {
            return;
        }
        let (questions, replies): (Vec<_>, Vec<_>) = pending.into_iter().unzip();
        match self.attempt(&questions).await {
            Ok(stored) => {
                for (question, reply) in questions.iter().zip(replies) {
                    let _ = reply.send(Ok(stored.of(question)));
                }
            }
            Err(fault) if questions.len() == 1 => {
                replies.into_iter().for_each(|reply| drop(reply.send(Err(Fault::new(fault.to_string())))));
            }
            Err(_) => {
                for (question, reply) in questions.into_iter().zip(replies) {
                    if !reply.is_closed() {
                        let stored = self.attempt(std::slice::from_ref(&question)).await;
                        let _ = reply.send(stored.map(|stored| stored.of(&question)));
                    }
                }
            }
        }
    }

    /// A connection whose read failed is not used again. A new one may take longer than its questions wait, and is there
    /// for the next.
    async fn attempt(&mut self, questions: &[StatusQuestion]) -> Result<StoredStatuses, Fault> {
        let mut connection = match self.connection.take() {
            Some(open) => open,
            None => db::connect(self.options.clone(), self.connecting).await?,
        };
        let reading = read(&self.rows, &mut connection, questions);
        let stored = tokio::time::timeout(self.patience, reading).await;
        let stored = stored.map_err(|_| Fault::new("the database does not answer"))??;
        self.connection = Some(connection);
        Ok(stored)
    }
}

/// What is stored of several questions.
#[derive(Default)]
struct StoredStatuses {
    registry_version: i64,
    clients: HashMap<String, i64>,
    tokens: HashMap<Uuid, Arc<TokenStatus>>,
}

impl StoredStatuses {
    fn of(&self, question: &StatusQuestion) -> StatusAnswer {
        let client = question.client_id.as_ref();
        StatusAnswer {
            registry_version: self.registry_version,
            client_version: client.and_then(|id| self.clients.get(id)).copied(),
            token: question.jti.and_then(|jti| self.tokens.get(&jti)).cloned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
enum StoredKind {
    Registry,
    Client,
    Token,
}

#[derive(FromRow)]
struct StoredRow {
    kind: StoredKind,
    /// Of a client, or of the delegation of a token.
    id: Option<String>,
    jti: Option<Uuid>,
    version: Option<i64>,
    problem: Option<InactiveToken>,
}

async fn read(
    rows: &RowMac,
    connection: &mut PgConnection,
    questions: &[StatusQuestion],
) -> Result<StoredStatuses, Fault> {
    let clients: BTreeSet<&str> = questions.iter().filter_map(|one| one.client_id.as_deref()).collect();
    let jtis: BTreeSet<Uuid> = questions.iter().filter_map(|one| one.jti).collect();
    let found: Vec<StoredRow> = sqlx::query_as(
        "SELECT 'registry' AS kind, NULL::text AS id, NULL::uuid AS jti, version, NULL::text AS problem FROM registry
         UNION ALL SELECT 'client', client_id, NULL, version, NULL FROM client WHERE client_id = ANY ($1)
         UNION ALL SELECT 'token', delegation_id, jti, NULL, problem FROM token_status WHERE jti = ANY ($2)",
    )
    .bind(Vec::from_iter(clients))
    .bind(Vec::from_iter(jtis))
    .fetch_all(&mut *connection)
    .await?;
    let mut stored = StoredStatuses::default();
    let mut tokens = Vec::new();
    for row in found {
        match (row.kind, row.version) {
            (StoredKind::Registry, Some(version)) => stored.registry_version = version,
            (StoredKind::Client, Some(version)) => stored.clients.extend(row.id.zip(Some(version))),
            (StoredKind::Token, _) => tokens.extend(row.jti.map(|jti| (jti, row.problem, row.id))),
            (StoredKind::Registry | StoredKind::Client, None) => {
                return Err(Fault::new("a stored version is missing"));
            }
        }
    }
    let ids: BTreeSet<&String> = tokens.iter().filter_map(|(_, _, id)| id.as_ref()).collect();
    let ids: Vec<String> = ids.into_iter().cloned().collect();
    let mut paths = HashMap::new();
    if !ids.is_empty() {
        let read = delegation::store::all_paths(rows, connection, &ids).await?;
        paths.extend(read.into_iter().filter_map(|path| Some((path.leaf()?.id.clone(), path))));
    }
    for (jti, problem, id) in tokens {
        let path = id.as_ref().and_then(|id| paths.get(id)).cloned();
        // A token whose delegation is deleted is not valid.
        if id.is_none() || path.is_some() {
            stored.tokens.insert(jti, Arc::new(TokenStatus { problem, path }));
        }
    }
    Ok(stored)
}
