//! Purges used ids, expired tokens, abandoned pending authorizations and delegations of `may_act` claims, in small
//! transactions.

use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use crate::domain::authority_lock;
use crate::platform::db;
use crate::platform::fault::{Context, Fault};

const PIECE: i64 = 5_000;

/// Purges all rows that expired up to `until`. The horizon moves first: from then on a purged id is refused, even if
/// a clock that was set back would accept it.
pub async fn forget(pool: &PgPool, until: OffsetDateTime) -> Result<u64, Fault> {
    let mut transaction = db::begin(pool, authority_lock::BEGIN_EXCLUSIVE).await?;
    sqlx::query("UPDATE replay_horizon SET purged_before = greatest(purged_before, $1)")
        .bind(until)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await.context("sweeping")?;
    let mut forgotten = 0;
    for statement in [
        "DELETE FROM used_jti WHERE ctid = ANY (ARRAY(SELECT ctid FROM used_jti WHERE expires_at <= $1 LIMIT $2))",
        "DELETE FROM issued_token
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM issued_token WHERE expires_at <= $1 LIMIT $2))",
        // Refresh tokens that were replaced, and those whose delegation is expired. Their rows among the tokens go with
        // them, once no token is left that was made with them.
        "WITH over AS (
             SELECT r.id, r.anchors FROM refresh_token r JOIN delegation d ON d.id = r.delegation_id
             WHERE (d.expires_at <= $1 OR r.ended_at <= $1)
               AND NOT EXISTS (SELECT FROM issued_token t WHERE t.delegation_id = r.delegation_id AND t.status_index >= 0
                                                            AND t.lineage @> ARRAY[r.id])
               AND NOT EXISTS (SELECT FROM issued_token t WHERE t.status_index < 0 AND t.lineage @> ARRAY[r.id])
             LIMIT $2 FOR UPDATE OF r SKIP LOCKED
         ), rows AS (
             DELETE FROM issued_token WHERE jti IN (SELECT unnest(anchors || id) FROM over)
         )
         DELETE FROM refresh_token WHERE id IN (SELECT id FROM over)",
        // A row that a batch has locked is left for the next time: batches lock rows in another order.
        "DELETE FROM ceremony WHERE ctid = ANY (ARRAY(SELECT ctid FROM ceremony WHERE expires_at <= $1 LIMIT $2
                                                      FOR UPDATE SKIP LOCKED))",
        "DELETE FROM idempotency
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency WHERE expires_at <= $1 LIMIT $2))",
        "DELETE FROM pending_authorization
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM pending_authorization WHERE expires_at <= $1 LIMIT $2))",
        // A row is kept until its token has expired: with the token alone it would be made again, active. Ancestors of
        // what remains are kept.
        "DELETE FROM delegation
         WHERE ctid = ANY (ARRAY(SELECT d.ctid FROM delegation d JOIN delegation_usage u ON u.delegation_id = d.id
                                 WHERE d.origin = 'may_act' AND d.expires_at <= $1 AND d.expiry_logged
                                   AND d.requested_at + make_interval(secs => coalesce(d.requested_ttl, 0)) <= $1
                                   AND NOT EXISTS (SELECT FROM delegation child WHERE child.parent = d.id) LIMIT $2
                                 FOR UPDATE SKIP LOCKED))",
    ] {
        loop {
            let done = sqlx::query(statement).bind(until).bind(PIECE).execute(pool).await?;
            forgotten += done.rows_affected();
            if done.rows_affected() < PIECE.unsigned_abs() {
                break;
            }
        }
    }
    Ok(forgotten)
}
