//! Sessions that this server has stored within the last minute: their exchanges need no statement.

use std::sync::atomic::{AtomicI64, Ordering};

use moka::sync::Cache;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{PRECISION, SessionOwner};

const MAX_SESSIONS: u64 = 100_000;

#[derive(Debug, Clone, Copy)]
struct CachedSession {
    id: Uuid,
    last_at: OffsetDateTime,
    erasures: i64,
}

/// No other server replaces a session that was stored within the last minute, so that a cached id is the stored one. An
/// erasure outdates all entries: no session continues that of an erased person.
#[derive(Debug)]
pub struct SessionCache {
    sessions: Cache<SessionOwner, CachedSession>,
    erasures: AtomicI64,
}

impl Default for SessionCache {
    fn default() -> Self {
        Self { sessions: Cache::builder().max_capacity(MAX_SESSIONS).build(), erasures: AtomicI64::new(0) }
    }
}

impl SessionCache {
    /// The session of the owner, if its row needs no statement at this time.
    pub fn find(&self, owner: &SessionOwner, now: OffsetDateTime) -> Option<Uuid> {
        let erasures = self.erasures.load(Ordering::Acquire);
        let cached = self.sessions.get(owner)?;
        let is_recent = (now - cached.last_at).abs() < PRECISION;
        (cached.erasures == erasures && is_recent).then_some(cached.id)
    }

    /// Keeps a session whose row was committed.
    pub fn keep(&self, owner: SessionOwner, id: Uuid, last_at: OffsetDateTime) {
        let erasures = self.erasures.load(Ordering::Acquire);
        self.sessions.insert(owner, CachedSession { id, last_at, erasures });
    }

    pub fn outdate(&self, erasures: i64) {
        self.erasures.fetch_max(erasures, Ordering::AcqRel);
    }
}
