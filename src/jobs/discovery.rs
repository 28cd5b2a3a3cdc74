//! Reads the metadata of issuers again, and records how it differs from what was declared.

use time::OffsetDateTime;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::issuer_metadata;

/// Runs once; returns the number of issuers whose metadata was due.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<usize, Fault> {
    issuer_metadata::watch(app, now).await
}
