//! The stored Merkle tree: proofs, frontiers and tiles with a constant number of queries, for a log of any
//! size. Stored hashes are read from the index; hashes of newer events are computed from documents.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::index::{self, BLOCK};
use super::store;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::merkle::{self, Frontier, Hash, Span, Subtree};
use actchain_protocol::tlog_tiles::{Content, Tile};

/// Number of children of a stored node.
const FAN: u64 = 256;
/// Binary logarithm of [`FAN`].
const STRIDE: u32 = 8;
/// Maximum number of unindexed events hashed for one response: the endpoints are public.
const MAX_UNINDEXED: u64 = 64 * BLOCK;

/// The inclusion proof of an event in the tree of the first `size` events, from its leaf up.
pub async fn inclusion(connection: &mut PgConnection, seq: u64, size: u64) -> Result<Vec<Hash>, Fault> {
    let spans = merkle::inclusion_spans(seq, size).ok_or_else(|| Fault::new("no such event to prove"))?;
    roots(connection, &spans).await
}

/// The proof that the tree of size `from` is a prefix of the tree of size `to`.
pub async fn consistency(connection: &mut PgConnection, from: u64, to: u64) -> Result<Vec<Hash>, Fault> {
    let spans = merkle::consistency_spans(from, to).ok_or_else(|| Fault::new("a log does not shrink"))?;
    roots(connection, &spans).await
}

/// The leaf of an event, its inclusion proof, and the root that the proof leads to.
pub async fn proven(
    connection: &mut PgConnection,
    seq: u64,
    size: u64,
) -> Result<(Hash, Vec<Hash>, Hash), Fault> {
    let mut spans = merkle::inclusion_spans(seq, size).ok_or_else(|| Fault::new("no such event to prove"))?;
    spans.push(Span { from: seq, to: seq + 1 });
    spans.push(Span { from: 0, to: size });
    let mut hashes = roots(connection, &spans).await?;
    let (root, leaf) = (hashes.pop(), hashes.pop());
    leaf.zip(root)
        .map(|(leaf, root)| (leaf, hashes, root))
        .ok_or_else(|| Fault::new("a proof without a leaf"))
}

/// The right edge of the tree of this size.
pub async fn frontier(connection: &mut PgConnection, size: u64) -> Result<Frontier, Fault> {
    let subtrees = Span { from: 0, to: size }.subtrees();
    let known = NodeCache::of(connection, subtrees.iter().map(|one| run_of(*one))).await?;
    let peaks = subtrees.iter().map(|one| known.root(*one)).collect::<Result<_, _>>()?;
    Frontier::from_parts(size, peaks).ok_or_else(|| Fault::new("an edge that does not fit its size"))
}

/// The hashes of a tile (c2sp.org/tlog-tiles): `width` roots of subtrees of 256^level events, starting at
/// number `n * 256`. `None` if the log is too short.
pub async fn tile(
    connection: &mut PgConnection,
    level: u8,
    n: u64,
    width: u16,
) -> Result<Option<Vec<u8>>, Fault> {
    let needs = Tile { content: Content::Hashes(level), n, width }.needs();
    let size = store::head(connection).await?.size();
    let Some(first) = n.checked_mul(FAN).filter(|_| needs.is_some_and(|needs| needs <= size)) else {
        return Ok(None);
    };
    let run = NodeRun { level: level.into(), first, count: width.into() };
    let known = NodeCache::of(connection, [run]).await?;
    let hashes = (first..first + run.count).map(|n| known.node(run.level, n));
    Ok(Some(hashes.collect::<Result<Vec<_>, _>>()?.concat()))
}

/// The stored leaves of events `[from, to)`, up to the first missing leaf: those of blocks, and of events that were
/// archived while their block was not complete.
pub async fn leaves_as_stored(connection: &mut PgConnection, from: u64, to: u64) -> Result<Vec<Hash>, Fault> {
    let mut leaves: Vec<Hash> =
        Vec::with_capacity(usize::try_from(to.saturating_sub(from)).unwrap_or_default());
    let past = |leaves: &[Hash]| from + leaves.len() as u64;
    for (first, bytes) in leaves_of_blocks(connection, &[(from, to)]).await? {
        if first == past(&leaves) {
            leaves.extend(bytes.as_chunks().0);
        }
    }
    for (seq, leaf) in store::archived_leaves(connection, past(&leaves)..to).await? {
        if seq == past(&leaves) {
            leaves.push(leaf);
        }
    }
    Ok(leaves)
}

/// The stored roots of tiles that end within events `[from, to)`, by level and number.
pub async fn tiles_as_stored(
    connection: &mut PgConnection,
    from: u64,
    to: u64,
) -> Result<HashMap<(u32, u64), Hash>, Fault> {
    let mut known = NodeCache::default();
    let runs: Vec<(u32, u64, u64)> = (1..=7)
        .map(|level| (level, from >> (level * STRIDE), to >> (level * STRIDE)))
        .filter(|(_, first, past)| first < past)
        .collect();
    known.read_nodes(connection, &runs).await?;
    Ok(known.nodes)
}

/// Whether the numbers of stored leaves and nodes match the number of indexed events.
pub async fn is_regular(connection: &mut PgConnection) -> Result<bool, Fault> {
    let indexed = index::indexed(connection).await?;
    let blocks: i64 =
        sqlx::query_scalar("SELECT count(*) FROM audit_block").fetch_one(&mut *connection).await?;
    let levels: Vec<(i16, i64, i64)> =
        sqlx::query_as("SELECT level, count(*), max(n) FROM audit_node GROUP BY level")
            .fetch_all(connection)
            .await?;
    let expected = |level: u32| signed(indexed.checked_shr(level * STRIDE).unwrap_or(0));
    let fits = |(level, count, last): &(i16, i64, i64)| {
        let expected = u32::try_from(*level).map_or(0, expected);
        *count == expected && last + 1 == expected
    };
    let all_there = (1..=7).filter(|level| expected(*level) > 0).count() == levels.len();
    Ok(signed(indexed / BLOCK) == blocks && all_there && levels.iter().all(fits))
}

/// The root hashes of the spans of a proof.
async fn roots(connection: &mut PgConnection, spans: &[Span]) -> Result<Vec<Hash>, Fault> {
    let subtrees: Vec<Vec<Subtree>> = spans.iter().map(|span| span.subtrees()).collect();
    let known = NodeCache::of(connection, subtrees.iter().flatten().map(|one| run_of(*one))).await?;
    subtrees
        .iter()
        .map(|peaks| {
            let peaks = peaks.iter().map(|one| known.root(*one)).collect::<Result<Vec<_>, _>>()?;
            Ok(merkle::root_of(&peaks).unwrap_or_else(|| Frontier::default().root()))
        })
        .collect()
}

/// Consecutive nodes of one stored level; level 0 contains the leaves.
#[derive(Debug, Clone, Copy)]
struct NodeRun {
    level: u32,
    first: u64,
    count: u64,
}

/// The nodes of the next lower stored level that form a subtree: at most 128.
fn run_of(subtree: Subtree) -> NodeRun {
    let above = subtree.level % STRIDE;
    NodeRun { level: subtree.level / STRIDE, first: subtree.n << above, count: 1 << above }
}

/// Nodes read from the database.
#[derive(Debug, Default)]
struct NodeCache {
    nodes: HashMap<(u32, u64), Hash>,
}

/// Nodes and leaves that have to be read.
#[derive(Debug, Default)]
struct ReadPlan {
    nodes: Vec<(u32, u64, u64)>,
    leaves: Vec<(u64, u64)>,
    unindexed: Option<(u64, u64)>,
}

impl ReadPlan {
    /// Plans to read the stored part of a run; the rest is planned recursively on the next lower level.
    fn add(&mut self, run: NodeRun, indexed: u64) {
        let end = run.first + run.count;
        let stored = indexed.checked_shr(run.level * STRIDE).unwrap_or(0).clamp(run.first, end);
        if run.first < stored {
            match run.level {
                0 => self.leaves.push((run.first, stored)),
                level => self.nodes.push((level, run.first, stored)),
            }
        }
        if stored == end {
            return;
        }
        if run.level == 0 {
            let (from, to) = self.unindexed.unwrap_or((stored, end));
            self.unindexed = Some((from.min(stored), to.max(end)));
        } else {
            let below = NodeRun { level: run.level - 1, first: stored * FAN, count: (end - stored) * FAN };
            self.add(below, indexed);
        }
    }
}

impl NodeCache {
    /// Reads all nodes that the runs need.
    async fn of(
        connection: &mut PgConnection,
        runs: impl IntoIterator<Item = NodeRun>,
    ) -> Result<Self, Fault> {
        let indexed = index::indexed(connection).await?;
        let mut plan = ReadPlan::default();
        for run in runs {
            plan.add(run, indexed);
        }
        let mut known = Self::default();
        known.read_nodes(connection, &plan.nodes).await?;
        known.read_leaves(connection, &plan.leaves).await?;
        if let Some((from, to)) = plan.unindexed {
            known.read_unindexed(connection, from, to).await?;
        }
        Ok(known)
    }

    async fn read_nodes(
        &mut self,
        connection: &mut PgConnection,
        plan: &[(u32, u64, u64)],
    ) -> Result<(), Fault> {
        if plan.is_empty() {
            return Ok(());
        }
        let levels: Vec<i16> =
            plan.iter().map(|(level, _, _)| i16::try_from(*level).unwrap_or(i16::MAX)).collect();
        let rows: Vec<(i16, i64, Vec<u8>)> = sqlx::query_as(
            "SELECT node.level, node.n, node.hash FROM unnest($1::smallint[], $2::bigint[], $3::bigint[])
                 AS wanted (level, first, past)
             JOIN audit_node node ON node.level = wanted.level AND node.n >= wanted.first AND node.n < wanted.past",
        )
        .bind(levels)
        .bind(plan.iter().map(|(_, first, _)| signed(*first)).collect::<Vec<_>>())
        .bind(plan.iter().map(|(_, _, past)| signed(*past)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
        for (level, n, hash) in rows {
            let (level, n) = (u32::try_from(level).unwrap_or(u32::MAX), u64::try_from(n).unwrap_or(u64::MAX));
            self.nodes.insert((level, n), hash_of(&hash)?);
        }
        Ok(())
    }

    async fn read_leaves(&mut self, connection: &mut PgConnection, plan: &[(u64, u64)]) -> Result<(), Fault> {
        for (first, leaves) in leaves_of_blocks(connection, plan).await? {
            for (seq, leaf) in (first..).zip(leaves.chunks(32)) {
                self.nodes.insert((0, seq), hash_of(leaf)?);
            }
        }
        Ok(())
    }

    async fn read_unindexed(
        &mut self,
        connection: &mut PgConnection,
        from: u64,
        to: u64,
    ) -> Result<(), Fault> {
        if to.saturating_sub(from) > MAX_UNINDEXED {
            return Err(Fault::new(format!(
                "the index has come to event {from} only: it has to come closer first"
            )));
        }
        for (seq, leaf) in store::unindexed_leaves(connection, from..to).await? {
            self.nodes.insert((0, seq), leaf);
        }
        Ok(())
    }

    /// A node of a stored level; computed from lower levels if it is not stored.
    fn node(&self, level: u32, n: u64) -> Result<Hash, Fault> {
        if let Some(hash) = self.nodes.get(&(level, n)) {
            return Ok(*hash);
        }
        let below =
            level.checked_sub(1).ok_or_else(|| Fault::new(format!("the log lacks the leaf of event {n}")))?;
        self.over(NodeRun { level: below, first: n * FAN, count: FAN })
    }

    fn root(&self, subtree: Subtree) -> Result<Hash, Fault> {
        self.over(run_of(subtree))
    }

    /// The root of a run that is a full subtree.
    fn over(&self, run: NodeRun) -> Result<Hash, Fault> {
        let mut tree = Frontier::default();
        for n in run.first..run.first + run.count {
            tree.push(self.node(run.level, n)?);
        }
        Ok(tree.root())
    }
}

/// The leaves of ranges of events as blocks have them, in order: the first `seq` and the leaves of each block. Reads only
/// the needed slices.
async fn leaves_of_blocks(
    connection: &mut PgConnection,
    ranges: &[(u64, u64)],
) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
    let mut slices = Vec::new();
    for (from, to) in ranges {
        let mut from = *from;
        while from < *to {
            let end = (from / BLOCK + 1).saturating_mul(BLOCK).min(*to);
            slices.push((from, end));
            from = end;
        }
    }
    if slices.is_empty() {
        return Ok(Vec::new());
    }
    let bytes = |events: u64| i32::try_from(events * 32).unwrap_or(i32::MAX);
    let block = |seq: u64| i32::try_from(seq / BLOCK).unwrap_or(i32::MAX);
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT wanted.first, substring(block.leaves FROM wanted.at + 1 FOR wanted.length)
         FROM unnest($1::bigint[], $2::integer[], $3::integer[], $4::integer[])
             AS wanted (first, block, at, length)
         JOIN audit_block block ON block.block = wanted.block
         ORDER BY wanted.first",
    )
    .bind(slices.iter().map(|(from, _)| signed(*from)).collect::<Vec<_>>())
    .bind(slices.iter().map(|(from, _)| block(*from)).collect::<Vec<_>>())
    .bind(slices.iter().map(|(from, _)| bytes(from % BLOCK)).collect::<Vec<_>>())
    .bind(slices.iter().map(|(from, to)| bytes(to - from)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(first, leaves)| Ok((u64::try_from(first).context("reading leaves")?, leaves)))
        .collect()
}

fn hash_of(bytes: &[u8]) -> Result<Hash, Fault> {
    bytes.try_into().context("reading a hash of the log")
}

/// Converts for PostgreSQL; no log has more than `i64::MAX` events.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_index_has_not_come_to_is_made_from_what_lies_below() {
        let mut plan = ReadPlan::default();
        // A subtree of 2^17 events; the first 66 * 1024 events are indexed.
        plan.add(run_of(Subtree { level: 17, n: 0 }), 66 * BLOCK);
        assert_eq!(plan.nodes, [(2, 0, 1), (1, 256, 264)]);
        assert!(plan.leaves.is_empty());
        assert_eq!(plan.unindexed, Some((66 * BLOCK, 1 << 17)));
    }

    #[test]
    fn what_is_stored_is_read_in_runs() {
        let mut plan = ReadPlan::default();
        plan.add(run_of(Subtree { level: 3, n: 5 }), BLOCK);
        plan.add(run_of(Subtree { level: 9, n: 0 }), BLOCK);
        assert_eq!((plan.leaves.as_slice(), plan.nodes.as_slice()), (&[(40, 48)][..], &[(1, 0, 2)][..]));
        assert_eq!(plan.unindexed, None);
    }
}
