//! Sinks and their dead letters in PostgreSQL.

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{BatchLimits, Sink, SinkFormat};
use crate::domain::data_key::Sealed;
use crate::platform::fault::{Context, Fault};

#[derive(FromRow)]
struct Row {
    id: String,
    url: String,
    format: String,
    batch_events: Option<i32>,
    batch_bytes: Option<i32>,
    filter: Value,
    people: bool,
    notification: Option<Value>,
    sealed: String,
    data_key: String,
    disabled_at: Option<OffsetDateTime>,
    disabled_reason: Option<String>,
    cursor: i64,
    attempts: i32,
    next_attempt_at: Option<OffsetDateTime>,
    last_error: Option<String>,
    delivered_at: Option<OffsetDateTime>,
}

impl TryFrom<Row> for Sink {
    type Error = Fault;

    fn try_from(row: Row) -> Result<Self, Fault> {
        let what = format!("reading sink {}", row.id);
        let limit = |limit: i32| u32::try_from(limit).context(&what);
        let batch = match row.batch_events.zip(row.batch_bytes) {
            None => None,
            Some((events, bytes)) => {
                Some(BatchLimits { max_events: limit(events)?, max_bytes: limit(bytes)? })
            }
        };
        Ok(Self {
            batch,
            people: row.people,
            notification: row.notification.map(serde_json::from_value).transpose().context(&what)?,
            format: SinkFormat::parse(&row.format).ok_or_else(|| Fault::new(&what))?,
            filter: serde_json::from_value(row.filter).context(&what)?,
            sealed: Sealed { key: row.data_key, text: row.sealed },
            disabled: row.disabled_at.map(|at| (at, row.disabled_reason.unwrap_or_default())),
            cursor: u64::try_from(row.cursor).context(&what)?,
            attempts: u32::try_from(row.attempts).context(&what)?,
            id: row.id,
            url: row.url,
            next_attempt_at: row.next_attempt_at,
            last_error: row.last_error,
            delivered_at: row.delivered_at,
        })
    }
}

fn number(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn limit(limit: u32) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

pub async fn find(connection: &mut PgConnection, id: &str) -> Result<Option<Sink>, Fault> {
    let row: Option<Row> =
        sqlx::query_as("SELECT * FROM audit_sink WHERE id = $1").bind(id).fetch_optional(connection).await?;
    row.map(Sink::try_from).transpose()
}

/// All sinks, each with the number of its dead letters.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<(Sink, i64)>, Fault> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT * FROM audit_sink ORDER BY id").fetch_all(&mut *connection).await?;
    let counts: Vec<(String, i64)> =
        sqlx::query_as("SELECT sink, count(*) FROM audit_dead_letter GROUP BY sink")
            .fetch_all(connection)
            .await?;
    rows.into_iter()
        .map(|row| {
            let sink = Sink::try_from(row)?;
            let of = counts.iter().find(|(id, _)| *id == sink.id).map_or(0, |(_, count)| *count);
            Ok((sink, of))
        })
        .collect()
}

/// Inserts a sink, or replaces its declared settings; the cursor stays. A failed delivery is retried at once.
pub async fn put(connection: &mut PgConnection, one: &Sink, now: OffsetDateTime) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO audit_sink (id, url, format, filter, sealed, data_key, disabled_at, disabled_reason, cursor,
                                 created_at, updated_at, batch_events, batch_bytes, people, notification)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11, $12, $13, $14)
         ON CONFLICT (id) DO UPDATE
         SET url = excluded.url, format = excluded.format, batch_events = excluded.batch_events,
             batch_bytes = excluded.batch_bytes, filter = excluded.filter, people = excluded.people,
             notification = excluded.notification, sealed = excluded.sealed, data_key = excluded.data_key, disabled_at = excluded.disabled_at, disabled_reason = excluded.disabled_reason,
             attempts = 0, next_attempt_at = NULL, updated_at = excluded.updated_at",
    )
    .bind(&one.id)
    .bind(&one.url)
    .bind(one.format.name())
    .bind(Value::Object(one.filter.clone()))
    .bind(&one.sealed.text)
    .bind(&one.sealed.key)
    .bind(one.disabled.as_ref().map(|(at, _)| *at))
    .bind(one.disabled.as_ref().map(|(_, why)| why))
    .bind(number(one.cursor))
    .bind(now)
    .bind(one.batch.map(|batch| limit(batch.max_events)))
    .bind(one.batch.map(|batch| limit(batch.max_bytes)))
    .bind(one.people)
    .bind(one.notification.as_ref().map(Json))
    .execute(connection)
    .await?;
    Ok(())
}

/// The enabled sink with the smallest cursor below `seq`, and its cursor.
pub async fn behind(connection: &mut PgConnection, seq: u64) -> Result<Option<(String, i64)>, Fault> {
    let found = sqlx::query_as(
        "SELECT id, cursor FROM audit_sink WHERE disabled_at IS NULL AND cursor < $1 ORDER BY cursor LIMIT 1",
    );
    Ok(found.bind(number(seq)).fetch_optional(connection).await?)
}

/// Removes a sink with its dead letters; `false` if it does not exist.
pub async fn mark_removed(connection: &mut PgConnection, id: &str) -> Result<bool, Fault> {
    let done = sqlx::query("DELETE FROM audit_sink WHERE id = $1").bind(id).execute(connection).await?;
    Ok(done.rows_affected() == 1)
}

/// Ids of enabled sinks that have undelivered events or notifications and no live lease.
pub async fn due(connection: &mut PgConnection, now: OffsetDateTime) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT id FROM audit_sink sink
         WHERE disabled_at IS NULL AND (lease_until IS NULL OR lease_until <= $1)
           AND ((coalesce(next_attempt_at, $1) <= $1
                 AND (cursor < (SELECT size FROM audit_head)
                      OR (notification IS NOT NULL AND EXISTS (
                          SELECT FROM audit_sink_recipient r WHERE r.sink = sink.id AND r.due_at <= $1))))
                OR EXISTS (SELECT FROM audit_dead_letter WHERE audit_dead_letter.sink = sink.id AND replay))
         ORDER BY id",
    );
    Ok(ids.bind(now).fetch_all(connection).await?)
}

/// The lease of one process on a sink.
#[derive(Debug, Clone, Copy)]
pub struct Lease<'a> {
    pub sink: &'a str,
    pub id: Uuid,
}

/// How far a sink has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// `seq` of the next event.
    pub cursor: u64,
    /// When the event before the cursor was delivered, if it was delivered now.
    pub delivered_at: Option<OffsetDateTime>,
}

/// A delivery that failed and will be repeated.
#[derive(Debug, Clone, Copy)]
pub struct FailedDelivery<'a> {
    /// Number of attempts for this event.
    pub attempts: u32,
    pub error: &'a str,
    pub next_attempt_at: OffsetDateTime,
}

/// An event that is not delivered.
#[derive(Debug, Clone, Copy)]
pub struct Undelivered<'a> {
    pub seq: u64,
    pub attempts: u32,
    pub error: &'a str,
}

/// Leases a sink; `None` if another process has the lease, or the sink is disabled.
pub async fn mark_leased(
    connection: &mut PgConnection,
    lease: Lease<'_>,
    now: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<Option<Sink>, Fault> {
    let row: Option<Row> = sqlx::query_as(
        "UPDATE audit_sink SET lease = $2, lease_until = $4
         WHERE id = $1 AND disabled_at IS NULL AND (lease_until IS NULL OR lease_until <= $3) RETURNING *",
    )
    .bind(lease.sink)
    .bind(lease.id)
    .bind(now)
    .bind(until)
    .fetch_optional(connection)
    .await?;
    row.map(Sink::try_from).transpose()
}

pub async fn mark_released(connection: &mut PgConnection, lease: Lease<'_>) -> Result<(), Fault> {
    sqlx::query("UPDATE audit_sink SET lease = NULL, lease_until = NULL WHERE id = $1 AND lease = $2")
        .bind(lease.sink)
        .bind(lease.id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Moves the cursor and renews the lease. Returns the sink as declared at present; `None` if the lease is lost or the
/// sink is disabled.
pub async fn mark_delivered(
    connection: &mut PgConnection,
    lease: Lease<'_>,
    progress: Progress,
    until: OffsetDateTime,
) -> Result<Option<Sink>, Fault> {
    let row: Option<Row> = sqlx::query_as(
        "UPDATE audit_sink
         SET attempts = CASE WHEN cursor = $3 THEN attempts ELSE 0 END,
             next_attempt_at = CASE WHEN cursor = $3 THEN next_attempt_at END,
             last_error = CASE WHEN $4::timestamptz IS NULL THEN last_error END,
             delivered_at = coalesce($4, delivered_at), cursor = $3, lease_until = $5
         WHERE id = $1 AND lease = $2 AND disabled_at IS NULL RETURNING *",
    )
    .bind(lease.sink)
    .bind(lease.id)
    .bind(number(progress.cursor))
    .bind(progress.delivered_at)
    .bind(until)
    .fetch_optional(connection)
    .await?;
    row.map(Sink::try_from).transpose()
}

/// Moves the cursor of a sink of notifications past events that were read. Failed attempts are about messages, and stay.
/// `None` if the lease is lost or the sink is disabled.
pub async fn mark_collected(
    connection: &mut PgConnection,
    lease: Lease<'_>,
    cursor: u64,
    until: OffsetDateTime,
) -> Result<Option<Sink>, Fault> {
    let row: Option<Row> = sqlx::query_as(
        "UPDATE audit_sink SET cursor = $3, lease_until = $4
         WHERE id = $1 AND lease = $2 AND disabled_at IS NULL RETURNING *",
    )
    .bind(lease.sink)
    .bind(lease.id)
    .bind(number(cursor))
    .bind(until)
    .fetch_optional(connection)
    .await?;
    row.map(Sink::try_from).transpose()
}

/// Records that a sink accepted a message. `None` if the lease is lost or the sink is disabled.
pub async fn mark_accepted(
    connection: &mut PgConnection,
    lease: Lease<'_>,
    now: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<Option<Sink>, Fault> {
    let row: Option<Row> = sqlx::query_as(
        "UPDATE audit_sink
         SET attempts = 0, next_attempt_at = NULL, last_error = NULL, delivered_at = $3, lease_until = $4
         WHERE id = $1 AND lease = $2 AND disabled_at IS NULL RETURNING *",
    )
    .bind(lease.sink)
    .bind(lease.id)
    .bind(now)
    .bind(until)
    .fetch_optional(connection)
    .await?;
    row.map(Sink::try_from).transpose()
}

/// Stores a failed attempt and the time of the next one.
pub async fn mark_failed(
    connection: &mut PgConnection,
    lease: Lease<'_>,
    attempt: FailedDelivery<'_>,
) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE audit_sink SET attempts = $3, next_attempt_at = $4, last_error = $5 WHERE id = $1 AND lease = $2",
    )
    .bind(lease.sink)
    .bind(lease.id)
    .bind(i32::try_from(attempt.attempts).unwrap_or(i32::MAX))
    .bind(attempt.next_attempt_at)
    .bind(attempt.error)
    .execute(connection)
    .await?;
    Ok(())
}

/// Disables a sink; `false` if it is disabled already.
pub async fn mark_disabled(
    connection: &mut PgConnection,
    id: &str,
    why: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE audit_sink SET disabled_at = $3, disabled_reason = $2, updated_at = $3 WHERE id = $1 AND disabled_at IS NULL",
    );
    Ok(done.bind(id).bind(why).bind(now).execute(connection).await?.rows_affected() == 1)
}

/// An event that a sink did not accept.
#[derive(Debug, Clone, FromRow)]
pub struct DeadLetter {
    pub seq: i64,
    pub attempts: i32,
    pub error: String,
    /// When delivery was abandoned.
    pub at: OffsetDateTime,
    /// Whether delivery will be retried.
    pub replay: bool,
}

/// Stores a dead letter, or adds the attempts to a stored one.
pub async fn put_dead_letter(
    connection: &mut PgConnection,
    id: &str,
    event: Undelivered<'_>,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO audit_dead_letter (sink, seq, attempts, error, at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (sink, seq) DO UPDATE
         SET attempts = audit_dead_letter.attempts + excluded.attempts, error = excluded.error, at = excluded.at,
             replay = false",
    )
    .bind(id)
    .bind(number(event.seq))
    .bind(i32::try_from(event.attempts).unwrap_or(i32::MAX))
    .bind(event.error)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Dead letters after sequence number `after`, in order.
pub async fn dead_letters(
    connection: &mut PgConnection,
    id: &str,
    after: Option<u64>,
    limit: i64,
) -> Result<Vec<DeadLetter>, Fault> {
    let letters = sqlx::query_as(
        "SELECT seq, attempts, error, at, replay FROM audit_dead_letter
         WHERE sink = $1 AND seq > $2 ORDER BY seq LIMIT $3",
    );
    Ok(letters.bind(id).bind(after.map_or(-1, number)).bind(limit).fetch_all(connection).await?)
}

pub async fn count_dead_letters(connection: &mut PgConnection, id: &str) -> Result<i64, Fault> {
    let count = sqlx::query_scalar("SELECT count(*) FROM audit_dead_letter WHERE sink = $1");
    Ok(count.bind(id).fetch_one(connection).await?)
}

/// Requests another delivery of all dead letters; returns their number.
pub async fn mark_replay(connection: &mut PgConnection, id: &str) -> Result<u64, Fault> {
    let done = sqlx::query("UPDATE audit_dead_letter SET replay = true WHERE sink = $1 AND NOT replay");
    Ok(done.bind(id).execute(connection).await?.rows_affected())
}

/// Sequence number of the next dead letter to deliver again.
pub async fn next_replay(connection: &mut PgConnection, id: &str) -> Result<Option<u64>, Fault> {
    let seq: Option<i64> = sqlx::query_scalar(
        "SELECT seq FROM audit_dead_letter WHERE sink = $1 AND replay ORDER BY seq LIMIT 1",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?;
    seq.map(|seq| u64::try_from(seq).context("reading a dead letter")).transpose()
}

/// Removes a dead letter that was delivered after all.
pub async fn remove_dead_letter(connection: &mut PgConnection, id: &str, seq: u64) -> Result<(), Fault> {
    sqlx::query("DELETE FROM audit_dead_letter WHERE sink = $1 AND seq = $2")
        .bind(id)
        .bind(number(seq))
        .execute(connection)
        .await?;
    Ok(())
}
