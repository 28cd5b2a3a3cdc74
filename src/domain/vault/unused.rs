//! Tokens of providers that no connection has, until the providers have revoked them.

use serde_json::json;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use crate::domain::data_key::Sealed;
use crate::platform::fault::Fault;

#[derive(Debug, Clone)]
pub struct UnusedToken {
    pub id: String,
    pub provider: String,
    pub sealed: Sealed,
    pub created_at: OffsetDateTime,
}

/// The additional authenticated data of the tokens.
pub fn aad(id: &str, provider: &str) -> String {
    json!(["unused_token", id, provider]).to_string()
}

#[derive(FromRow)]
struct Row {
    id: String,
    provider: String,
    sealed: String,
    data_key: String,
    created_at: OffsetDateTime,
}

impl From<Row> for UnusedToken {
    fn from(row: Row) -> Self {
        let Row { id, provider, sealed, data_key, created_at } = row;
        Self { id, provider, sealed: Sealed { key: data_key, text: sealed }, created_at }
    }
}

/// Stores tokens; `retry_at` is when a job revokes them.
pub async fn insert(
    connection: &mut PgConnection,
    one: &UnusedToken,
    retry_at: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO unused_token (id, provider, sealed, data_key, created_at, retry_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&one.id)
    .bind(&one.provider)
    .bind(&one.sealed.text)
    .bind(&one.sealed.key)
    .bind(one.created_at)
    .bind(retry_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Some tokens that are to be revoked now, in random order: an unavailable provider does not delay the others.
pub async fn due(
    connection: &mut PgConnection,
    most: i64,
    now: OffsetDateTime,
) -> Result<Vec<UnusedToken>, Fault> {
    let sql = "SELECT id, provider, sealed, data_key, created_at FROM unused_token WHERE retry_at <= $2
               ORDER BY random() LIMIT $1";
    let rows: Vec<Row> = sqlx::query_as(sql).bind(most).bind(now).fetch_all(connection).await?;
    Ok(rows.into_iter().map(UnusedToken::from).collect())
}

/// Sends no request for these tokens before a time.
pub async fn mark_unused_resting(
    connection: &mut PgConnection,
    id: &str,
    until: OffsetDateTime,
) -> Result<(), Fault> {
    let sql = "UPDATE unused_token SET retry_at = greatest(retry_at, $2) WHERE id = $1";
    sqlx::query(sql).bind(id).bind(until).execute(connection).await?;
    Ok(())
}

pub async fn delete_unused(connection: &mut PgConnection, id: &str) -> Result<(), Fault> {
    sqlx::query("DELETE FROM unused_token WHERE id = $1").bind(id).execute(connection).await?;
    Ok(())
}

/// Some tokens that are sealed under a retired key; rows that other transactions have locked are skipped.
pub(super) async fn lock_under_retired(
    connection: &mut PgConnection,
    most: i64,
) -> Result<Vec<UnusedToken>, Fault> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT t.id, t.provider, t.sealed, t.data_key, t.created_at
         FROM unused_token t JOIN data_key k ON k.id = t.data_key
         WHERE k.retired_at IS NOT NULL ORDER BY t.id LIMIT $1 FOR UPDATE OF t SKIP LOCKED",
    )
    .bind(most)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(UnusedToken::from).collect())
}
