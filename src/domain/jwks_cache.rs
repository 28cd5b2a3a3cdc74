//! JWK Sets that others publish: fetched when needed, remembered, fetched again when a key is unknown or a signature
//! fails, and served stale for a bounded time when their publisher is down. A fetch runs beside the requests: one at a
//! time for each address, and only those who need its result wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::sync::Cache;
use time::{Duration, OffsetDateTime};
use tokio::sync::watch;

use crate::platform::fault::Fault;
use crate::platform::jose::{BadJwk, JwkSet, PublicKey};
use crate::platform::json;
use crate::platform::outbound::Outbound;
use crate::protocol::jwt_key::candidates;
use crate::protocol::token_problem::TokenProblem;

/// How long a set is taken for current.
const FRESH: Duration = Duration::minutes(10);
/// How long its keys are used at once while a newer set is fetched.
const USABLE_MEANWHILE: Duration = Duration::minutes(20);
/// How long its keys are used when no newer set can be had.
const STALE: Duration = Duration::hours(24);
/// At most one fetch in this time, whatever tokens say: for an unknown key, a failed signature, or after a failure.
const PAUSE: Duration = Duration::seconds(10);
const PAUSE_AFTER_FAILURE: Duration = Duration::seconds(5);

/// The publisher gives no keys at the moment, so that nothing can be said of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysUnavailable;

/// The sets by their addresses, at most a thousand.
#[derive(Debug, Clone)]
pub struct JwksCache {
    outbound: Outbound,
    sets: Cache<String, Arc<Published>>,
    /// Fetches outlive the requests that began them, and the HTTP threads of those.
    runtime: tokio::runtime::Handle,
}

#[derive(Debug)]
struct Published {
    url: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: Arc<Vec<PublicKey>>,
    fetched_at: Option<OffsetDateTime>,
    tried_at: Option<OffsetDateTime>,
    /// Whether the last attempt failed.
    failed: bool,
    /// Closed when the fetch that is under way has ended.
    under_way: Option<watch::Receiver<()>>,
}

/// The keys as of one fetch.
struct AsOf {
    keys: Arc<Vec<PublicKey>>,
    fetched_at: Option<OffsetDateTime>,
}

impl JwksCache {
    /// Knows nothing yet. Fetches run on the runtime that this is called on.
    pub fn new(outbound: Outbound) -> Self {
        Self { outbound, sets: Cache::new(1_000), runtime: tokio::runtime::Handle::current() }
    }

    /// Verifies a signature with the keys at an address. Where no key verifies it, and the set was not fetched just now,
    /// it is fetched once more: a publisher may give a new key the name of an old one.
    ///
    /// # Errors
    /// [`KeysUnavailable`] if newer keys would be needed and cannot be had.
    pub async fn verify<T>(
        &self,
        (url, kid): (&str, Option<&str>),
        now: OffsetDateTime,
        verify: impl Fn(&[PublicKey]) -> Result<T, TokenProblem>,
    ) -> Result<Result<T, TokenProblem>, KeysUnavailable> {
        let published = self.sets.get_with(url.to_owned(), || {
            Arc::new(Published { url: url.to_owned(), state: Mutex::default() })
        });
        let known = self.keys(&published, kid, now).await?;
        let problem = match verify(&known.keys) {
            Err(
                problem @ (TokenProblem::Signature
                | TokenProblem::KeyUnknown
                | TokenProblem::AlgorithmNotAllowed),
            ) => problem,
            verified => return Ok(verified),
        };
        Ok(match self.newer(&published, &known, now).await? {
            Some(keys) => verify(&keys),
            None => Err(problem),
        })
    }

    /// The keys, with the one named if the publisher has it.
    async fn keys(
        &self,
        published: &Arc<Published>,
        kid: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<AsOf, KeysUnavailable> {
        let fetch = {
            let mut state = published.state();
            let known = state.has(kid, now);
            match state.age(now) {
                Some(age) if known && age < FRESH => None,
                // Whoever has a known key does not wait for the publisher.
                Some(age) if known && (age < USABLE_MEANWHILE || state.failed) => {
                    self.fetch(published, &mut state, now);
                    None
                }
                _ => self.fetch(published, &mut state, now),
            }
        };
        ended(fetch).await;
        let state = published.state();
        let usable = state.age(now).is_some_and(|age| age < STALE);
        // A publisher that did not answer may have the key.
        if usable && (state.has(kid, now) || !state.failed) {
            Ok(state.as_of())
        } else {
            Err(KeysUnavailable)
        }
    }

    /// The keys as published now, if they are not those that are known already.
    async fn newer(
        &self,
        published: &Arc<Published>,
        known: &AsOf,
        now: OffsetDateTime,
    ) -> Result<Option<Arc<Vec<PublicKey>>>, KeysUnavailable> {
        let fetch = {
            let mut state = published.state();
            if state.fetched_at == known.fetched_at { self.fetch(published, &mut state, now) } else { None }
        };
        ended(fetch).await;
        let state = published.state();
        if state.fetched_at != known.fetched_at {
            return Ok(Some(Arc::clone(&state.keys)));
        }
        if state.failed { Err(KeysUnavailable) } else { Ok(None) }
    }

    /// The fetch that is under way, or a new one; `None` if it is too early for one.
    fn fetch(
        &self,
        published: &Arc<Published>,
        state: &mut State,
        now: OffsetDateTime,
    ) -> Option<watch::Receiver<()>> {
        if let Some(fetch) = state.under_way.as_ref().filter(|fetch| fetch.has_changed().is_ok()) {
            return Some(fetch.clone());
        }
        let pause = if state.failed { PAUSE_AFTER_FAILURE } else { PAUSE };
        // A clock that was set back must not keep us from fetching for a day.
        if state.tried_at.is_some_and(|at| (now - at).abs() < pause) {
            return None;
        }
        let (done, fetch) = watch::channel(());
        state.tried_at = Some(now);
        state.under_way = Some(fetch.clone());
        let (outbound, published) = (self.outbound.clone(), Arc::clone(published));
        self.runtime.spawn(async move {
            let fetched = read(&outbound, &published.url).await;
            published.state().end(fetched, now);
            drop(done);
        });
        Some(fetch)
    }
}

/// Waits for the end of a fetch.
async fn ended(fetch: Option<watch::Receiver<()>>) {
    if let Some(mut fetch) = fetch {
        // The error is the end: nothing is ever sent.
        let _closed = fetch.changed().await;
    }
}

async fn read(outbound: &Outbound, url: &str) -> Result<Vec<PublicKey>, Fault> {
    let body = outbound.get_json(url).await?;
    let set = json::parse(&body).as_ref().and_then(JwkSet::read);
    let set = set.ok_or_else(|| Fault::new(format!("{url} is no JWK Set")))?;
    for key in &set.unusable {
        let kid = key.kid.as_deref().unwrap_or_default();
        match key.problem {
            // A key for encryption, or of a kind that is not used here, belongs into many sets.
            BadJwk::Unsupported => tracing::debug!(url, kid, problem = %key.problem, "a key is not used"),
            problem => tracing::warn!(url, kid, problem = %problem, "a key of a JWK Set cannot be used"),
        }
    }
    Ok(set.keys)
}

impl Published {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn age(&self, now: OffsetDateTime) -> Option<Duration> {
        self.fetched_at.map(|at| (now - at).abs())
    }

    /// Whether there is a key that may have signed under this name, young enough to be used at all.
    fn has(&self, kid: Option<&str>, now: OffsetDateTime) -> bool {
        self.age(now).is_some_and(|age| age < STALE) && candidates(&self.keys, kid).next().is_some()
    }

    fn as_of(&self) -> AsOf {
        AsOf { keys: Arc::clone(&self.keys), fetched_at: self.fetched_at }
    }

    fn end(&mut self, fetched: Result<Vec<PublicKey>, Fault>, now: OffsetDateTime) {
        self.under_way = None;
        self.failed = fetched.is_err();
        match fetched {
            Ok(keys) => {
                // Those before are withdrawn; but that nothing is published says of no token that it is not valid.
                self.failed = keys.is_empty();
                self.keys = Arc::new(keys);
                self.fetched_at = Some(now);
            }
            Err(fault) => tracing::warn!(error = %fault, "a JWK Set could not be fetched"),
        }
    }
}
