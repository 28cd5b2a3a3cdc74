//! Sessions that this server has stored within the last minute: their exchanges need no statement.

use moka::sync::Cache;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{PRECISION, SessionOwner};
use crate::domain::person::LogNames;

const MAX_SESSIONS: u64 = 100_000;

/// A session as its row was written.
#[derive(Debug, Clone, Copy)]
pub struct StoredSession {
    pub id: Uuid,
    /// When its client and user last used it.
    pub last_at: OffsetDateTime,
}

#[derive(Debug, Clone, Copy)]
struct CachedSession {
    stored: StoredSession,
    erasures: Option<i64>,
}

/// No other server replaces a session that was stored within the last minute, so that a cached id is the stored one. An
/// entry is for events with names of the same number of erasures: no session continues that of an erased person.
#[derive(Debug)]
pub struct SessionCache(Cache<SessionOwner, CachedSession>);

impl Default for SessionCache {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_SESSIONS).build())
    }
}

impl SessionCache {
    /// The session of the owner, if its row needs no statement at this time.
    pub fn find(&self, owner: &SessionOwner, names: &LogNames, now: OffsetDateTime) -> Option<Uuid> {
        let cached = self.0.get(owner)?;
        let is_recent = (now - cached.stored.last_at).abs() < PRECISION;
        (cached.erasures == names.erasures() && is_recent).then_some(cached.stored.id)
    }

    /// Keeps a session whose row was committed together with events under these names.
    pub fn keep(&self, owner: SessionOwner, names: &LogNames, stored: StoredSession) {
        self.0.insert(owner, CachedSession { stored, erasures: names.erasures() });
    }
}
