//! Blocks of the index by the times of their events. Clocks of servers differ, and one may have been wrong for a while: the
//! times of blocks may overlap, and blocks of a period may have others between them.

use std::ops::Range;

use sqlx::PgConnection;

use super::filter::Filter;
use super::index::BLOCK;
use crate::platform::fault::Fault;

/// How the times of a block and a period go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockTimes {
    /// An event of the block may be in the period.
    Overlapping,
    /// Every event of the block is in the period.
    Within,
}

/// The events of consecutive blocks whose times go together so with the period of the filter, ascending.
pub(super) async fn block_runs(
    connection: &mut PgConnection,
    filter: &Filter,
    times: BlockTimes,
) -> Result<Vec<Range<u64>>, Fault> {
    let sql = match times {
        BlockTimes::Overlapping => {
            "SELECT min(block), max(block)
             FROM (SELECT block, block - row_number() OVER (ORDER BY block) AS run FROM audit_block
                   WHERE last_at >= coalesce($1, '-infinity') AND first_at < coalesce($2, 'infinity')) found
             GROUP BY run ORDER BY 1"
        }
        BlockTimes::Within => {
            "SELECT min(block), max(block)
             FROM (SELECT block, block - row_number() OVER (ORDER BY block) AS run FROM audit_block
                   WHERE first_at >= coalesce($1, '-infinity') AND last_at < coalesce($2, 'infinity')) found
             GROUP BY run ORDER BY 1"
        }
    };
    let runs: Vec<(i32, i32)> =
        sqlx::query_as(sql).bind(filter.from).bind(filter.to).fetch_all(connection).await?;
    let first_of = |block: i32| u64::try_from(block).unwrap_or_default() * BLOCK;
    Ok(runs.into_iter().map(|(first, last)| first_of(first)..first_of(last + 1)).collect())
}
