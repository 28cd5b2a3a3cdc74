//! Which events of steps have texts beside the log, and the end of these texts. Without the salt that goes with them, the
//! digest in the document is that of no text which can be guessed.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::store::LeafRef;
use super::{Event, EventKind};
use crate::platform::fault::{Context as _, Fault};

/// The most steps whose texts one statement erases.
const PIECE: i64 = 1_000;

/// Keeps in mind which of these events have texts.
pub async fn put(
    connection: &mut PgConnection,
    events: impl Iterator<Item = (&Event, LeafRef)>,
) -> Result<(), Fault> {
    let mut seqs = Vec::new();
    let mut sessions = Vec::new();
    let mut times = Vec::new();
    for (event, place) in events {
        if matches!(event.kind, EventKind::DelegationStep { .. }) && !event.texts.is_empty() {
            seqs.push(i64::try_from(place.seq).context("numbering an event")?);
            sessions.push(event.session_id.as_deref().ok_or_else(|| Fault::new("a step has no session"))?);
            times.push(event.at);
        }
    }
    if seqs.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO audit_step_text (seq, session_id, reported_at)
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::timestamptz[])",
    )
    .bind(seqs)
    .bind(sessions)
    .bind(times)
    .execute(connection)
    .await?;
    Ok(())
}

/// Erases the texts of a session, of all users or of the one with this name in the log; returns the number of steps that had
/// texts.
pub async fn erase_of_session(
    connection: &mut PgConnection,
    session_id: &str,
    pseudonym: Option<&str>,
) -> Result<i64, Fault> {
    let seqs: Vec<i64> = sqlx::query_scalar(
        "DELETE FROM audit_step_text t WHERE t.session_id = $1
            AND ($2::text IS NULL OR EXISTS (
                SELECT FROM audit_event e
                WHERE e.seq = t.seq AND e.document::jsonb #>> '{subject,sub}' = $2))
         RETURNING seq",
    )
    .bind(session_id)
    .bind(pseudonym)
    .fetch_all(&mut *connection)
    .await?;
    clear(connection, &seqs).await
}

/// What has ended of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedTexts {
    /// Rows about texts. Those of archived events, and of erased persons, have ended before.
    pub rows: usize,
    /// Steps whose texts were erased.
    pub steps: i64,
}

/// Erases the oldest texts from before a time, at most a thousand.
pub async fn erase_before(connection: &mut PgConnection, time: OffsetDateTime) -> Result<EndedTexts, Fault> {
    let seqs: Vec<i64> = sqlx::query_scalar(
        "DELETE FROM audit_step_text WHERE seq = ANY (ARRAY(
            SELECT seq FROM audit_step_text WHERE reported_at < $1 ORDER BY reported_at LIMIT $2
            FOR UPDATE SKIP LOCKED)) RETURNING seq",
    )
    .bind(time)
    .bind(PIECE)
    .fetch_all(&mut *connection)
    .await?;
    Ok(EndedTexts { rows: seqs.len(), steps: clear(connection, &seqs).await? })
}

async fn clear(connection: &mut PgConnection, seqs: &[i64]) -> Result<i64, Fault> {
    if seqs.is_empty() {
        return Ok(0);
    }
    Ok(sqlx::query_scalar("SELECT audit_clear_steps($1)").bind(seqs).fetch_one(connection).await?)
}
