//! Verifies every event of the log, again and again, at most half the time.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::audit::verification::{self, NextStep};

/// Number of events that are verified in one transaction.
const PORTION: u64 = 16_384;
/// How often a server finds out whether there is something to verify.
const PERIOD: Duration = Duration::from_secs(60);

/// Verifies one portion, if a verification goes on or is due.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<NextStep, Fault> {
    verification::step(app, PORTION, now).await
}

/// Rests after each portion for as long as it took.
pub async fn run(app: Arc<App>) {
    loop {
        let began = Instant::now();
        let pause = match run_once(&app, app.clock.now()).await {
            Ok(NextStep::Portion) => began.elapsed(),
            Ok(NextStep::Nothing) => PERIOD,
            Err(fault) => {
                tracing::warn!(job = "audit_verification", error = %fault, "a job failed and will run again");
                PERIOD
            }
        };
        tokio::time::sleep(pause).await;
    }
}
