//! Reloads keys, registry and rules, so that changes by other servers and operators appear in the published documents.

use crate::app::App;
use crate::platform::fault::Fault;

pub async fn run_once(app: &App) -> Result<(), Fault> {
    app.refresh_keyring().await?;
    app.refresh_registry().await?;
    app.refresh_rules().await?;
    app.limits.requests.tidy();
    // Metric samples accumulate until a scrape or this upkeep.
    app.metrics.run_upkeep();
    Ok(())
}
