//! The partitions of the log: each holds an unbroken run of events, from its opening to that of the next.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use crate::platform::fault::Fault;

/// One partition.
#[derive(Debug, Clone, FromRow)]
pub struct Partition {
    /// Its number.
    pub partition: i32,
    /// Its first event, if it has any.
    pub first_seq: i64,
    /// When it was opened.
    pub opened_at: OffsetDateTime,
    /// When it was archived and dropped.
    pub archived_at: Option<OffsetDateTime>,
    /// The signed note that says which events it had and which file they are in.
    pub statement: Option<String>,
}

/// All of them, oldest first.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Partition>, Fault> {
    let sql = "SELECT partition, first_seq, opened_at, archived_at, statement FROM audit_partition ORDER BY partition";
    Ok(sqlx::query_as(sql).fetch_all(connection).await?)
}

/// The one that is written to.
pub async fn last(connection: &mut PgConnection) -> Result<Partition, Fault> {
    let sql = "SELECT partition, first_seq, opened_at, archived_at, statement FROM audit_partition
               ORDER BY partition DESC LIMIT 1";
    Ok(sqlx::query_as(sql).fetch_one(connection).await?)
}

/// The first event that is still in the database: what came before it was archived.
pub async fn first_available(connection: &mut PgConnection) -> Result<u64, Fault> {
    let sql = "SELECT coalesce(min(first_seq), 0) FROM audit_partition WHERE archived_at IS NULL";
    let first: i64 = sqlx::query_scalar(sql).fetch_one(connection).await?;
    Ok(u64::try_from(first).unwrap_or_default())
}

/// Opens the next one behind `after`; `false` if another server has.
pub async fn open(connection: &mut PgConnection, after: i32, now: OffsetDateTime) -> Result<bool, Fault> {
    let opened = sqlx::query_scalar("SELECT audit_open_partition($1, $2)").bind(after).bind(now);
    Ok(opened.fetch_one(connection).await?)
}

/// Forgets some of what events of blocks below one were found by; `false` when there is nothing left of it.
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

/// What is kept of a partition that is in a file.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveFile<'a> {
    /// SHA-256 of the file.
    pub sha256: &'a [u8; 32],
    /// The signed note about it.
    pub statement: &'a str,
    /// When.
    pub now: OffsetDateTime,
}

/// Says of a partition that it is in a file; `false` if it was said before.
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

/// Whether a partition has events besides those from one place on up to another.
pub async fn has_others(
    connection: &mut PgConnection,
    partition: i32,
    (from, to): (u64, u64),
) -> Result<bool, Fault> {
    let sql = format!("SELECT EXISTS (SELECT FROM audit_event_{partition} WHERE seq < $1 OR seq >= $2)");
    // A number makes the only difference.
    let others = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .bind(i64::try_from(to).unwrap_or(i64::MAX))
        .fetch_one(connection)
        .await?;
    Ok(others)
}

/// Drops a partition with its events. Under the head's lock, so that nobody who writes waits for it in the middle.
pub async fn drop_partition(connection: &mut PgConnection, partition: i32) -> Result<(), Fault> {
    for statement in [
        format!("ALTER TABLE audit_event DETACH PARTITION audit_event_{partition}"),
        format!("DROP TABLE audit_event_{partition}"),
    ] {
        // A number makes the only difference.
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    Ok(())
}
