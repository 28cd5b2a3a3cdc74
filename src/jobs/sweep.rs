//! Deletes expired data: used ids, expired tokens, abandoned authorizations, old sessions of the console.

use time::{Duration, OffsetDateTime};

use crate::app::App;
use crate::domain::{console, ledger};
use crate::platform::fault::Fault;

/// Rows are kept this much longer, for servers whose clocks differ.
const MARGIN: Duration = Duration::seconds(60);

/// Deletes expired rows; returns their number.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<u64, Fault> {
    let forgotten = ledger::sweep::forget(&app.pool, now - MARGIN).await?;
    let mut connection = app.pool.acquire().await?;
    Ok(forgotten + console::store::delete_old(&mut connection, now - MARGIN).await?)
}
