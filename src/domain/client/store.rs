//! Clients in PostgreSQL.

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{AuthMethod, Binding, Client, Grant, Kind, StoredSecret, usable_keys};
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

#[derive(FromRow)]
struct Row {
    client_id: String,
    version: i64,
    kind: Kind,
    name: String,
    auth: AuthMethod,
    secrets: Json<Vec<StoredSecret>>,
    jwks: Option<Value>,
    jwks_uri: Option<String>,
    scopes: Vec<String>,
    audiences: Vec<String>,
    detail_types: Vec<String>,
    grant_types: Vec<String>,
    dpop: Binding,
    dpop_keys: Vec<String>,
    actor_subjects: Json<Vec<Principal>>,
    max_token_ttl: Option<i32>,
    disabled_at: Option<OffsetDateTime>,
}

impl From<Row> for Client {
    fn from(row: Row) -> Self {
        Self {
            keys: row.jwks.as_ref().and_then(usable_keys).unwrap_or_default(),
            client_id: row.client_id,
            version: row.version,
            kind: row.kind,
            name: row.name,
            auth: row.auth,
            secrets: row.secrets.0,
            jwks: row.jwks,
            jwks_uri: row.jwks_uri,
            scopes: row.scopes.into_iter().collect(),
            audiences: row.audiences.into_iter().collect(),
            detail_types: row.detail_types.into_iter().collect(),
            grant_types: row.grant_types.iter().filter_map(|name| Grant::parse(name)).collect(),
            dpop: row.dpop,
            dpop_keys: row.dpop_keys.into_iter().collect(),
            actor_subjects: row.actor_subjects.0,
            max_token_ttl: row.max_token_ttl.and_then(|ttl| u32::try_from(ttl).ok()),
            disabled_at: row.disabled_at,
        }
    }
}

/// One client.
pub async fn find(connection: &mut PgConnection, client_id: &str) -> Result<Option<Client>, Fault> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM client WHERE client_id = $1")
        .bind(client_id)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(Client::from))
}

/// One client, locked until the transaction ends.
pub async fn find_for_change(
    connection: &mut PgConnection,
    client_id: &str,
) -> Result<Option<Client>, Fault> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM client WHERE client_id = $1 FOR UPDATE")
        .bind(client_id)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(Client::from))
}

/// All clients by id.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Client>, Fault> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT * FROM client ORDER BY client_id").fetch_all(connection).await?;
    Ok(rows.into_iter().map(Client::from).collect())
}

/// Inserts a client, or replaces everything but its disablement and raises its version.
pub async fn put(connection: &mut PgConnection, client: &Client, now: OffsetDateTime) -> Result<(), Fault> {
    let texts = |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
    let grants: Vec<&str> = client.grant_types.iter().map(|grant| grant.name()).collect();
    sqlx::query(
        "INSERT INTO client (client_id, kind, name, auth, secrets, jwks, jwks_uri, scopes, audiences, detail_types,
                             grant_types, dpop, dpop_keys, actor_subjects, max_token_ttl, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16)
         ON CONFLICT (client_id) DO UPDATE SET
             version = client.version + 1, kind = excluded.kind, name = excluded.name, auth = excluded.auth,
             secrets = excluded.secrets, jwks = excluded.jwks, jwks_uri = excluded.jwks_uri,
             scopes = excluded.scopes, audiences = excluded.audiences, detail_types = excluded.detail_types,
             grant_types = excluded.grant_types, dpop = excluded.dpop, dpop_keys = excluded.dpop_keys,
             actor_subjects = excluded.actor_subjects, max_token_ttl = excluded.max_token_ttl,
             updated_at = excluded.updated_at",
    )
    .bind(&client.client_id)
    .bind(client.kind)
    .bind(&client.name)
    .bind(client.auth)
    .bind(Json(&client.secrets))
    .bind(&client.jwks)
    .bind(&client.jwks_uri)
    .bind(texts(&client.scopes))
    .bind(texts(&client.audiences))
    .bind(texts(&client.detail_types))
    .bind(grants)
    .bind(client.dpop)
    .bind(texts(&client.dpop_keys))
    .bind(Json(&client.actor_subjects))
    .bind(client.max_token_ttl.and_then(|ttl| i32::try_from(ttl).ok()))
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Disables an enabled client; `false` if it was disabled already.
pub async fn mark_disabled(
    connection: &mut PgConnection,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE client SET disabled_at = $2, updated_at = $2, version = version + 1
         WHERE client_id = $1 AND disabled_at IS NULL",
    )
    .bind(client_id)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Enables a disabled client; `false` if it was enabled already.
pub async fn mark_enabled(
    connection: &mut PgConnection,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE client SET disabled_at = NULL, updated_at = $2, version = version + 1
         WHERE client_id = $1 AND disabled_at IS NOT NULL",
    )
    .bind(client_id)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
