//! Keyed hashes of verified client secrets. Argon2 is slow by design, and a client that sends the right secret a
//! hundred times a second proves its identity with the first request. Concurrent requests with the same secret share
//! one verification.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use crate::platform::fault::Fault;
use actchain_protocol::digest::MacKey;
use actchain_protocol::random;

/// A secret that was not presented for this time is verified again.
const MOST_IDLE: Duration = Duration::from_secs(86_400);

/// Bounded in number and idle time. The hash key exists only in this process.
#[derive(Debug)]
pub struct SecretCache {
    key: MacKey,
    /// Expiry of each secret, if it has one.
    seen: Cache<[u8; 32], Option<OffsetDateTime>>,
}

/// A secret as presented by a request, for a client as of one version.
#[derive(Debug, Clone, Copy)]
pub struct PresentedSecret<'a> {
    pub client_id: &'a str,
    /// The version of the client: another version has no cached secrets.
    pub version: i64,
    pub secret: &'a SecretString,
}

impl SecretCache {
    /// An empty cache with a random hash key.
    pub fn new() -> Result<Self, Fault> {
        let seen = Cache::builder().max_capacity(10_000).time_to_idle(MOST_IDLE).build();
        Ok(Self { key: MacKey::new(&random::bytes()?), seen })
    }

    /// Verifies a secret with `check`, which returns the expiry of the secret. A verified, unexpired secret is not
    /// checked again. While one request checks a secret, other requests with the same secret wait for its result.
    ///
    /// # Errors
    /// The error of `check`; errors are not cached.
    pub async fn verify<E: Send + Sync + 'static>(
        &self,
        presented: PresentedSecret<'_>,
        now: OffsetDateTime,
        check: impl Future<Output = Result<Option<OffsetDateTime>, E>>,
    ) -> Result<(), Arc<E>> {
        let name = self.name(presented);
        match self.seen.get(&name).await {
            Some(end) if end.is_none_or(|end| now < end) => return Ok(()),
            Some(_) => self.seen.invalidate(&name).await,
            None => {}
        }
        self.seen.try_get_with(name, check).await.map(|_| ())
    }

    fn name(&self, PresentedSecret { client_id, version, secret }: PresentedSecret<'_>) -> [u8; 32] {
        let secret = secret.expose_secret();
        let mut message = Vec::with_capacity(client_id.len() + secret.len() + 16);
        message.extend_from_slice(&version.to_be_bytes());
        message.extend_from_slice(&(client_id.len() as u64).to_be_bytes());
        message.extend_from_slice(client_id.as_bytes());
        message.extend_from_slice(secret.as_bytes());
        let name = self.key.mac(&message);
        zeroize::Zeroize::zeroize(&mut message);
        name
    }
}
