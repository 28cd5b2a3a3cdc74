//! JWK Sets of other parties: fetched on demand and cached. A set is fetched again when a key is unknown or a
//! signature fails, and served stale for a bounded time while its publisher is unavailable. A fetch runs outside the
//! requests, one at a time for each URL; only requests that need its result wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::sync::Cache;
use time::{Duration, OffsetDateTime};
use tokio::sync::watch;

use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use actchain_protocol::jose::{BadJwk, JwkSet, PublicKey};
use actchain_protocol::json;
use actchain_protocol::jwt_key::candidates;
use actchain_protocol::token_problem::TokenProblem;

/// Age up to which a set counts as current.
const FRESH: Duration = Duration::minutes(10);
/// Age up to which known keys are used without waiting, while a newer set is fetched.
const USABLE_MEANWHILE: Duration = Duration::minutes(20);
/// Age up to which keys are used while the publisher is unavailable.
const STALE: Duration = Duration::hours(24);
/// Minimum time between two fetches, independent of tokens: for an unknown key or a failed signature.
const PAUSE: Duration = Duration::seconds(10);
const PAUSE_AFTER_FAILURE: Duration = Duration::seconds(5);

/// Why no key verified a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLookupError {
    /// No current keys are available, so that the token can be neither accepted nor rejected.
    KeysUnavailable,
    Token(TokenProblem),
}

impl From<TokenProblem> for KeyLookupError {
    fn from(problem: TokenProblem) -> Self {
        Self::Token(problem)
    }
}

/// The sets by URL, at most 1000.
#[derive(Debug, Clone)]
pub struct JwksCache {
    outbound: Outbound,
    sets: Cache<String, Arc<Published>>,
    /// Fetches outlive the requests that started them, and the HTTP threads of these requests.
    runtime: tokio::runtime::Handle,
}

#[derive(Debug)]
struct Published {
    url: String,
    state: Mutex<FetchState>,
}

#[derive(Debug, Default)]
struct FetchState {
    keys: Arc<Vec<PublicKey>>,
    fetched_at: Option<OffsetDateTime>,
    tried_at: Option<OffsetDateTime>,
    failed: bool,
    /// Time and cause of the last failed fetch.
    last_failure: Option<(OffsetDateTime, String)>,
    /// Closed when the fetch in progress ends.
    under_way: Option<watch::Receiver<()>>,
}

/// The state of the keys at a URL, as this server knows it.
#[derive(Debug, Default)]
pub struct FetchReport {
    /// Number of usable keys.
    pub keys: usize,
    pub fetched_at: Option<OffsetDateTime>,
    /// From when on a token has them fetched again.
    pub due_at: Option<OffsetDateTime>,
    pub last_failure: Option<(OffsetDateTime, String)>,
}

struct AsOf {
    keys: Arc<Vec<PublicKey>>,
    fetched_at: Option<OffsetDateTime>,
}

impl JwksCache {
    /// An empty cache. Fetches run on the current runtime.
    pub fn new(outbound: Outbound) -> Self {
        Self { outbound, sets: Cache::new(1_000), runtime: tokio::runtime::Handle::current() }
    }

    /// Verifies a signature with the keys at a URL. If no key verifies it, the set is fetched once more, unless the
    /// last fetch was too recent: a publisher may reuse a `kid` for a new key.
    ///
    /// # Errors
    /// [`KeyLookupError::KeysUnavailable`] if newer keys are needed and unavailable.
    pub async fn verify<T>(
        &self,
        url: &str,
        kid: Option<&str>,
        now: OffsetDateTime,
        verify: impl Fn(&[PublicKey]) -> Result<T, TokenProblem>,
    ) -> Result<T, KeyLookupError> {
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
            verified => return Ok(verified?),
        };
        match self.newer(&published, &known, now).await? {
            Some(keys) => Ok(verify(&keys)?),
            None => Err(problem.into()),
        }
    }

    /// What is known of the keys at a URL. Fetches nothing.
    pub fn report(&self, url: &str) -> FetchReport {
        let Some(published) = self.sets.get(url) else { return FetchReport::default() };
        let state = published.state();
        FetchReport {
            keys: state.keys.len(),
            fetched_at: state.fetched_at,
            due_at: state.fetched_at.map(|at| at + FRESH),
            last_failure: state.last_failure.clone(),
        }
    }

    /// When the keys at a URL were fetched that are in use, and these keys. Fetches nothing.
    pub fn in_use(&self, url: &str) -> Option<(OffsetDateTime, Arc<Vec<PublicKey>>)> {
        let published = self.sets.get(url)?;
        let state = published.state();
        let fetched_at = state.fetched_at.filter(|_| !state.keys.is_empty())?;
        Some((fetched_at, Arc::clone(&state.keys)))
    }

    /// The keys, including the key `kid` if the publisher has it.
    async fn keys(
        &self,
        published: &Arc<Published>,
        kid: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<AsOf, KeyLookupError> {
        let fetch = {
            let mut state = published.state();
            let known = state.has(kid, now);
            match state.age(now) {
                Some(age) if known && age < FRESH => None,
                // A request with a known key does not wait for the publisher.
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
        // An unavailable publisher may have the key.
        if usable && (state.has(kid, now) || !state.failed) {
            Ok(state.as_of())
        } else {
            Err(KeyLookupError::KeysUnavailable)
        }
    }

    /// The keys as published now; `None` if they are the same as `known`.
    async fn newer(
        &self,
        published: &Arc<Published>,
        known: &AsOf,
        now: OffsetDateTime,
    ) -> Result<Option<Arc<Vec<PublicKey>>>, KeyLookupError> {
        let fetch = {
            let mut state = published.state();
            if state.fetched_at == known.fetched_at { self.fetch(published, &mut state, now) } else { None }
        };
        ended(fetch).await;
        let state = published.state();
        if state.fetched_at != known.fetched_at {
            return Ok(Some(Arc::clone(&state.keys)));
        }
        if state.failed { Err(KeyLookupError::KeysUnavailable) } else { Ok(None) }
    }

    /// The fetch in progress, or a new one; `None` if the last fetch was too recent.
    fn fetch(
        &self,
        published: &Arc<Published>,
        state: &mut FetchState,
        now: OffsetDateTime,
    ) -> Option<watch::Receiver<()>> {
        if let Some(fetch) = state.under_way.as_ref().filter(|fetch| fetch.has_changed().is_ok()) {
            return Some(fetch.clone());
        }
        let pause = if state.failed { PAUSE_AFTER_FAILURE } else { PAUSE };
        // After the clock was set back, `tried_at` is in the future: it must not prevent fetches.
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

async fn ended(fetch: Option<watch::Receiver<()>>) {
    if let Some(mut fetch) = fetch {
        // The error signals the end: no value is ever sent.
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
            // Keys for encryption and of unsupported types are normal in a set.
            BadJwk::Unsupported => tracing::debug!(url, kid, problem = %key.problem, "a key is not used"),
            problem => tracing::warn!(url, kid, problem = %problem, "a key of a JWK Set cannot be used"),
        }
    }
    Ok(set.keys)
}

impl Published {
    fn state(&self) -> MutexGuard<'_, FetchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FetchState {
    fn age(&self, now: OffsetDateTime) -> Option<Duration> {
        self.fetched_at.map(|at| (now - at).abs())
    }

    /// Whether a key that is young enough may have signed with this `kid`.
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
                // The earlier keys are withdrawn. An empty set does not prove a token invalid, and counts as a
                // failure.
                self.failed = keys.is_empty();
                self.keys = Arc::new(keys);
                self.fetched_at = Some(now);
            }
            Err(fault) => {
                tracing::warn!(error = %fault, "a JWK Set could not be fetched");
                self.last_failure = Some((now, fault.to_string()));
            }
        }
    }
}
