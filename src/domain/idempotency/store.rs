//! Idempotency keys in PostgreSQL.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Claim, KEPT, Key, Stored};
use crate::platform::fault::Fault;

/// Claims a key. A concurrent claim of the same key waits until the first transaction ends.
pub async fn claim(
    connection: &mut PgConnection,
    caller: &str,
    key: &Key,
    now: OffsetDateTime,
) -> Result<Claim, Fault> {
    let claimed: Option<i32> = sqlx::query_scalar(
        "INSERT INTO idempotency (caller, key, fingerprint, status, body, expires_at) VALUES ($1, $2, $3, 0, '', $4)
         ON CONFLICT (caller, key) DO UPDATE SET fingerprint = excluded.fingerprint, status = 0, location = NULL,
             body = '', expires_at = excluded.expires_at
             WHERE idempotency.expires_at <= $5
         RETURNING 1",
    )
    .bind(caller)
    .bind(&key.key)
    .bind(key.fingerprint.as_slice())
    .bind(now + KEPT)
    .bind(now)
    .fetch_optional(&mut *connection)
    .await?;
    if claimed.is_some() {
        return Ok(Claim::New);
    }
    let (fingerprint, status, location, body): (Vec<u8>, i16, Option<String>, String) = sqlx::query_as(
        "SELECT fingerprint, status, location, body FROM idempotency WHERE caller = $1 AND key = $2",
    )
    .bind(caller)
    .bind(&key.key)
    .fetch_one(connection)
    .await?;
    if fingerprint != key.fingerprint {
        return Ok(Claim::Reused);
    }
    let status = u16::try_from(status).unwrap_or_default();
    Ok(Claim::Repeated(Stored { status, location, body }))
}

/// Stores the response for a claimed key.
pub async fn put_answer(
    connection: &mut PgConnection,
    caller: &str,
    key: &Key,
    answer: &Stored,
) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE idempotency SET status = $3, location = $4, body = $5 WHERE caller = $1 AND key = $2",
    )
    .bind(caller)
    .bind(&key.key)
    .bind(i16::try_from(answer.status).unwrap_or_default())
    .bind(&answer.location)
    .bind(&answer.body)
    .execute(connection)
    .await?;
    Ok(())
}
