//! The state of the log as far as a server can check it in a moment: whether the log continues its newest checkpoint,
//! whether a witness or a person vouches for it, and what the last verification of every event has found. Reads only.

use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::checkpoint::{has_only_cosignatures, log_keys};
use crate::app::App;
use crate::domain::audit::health::{
    LogConcern, LogHealth, LogVerdict, has_cosignature_since, has_stopped_sink,
};
use crate::domain::audit::log_checks::{self, EndedVerification, KeptCheckpoint, LogVerification};
use crate::domain::audit::witness::Witnesses;
use crate::domain::audit::{index, partitions, store, tree};
use crate::domain::row_mac::RowMac;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use actchain_protocol::merkle::{self, Frontier};
use actchain_protocol::signed_note::{self, Checkpoint};

/// How long a result is reused.
const REUSED: Duration = Duration::minutes(1);
/// Age at which a checkpoint is old.
const OLD: Duration = Duration::minutes(3);
/// How long a cosignature vouches for a log that has grown since.
const VOUCHED: Duration = Duration::minutes(10);
/// How long a comparison with a checkpoint that a person kept vouches for the log.
const COMPARED: Duration = Duration::days(7);
/// Within which time every event must have been verified.
const VERIFIED: Duration = Duration::DAY;
/// How long a sink may accept nothing although events wait for it.
const SINK_STOPPED: Duration = Duration::minutes(10);
/// Events that the index may be behind.
const INDEX_BEHIND: u64 = 4_096;

/// The state of the log as a program reads it.
#[derive(Debug, Serialize)]
pub struct LogHealthView<'a> {
    #[serde(with = "time::serde::rfc3339")]
    checked_at: OffsetDateTime,
    verdict: &'static str,
    /// Which check has failed.
    why: Option<&'a str>,
    concerns: &'a [LogConcern],
    size: u64,
    root: &'a str,
    checkpoint: Option<u64>,
    /// The verification that goes on.
    running_verification: Option<RunningView>,
    last_verification: Option<EndedVerification>,
    kept_checkpoint: Option<KeptCheckpoint>,
}

#[derive(Debug, Serialize)]
struct RunningView {
    #[serde(with = "time::serde::rfc3339")]
    began_at: OffsetDateTime,
    /// Number of verified events.
    events: u64,
}

impl<'a> From<&'a LogHealth> for LogHealthView<'a> {
    fn from(health: &'a LogHealth) -> Self {
        let (verdict, why) = match &health.verdict {
            LogVerdict::Consistent(_) => ("consistent", None),
            LogVerdict::Broken(why) => ("broken", Some(why.as_str())),
            LogVerdict::Unchecked => ("unchecked", None),
        };
        let running = health.verification.running.as_ref();
        Self {
            checked_at: health.checked_at,
            verdict,
            why,
            concerns: health.concerns(),
            size: health.size,
            root: &health.root,
            checkpoint: health.checkpoint,
            running_verification: running.map(|one| RunningView { began_at: one.began_at, events: one.size }),
            last_verification: health.verification.last,
            kept_checkpoint: health.kept_checkpoint,
        }
    }
}

/// The result of this server, at most a minute old.
pub async fn health(app: &App, now: OffsetDateTime) -> Arc<LogHealth> {
    let mut known = app.log_health.lock().await;
    if let Some(health) = known.as_ref()
        && health.checked_at <= now
        && now < health.checked_at + REUSED
    {
        return Arc::clone(health);
    }
    let checked = app.read(async |connection| check(connection, &app.rows, &app.witnesses, now).await).await;
    let health = Arc::new(checked.unwrap_or_else(|fault| {
        tracing::warn!(error = %fault, "the state of the log could not be checked");
        LogHealth {
            checked_at: now,
            size: 0,
            root: String::new(),
            checkpoint: None,
            verdict: LogVerdict::Unchecked,
            verification: LogVerification::default(),
            kept_checkpoint: None,
        }
    }));
    *known = Some(Arc::clone(&health));
    health
}

/// Checks the log at once. `witnesses` are those of the configuration.
pub async fn check(
    connection: &mut PgConnection,
    rows: &RowMac,
    witnesses: &Witnesses,
    now: OffsetDateTime,
) -> Result<LogHealth, Fault> {
    let verification = log_checks::read::<LogVerification>(connection, rows).await?.check.unwrap_or_default();
    let kept_checkpoint = log_checks::read::<KeptCheckpoint>(connection, rows).await?.check;
    // The head is read last: in the other order, a checkpoint made in between would appear to cover a longer log.
    let newest = store::newest_checkpoint(connection).await?;
    let newest = newest.map(|(size, note)| NewestCheckpoint { size, note });
    let head = store::head(connection).await?;
    let checkpoint = newest.as_ref().map(|newest| newest.size);
    let why = match failure(&verification) {
        Some(why) => Some(why),
        None => check_against(connection, newest.as_ref(), &head).await?,
    };
    let verdict = match why {
        Some(why) => LogVerdict::Broken(why),
        None => {
            let known = LastChecks { verification: &verification, kept_checkpoint, witnesses, now };
            LogVerdict::Consistent(known.concerns(connection, checkpoint, head.size()).await?)
        }
    };
    Ok(LogHealth {
        checked_at: now,
        size: head.size(),
        root: STANDARD.encode(head.root()),
        checkpoint,
        verdict,
        verification,
        kept_checkpoint,
    })
}

/// Why the last verification has failed.
fn failure(verification: &LogVerification) -> Option<String> {
    let last = verification.last?;
    let error = last.integrity_error?;
    let (at, why) = (rfc3339(last.ended_at), error.kind.sentence());
    Some(format!("The verification that ended at {at} found an error at event {}. {why}", error.seq))
}

/// The newest checkpoint as stored.
struct NewestCheckpoint {
    size: u64,
    note: String,
}

/// Why the log does not have all events after those that are indexed, or does not continue its newest checkpoint.
async fn check_against(
    connection: &mut PgConnection,
    newest: Option<&NewestCheckpoint>,
    head: &Frontier,
) -> Result<Option<String>, Fault> {
    let length = head.size();
    let from =
        index::indexed(connection).await?.max(partitions::first_available(connection).await?).min(length);
    let missing = (length - from).saturating_sub(store::count_events(connection, from..length).await?);
    if missing > 0 {
        return Ok(Some(format!("Of the events from {from} to {length}, {missing} are missing.")));
    }
    let Some(NewestCheckpoint { size, note }) = newest else { return Ok(None) };
    let size = *size;
    if size > length {
        return Ok(Some(format!(
            "The log has {length} events, but a checkpoint covers {size}: it was truncated."
        )));
    }
    let Some(before) = signed_note::parts(note).and_then(|(text, _)| Checkpoint::parse(&text)) else {
        return Ok(Some(format!("The checkpoint over {size} events cannot be read.")));
    };
    if !is_signed(connection, note).await? {
        return Ok(Some(format!("No key of the log has signed the checkpoint over {size} events.")));
    }
    let path = tree::consistency(connection, size, length).await?;
    let continues =
        before.size == size && merkle::verify_consistency(size, length, &path, &before.root, &head.root());
    Ok((!continues).then(|| {
        format!("The log of {length} events does not continue the checkpoint over {size}: it was rewritten.")
    }))
}

/// Whether a key of the log has signed a checkpoint: the signature is verified.
async fn is_signed(connection: &mut PgConnection, note: &str) -> Result<bool, Fault> {
    let Some((text, signatures)) = signed_note::parts(note) else { return Ok(false) };
    let keys = log_keys(connection, note.lines().next().unwrap_or_default()).await?;
    Ok(signatures.iter().any(|signature| keys.iter().any(|key| signature.is_by(key, &text))))
}

/// What was checked of a log before.
struct LastChecks<'a> {
    verification: &'a LogVerification,
    kept_checkpoint: Option<KeptCheckpoint>,
    witnesses: &'a Witnesses,
    now: OffsetDateTime,
}

impl LastChecks<'_> {
    /// Why a log that continues its newest checkpoint needs attention.
    async fn concerns(
        &self,
        connection: &mut PgConnection,
        checkpoint: Option<u64>,
        size: u64,
    ) -> Result<Vec<LogConcern>, Fault> {
        let mut concerns = Vec::new();
        if size == 0 {
            return Ok(concerns);
        }
        match checkpoint {
            None => concerns.push(LogConcern::NoCheckpoint),
            Some(checkpoint) => {
                concerns.extend(self.about_checkpoint(connection, checkpoint..size).await?);
            }
        }
        let is_recent = |last: EndedVerification| last.ended_at + VERIFIED > self.now;
        if !self.verification.last.is_some_and(is_recent) {
            concerns.push(LogConcern::NotVerified);
        }
        if index::indexed(connection).await? + INDEX_BEHIND < size {
            concerns.push(LogConcern::IndexBehind);
        }
        if has_stopped_sink(connection, size, self.now - SINK_STOPPED).await? {
            concerns.push(LogConcern::SinkStopped);
        }
        Ok(concerns)
    }

    /// Concerns about the newest checkpoint; the range has the events that it does not cover.
    async fn about_checkpoint(
        &self,
        connection: &mut PgConnection,
        uncovered: Range<u64>,
    ) -> Result<Vec<LogConcern>, Fault> {
        let (checkpoint, size) = (uncovered.start, uncovered.end);
        let mut concerns = Vec::new();
        let is_recent = store::checkpoint_since(connection, self.now - OLD, self.now).await?.is_some();
        if !is_recent && checkpoint < size && !has_only_cosignatures(connection, uncovered).await? {
            concerns.push(LogConcern::OldCheckpoint);
        }
        if self.kept_checkpoint.is_some_and(|kept| kept.compared_at + COMPARED > self.now) {
            return Ok(concerns);
        }
        let keys: Vec<String> = self.witnesses.iter().map(|witness| witness.key.text()).collect();
        if keys.is_empty() {
            concerns.push(LogConcern::NoWitness);
            return Ok(concerns);
        }
        let quorum = self.witnesses.quorum().max(1);
        let covered = store::last_cosigned_by(connection, &keys, quorum, checkpoint).await?;
        let since = self.now - VOUCHED;
        if covered != Some(checkpoint) && !has_cosignature_since(connection, &keys, since).await? {
            concerns.push(LogConcern::NotCosigned);
        }
        Ok(concerns)
    }
}
