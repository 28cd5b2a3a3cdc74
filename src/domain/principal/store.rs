//! Cut-offs in PostgreSQL: since when everything that a principal had before is dead.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::Principal;
use crate::platform::fault::Fault;

/// Ends everything that a principal has up to now.
pub async fn put_cutoff(
    connection: &mut PgConnection,
    (who, own_issuer): (&Principal, &str),
    reason: &str,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO cutoff (iss, sub, at, reason) VALUES ($1, $2, $3, $4)
         ON CONFLICT (iss, sub) DO UPDATE SET at = greatest(cutoff.at, excluded.at), reason = excluded.reason",
    )
    .bind(&who.iss)
    .bind(&who.sub)
    .bind(now)
    .bind(reason)
    .execute(&mut *connection)
    .await?;
    if who.iss == own_issuer {
        sqlx::query("UPDATE client SET cut_off_at = greatest(cut_off_at, $2) WHERE client_id = $1")
            .bind(&who.sub)
            .bind(now)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Since when everything that a principal had before is dead.
pub async fn cutoff(connection: &mut PgConnection, who: &Principal) -> Result<Option<OffsetDateTime>, Fault> {
    let at = sqlx::query_scalar("SELECT at FROM cutoff WHERE iss = $1 AND sub = $2")
        .bind(&who.iss)
        .bind(&who.sub)
        .fetch_optional(connection)
        .await?;
    Ok(at)
}
