//! Deletes expired data: used ids, expired tokens, abandoned authorizations, old sessions.

use time::{Duration, OffsetDateTime};

use crate::app::App;
use crate::domain::{console, ledger, session};
use crate::platform::fault::Fault;

/// Rows are kept this much longer, for servers whose clocks differ.
const MARGIN: Duration = Duration::seconds(60);

/// Deletes expired rows; returns their number.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<u64, Fault> {
    let forgotten = ledger::sweep::forget(&app.pool, now - MARGIN).await?;
    let mut connection = app.pool.acquire().await?;
    let console = console::store::delete_old(&mut connection, now - MARGIN).await?;
    let idle = session::store::delete_idle(&mut connection, now - MARGIN).await?;
    Ok(forgotten + console + idle)
}
