//! Limits for each client: requests per second, and failed attempts per minute. Only known clients are counted, so that
//! strangers cannot fill the memory.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota};
use moka::sync::Cache;
use time::OffsetDateTime;

/// One request too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimited;

/// One limit for each client; with none set, nothing is ever too much.
pub struct RateLimiter(Option<DefaultKeyedRateLimiter<String>>);

impl std::fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "RateLimiter(on)" } else { "RateLimiter(off)" })
    }
}

impl RateLimiter {
    /// So many a second; 0 is off.
    pub fn per_second(most: u32) -> Self {
        Self(NonZeroU32::new(most).map(|most| DefaultKeyedRateLimiter::keyed(Quota::per_second(most))))
    }

    /// Counts one; an error if that is one too many.
    pub fn count(&self, client_id: &str) -> Result<(), RateLimited> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check_key(&client_id.to_owned()).map_err(|_| RateLimited)
    }

    /// Forgets clients that have been quiet.
    pub fn tidy(&self) {
        if let Some(limiter) = &self.0 {
            limiter.retain_recent();
        }
    }
}

/// Failed attempts of each client within the last minute.
#[derive(Debug)]
pub struct FailureLimiter {
    most: u32,
    counts: Cache<String, Arc<AtomicU32>>,
}

impl FailureLimiter {
    /// So many a minute; 0 is no limit.
    pub fn per_minute(most: u32) -> Self {
        let counts = Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(60)).build();
        Self { most, counts }
    }

    /// Counts a failure; `false` once there were too many.
    pub fn count(&self, client_id: &str) -> bool {
        let before = self.counts.get_with(client_id.to_owned(), Arc::default).fetch_add(1, Ordering::Relaxed);
        self.most == 0 || before < self.most
    }
}

/// So many secrets may be compared with the ones that are remembered for each one that may be verified.
const COMPARISONS: u32 = 100;

/// Tries of secrets within a minute. A try is counted before it is made, so that tries at the same time cannot all see
/// the same room below the limit.
#[derive(Debug)]
pub struct Guesses {
    most: u32,
    counts: Cache<String, Arc<AtomicU32>>,
}

/// A try that has been counted. It stays counted, also if nobody waits for its result, unless it is given back.
#[derive(Debug)]
pub struct Attempt(Arc<AtomicU32>);

impl Attempt {
    /// Takes the try off the count: the secret was right, or was not tried.
    pub fn give_back(self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guesses {
    /// So many a minute; 0 is no limit.
    pub fn per_minute(most: u32) -> Self {
        let counts = Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(60)).build();
        Self { most, counts }
    }

    /// Whether another secret may be compared with the remembered ones, which costs next to nothing: a hundred times as
    /// many as may be verified. A client whose secret is remembered passes until then; beyond it, a right secret would
    /// be an oracle for anyone who guesses at the speed of the network.
    pub fn may_compare(&self, name: &str) -> bool {
        let count = self.counts.get(name).map_or(0, |count| count.load(Ordering::Relaxed));
        self.most == 0 || count < self.most.saturating_mul(COMPARISONS)
    }

    /// Counts a try; `None` if it is one too many.
    pub fn begin(&self, name: &str) -> Option<Attempt> {
        let count = self.counts.get_with(name.to_owned(), Arc::default);
        let before = count.fetch_add(1, Ordering::Relaxed);
        (self.most == 0 || before < self.most).then_some(Attempt(count))
    }
}

/// How often somebody asks whether something was decided (RFC 8628 §3.5): whoever comes too soon has to wait longer each
/// time.
#[derive(Debug)]
pub struct PollLimiter(Cache<String, Arc<Mutex<Poll>>>);

#[derive(Debug, Default)]
struct Poll {
    last: Option<OffsetDateTime>,
    interval: u32,
}

impl PollLimiter {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self(Cache::builder().max_capacity(10_000).time_to_idle(Duration::from_secs(600)).build())
    }

    /// Counts one question; gives the seconds to wait before the next, as an error if this one came too soon.
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

/// So many things at a time for each name.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimit {
    most: u32,
    taken: Arc<Mutex<HashMap<String, u32>>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct ConcurrencyPermit {
    name: String,
    taken: Arc<Mutex<HashMap<String, u32>>>,
}

impl ConcurrencyLimit {
    /// So many for each name.
    pub fn new(most: u32) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// Takes one; `None` if they are all taken.
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
    fn tries_are_counted_before_they_are_made_and_right_ones_are_given_back() {
        let guesses = Guesses::per_minute(2);
        let (first, second) = (guesses.begin("a"), guesses.begin("a"));
        assert!(first.is_some() && second.is_some() && guesses.begin("a").is_none());
        assert!(guesses.begin("b").is_some() && guesses.may_compare("a"));
        let guesses = Guesses::per_minute(1);
        guesses.begin("a").unwrap().give_back();
        assert!(guesses.begin("a").is_some(), "it was given back");
        assert!((1..100).all(|_| guesses.may_compare("a") && guesses.begin("a").is_none()));
        assert!(!guesses.may_compare("a") && guesses.may_compare("b"));
        let unlimited = Guesses::per_minute(0);
        assert!((0..300).all(|_| unlimited.begin("a").is_some() && unlimited.may_compare("a")));
    }

    #[test]
    fn dg_04_whoever_asks_too_soon_waits_five_seconds_longer_each_time() {
        let polls = PollLimiter::new();
        let ask = |second| polls.count("a", from_seconds(second).unwrap(), 5);
        assert_eq!((ask(0), ask(5), ask(9)), (Ok(5), Ok(5), Err(10)));
        assert_eq!((ask(18), ask(33)), (Err(15), Ok(15)), "the longer wait stays");
        assert_eq!(polls.count("b", from_seconds(33).unwrap(), 5), Ok(5), "everybody for itself");
    }
}
