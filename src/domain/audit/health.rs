//! What a server knows about the state of the log, without reading all of it.

use sqlx::PgConnection;
use time::OffsetDateTime;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogConcern {
    NoCheckpoint,
    /// The newest checkpoint is older than three minutes, and there are later events.
    OldCheckpoint,
    /// No witness is configured.
    NoWitness,
    /// The quorum of witnesses has not cosigned the newest checkpoint, and none within ten minutes.
    NotCosigned,
    /// The index of searches is more than 4,096 events behind.
    IndexBehind,
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
