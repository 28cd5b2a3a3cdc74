//! What a server knows about the state of the log, without reading all of it.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::log_checks::{KeptCheckpoint, LogVerification};
use crate::platform::fault::Fault;

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
    /// The last comparison with a checkpoint that a person kept.
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
    /// No verification of every event has ended within a day.
    NotVerified,
    /// The index of searches is more than 4,096 events behind.
    IndexBehind,
    /// A sink has accepted nothing for ten minutes, although events wait.
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
            Self::NotVerified => "No verification of every event has ended within a day.",
            Self::IndexBehind => "The index of searches is more than 4,096 events behind.",
            Self::SinkStopped => "A sink has accepted nothing for ten minutes, although events wait for it.",
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

/// Whether one of these witnesses has cosigned a checkpoint since a time.
pub async fn has_cosignature_since(
    connection: &mut PgConnection,
    keys: &[String],
    since: OffsetDateTime,
) -> Result<bool, Fault> {
    let found =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM audit_cosignature WHERE key = ANY ($1) AND at >= $2)");
    Ok(found.bind(keys).bind(since).fetch_one(connection).await?)
}

/// Whether an enabled sink has accepted nothing since a time, although its last delivery failed and events below `seq`
/// wait for it.
pub async fn has_stopped_sink(
    connection: &mut PgConnection,
    seq: u64,
    since: OffsetDateTime,
) -> Result<bool, Fault> {
    let found = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM audit_sink WHERE disabled_at IS NULL AND cursor < $1 AND last_error IS NOT NULL
                        AND coalesce(delivered_at, created_at) < $2)",
    );
    Ok(found.bind(i64::try_from(seq).unwrap_or(i64::MAX)).bind(since).fetch_one(connection).await?)
}
