//! Idempotency keys: the result of a request is stored in the same transaction as its change, and returned to each
//! repetition under the same key.

pub mod store;

use time::Duration;

/// How long a response is stored.
pub const KEPT: Duration = Duration::hours(24);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub key: String,
    /// Digest of method, path and body.
    pub fingerprint: [u8; 32],
}

/// The result of claiming a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    New,
    /// The same request came with this key before; with its stored result.
    Repeated(String),
    /// Another request came with this key before.
    Reused,
}

/// Whether a text can be a key: 1 to 128 printable ASCII characters.
pub fn is_key(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}
