//! Issued tokens as recorded, and whether they are still valid.

pub mod store;

use time::OffsetDateTime;
use uuid::Uuid;

use super::delegation::{DelegationPath, Inactive, State};
use super::principal::Principal;
use super::refusal::Refusal;

/// What is wrong with a token or with a token of its lineage, apart from its delegation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Problem {
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

impl Problem {
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
    /// The problem of the token or of its lineage.
    pub problem: Option<Problem>,
    /// Its delegation with all ancestors; `None` for a token without a delegation.
    pub path: Option<DelegationPath>,
    /// Whether a reported command has used up its delegation or an ancestor.
    pub exhausted: bool,
}

impl TokenStatus {
    /// Whether resource servers may accept the token, apart from its expiry. If the last use of a delegation was an
    /// exchange, its tokens stay valid. If it was a reported command, they are invalid.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), Refusal> {
        if let Some(problem) = self.problem {
            return Err(problem.refusal());
        }
        if self.exhausted {
            return Err(Refusal::CommandLimit);
        }
        let Some(path) = &self.path else { return Ok(()) };
        path.0.iter().try_for_each(|one| match one.facts.check(now) {
            Err(Inactive::UsedUp) => Ok(()),
            checked => checked.map_err(Refusal::from),
        })
    }

    /// The state of the delegation, if there is one.
    pub fn state(&self, now: OffsetDateTime) -> Option<State> {
        self.path.as_ref().map(|path| path.state(now).0)
    }
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
