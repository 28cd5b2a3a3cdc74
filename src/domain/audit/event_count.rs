//! Counts events without reading those that the index decides about.

use std::ops::Range;

use sqlx::PgConnection;

use super::block_runs::{BlockTimes, block_runs};
use super::filter::Filter;
use super::index::BLOCK;
use super::posting_lists::{self, BlockSearch, Order};
use super::search::{self, EventSearch, SearchRange};
use crate::platform::fault::{Context, Fault};

/// Number of blocks of the index that are read at once.
const BLOCKS: usize = 256;

/// The number of matching events, at most `most`, newest first. Of the blocks that are wholly in the filter's period, the
/// index is counted. So the filter has terms, and nothing that only documents decide about, except the period.
pub async fn count(
    connection: &mut PgConnection,
    filter: &Filter,
    search_range: &SearchRange,
    most: usize,
) -> Result<usize, Fault> {
    let available = search_range.first_available.next_multiple_of(BLOCK)..search_range.indexed;
    let mut counted = 0;
    let mut end = search_range.size;
    for run in block_runs(connection, filter, BlockTimes::Within).await?.into_iter().rev() {
        let run = run.start.max(available.start)..run.end.min(available.end);
        if run.is_empty() {
            continue;
        }
        counted += read(connection, filter, search_range, run.end..end, most - counted).await?;
        counted += counted_by_index(connection, &filter.terms(), &run, most - counted).await?;
        end = run.start;
        if counted == most {
            return Ok(most);
        }
    }
    let oldest = search_range.first_available..end;
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
