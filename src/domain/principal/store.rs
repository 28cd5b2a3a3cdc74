//! Revoke-all in PostgreSQL: everything that a principal had before is revoked. Tokens of other issuers are compared
//! by their time of issue, rows of this server by the epoch.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::Principal;
use crate::platform::fault::Fault;

/// Revokes everything that a principal has at present.
pub async fn put_revocation(
    connection: &mut PgConnection,
    who: &Principal,
    own_issuer: &str,
    reason: &str,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO principal_revocation (iss, sub, at, reason, revocation_epoch) SELECT $1, $2, $3, $4, number FROM revocation_epoch
         ON CONFLICT (iss, sub) DO UPDATE SET at = greatest(principal_revocation.at, excluded.at), reason = excluded.reason,
             revocation_epoch = excluded.revocation_epoch",
    )
    .bind(&who.iss)
    .bind(&who.sub)
    .bind(now)
    .bind(reason)
    .execute(&mut *connection)
    .await?;
    if who.iss == own_issuer {
        sqlx::query("UPDATE client SET cutoff_epoch = number FROM revocation_epoch WHERE client_id = $1")
            .bind(&who.sub)
            .execute(&mut *connection)
            .await?;
    }
    // The last revoke-all does not show when an earlier one ended an object.
    sqlx::query(
        "INSERT INTO principal_revocation_history (iss, sub, revocation_epoch, at, client_id)
         SELECT $1, $2, number, $3, $4 FROM revocation_epoch ON CONFLICT DO NOTHING",
    )
    .bind(&who.iss)
    .bind(&who.sub)
    .bind(now)
    .bind((who.iss == own_issuer).then_some(&who.sub))
    .execute(connection)
    .await?;
    Ok(())
}

/// The epoch up to which all recorded authority of a principal is revoked.
pub async fn cutoff_epoch(connection: &mut PgConnection, who: &Principal) -> Result<Option<i64>, Fault> {
    let epoch =
        sqlx::query_scalar("SELECT revocation_epoch FROM principal_revocation WHERE iss = $1 AND sub = $2")
            .bind(&who.iss)
            .bind(&who.sub)
            .fetch_optional(connection)
            .await?;
    Ok(epoch)
}

/// The time up to which everything that the principal had is revoked.
pub async fn revoked_before(
    connection: &mut PgConnection,
    who: &Principal,
) -> Result<Option<OffsetDateTime>, Fault> {
    let at = sqlx::query_scalar("SELECT at FROM principal_revocation WHERE iss = $1 AND sub = $2")
        .bind(&who.iss)
        .bind(&who.sub)
        .fetch_optional(connection)
        .await?;
    Ok(at)
}
