//! Making the token that a recorded decision allows, and timing our cryptography.

use std::collections::BTreeSet;
use std::time::Instant;

use time::OffsetDateTime;

use crate::domain::audit::store::LeafRef;
use crate::domain::key::Keyring;
use crate::platform::fault::Fault;
use crate::protocol::access_token::{self, Claims};
use crate::protocol::authorization_details::Details;

/// A token and what its answer says (RFC 6749 §5.1, RFC 8693 §2.2.1).
#[derive(Debug, Clone)]
pub struct IssuedToken {
    pub access_token: String,
    pub token_type: &'static str,
    pub expires_in: i64,
    pub scope: BTreeSet<String>,
    /// What was granted, where there is any.
    pub details: Option<Details>,
    /// Whether the answer is one of a token exchange.
    pub exchanged: bool,
    /// The delegation that an exchange rests on, where it rests on one.
    pub delegation_id: Option<String>,
    /// Where its event stands in the log.
    pub place: Option<LeafRef>,
}

/// Signs claims that were recorded.
pub fn sign(keyring: &Keyring, claims: &Claims) -> Result<String, Fault> {
    let _timer = time_crypto("sign");
    keyring.active.sign(access_token::TYP, claims)
}

/// Whole seconds, as tokens count.
pub fn seconds(at: OffsetDateTime) -> i64 {
    at.unix_timestamp()
}

/// Records how long one cryptographic operation took, when dropped.
#[derive(Debug)]
pub struct CryptoTimer {
    operation: &'static str,
    started: Instant,
}

pub fn time_crypto(operation: &'static str) -> CryptoTimer {
    CryptoTimer { operation, started: Instant::now() }
}

impl Drop for CryptoTimer {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed().as_secs_f64();
        metrics::histogram!("actchain_crypto_seconds", "operation" => self.operation).record(elapsed);
    }
}
