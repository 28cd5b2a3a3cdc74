//! Authorizations under way in PostgreSQL.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{MOST, PendingAuthorization};
use crate::domain::data_key::Sealed;
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

#[derive(FromRow)]
struct Row {
    state: Vec<u8>,
    connection: String,
    provider: String,
    owner_iss: String,
    owner_sub: String,
    name: Option<String>,
    scopes: Vec<String>,
    browser_binding_hash: Vec<u8>,
    owner_authenticated_at: OffsetDateTime,
    console_session: Option<Uuid>,
    sealed: String,
    data_key: String,
    created_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    attempts: i32,
}

impl TryFrom<Row> for PendingAuthorization {
    type Error = Fault;

    fn try_from(row: Row) -> Result<Self, Fault> {
        let digest = |bytes: Vec<u8>| {
            <[u8; 32]>::try_from(bytes)
                .map_err(|_| Fault::new("a digest of an authorization has not 32 bytes"))
        };
        Ok(Self {
            state: digest(row.state)?,
            connection: row.connection,
            provider: row.provider,
            owner: Principal::new(row.owner_iss, row.owner_sub),
            name: row.name,
            scopes: row.scopes.into_iter().collect(),
            browser_binding_hash: digest(row.browser_binding_hash)?,
            owner_authenticated_at: row.owner_authenticated_at,
            console_session: row.console_session,
            sealed: Sealed { key: row.data_key, text: row.sealed },
            created_at: row.created_at,
            expires_at: row.expires_at,
            attempts: row.attempts,
        })
    }
}

/// Inserts an authorization. Removes another one for the same connection, and the oldest of the same owner above the
/// maximum.
pub async fn put(connection: &mut PgConnection, one: &PendingAuthorization) -> Result<(), Fault> {
    sqlx::query("DELETE FROM pending_authorization WHERE connection = $1")
        .bind(&one.connection)
        .execute(&mut *connection)
        .await?;
    let scopes: Vec<&String> = one.scopes.iter().collect();
    sqlx::query(
        "INSERT INTO pending_authorization (state, connection, provider, owner_iss, owner_sub, name, scopes, browser_binding_hash, owner_authenticated_at, sealed,
                                 data_key, created_at, expires_at, console_session)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(one.state.as_slice())
    .bind(&one.connection)
    .bind(&one.provider)
    .bind(&one.owner.iss)
    .bind(&one.owner.sub)
    .bind(&one.name)
    .bind(scopes)
    .bind(one.browser_binding_hash.as_slice())
    .bind(one.owner_authenticated_at)
    .bind(&one.sealed.text)
    .bind(&one.sealed.key)
    .bind(one.created_at)
    .bind(one.expires_at)
    .bind(one.console_session)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM pending_authorization
         WHERE state IN (SELECT state FROM pending_authorization WHERE owner_iss = $1 AND owner_sub = $2
                         ORDER BY created_at DESC, connection DESC OFFSET $3)",
    )
    .bind(&one.owner.iss)
    .bind(&one.owner.sub)
    .bind(MOST)
    .execute(connection)
    .await?;
    Ok(())
}

/// The authorization of a callback, locked until the transaction ends.
pub async fn find_for_update(
    connection: &mut PgConnection,
    state: [u8; 32],
    now: OffsetDateTime,
) -> Result<Option<PendingAuthorization>, Fault> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT * FROM pending_authorization WHERE state = $1 AND code_received_at IS NULL AND expires_at > $2 FOR UPDATE",
    )
    .bind(state.as_slice())
    .bind(now)
    .fetch_optional(connection)
    .await?;
    row.map(PendingAuthorization::try_from).transpose()
}

/// An authorization with a code that waits for its owner, locked until the transaction ends.
pub async fn find_pending_code_for_update(
    connection: &mut PgConnection,
    id: &str,
    owner: &Principal,
    now: OffsetDateTime,
) -> Result<Option<PendingAuthorization>, Fault> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT * FROM pending_authorization
         WHERE connection = $1 AND owner_iss = $2 AND owner_sub = $3 AND code_received_at IS NOT NULL AND expires_at > $4
         FOR UPDATE",
    )
    .bind(id)
    .bind(&owner.iss)
    .bind(&owner.sub)
    .bind(now)
    .fetch_optional(connection)
    .await?;
    row.map(PendingAuthorization::try_from).transpose()
}

/// An authorization under way, for its owner.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct OpenAuthorization {
    pub connection: String,
    pub provider: String,
    pub name: Option<String>,
    pub scopes: Vec<String>,
    pub expires_at: OffsetDateTime,
    /// Whether another browser came back, so that the owner has to enter its code.
    pub has_code: bool,
}

/// The authorizations under way of an owner, newest first.
pub async fn of_owner(
    connection: &mut PgConnection,
    owner: &Principal,
    now: OffsetDateTime,
) -> Result<Vec<OpenAuthorization>, Fault> {
    let rows = sqlx::query_as(
        "SELECT connection, provider, name, scopes, expires_at, code_received_at IS NOT NULL AS has_code
         FROM pending_authorization WHERE owner_iss = $1 AND owner_sub = $2 AND expires_at > $3
         ORDER BY created_at DESC, connection DESC LIMIT $4",
    );
    Ok(rows.bind(&owner.iss).bind(&owner.sub).bind(now).bind(MOST).fetch_all(connection).await?)
}

/// Removes an authorization that was used or refused.
pub async fn mark_used(connection: &mut PgConnection, state: [u8; 32]) -> Result<bool, Fault> {
    let done = sqlx::query("DELETE FROM pending_authorization WHERE state = $1")
        .bind(state.as_slice())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Stores the code that another browser received, until the owner confirms.
pub async fn mark_code_received(
    connection: &mut PgConnection,
    state: [u8; 32],
    sealed: &Sealed,
    now: OffsetDateTime,
    expires_at: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE pending_authorization SET code_received_at = $2, expires_at = $3, sealed = $4, data_key = $5
         WHERE state = $1 AND code_received_at IS NULL",
    )
    .bind(state.as_slice())
    .bind(now)
    .bind(expires_at)
    .bind(&sealed.text)
    .bind(&sealed.key)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn mark_attempted(connection: &mut PgConnection, state: [u8; 32]) -> Result<bool, Fault> {
    let done = sqlx::query("UPDATE pending_authorization SET attempts = attempts + 1 WHERE state = $1")
        .bind(state.as_slice())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}
