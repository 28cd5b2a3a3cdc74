//! Maintains the log's index and partitions.

use time::OffsetDateTime;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::audit::index;

/// Indexes complete blocks.
pub async fn run_once(app: &App) -> Result<(), Fault> {
    index::run_once(&app.pool).await.map(drop)
}

/// Opens the next partition, if due.
pub async fn open_partition(app: &App, now: OffsetDateTime) -> Result<(), Fault> {
    index::open_partition(&app.pool, app.config.audit.partition, now).await.map(drop)
}
