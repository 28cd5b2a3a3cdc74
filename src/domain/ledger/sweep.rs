//! Forgetting spent ids, ended tokens, authorizations that nobody came back from and the delegations that foreign tokens
//! led to, in pieces, so that no transaction is long.

use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use crate::domain::gate;
use crate::platform::fault::{During, Fault};

const PIECE: i64 = 5_000;

/// Forgets all that ended by `until`. The horizon moves first: an id that is forgotten is refused from then on, even if
/// a clock that was set back would accept it again.
pub async fn forget(connection: &mut PgConnection, until: OffsetDateTime) -> Result<u64, Fault> {
    let mut transaction = connection.begin_with(gate::BEGIN_CLOSED).await.during("sweeping")?;
    sqlx::query("UPDATE spent_horizon SET forgotten = greatest(forgotten, $1)")
        .bind(until)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await.during("sweeping")?;
    let mut forgotten = 0;
    for statement in [
        "DELETE FROM spent_id WHERE ctid = ANY (ARRAY(SELECT ctid FROM spent_id WHERE forget_at <= $1 LIMIT $2))",
        "DELETE FROM issued_token
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM issued_token WHERE expires_at <= $1 LIMIT $2))",
        "DELETE FROM ceremony WHERE ctid = ANY (ARRAY(SELECT ctid FROM ceremony WHERE expires_at <= $1 LIMIT $2))",
        "DELETE FROM idempotency
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency WHERE forget_at <= $1 LIMIT $2))",
        "DELETE FROM connecting
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM connecting WHERE expires_at <= $1 LIMIT $2))",
        // Nobody can come back with the token that led to it; what hangs below keeps its ancestors.
        "DELETE FROM delegation
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM delegation d
                                 WHERE origin = 'may_act' AND expires_at <= $1 AND end_recorded
                                   AND NOT EXISTS (SELECT FROM delegation child WHERE child.parent = d.id) LIMIT $2))",
    ] {
        loop {
            let done = sqlx::query(statement).bind(until).bind(PIECE).execute(&mut *connection).await?;
            forgotten += done.rows_affected();
            if done.rows_affected() < PIECE.unsigned_abs() {
                break;
            }
        }
    }
    Ok(forgotten)
}
