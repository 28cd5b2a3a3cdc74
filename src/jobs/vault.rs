//! Tells providers of ends that they were not told of, and forgets the credentials.

use time::OffsetDateTime;

use crate::app::App;
use crate::flows::desk::Desk;
use crate::flows::vault;
use crate::platform::fault::Fault;

/// Goes once through what is left; gives how many credentials of ended connections there were.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<usize, Fault> {
    vault::wipe((&Desk::of(app), &app.vault), now).await
}
