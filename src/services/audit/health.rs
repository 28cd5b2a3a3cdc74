//! The state of the log as far as a server can check it in a moment: whether the log continues its newest checkpoint, and
//! whether a witness vouches for it. Reads only. It does not verify every event: `actchain audit verify` does.

use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::checkpoint::{has_only_cosignatures, log_keys};
use crate::app::App;
use crate::domain::audit::health::{LogConcern, LogHealth, LogVerdict, has_cosignature_since};
use crate::domain::audit::witness::Witnesses;
use crate::domain::audit::{index, store, tree};
use crate::platform::fault::Fault;
use actchain_protocol::merkle;
use actchain_protocol::signed_note::{self, Checkpoint};

/// How long a result is reused.
const REUSED: Duration = Duration::minutes(1);
/// Age at which a checkpoint is old.
const OLD: Duration = Duration::minutes(3);
/// How long a cosignature vouches for a log that has grown since.
const VOUCHED: Duration = Duration::minutes(10);
/// Events that the index may be behind.
const INDEX_BEHIND: u64 = 4_096;

/// The result of this server, at most a minute old.
pub async fn health(app: &App, now: OffsetDateTime) -> Arc<LogHealth> {
    let mut known = app.log_health.lock().await;
    if let Some(health) = known.as_ref()
        && health.checked_at <= now
        && now < health.checked_at + REUSED
    {
        return Arc::clone(health);
    }
    let checked = app.read(async |connection| check(connection, &app.witnesses, now).await).await;
    let health = Arc::new(checked.unwrap_or_else(|fault| {
        tracing::warn!(error = %fault, "the state of the log could not be checked");
        let root = String::new();
        LogHealth { checked_at: now, size: 0, root, checkpoint: None, verdict: LogVerdict::Unchecked }
    }));
    *known = Some(Arc::clone(&health));
    health
}

/// Checks the log at once. `witnesses` are those of the configuration.
pub async fn check(
    connection: &mut PgConnection,
    witnesses: &Witnesses,
    now: OffsetDateTime,
) -> Result<LogHealth, Fault> {
    // The head is read last: in the other order, a checkpoint made in between would appear to cover a longer log.
    let newest = store::newest_checkpoint(connection).await?;
    let head = store::head(connection).await?;
    let health = |checkpoint, verdict| LogHealth {
        checked_at: now,
        size: head.size(),
        root: STANDARD.encode(head.root()),
        checkpoint,
        verdict,
    };
    let Some((size, note)) = newest else {
        let concerns = if head.size() == 0 { Vec::new() } else { vec![LogConcern::NoCheckpoint] };
        return Ok(health(None, LogVerdict::Consistent(concerns)));
    };
    let broken = |why: String| Ok(health(Some(size), LogVerdict::Broken(why)));
    if size > head.size() {
        return broken(format!(
            "The log has {} events, but a checkpoint covers {size}: it was truncated.",
            head.size()
        ));
    }
    let Some(before) = signed_note::parts(&note).and_then(|(text, _)| Checkpoint::parse(&text)) else {
        return broken(format!("The checkpoint over {size} events cannot be read."));
    };
    if !is_signed(connection, &note).await? {
        return broken(format!("No key of the log has signed the checkpoint over {size} events."));
    }
    let path = tree::consistency(connection, size, head.size()).await?;
    if before.size != size
        || !merkle::verify_consistency(size, head.size(), &path, &before.root, &head.root())
    {
        return broken(format!(
            "The log of {} events does not continue the checkpoint over {size}: it was rewritten.",
            head.size()
        ));
    }
    let concerns = concerns(connection, witnesses, size..head.size(), now).await?;
    Ok(health(Some(size), LogVerdict::Consistent(concerns)))
}

/// Whether a key of the log has signed a checkpoint: the signature is verified.
async fn is_signed(connection: &mut PgConnection, note: &str) -> Result<bool, Fault> {
    let Some((text, signatures)) = signed_note::parts(note) else { return Ok(false) };
    let keys = log_keys(connection, note.lines().next().unwrap_or_default()).await?;
    Ok(signatures.iter().any(|signature| keys.iter().any(|key| signature.is_by(key, &text))))
}

async fn concerns(
    connection: &mut PgConnection,
    witnesses: &Witnesses,
    uncovered: Range<u64>,
    now: OffsetDateTime,
) -> Result<Vec<LogConcern>, Fault> {
    let (checkpoint, size) = (uncovered.start, uncovered.end);
    let mut concerns = Vec::new();
    let is_recent = store::checkpoint_since(connection, now - OLD, now).await?.is_some();
    if !is_recent && checkpoint < size && !has_only_cosignatures(connection, uncovered).await? {
        concerns.push(LogConcern::OldCheckpoint);
    }
    let keys: Vec<String> = witnesses.iter().map(|witness| witness.key.text()).collect();
    if keys.is_empty() {
        concerns.push(LogConcern::NoWitness);
    } else {
        let quorum = witnesses.quorum().max(1);
        let covered = store::last_cosigned_by(connection, &keys, quorum, checkpoint).await?;
        let is_vouched =
            covered == Some(checkpoint) || has_cosignature_since(connection, &keys, now - VOUCHED).await?;
        if !is_vouched {
            concerns.push(LogConcern::NotCosigned);
        }
    }
    if index::indexed(connection).await? + INDEX_BEHIND < size {
        concerns.push(LogConcern::IndexBehind);
    }
    Ok(concerns)
}
