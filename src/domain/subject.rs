//! The subject of an exchange, after verification of its token.

use super::capability::Ceiling;
use super::limit::Limit;
use super::principal::Principal;
use actchain_protocol::access_token::{Act, AuthenticationContext};
use actchain_protocol::authorization_details::Details;
use actchain_protocol::jwt_time::Validity;
use actchain_protocol::trusted_issuer_jwt::{ActorUse, MayAct};

/// The issuer of a subject token.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenSource {
    /// Issued by this server.
    Local {
        jti: String,
        txn: String,
        /// The delegation of the token.
        dlg: Option<String>,
    },
    TrustedIssuer {
        /// The `jti` of the issuer, for the log.
        jti: Option<String>,
        aud: Vec<String>,
        /// The only party that may act, if the token has the claim and the issuer is configured to be trusted for it.
        may_act: Option<MayActClaim>,
        /// Whether the actors of the token are accepted.
        actors: ActorUse,
        /// Digest of the token, or of its signed part: identifies the token regardless of the encoding of its signature.
        fingerprint: [u8; 32],
        verified_by: VerifiedBy,
    },
}

/// How a token of another issuer was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifiedBy {
    /// By the issuer's signature.
    Signature,
    /// By the issuer's answer (RFC 7662).
    Introspection,
}

/// The `may_act` claim of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MayActClaim {
    pub party: MayAct,
    /// Whether the claim alone authorizes the party ([`actchain_protocol::trusted_issuer_jwt::MayActUse::Authorize`]).
    pub authorizes: bool,
}

/// Content of a verified subject token. Its validity period is checked when the token is used.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedSubject {
    /// The root subject of the token.
    pub subject: Principal,
    pub source: TokenSource,
    /// The `act` claim of the token.
    pub act: Option<Act>,
    /// Thumbprint of the key that the token is bound to.
    pub jkt: Option<String>,
    pub scopes: Limit,
    /// Targets; a token of a trusted issuer does not restrict them.
    pub audiences: Limit,
    pub details: Option<Details>,
    /// The highest capability; `None` does not restrict.
    pub capability: Ceiling,
    pub validity: Validity,
    pub sid: Option<String>,
    /// How the subject authenticated.
    pub login: AuthenticationContext,
}

impl VerifiedSubject {
    /// Whether the client may use the token: as its newest actor, or as its subject if it has no actor.
    pub fn is_held_by(&self, client_id: &str, own_issuer: &str) -> bool {
        match &self.act {
            Some(act) => act.iss == own_issuer && act.sub == client_id,
            None => self.subject.iss == own_issuer && self.subject.sub == client_id,
        }
    }

    /// The delegation of a token of this server.
    pub fn dlg(&self) -> Option<&str> {
        match &self.source {
            TokenSource::Local { dlg, .. } => dlg.as_deref(),
            TokenSource::TrustedIssuer { .. } => None,
        }
    }

    /// Whether the issuer was asked about the token.
    pub fn is_introspected(&self) -> bool {
        matches!(self.source, TokenSource::TrustedIssuer { verified_by: VerifiedBy::Introspection, .. })
    }

    /// The `jti` of the token, for the log.
    pub fn jti(&self) -> Option<&str> {
        match &self.source {
            TokenSource::Local { jti, .. } => Some(jti),
            TokenSource::TrustedIssuer { jti, .. } => jti.as_deref(),
        }
    }
}
