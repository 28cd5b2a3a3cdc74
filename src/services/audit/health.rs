//! The state of the log as far as a server can check it in a moment: whether the log continues what was seen of it before,
//! whether a witness or a person vouches for it, and what the last verification of every event has found. Reads only.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use time::{Duration, OffsetDateTime};

pub use super::log_evaluation::LogTrust;
use super::log_evaluation::{LogEvaluation, NewestCheckpoint, is_within};
use crate::app::App;
use crate::domain::audit::health::{LogConcern, LogHealth, LogVerdict};
use crate::domain::audit::log_checks::{self, EndedVerification, KeptCheckpoint, KnownRoot, LogVerification};
use crate::domain::audit::store;
use crate::platform::fault::Fault;

/// How long a result is reused.
const REUSED: Duration = Duration::minutes(1);
/// How long a comparison with a checkpoint that a person kept counts.
pub(super) const COMPARED: Duration = Duration::days(7);

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
    kept_checkpoint: Option<KeptView>,
}

#[derive(Debug, Serialize)]
struct KeptView {
    #[serde(with = "time::serde::rfc3339")]
    compared_at: OffsetDateTime,
    /// Number of events that it covers.
    size: u64,
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
            kept_checkpoint: health
                .kept_checkpoint
                .map(|kept| KeptView { compared_at: kept.compared_at, size: kept.known.size }),
        }
    }
}

/// The result of this server, at most a minute old.
pub async fn health(app: &App, now: OffsetDateTime) -> Arc<LogHealth> {
    let mut remembered = app.log_health.lock().await;
    if let Some(health) = remembered.health.as_ref()
        && health.checked_at <= now
        && now < health.checked_at + REUSED
    {
        return Arc::clone(health);
    }
    let trust = LogTrust { rows: &app.rows, witnesses: &app.witnesses, seen: remembered.seen };
    let checked = app.read(async |connection| check(connection, trust, now).await).await;
    let health = match checked {
        Ok(CheckedLog { health, root }) => {
            if !matches!(health.verdict, LogVerdict::Broken(_)) {
                remembered.seen = Some(root);
            }
            health
        }
        Err(fault) => {
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
        }
    };
    let health = Arc::new(health);
    remembered.health = Some(Arc::clone(&health));
    health
}

/// The result of a check.
#[derive(Debug)]
pub struct CheckedLog {
    pub health: LogHealth,
    pub root: KnownRoot,
}

/// Checks the log at once, in one snapshot.
pub async fn check(
    connection: &mut PgConnection,
    trust: LogTrust<'_>,
    now: OffsetDateTime,
) -> Result<CheckedLog, Fault> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let connection: &mut PgConnection = &mut transaction;
    // Before the snapshot, which the first query takes: its partitions stay.
    sqlx::query("LOCK TABLE audit_event IN ACCESS SHARE MODE").execute(&mut *connection).await?;
    let verification = log_checks::read(connection, trust.rows).await?.check.unwrap_or_default();
    let kept = log_checks::read::<KeptCheckpoint>(connection, trust.rows).await?.check;
    let newest = store::newest_checkpoint(connection).await?;
    let evaluation = LogEvaluation {
        verification: &verification,
        kept_checkpoint: kept.filter(|kept| is_within(kept.compared_at, COMPARED, now)),
        newest: newest.map(|(size, note)| NewestCheckpoint { size, note }),
        trust,
        now,
    };
    let head = store::head(connection).await?;
    let verdict = match evaluation.failure(connection, &head).await? {
        Some(why) => LogVerdict::Broken(why),
        None => LogVerdict::Consistent(evaluation.concerns(connection, head.size()).await?),
    };
    let health = LogHealth {
        checked_at: now,
        size: head.size(),
        root: STANDARD.encode(head.root()),
        checkpoint: evaluation.newest.as_ref().map(|newest| newest.size),
        verdict,
        kept_checkpoint: evaluation.kept_checkpoint,
        verification,
    };
    transaction.rollback().await?;
    Ok(CheckedLog { health, root: KnownRoot::of(&head) })
}
