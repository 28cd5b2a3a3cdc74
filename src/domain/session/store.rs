//! The rows of sessions without a name.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{MAX_IDLE, SessionOwner};
use crate::domain::principal::Principal;

/// Rows that one statement deletes.
const PIECE: i64 = 5_000;

/// The id to begin a session with, and the time of the exchange.
pub type Proposal = (Uuid, OffsetDateTime);

/// Continues the sessions of the owners, or begins those with the proposed ids. Rows are locked in the order of the primary key.
pub async fn continue_or_begin(
    connection: &mut PgConnection,
    wanted: &BTreeMap<&SessionOwner, Proposal>,
) -> Result<BTreeMap<SessionOwner, Uuid>, sqlx::Error> {
    let column = |of: fn(&SessionOwner) -> &str| wanted.keys().map(|owner| of(owner)).collect::<Vec<_>>();
    let rows = sqlx::query(
        "INSERT INTO session AS s (client_id, subject_iss, subject_sub, id, last_at)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::timestamptz[])
             AS wanted (client_id, subject_iss, subject_sub, id, last_at)
         ORDER BY client_id, subject_sub, subject_iss
         ON CONFLICT (client_id, subject_sub, subject_iss) DO UPDATE SET
             id = CASE WHEN s.last_at < excluded.last_at - $6 THEN excluded.id ELSE s.id END,
             last_at = greatest(s.last_at, excluded.last_at)
         RETURNING client_id, subject_iss, subject_sub, id",
    )
    .bind(column(|owner| &owner.client_id))
    .bind(column(|owner| &owner.subject.iss))
    .bind(column(|owner| &owner.subject.sub))
    .bind(wanted.values().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(wanted.values().map(|(_, at)| *at).collect::<Vec<_>>())
    .bind(MAX_IDLE)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let subject = Principal { iss: row.try_get("subject_iss")?, sub: row.try_get("subject_sub")? };
            Ok((SessionOwner { client_id: row.try_get("client_id")?, subject }, row.try_get("id")?))
        })
        .collect()
}

/// Forgets the sessions of a user: what it does later is another session.
pub async fn forget_person(connection: &mut PgConnection, who: &Principal) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM session WHERE subject_sub = $1 AND subject_iss = $2")
        .bind(&who.sub)
        .bind(&who.iss)
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes sessions that ended before this time, in small statements; returns their number.
pub async fn delete_idle(connection: &mut PgConnection, until: OffsetDateTime) -> Result<u64, sqlx::Error> {
    let mut deleted = 0;
    loop {
        // A row that a batch has locked is in use.
        let done = sqlx::query(
            "DELETE FROM session WHERE ctid = ANY (ARRAY(SELECT ctid FROM session WHERE last_at < $1 - $2
                                                         LIMIT $3 FOR UPDATE SKIP LOCKED))",
        )
        .bind(until)
        .bind(MAX_IDLE)
        .bind(PIECE)
        .execute(&mut *connection)
        .await?
        .rows_affected();
        deleted += done;
        if done < PIECE.unsigned_abs() {
            return Ok(deleted);
        }
    }
}
