//! Counts the events of the last seconds. The index counts whole blocks; documents are read only at the ends of a window. The
//! work is bounded: a window that would need more is counted in part and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use time::{Duration, OffsetDateTime};

use super::event_counts::{CountedMembers, EventCounts, REFUSED, counted};
use super::field::{Field, term};
use super::index::{BITMAP_BYTES, BLOCK};
use super::search::{self, SearchRange};
use super::store;
use crate::domain::refusal::catalogue;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;

/// Maximum number of blocks that the index counts: 16.8 million events.
const MAX_BLOCKS: usize = 16_384;
/// Maximum number of blocks that are read at the beginning of a window.
const MAX_READ_BLOCKS: usize = 4;
/// Maximum number of events that are read because the index does not cover them yet.
const MAX_UNINDEXED: u64 = 8 * BLOCK;

/// The events of the last seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WindowActivity {
    pub seconds: i64,
    /// Whether all events of the window are counted. Otherwise there are more.
    pub complete: bool,
    #[serde(flatten)]
    pub counts: EventCounts,
    /// Number of refusals by reason.
    pub reasons: BTreeMap<String, u64>,
}

/// The times of the events of a block.
#[derive(Debug, Clone, Copy, FromRow)]
struct BlockTimes {
    #[sqlx(try_from = "i32")]
    block: BlockNumber,
    first_at: OffsetDateTime,
    last_at: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct BlockNumber(u64);

impl From<i32> for BlockNumber {
    fn from(block: i32) -> Self {
        Self(u64::try_from(block).unwrap_or_default())
    }
}

#[derive(Debug, Deserialize)]
struct RecentEvent {
    at: String,
    action: String,
    outcome: String,
    reason: Option<String>,
    #[serde(default)]
    findings: Vec<IgnoredAny>,
}

/// How the events of a window are counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct WindowPlan {
    /// Blocks that the window covers from their first event on.
    whole: Range<u64>,
    /// Blocks of which the window covers a part.
    read: BTreeSet<u64>,
    complete: bool,
}

impl WindowPlan {
    /// `blocks` are those that end in the longest window; `end` is the first block that is not indexed.
    fn of(blocks: &[BlockTimes], from: OffsetDateTime, end: u64) -> Self {
        let ends_within = || blocks.iter().filter(|one| one.last_at >= from);
        let begins_before = ends_within().filter(|one| one.first_at < from).map(|one| one.block.0).max();
        // A block below one that begins before the window can be within the window: clocks of servers differ.
        let is_read = |block: &u64| begins_before.is_some_and(|last| *block <= last);
        let oldest = ends_within().map(|one| one.block.0).filter(|block| !is_read(block)).min();
        let partly: BTreeSet<u64> = ends_within().map(|one| one.block.0).filter(is_read).collect();
        let read: BTreeSet<u64> = partly.iter().rev().take(MAX_READ_BLOCKS).copied().collect();
        let is_cut = blocks.len() > MAX_BLOCKS && ends_within().count() == blocks.len();
        let whole = oldest.unwrap_or(end)..end;
        // A block between them that ended before the window is of a server whose clock is behind.
        let within = ends_within().filter(|one| whole.contains(&one.block.0)).count();
        let is_dense = u64::try_from(within) == Ok(whole.end - whole.start);
        Self { complete: read.len() == partly.len() && !is_cut && is_dense, whole, read }
    }
}

/// Counts the events of these windows, each of which ends now. One event counts in each window that it is in.
pub async fn activity(
    connection: &mut PgConnection,
    windows: &[Duration],
    now: OffsetDateTime,
) -> Result<Vec<WindowActivity>, Fault> {
    let range = search::search_range(connection).await?;
    let longest = windows.iter().max().copied().unwrap_or_default();
    let blocks = recent_blocks(connection, &range, now - longest).await?;
    let end = range.indexed / BLOCK;
    let plans: Vec<WindowPlan> = windows.iter().map(|one| WindowPlan::of(&blocks, now - *one, end)).collect();
    let from_tail = range.indexed.max(range.first_available);
    let tail = from_tail.max(range.size.saturating_sub(MAX_UNINDEXED))..range.size;
    let mut documents = store::documents_in(connection, tail.clone()).await?;
    let read: BTreeSet<u64> = plans.iter().flat_map(|plan| &plan.read).copied().collect();
    for block in read {
        documents.extend(store::documents_in(connection, block * BLOCK..(block + 1) * BLOCK).await?);
    }
    let events: Vec<(u64, RecentEvent)> = documents
        .iter()
        .filter_map(|(seq, document)| Some((*seq, serde_json::from_str(document).ok()?)))
        .collect();
    let mut found = Vec::with_capacity(windows.len());
    for (window, plan) in windows.iter().zip(&plans) {
        let mut one = by_index(connection, &plan.whole).await?;
        one.seconds = window.whole_seconds();
        // Where the oldest unindexed event that was read is within the window, events before it can be, too.
        let from = rfc3339(now - *window);
        let first = events.iter().find(|(seq, _)| *seq == tail.start);
        let has_more = tail.start > from_tail && first.is_none_or(|(_, event)| event.at >= from);
        one.complete = plan.complete && !has_more;
        let is_counted = |seq: u64| seq >= tail.start || plan.read.contains(&(seq / BLOCK));
        // Instants in the log have a fixed format, so text order is time order.
        for (_, event) in events.iter().filter(|(seq, event)| is_counted(*seq) && event.at >= from) {
            one.count(event);
        }
        found.push(one);
    }
    Ok(found)
}

impl WindowActivity {
    fn count(&mut self, event: &RecentEvent) {
        self.counts.count(CountedMembers {
            action: &event.action,
            outcome: &event.outcome,
            findings: event.findings.len(),
        });
        if let Some(reason) = event.reason.as_ref().filter(|_| event.outcome == REFUSED) {
            *self.reasons.entry(reason.clone()).or_default() += 1;
        }
    }
}

/// The blocks with an event since an instant, the latest first, at most one more than [`MAX_BLOCKS`].
async fn recent_blocks(
    connection: &mut PgConnection,
    range: &SearchRange,
    from: OffsetDateTime,
) -> Result<Vec<BlockTimes>, Fault> {
    let number = |seq: u64| i32::try_from(seq / BLOCK).unwrap_or(i32::MAX);
    let found = sqlx::query_as(
        "SELECT block, first_at, last_at FROM audit_block WHERE last_at >= $1 AND block >= $2 AND block < $3
         ORDER BY last_at DESC, first_at DESC, block DESC LIMIT $4",
    )
    .bind(from)
    .bind(number(range.first_available.next_multiple_of(BLOCK)))
    .bind(number(range.indexed))
    .bind(i64::try_from(MAX_BLOCKS).unwrap_or(i64::MAX).saturating_add(1))
    .fetch_all(connection)
    .await?;
    Ok(found)
}

/// Counts whole blocks.
async fn by_index(connection: &mut PgConnection, blocks: &Range<u64>) -> Result<WindowActivity, Fault> {
    let mut found = WindowActivity {
        seconds: 0,
        complete: true,
        counts: EventCounts { events: (blocks.end - blocks.start) * BLOCK, ..EventCounts::default() },
        reasons: BTreeMap::new(),
    };
    if blocks.is_empty() {
        return Ok(found);
    }
    let counted = counted().map(|(field, value, counter)| (term(field, value), counter));
    let reasons: BTreeMap<i64, &str> =
        catalogue::ENTRIES.iter().map(|entry| (term(Field::Reason, entry.reason), entry.reason)).collect();
    let terms: Vec<i64> = counted.iter().map(|(term, _)| *term).chain(reasons.keys().copied()).collect();
    let number = |block: u64| i32::try_from(block).unwrap_or(i32::MAX);
    // As in `BlockBitmap::to_bytes`: a shorter posting is a list of numbers, two bytes each.
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT term, sum(CASE WHEN octet_length(bitmap) < $4 THEN octet_length(bitmap) / 2 ELSE bit_count(bitmap) END)::bigint
         FROM audit_posting WHERE term = ANY ($1) AND block >= $2 AND block < $3 GROUP BY term",
    )
    .bind(terms)
    .bind(number(blocks.start))
    .bind(number(blocks.end))
    .bind(i32::try_from(BITMAP_BYTES).unwrap_or(i32::MAX))
    .fetch_all(connection)
    .await?;
    for (term, number) in rows {
        let number = u64::try_from(number).unwrap_or_default();
        if let Some(reason) = reasons.get(&term) {
            found.reasons.insert((*reason).to_owned(), number);
        }
        for (_, counter) in counted.iter().filter(|(own, _)| *own == term) {
            *counter(&mut found.counts) += number;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::seconds(second)
    }

    fn block(block: u64, first: i64, last: i64) -> BlockTimes {
        BlockTimes { block: BlockNumber(block), first_at: at(first), last_at: at(last) }
    }

    fn plan(whole: Range<u64>, read: &[u64]) -> WindowPlan {
        WindowPlan { whole, read: read.iter().copied().collect(), complete: true }
    }

    #[test]
    fn a_block_is_counted_whole_or_read_where_the_window_begins_in_it() {
        let blocks = [block(7, 30, 40), block(6, 20, 30), block(5, 10, 20)];
        assert_eq!(WindowPlan::of(&blocks, at(25), 8), plan(7..8, &[6]));
        assert_eq!(WindowPlan::of(&blocks, at(0), 8), plan(5..8, &[]));
        assert_eq!(WindowPlan::of(&blocks, at(35), 8), plan(8..8, &[7]));
        assert_eq!(WindowPlan::of(&blocks, at(50), 8), plan(8..8, &[]), "the window is after the index");
        assert_eq!(WindowPlan::of(&[], at(0), 0), plan(0..0, &[]));
    }

    #[test]
    fn blocks_of_servers_with_other_clocks_are_read() {
        let blocks = [block(7, 30, 40), block(6, 5, 36), block(5, 26, 35)];
        assert_eq!(WindowPlan::of(&blocks, at(25), 8), plan(7..8, &[5, 6]));
    }

    #[test]
    fn a_window_that_would_need_more_says_so() {
        let many: Vec<BlockTimes> = (0..6).map(|number| block(number, 0, 40)).collect();
        let cut = WindowPlan::of(&many, at(25), 6);
        assert_eq!((cut.complete, cut.read.len(), cut.whole), (false, MAX_READ_BLOCKS, 6..6));
        let long = u64::try_from(MAX_BLOCKS).unwrap() + 1;
        let all: Vec<BlockTimes> = (0..long).map(|number| block(number, 30, 40)).collect();
        assert!(!WindowPlan::of(&all, at(25), long).complete);
        assert!(WindowPlan::of(&all, at(45), long).complete, "none of them is in the window");
    }

    #[test]
    fn only_refusals_count_by_reason() {
        let mut window = WindowActivity {
            seconds: 60,
            complete: true,
            counts: EventCounts::default(),
            reasons: BTreeMap::new(),
        };
        for (outcome, reason) in [("refused", "delegation_required"), ("success", "delegation_required")] {
            let document = serde_json::json!({"at": "t", "action": "oauth.token.refused", "outcome": outcome, "reason": reason});
            window.count(&serde_json::from_value(document).unwrap());
        }
        assert_eq!((window.counts.events, window.counts.refusals), (2, 1));
        assert_eq!(window.reasons, BTreeMap::from([("delegation_required".to_owned(), 1)]));
    }
}
