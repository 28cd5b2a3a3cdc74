//! Reads keys and registry again, so that what other servers and operators change shows in what we publish.

use crate::app::App;
use crate::platform::fault::Fault;

pub async fn run_once(app: &App) -> Result<(), Fault> {
    app.refresh_keyring().await?;
    app.refresh_registry().await?;
    app.requests.tidy();
    // Samples pile up until somebody scrapes them, or this.
    app.metrics.run_upkeep();
    Ok(())
}
