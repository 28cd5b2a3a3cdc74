//! Deletes expired data: used ids, expired tokens, abandoned authorizations, old sessions, old texts of steps.

use time::{Duration, OffsetDateTime};

use crate::app::App;
use crate::domain::{console, ledger, session, step};
use crate::platform::fault::Fault;
use crate::services::console_ends;
use crate::services::session_texts;

/// Rows are kept this much longer, for servers whose clocks differ.
const MARGIN: Duration = Duration::seconds(60);

/// Deletes expired rows; returns their number.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<u64, Fault> {
    let forgotten = ledger::sweep::forget(&app.pool, now - MARGIN).await?;
    let over = console_ends::end_over(app, now - MARGIN).await?;
    let mut connection = app.pool.acquire().await?;
    let console = console::store::delete_old(&mut connection, now - MARGIN).await?;
    let idle = session::store::delete_idle(&mut connection, now - MARGIN).await?;
    let steps = step::store::delete_old(&mut connection, now - MARGIN).await?;
    drop(connection);
    let texts = session_texts::erase_old(app, now).await?;
    Ok(forgotten + over + console + idle + steps + texts)
}
