//! Partitions of the log. Each partition contains consecutive events, from its opening to the opening of the
//! next partition.

use std::ops::Range;

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use crate::platform::fault::{Context, Fault};
use actchain_protocol::merkle::Hash;

#[derive(Debug, Clone, FromRow)]
pub struct Partition {
    pub partition: i32,
    /// `seq` of its first event, if the partition has any.
    pub first_seq: i64,
    pub opened_at: OffsetDateTime,
    /// When the partition was archived and dropped.
    pub archived_at: Option<OffsetDateTime>,
    /// The signed note that says which events the partition had and which file contains them.
    pub statement: Option<String>,
}

/// All partitions, oldest first.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Partition>, Fault> {
    let sql = "SELECT partition, first_seq, opened_at, archived_at, statement FROM audit_partition ORDER BY partition";
    Ok(sqlx::query_as(sql).fetch_all(connection).await?)
}

/// The partition that new events are written to.
pub async fn last(connection: &mut PgConnection) -> Result<Partition, Fault> {
    let sql = "SELECT partition, first_seq, opened_at, archived_at, statement FROM audit_partition
               ORDER BY partition DESC LIMIT 1";
    Ok(sqlx::query_as(sql).fetch_one(connection).await?)
}

/// `seq` of the first event in the database; earlier events are archived.
pub async fn first_available(connection: &mut PgConnection) -> Result<u64, Fault> {
    let sql = "SELECT coalesce(min(first_seq), 0) FROM audit_partition WHERE archived_at IS NULL";
    let first: i64 = sqlx::query_scalar(sql).fetch_one(connection).await?;
    Ok(u64::try_from(first).unwrap_or_default())
}

/// Opens the partition after `after`; returns `false` if another server already has.
pub async fn open(connection: &mut PgConnection, after: i32, now: OffsetDateTime) -> Result<bool, Fault> {
    let opened = sqlx::query_scalar("SELECT audit_open_partition($1, $2)").bind(after).bind(now);
    Ok(opened.fetch_one(connection).await?)
}

/// Deletes up to 50,000 postings of blocks below `below`; returns `false` when none are left.
pub async fn forget_postings(connection: &mut PgConnection, below: u64) -> Result<bool, Fault> {
    let done = sqlx::query(
        "DELETE FROM audit_posting WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM audit_posting WHERE block < $1 LIMIT 50000))",
    )
    .bind(i32::try_from(below).unwrap_or(i32::MAX))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// `seq` of the first event that is not in its partition, or of the first partition that does not continue the one
/// before.
pub async fn first_misplaced(connection: &mut PgConnection) -> Result<Option<u64>, Fault> {
    let misplaced: Option<i64> = sqlx::query_scalar(
        "WITH run AS (
             SELECT partition, first_seq, lead(first_seq) OVER ordered AS next_seq, archived_at,
                    row_number() OVER ordered - 1 AS place, lag(archived_at IS NULL) OVER ordered AS before_is_open
             FROM audit_partition WINDOW ordered AS (ORDER BY partition)
         )
         SELECT min(seq) FROM (
             SELECT event.seq FROM audit_event event LEFT JOIN run USING (partition)
             WHERE run.partition IS NULL OR event.seq < run.first_seq OR event.seq >= run.next_seq
             UNION ALL
             SELECT first_seq FROM run
             WHERE partition <> place OR next_seq < first_seq OR (place = 0 AND first_seq <> 0)
                OR (archived_at IS NOT NULL AND before_is_open)
             UNION ALL
             SELECT size FROM audit_head WHERE partition <> (SELECT max(partition) FROM run)
         ) misplaced (seq)",
    )
    .fetch_one(connection)
    .await?;
    misplaced.map(|seq| u64::try_from(seq).context("reading a partition")).transpose()
}

/// Stores the leaves of consecutive events that are archived before their block is complete.
pub async fn put_leaves(connection: &mut PgConnection, first: u64, leaves: &[Hash]) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO audit_leaf (seq, hash)
         SELECT $1 + input.place - 1, input.hash FROM unnest($2::bytea[]) WITH ORDINALITY AS input (hash, place)
         ON CONFLICT (seq) DO UPDATE SET hash = excluded.hash",
    )
    .bind(i64::try_from(first).context("numbering an event")?)
    .bind(leaves.iter().map(|leaf| leaf.to_vec()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes the leaves of [`put_leaves`] that blocks have taken over.
pub async fn forget_leaves(connection: &mut PgConnection, below: u64) -> Result<(), Fault> {
    sqlx::query("DELETE FROM audit_leaf WHERE seq < $1")
        .bind(i64::try_from(below).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(())
}

/// Record of an archived partition.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveFile<'a> {
    /// SHA-256 of the file.
    pub sha256: &'a [u8; 32],
    /// The signed note about the file.
    pub statement: &'a str,
    /// The leaves of the last events, which are not indexed.
    pub unindexed: &'a [Hash],
    pub now: OffsetDateTime,
}

/// Marks a partition as archived; returns `false` if it was already marked.
pub async fn mark_archived(
    connection: &mut PgConnection,
    partition: i32,
    file: ArchiveFile<'_>,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE audit_partition SET archived_at = $2, file_sha256 = $3, statement = $4
         WHERE partition = $1 AND archived_at IS NULL",
    )
    .bind(partition)
    .bind(file.now)
    .bind(file.sha256.as_slice())
    .bind(file.statement)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether a partition has events outside a range.
pub async fn has_others(
    connection: &mut PgConnection,
    partition: i32,
    range: Range<u64>,
) -> Result<bool, Fault> {
    let sql = format!("SELECT EXISTS (SELECT FROM audit_event_{partition} WHERE seq < $1 OR seq >= $2)");
    // Safe: the only variable part is an integer.
    let others = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(i64::try_from(range.start).unwrap_or(i64::MAX))
        .bind(i64::try_from(range.end).unwrap_or(i64::MAX))
        .fetch_one(connection)
        .await?;
    Ok(others)
}

/// Drops a partition with its events. Call under the lock of the head, so that no writer waits during the
/// drop.
pub async fn drop_partition(connection: &mut PgConnection, partition: i32) -> Result<(), Fault> {
    for statement in [
        format!("ALTER TABLE audit_event DETACH PARTITION audit_event_{partition}"),
        format!("DROP TABLE audit_event_{partition}"),
    ] {
        // Safe: the only variable part is an integer.
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    Ok(())
}
