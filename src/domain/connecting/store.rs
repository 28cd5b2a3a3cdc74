//! Authorizations under way in PostgreSQL.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{Connecting, MOST};
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
    browser: Vec<u8>,
    since: OffsetDateTime,
    sealed: String,
    data_key: String,
    begun_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    tries: i32,
}

impl TryFrom<Row> for Connecting {
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
            browser: digest(row.browser)?,
            since: row.since,
            sealed: Sealed { key: row.data_key, text: row.sealed },
            begun_at: row.begun_at,
            expires_at: row.expires_at,
            tries: row.tries,
        })
    }
}

/// Inserts one. Another one for the same connection ends, and the oldest of the same owner if there are too many.
pub async fn put(connection: &mut PgConnection, one: &Connecting) -> Result<(), Fault> {
    sqlx::query("DELETE FROM connecting WHERE connection = $1")
        .bind(&one.connection)
        .execute(&mut *connection)
        .await?;
    let scopes: Vec<&String> = one.scopes.iter().collect();
    sqlx::query(
        "INSERT INTO connecting (state, connection, provider, owner_iss, owner_sub, name, scopes, browser, since, sealed,
                                 data_key, begun_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(one.state.as_slice())
    .bind(&one.connection)
    .bind(&one.provider)
    .bind(&one.owner.iss)
    .bind(&one.owner.sub)
    .bind(&one.name)
    .bind(scopes)
    .bind(one.browser.as_slice())
    .bind(one.since)
    .bind(&one.sealed.text)
    .bind(&one.sealed.key)
    .bind(one.begun_at)
    .bind(one.expires_at)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM connecting
         WHERE state IN (SELECT state FROM connecting WHERE owner_iss = $1 AND owner_sub = $2
                         ORDER BY begun_at DESC, connection DESC OFFSET $3)",
    )
    .bind(&one.owner.iss)
    .bind(&one.owner.sub)
    .bind(MOST)
    .execute(connection)
    .await?;
    Ok(())
}

/// One that a browser comes back for; nobody else does until the transaction ends.
pub async fn find_for_update(
    connection: &mut PgConnection,
    state: [u8; 32],
    now: OffsetDateTime,
) -> Result<Option<Connecting>, Fault> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT * FROM connecting WHERE state = $1 AND arrived_at IS NULL AND expires_at > $2 FOR UPDATE",
    )
    .bind(state.as_slice())
    .bind(now)
    .fetch_optional(connection)
    .await?;
    row.map(Connecting::try_from).transpose()
}

/// One that another browser has come back for, and that waits for its owner.
pub async fn find_waiting_for_update(
    connection: &mut PgConnection,
    (id, owner): (&str, &Principal),
    now: OffsetDateTime,
) -> Result<Option<Connecting>, Fault> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT * FROM connecting
         WHERE connection = $1 AND owner_iss = $2 AND owner_sub = $3 AND arrived_at IS NOT NULL AND expires_at > $4
         FOR UPDATE",
    )
    .bind(id)
    .bind(&owner.iss)
    .bind(&owner.sub)
    .bind(now)
    .fetch_optional(connection)
    .await?;
    row.map(Connecting::try_from).transpose()
}

/// Ends one: it has been used, or refused.
pub async fn mark_used(connection: &mut PgConnection, state: [u8; 32]) -> Result<bool, Fault> {
    let done = sqlx::query("DELETE FROM connecting WHERE state = $1")
        .bind(state.as_slice())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps what another browser has brought, for its owner to finish.
pub async fn mark_arrived(
    connection: &mut PgConnection,
    (state, sealed): ([u8; 32], &Sealed),
    (now, expires_at): (OffsetDateTime, OffsetDateTime),
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE connecting SET arrived_at = $2, expires_at = $3, sealed = $4, data_key = $5
         WHERE state = $1 AND arrived_at IS NULL",
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

/// Counts a wrong code.
pub async fn mark_tried(connection: &mut PgConnection, state: [u8; 32]) -> Result<bool, Fault> {
    let done = sqlx::query("UPDATE connecting SET tries = tries + 1 WHERE state = $1")
        .bind(state.as_slice())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}
