//! Signs checkpoints of the log.

use time::OffsetDateTime;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::audit;

/// Signs a checkpoint, if there are new events.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<(), Fault> {
    audit::checkpoint_if_due(&app.pool, &app.seal, &app.issuer, now).await
}
