//! What follows the restoration of a backup: what happened after the backup is lost, revocations among it. So all tokens of
//! before are revoked, and delegations that may have been changed are suspended until their delegators approve them again.

use serde::Serialize;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::audit::{TrustAnchors, log_keys, verify_database};
use super::console_ends;
use super::request_context::RequestContext;
use super::transaction::{AuditedTransaction, Authorized};
use crate::domain::audit::detail::{RestoredBackup, SessionEnd, SuspensionCause};
use crate::domain::audit::{self, EventKind};
use crate::domain::delegation::transitions::{Suspended, mark_suspended};
use crate::domain::registry::store as registry_store;
use crate::domain::{authority_lock, console, delegation, standing_grant, status, vault};
use crate::platform::fault::Fault;
use actchain_protocol::signed_note::{self, Checkpoint};

/// Which delegations are suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewScope {
    /// Those that changed within this time before the newest event.
    Within(Duration),
    All,
}

/// The state after the restoration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoredReport {
    /// Number of events of the restored log, without those of this command.
    pub events: u64,
    /// Ids of the delegations that wait for a review.
    pub suspended: Vec<String>,
    /// Number of standing grants whose keys the users have to confirm again.
    pub suspended_grants: u64,
    /// Number of active connections whose refresh tokens can be older than those of the provider.
    pub refreshable_connections: i64,
    /// Size of the checkpoint that was kept outside the database.
    pub checkpoint: Option<u64>,
    /// Number of events of that checkpoint that the restored log does not have.
    pub missing_events: Option<u64>,
}

/// Revokes all tokens and suspends delegations. `checkpoint` was kept outside the database.
///
/// # Errors
/// A fault, also if the log is not the one of the checkpoint; nothing is changed then.
pub async fn review_restored(
    ctx: &RequestContext<'_>,
    scope: ReviewScope,
    checkpoint: Option<&str>,
) -> Result<RestoredReport, Fault> {
    let compared = compare(ctx, checkpoint).await?;
    let mut work = AuditedTransaction::begin_exclusive(ctx.pool, Authorized::without_request()).await?;
    let events = audit::store::head(work.connection()).await?.size();
    let index = status::store::close_lists(work.connection()).await?;
    let revoked_epoch = authority_lock::mark_restored(work.connection(), index).await?;
    let signed_out = console::store::end_all(work.connection(), ctx.now).await?;
    // Running servers reload what they have read, and take a new block of status indices.
    registry_store::raise_version(work.connection()).await?;
    let suspended_grants = standing_grant::suspension::mark_restored(work.connection(), ctx.now).await?;
    let suspended = match scope {
        ReviewScope::All => mark_suspended(work.connection(), &Suspended::All, ctx.now).await?,
        ReviewScope::Within(time) => match audit::recent::newest_time(work.connection()).await? {
            None => Vec::new(),
            Some(newest) => {
                let since = since(newest, time);
                let ids = audit::recent::delegations_since(work.connection(), since).await?;
                mark_suspended(work.connection(), &Suspended::Since(since, &ids), ctx.now).await?
            }
        },
    };
    let refreshable_connections = vault::store::count_refreshable(work.connection()).await?;
    let report = RestoredReport {
        events,
        suspended,
        suspended_grants,
        refreshable_connections,
        checkpoint: compared.as_ref().map(|one| one.size),
        missing_events: compared.map(|one| one.size.saturating_sub(events)),
    };
    let mut recorded = vec![ctx.event(EventKind::BackupRestored(RestoredBackup {
        revoked_epoch,
        suspended: u64::try_from(report.suspended.len()).unwrap_or(u64::MAX),
        refreshable_connections,
        checkpoint: report.checkpoint,
        missing_events: report.missing_events,
    }))];
    recorded.extend(console_ends::ended_by(ctx, signed_out, SessionEnd::BackupRestored));
    for id in &report.suspended {
        let path = delegation::store::path(ctx.rows, work.connection(), id).await?;
        let path = path.ok_or_else(|| Fault::new(format!("delegation {id} cannot be read again")))?;
        let kind = EventKind::DelegationSuspended { cause: SuspensionCause::BackupRestored };
        recorded.push(ctx.event_about(kind, &path));
    }
    work.commit(&recorded).await?;
    Ok(report)
}

fn since(newest: OffsetDateTime, time: Duration) -> OffsetDateTime {
    newest.checked_sub(time).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Compares the log with the kept checkpoint. A checkpoint of a longer log shows that its end is lost.
async fn compare(ctx: &RequestContext<'_>, checkpoint: Option<&str>) -> Result<Option<Checkpoint>, Fault> {
    let mut connection = ctx.pool.acquire().await?;
    let mut anchors = TrustAnchors::default();
    let kept = match checkpoint {
        None => None,
        Some(note) => {
            let kept = signed(&mut connection, note).await?;
            if kept.size <= audit::store::head(&mut connection).await?.size() {
                anchors.notes.push(note.to_owned());
            }
            Some(kept)
        }
    };
    let report = verify_database(&mut connection, &anchors).await?;
    match report.integrity_error {
        Some(error) => Err(Fault::new(format!(
            "the log is broken at event {}, or is not the log of the checkpoint: restore another backup",
            error.seq
        ))),
        None => Ok(kept),
    }
}

/// A checkpoint that a key of the log has signed, whatever its size.
async fn signed(connection: &mut PgConnection, note: &str) -> Result<Checkpoint, Fault> {
    let name = note.lines().next().unwrap_or_default();
    signed_note::open(note, &log_keys(connection, name).await?).ok_or_else(|| {
        Fault::new(
            "no key of the restored log has signed the checkpoint: it is of another log, was changed, or its key is newer than \
             the backup. Without --checkpoint nothing is compared; consider --all",
        )
    })
}
