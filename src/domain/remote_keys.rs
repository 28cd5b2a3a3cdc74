//! JWK Sets that others publish: fetched when needed, remembered, asked for again once when a key is unknown, and
//! served stale for a bounded time when their publisher is down.

use std::sync::Arc;

use moka::sync::Cache;
use time::{Duration, OffsetDateTime};
use tokio::sync::Mutex;

use super::client::usable_keys;
use crate::platform::fault::Fault;
use crate::platform::jose::PublicKey;
use crate::platform::json;
use crate::platform::outbound::Outbound;

/// How long a set is taken for current.
const FRESH: Duration = Duration::minutes(10);
/// How long it is used when no newer one can be had.
const STALE: Duration = Duration::hours(24);
/// At most one fetch in this time, for an unknown key (standards JS-16) or after a failure.
const PAUSE: Duration = Duration::seconds(60);
const PAUSE_AFTER_FAILURE: Duration = Duration::seconds(5);

#[derive(Debug, Default)]
struct Known {
    keys: Arc<Vec<PublicKey>>,
    fetched_at: Option<OffsetDateTime>,
    tried_at: Option<OffsetDateTime>,
    failed: bool,
}

/// The sets by their addresses, at most a thousand.
#[derive(Debug, Clone)]
pub struct RemoteKeys {
    outbound: Outbound,
    sets: Cache<String, Arc<Mutex<Known>>>,
}

impl RemoteKeys {
    /// Knows nothing yet.
    pub fn new(outbound: Outbound) -> Self {
        Self { outbound, sets: Cache::new(1_000) }
    }

    /// The keys at an address, hopefully with the one named. While one caller fetches, the others wait for it.
    ///
    /// # Errors
    /// A fault if there is no set that is young enough.
    pub async fn get(
        &self,
        url: &str,
        kid: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Arc<Vec<PublicKey>>, Fault> {
        let set = self.sets.get_with(url.to_owned(), Arc::default);
        let mut known = set.lock().await;
        if known.wants_fetch(kid, now) {
            self.fetch(url, &mut known, now).await;
        }
        match known.fetched_at {
            Some(at) if (now - at).abs() < STALE => Ok(Arc::clone(&known.keys)),
            _ => Err(Fault::new(format!("no keys from {url}"))),
        }
    }

    async fn fetch(&self, url: &str, known: &mut Known, now: OffsetDateTime) {
        known.tried_at = Some(now);
        let fetched = self.outbound.get_json(url).await.and_then(|body| {
            json::parse(&body)
                .and_then(|value| usable_keys(&value))
                .ok_or_else(|| Fault::new(format!("{url} is no JWK Set")))
        });
        known.failed = fetched.is_err();
        match fetched {
            Ok(keys) => {
                known.keys = Arc::new(keys);
                known.fetched_at = Some(now);
            }
            Err(fault) => tracing::warn!(error = %fault, "a JWK Set could not be fetched"),
        }
    }
}

impl Known {
    fn wants_fetch(&self, kid: Option<&str>, now: OffsetDateTime) -> bool {
        // A clock that was set back must not keep us from fetching for a day.
        let since = |at: OffsetDateTime| (now - at).abs();
        let pause = if self.failed { PAUSE_AFTER_FAILURE } else { PAUSE };
        let paused = self.tried_at.is_some_and(|at| since(at) < pause);
        let current = self.fetched_at.is_some_and(|at| since(at) < FRESH);
        let unknown = kid.is_some_and(|kid| !self.keys.iter().any(|key| key.kid() == Some(kid)));
        (!current || unknown) && !paused
    }
}
