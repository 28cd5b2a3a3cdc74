//! What the log said about names of sessions within the last minute.

use std::time::Duration;

use moka::sync::Cache;

use super::SessionOwner;

const MAX_NAMES: u64 = 100_000;
/// An agent whose first exchange in a session follows a report that names it waits at most so long to be in it.
const LIFETIME: Duration = Duration::from_secs(60);

/// A name that a client uses in work for a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UsedName {
    pub owner: SessionOwner,
    pub name: String,
}

/// What a name is to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameMeaning {
    /// The id of a session in which the client works.
    Id,
    /// A name that the client has chosen.
    Own,
}

#[derive(Debug)]
pub struct SessionNames(Cache<UsedName, NameMeaning>);

impl Default for SessionNames {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_NAMES).time_to_live(LIFETIME).build())
    }
}

impl SessionNames {
    pub fn find(&self, name: &UsedName) -> Option<NameMeaning> {
        self.0.get(name)
    }

    pub fn keep(&self, name: UsedName, meaning: NameMeaning) {
        self.0.insert(name, meaning);
    }
}
