//! Maintains the index, the tree hashes and the partitions of the log. All of them derive from the events, so writing
//! them is no event.

use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use crate::domain::audit::{index, partitions};
use crate::platform::config::RotationInterval;
use crate::platform::db;
use crate::platform::fault::Fault;

/// Indexes all complete blocks; returns the number of indexed events.
pub async fn run_once(pool: &PgPool) -> Result<u64, Fault> {
    loop {
        let mut transaction = db::begin(pool, "BEGIN").await?;
        if !index::index_next_block(&mut transaction).await? {
            return index::indexed(&mut transaction).await;
        }
        transaction.commit().await?;
    }
}

/// Opens the next partition if its time has come; `false` if not, or if another server has opened it.
pub async fn open_partition(
    pool: &PgPool,
    span: RotationInterval,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let mut connection = pool.acquire().await?;
    let last = partitions::last(&mut connection).await?;
    if !span.is_over(last.opened_at, now) {
        return Ok(false);
    }
    partitions::open(&mut connection, last.partition, now).await
}
