//! All secrets that are sealed under retired data keys, in any table.

use serde_json::Value;
use sqlx::{FromRow, PgConnection};

use super::{store, unused};
use crate::domain::data_key::Sealed;
use crate::domain::provider::{self, ProviderSettings};
use crate::domain::registrar;
use crate::domain::sink;
use crate::platform::fault::{Context, Fault};

/// The row that has a sealed secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedColumn {
    Connection(String),
    Provider(String),
    Sink(String),
    Registrar(String),
    Registration(String),
    UnusedToken(String),
}

#[derive(Debug, Clone)]
pub struct SealedRow {
    pub place: SealedColumn,
    /// The additional authenticated data of the secret.
    pub row: String,
    pub sealed: Sealed,
}

#[derive(FromRow)]
struct ProviderRow {
    id: String,
    settings: Value,
    sealed: String,
    data_key: String,
}

/// The number of secrets under retired keys.
pub async fn left(connection: &mut PgConnection) -> Result<i64, Fault> {
    let left = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM connection c JOIN data_key k ON k.id = c.data_key
                 WHERE c.sealed IS NOT NULL AND k.retired_at IS NOT NULL)
              + (SELECT count(*) FROM provider p JOIN data_key k ON k.id = p.data_key WHERE k.retired_at IS NOT NULL)
              + (SELECT count(*) FROM audit_sink s JOIN data_key k ON k.id = s.data_key WHERE k.retired_at IS NOT NULL)
              + (SELECT count(*) FROM registrar r JOIN data_key k ON k.id = r.data_key WHERE k.retired_at IS NOT NULL)
              + (SELECT count(*) FROM agent_registration r JOIN data_key k ON k.id = r.data_key
                 WHERE r.sealed IS NOT NULL AND k.retired_at IS NOT NULL)
              + (SELECT count(*) FROM unused_token t JOIN data_key k ON k.id = t.data_key WHERE k.retired_at IS NOT NULL)",
    );
    Ok(left.fetch_one(connection).await?)
}

/// Some of the secrets, locked until the transaction ends; rows that other transactions have locked are skipped.
pub async fn lock_some(connection: &mut PgConnection, most: i64) -> Result<Vec<SealedRow>, Fault> {
    let providers: Vec<ProviderRow> = sqlx::query_as(
        "SELECT p.id, p.settings, p.sealed, p.data_key FROM provider p JOIN data_key k ON k.id = p.data_key
         WHERE k.retired_at IS NOT NULL ORDER BY p.id LIMIT $1 FOR UPDATE OF p SKIP LOCKED",
    )
    .bind(most)
    .fetch_all(&mut *connection)
    .await?;
    let mut found = Vec::new();
    for one in providers {
        let settings: ProviderSettings =
            serde_json::from_value(one.settings).context(&format!("reading provider {}", one.id))?;
        let row = provider::aad(&one.id, &settings)?;
        let sealed = Sealed { key: one.data_key, text: one.sealed };
        found.push(SealedRow { place: SealedColumn::Provider(one.id), row, sealed });
    }
    let sinks: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT s.id, s.sealed, s.data_key FROM audit_sink s JOIN data_key k ON k.id = s.data_key
         WHERE k.retired_at IS NOT NULL ORDER BY s.id LIMIT $1 FOR UPDATE OF s SKIP LOCKED",
    )
    .bind(most)
    .fetch_all(&mut *connection)
    .await?;
    found.extend(sinks.into_iter().map(|(id, text, key)| SealedRow {
        row: sink::aad(&id),
        place: SealedColumn::Sink(id),
        sealed: Sealed { key, text },
    }));
    for one in registrar::store::lock_under_retired(connection, most).await? {
        let row = registrar::aad(&one.id, &one.settings)?;
        found.push(SealedRow { place: SealedColumn::Registrar(one.id), row, sealed: one.sealed });
    }
    let registrations = registrar::store::lock_registrations_under_retired(connection, most).await?;
    found.extend(registrations.into_iter().map(|(id, sealed)| SealedRow {
        row: registrar::registration_aad(&id),
        place: SealedColumn::Registration(id),
        sealed,
    }));
    found.extend(unused::lock_under_retired(connection, most).await?.into_iter().map(|one| SealedRow {
        row: unused::aad(&one.id, &one.provider),
        place: SealedColumn::UnusedToken(one.id),
        sealed: one.sealed,
    }));
    if found.is_empty() {
        let kept = store::lock_under_retired(connection, most).await?;
        found.extend(kept.into_iter().filter_map(|one| {
            let row = one.aad();
            Some(SealedRow { sealed: one.sealed?, row, place: SealedColumn::Connection(one.id) })
        }));
    }
    Ok(found)
}

/// Replaces the secret of a row by the same secret under another key.
pub async fn put(connection: &mut PgConnection, place: &SealedColumn, sealed: &Sealed) -> Result<(), Fault> {
    let (statement, id) = match place {
        SealedColumn::Connection(id) => {
            ("UPDATE connection SET sealed = $2, data_key = $3 WHERE id = $1", id)
        }
        SealedColumn::Provider(id) => ("UPDATE provider SET sealed = $2, data_key = $3 WHERE id = $1", id),
        SealedColumn::Sink(id) => ("UPDATE audit_sink SET sealed = $2, data_key = $3 WHERE id = $1", id),
        SealedColumn::Registrar(id) => ("UPDATE registrar SET sealed = $2, data_key = $3 WHERE id = $1", id),
        SealedColumn::Registration(id) => {
            ("UPDATE agent_registration SET sealed = $2, data_key = $3 WHERE id = $1", id)
        }
        SealedColumn::UnusedToken(id) => {
            ("UPDATE unused_token SET sealed = $2, data_key = $3 WHERE id = $1", id)
        }
    };
    sqlx::query(statement).bind(id).bind(&sealed.text).bind(&sealed.key).execute(connection).await?;
    Ok(())
}
