//! Cut-offs in PostgreSQL: since when everything that a principal had before is dead. What others issued is compared by
//! its time, what we recorded by the epoch.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::Principal;
use crate::platform::fault::Fault;

/// Ends everything that a principal has up to now.
pub async fn put_revocation(
    connection: &mut PgConnection,
    (who, own_issuer): (&Principal, &str),
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
    // The last cut-off does not tell when an earlier one ended something.
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

/// The epoch up to which all that we recorded of a principal is dead.
pub async fn cutoff_epoch(connection: &mut PgConnection, who: &Principal) -> Result<Option<i64>, Fault> {
    let epoch =
        sqlx::query_scalar("SELECT revocation_epoch FROM principal_revocation WHERE iss = $1 AND sub = $2")
            .bind(&who.iss)
            .bind(&who.sub)
            .fetch_optional(connection)
            .await?;
    Ok(epoch)
}

/// Since when everything that a principal had before is dead.
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
