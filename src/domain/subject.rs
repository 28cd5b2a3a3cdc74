//! The subject of an exchange, once its token has been verified.

use super::capability::Ceiling;
use super::limit::Limit;
use super::principal::Principal;
use crate::protocol::access_token::{Act, AuthenticationContext};
use crate::protocol::authorization_details::Details;
use crate::protocol::jwt_time::Validity;
use crate::protocol::trusted_issuer_jwt::MayAct;

/// Where a subject token comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenSource {
    /// We issued it.
    Local {
        jti: String,
        txn: String,
        /// Its delegation.
        dlg: Option<String>,
    },
    /// A trusted issuer did.
    TrustedIssuer {
        /// Its id there, for the log.
        jti: Option<String>,
        /// Whom it was made for.
        aud: Vec<String>,
        /// Whom alone it allows to act, where it says so and the issuer is declared to say it.
        may_act: Option<MayActClaim>,
        /// Digest over what its signature covers: names this very token, whatever spelling the signature has.
        fingerprint: [u8; 32],
    },
}

/// The `may_act` of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MayActClaim {
    pub party: MayAct,
    /// Whether the claim by itself lets the party act ([`crate::protocol::trusted_issuer_jwt::MayActUse::Authorize`]).
    pub authorizes: bool,
}

/// What a verified subject token says. Whether it is still valid at some `now` is asked when it is used.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedSubject {
    /// Whom it is about: the root subject.
    pub subject: Principal,
    /// Where it comes from.
    pub source: TokenSource,
    /// Who acts already.
    pub act: Option<Act>,
    /// The key it is bound to.
    pub jkt: Option<String>,
    pub scopes: Limit,
    /// Targets; a foreign token does not restrict them.
    pub audiences: Limit,
    /// `authorization_details`; `None` does not restrict.
    pub details: Option<Details>,
    /// The highest capability; `None` does not restrict.
    pub capability: Ceiling,
    /// When it begins and ends.
    pub validity: Validity,
    pub sid: Option<String>,
    /// How the subject logged in.
    pub login: AuthenticationContext,
}

impl VerifiedSubject {
    /// Who may use the token: its newest actor, or the subject where nobody acts. `own_issuer` is us.
    pub fn is_held_by(&self, client_id: &str, own_issuer: &str) -> bool {
        match &self.act {
            Some(act) => act.iss == own_issuer && act.sub == client_id,
            None => self.subject.iss == own_issuer && self.subject.sub == client_id,
        }
    }

    /// The delegation it was issued under.
    pub fn dlg(&self) -> Option<&str> {
        match &self.source {
            TokenSource::Local { dlg, .. } => dlg.as_deref(),
            TokenSource::TrustedIssuer { .. } => None,
        }
    }

    /// The token's own id, for the log.
    pub fn jti(&self) -> Option<&str> {
        match &self.source {
            TokenSource::Local { jti, .. } => Some(jti),
            TokenSource::TrustedIssuer { jti, .. } => jti.as_deref(),
        }
    }
}
