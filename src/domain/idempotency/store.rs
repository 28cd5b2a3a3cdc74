//! Idempotency keys in PostgreSQL.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Claim, IdempotencyKey, KEPT};
use crate::platform::fault::Fault;

/// Claims a key. A concurrent claim of the same key waits until the first transaction ends.
pub async fn claim(
    connection: &mut PgConnection,
    caller: &str,
    key: &IdempotencyKey,
    now: OffsetDateTime,
) -> Result<Claim, Fault> {
    let claimed: Option<i32> = sqlx::query_scalar(
        "INSERT INTO idempotency (caller, key, fingerprint, result, expires_at) VALUES ($1, $2, $3, '', $4)
         ON CONFLICT (caller, key) DO UPDATE SET fingerprint = excluded.fingerprint, result = '',
             expires_at = excluded.expires_at
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
    let (fingerprint, result): (Vec<u8>, String) =
        sqlx::query_as("SELECT fingerprint, result FROM idempotency WHERE caller = $1 AND key = $2")
            .bind(caller)
            .bind(&key.key)
            .fetch_one(connection)
            .await?;
    if fingerprint == key.fingerprint { Ok(Claim::Repeated(result)) } else { Ok(Claim::Reused) }
}

/// Stores the result for a claimed key.
pub async fn put_result(
    connection: &mut PgConnection,
    caller: &str,
    key: &IdempotencyKey,
    result: &str,
) -> Result<(), Fault> {
    sqlx::query("UPDATE idempotency SET result = $3 WHERE caller = $1 AND key = $2")
        .bind(caller)
        .bind(&key.key)
        .bind(result)
        .execute(connection)
        .await?;
    Ok(())
}
