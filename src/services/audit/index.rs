//! Keeps the index and the hashes of the tree up with the log, and its partitions up with the calendar. All of it follows
//! from the events; that it was written is no event itself.

use sqlx::Connection as _;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use crate::domain::audit::{index, partitions};
use crate::platform::config::Span;
use crate::platform::fault::Fault;

/// Covers all complete blocks; gives how many events are covered now.
pub async fn run_once(pool: &PgPool) -> Result<u64, Fault> {
    let mut connection = pool.acquire().await?;
    loop {
        let mut transaction = connection.begin().await?;
        if !index::index_next_block(&mut transaction).await? {
            transaction.rollback().await?;
            return index::indexed(&mut connection).await;
        }
        transaction.commit().await?;
    }
}

/// Opens the next partition when the calendar says so; `false` if it does not, or another server has.
pub async fn open_partition(pool: &PgPool, span: Span, now: OffsetDateTime) -> Result<bool, Fault> {
    let mut connection = pool.acquire().await?;
    let last = partitions::last(&mut connection).await?;
    if !span.is_over(last.opened_at, now) {
        return Ok(false);
    }
    partitions::open(&mut connection, last.partition, now).await
}
