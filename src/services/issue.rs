//! Signs the token of a recorded decision, and measures cryptographic operations.

use std::collections::BTreeSet;
use std::time::Instant;

use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::domain::audit::store::LeafRef;
use crate::domain::key::Keyring;
use crate::platform::fault::Fault;
use actchain_protocol::access_token::{self, Claims};
use actchain_protocol::authorization_details::Details;

/// A token with the other members of its response (RFC 6749 §5.1, RFC 8693 §2.2.1).
#[derive(Debug, Clone)]
pub struct IssuedToken {
    pub access_token: String,
    pub token_type: &'static str,
    pub expires_in: i64,
    pub scope: BTreeSet<String>,
    /// The granted authorization details, if any.
    pub details: Option<Details>,
    /// Whether the response is a token exchange response.
    pub exchanged: bool,
    /// The delegation of an exchange, if any.
    pub delegation_id: Option<String>,
    /// The refresh token of an exchange, if one is issued.
    pub refresh_token: Option<Zeroizing<String>>,
    /// Position of the event in the log.
    pub place: Option<LeafRef>,
}

/// Signs recorded claims.
pub fn sign(keyring: &Keyring, claims: &Claims) -> Result<String, Fault> {
    let _timer = time_crypto("sign");
    Ok(keyring.active.sign(access_token::TYP, claims)?)
}

/// NumericDate in whole seconds (RFC 7519 §2).
pub fn seconds(at: OffsetDateTime) -> i64 {
    at.unix_timestamp()
}

/// Records the duration of a cryptographic operation when dropped.
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
