//! Which checks of the log fail, and why a log without a failure needs attention.

use serde_json::Value;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::checkpoint::{has_only_cosignatures, log_keys};
use super::cosignatures::with_witnesses;
use super::verify::stated;
use crate::domain::audit::health::{LogConcern, events_that_sinks_refuse};
use crate::domain::audit::log_checks::{EndedVerification, KeptCheckpoint, KnownRoot, LogVerification};
use crate::domain::audit::witness::{Witnesses, cosigned_at};
use crate::domain::audit::{index, partitions, store, tree};
use crate::domain::row_mac::RowMac;
use crate::platform::clock;
use crate::platform::fault::Fault;
use actchain_protocol::merkle::{self, Frontier};
use actchain_protocol::signed_note;

/// Age at which a checkpoint is old.
const OLD: Duration = Duration::minutes(3);
/// How long a cosignature vouches for a log that has grown since.
const VOUCHED: Duration = Duration::minutes(10);
/// Within which time every event must have been verified.
pub(super) const VERIFIED: Duration = Duration::DAY;
/// How long a sink may accept nothing although events wait for it.
const SINK_STOPPED: Duration = Duration::minutes(10);
/// Events that the index may be behind.
const INDEX_BEHIND: u64 = 4_096;

/// Whether a time is in the last part of the past. A time in the future is not: the clock was set back, or it is made up.
pub(super) fn is_within(at: OffsetDateTime, period: Duration, now: OffsetDateTime) -> bool {
    at <= now && now < at + period
}

/// Whether a log begins with the events of a root.
pub(super) async fn continues(
    connection: &mut PgConnection,
    known: KnownRoot,
    head: &Frontier,
) -> Result<bool, Fault> {
    let (before, size) = (known.size, head.size());
    if before > size {
        return Ok(false);
    }
    let path = tree::consistency(connection, before, size).await?;
    Ok(merkle::verify_consistency(before, size, &path, &known.root, &head.root()))
}

/// Whether a key of the log has signed a checkpoint: the signature is verified.
async fn is_signed(connection: &mut PgConnection, note: &str) -> Result<bool, Fault> {
    let Some((text, signatures)) = signed_note::parts(note) else { return Ok(false) };
    let keys = log_keys(connection, note.lines().next().unwrap_or_default()).await?;
    Ok(signatures.iter().any(|signature| keys.iter().any(|key| signature.is_by(key, &text))))
}

/// What a check relies on.
#[derive(Debug, Clone, Copy)]
pub struct LogTrust<'a> {
    pub rows: &'a RowMac,
    /// Those of the configuration.
    pub witnesses: &'a Witnesses,
    /// What this process has seen of the log before.
    pub seen: Option<KnownRoot>,
}

/// What a check compares the log with.
pub(super) struct LogEvaluation<'a> {
    pub(super) verification: &'a LogVerification,
    /// The comparison that still counts.
    pub(super) kept_checkpoint: Option<KeptCheckpoint>,
    pub(super) newest: Option<NewestCheckpoint>,
    pub(super) trust: LogTrust<'a>,
    pub(super) now: OffsetDateTime,
}

/// The newest checkpoint as stored.
pub(super) struct NewestCheckpoint {
    pub(super) size: u64,
    pub(super) note: String,
}

impl LogEvaluation<'_> {
    /// Which check has failed.
    pub(super) async fn failure(
        &self,
        connection: &mut PgConnection,
        head: &Frontier,
    ) -> Result<Option<String>, Fault> {
        let size = head.size();
        if let Some(error) = self.verification.last.and_then(|last| last.integrity_error) {
            let why = error.kind.sentence();
            return Ok(Some(format!("The last verification found an error at event {}. {why}", error.seq)));
        }
        let from = index::indexed(connection).await?.max(partitions::first_available(connection).await?);
        let from = from.min(size);
        let missing = (size - from).saturating_sub(store::count_events(connection, from..size).await?);
        if missing > 0 {
            return Ok(Some(format!("Of the events from {from} to {size}, {missing} are missing.")));
        }
        if let Some(why) = self.contradiction(connection, head).await? {
            return Ok(Some(why));
        }
        let cosigned = self.cosigned(connection).await?.as_deref().and_then(stated);
        let known = [
            (cosigned.map(|one| KnownRoot { size: one.size, root: one.root }), "that a witness has cosigned"),
            (self.trust.seen, "that this server has seen"),
            (self.verification.valid, "that were verified before"),
            (self.kept_checkpoint.map(|kept| kept.known), "of a checkpoint that a person kept"),
        ];
        for (known, which) in known.into_iter().filter_map(|(known, which)| Some((known?, which))) {
            if !continues(connection, known, head).await? {
                let before = known.size;
                return Ok(Some(format!(
                    "The log of {size} events does not continue the {before} events {which}: it was truncated or rewritten."
                )));
            }
        }
        Ok(None)
    }

    /// Why the log does not continue its newest checkpoint.
    async fn contradiction(
        &self,
        connection: &mut PgConnection,
        head: &Frontier,
    ) -> Result<Option<String>, Fault> {
        let Some(NewestCheckpoint { size, note }) = &self.newest else { return Ok(None) };
        let (size, length) = (*size, head.size());
        if size > length {
            return Ok(Some(format!(
                "The log has {length} events, but a checkpoint covers {size}: it was truncated."
            )));
        }
        let Some(before) = stated(note) else {
            return Ok(Some(format!("The checkpoint over {size} events cannot be read.")));
        };
        if !is_signed(connection, note).await? {
            return Ok(Some(format!("No key of the log has signed the checkpoint over {size} events.")));
        }
        let known = KnownRoot { size: before.size, root: before.root };
        let continues = before.size == size && continues(connection, known, head).await?;
        Ok((!continues).then(|| {
            format!(
                "The log of {length} events does not continue the checkpoint over {size}: it was rewritten."
            )
        }))
    }

    /// Why a log without a failure needs attention.
    pub(super) async fn concerns(
        &self,
        connection: &mut PgConnection,
        size: u64,
    ) -> Result<Vec<LogConcern>, Fault> {
        let mut concerns = Vec::new();
        if size == 0 {
            return Ok(concerns);
        }
        match &self.newest {
            None => concerns.push(LogConcern::NoCheckpoint),
            Some(newest) => concerns.extend(self.about_checkpoint(connection, newest, size).await?),
        }
        let is_verified = |last: EndedVerification| is_within(last.began_at, VERIFIED, self.now);
        if !self.verification.last.is_some_and(is_verified) {
            concerns.push(LogConcern::NotVerified);
        }
        if index::indexed(connection).await? + INDEX_BEHIND < size {
            concerns.push(LogConcern::IndexBehind);
        }
        if self.has_stopped_sink(connection, size).await? {
            concerns.push(LogConcern::SinkStopped);
        }
        Ok(concerns)
    }

    async fn about_checkpoint(
        &self,
        connection: &mut PgConnection,
        newest: &NewestCheckpoint,
        size: u64,
    ) -> Result<Vec<LogConcern>, Fault> {
        let mut concerns = Vec::new();
        let is_recent = store::checkpoint_since(connection, self.now - OLD, self.now).await?.is_some();
        let uncovered = newest.size..size;
        if !is_recent && !uncovered.is_empty() && !has_only_cosignatures(connection, uncovered).await? {
            concerns.push(LogConcern::OldCheckpoint);
        }
        if self.kept_checkpoint.is_some() {
            return Ok(concerns);
        }
        if self.trust.witnesses.is_empty() {
            concerns.push(LogConcern::NoWitness);
        } else if !self.is_cosigned(connection, newest).await? {
            concerns.push(LogConcern::NotCosigned);
        }
        Ok(concerns)
    }

    /// Whether the quorum has cosigned the newest checkpoint, or a witness an earlier one of late.
    async fn is_cosigned(
        &self,
        connection: &mut PgConnection,
        newest: &NewestCheckpoint,
    ) -> Result<bool, Fault> {
        let note = with_witnesses(connection, newest.size, newest.note.clone()).await?;
        if self.trust.witnesses.cosigned_size(&note).is_some() {
            return Ok(true);
        }
        let Some(note) = self.cosigned(connection).await? else { return Ok(false) };
        let is_recent = |at: u64| {
            let at = i64::try_from(at).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
            at.is_some_and(|at| is_within(at, VOUCHED, self.now))
        };
        Ok(cosigned_at(self.trust.witnesses, &note).into_iter().any(is_recent))
    }

    /// The newest checkpoint that a witness has cosigned. The signatures are verified: rows alone vouch for nothing.
    async fn cosigned(&self, connection: &mut PgConnection) -> Result<Option<String>, Fault> {
        let keys: Vec<String> = self.trust.witnesses.iter().map(|witness| witness.key.text()).collect();
        let Some(size) = store::last_cosigned_by(connection, &keys, 1, u64::MAX).await? else {
            return Ok(None);
        };
        let Some(note) = store::find_checkpoint(connection, size).await? else { return Ok(None) };
        let note = with_witnesses(connection, size, note).await?;
        Ok(Some(note).filter(|note| !cosigned_at(self.trust.witnesses, note).is_empty()))
    }

    /// An event that is missing or not readable counts as old.
    async fn has_stopped_sink(&self, connection: &mut PgConnection, size: u64) -> Result<bool, Fault> {
        let refused = events_that_sinks_refuse(connection, size).await?;
        Ok(refused.iter().any(|document| {
            let event = document.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
            let at = event.as_ref().and_then(|event| clock::instant(event.get("at")?.as_str()?));
            at.is_none_or(|at| at + SINK_STOPPED <= self.now)
        }))
    }
}
