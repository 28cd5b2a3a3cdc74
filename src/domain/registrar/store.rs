//! Registrars and their outbox in PostgreSQL.

use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{AgentRegistration, Registrar, RegistrarSettings};
use crate::domain::data_key::Sealed;
use crate::platform::fault::{Context, Fault};

#[derive(FromRow)]
struct Row {
    id: String,
    settings: Value,
    sealed: String,
    data_key: String,
    updated_at: OffsetDateTime,
}

impl TryFrom<Row> for Registrar {
    type Error = Fault;

    fn try_from(row: Row) -> Result<Self, Fault> {
        let settings: RegistrarSettings =
            serde_json::from_value(row.settings).context(&format!("reading registrar {}", row.id))?;
        Ok(Self {
            id: row.id,
            settings,
            sealed: Sealed { key: row.data_key, text: row.sealed },
            updated_at: row.updated_at,
        })
    }
}

pub async fn find(connection: &mut PgConnection, id: &str) -> Result<Option<Registrar>, Fault> {
    let row: Option<Row> =
        sqlx::query_as("SELECT * FROM registrar WHERE id = $1").bind(id).fetch_optional(connection).await?;
    row.map(Registrar::try_from).transpose()
}

pub async fn list(connection: &mut PgConnection) -> Result<Vec<Registrar>, Fault> {
    let rows: Vec<Row> = sqlx::query_as("SELECT * FROM registrar ORDER BY id").fetch_all(connection).await?;
    rows.into_iter().map(Registrar::try_from).collect()
}

/// Inserts a registrar, or replaces its settings; failed requests are sent again at once.
pub async fn put(connection: &mut PgConnection, one: &Registrar) -> Result<(), Fault> {
    let settings = serde_json::to_value(&one.settings).context("writing a registrar")?;
    sqlx::query(
        "INSERT INTO registrar (id, version, settings, sealed, data_key, created_at, updated_at)
         VALUES ($1, 1, $2, $3, $4, $5, $5)
         ON CONFLICT (id) DO UPDATE
         SET version = registrar.version + 1, settings = excluded.settings, sealed = excluded.sealed,
             data_key = excluded.data_key, updated_at = excluded.updated_at",
    )
    .bind(&one.id)
    .bind(settings)
    .bind(&one.sealed.text)
    .bind(&one.sealed.key)
    .bind(one.updated_at)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE agent_registration SET next_attempt_at = NULL WHERE registrar = $1 AND closed_at IS NULL",
    )
    .bind(&one.id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Requests the registration of a new ephemeral agent at every enabled registrar.
pub async fn enqueue(
    connection: &mut PgConnection,
    agent: &str,
    delegation_id: &str,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO agent_registration (id, registrar, agent, delegation_id, created_at)
         SELECT r.id || '/' || $1, r.id, $1, $2, $3 FROM registrar r WHERE r.settings ->> 'enabled' = 'true'",
    )
    .bind(agent)
    .bind(delegation_id)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(FromRow)]
struct RegistrationRow {
    id: String,
    agent: String,
    delegation_id: String,
    is_repeated: bool,
    registered_as: Option<String>,
    sealed: Option<String>,
    data_key: Option<String>,
    has_ended: bool,
    attempts: i32,
}

impl From<RegistrationRow> for AgentRegistration {
    fn from(row: RegistrationRow) -> Self {
        Self {
            sealed: row.sealed.zip(row.data_key).map(|(text, key)| Sealed { key, text }),
            id: row.id,
            agent: row.agent,
            delegation_id: row.delegation_id,
            is_repeated: row.is_repeated,
            registered_as: row.registered_as,
            has_ended: row.has_ended,
            attempts: u32::try_from(row.attempts).unwrap_or_default(),
        }
    }
}

/// The exclusive right of one server to send a request.
#[derive(Debug, Clone, Copy)]
pub struct RegistrationLease {
    pub id: Uuid,
    /// Duration by the clock of the database, which all servers share.
    pub seconds: f64,
    pub now: OffsetDateTime,
}

/// Leases the oldest registration for which something is to be done, and notes that a request to register will be sent.
pub async fn mark_leased(
    connection: &mut PgConnection,
    registrar: &str,
    lease: RegistrationLease,
) -> Result<Option<AgentRegistration>, Fault> {
    let row: Option<RegistrationRow> = sqlx::query_as(
        "WITH due AS (
             SELECT r.id, r.sent_at IS NOT NULL AS is_repeated, k.deactivated_at IS NOT NULL AS has_ended
             FROM agent_registration r
             JOIN client k ON k.client_id = r.agent
             JOIN delegation d ON d.id = r.delegation_id
             WHERE r.registrar = $1 AND r.closed_at IS NULL
               AND (r.next_attempt_at IS NULL OR r.next_attempt_at <= $2)
               AND (r.lease_until IS NULL OR r.lease_until < clock_timestamp())
               AND (k.deactivated_at IS NOT NULL OR (r.registered_at IS NULL AND d.activated_at IS NOT NULL))
             ORDER BY r.created_at, r.id LIMIT 1 FOR UPDATE OF r SKIP LOCKED
         )
         UPDATE agent_registration r
         SET lease = $3, lease_until = clock_timestamp() + make_interval(secs => $4),
             sent_at = CASE WHEN r.registered_at IS NULL AND NOT due.has_ended THEN coalesce(r.sent_at, $2) ELSE r.sent_at END
         FROM due WHERE r.id = due.id
         RETURNING r.id, r.agent, r.delegation_id, due.is_repeated, r.registered_as, r.sealed, r.data_key, due.has_ended,
                   r.attempts",
    )
    .bind(registrar)
    .bind(lease.now)
    .bind(lease.id)
    .bind(lease.seconds)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(AgentRegistration::from))
}

/// Notes that an agent is registered; `false` if another server has the lease.
pub async fn mark_registered(
    connection: &mut PgConnection,
    one: &AgentRegistration,
    lease: RegistrationLease,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE agent_registration
         SET registered_at = $3, registered_as = $4, sealed = $5, data_key = $6, sent_at = NULL, attempts = 0,
             next_attempt_at = NULL, last_error = NULL, lease = NULL, lease_until = NULL
         WHERE id = $1 AND lease = $2 AND registered_at IS NULL",
    )
    .bind(&one.id)
    .bind(lease.id)
    .bind(lease.now)
    .bind(&one.registered_as)
    .bind(one.sealed.as_ref().map(|sealed| &sealed.text))
    .bind(one.sealed.as_ref().map(|sealed| &sealed.key))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that nothing is left to do, and deletes the access token; `false` if another server has the lease.
pub async fn mark_closed(
    connection: &mut PgConnection,
    id: &str,
    lease: RegistrationLease,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE agent_registration
         SET closed_at = $3, sealed = NULL, data_key = NULL, last_error = NULL, lease = NULL, lease_until = NULL
         WHERE id = $1 AND lease = $2 AND closed_at IS NULL",
    )
    .bind(id)
    .bind(lease.id)
    .bind(lease.now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether the registrar has answered a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedRequest {
    /// It has refused, so nothing was registered.
    Refused,
    /// The answer is not known.
    OutcomeUnknown,
}

/// What is noted about a request that failed.
#[derive(Debug, Clone, Copy)]
pub struct FailedAttempt<'a> {
    pub request: FailedRequest,
    pub error: &'a str,
    pub next_attempt_at: OffsetDateTime,
}

/// Counts a failed attempt; `false` if another server has the lease.
pub async fn mark_failed(
    connection: &mut PgConnection,
    one: &AgentRegistration,
    lease: RegistrationLease,
    failed: FailedAttempt<'_>,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE agent_registration
         SET attempts = attempts + 1, next_attempt_at = $3, last_error = $4, lease = NULL, lease_until = NULL,
             sent_at = CASE WHEN $5 THEN NULL ELSE sent_at END
         WHERE id = $1 AND lease = $2",
    )
    .bind(&one.id)
    .bind(lease.id)
    .bind(failed.next_attempt_at)
    .bind(failed.error)
    // An earlier request may still have been lost.
    .bind(failed.request == FailedRequest::Refused && !one.is_repeated)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What is left to do at a registrar.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Backlog {
    pub registrar: String,
    /// Agents that are to be registered or deleted.
    pub waiting: i64,
    /// When the oldest failing one was created.
    pub failing_since: Option<OffsetDateTime>,
    pub last_error: Option<String>,
}

/// The backlog of each registrar.
pub async fn backlogs(connection: &mut PgConnection) -> Result<Vec<Backlog>, Fault> {
    Ok(sqlx::query_as(
        "SELECT g.id AS registrar, count(r.id) AS waiting, min(r.created_at) FILTER (WHERE r.attempts > 0) AS failing_since,
                max(r.last_error) FILTER (WHERE r.attempts > 0) AS last_error
         FROM registrar g LEFT JOIN (
             SELECT r.id, r.registrar, r.created_at, r.attempts, r.last_error FROM agent_registration r
             JOIN client k ON k.client_id = r.agent
             JOIN delegation d ON d.id = r.delegation_id
             WHERE r.closed_at IS NULL
               AND (k.deactivated_at IS NOT NULL OR (r.registered_at IS NULL AND d.activated_at IS NOT NULL))
         ) r ON r.registrar = g.id
         GROUP BY g.id ORDER BY g.id",
    )
    .fetch_all(connection)
    .await?)
}

#[derive(FromRow)]
struct SealedRegistrationRow {
    id: String,
    sealed: String,
    data_key: String,
}

/// Some registrars whose secret is sealed under a retired key, locked until the transaction ends.
pub async fn lock_under_retired(connection: &mut PgConnection, most: i64) -> Result<Vec<Registrar>, Fault> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT r.* FROM registrar r JOIN data_key k ON k.id = r.data_key
         WHERE k.retired_at IS NOT NULL ORDER BY r.id LIMIT $1 FOR UPDATE OF r SKIP LOCKED",
    )
    .bind(most)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Registrar::try_from).collect()
}

/// Some registrations whose access token is sealed under a retired key, by id, locked until the transaction ends.
pub async fn lock_registrations_under_retired(
    connection: &mut PgConnection,
    most: i64,
) -> Result<Vec<(String, Sealed)>, Fault> {
    let rows: Vec<SealedRegistrationRow> = sqlx::query_as(
        "SELECT r.id, r.sealed, r.data_key FROM agent_registration r JOIN data_key k ON k.id = r.data_key
         WHERE r.sealed IS NOT NULL AND k.retired_at IS NOT NULL ORDER BY r.id LIMIT $1 FOR UPDATE OF r SKIP LOCKED",
    )
    .bind(most)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, Sealed { key: row.data_key, text: row.sealed })).collect())
}
