//! Refresh tokens of agents (RFC 6749 §6): an agent acts for the root subject of a delegation with `offline_access`
//! without a token of the subject. The token is derived from its id by a secret of the server, and stored as a digest.
//!
//! A refresh token has a row in `issued_token` with the same id, which says whether the token is revoked. That row is in
//! the lineage of everything that is made with the token.

mod mac;
pub mod problem;
pub mod store;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use self::problem::RefreshTokenProblem;
use super::limit::Limit;
use super::principal::Principal;
use super::subject::{TokenSource, VerifiedSubject};
use super::token::InactiveToken;
use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::access_token::{Act, AuthenticationContext};
use actchain_protocol::authorization_details::Details;
use actchain_protocol::digest::{MacKey, sha256};
use actchain_protocol::jwt_time::Validity;
use actchain_protocol::{base64url, canonical_json};

/// Shows what the token is, to people and to programs that search for leaked secrets.
const PREFIX: &str = "rt_";

/// Most active refresh tokens of one delegation: one for each key and grant. Of more, the ones that were not used for the
/// longest time end.
pub const MOST: i64 = 16;

/// The secret from which refresh tokens are derived. All servers of a database share it.
#[derive(Debug)]
pub struct RefreshTokenKey(MacKey);

impl RefreshTokenKey {
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(MacKey::new(&MacKey::new(secret).mac(b"actchain refresh tokens")))
    }

    /// The token of an id: 256 bits that only servers can compute.
    pub fn token(&self, id: &str) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", base64url::encode(self.0.mac(id.as_bytes()))))
    }
}

/// The digest by which a presented token is found; `None` if the text cannot be a refresh token.
pub fn digest(presented: &str) -> Option<[u8; 32]> {
    let secret = presented.strip_prefix(PREFIX)?;
    let is_secret = base64url::decode(secret).is_some_and(|bytes| bytes.len() == 32);
    is_secret.then(|| sha256(&[presented.as_bytes()]))
}

/// What the subject token of the exchange allowed. Client and delegation restrict each token in addition, as they are at
/// that time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OfflineGrant {
    /// The actors, the client outermost.
    pub act: Act,
    pub scopes: Option<Vec<String>>,
    pub audiences: Option<Vec<String>>,
    pub details: Option<Details>,
    pub capability: Option<String>,
}

/// The stored form of a grant.
#[derive(Deserialize)]
struct StoredGrant {
    act: Act,
    scopes: Option<Vec<String>>,
    audiences: Option<Vec<String>>,
    details: Option<Value>,
    capability: Option<String>,
}

impl OfflineGrant {
    /// The grant of an exchange that added the client to the actors of the subject token.
    pub fn of(subject: &VerifiedSubject, act: Act) -> Self {
        Self {
            act,
            scopes: subject.scopes.to_stored(),
            audiences: subject.audiences.to_stored(),
            details: subject.details.clone(),
            capability: subject.capability.clone(),
        }
    }

    /// SHA-256 of the canonical document.
    pub fn hash(&self) -> Result<[u8; 32], Fault> {
        Ok(sha256(&[canonical_json::to_string(self)?.as_bytes()]))
    }

    fn read(value: Value) -> Result<Self, Fault> {
        let StoredGrant { act, scopes, audiences, details, capability } =
            serde_json::from_value(value).context("reading the grant of a refresh token")?;
        let details = match details {
            None | Some(Value::Null) => None,
            Some(value) => Some(
                Details::from_value(&value)
                    .ok_or_else(|| Fault::new("the details of a refresh token cannot be read"))?,
            ),
        };
        Ok(Self { act, scopes, audiences, details, capability })
    }
}

/// A refresh token as recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct RefreshToken {
    /// A UUID, which is also the `jti` of its row among the issued tokens.
    pub id: String,
    pub digest: [u8; 32],
    pub delegation_id: String,
    /// The delegate of the delegation.
    pub client_id: String,
    /// Thumbprint of the key that has to sign each proof.
    pub jkt: String,
    /// The root subject of the delegation.
    pub subject: Principal,
    pub granted: OfflineGrant,
    /// How the subject had authenticated at the exchange.
    pub login: AuthenticationContext,
    /// The chain of the exchange, which tokens continue.
    pub txn: String,
    pub session_id: Option<String>,
    pub issued_at: OffsetDateTime,
}

impl RefreshToken {
    /// What a subject token with the same rights would say. Its lifetime restricts nothing.
    pub fn subject(&self, now: OffsetDateTime) -> VerifiedSubject {
        let OfflineGrant { act, scopes, audiences, details, capability } = self.granted.clone();
        VerifiedSubject {
            subject: self.subject.clone(),
            source: TokenSource::Local {
                jti: self.id.clone(),
                txn: self.txn.clone(),
                dlg: Some(self.delegation_id.clone()),
            },
            act: Some(act),
            jkt: Some(self.jkt.clone()),
            scopes: Limit::from_stored(scopes),
            audiences: Limit::from_stored(audiences),
            details,
            capability,
            validity: Validity {
                expires_at: now.saturating_add(Duration::days(36_500)),
                not_before: None,
                issued_at: None,
            },
            sid: self.session_id.clone(),
            login: self.login.clone(),
        }
    }

    /// The clients of this server that acted before, each with its key: their removal ends the refresh token.
    fn earlier_actors(&self) -> Vec<(String, Option<String>)> {
        let issuer = &self.granted.act.iss;
        let earlier = self.granted.act.newest_first().skip(1).filter(|act| act.iss == *issuer);
        let key = |act: &Act| act.cnf.as_ref().map(|cnf| cnf.jkt.clone());
        let mut actors: Vec<_> = earlier.map(|act| (act.sub.clone(), key(act))).collect();
        if self.subject.iss == *issuer {
            actors.push((self.subject.sub.clone(), None));
        }
        actors
    }
}

/// A refresh token that was found by its digest.
#[derive(Debug, Clone)]
pub struct StoredRefreshToken {
    pub token: RefreshToken,
    pub last_used_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    /// The problem of the token or of an earlier actor.
    pub problem: Option<InactiveToken>,
    /// The standing grant under which its delegation, or the nearest ancestor with one, became active.
    pub standing_grant_id: Option<String>,
}

impl StoredRefreshToken {
    /// Whether the token may be used, apart from its delegation and revocation.
    ///
    /// # Errors
    /// The first problem.
    pub fn check(&self, max_idle: Duration, now: OffsetDateTime) -> Result<(), RefreshTokenProblem> {
        if self.ended_at.is_some() {
            Err(RefreshTokenProblem::Ended)
        } else if self.last_used_at.saturating_add(max_idle) <= now {
            Err(RefreshTokenProblem::Idle)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_derived_from_its_id_and_has_256_bits() {
        let key = RefreshTokenKey::new(&[7; 32]);
        let token = key.token("0190");
        assert_eq!(token.len(), PREFIX.len() + 43);
        assert_eq!(*token, *key.token("0190"));
        assert_ne!(*token, *key.token("0191"));
        assert_ne!(*token, *RefreshTokenKey::new(&[8; 32]).token("0190"));
        assert_eq!(digest(&token), Some(sha256(&[token.as_bytes()])));
    }

    #[test]
    fn other_texts_are_no_refresh_tokens() {
        let token = RefreshTokenKey::new(&[7; 32]).token("0190");
        let (shorter, longer) = (&token[..token.len() - 1], format!("{}A", *token));
        for text in ["", "rt_", "rt_x", "eyJ.a.b", shorter, &longer, &token[3..], &format!("{}=", *token)] {
            assert_eq!(digest(text), None, "{text}");
        }
    }
}
