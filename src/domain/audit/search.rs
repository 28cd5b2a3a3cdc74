//! Searches the log. Pages are in the order of `seq`, and a cursor is a `seq`: pages neither lose nor repeat
//! events. Indexed blocks are searched by the index; newer events are read directly.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;
use sqlx::PgConnection;

use super::block_runs::{BlockTimes, block_runs};
use super::filter::Filter;
use super::index::{self, BLOCK};
pub use super::posting_lists::Order;
use super::posting_lists::{self, BlockSearch, MatchingBlocks};
use super::store::StoredEvent;
use super::{partitions, store};
use crate::platform::fault::Fault;

/// Maximum number of non-matching events read for one page; after that, the page is returned as is.
const MAX_SCANNED: usize = 4_000;
/// Number of blocks queried first: few, because a frequent term needs no more. Where they have too few events, later
/// queries have more blocks, up to a maximum.
const FIRST_BLOCKS: usize = 8;
const GROWTH: usize = 32;
const MAX_BLOCKS: usize = 8_192;
/// Maximum number of blocks, of the rarest term, that are searched for a page with a bound: a million events.
const MAX_BLOCKS_OF_PAGE: usize = 1_024;
/// Maximum number of events that are not indexed and that several searches share.
const MAX_TAIL: u64 = 4 * BLOCK;
/// Maximum number of events read at once.
const CHUNK: usize = 512;

#[derive(Debug, Clone)]
pub struct EventRow {
    pub seq: u64,
    /// The canonical document.
    pub document: String,
    /// The parsed document.
    pub event: Value,
    /// The text of the personal data; `None` if the event has none, or if it was erased.
    pub personal: Option<String>,
}

impl From<StoredEvent> for EventRow {
    fn from(stored: StoredEvent) -> Self {
        let StoredEvent { seq, document, personal } = stored;
        let event = serde_json::from_str(&document).unwrap_or_default();
        Self { seq, document, event, personal }
    }
}

#[derive(Debug, Default)]
pub struct EventPage {
    /// In the requested order.
    pub found: Vec<EventRow>,
    /// `seq` of the last event read, if there are more events to search.
    pub next: Option<u64>,
    /// Number of events read that did not match.
    pub scanned: usize,
    /// Whether the page ends at the bound of its blocks, with fewer events than it may have.
    pub is_cut: bool,
}

/// The extent of the log for a search.
#[derive(Debug, Clone)]
pub struct SearchRange {
    /// `seq` of the first event in the database.
    pub first_available: u64,
    /// Events below this `seq` are indexed.
    pub indexed: u64,
    /// Number of events in the log.
    pub size: u64,
    /// The documents that are not indexed, where several searches share them; empty where each search reads them.
    pub tail: Arc<[(u64, String)]>,
}

/// Maximum number of events that are read because the index does not cover them yet.
const MAX_UNINDEXED: u64 = 20_000;

impl SearchRange {
    /// The events that are not indexed yet.
    ///
    /// # Errors
    /// A fault if they are too many: an error is better than an answer with missing events. `of` names what has to wait.
    pub fn unindexed(&self, of: &str) -> Result<Range<u64>, Fault> {
        let from = self.indexed.max(self.first_available);
        if self.size.saturating_sub(from) > MAX_UNINDEXED {
            return Err(Fault::new(format!(
                "the index has come to event {from} only: {of} have to wait for it"
            )));
        }
        Ok(from..self.size)
    }
}

/// Reads the extent. The head is read last, so all indexed events are within `size`.
pub async fn search_range(connection: &mut PgConnection) -> Result<SearchRange, Fault> {
    let first_available = partitions::first_available(connection).await?;
    let indexed = index::indexed(connection).await?;
    let size = store::head(connection).await?.size();
    Ok(SearchRange { first_available, indexed, size, tail: Arc::default() })
}

/// Reads the extent for several searches, with the documents that none of them finds by the index. What they find there
/// has no personal data: that of thousands of steps would fill the memory.
pub async fn shared_search_range(connection: &mut PgConnection) -> Result<SearchRange, Fault> {
    let mut range = search_range(connection).await?;
    let unindexed = range.indexed.max(range.first_available)..range.size;
    if unindexed.end.saturating_sub(unindexed.start) <= MAX_TAIL {
        range.tail = store::documents_in(connection, unindexed).await?.into();
    }
    Ok(range)
}

/// The event with this `seq`, if it is in the database.
pub async fn at(connection: &mut PgConnection, seq: u64) -> Result<Option<EventRow>, Fault> {
    Ok(store::events_of(connection, &[seq]).await?.pop().map(EventRow::from))
}

#[derive(Debug, Clone, Copy)]
pub struct EventSearch<'a> {
    pub filter: &'a Filter,
    /// Additional terms that events must have.
    pub besides: &'a [i64],
    /// Terms that events must not have. They hide events that a reader has seen: a collision of terms hides another event.
    pub without: &'a [i64],
    pub order: Order,
}

/// At most `limit` matching events after the cursor `after`.
pub async fn page(
    connection: &mut PgConnection,
    search: EventSearch<'_>,
    search_range: &SearchRange,
    after: Option<u64>,
    limit: usize,
) -> Result<EventPage, Fault> {
    Scan::begin(connection, search, search_range, after).await?.page(connection, limit).await
}

/// Like [`page`], for a caller that waits. Frequent terms that never meet would be searched through the whole log.
pub async fn bounded_page(
    connection: &mut PgConnection,
    search: EventSearch<'_>,
    search_range: &SearchRange,
    after: Option<u64>,
    limit: usize,
) -> Result<EventPage, Fault> {
    let mut scan = Scan::begin(connection, search, search_range, after).await?;
    scan.blocks_left = MAX_BLOCKS_OF_PAGE;
    scan.page(connection, limit).await
}

fn has_any(event: &Value, terms: &[i64]) -> bool {
    !terms.is_empty() && index::terms(event).iter().any(|term| terms.contains(term))
}

/// Progress of a search through the log.
struct Scan<'a> {
    search: EventSearch<'a>,
    /// Empty where the filter needs personal data.
    tail: &'a [(u64, String)],
    terms: Vec<i64>,
    /// Events that were not searched yet.
    left: Range<u64>,
    /// Number of indexed events, and those of them that may be in the filter's period, ascending.
    indexed: u64,
    in_time: Vec<Range<u64>>,
    /// Number of blocks of the next query.
    blocks: usize,
    /// Number of blocks of the rarest term that may still be searched.
    blocks_left: usize,
    /// Number of events read that did not match.
    scanned: usize,
}

impl<'a> Scan<'a> {
    async fn begin(
        connection: &mut PgConnection,
        search: EventSearch<'a>,
        search_range: &'a SearchRange,
        after: Option<u64>,
    ) -> Result<Self, Fault> {
        let all = search_range.first_available..search_range.size;
        let left = match (search.order, after) {
            (_, None) => all,
            (Order::Newest, Some(after)) => all.start..all.end.min(after),
            (Order::Oldest, Some(after)) => all.start.max(after.saturating_add(1))..all.end,
        };
        let terms = [search.filter.terms().as_slice(), search.besides].concat();
        let in_time = match left.start < search_range.indexed {
            true => in_time(connection, search.filter, search_range.indexed).await?,
            false => Vec::new(),
        };
        Ok(Self {
            search,
            tail: if search.filter.ip.is_none() { &search_range.tail } else { &[] },
            terms,
            left,
            indexed: search_range.indexed,
            in_time,
            blocks: FIRST_BLOCKS,
            blocks_left: usize::MAX,
            scanned: 0,
        })
    }

    /// At most `limit` matching events.
    async fn page(mut self, connection: &mut PgConnection, limit: usize) -> Result<EventPage, Fault> {
        let mut page = EventPage::default();
        // Where few of the events that have the terms match, more of them are read at once.
        let mut stride = 1;
        while !self.left.is_empty() {
            let want = (limit + 1 - page.found.len()).max(stride).min(CHUNK);
            stride = want * 2;
            for found in self.step(connection, want).await? {
                let is_hidden = has_any(&found.event, self.search.without);
                if is_hidden || !self.search.filter.matches(&found.event, found.personal.as_deref()) {
                    self.scanned += 1;
                    continue;
                }
                // An additional match shows that there is a next page.
                if page.found.len() == limit {
                    page.next = page.found.last().map(|last| last.seq);
                    page.scanned = self.scanned;
                    return Ok(page);
                }
                page.found.push(found);
            }
            page.scanned = self.scanned;
            page.is_cut = self.blocks_left == 0 && !self.left.is_empty();
            if page.is_cut || self.scanned > MAX_SCANNED {
                page.next = self.reached();
                return Ok(page);
            }
        }
        Ok(page)
    }

    /// `seq` of the last event searched, if events are left.
    fn reached(&self) -> Option<u64> {
        match self.search.order {
            _ if self.left.is_empty() => None,
            Order::Newest => Some(self.left.end),
            Order::Oldest => self.left.start.checked_sub(1),
        }
    }

    fn advance(&mut self, seen: &Range<u64>) {
        match self.search.order {
            Order::Newest => self.left.end = self.left.end.min(seen.start),
            Order::Oldest => self.left.start = self.left.start.max(seen.end),
        }
    }

    /// The next of these events that may be in the period: those of consecutive blocks.
    fn next_in_time(&self, indexed: &Range<u64>) -> Option<Range<u64>> {
        let common = |run: &Range<u64>| run.start.max(indexed.start)..run.end.min(indexed.end);
        let mut runs = self.in_time.iter().map(common).filter(|run| !run.is_empty());
        match self.search.order {
            Order::Newest => runs.next_back(),
            Order::Oldest => runs.next(),
        }
    }

    /// The next events that may match, at most `want`; skipped events cannot match.
    async fn step(&mut self, connection: &mut PgConnection, want: usize) -> Result<Vec<EventRow>, Fault> {
        let unindexed = self.left.start.max(self.indexed)..self.left.end;
        let indexed = self.left.start..self.left.end.min(self.indexed);
        let in_index = match self.search.order {
            Order::Newest => unindexed.is_empty(),
            Order::Oldest => !indexed.is_empty(),
        };
        // Without a filter every event matches, so reads no more than `want`.
        let max = if *self.search.filter == Filter::default() { want } else { CHUNK };
        if !in_index {
            return self.read(connection, unindexed, max).await;
        }
        let Some(within) = self.next_in_time(&indexed) else {
            self.advance(&indexed);
            return Ok(Vec::new());
        };
        // Indexed events outside the period at this end cannot match: skip them.
        match self.search.order {
            Order::Newest => self.left.end = self.left.end.min(within.end),
            Order::Oldest => self.left.start = self.left.start.max(within.start),
        }
        if self.terms.is_empty() {
            return self.read(connection, within, max).await;
        }
        self.read_by_index(connection, within, want).await
    }

    /// Reads the next events directly.
    async fn read(
        &mut self,
        connection: &mut PgConnection,
        within: Range<u64>,
        max: usize,
    ) -> Result<Vec<EventRow>, Fault> {
        let max = u64::try_from(max).unwrap_or(u64::MAX);
        let seen = match self.search.order {
            Order::Newest => within.start.max(within.end.saturating_sub(max))..within.end,
            Order::Oldest => within.start..within.end.min(within.start.saturating_add(max)),
        };
        self.advance(&seen);
        let shared = self.tail.iter().filter(|(seq, _)| seen.contains(seq));
        let rows = match shared.clone().next() {
            None => store::events_in(connection, seen.clone()).await?,
            Some(_) => {
                let all = shared.clone().count();
                let matching = shared.filter(|(_, document)| self.search.filter.may_match(document));
                let stored = |(seq, document): &(u64, String)| StoredEvent {
                    seq: *seq,
                    document: document.clone(),
                    personal: None,
                };
                let rows: Vec<_> = matching.map(stored).collect();
                self.scanned += all - rows.len();
                rows
            }
        };
        Ok(self.in_order(rows))
    }

    /// Finds the next events by the index.
    async fn read_by_index(
        &mut self,
        connection: &mut PgConnection,
        within: Range<u64>,
        want: usize,
    ) -> Result<Vec<EventRow>, Fault> {
        let blocks = within.start / BLOCK..(within.end - 1) / BLOCK + 1;
        let (terms, without) = (&self.terms, self.search.without);
        let max = self.blocks.min(self.blocks_left);
        let search = BlockSearch { terms, without, blocks, order: self.search.order, max };
        let MatchingBlocks { found, searched, of_rarest } =
            posting_lists::search(connection, &search).await?;
        let mut seqs = Vec::with_capacity(want);
        'blocks: for (block, bitmap) in found {
            let of_block = bitmap.places().map(|place| block * BLOCK + place);
            let in_order: Vec<u64> = match self.search.order {
                Order::Newest => of_block.rev().collect(),
                Order::Oldest => of_block.collect(),
            };
            for seq in in_order.into_iter().filter(|seq| within.contains(seq)) {
                if seqs.len() == want {
                    break 'blocks;
                }
                seqs.push(seq);
            }
        }
        // Searched so far: up to the last event taken, or all blocks that were read.
        let seen = match seqs.last() {
            Some(seq) if seqs.len() == want => *seq..*seq + 1,
            _ => {
                self.blocks_left = self.blocks_left.saturating_sub(of_rarest);
                self.blocks = (self.blocks * GROWTH).min(MAX_BLOCKS);
                searched.start * BLOCK..searched.end * BLOCK
            }
        };
        self.advance(&seen);
        let rows = store::events_of(connection, &seqs).await?;
        Ok(self.in_order(rows))
    }

    /// Parses the events that may match, in the requested order.
    fn in_order(&mut self, mut rows: Vec<StoredEvent>) -> Vec<EventRow> {
        let all = rows.len();
        let filter = self.search.filter;
        rows.retain(|row| {
            filter.may_match(&row.document) && filter.matches_personal(row.personal.as_deref())
        });
        self.scanned += all - rows.len();
        rows.sort_unstable_by_key(|row| row.seq);
        if self.search.order == Order::Newest {
            rows.reverse();
        }
        rows.into_iter().map(EventRow::from).collect()
    }
}

/// The indexed events of the blocks that overlap the period.
async fn in_time(
    connection: &mut PgConnection,
    filter: &Filter,
    indexed: u64,
) -> Result<Vec<Range<u64>>, Fault> {
    if filter.from.is_none() && filter.to.is_none() {
        return Ok(std::iter::once(0..indexed).collect());
    }
    let runs = block_runs(connection, filter, BlockTimes::Overlapping).await?;
    Ok(runs.into_iter().map(|run| run.start..run.end.min(indexed)).collect())
}
