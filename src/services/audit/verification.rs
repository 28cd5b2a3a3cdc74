//! The verification of every event by the servers themselves, in the background. Any server continues what another one
//! has begun. Its result is shown, and no decision depends on it: a server cannot vouch for itself.

use time::{Duration, OffsetDateTime};

use super::log_evaluation::{VERIFIED, is_within};
use super::verify_portion::{NextPortion, VerifiedPortion, VerifiedTree, verify_portion};
use crate::app::App;
use crate::domain::audit::log_checks::{
    self, EndedVerification, KnownRoot, LogVerification, RunningVerification,
};
use crate::domain::audit::verify::{IntegrityError, VerifyError};
use crate::platform::fault::Fault;

/// When a log that was not valid is verified again: an operator may have restored it.
const AFTER_ERROR: Duration = Duration::HOUR;

/// What is left to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// There are more events to verify.
    Portion,
    /// Nothing, until a verification is due, or because another server goes on with this one.
    Nothing,
}

/// Verifies the next portion of the log, at most this number of events, if a verification goes on or is due.
pub async fn step(app: &App, events: u64, now: OffsetDateTime) -> Result<NextStep, Fault> {
    let period = Duration::seconds(app.config.audit.verify_every.into());
    if period.is_zero() {
        return Ok(NextStep::Nothing);
    }
    let seen = app.log_health.lock().await.seen;
    let mut connection = app.pool.acquire().await?;
    let stored = log_checks::read::<LogVerification>(&mut connection, &app.rows).await?;
    let known = stored.check.clone().unwrap_or_default();
    let running = match known.running.filter(|running| is_current(running, now)) {
        Some(running) => running,
        None if is_due(known.last.as_ref(), period, now) => RunningVerification::begin(now),
        None => return Ok(NextStep::Nothing),
    };
    // After a fault, or if this task is aborted, the connection is in the transaction of the snapshot.
    connection.close_on_drop();
    let portion = NextPortion {
        verified: running.frontier()?,
        events,
        known: known.valid.into_iter().chain(seen).collect(),
    };
    let end = EndedVerification {
        began_at: running.began_at,
        ended_at: now,
        events: None,
        hashes_only: running.hashes_only,
        integrity_error: None,
    };
    let check = match verify_portion(&mut connection, portion).await {
        Ok(VerifiedPortion::Elsewhere) => return Ok(NextStep::Nothing),
        Ok(VerifiedPortion::Verified(VerifiedTree { tree, hashes_only, is_whole: false })) => {
            LogVerification { running: Some(running.continued(&tree, hashes_only)), ..known }
        }
        Ok(VerifiedPortion::Verified(VerifiedTree { tree, hashes_only, is_whole: true })) => {
            let hashes_only = end.hashes_only + hashes_only;
            let last = EndedVerification { events: Some(tree.size()), hashes_only, ..end };
            LogVerification { running: None, last: Some(last), valid: Some(KnownRoot::of(&tree)) }
        }
        Err(VerifyError::Integrity(error)) => {
            report(error);
            let last = EndedVerification { integrity_error: Some(error), ..end };
            LogVerification { running: None, last: Some(last), ..known }
        }
        Err(VerifyError::Failed(fault)) => return Err(fault),
    };
    let is_stored = log_checks::replace(&mut connection, &app.rows, &stored, &check).await?;
    Ok(if is_stored && check.running.is_some() { NextStep::Portion } else { NextStep::Nothing })
}

/// Whether a verification goes on: what it read long ago says nothing of today, and none began in the future.
fn is_current(running: &RunningVerification, now: OffsetDateTime) -> bool {
    is_within(running.began_at, VERIFIED, now)
}

/// Whether a verification begins. A clock that was set back makes it due.
fn is_due(last: Option<&EndedVerification>, period: Duration, now: OffsetDateTime) -> bool {
    last.is_none_or(|last| match last.integrity_error {
        None => !is_within(last.began_at, period, now),
        Some(_) => !is_within(last.ended_at, period.min(AFTER_ERROR), now),
    })
}

fn report(error: IntegrityError) {
    metrics::counter!("actchain_log_verification_failures_total").increment(1);
    let why = error.kind.sentence();
    tracing::error!(seq = error.seq, why, "the audit log is not valid; run actchain audit verify");
}
