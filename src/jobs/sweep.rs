//! Forgets what nobody could use any more: spent ids, ended tokens, authorizations that nobody came back from.

use time::{Duration, OffsetDateTime};

use crate::app::App;
use crate::domain::ledger;
use crate::platform::fault::Fault;

/// Kept a while longer than needed, for servers whose clocks differ.
const MARGIN: Duration = Duration::seconds(60);

/// Forgets; gives how many rows.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<u64, Fault> {
    let mut connection = app.pool.acquire().await?;
    ledger::sweep::forget(&mut connection, now - MARGIN).await
}
