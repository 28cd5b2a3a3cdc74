//! Intersects the postings of terms. The rarest term decides which blocks are read. A frequent term is read for the same
//! number of blocks, and outside them only where the rarest term has events.

use std::collections::HashMap;
use std::ops::Range;

use sqlx::{FromRow, PgConnection};

use super::index::BlockBitmap;
use crate::platform::fault::{Context, Fault};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Newest,
    Oldest,
}

/// The blocks to search for events that have all terms.
#[derive(Debug, Clone)]
pub(super) struct BlockSearch<'a> {
    /// An empty list is a fault.
    pub(super) terms: &'a [i64],
    /// Events with one of these terms are left out.
    pub(super) without: &'a [i64],
    pub(super) blocks: Range<u64>,
    pub(super) order: Order,
    /// Maximum number of blocks of the rarest term.
    pub(super) max: usize,
}

/// The result of a search for blocks.
#[derive(Debug)]
pub(super) struct MatchingBlocks {
    /// Blocks with their events that have all terms, in the order of the search.
    pub(super) found: Vec<(u64, BlockBitmap)>,
    /// The blocks that were searched, from the first one in the order of the search.
    pub(super) searched: Range<u64>,
    /// Number of these blocks that have the rarest term.
    pub(super) of_rarest: usize,
}

#[derive(FromRow)]
struct Row {
    blocks: Vec<i32>,
    bitmaps: Vec<Vec<u8>>,
}

/// The first postings of a term, in the order of the search.
struct PostingList {
    term: i64,
    /// The blocks that were found, ascending.
    blocks: Vec<i32>,
    bitmaps: HashMap<i32, BlockBitmap>,
    /// The blocks of which all postings were read.
    read: Range<i32>,
}

/// Searches the blocks in their order, until `max` blocks of the rarest term were searched.
pub(super) async fn search(
    connection: &mut PgConnection,
    search: &BlockSearch<'_>,
) -> Result<MatchingBlocks, Fault> {
    let bound = |block: u64| i32::try_from(block).context("numbering a block");
    let blocks = bound(search.blocks.start)?..bound(search.blocks.end)?;
    let mut lists = first_postings(connection, search, &blocks).await?;
    lists.sort_by_key(|list| list.read.len());
    let rarest = lists.pop().ok_or_else(|| Fault::new("a search without terms"))?;
    complete(connection, &mut lists, &rarest).await?;
    let bitmap_of_all = |block: &i32| {
        let own = rarest.bitmaps.get(block).copied().unwrap_or_default();
        let all = lists.iter().map(|list| list.bitmaps.get(block).copied().unwrap_or_default());
        all.fold(own, BlockBitmap::intersect)
    };
    let mut found: Vec<(u64, BlockBitmap)> = rarest
        .blocks
        .iter()
        .map(|block| (u64::try_from(*block).unwrap_or_default(), bitmap_of_all(block)))
        .filter(|(_, bitmap)| *bitmap != BlockBitmap::default())
        .collect();
    leave_out(connection, search.without, &mut found).await?;
    if search.order == Order::Newest {
        found.reverse();
    }
    let number = |block: i32| u64::try_from(block).unwrap_or_default();
    let searched = number(rarest.read.start)..number(rarest.read.end);
    Ok(MatchingBlocks { found, searched, of_rarest: rarest.blocks.len() })
}

/// Removes the events that have one of these terms.
async fn leave_out(
    connection: &mut PgConnection,
    without: &[i64],
    found: &mut Vec<(u64, BlockBitmap)>,
) -> Result<(), Fault> {
    if without.is_empty() || found.is_empty() {
        return Ok(());
    }
    let blocks: Vec<i32> = found.iter().filter_map(|(block, _)| i32::try_from(*block).ok()).collect();
    let rows: Vec<(i32, Vec<u8>)> =
        sqlx::query_as("SELECT block, bitmap FROM audit_posting WHERE term = ANY ($1) AND block = ANY ($2)")
            .bind(without)
            .bind(blocks)
            .fetch_all(connection)
            .await?;
    let mut hidden: HashMap<u64, BlockBitmap> = HashMap::new();
    for (block, bitmap) in rows {
        let of_block = hidden.entry(u64::try_from(block).unwrap_or_default()).or_default();
        *of_block = of_block.unite(BlockBitmap::of_bytes(&bitmap));
    }
    for (block, bitmap) in found.iter_mut() {
        *bitmap = bitmap.without(hidden.get(block).copied().unwrap_or_default());
    }
    found.retain(|(_, bitmap)| *bitmap != BlockBitmap::default());
    Ok(())
}

/// At most `max` postings of each term.
async fn first_postings(
    connection: &mut PgConnection,
    search: &BlockSearch<'_>,
    blocks: &Range<i32>,
) -> Result<Vec<PostingList>, Fault> {
    // One row for each term: the rows of blocks would cost more to send than to read.
    let sql = match search.order {
        Order::Newest => {
            "SELECT found.* FROM unnest($1::bigint[]) WITH ORDINALITY AS wanted (term, place)
             CROSS JOIN LATERAL (
                 SELECT coalesce(array_agg(block), '{}') AS blocks, coalesce(array_agg(bitmap), '{}') AS bitmaps
                 FROM (SELECT block, bitmap FROM audit_posting
                       WHERE term = wanted.term AND block >= $2 AND block < $3 ORDER BY block DESC LIMIT $4) posting
             ) found ORDER BY wanted.place"
        }
        Order::Oldest => {
            "SELECT found.* FROM unnest($1::bigint[]) WITH ORDINALITY AS wanted (term, place)
             CROSS JOIN LATERAL (
                 SELECT coalesce(array_agg(block), '{}') AS blocks, coalesce(array_agg(bitmap), '{}') AS bitmaps
                 FROM (SELECT block, bitmap FROM audit_posting
                       WHERE term = wanted.term AND block >= $2 AND block < $3 ORDER BY block LIMIT $4) posting
             ) found ORDER BY wanted.place"
        }
    };
    let rows: Vec<Row> = sqlx::query_as(sql)
        .bind(search.terms)
        .bind(blocks.start)
        .bind(blocks.end)
        .bind(i64::try_from(search.max).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    let list = |(term, row): (&i64, Row)| {
        let bitmaps =
            row.blocks.iter().copied().zip(row.bitmaps.iter().map(|bytes| BlockBitmap::of_bytes(bytes)));
        let bitmaps = bitmaps.collect();
        let mut found = row.blocks;
        found.sort_unstable();
        let read = match (search.order, found.first(), found.last()) {
            (Order::Newest, Some(last), _) if found.len() >= search.max => *last..blocks.end,
            (Order::Oldest, _, Some(last)) if found.len() >= search.max => blocks.start..*last + 1,
            _ => blocks.clone(),
        };
        PostingList { term: *term, blocks: found, bitmaps, read }
    };
    Ok(search.terms.iter().zip(rows).map(list).collect())
}

/// Reads the postings of the other terms in those blocks of the rarest term that they do not cover yet.
async fn complete(
    connection: &mut PgConnection,
    lists: &mut [PostingList],
    rarest: &PostingList,
) -> Result<(), Fault> {
    let missing = |list: &PostingList, block: &i32| !list.read.contains(block);
    let blocks: Vec<i32> =
        rarest.blocks.iter().filter(|block| lists.iter().any(|list| missing(list, block))).copied().collect();
    if blocks.is_empty() {
        return Ok(());
    }
    let terms: Vec<i64> = lists
        .iter()
        .filter(|list| blocks.iter().any(|block| missing(list, block)))
        .map(|list| list.term)
        .collect();
    let rows: Vec<(i64, i32, Vec<u8>)> = sqlx::query_as(
        "SELECT term, block, bitmap FROM audit_posting WHERE term = ANY ($1) AND block = ANY ($2)",
    )
    .bind(terms)
    .bind(blocks)
    .fetch_all(connection)
    .await?;
    for (term, block, bitmap) in rows {
        for list in lists.iter_mut().filter(|list| list.term == term) {
            list.bitmaps.insert(block, BlockBitmap::of_bytes(&bitmap));
        }
    }
    Ok(())
}
