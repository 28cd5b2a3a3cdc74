//! Tokens that were issued, as far as we remember them, and whether they still stand.

pub mod store;

use time::OffsetDateTime;
use uuid::Uuid;

use super::delegation::{DelegationPath, State};
use super::principal::Principal;
use super::refusal::Refusal;

/// What is wrong with a token, or with one it was made from, whatever its delegation says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Problem {
    /// It was revoked (RFC 7009).
    TokenRevoked,
    /// Everything that its subject or its client had by then was ended.
    PrincipalRevoked,
    /// Its client was an agent that has ended.
    AgentDeactivated,
    /// Its key was removed from its client.
    KeyRemoved,
    /// Its client is disabled; the only one that may pass.
    ActorDisabled,
}

impl Problem {
    /// How an exchange is refused for it.
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

/// What is known of an issued token by its id.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// What is wrong with it or with one it was made from.
    pub problem: Option<Problem>,
    /// Its delegation with everything above; `None` for a token that comes from none.
    pub path: Option<DelegationPath>,
    /// Whether a reported command has used its delegation up, or one above.
    pub exhausted: bool,
}

impl Standing {
    /// Whether relying parties may rely on the token, its own expiry aside. A delegation whose last use was an exchange
    /// has paid for the tokens that there are; one whose last use was a reported command has ended them.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), Refusal> {
        if let Some(problem) = self.problem {
            return Err(problem.refusal());
        }
        if self.exhausted {
            return Err(Refusal::CommandLimit);
        }
        let Some(path) = &self.path else { return Ok(()) };
        path.0.iter().try_for_each(|one| match one.facts.check(now) {
            Err(Refusal::CommandLimit) => Ok(()),
            checked => checked,
        })
    }

    /// The delegation's state, where there is one.
    pub fn state(&self, now: OffsetDateTime) -> Option<State> {
        self.path.as_ref().map(|path| path.state(now).0)
    }
}

/// A token as it is recorded. The token itself is not kept.
#[derive(Debug, Clone)]
pub struct TokenRecord {
    pub jti: Uuid,
    /// The token of ours that it was made from.
    pub parent: Option<Uuid>,
    /// The token of ours by which its client proved itself.
    pub actor: Option<Uuid>,
    pub txn: Uuid,
    /// Who asked for it.
    pub client_id: String,
    /// Whom it is about.
    pub subject: Principal,
    /// The delegation it comes from.
    pub delegation_id: Option<String>,
    /// The key it is bound to.
    pub jkt: Option<String>,
    /// The key that signed the client's assertion, where there was one.
    pub auth_key: Option<String>,
    /// Its place in the status lists.
    pub status_index: i64,
    /// The key it is signed with.
    pub kid: String,
    pub scope: String,
    /// Its audiences.
    pub audience: Vec<String>,
    /// When it was issued.
    pub issued_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}
