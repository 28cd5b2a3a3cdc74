//! What this server knows to be usual: it needs no statement.

use moka::sync::Cache;

use super::UsedTarget;
use crate::domain::person::LogNames;
use crate::domain::principal::Principal;

const MAX_ENTRIES: u64 = 100_000;

/// A depth is for events with names of the same number of erasures: nothing that an erased person did is remembered.
#[derive(Debug, Clone, Copy)]
struct KnownDepth {
    depth: i32,
    erasures: Option<i64>,
}

#[derive(Debug)]
pub struct BaselineCache {
    targets: Cache<UsedTarget, ()>,
    depths: Cache<Principal, KnownDepth>,
}

impl Default for BaselineCache {
    fn default() -> Self {
        Self {
            targets: Cache::builder().max_capacity(MAX_ENTRIES).build(),
            depths: Cache::builder().max_capacity(MAX_ENTRIES).build(),
        }
    }
}

impl BaselineCache {
    pub fn has_target(&self, used: &UsedTarget) -> bool {
        self.targets.contains_key(used)
    }

    /// Whether the user had a chain of at least this depth.
    pub fn has_depth(&self, who: &Principal, names: &LogNames, depth: i32) -> bool {
        let known = self.depths.get(who);
        known.is_some_and(|known| known.erasures == names.erasures() && known.depth >= depth)
    }

    /// Keeps a target whose row is committed.
    pub fn keep_target(&self, used: UsedTarget) {
        self.targets.insert(used, ());
    }

    /// Keeps a depth whose row is committed, with events under these names.
    pub fn keep_depth(&self, who: Principal, names: &LogNames, depth: i32) {
        self.depths.insert(who, KnownDepth { depth, erasures: names.erasures() });
    }
}
