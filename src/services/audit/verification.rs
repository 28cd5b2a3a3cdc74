//! The verification of every event by the servers themselves, in the background. Any server continues what another one
//! has begun. Its result is shown, and no decision depends on it: a server cannot vouch for itself.

use time::{Duration, OffsetDateTime};

use super::verify_portion::{VerifiedPortion, verify_portion};
use crate::app::App;
use crate::domain::audit::log_checks::{self, EndedVerification, LogVerification, RunningVerification};
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

/// Verifies the next portion of the log, if a verification goes on or is due.
pub async fn step(app: &App, now: OffsetDateTime) -> Result<NextStep, Fault> {
    let period = Duration::seconds(app.config.audit.verify_every.into());
    let mut connection = app.pool.acquire().await?;
    let stored = log_checks::read::<LogVerification>(&mut connection, &app.rows).await?;
    let known = stored.check.clone().unwrap_or_default();
    let running = match known.running {
        Some(running) => running,
        None if is_due(known.last.as_ref(), period, now) => RunningVerification::begin(now),
        None => return Ok(NextStep::Nothing),
    };
    let verified = running.frontier()?;
    let ended = |events, integrity_error| EndedVerification {
        began_at: running.began_at,
        ended_at: now,
        events,
        integrity_error,
    };
    let check = match verify_portion(&mut connection, &verified).await {
        Ok(VerifiedPortion::Partial(tree)) => {
            LogVerification { running: Some(running.continued(&tree)), last: known.last }
        }
        Ok(VerifiedPortion::Whole(tree)) => {
            LogVerification { running: None, last: Some(ended(tree.size(), None)) }
        }
        Err(VerifyError::Integrity(error)) => {
            report(error);
            LogVerification { running: None, last: Some(ended(error.seq, Some(error))) }
        }
        Err(VerifyError::Failed(fault)) => {
            // It may be in the transaction of the snapshot.
            connection.close_on_drop();
            return Err(fault);
        }
    };
    let is_stored = log_checks::replace(&mut connection, &app.rows, &stored, &check).await?;
    Ok(if is_stored && check.running.is_some() { NextStep::Portion } else { NextStep::Nothing })
}

/// Whether a verification begins. A clock that was set back makes it due.
fn is_due(last: Option<&EndedVerification>, period: Duration, now: OffsetDateTime) -> bool {
    let Some(last) = last else { return !period.is_zero() };
    let wait = if last.integrity_error.is_some() { period.min(AFTER_ERROR) } else { period };
    !period.is_zero() && !(last.began_at..last.began_at + wait).contains(&now)
}

fn report(error: IntegrityError) {
    metrics::counter!("actchain_log_verification_failures_total").increment(1);
    let why = error.kind.sentence();
    tracing::error!(seq = error.seq, why, "the audit log is not valid; run actchain audit verify");
}
