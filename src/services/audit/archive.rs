//! Moves old partitions of the log into files that verify by themselves. A partition is dropped only after its file
//! was read back from disk and verified. The leaf hashes stay in the database, so proofs and roots do not change. The
//! log's key signs which events are in which file; verification trusts only that statement.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use super::archive_file::{ArchiveContent, put_in_place, write, write_beside};
use super::checkpoint::{LogSigner, active_key, checkpoint_on, signer_of};
use super::file::{CheckpointLine, is_document};
use super::file_reader::{digest_of, each_line};
use super::report::TrustAnchors;
use super::{log_keys, origin, verify_export};
use crate::domain::audit::append::append_events;
use crate::domain::audit::partitions::{self, ArchiveFile, Partition};
use crate::domain::audit::{Actor, Event, EventKind, index, store, tree};
use crate::domain::{authority_lock, sink};
use crate::platform::fault::{Context, Fault};
use crate::platform::locks::Lock;
use actchain_protocol::archive_statement::ArchiveStatement;
use actchain_protocol::digest::hex;
use actchain_protocol::merkle::{self, Frontier};
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};

/// Gives up after 500 ms: while `DETACH` waits for its lock it blocks readers and writers. The command then retries.
const SET_LOCK_TIMEOUT: &str = "SET lock_timeout = '500ms'";
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Serialize)]
pub struct ArchivedPartition {
    pub partition: i32,
    pub from: u64,
    /// The `seq` after the last event.
    pub to: u64,
    pub file: PathBuf,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// Which partitions are archived, and the target folder.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveOptions<'a> {
    /// Only partitions whose events are all older than this are archived.
    pub before: OffsetDateTime,
    pub folder: &'a Path,
}

/// Archives every closed partition that is old enough, oldest first. Needs a database user that owns the tables.
///
/// # Errors
/// A fault if another archive command runs, a file cannot be written and verified, or the log contradicts its
/// checkpoints. Partitions archived before stay archived; no event of the others is lost.
pub async fn archive(
    database: &PgConnectOptions,
    signer: LogSigner<'_>,
    options: ArchiveOptions<'_>,
    now: OffsetDateTime,
) -> Result<Vec<ArchivedPartition>, Fault> {
    let mut connection = PgConnection::connect_with(database).await.context("connecting to the database")?;
    let done = archive_all(&mut connection, signer, options, now).await;
    // Releases the lock before the command returns, also after a failure; the database session may end later. If this
    // query fails, the session has ended already.
    let _ = sqlx::query("SELECT pg_advisory_unlock_all()").execute(&mut connection).await;
    connection.close().await.context("closing a connection")?;
    done
}

async fn archive_all(
    connection: &mut PgConnection,
    signer: LogSigner<'_>,
    options: ArchiveOptions<'_>,
    now: OffsetDateTime,
) -> Result<Vec<ArchivedPartition>, Fault> {
    sqlx::query("SET statement_timeout = 0").execute(&mut *connection).await?;
    sqlx::query(SET_LOCK_TIMEOUT).execute(&mut *connection).await?;
    let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(Lock::Archive.number())
        .fetch_one(&mut *connection)
        .await?;
    if !alone {
        return Err(Fault::new("another process is archiving this log: try again when it has ended"));
    }
    let mut done = Vec::new();
    let partitions = partitions::list(connection).await?;
    for (partition, next) in partitions.iter().zip(partitions.iter().skip(1)) {
        if partition.archived_at.is_some() {
            continue;
        }
        if next.opened_at > options.before {
            break;
        }
        let partition = ClosedPartition::new(partition, next)?;
        match archive_partition(connection, partition, signer, options, now).await? {
            Some(archived) => done.push(archived),
            None => break,
        }
    }
    Ok(done)
}

/// A partition that no more events are written to.
#[derive(Clone, Copy)]
struct ClosedPartition {
    number: i32,
    from: u64,
    /// The `seq` after the last event.
    to: u64,
}

impl ClosedPartition {
    fn new(partition: &Partition, next: &Partition) -> Result<Self, Fault> {
        let seq = |seq: i64| u64::try_from(seq).context("reading a partition");
        Ok(Self { number: partition.partition, from: seq(partition.first_seq)?, to: seq(next.first_seq)? })
    }
}

/// Archives one partition; `None` if it has an event that is not old enough.
async fn archive_partition(
    connection: &mut PgConnection,
    partition: ClosedPartition,
    signer: LogSigner<'_>,
    options: ArchiveOptions<'_>,
    now: OffsetDateTime,
) -> Result<Option<ArchivedPartition>, Fault> {
    let ClosedPartition { number, from, to } = partition;
    if let Some((sink, position)) = sink::store::behind(connection, to).await? {
        return Err(Fault::new(format!(
            "sink {sink} has been sent events up to {position} only: partition {number} waits for it, or for its being disabled"
        )));
    }
    let frontier = tree::frontier(connection, to).await?;
    let checkpoint_line = checkpoint_line_at(connection, signer, &frontier, now).await?;
    let name = format!("audit-{from:012}-{to:012}.jsonl");
    let path = options.folder.join(&name);
    let aside = options.folder.join(format!(".{name}.part"));
    let indexed = index::indexed(connection).await?;
    let content = ArchiveContent {
        from,
        frontier: &frontier,
        before: options.before,
        indexed,
        checkpoint_line: &checkpoint_line,
    };
    let written = match write(connection, &aside, content).await {
        Ok(Some(written)) => written,
        other => {
            // The incomplete file has no use; a failure to remove it is harmless.
            let _ = std::fs::remove_file(&aside);
            return other.map(|_| None);
        }
    };
    put_in_place(&aside, &path)?;
    let from_root = tree::frontier(connection, from).await?.root();
    // The log may have had another name when this checkpoint was signed.
    let name_then = checkpoint_line.checkpoint.lines().next().unwrap_or_default();
    let archived =
        ArchivedPartition { partition: number, from, to, sha256: hex(&written.digest), file: path.clone() };
    read_back(&archived, &log_keys(connection, name_then).await?)?;
    let statement = ArchiveStatement {
        origin: origin(signer.issuer),
        partition: u64::try_from(number).context("numbering a partition")?,
        from,
        to,
        from_root,
        root: frontier.root(),
        sha256: written.digest,
        file: name,
    };
    let active = active_key(connection).await?;
    let note = signer.sign_text(std::slice::from_ref(&active), &statement.text())?;
    write_beside(&path, &note)?;
    let file = ArchiveFile { sha256: &written.digest, statement: &note, unindexed: &written.unindexed, now };
    forget(connection, &archived, &statement.file, file).await?;
    // No search goes below the first available event, so this cleanup may take time, or be left to the next run.
    while partitions::forget_postings(connection, to / index::BLOCK).await? {}
    Ok(Some(archived))
}

/// A checkpoint over exactly the events before the partition's end. Returns the stored checkpoint, or signs a new one
/// after proving that the newest checkpoint is consistent with it (RFC 9162 §2.1.4).
async fn checkpoint_line_at(
    connection: &mut PgConnection,
    signer: LogSigner<'_>,
    frontier: &Frontier,
    now: OffsetDateTime,
) -> Result<CheckpointLine, Fault> {
    let newest = checkpoint_on(connection, signer, now).await?;
    let newest = signed_note::parts(&newest).and_then(|(text, _)| Checkpoint::parse(&text));
    let newest = newest.ok_or_else(|| Fault::new("the newest checkpoint cannot be read"))?;
    let path = tree::consistency(connection, frontier.size(), newest.size).await?;
    if !merkle::verify_consistency(frontier.size(), newest.size, &path, &frontier.root(), &newest.root) {
        return Err(Fault::new("the events are not those that the newest checkpoint vouches for"));
    }
    let active = active_key(connection).await?;
    let note = signer.sign_checkpoint(std::slice::from_ref(&active), frontier)?;
    store::insert_checkpoint(connection, frontier.size(), &note, now).await?;
    let kept = store::find_checkpoint(connection, frontier.size()).await?;
    let kept = kept.ok_or_else(|| Fault::new("a checkpoint vanished"))?;
    let key = signer_of(connection, &kept).await?.text();
    Ok(CheckpointLine { checkpoint: kept, key })
}

/// Reads the file from its final path and verifies all of it.
fn read_back(archived: &ArchivedPartition, keys: &[VerifierKey]) -> Result<(), Fault> {
    let ArchivedPartition { from, to, file, sha256, .. } = archived;
    let report = verify_export(file, &TrustAnchors { keys: keys.to_vec(), ..TrustAnchors::default() })?;
    if report.valid && (report.from, report.events) == (*from, *to) && hex(&digest_of(file)?) == *sha256 {
        Ok(())
    } else {
        Err(Fault::new(format!("{} does not read back as it was written", file.display())))
    }
}

/// Drops an archived partition and records that, in one short transaction, because all writers wait for it.
async fn forget(
    connection: &mut PgConnection,
    archived: &ArchivedPartition,
    name: &str,
    file: ArchiveFile<'_>,
) -> Result<(), Fault> {
    for _ in 1..ATTEMPTS {
        match try_forget(connection, archived, name, file).await {
            Err(fault) if is_locked(&fault) => tokio::time::sleep(PAUSE).await,
            other => return other,
        }
    }
    try_forget(connection, archived, name, file).await
}

/// Whether another session was reading the log (SQLSTATE 55P03, lock_not_available).
fn is_locked(fault: &Fault) -> bool {
    let cause = std::error::Error::source(fault).and_then(|cause| cause.downcast_ref::<sqlx::Error>());
    cause
        .and_then(|cause| cause.as_database_error())
        .is_some_and(|error| error.code().as_deref() == Some("55P03"))
}

async fn try_forget(
    connection: &mut PgConnection,
    archived: &ArchivedPartition,
    name: &str,
    file: ArchiveFile<'_>,
) -> Result<(), Fault> {
    let mut transaction = connection.begin_with(authority_lock::BEGIN_SHARED).await?;
    if !partitions::mark_archived(&mut transaction, archived.partition, file).await? {
        return Err(Fault::new("another process has archived the partition"));
    }
    let kind = EventKind::AuditArchived {
        partition: archived.partition,
        from: archived.from,
        to: archived.to,
        sha256: archived.sha256.clone(),
        file: name.to_owned(),
    };
    let mut event = Event::new(file.now, kind, Actor::Operator);
    event.target = Some(format!("partition {}", archived.partition));
    // Takes the lock on the log's head: from here on no session writes to the table whose partition is dropped.
    append_events(&mut transaction, &[event]).await?;
    let first = archived.to - u64::try_from(file.unindexed.len()).context("numbering an event")?;
    partitions::put_leaves(&mut transaction, first, file.unindexed).await?;
    // Leaves that a block took over long ago: no reader has chosen between the two meanwhile.
    let indexed = index::indexed(&mut transaction).await?;
    partitions::forget_leaves(&mut transaction, indexed.saturating_sub(index::BLOCK)).await?;
    // A row that was moved into this partition is in no file.
    if partitions::has_others(&mut transaction, archived.partition, archived.from..archived.to).await? {
        return Err(Fault::new(format!("partition {} has events that are not its own", archived.partition)));
    }
    partitions::drop_partition(&mut transaction, archived.partition).await?;
    transaction.commit().await.context("committing")
}

/// The event to find in a file.
#[derive(Debug, Clone)]
pub enum ArchiveLookup {
    Seq(u64),
    Id(uuid::Uuid),
}

/// Finds an event in a file, as stored. Does not verify the file.
pub fn show(path: &Path, lookup: &ArchiveLookup) -> Result<Option<String>, Fault> {
    let needle = match lookup {
        ArchiveLookup::Seq(seq) => format!("\"seq\":{seq}"),
        ArchiveLookup::Id(id) => format!("\"id\":\"{id}\""),
    };
    let is_it = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        match lookup {
            ArchiveLookup::Seq(seq) => event.get("seq").and_then(serde_json::Value::as_u64) == Some(*seq),
            ArchiveLookup::Id(id) => {
                event.get("id").and_then(serde_json::Value::as_str) == Some(&id.to_string())
            }
        }
    };
    let mut found = None;
    each_line(path, |line| {
        // A damaged line may not be UTF-8.
        let text = String::from_utf8_lossy(line);
        if is_document(line) && text.contains(&needle) && is_it(&text) {
            found = Some(text.into_owned());
            return std::ops::ControlFlow::Break(());
        }
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(found)
}
