//! Records expired delegations, and deactivates their ephemeral agents.

use time::OffsetDateTime;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::{expiry, tasks};

/// Runs once; returns the number of recorded expiries.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<usize, Fault> {
    let recorded = expiry::record(&app.pool, &app.rows, &app.issuer, now).await?;
    tasks::sweep_agents(&app.pool, &app.rows, now).await?;
    Ok(recorded)
}
