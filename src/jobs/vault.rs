//! Tells providers of ends that they were not told of, and forgets the credentials.

use time::OffsetDateTime;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::request_context::Desk;
use crate::services::vault;

/// Goes once through what is left; gives how many credentials of ended connections there were.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<usize, Fault> {
    vault::purge((&Desk::of(app), &app.vault), now).await
}
