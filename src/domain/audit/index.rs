//! Search index of the log: terms of each event, and a bitmap of the events of a block that have a term. The
//! index is built from complete blocks, asynchronously; newer events are read directly.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::field::{Field, term};
use super::filter::instant;
use super::hourly_counts::HourlyCounts;
use super::store;
use crate::platform::fault::{Context, Fault};
use crate::platform::locks::Lock;
use actchain_protocol::merkle::{self, Frontier, Hash};

/// Number of events in a block.
pub const BLOCK: u64 = 1_024;
/// Size of a bitmap with one bit for each event of a block.
pub const BITMAP_BYTES: usize = 128;
/// Number of hashes in a tile (c2sp.org/tlog-tiles).
const TILE: u64 = 256;

pub fn terms(event: &Value) -> Vec<i64> {
    let texts = [
        (Field::Id, "/id"),
        (Field::Action, "/action"),
        (Field::Outcome, "/outcome"),
        (Field::Reason, "/reason"),
        (Field::Client, "/actor/client_id"),
        (Field::Actor, "/actor/client_id"),
        (Field::Actor, "/actor/sub"),
        (Field::Subject, "/subject/sub"),
        (Field::Delegation, "/delegation_id"),
        (Field::Chain, "/txn"),
        (Field::Token, "/jti"),
        (Field::Token, "/parent_jti"),
        (Field::Token, "/detail/refresh_token"),
        (Field::Target, "/target"),
        (Field::Session, "/session_id"),
        (Field::StandingGrant, "/standing_grant_id"),
        (Field::Request, "/request_id"),
        (Field::ActorType, "/actor/type"),
    ];
    let plain = texts.into_iter().filter_map(|(field, pointer)| Some((field, event.pointer(pointer)?)));
    let list = |name: &str| event.get(name).and_then(Value::as_array).into_iter().flatten();
    let rules = list("findings").filter_map(|finding| Some((Field::Rule, finding.get("rule")?)));
    let actors = list("act_chain").filter_map(|link| Some((Field::Actor, link.get("sub")?)));
    let path = list("delegation_path").map(|id| (Field::Delegation, id));
    let found = plain.chain(actors).chain(path).chain(rules);
    let mut terms: Vec<i64> = found.filter_map(|(field, value)| Some(term(field, value.as_str()?))).collect();
    if event.get("txn").is_some() {
        terms.push(term(Field::Chained, ""));
    }
    if list("findings").next().is_some() {
        terms.push(term(Field::Flagged, "true"));
    }
    if event.get("session_id").is_some() {
        terms.push(term(Field::InSession, ""));
    }
    terms
}

/// A set of events of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockBitmap([u64; 16]);

impl BlockBitmap {
    pub const ALL: Self = Self([u64::MAX; 16]);

    fn add(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    pub fn intersect(self, other: Self) -> Self {
        let mut both = self;
        for (word, other) in both.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        both
    }

    pub fn unite(self, other: Self) -> Self {
        let mut either = self;
        for (word, other) in either.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        either
    }

    /// The members that the other set does not have.
    pub fn without(self, other: Self) -> Self {
        let mut rest = self;
        for (word, other) in rest.0.iter_mut().zip(other.0) {
            *word &= !other;
        }
        rest
    }

    pub fn count(self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The members from a position on.
    pub(super) fn members_from(self, first: u64) -> Self {
        let mut rest = Self::default();
        for place in self.places().filter(|place| *place >= first) {
            rest.add(usize::try_from(place).unwrap_or(usize::MAX));
        }
        rest
    }

    /// The first position that only one of the two has.
    pub(super) fn first_difference(self, other: Self) -> Option<u64> {
        let mut difference = self;
        for (word, other) in difference.0.iter_mut().zip(other.0) {
            *word ^= other;
        }
        difference.places().next()
    }

    /// Positions in the block, ascending.
    pub fn places(self) -> impl DoubleEndedIterator<Item = u64> {
        (0..BLOCK).filter(move |place| {
            let word = self.0.get(usize::try_from(place / 64).unwrap_or(usize::MAX));
            word.is_some_and(|word| word >> (place % 64) & 1 == 1)
        })
    }

    /// Storage format: two bytes per member, or a bitmap with one bit per event from 64 members on.
    pub fn to_bytes(self) -> Vec<u8> {
        if self.count() >= 64 {
            return self.0.iter().flat_map(|word| word.to_be_bytes()).collect();
        }
        self.places().flat_map(|place| u16::try_from(place).unwrap_or_default().to_be_bytes()).collect()
    }

    /// Reads the storage format; damaged bytes give an empty set.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let mut bitmap = Self::default();
        if bytes.len() == BITMAP_BYTES {
            for (word, bytes) in bitmap.0.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = u64::from_be_bytes(bytes.try_into().unwrap_or_default());
            }
        } else {
            for place in bytes.chunks_exact(2) {
                bitmap.add(usize::from(u16::from_be_bytes(place.try_into().unwrap_or_default())));
            }
        }
        bitmap
    }
}

/// What the index has about consecutive events of one block.
#[derive(Debug)]
pub struct BlockIndex {
    /// Earliest and latest `at`.
    pub first_at: OffsetDateTime,
    pub last_at: OffsetDateTime,
    /// The events of each term.
    pub postings: BTreeMap<i64, BlockBitmap>,
    /// The events of each hour.
    pub hourly_counts: HourlyCounts,
}

impl BlockIndex {
    /// The index of the events from a position of the block on.
    pub fn of<'a>(first: usize, documents: impl Iterator<Item = &'a str>) -> Self {
        let mut postings: BTreeMap<i64, BlockBitmap> = BTreeMap::new();
        let (mut instants, mut hourly_counts) = (Vec::new(), HourlyCounts::default());
        for (place, document) in (first..).zip(documents) {
            // Documents that are not JSON get no terms: verification reports the damage.
            let Ok(event) = serde_json::from_str::<Value>(document) else { continue };
            instants.push(instant(&event));
            hourly_counts.add(&event);
            for term in terms(&event) {
                postings.entry(term).or_default().add(place);
            }
        }
        let epoch = OffsetDateTime::UNIX_EPOCH;
        Self {
            first_at: instants.iter().min().copied().unwrap_or(epoch),
            last_at: instants.iter().max().copied().unwrap_or(epoch),
            postings,
            hourly_counts,
        }
    }
}

/// Number of indexed events: complete blocks from the first event on.
pub async fn indexed(connection: &mut PgConnection) -> Result<u64, Fault> {
    let blocks: i32 = sqlx::query_scalar("SELECT coalesce(max(block) + 1, 0) FROM audit_block")
        .fetch_one(connection)
        .await?;
    Ok(u64::try_from(blocks).unwrap_or_default() * BLOCK)
}

/// Indexes the next block in the caller's transaction. Returns `false` if there is no complete block or
/// another transaction is indexing.
pub async fn index_next_block(connection: &mut PgConnection) -> Result<bool, Fault> {
    let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(Lock::AuditIndex.number())
        .fetch_one(&mut *connection)
        .await?;
    if !alone {
        return Ok(false);
    }
    let from = indexed(&mut *connection).await?;
    if store::head(&mut *connection).await?.size() < from + BLOCK {
        return Ok(false);
    }
    // In this order: events that are archived between the two statements are read as documents.
    let documents = store::documents_in(&mut *connection, from..from + BLOCK).await?;
    let first = documents.first().map_or(from + BLOCK, |(seq, _)| *seq);
    let archived = store::archived_leaves(&mut *connection, from..first).await?;
    let leaves: Vec<Hash> = archived
        .iter()
        .map(|(_, leaf)| *leaf)
        .chain(documents.iter().map(|(_, document)| merkle::leaf(document.as_bytes())))
        .collect();
    // All events up to the head's size must exist; missing rows mean that events were deleted.
    if leaves.len() < usize::try_from(BLOCK).unwrap_or(usize::MAX) {
        return Err(Fault::new(format!(
            "of the events from {from} on some are missing: run actchain audit verify"
        )));
    }
    let documents = documents.iter().map(|(_, document)| document.as_str());
    let block = BlockIndex::of(archived.len(), documents);
    write(&mut *connection, from / BLOCK, &leaves, &block).await?;
    Ok(true)
}

async fn write(
    connection: &mut PgConnection,
    number: u64,
    leaves: &[Hash],
    block: &BlockIndex,
) -> Result<(), Fault> {
    let id = i32::try_from(number).context("numbering a block")?;
    sqlx::query("INSERT INTO audit_block (block, leaves, first_at, last_at) VALUES ($1, $2, $3, $4)")
        .bind(id)
        .bind(leaves.concat())
        .bind(block.first_at)
        .bind(block.last_at)
        .execute(&mut *connection)
        .await?;
    let (terms, bitmap): (Vec<i64>, Vec<Vec<u8>>) =
        block.postings.iter().map(|(term, bitmap)| (*term, bitmap.to_bytes())).unzip();
    sqlx::query(
        "INSERT INTO audit_posting (term, block, bitmap)
         SELECT input.term, $3, input.bitmap FROM unnest($1::bigint[], $2::bytea[]) AS input (term, bitmap)",
    )
    .bind(terms)
    .bind(bitmap)
    .bind(id)
    .execute(&mut *connection)
    .await?;
    block.hourly_counts.store(&mut *connection).await?;
    let tiles = usize::try_from(TILE).unwrap_or(usize::MAX);
    let first = number * BLOCK / TILE;
    for (n, leaves) in (first..).zip(leaves.chunks(tiles)) {
        add_node(&mut *connection, 1, n, root(leaves)).await?;
    }
    Ok(())
}

/// Stores the root of a full tile, and the roots of the tiles above that became full.
async fn add_node(connection: &mut PgConnection, level: i16, n: u64, hash: Hash) -> Result<(), Fault> {
    let (mut level, mut n, mut hash) = (level, n, hash);
    loop {
        let number = i64::try_from(n).context("numbering a node")?;
        sqlx::query("INSERT INTO audit_node (level, n, hash) VALUES ($1, $2, $3)")
            .bind(level)
            .bind(number)
            .bind(hash.as_slice())
            .execute(&mut *connection)
            .await?;
        if n % TILE != TILE - 1 {
            return Ok(());
        }
        let below: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT hash FROM audit_node WHERE level = $1 AND n > $2 - 256 AND n <= $2 ORDER BY n",
        )
        .bind(level)
        .bind(number)
        .fetch_all(&mut *connection)
        .await?;
        let below: Option<Vec<Hash>> = below.into_iter().map(|hash| hash.try_into().ok()).collect();
        hash =
            root(&below.filter(|below| below.len() == 256).ok_or_else(|| Fault::new("a tile with a gap"))?);
        (level, n) = (level + 1, n / TILE);
    }
}

fn root(hashes: &[Hash]) -> Hash {
    let mut tree = Frontier::default();
    for hash in hashes {
        tree.push(*hash);
    }
    tree.root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn members_come_back_as_they_went(places in proptest::collection::btree_set(0usize..1_024, 0..200)) {
            let mut bitmap = BlockBitmap::default();
            for place in &places {
                bitmap.add(*place);
            }
            prop_assert_eq!(BlockBitmap::of_bytes(&bitmap.to_bytes()), bitmap);
            prop_assert!(bitmap.places().eq(places.iter().map(|place| *place as u64)));
            prop_assert_eq!(bitmap.intersect(BlockBitmap::ALL), bitmap);
        }
    }

    #[test]
    fn a_damaged_posting_names_nothing_outside_its_block() {
        assert_eq!(BlockBitmap::of_bytes(&[0xff, 0xff, 0x01]), BlockBitmap::default());
    }
}
