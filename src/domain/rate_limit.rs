//! Rate limits by client: requests per second and failed attempts per minute. Only known clients are counted, so that
//! unauthenticated callers cannot fill the memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota};
use moka::sync::Cache;
use time::OffsetDateTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimited;

/// The network of a peer, which a limit counts: one site has a whole /64 of IPv6 addresses.
pub fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// One limit for each client; `None` is unlimited.
pub struct RateLimiter(Option<DefaultKeyedRateLimiter<String>>);

impl std::fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "RateLimiter(on)" } else { "RateLimiter(off)" })
    }
}

impl RateLimiter {
    /// At most `most` requests per second; 0 is unlimited.
    pub fn per_second(most: u32) -> Self {
        Self(NonZeroU32::new(most).map(|most| DefaultKeyedRateLimiter::keyed(Quota::per_second(most))))
    }

    /// Counts a request; an error if it exceeds the limit.
    pub fn count(&self, client_id: &str) -> Result<(), RateLimited> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check_key(&client_id.to_owned()).map_err(|_| RateLimited)
    }

    /// Removes clients without recent requests.
    pub fn tidy(&self) {
        if let Some(limiter) = &self.0 {
            limiter.retain_recent();
        }
    }
}

/// Failed attempts of each client within one minute.
#[derive(Debug)]
pub struct FailureLimiter {
    most: u32,
    counts: Cache<String, Arc<AtomicU32>>,
}

impl FailureLimiter {
    /// At most `most` failures per minute; 0 is unlimited.
    pub fn per_minute(most: u32) -> Self {
        let counts = Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(60)).build();
        Self { most, counts }
    }

    /// Counts a failure; `false` if the limit was reached before.
    pub fn count(&self, client_id: &str) -> bool {
        let before = self.counts.get_with(client_id.to_owned(), Arc::default).fetch_add(1, Ordering::Relaxed);
        self.most == 0 || before < self.most
    }
}

/// Comparisons with cached secrets allowed for each verification that is allowed.
const COMPARISONS: u32 = 100;

/// Attempts to verify secrets within one minute. An attempt is counted before it is made, so that concurrent attempts
/// cannot exceed the limit.
#[derive(Debug)]
pub struct Guesses {
    most: u32,
    counts: Cache<String, Arc<AtomicU32>>,
}

/// A counted attempt. It stays counted, even if the caller no longer waits, unless [`CountedAttempt::undo`] is called.
#[derive(Debug)]
pub struct CountedAttempt(Arc<AtomicU32>);

impl CountedAttempt {
    /// Uncounts the attempt: the secret was right, or was not verified.
    pub fn undo(self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guesses {
    /// At most `most` attempts per minute; 0 is unlimited.
    pub fn per_minute(most: u32) -> Self {
        let counts = Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(60)).build();
        Self { most, counts }
    }

    /// Whether another secret may be compared with the cached ones, which is cheap: a hundred times the limit of
    /// verifications. Up to this number, a client with a cached secret is accepted. Without a limit, the comparison
    /// would be an oracle for guesses at network speed.
    pub fn may_compare(&self, name: &str) -> bool {
        let count = self.counts.get(name).map_or(0, |count| count.load(Ordering::Relaxed));
        self.most == 0 || count < self.most.saturating_mul(COMPARISONS)
    }

    /// Counts an attempt; `None` if it exceeds the limit.
    pub fn begin(&self, name: &str) -> Option<CountedAttempt> {
        let count = self.counts.get_with(name.to_owned(), Arc::default);
        let before = count.fetch_add(1, Ordering::Relaxed);
        (self.most == 0 || before < self.most).then_some(CountedAttempt(count))
    }
}

/// Limits polling for a decision (RFC 8628 §3.5): each poll that comes too soon lengthens the interval.
#[derive(Debug)]
pub struct PollLimiter(Cache<String, Arc<Mutex<Poll>>>);

#[derive(Debug, Default)]
struct Poll {
    last: Option<OffsetDateTime>,
    interval: u32,
}

impl PollLimiter {
    /// A limiter without polls.
    pub fn new() -> Self {
        Self(Cache::builder().max_capacity(10_000).time_to_idle(Duration::from_secs(600)).build())
    }

    /// Counts a poll. Returns the seconds until the next poll, as an error if this one came too soon.
    pub fn count(&self, name: &str, now: OffsetDateTime, interval: u32) -> Result<u32, u32> {
        let poll = self.0.get_with(name.to_owned(), Arc::default);
        let mut poll = poll.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let wait = poll.interval.max(interval);
        let soon = poll.last.is_some_and(|last| now < last + time::Duration::seconds(wait.into()));
        poll.last = Some(now);
        poll.interval = if soon { wait + interval } else { wait };
        if soon { Err(poll.interval) } else { Ok(poll.interval) }
    }
}

/// The number of concurrent operations for each name.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimit {
    most: u32,
    taken: Arc<Mutex<HashMap<String, u32>>>,
}

/// One operation; released on drop.
#[derive(Debug)]
pub struct ConcurrencyPermit {
    name: String,
    taken: Arc<Mutex<HashMap<String, u32>>>,
}

impl ConcurrencyLimit {
    /// At most `most` operations for each name.
    pub fn new(most: u32) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// Takes a permit; `None` if all are taken.
    pub fn enter(&self, name: &str) -> Option<ConcurrencyPermit> {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = taken.entry(name.to_owned()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(ConcurrencyPermit { name: name.to_owned(), taken: Arc::clone(&self.taken) })
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match taken.get_mut(&self.name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.name)),
        }
    }
}

impl Default for PollLimiter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::from_seconds;

    #[test]
    fn a_slot_is_free_again_when_it_is_dropped() {
        let slots = ConcurrencyLimit::new(1);
        let taken = slots.enter("a");
        assert!(taken.is_some() && slots.enter("a").is_none() && slots.enter("b").is_some());
        drop(taken);
        assert!(slots.enter("a").is_some());
    }

    #[test]
    fn attempts_are_counted_in_advance_and_right_ones_are_undone() {
        let guesses = Guesses::per_minute(2);
        let (first, second) = (guesses.begin("a"), guesses.begin("a"));
        assert!(first.is_some() && second.is_some() && guesses.begin("a").is_none());
        assert!(guesses.begin("b").is_some() && guesses.may_compare("a"));
        let guesses = Guesses::per_minute(1);
        guesses.begin("a").unwrap().undo();
        assert!(guesses.begin("a").is_some(), "the attempt was undone");
        assert!((1..100).all(|_| guesses.may_compare("a") && guesses.begin("a").is_none()));
        assert!(!guesses.may_compare("a") && guesses.may_compare("b"));
        let unlimited = Guesses::per_minute(0);
        assert!((0..300).all(|_| unlimited.begin("a").is_some() && unlimited.may_compare("a")));
    }

    #[test]
    fn a_poll_that_comes_too_soon_makes_the_interval_five_seconds_longer() {
        let polls = PollLimiter::new();
        let ask = |second| polls.count("a", from_seconds(second).unwrap(), 5);
        assert_eq!((ask(0), ask(5), ask(9)), (Ok(5), Ok(5), Err(10)));
        assert_eq!((ask(18), ask(33)), (Err(15), Ok(15)), "the longer wait stays");
        assert_eq!(polls.count("b", from_seconds(33).unwrap(), 5), Ok(5), "each client for itself");
    }
}
