//! Secrets that were verified a short while ago, as keyed hashes: Argon2 is slow by design, and a client that sends the
//! right secret a hundred times a second has proved it by the first.

use std::time::Duration;

use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};

use crate::platform::digest::MacKey;
use crate::platform::fault::Fault;
use crate::platform::random;

/// Bounded in number and time; the key lives as long as the process.
#[derive(Debug)]
pub struct RememberedSecrets {
    key: MacKey,
    seen: Cache<[u8; 32], ()>,
}

impl RememberedSecrets {
    /// Remembers nothing yet.
    pub fn new() -> Result<Self, Fault> {
        let seen = Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(300)).build();
        Ok(Self { key: MacKey::new(&random::bytes()?), seen })
    }

    /// Whether this secret was verified for this version of this client, and is one that may still be remembered.
    pub fn knows(&self, client: (&str, i64), secret: &SecretString) -> bool {
        self.seen.get(&self.name(client, secret)).is_some()
    }

    /// Remembers a secret that was verified.
    pub fn remember(&self, client: (&str, i64), secret: &SecretString) {
        self.seen.insert(self.name(client, secret), ());
    }

    /// A changed client has another version, and with it nothing that is remembered.
    fn name(&self, (client_id, version): (&str, i64), secret: &SecretString) -> [u8; 32] {
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
