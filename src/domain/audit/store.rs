//! The log in PostgreSQL. [`append`] is the only way to write; it takes the lock of the head, which is the
//! last lock of any transaction.

use std::ops::{Range, RangeInclusive};

use futures_util::{Stream, TryStreamExt as _};
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::UnsequencedEvent;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::merkle::{self, Frontier, Hash};

/// The tree of all events, as stored.
#[derive(Debug, FromRow)]
pub struct StoredHead {
    size: i64,
    /// The hashes of the full subtrees, 32 bytes each.
    peaks: Vec<u8>,
    /// Number of erased persons.
    pub erasures: i64,
}

impl StoredHead {
    fn frontier(&self) -> Result<Frontier, Fault> {
        let peaks =
            self.peaks.chunks(32).map(|peak| <[u8; 32]>::try_from(peak).ok()).collect::<Option<Vec<_>>>();
        let size = u64::try_from(self.size).ok();
        size.zip(peaks)
            .and_then(|(size, peaks)| Frontier::from_parts(size, peaks))
            .ok_or_else(|| Fault::new("the head of the log does not fit its size"))
    }
}

/// The statement that reads the one row of the head.
pub const HEAD: &str = "SELECT size, peaks, erasures FROM audit_head";

/// Reads the head, which nothing else changes before the transaction ends.
pub async fn lock_head(connection: &mut PgConnection) -> Result<StoredHead, Fault> {
    Ok(sqlx::query_as("SELECT size, peaks, erasures FROM audit_head FOR UPDATE")
        .fetch_one(connection)
        .await?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafRef {
    pub seq: u64,
    /// The leaf hash in the tree.
    pub leaf: Hash,
}

/// Appends documents in order; returns the `seq` and leaf of each.
pub async fn append(
    connection: &mut PgConnection,
    events: &[UnsequencedEvent],
) -> Result<Vec<LeafRef>, Fault> {
    let head = lock_head(&mut *connection).await?;
    append_at(connection, head, events).await
}

/// Appends documents after a head that was locked in this transaction.
pub async fn append_at(
    connection: &mut PgConnection,
    head: StoredHead,
    events: &[UnsequencedEvent],
) -> Result<Vec<LeafRef>, Fault> {
    let mut frontier = head.frontier()?;
    let mut leaf_refs = Vec::with_capacity(events.len());
    let mut seqs = Vec::with_capacity(events.len());
    let mut documents = Vec::with_capacity(events.len());
    let mut personal = Vec::with_capacity(events.len());
    for event in events {
        let seq = frontier.size();
        let document = event.with_seq(seq);
        let leaf = merkle::leaf(document.as_bytes());
        frontier.push(leaf);
        leaf_refs.push(LeafRef { seq, leaf });
        seqs.push(i64::try_from(seq).context("numbering an event")?);
        documents.push(document);
        personal.push(event.personal());
    }
    sqlx::query(
        "WITH added AS (
             INSERT INTO audit_event (seq, document, personal, partition)
             SELECT input.*, head.partition FROM unnest($1::bigint[], $2::text[], $5::text[]) AS input, audit_head head
         )
         UPDATE audit_head SET size = $3, peaks = $4",
    )
    .bind(seqs)
    .bind(documents)
    .bind(i64::try_from(frontier.size()).context("numbering an event")?)
    .bind(frontier.peaks().concat())
    .bind(personal)
    .execute(connection)
    .await?;
    Ok(leaf_refs)
}

/// The head, read without its lock.
pub async fn head(connection: &mut PgConnection) -> Result<Frontier, Fault> {
    let head: StoredHead = sqlx::query_as(HEAD).fetch_one(connection).await?;
    head.frontier()
}

/// The number of erased persons.
pub async fn erasures(connection: &mut PgConnection) -> Result<i64, Fault> {
    Ok(sqlx::query_scalar("SELECT erasures FROM audit_head").fetch_one(connection).await?)
}

/// Streams documents from `seq` on, in order; missing rows are skipped.
pub fn documents(
    connection: &mut PgConnection,
    from: u64,
    below: u64,
) -> impl Stream<Item = Result<(i64, String), Fault>> + '_ {
    sqlx::query_as("SELECT seq, document FROM audit_event WHERE seq >= $1 AND seq < $2 ORDER BY seq")
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .bind(i64::try_from(below).unwrap_or(i64::MAX))
        .fetch(connection)
        .map_err(Fault::from)
}

/// A row of `audit_event`.
#[derive(Debug, Clone, FromRow)]
pub struct StoredEvent {
    #[sqlx(try_from = "i64")]
    pub seq: u64,
    /// The canonical document.
    pub document: String,
    /// The text of the personal data; `None` if the event has none, or if it was erased.
    pub personal: Option<String>,
}

/// Events in a small range of `seq`, in order.
pub async fn events_in(connection: &mut PgConnection, range: Range<u64>) -> Result<Vec<StoredEvent>, Fault> {
    let rows = sqlx::query_as(
        "SELECT seq, document, personal FROM audit_event WHERE seq >= $1 AND seq < $2 ORDER BY seq",
    )
    .bind(i64::try_from(range.start).unwrap_or(i64::MAX))
    .bind(i64::try_from(range.end).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Events by `seq`, in no order.
pub async fn events_of(connection: &mut PgConnection, seqs: &[u64]) -> Result<Vec<StoredEvent>, Fault> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let seqs: Vec<i64> = seqs.iter().filter_map(|seq| i64::try_from(*seq).ok()).collect();
    let rows = sqlx::query_as("SELECT seq, document, personal FROM audit_event WHERE seq = ANY ($1)")
        .bind(seqs)
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

/// Documents in a small range of `seq`, in order.
pub async fn documents_in(
    connection: &mut PgConnection,
    range: Range<u64>,
) -> Result<Vec<(u64, String)>, Fault> {
    documents(connection, range.start, range.end)
        .map_ok(|(seq, document)| (u64::try_from(seq).unwrap_or_default(), document))
        .try_collect()
        .await
}

/// Documents by `seq`, in no order.
pub async fn documents_of(connection: &mut PgConnection, seqs: &[u64]) -> Result<Vec<(u64, String)>, Fault> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let seqs: Vec<i64> = seqs.iter().filter_map(|seq| i64::try_from(*seq).ok()).collect();
    let rows: Vec<(i64, String)> =
        sqlx::query_as("SELECT seq, document FROM audit_event WHERE seq = ANY ($1)")
            .bind(seqs)
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(|(seq, document)| (u64::try_from(seq).unwrap_or_default(), document)).collect())
}

/// The leaves of events that are not indexed, in order; missing events are skipped. The database hashes the documents,
/// so that they are not transferred. Of archived events the leaves are stored.
pub async fn unindexed_leaves(
    connection: &mut PgConnection,
    range: Range<u64>,
) -> Result<Vec<(u64, Hash)>, Fault> {
    let sql = r"SELECT seq, sha256('\x00'::bytea || convert_to(document, 'UTF8')) AS hash FROM audit_event
                WHERE seq >= $1 AND seq < $2
                UNION ALL SELECT seq, hash FROM audit_leaf WHERE seq >= $1 AND seq < $2 ORDER BY seq";
    leaves(connection, sql, range).await
}

/// The leaves that were stored when their events were archived, in order; missing leaves are skipped.
pub async fn archived_leaves(
    connection: &mut PgConnection,
    range: Range<u64>,
) -> Result<Vec<(u64, Hash)>, Fault> {
    let sql = "SELECT seq, hash FROM audit_leaf WHERE seq >= $1 AND seq < $2 ORDER BY seq";
    leaves(connection, sql, range).await
}

async fn leaves(
    connection: &mut PgConnection,
    sql: &'static str,
    range: Range<u64>,
) -> Result<Vec<(u64, Hash)>, Fault> {
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(sql)
        .bind(i64::try_from(range.start).unwrap_or(i64::MAX))
        .bind(i64::try_from(range.end).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    rows.into_iter()
        .map(|(seq, hash)| {
            let hash: Hash = hash.as_slice().try_into().context("reading a leaf")?;
            Ok((u64::try_from(seq).context("reading a leaf")?, hash))
        })
        .collect()
}

/// Clears the personal data of events from `first` on whose documents name a person; returns their number.
pub async fn clear_personal(
    connection: &mut PgConnection,
    pseudonym: &str,
    first: u64,
) -> Result<i64, Fault> {
    // A long log takes longer than the statement timeout of requests.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *connection).await?;
    let cleared = sqlx::query_scalar("SELECT audit_clear_personal($1, $2)")
        .bind(pseudonym)
        .bind(i64::try_from(first).unwrap_or(i64::MAX))
        .fetch_one(connection)
        .await?;
    Ok(cleared)
}

/// Number of events in a range of `seq`.
pub async fn count_events(connection: &mut PgConnection, range: Range<u64>) -> Result<u64, Fault> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_event WHERE seq >= $1 AND seq < $2")
        .bind(i64::try_from(range.start).unwrap_or(i64::MAX))
        .bind(i64::try_from(range.end).unwrap_or(i64::MAX))
        .fetch_one(connection)
        .await?;
    u64::try_from(count).context("counting events")
}

/// Number of rows outside `[from, size)`, where `from` is the first event that was not archived.
pub async fn rows_outside(connection: &mut PgConnection, from: u64, size: u64) -> Result<i64, Fault> {
    // Two counts: with `OR`, PostgreSQL reads the whole log.
    let outside = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM audit_event WHERE seq < $1) + (SELECT count(*) FROM audit_event WHERE seq >= $2)",
    )
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .bind(i64::try_from(size).unwrap_or(i64::MAX))
        .fetch_one(connection)
        .await?;
    Ok(outside)
}

/// Stores a checkpoint; returns `false` if a checkpoint of that size exists.
pub async fn insert_checkpoint(
    connection: &mut PgConnection,
    size: u64,
    note: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "INSERT INTO audit_checkpoint (size, note, made_at) VALUES ($1, $2, $3) ON CONFLICT (size) DO NOTHING",
    )
    .bind(i64::try_from(size).unwrap_or(i64::MAX))
    .bind(note)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The signed note; `None` where no checkpoint has this size.
pub async fn find_checkpoint(connection: &mut PgConnection, size: u64) -> Result<Option<String>, Fault> {
    let found = sqlx::query_scalar("SELECT note FROM audit_checkpoint WHERE size = $1")
        .bind(i64::try_from(size).unwrap_or(i64::MAX))
        .fetch_optional(connection)
        .await?;
    Ok(found)
}

/// Stores a cosignature of a witness; returns `false` if it exists.
pub async fn insert_cosignature(
    connection: &mut PgConnection,
    size: u64,
    key: &str,
    line: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "INSERT INTO audit_cosignature (size, key, line, at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(i64::try_from(size).unwrap_or(i64::MAX))
    .bind(key)
    .bind(line)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Size of the largest checkpoint that this witness has cosigned.
pub async fn last_cosigned(connection: &mut PgConnection, key: &str) -> Result<Option<u64>, Fault> {
    let size: Option<i64> = sqlx::query_scalar("SELECT max(size) FROM audit_cosignature WHERE key = $1")
        .bind(key)
        .fetch_one(connection)
        .await?;
    size.map(|size| u64::try_from(size).context("reading a cosignature")).transpose()
}

/// Size of the largest checkpoint, up to a size, that `quorum` of these witnesses have cosigned.
pub async fn last_cosigned_by(
    connection: &mut PgConnection,
    keys: &[String],
    quorum: usize,
    most: u64,
) -> Result<Option<u64>, Fault> {
    if quorum == 0 {
        return Ok(None);
    }
    let size: Option<i64> = sqlx::query_scalar(
        "SELECT size FROM audit_cosignature WHERE key = ANY ($1) AND size <= $3
         GROUP BY size HAVING count(*) >= $2 ORDER BY size DESC LIMIT 1",
    )
    .bind(keys)
    .bind(i64::try_from(quorum).unwrap_or(i64::MAX))
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .fetch_optional(connection)
    .await?;
    size.map(|size| u64::try_from(size).context("reading a cosignature")).transpose()
}

/// Cosignatures of checkpoints in a range of sizes: size, key and signature line.
pub async fn cosignatures(
    connection: &mut PgConnection,
    sizes: RangeInclusive<u64>,
) -> Result<Vec<(u64, String, String)>, Fault> {
    let rows: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT size, key, line FROM audit_cosignature WHERE size >= $1 AND size <= $2 ORDER BY size, at, key",
    )
    .bind(i64::try_from(*sizes.start()).unwrap_or(i64::MAX))
    .bind(i64::try_from(*sizes.end()).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(size, key, line)| Ok((u64::try_from(size).context("reading a cosignature")?, key, line)))
        .collect()
}

/// The stored checkpoints in a range of sizes, smallest first.
pub async fn checkpoints(
    connection: &mut PgConnection,
    sizes: RangeInclusive<u64>,
) -> Result<Vec<(u64, String)>, Fault> {
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT size, note FROM audit_checkpoint WHERE size >= $1 AND size <= $2 ORDER BY size",
    )
    .bind(i64::try_from(*sizes.start()).unwrap_or(i64::MAX))
    .bind(i64::try_from(*sizes.end()).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(size, note)| Ok((u64::try_from(size).context("reading a checkpoint")?, note)))
        .collect()
}

/// The newest checkpoint, if signed within the period: after the first instant and not after the second.
pub async fn checkpoint_since(
    connection: &mut PgConnection,
    after: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<Option<(u64, String)>, Fault> {
    let row: Option<(i64, String)> = sqlx::query_as(
        "SELECT size, note FROM (SELECT * FROM audit_checkpoint ORDER BY size DESC LIMIT 1) newest
         WHERE made_at > $1 AND made_at <= $2",
    )
    .bind(after)
    .bind(until)
    .fetch_optional(connection)
    .await?;
    row.map(|(size, note)| Ok((u64::try_from(size).context("reading a checkpoint")?, note))).transpose()
}

pub async fn newest_checkpoint(connection: &mut PgConnection) -> Result<Option<(u64, String)>, Fault> {
    let row: Option<(i64, String)> =
        sqlx::query_as("SELECT size, note FROM audit_checkpoint ORDER BY size DESC LIMIT 1")
            .fetch_optional(connection)
            .await?;
    row.map(|(size, note)| Ok((u64::try_from(size).context("reading a checkpoint")?, note))).transpose()
}
