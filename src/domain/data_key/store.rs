//! Data keys in PostgreSQL.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::StoredDataKey;
use crate::platform::fault::Fault;

#[derive(FromRow)]
struct Row {
    id: String,
    wrapped: String,
    created_at: OffsetDateTime,
    retired_at: Option<OffsetDateTime>,
}

impl From<Row> for StoredDataKey {
    fn from(row: Row) -> Self {
        Self { id: row.id, wrapped: row.wrapped, created_at: row.created_at, retired_at: row.retired_at }
    }
}

/// All of them, oldest first.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<StoredDataKey>, Fault> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT * FROM data_key ORDER BY created_at, id").fetch_all(connection).await?;
    Ok(rows.into_iter().map(StoredDataKey::from).collect())
}

/// One that something is sealed under.
pub async fn get(connection: &mut PgConnection, id: &str) -> Result<StoredDataKey, Fault> {
    let row: Option<Row> =
        sqlx::query_as("SELECT * FROM data_key WHERE id = $1").bind(id).fetch_optional(connection).await?;
    row.map(StoredDataKey::from).ok_or_else(|| Fault::new(format!("there is no data key {id}")))
}

/// The one that seals; it is not retired before the transaction ends.
pub async fn lock_active(connection: &mut PgConnection) -> Result<StoredDataKey, Fault> {
    // Whoever waited here for a rotation finds the new one when it looks again.
    for _ in 0..3 {
        let row: Option<Row> = sqlx::query_as("SELECT * FROM data_key WHERE retired_at IS NULL FOR SHARE")
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(row) = row {
            return Ok(row.into());
        }
    }
    Err(Fault::new("no data key is active"))
}

/// Adds one that seals from now on; the one before only opens. Waits for whoever seals under that.
pub async fn put_active(connection: &mut PgConnection, key: &StoredDataKey) -> Result<(), Fault> {
    sqlx::query("UPDATE data_key SET retired_at = $1 WHERE retired_at IS NULL")
        .bind(key.created_at)
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO data_key (id, wrapped, created_at) VALUES ($1, $2, $3)")
        .bind(&key.id)
        .bind(&key.wrapped)
        .bind(key.created_at)
        .execute(connection)
        .await?;
    Ok(())
}

/// Wraps one anew.
pub async fn put_wrapped(connection: &mut PgConnection, id: &str, wrapped: &str) -> Result<(), Fault> {
    sqlx::query("UPDATE data_key SET wrapped = $2 WHERE id = $1")
        .bind(id)
        .bind(wrapped)
        .execute(connection)
        .await?;
    Ok(())
}
