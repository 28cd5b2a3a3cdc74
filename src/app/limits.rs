//! Limits on what callers cause, on this server.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::domain::rate_limit::{ConcurrencyLimit, FailureLimiter, Guesses, PollLimiter, RateLimiter};
use crate::platform::config::Config;

/// Sign-ins that one network may begin in a minute: each is a row for ten minutes.
const SIGN_INS_PER_MINUTE: u32 = 60;
/// Streams of one person in the console: one for each visible tab.
const LIVE_STREAMS: u32 = 4;
/// Streams of all persons in the console. Each reads the database after a change, at most once a second.
const ALL_LIVE_STREAMS: usize = 256;

#[derive(Debug)]
pub struct RequestLimits {
    /// Limits the request rate of each client.
    pub requests: RateLimiter,
    /// Limits recorded failures of each client, so that unauthenticated requests cannot fill the log.
    pub failures: FailureLimiter,
    /// Limits failed secrets for each client id and peer address: an attacker elsewhere does not lock out the client.
    pub guesses: Guesses,
    /// Limits concurrent Argon2 verifications of client secrets.
    pub argon2_permits: Semaphore,
    /// Limits concurrent dummy verifications for unknown clients, so that unauthenticated requests do not delay
    /// clients. The number equals `argon2_permits`; otherwise the timing of concurrent requests would show which
    /// clients exist.
    pub dummy_argon2_permits: Semaphore,
    /// Limits how often an agent polls for the decision on a request.
    pub polls: PollLimiter,
    /// Limits how many sign-ins to the console a network begins.
    pub sign_ins: FailureLimiter,
    /// Limits the number of long-polling requests.
    pub long_poll_permits: Semaphore,
    /// Lets one examination of this server run at a time.
    pub examinations: Semaphore,
    /// Limits the event streams of each reader.
    pub readers: ConcurrencyLimit,
    /// Limits the live pages of each person in the console. Each session of an operator counts as a person.
    pub live_pages: ConcurrencyLimit,
    /// Limits the live pages of the server.
    pub all_live_pages: Arc<Semaphore>,
}

impl RequestLimits {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            requests: RateLimiter::per_second(config.limits.requests_per_second_per_client),
            failures: FailureLimiter::per_minute(config.limits.failed_auth_per_minute.max(1)),
            guesses: Guesses::per_minute(config.limits.failed_auth_per_minute),
            // Argon2 uses a core for about 20 ms; more concurrent runs would starve all other work.
            argon2_permits: Semaphore::new(2),
            dummy_argon2_permits: Semaphore::new(2),
            polls: PollLimiter::new(),
            sign_ins: FailureLimiter::per_minute(SIGN_INS_PER_MINUTE),
            long_poll_permits: Semaphore::new(256),
            examinations: Semaphore::new(1),
            readers: ConcurrencyLimit::new(config.audit.max_streams),
            live_pages: ConcurrencyLimit::new(LIVE_STREAMS),
            all_live_pages: Arc::new(Semaphore::new(ALL_LIVE_STREAMS)),
        }
    }
}
