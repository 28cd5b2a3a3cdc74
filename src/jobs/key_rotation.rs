//! Rotates the token key when due, and removes keys without unexpired tokens.

use time::OffsetDateTime;

use crate::app::App;
use crate::domain::key;
use crate::platform::fault::Fault;
use crate::services::keys::{self, RotationPolicy};

pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<(), Fault> {
    let stored = app.read(async |connection| key::store::list(connection).await).await?;
    if keys::is_due(&stored, &app.config.keys, now) {
        // Checked again under the lock: another server may have rotated meanwhile.
        keys::rotate(&app.pool, &app.seal, &app.config.keys, RotationPolicy::WhenDue, now).await?;
    }
    keys::remove_spent(&app.pool, now).await?;
    app.refresh_keyring().await
}
