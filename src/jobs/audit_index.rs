//! Keeps the log's index and its partitions up with it.

use time::OffsetDateTime;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::audit::index;

/// Covers what is complete.
pub async fn run_once(app: &App) -> Result<(), Fault> {
    index::run_once(&app.pool).await.map(drop)
}

/// Opens a partition, if it is time.
pub async fn open_partition(app: &App, now: OffsetDateTime) -> Result<(), Fault> {
    index::open_partition(&app.pool, app.config.audit.partition, now).await.map(drop)
}
