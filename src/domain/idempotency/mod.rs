//! Answers that are given again to whoever repeats a request under the same key, in the same transaction as the change.

pub mod store;

use time::Duration;

/// How long an answer is kept.
pub const KEPT: Duration = Duration::hours(24);

/// What a caller repeats a request by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub key: String,
    /// Digest over method, path and body.
    pub fingerprint: [u8; 32],
}

/// An answer as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub status: u16,
    /// Where what was made is.
    pub location: Option<String>,
    pub body: String,
}

/// Whether a key is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    New,
    /// It came with the same request before.
    Repeated(Stored),
    /// It came with another request before.
    Reused,
}

/// Whether the text can be a key: 1 to 128 printable ASCII characters.
pub fn is_key(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}
