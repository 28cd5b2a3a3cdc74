//! Signing keys in PostgreSQL.

use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{KeyPurpose, StoredKey};
use crate::platform::fault::Fault;
use actchain_protocol::jose::SigningAlg;

#[derive(FromRow)]
struct Row {
    kid: String,
    purpose: KeyPurpose,
    alg: String,
    public_jwk: Value,
    sealed: String,
    created_at: OffsetDateTime,
    activated_at: Option<OffsetDateTime>,
    retired_at: Option<OffsetDateTime>,
    removed_at: Option<OffsetDateTime>,
}

/// All keys, oldest first.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<StoredKey>, Fault> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT * FROM signing_key ORDER BY created_at, kid").fetch_all(connection).await?;
    rows.into_iter()
        .map(|row| {
            let alg =
                SigningAlg::parse(&row.alg).ok_or_else(|| Fault::new("a key of an unknown algorithm"))?;
            Ok(StoredKey {
                kid: row.kid,
                purpose: row.purpose,
                alg,
                public_jwk: row.public_jwk,
                sealed: row.sealed,
                created_at: row.created_at,
                activated_at: row.activated_at,
                retired_at: row.retired_at,
                removed_at: row.removed_at,
            })
        })
        .collect()
}

pub async fn find_secret(connection: &mut PgConnection, name: &str) -> Result<Option<String>, Fault> {
    let found = sqlx::query_scalar("SELECT sealed FROM server_secret WHERE name = $1").bind(name);
    Ok(found.fetch_optional(connection).await?)
}

/// Stores a secret, or replaces it by the same secret sealed again.
pub async fn put_secret(connection: &mut PgConnection, name: &str, sealed: &str) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO server_secret (name, sealed) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed",
    )
    .bind(name)
    .bind(sealed)
    .execute(connection)
    .await?;
    Ok(())
}

/// Replaces a private key by the same key sealed again.
pub async fn put_sealed(connection: &mut PgConnection, kid: &str, sealed: &str) -> Result<(), Fault> {
    sqlx::query("UPDATE signing_key SET sealed = $2 WHERE kid = $1")
        .bind(kid)
        .bind(sealed)
        .execute(connection)
        .await?;
    Ok(())
}

/// Locks out other changes of keys until the transaction ends; readers continue.
pub async fn lock(connection: &mut PgConnection) -> Result<(), Fault> {
    sqlx::query("LOCK TABLE signing_key IN SHARE ROW EXCLUSIVE MODE").execute(connection).await?;
    Ok(())
}

pub async fn insert(connection: &mut PgConnection, key: &StoredKey) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO signing_key (kid, purpose, alg, public_jwk, sealed, created_at, activated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&key.kid)
    .bind(key.purpose)
    .bind(key.alg.name())
    .bind(&key.public_jwk)
    .bind(&key.sealed)
    .bind(key.created_at)
    .bind(key.activated_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Activates the next key.
pub async fn mark_active(
    connection: &mut PgConnection,
    kid: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done =
        sqlx::query("UPDATE signing_key SET activated_at = $2 WHERE kid = $1 AND activated_at IS NULL")
            .bind(kid)
            .bind(now)
            .execute(connection)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Retires the active key: it signs no further tokens.
pub async fn mark_retired(
    connection: &mut PgConnection,
    kid: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query("UPDATE signing_key SET retired_at = $2 WHERE kid = $1 AND retired_at IS NULL")
        .bind(kid)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a retiring key, unless a token that it signed has not expired.
pub async fn mark_removed(
    connection: &mut PgConnection,
    kid: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE signing_key SET removed_at = $2
         WHERE kid = $1 AND retired_at IS NOT NULL AND removed_at IS NULL
           AND NOT EXISTS (SELECT 1 FROM issued_token WHERE kid = $1 AND expires_at > $2)",
    )
    .bind(kid)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
