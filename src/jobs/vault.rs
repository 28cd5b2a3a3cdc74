//! Ends what ended delegations have at providers, retries pending revocations there, purges the credentials, and forgets old
//! connections.

use time::OffsetDateTime;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::vault;

/// Runs once; returns the number of credentials of disconnected connections that are still kept.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<usize, Fault> {
    vault::end_exchanged(&app.pool, &app.vault, now).await?;
    vault::revoke_again(&app.pool, &app.vault, now).await?;
    vault::forget_ended(&app.pool, now).await?;
    vault::purge(&app.pool, &app.vault, now).await
}
