//! Counts events without reading those that the index decides about.

use std::ops::Range;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::block_runs::{BlockTimes, block_runs};
use super::filter::Filter;
use super::index::BLOCK;
use super::posting_lists::{self, BlockSearch, Order};
use super::search::{self, EventSearch, SearchRange};
use crate::platform::fault::{Context, Fault};

/// Number of blocks of the index that are read at once.
const BLOCKS: usize = 256;

/// The time from an instant on, for several counts: which blocks of the index have events of it.
#[derive(Debug)]
pub struct BlocksSince {
    from: OffsetDateTime,
    /// Blocks that have only events of the period, ascending.
    within: Vec<Range<u64>>,
    /// Ascending. Blocks that are not here have no event of the period.
    overlapping: Vec<Range<u64>>,
}

impl BlocksSince {
    pub async fn read(connection: &mut PgConnection, from: OffsetDateTime) -> Result<Self, Fault> {
        let filter = Filter { from: Some(from), ..Filter::default() };
        let within = block_runs(connection, &filter, BlockTimes::Within).await?;
        let overlapping = block_runs(connection, &filter, BlockTimes::Overlapping).await?;
        Ok(Self { from, within, overlapping })
    }

    /// The part of `seqs` from the first event on that may be in the period.
    fn narrow(&self, seqs: Range<u64>, indexed: u64) -> Range<u64> {
        let end = seqs.end.min(indexed);
        let first = self.overlapping.iter().find(|run| run.end > seqs.start && run.start < end);
        first.map_or(indexed, |run| run.start).clamp(seqs.start, seqs.end)..seqs.end
    }
}

/// The number of matching events of the period, at most `most`, newest first. Of the blocks that are wholly in the period,
/// the index is counted. So the filter has terms, nothing that only documents decide about, and no period of its own.
pub async fn count(
    connection: &mut PgConnection,
    filter: &Filter,
    period: &BlocksSince,
    search_range: &SearchRange,
    most: usize,
) -> Result<usize, Fault> {
    let filter = &Filter { from: Some(period.from), ..filter.clone() };
    let available = search_range.first_available.next_multiple_of(BLOCK)..search_range.indexed;
    let narrow = |seqs| period.narrow(seqs, search_range.indexed);
    let mut counted = 0;
    let mut end = search_range.size;
    for run in period.within.iter().rev() {
        let run = run.start.max(available.start)..run.end.min(available.end);
        if run.is_empty() {
            continue;
        }
        counted += read(connection, filter, search_range, narrow(run.end..end), most - counted).await?;
        counted += counted_by_index(connection, &filter.terms(), &run, most - counted).await?;
        end = run.start;
        if counted == most {
            return Ok(most);
        }
    }
    let oldest = narrow(search_range.first_available..end);
    Ok(counted + read(connection, filter, search_range, oldest, most - counted).await?)
}

/// Matching events among `seqs`, at most `most`, by their documents.
async fn read(
    connection: &mut PgConnection,
    filter: &Filter,
    search_range: &SearchRange,
    seqs: Range<u64>,
    most: usize,
) -> Result<usize, Fault> {
    let within = SearchRange { first_available: seqs.start, size: seqs.end, ..search_range.clone() };
    let search = EventSearch { filter, besides: &[], without: &[], order: Order::Newest };
    let (mut counted, mut after) = (0, None);
    while counted < most && !seqs.is_empty() {
        let page = search::page(connection, search, &within, after, most - counted).await?;
        counted += page.found.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(counted)
}

async fn counted_by_index(
    connection: &mut PgConnection,
    terms: &[i64],
    run: &Range<u64>,
    most: usize,
) -> Result<usize, Fault> {
    let mut blocks = run.start / BLOCK..run.end / BLOCK;
    let mut counted = 0;
    while counted < most && !blocks.is_empty() {
        let order = Order::Newest;
        let search = BlockSearch { terms, without: &[], blocks: blocks.clone(), order, max: BLOCKS };
        let matching = posting_lists::search(connection, &search).await?;
        let events: u64 = matching.found.iter().map(|(_, bitmap)| bitmap.count()).sum();
        counted += usize::try_from(events).context("counting events")?;
        blocks.end = matching.searched.start.min(blocks.end - 1);
    }
    Ok(counted.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_in_the_period_is_read() {
        let runs = |runs: &[(u64, u64)]| runs.iter().map(|(start, end)| *start..*end).collect();
        let period = |overlapping| BlocksSince {
            from: OffsetDateTime::UNIX_EPOCH,
            within: Vec::new(),
            overlapping: runs(overlapping),
        };
        let some = period(&[(2 * BLOCK, 3 * BLOCK), (5 * BLOCK, 6 * BLOCK)]);
        let indexed = 8 * BLOCK;
        assert_eq!(some.narrow(0..9_000, indexed), 2 * BLOCK..9_000);
        assert_eq!(some.narrow(2_100..9_000, indexed), 2_100..9_000, "in the middle of a run");
        assert_eq!(some.narrow(3 * BLOCK..9_000, indexed), 5 * BLOCK..9_000);
        assert_eq!(some.narrow(6 * BLOCK..9_000, indexed), indexed..9_000, "what is not indexed is read");
        assert!(some.narrow(3 * BLOCK..4 * BLOCK, indexed).is_empty());
        assert_eq!(period(&[]).narrow(0..indexed, indexed), indexed..indexed);
    }
}
