//! Issued tokens as recorded, and whether they are still valid.

pub mod status_reader;
pub mod store;

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::delegation::{DelegationPath, DelegationState};
use super::principal::Principal;
use super::refusal::Refusal;
use actchain_protocol::access_token::Claims;
use actchain_protocol::jwt_time::Validity;

/// Why a token is not valid, apart from its delegation: by itself, or by a token of its lineage. The SQL function
/// `token_problem` decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum InactiveToken {
    /// The token was revoked (RFC 7009).
    TokenRevoked,
    /// A revoke-all covers its subject or its client.
    PrincipalRevoked,
    /// Its client was an ephemeral agent that is deactivated.
    AgentDeactivated,
    KeyRemoved,
    /// Its client is disabled; the only problem that can end.
    ActorDisabled,
}

impl InactiveToken {
    /// The refusal of an exchange with this token.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::TokenRevoked => Refusal::TokenRevoked,
            Self::PrincipalRevoked => Refusal::PrincipalRevoked,
            Self::AgentDeactivated => Refusal::AgentDeactivated,
            Self::KeyRemoved => Refusal::KeyRemoved,
            Self::ActorDisabled => Refusal::ActorDisabled,
        }
    }
}

/// Status of a recorded token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenStatus {
    pub problem: Option<InactiveToken>,
    /// Its delegation with all ancestors; `None` for a token without a delegation.
    pub path: Option<DelegationPath>,
}

impl TokenStatus {
    /// Whether resource servers may accept the token, apart from its expiry.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), Refusal> {
        if let Some(problem) = self.problem {
            return Err(problem.refusal());
        }
        let Some(path) = &self.path else { return Ok(()) };
        path.0.iter().try_for_each(|one| one.facts.check_tokens(now)).map_err(Refusal::from)
    }

    /// The state of the delegation, if there is one.
    pub fn state(&self, now: OffsetDateTime) -> Option<DelegationState> {
        self.path.as_ref().map(|path| path.state(now).0)
    }
}

/// A token of this server whose signature was verified.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedOwnToken {
    /// The key that signed it.
    pub kid: String,
    pub claims: Arc<Claims>,
    /// Its validity period is checked when the token is used.
    pub validity: Validity,
}

/// A token as recorded; the token itself is not stored.
#[derive(Debug, Clone)]
pub struct TokenRecord {
    pub jti: Uuid,
    /// `jti` of the subject token, if this server issued it.
    pub parent: Option<Uuid>,
    /// `jti` of the actor token, if this server issued it.
    pub actor: Option<Uuid>,
    pub txn: Uuid,
    pub client_id: String,
    pub subject: Principal,
    pub delegation_id: Option<String>,
    /// Thumbprint of the DPoP key.
    pub jkt: Option<String>,
    /// Thumbprint of the key that signed the client assertion, if there was one.
    pub auth_key: Option<String>,
    /// Its index in the status lists.
    pub status_index: i64,
    /// `kid` of the key that signed it.
    pub kid: String,
    pub scope: String,
    pub audience: Vec<String>,
    pub issued_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}
