//! Deletes expired data: used ids, expired tokens, abandoned authorizations.

use time::{Duration, OffsetDateTime};

use crate::app::App;
use crate::domain::ledger;
use crate::platform::fault::Fault;

/// Rows are kept this much longer, for servers whose clocks differ.
const MARGIN: Duration = Duration::seconds(60);

/// Deletes expired rows; returns their number.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<u64, Fault> {
    ledger::sweep::forget(&app.pool, now - MARGIN).await
}
