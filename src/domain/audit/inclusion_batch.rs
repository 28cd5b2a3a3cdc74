//! Inclusion proofs for many consecutive events in one tree. Neighbouring events share siblings, which are
//! read once. Stored hashes are read from the index; hashes of newer events are computed from documents.

use sqlx::PgConnection;

use super::index::{self, BLOCK};
use super::store;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::merkle::{AuditPaths, Hash};

/// Number of children of a stored node.
const FAN: u64 = 256;

/// Proves inclusion in the tree of one size. Caches 256 leaves, 256 nodes above the leaves, and all nodes
/// above those.
#[derive(Debug)]
pub struct InclusionBatch {
    size: u64,
    low: Option<(u64, AuditPaths)>,
    middle: Option<(u64, AuditPaths)>,
    high: Option<AuditPaths>,
}

impl InclusionBatch {
    /// For the tree of the first `size` events.
    pub fn of(size: u64) -> Self {
        Self { size, low: None, middle: None, high: None }
    }

    /// The inclusion proof of an event, from its leaf up.
    pub async fn prove(&mut self, connection: &mut PgConnection, seq: u64) -> Result<Vec<Hash>, Fault> {
        if seq >= self.size {
            return Err(Fault::new("no such event to prove"));
        }
        let (first, group) = (seq / FAN, seq / FAN / FAN);
        if self.low.as_ref().is_none_or(|(at, _)| *at != first) {
            self.low = Some((first, AuditPaths::over(leaves(connection, first, self.size).await?)));
        }
        if self.middle.as_ref().is_none_or(|(at, _)| *at != group) {
            self.middle = Some((group, AuditPaths::over(nodes(connection, group, self.size).await?)));
        }
        if self.high.is_none() {
            self.high = Some(AuditPaths::over(tops(connection, self.size).await?));
        }
        let place = |n: u64| usize::try_from(n).unwrap_or_default();
        let mut path = Vec::new();
        path.extend(self.low.iter().flat_map(|(_, levels)| levels.path(place(seq % FAN))));
        path.extend(self.middle.iter().flat_map(|(_, levels)| levels.path(place(first % FAN))));
        path.extend(self.high.iter().flat_map(|levels| levels.path(place(group))));
        Ok(path)
    }
}

/// The leaves of the `n`th group of 256 events, up to `size`.
async fn leaves(connection: &mut PgConnection, n: u64, size: u64) -> Result<Vec<Hash>, Fault> {
    let (from, to) = (n * FAN, ((n + 1) * FAN).min(size));
    let bytes = |events: u64| i32::try_from(events * 32).unwrap_or(i32::MAX);
    let found: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT substring(leaves FROM $2 + 1 FOR $3) FROM audit_block WHERE block = $1")
            .bind(i32::try_from(from / BLOCK).context("numbering a block")?)
            .bind(bytes(from % BLOCK))
            .bind(bytes(to - from))
            .fetch_optional(&mut *connection)
            .await?;
    let leaves: Vec<Hash> = match found {
        Some(bytes) => bytes.chunks(32).map(hash_of).collect::<Result<_, _>>()?,
        None => {
            let rows = store::unindexed_leaves(connection, from..to).await?;
            rows.into_iter().map(|(_, leaf)| leaf).collect()
        }
    };
    if u64::try_from(leaves.len()).unwrap_or_default() == to - from {
        Ok(leaves)
    } else {
        Err(Fault::new(format!("events are missing from {from} on")))
    }
}

/// The roots of the groups of 256 events in the `group`th 65,536 events; the last group may be incomplete.
async fn nodes(connection: &mut PgConnection, group: u64, size: u64) -> Result<Vec<Hash>, Fault> {
    let (from, to) = (group * FAN, ((group + 1) * FAN).min(size.div_ceil(FAN)));
    let full = to.min(size / FAN);
    let mut hashes = stored(connection, 1, from..full, size).await?;
    if full < to {
        hashes.extend(AuditPaths::over(leaves(connection, full, size).await?).root());
    }
    Ok(hashes)
}

/// The roots of the groups of 65,536 events; the last group may be incomplete.
async fn tops(connection: &mut PgConnection, size: u64) -> Result<Vec<Hash>, Fault> {
    let full = size / FAN / FAN;
    let mut hashes = stored(connection, 2, 0..full, size).await?;
    if full * FAN * FAN < size {
        hashes.extend(AuditPaths::over(nodes(connection, full, size).await?).root());
    }
    Ok(hashes)
}

/// Full nodes of a level; nodes that are not stored yet are computed from lower levels.
async fn stored(
    connection: &mut PgConnection,
    level: i16,
    range: std::ops::Range<u64>,
    size: u64,
) -> Result<Vec<Hash>, Fault> {
    let span = if level == 1 { FAN } else { FAN * FAN };
    let there = (index::indexed(connection).await? / span).clamp(range.start, range.end.max(range.start));
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let rows: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT hash FROM audit_node WHERE level = $1 AND n >= $2 AND n < $3 ORDER BY n")
            .bind(level)
            .bind(number(range.start))
            .bind(number(there))
            .fetch_all(&mut *connection)
            .await?;
    let mut hashes: Vec<Hash> = rows.iter().map(|hash| hash_of(hash)).collect::<Result<_, _>>()?;
    if u64::try_from(hashes.len()).unwrap_or_default() != there - range.start {
        return Err(Fault::new("nodes of the tree are missing"));
    }
    for n in there..range.end {
        let below = match level {
            1 => leaves(connection, n, size).await?,
            _ => Box::pin(stored(connection, 1, n * FAN..(n + 1) * FAN, size)).await?,
        };
        hashes.extend(AuditPaths::over(below).root());
    }
    Ok(hashes)
}

fn hash_of(bytes: &[u8]) -> Result<Hash, Fault> {
    bytes.try_into().context("reading a hash")
}
