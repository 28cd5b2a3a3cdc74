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

pub async fn list(connection: &mut PgConnection) -> Result<Vec<StoredDataKey>, Fault> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT * FROM data_key ORDER BY created_at, id").fetch_all(connection).await?;
    Ok(rows.into_iter().map(StoredDataKey::from).collect())
}

/// A data key by its id, which a sealed secret names.
pub async fn get(connection: &mut PgConnection, id: &str) -> Result<StoredDataKey, Fault> {
    let row: Option<Row> =
        sqlx::query_as("SELECT * FROM data_key WHERE id = $1").bind(id).fetch_optional(connection).await?;
    row.map(StoredDataKey::from).ok_or_else(|| Fault::new(format!("there is no data key {id}")))
}

/// The active key, which cannot be retired before the transaction ends.
pub async fn lock_active(connection: &mut PgConnection) -> Result<StoredDataKey, Fault> {
    // After a wait for a rotation, the next attempt reads the new key.
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

/// Inserts the new active key and retires the previous one. Waits for transactions that seal under the previous key.
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

/// Replaces a wrapped key by the same key, wrapped again.
pub async fn put_wrapped(connection: &mut PgConnection, id: &str, wrapped: &str) -> Result<(), Fault> {
    sqlx::query("UPDATE data_key SET wrapped = $2 WHERE id = $1")
        .bind(id)
        .bind(wrapped)
        .execute(connection)
        .await?;
    Ok(())
}
