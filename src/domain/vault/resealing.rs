//! What is sealed under data keys that are retired, wherever it stands.

use serde_json::Value;
use sqlx::{FromRow, PgConnection};

use super::store;
use crate::domain::data_key::Sealed;
use crate::domain::provider::{self, Settings};
use crate::domain::sink;
use crate::platform::fault::{During, Fault};

/// Where a secret stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A connection, by its id.
    Connection(String),
    /// A provider, by its name.
    Provider(String),
    /// A sink of the audit log, by its name.
    Sink(String),
}

/// A secret that is sealed under a retired key.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Where.
    pub place: Place,
    /// What it is sealed for.
    pub row: String,
    /// It.
    pub sealed: Sealed,
}

#[derive(FromRow)]
struct ProviderRow {
    id: String,
    settings: Value,
    sealed: String,
    data_key: String,
}

/// How many there are.
pub async fn left(connection: &mut PgConnection) -> Result<i64, Fault> {
    let left = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM connection c JOIN data_key k ON k.id = c.data_key
                 WHERE c.sealed IS NOT NULL AND k.retired_at IS NOT NULL)
              + (SELECT count(*) FROM provider p JOIN data_key k ON k.id = p.data_key WHERE k.retired_at IS NOT NULL)
              + (SELECT count(*) FROM audit_sink s JOIN data_key k ON k.id = s.data_key WHERE k.retired_at IS NOT NULL)",
    );
    Ok(left.fetch_one(connection).await?)
}

/// Some of them, which nobody else changes until the transaction ends; those that somebody is changing are passed over.
pub async fn lock_some(connection: &mut PgConnection, most: i64) -> Result<Vec<Kept>, Fault> {
    let providers: Vec<ProviderRow> = sqlx::query_as(
        "SELECT p.id, p.settings, p.sealed, p.data_key FROM provider p JOIN data_key k ON k.id = p.data_key
         WHERE k.retired_at IS NOT NULL ORDER BY p.id LIMIT $1 FOR UPDATE OF p SKIP LOCKED",
    )
    .bind(most)
    .fetch_all(&mut *connection)
    .await?;
    let mut found = Vec::new();
    for one in providers {
        let settings: Settings =
            serde_json::from_value(one.settings).during(&format!("reading provider {}", one.id))?;
        let row = provider::row(&one.id, &settings)?;
        let sealed = Sealed { key: one.data_key, text: one.sealed };
        found.push(Kept { place: Place::Provider(one.id), row, sealed });
    }
    let sinks: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT s.id, s.sealed, s.data_key FROM audit_sink s JOIN data_key k ON k.id = s.data_key
         WHERE k.retired_at IS NOT NULL ORDER BY s.id LIMIT $1 FOR UPDATE OF s SKIP LOCKED",
    )
    .bind(most)
    .fetch_all(&mut *connection)
    .await?;
    found.extend(sinks.into_iter().map(|(id, text, key)| Kept {
        row: sink::row(&id),
        place: Place::Sink(id),
        sealed: Sealed { key, text },
    }));
    if found.is_empty() {
        let kept = store::lock_under_retired(connection, most).await?;
        found.extend(kept.into_iter().filter_map(|one| {
            let row = one.row();
            Some(Kept { sealed: one.sealed?, row, place: Place::Connection(one.id) })
        }));
    }
    Ok(found)
}

/// Puts the same secret in its place under another key.
pub async fn put(connection: &mut PgConnection, place: &Place, sealed: &Sealed) -> Result<(), Fault> {
    let (statement, id) = match place {
        Place::Connection(id) => ("UPDATE connection SET sealed = $2, data_key = $3 WHERE id = $1", id),
        Place::Provider(id) => ("UPDATE provider SET sealed = $2, data_key = $3 WHERE id = $1", id),
        Place::Sink(id) => ("UPDATE audit_sink SET sealed = $2, data_key = $3 WHERE id = $1", id),
    };
    sqlx::query(statement).bind(id).bind(&sealed.text).bind(&sealed.key).execute(connection).await?;
    Ok(())
}
