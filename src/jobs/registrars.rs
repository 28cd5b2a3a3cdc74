//! Registers ephemeral agents at registrars, and deletes them there after their end.

use futures_util::future::join_all;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::registrars;

/// Gives each registrar one turn; returns the number of agents that were registered or deleted.
pub async fn run_once(app: &App) -> Result<usize, Fault> {
    let due = registrars::due(app).await?;
    let mut done = 0;
    for result in join_all(due.iter().map(|one| registrars::run(app, one))).await {
        done += result?;
    }
    Ok(done)
}
