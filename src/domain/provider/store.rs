//! Providers in PostgreSQL.

use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{Provider, ProviderSettings};
use crate::domain::data_key::Sealed;
use crate::platform::fault::{Context, Fault};

#[derive(FromRow)]
struct Row {
    id: String,
    version: i64,
    settings: Value,
    sealed: String,
    data_key: String,
    updated_at: OffsetDateTime,
}

impl TryFrom<Row> for Provider {
    type Error = Fault;

    fn try_from(row: Row) -> Result<Self, Fault> {
        let settings: ProviderSettings =
            serde_json::from_value(row.settings).context(&format!("reading provider {}", row.id))?;
        Ok(Self {
            id: row.id,
            version: row.version,
            settings,
            sealed: Sealed { key: row.data_key, text: row.sealed },
            updated_at: row.updated_at,
        })
    }
}

pub async fn find(connection: &mut PgConnection, id: &str) -> Result<Option<Provider>, Fault> {
    let row: Option<Row> =
        sqlx::query_as("SELECT * FROM provider WHERE id = $1").bind(id).fetch_optional(connection).await?;
    row.map(Provider::try_from).transpose()
}

/// The provider of a connection that has a credential. One statement: when the addresses of a provider change, the
/// credentials of its connections are deleted, and none is read with the new addresses.
pub async fn find_of_connection(connection: &mut PgConnection, id: &str) -> Result<Option<Provider>, Fault> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT p.* FROM connection c JOIN provider p ON p.id = c.provider WHERE c.id = $1 AND c.sealed IS NOT NULL",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?;
    row.map(Provider::try_from).transpose()
}

/// The provider of tokens that no connection has. One statement, for the same reason.
pub async fn find_of_unused_token(
    connection: &mut PgConnection,
    id: &str,
) -> Result<Option<Provider>, Fault> {
    let sql = "SELECT p.* FROM unused_token t JOIN provider p ON p.id = t.provider WHERE t.id = $1";
    let row: Option<Row> = sqlx::query_as(sql).bind(id).fetch_optional(connection).await?;
    row.map(Provider::try_from).transpose()
}

pub async fn list(connection: &mut PgConnection) -> Result<Vec<Provider>, Fault> {
    let rows: Vec<Row> = sqlx::query_as("SELECT * FROM provider ORDER BY id").fetch_all(connection).await?;
    rows.into_iter().map(Provider::try_from).collect()
}

/// Inserts a provider, or replaces it and raises its version.
pub async fn put(connection: &mut PgConnection, one: &Provider) -> Result<(), Fault> {
    let settings = serde_json::to_value(&one.settings).context("writing a provider")?;
    sqlx::query(
        "INSERT INTO provider (id, version, settings, sealed, data_key, created_at, updated_at)
         VALUES ($1, 1, $2, $3, $4, $5, $5)
         ON CONFLICT (id) DO UPDATE
         SET version = provider.version + 1, settings = excluded.settings, sealed = excluded.sealed,
             data_key = excluded.data_key, updated_at = excluded.updated_at",
    )
    .bind(&one.id)
    .bind(settings)
    .bind(&one.sealed.text)
    .bind(&one.sealed.key)
    .bind(one.updated_at)
    .execute(connection)
    .await?;
    Ok(())
}
