//! Keys that a client publishes at its `jwks_uri`, as a server fetched them last.

use std::collections::BTreeSet;

use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;

use crate::platform::fault::Fault;
use actchain_protocol::jwt_time::SKEW;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedKeys {
    pub jwks_uri: String,
    /// Thumbprints (RFC 7638).
    pub keys: BTreeSet<String>,
    pub fetched_at: OffsetDateTime,
}

/// The set that is stored, with the number of sets that have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKeys {
    pub last: PublishedKeys,
    pub version: i64,
}

impl PublishedKeys {
    /// Whether another set was fetched from another place, or later. A time that is to come is that of a wrong clock.
    pub fn is_followed_by(&self, fetched: &Self, now: OffsetDateTime) -> bool {
        let is_later = self.fetched_at <= fetched.fetched_at || self.fetched_at > now + SKEW;
        self.jwks_uri != fetched.jwks_uri || (self.keys != fetched.keys && is_later)
    }
}

pub async fn find(connection: &mut PgConnection, client_id: &str) -> Result<Option<StoredKeys>, Fault> {
    let row = sqlx::query(
        "SELECT jwks_uri, keys, fetched_at, version FROM client_published_keys WHERE client_id = $1",
    )
    .bind(client_id)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let keys: Vec<String> = row.try_get("keys")?;
    let (jwks_uri, fetched_at) = (row.try_get("jwks_uri")?, row.try_get("fetched_at")?);
    let last = PublishedKeys { jwks_uri, keys: keys.into_iter().collect(), fetched_at };
    Ok(Some(StoredKeys { last, version: row.try_get("version")? }))
}

/// Stores what was fetched last, with the next version. Under the exclusive authority lock, so that two servers do not compare the same state.
pub async fn mark_fetched(
    connection: &mut PgConnection,
    client_id: &str,
    fetched: &PublishedKeys,
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO client_published_keys (client_id, jwks_uri, keys, fetched_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (client_id) DO UPDATE
         SET jwks_uri = excluded.jwks_uri, keys = excluded.keys, fetched_at = excluded.fetched_at,
             version = client_published_keys.version + 1",
    )
    .bind(client_id)
    .bind(&fetched.jwks_uri)
    .bind(fetched.keys.iter().map(String::as_str).collect::<Vec<_>>())
    .bind(fetched.fetched_at)
    .execute(connection)
    .await?;
    Ok(())
}
