//! Connections in PostgreSQL.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Connection;
use crate::domain::data_key::Sealed;
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

#[derive(FromRow)]
pub(super) struct ConnectionRow {
    id: String,
    provider: String,
    owner_iss: String,
    owner_sub: String,
    delegation_id: Option<String>,
    name: Option<String>,
    version: i64,
    sealed: Option<String>,
    data_key: Option<String>,
    scopes: Option<Vec<String>>,
    expires_at: Option<OffsetDateTime>,
    has_refresh_token: bool,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    obtained_at: OffsetDateTime,
    retry_at: Option<OffsetDateTime>,
    rejected_at: Option<OffsetDateTime>,
    refreshed_at: Option<OffsetDateTime>,
    needs_reconnect_at: Option<OffsetDateTime>,
    disconnected_at: Option<OffsetDateTime>,
}

impl From<ConnectionRow> for Connection {
    fn from(row: ConnectionRow) -> Self {
        Self {
            owner: Principal::new(row.owner_iss, row.owner_sub),
            sealed: row.sealed.zip(row.data_key).map(|(text, key)| Sealed { key, text }),
            scopes: row.scopes.map(|scopes| scopes.into_iter().collect()),
            id: row.id,
            provider: row.provider,
            delegation_id: row.delegation_id,
            name: row.name,
            version: row.version,
            expires_at: row.expires_at,
            has_refresh_token: row.has_refresh_token,
            created_at: row.created_at,
            updated_at: row.updated_at,
            obtained_at: row.obtained_at,
            retry_at: row.retry_at,
            rejected_at: row.rejected_at,
            refreshed_at: row.refreshed_at,
            needs_reconnect_at: row.needs_reconnect_at,
            disconnected_at: row.disconnected_at,
        }
    }
}

pub async fn find(connection: &mut PgConnection, id: &str) -> Result<Option<Connection>, Fault> {
    let row: Option<ConnectionRow> =
        sqlx::query_as("SELECT * FROM connection WHERE id = $1").bind(id).fetch_optional(connection).await?;
    Ok(row.map(Connection::from))
}

/// One connection, locked until the transaction ends.
pub async fn find_for_update(connection: &mut PgConnection, id: &str) -> Result<Option<Connection>, Fault> {
    let row: Option<ConnectionRow> = sqlx::query_as("SELECT * FROM connection WHERE id = $1 FOR UPDATE")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(Connection::from))
}

/// Inserts a connection, or replaces its credential; owner and provider stay. Raises the version and clears all
/// errors of the old credential.
pub async fn put(connection: &mut PgConnection, one: &Connection) -> Result<(), Fault> {
    let scopes: Option<Vec<&String>> = one.scopes.as_ref().map(|scopes| scopes.iter().collect());
    sqlx::query(
        "INSERT INTO connection (id, provider, owner_iss, owner_sub, name, sealed, data_key, scopes, expires_at,
                                 has_refresh_token, created_at, updated_at, obtained_at, retry_at, refreshed_at,
                                 delegation_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
         ON CONFLICT (id) DO UPDATE
         SET version = connection.version + 1, name = excluded.name, sealed = excluded.sealed,
             data_key = excluded.data_key, scopes = excluded.scopes, expires_at = excluded.expires_at,
             has_refresh_token = excluded.has_refresh_token, updated_at = excluded.updated_at,
             obtained_at = excluded.obtained_at, retry_at = excluded.retry_at, rejected_at = NULL,
             refreshed_at = excluded.refreshed_at, needs_reconnect_at = NULL, lease = NULL, lease_until = NULL",
    )
    .bind(&one.id)
    .bind(&one.provider)
    .bind(&one.owner.iss)
    .bind(&one.owner.sub)
    .bind(&one.name)
    .bind(one.sealed.as_ref().map(|sealed| &sealed.text))
    .bind(one.sealed.as_ref().map(|sealed| &sealed.key))
    .bind(scopes)
    .bind(one.expires_at)
    .bind(one.has_refresh_token)
    .bind(one.created_at)
    .bind(one.updated_at)
    .bind(one.obtained_at)
    .bind(one.retry_at)
    .bind(one.refreshed_at)
    .bind(&one.delegation_id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Disconnects a connection. The credential is kept until the provider is notified.
pub async fn mark_disconnected(
    connection: &mut PgConnection,
    id: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE connection SET disconnected_at = $2, updated_at = $2, version = version + 1
         WHERE id = $1 AND disconnected_at IS NULL",
    )
    .bind(id)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Deletes the credential of a disconnected connection.
pub async fn mark_purged(connection: &mut PgConnection, id: &str) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE connection SET sealed = NULL, data_key = NULL
         WHERE id = $1 AND disconnected_at IS NOT NULL AND sealed IS NOT NULL",
    )
    .bind(id)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Number of active connections with a refresh token.
pub async fn count_refreshable(connection: &mut PgConnection) -> Result<i64, Fault> {
    let sql = "SELECT count(*) FROM connection
               WHERE has_refresh_token AND sealed IS NOT NULL AND disconnected_at IS NULL AND needs_reconnect_at IS NULL";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// Deletes all credentials of a provider, its tokens that no connection has, and the authorizations that wait for it: the
/// owners have to connect again. Returns the connections as they were before.
pub async fn delete_credentials(
    connection: &mut PgConnection,
    provider: &str,
    now: OffsetDateTime,
) -> Result<Vec<Connection>, Fault> {
    for sql in [
        "DELETE FROM pending_authorization WHERE provider = $1",
        "DELETE FROM unused_token WHERE provider = $1",
    ] {
        sqlx::query(sql).bind(provider).execute(&mut *connection).await?;
    }
    let rows: Vec<ConnectionRow> = sqlx::query_as(
        "SELECT * FROM connection WHERE provider = $1 AND sealed IS NOT NULL ORDER BY id FOR UPDATE",
    )
    .bind(provider)
    .fetch_all(&mut *connection)
    .await?;
    let ended: Vec<Connection> = rows.into_iter().map(Connection::from).collect();
    sqlx::query(
        "UPDATE connection SET sealed = NULL, data_key = NULL, has_refresh_token = false, updated_at = $2,
                               needs_reconnect_at = coalesce(needs_reconnect_at, $2), version = version + 1,
                               lease = NULL, lease_until = NULL
         WHERE id = ANY ($1)",
    )
    .bind(ended.iter().map(|one| one.id.as_str()).collect::<Vec<_>>())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(ended)
}

/// Some disconnected connections that still have a credential, in random order: an unavailable provider does not
/// delay the others.
pub async fn pending_purge(
    connection: &mut PgConnection,
    most: i64,
    now: OffsetDateTime,
) -> Result<Vec<Connection>, Fault> {
    let rows: Vec<ConnectionRow> = sqlx::query_as(
        "SELECT * FROM connection WHERE disconnected_at IS NOT NULL AND sealed IS NOT NULL
           AND (retry_at IS NULL OR retry_at <= $2)
         ORDER BY random() LIMIT $1",
    )
    .bind(most)
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Connection::from).collect())
}

/// Some connections whose credential is sealed under a retired key; rows that other transactions have locked are
/// skipped.
pub(super) async fn lock_under_retired(
    connection: &mut PgConnection,
    most: i64,
) -> Result<Vec<Connection>, Fault> {
    let rows: Vec<ConnectionRow> = sqlx::query_as(
        "SELECT c.* FROM connection c JOIN data_key k ON k.id = c.data_key
         WHERE c.sealed IS NOT NULL AND k.retired_at IS NOT NULL
         ORDER BY c.id LIMIT $1 FOR UPDATE OF c SKIP LOCKED",
    )
    .bind(most)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Connection::from).collect())
}

/// Notes that the provider no longer accepts the credential, unless the version has changed.
pub async fn mark_needs_reconnect(
    connection: &mut PgConnection,
    id: &str,
    version: i64,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE connection SET needs_reconnect_at = $3, updated_at = $3, version = version + 1, lease = NULL, lease_until = NULL
         WHERE id = $1 AND version = $2 AND needs_reconnect_at IS NULL AND disconnected_at IS NULL",
    )
    .bind(id)
    .bind(version)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Stops requests to the provider for this credential until a time, unless the version has changed.
pub async fn mark_resting(
    connection: &mut PgConnection,
    id: &str,
    version: i64,
    until: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE connection SET retry_at = $3
         WHERE id = $1 AND version = $2 AND (retry_at IS NULL OR retry_at < $3)",
    )
    .bind(id)
    .bind(version)
    .bind(until)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that the provider's API rejected the access token, so that all servers refresh it before the next use. Does
/// nothing if the version has changed or a refresh is in progress. The result of a refresh has to find the version
/// that it started from; otherwise a rotated refresh token would be lost.
pub async fn mark_rejected(
    connection: &mut PgConnection,
    id: &str,
    version: i64,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE connection SET rejected_at = $3, version = version + 1
         WHERE id = $1 AND version = $2 AND rejected_at IS NULL AND (has_refresh_token OR delegation_id IS NOT NULL)
           AND needs_reconnect_at IS NULL AND disconnected_at IS NULL
           AND (lease_until IS NULL OR lease_until < clock_timestamp())",
    )
    .bind(id)
    .bind(version)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The exclusive right of one server to refresh a credential.
#[derive(Debug, Clone, Copy)]
pub struct RefreshLease {
    pub id: Uuid,
    /// Duration by the clock of the database, which all servers share.
    pub seconds: f64,
    /// Start by the clock of the server.
    pub now: OffsetDateTime,
}

/// Gives one server the exclusive right to refresh a credential; not if the version has changed, and not before
/// `retry_at`.
pub async fn mark_leased(
    connection: &mut PgConnection,
    id: &str,
    version: i64,
    lease: RefreshLease,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE connection SET lease = $3, lease_until = clock_timestamp() + make_interval(secs => $4)
         WHERE id = $1 AND version = $2 AND disconnected_at IS NULL AND needs_reconnect_at IS NULL
           AND (lease_until IS NULL OR lease_until < clock_timestamp()) AND (retry_at IS NULL OR retry_at <= $5)",
    )
    .bind(id)
    .bind(version)
    .bind(lease.id)
    .bind(lease.seconds)
    .bind(lease.now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Extends the lease, if this server still has it.
pub async fn mark_extended(
    connection: &mut PgConnection,
    id: &str,
    lease: Uuid,
    seconds: f64,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE connection SET lease_until = clock_timestamp() + make_interval(secs => $3) WHERE id = $1 AND lease = $2",
    )
    .bind(id)
    .bind(lease)
    .bind(seconds)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends the lease early.
pub async fn mark_released(connection: &mut PgConnection, id: &str, lease: Uuid) -> Result<bool, Fault> {
    let done =
        sqlx::query("UPDATE connection SET lease = NULL, lease_until = NULL WHERE id = $1 AND lease = $2")
            .bind(id)
            .bind(lease)
            .execute(connection)
            .await?;
    Ok(done.rows_affected() == 1)
}
