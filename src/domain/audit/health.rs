//! What a server knows about the state of the log, without reading all of it.

use std::sync::Arc;

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::log_checks::{KeptCheckpoint, KnownRoot, LogVerification};
use crate::platform::fault::Fault;

/// What a server remembers of the log.
#[derive(Debug, Default)]
pub struct RememberedLog {
    pub health: Option<Arc<LogHealth>>,
    /// The root of the log at the last check that found no error.
    pub seen: Option<KnownRoot>,
}

/// What a server has checked of the log, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHealth {
    pub checked_at: OffsetDateTime,
    pub size: u64,
    /// The root of the log of this size, in base64.
    pub root: String,
    /// Number of events that the newest checkpoint covers.
    pub checkpoint: Option<u64>,
    pub verdict: LogVerdict,
    /// How far every event was verified.
    pub verification: LogVerification,
    /// The comparison with a kept checkpoint that counts.
    pub kept_checkpoint: Option<KeptCheckpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogVerdict {
    /// The log continues its newest checkpoint, whose signature is that of a log key.
    Consistent(Vec<LogConcern>),
    /// A check has failed; a sentence says which.
    Broken(String),
    /// The check could not be made.
    Unchecked,
}

/// Why a consistent log needs attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogConcern {
    NoCheckpoint,
    /// The newest checkpoint is older than three minutes, and there are later events.
    OldCheckpoint,
    /// No witness is configured, and no person has compared a checkpoint within seven days.
    NoWitness,
    /// The quorum of witnesses has not cosigned the newest checkpoint, none within ten minutes, and no person has
    /// compared a checkpoint within seven days.
    NotCosigned,
    /// No verification that began within a day has found every event valid.
    NotVerified,
    /// The index of searches is more than 4,096 events behind.
    IndexBehind,
    /// A sink has not accepted an event that is older than ten minutes.
    SinkStopped,
}

impl LogConcern {
    /// What a person reads about the concern.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoCheckpoint => "There is no checkpoint yet.",
            Self::OldCheckpoint => {
                "The newest checkpoint is older than three minutes, and there are later events."
            }
            Self::NoWitness => "No witness is configured: only this server vouches for the log.",
            Self::NotCosigned => {
                "The witnesses have not cosigned the newest checkpoint, and none in the last ten minutes."
            }
            Self::NotVerified => "No verification that began within a day has found every event valid.",
            Self::IndexBehind => "The index of searches is more than 4,096 events behind.",
            Self::SinkStopped => "A sink has not accepted an event that is older than ten minutes.",
        }
    }
}

impl LogHealth {
    pub fn concerns(&self) -> &[LogConcern] {
        match &self.verdict {
            LogVerdict::Consistent(concerns) => concerns,
            LogVerdict::Broken(_) | LogVerdict::Unchecked => &[],
        }
    }
}

/// Why this server has disabled a sink that accepts nothing any more.
pub const DECLINED: &str = "answered 410";

/// The documents of the events below `size` that sinks have not accepted: where an attempt has failed, or where this server has
/// disabled the sink. `None` for an event that is not in the database.
pub async fn events_that_sinks_refuse(
    connection: &mut PgConnection,
    size: u64,
) -> Result<Vec<Option<String>>, Fault> {
    let found = sqlx::query_scalar(
        "SELECT e.document FROM audit_sink s LEFT JOIN audit_event e ON e.seq = s.cursor
         WHERE (s.disabled_at IS NULL AND s.attempts > 0 OR s.disabled_reason = $2) AND s.cursor < $1",
    );
    Ok(found.bind(i64::try_from(size).unwrap_or(i64::MAX)).bind(DECLINED).fetch_all(connection).await?)
}
