//! Rotates the token key when its time has come, and removes keys under which nothing lives any more.

use time::OffsetDateTime;

use crate::app::App;
use crate::domain::key;
use crate::platform::fault::Fault;
use crate::services::keys::{self, RotationPolicy};

pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<(), Fault> {
    let stored = app.read(async |connection| key::store::list(connection).await).await?;
    if keys::is_due(&stored, &app.config.keys, now) {
        // Judged again under the lock: another server may have been faster.
        keys::rotate(&app.pool, &app.seal, (&app.config.keys, RotationPolicy::WhenDue), now).await?;
    }
    keys::remove_spent(&app.pool, now).await?;
    app.refresh_keyring().await
}
