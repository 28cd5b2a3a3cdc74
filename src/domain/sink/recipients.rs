//! The recipients of notifications in PostgreSQL. Only the server that has the lease of a sink changes them, but for a
//! declaration, which can delete them. A transaction that changes the sink too changes the sink first.

use sqlx::{FromRow, PgConnection};
use time::{Duration, OffsetDateTime};

use super::notification::{MAX_KEPT, NotificationSettings};
use super::store::Lease;
use crate::platform::fault::{Context, Fault};

/// The time in which the messages to a recipient are limited.
const HOUR: Duration = Duration::hours(1);

/// Requests of which one recipient is to be notified.
#[derive(Debug)]
pub struct PendingNotice {
    /// The pseudonym of a user, or an address of `to`.
    pub recipient: String,
    pub waiting: i64,
    /// Events of the newest requests, in order; at most [`MAX_KEPT`].
    pub seqs: Vec<i64>,
}

/// A recipient whose message is due.
#[derive(Debug, Clone, FromRow)]
pub struct DueRecipient {
    pub recipient: String,
    pub waiting: i64,
    pub seqs: Vec<i64>,
    pub attempts: i32,
}

impl DueRecipient {
    /// `seq` of the newest event.
    pub fn newest(&self) -> Result<u64, Fault> {
        let what = "reading of what a recipient is to be notified";
        u64::try_from(*self.seqs.last().ok_or_else(|| Fault::new(what))?).context(what)
    }
}

/// Adds requests to the next message to a recipient. The first one sets the time of the message.
pub async fn put_pending(
    connection: &mut PgConnection,
    sink: &str,
    pending: &PendingNotice,
    settings: &NotificationSettings,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO audit_sink_recipient AS r (sink, recipient, waiting, seqs, due_at, hour_from, messages)
         VALUES ($1, $2, $3, $4, $5, $6, 0)
         ON CONFLICT (sink, recipient) DO UPDATE
         SET waiting = r.waiting + excluded.waiting,
             seqs = (r.seqs || excluded.seqs)[cardinality(r.seqs || excluded.seqs) - $9 + 1:],
             due_at = coalesce(r.due_at, CASE
                 WHEN r.messages >= $7 AND r.hour_from > $8
                 THEN greatest(r.hour_from + ($6 - $8), excluded.due_at)
                 ELSE excluded.due_at END)",
    )
    .bind(sink)
    .bind(&pending.recipient)
    .bind(pending.waiting)
    .bind(&pending.seqs)
    .bind(now + Duration::seconds(settings.wait.into()))
    .bind(now)
    .bind(i32::try_from(settings.max_per_hour).unwrap_or(i32::MAX))
    .bind(now - HOUR)
    .bind(i32::try_from(MAX_KEPT).unwrap_or(i32::MAX))
    .execute(connection)
    .await?;
    Ok(())
}

/// The recipient of a sink who has waited longest for a message that is due.
pub async fn next_due(
    connection: &mut PgConnection,
    sink: &str,
    now: OffsetDateTime,
) -> Result<Option<DueRecipient>, Fault> {
    let due = sqlx::query_as(
        "SELECT recipient, waiting, seqs, attempts FROM audit_sink_recipient
         WHERE sink = $1 AND due_at <= $2 ORDER BY due_at, recipient LIMIT 1",
    );
    Ok(due.bind(sink).bind(now).fetch_optional(connection).await?)
}

/// Records that a recipient got a message, or that nothing waits any more: `messages` is 1 or 0.
pub async fn mark_notified(
    connection: &mut PgConnection,
    lease: Lease<'_>,
    notified: &DueRecipient,
    messages: i32,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE audit_sink_recipient
         SET waiting = 0, seqs = '{}', due_at = NULL, attempts = 0,
             hour_from = CASE WHEN hour_from <= $5 THEN $6 ELSE hour_from END,
             messages = CASE WHEN hour_from <= $5 THEN $4 ELSE messages + $4 END
         WHERE sink = $1 AND recipient = $3 AND waiting = $7 AND seqs = $8
           AND EXISTS (SELECT FROM audit_sink WHERE id = $1 AND lease = $2)",
    )
    .bind(lease.sink)
    .bind(lease.id)
    .bind(&notified.recipient)
    .bind(messages)
    .bind(now - HOUR)
    .bind(now)
    .bind(notified.waiting)
    .bind(&notified.seqs)
    .execute(connection)
    .await?;
    Ok(())
}

/// Counts a failed attempt, and sets the time of the next one.
pub async fn mark_postponed(
    connection: &mut PgConnection,
    lease: Lease<'_>,
    recipient: &str,
    next_attempt_at: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE audit_sink_recipient SET attempts = attempts + 1, due_at = $4
         WHERE sink = $1 AND recipient = $3 AND due_at IS NOT NULL
           AND EXISTS (SELECT FROM audit_sink WHERE id = $1 AND lease = $2)",
    )
    .bind(lease.sink)
    .bind(lease.id)
    .bind(recipient)
    .bind(next_attempt_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets all recipients of a sink that is no longer for notifications.
pub async fn delete_all(connection: &mut PgConnection, sink: &str) -> Result<(), Fault> {
    sqlx::query("DELETE FROM audit_sink_recipient WHERE sink = $1").bind(sink).execute(connection).await?;
    Ok(())
}

/// Forgets recipients for whom nothing waits, and whose messages no longer count.
pub async fn delete_idle(
    connection: &mut PgConnection,
    sink: &str,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query("DELETE FROM audit_sink_recipient WHERE sink = $1 AND due_at IS NULL AND hour_from <= $2")
        .bind(sink)
        .bind(now - HOUR)
        .execute(connection)
        .await?;
    Ok(())
}
