//! Callers of the management API and of operators' commands.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::audit::Actor;
use crate::domain::client::{Client, ClientKind};
use crate::domain::delegation::DelegationPath;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;

#[derive(Debug, Clone)]
pub enum Caller {
    User(AuthenticatedUser),
    /// An agent with its own DPoP-bound token.
    Agent(AuthenticatedClient),
    /// An administrator with a DPoP-bound token.
    Admin(AuthenticatedClient),
    /// An auditor with a DPoP-bound token; can only read the audit log.
    Auditor(AuthenticatedClient),
    /// An operator with a shell on the machine.
    Operator,
}

/// A user with a token of a trusted issuer.
#[derive(Debug, Clone)]
pub struct AuthenticatedUser {
    pub who: Principal,
    /// Issue time of the token, by the issuer's clock.
    pub since: OffsetDateTime,
    pub until: OffsetDateTime,
}

/// A client with a DPoP-bound access token of this server.
#[derive(Debug, Clone)]
pub struct AuthenticatedClient {
    pub client: Arc<Client>,
    pub jkt: String,
    pub jti: Uuid,
}

impl Caller {
    /// The actor as recorded in events.
    pub fn actor(&self) -> Actor {
        match self {
            Self::User(user) => Actor::User(user.who.clone()),
            Self::Agent(holder) | Self::Admin(holder) | Self::Auditor(holder) => {
                Actor::client(&holder.client.client_id, Some(holder.jkt.clone()))
            }
            Self::Operator => Actor::Operator,
        }
    }

    /// The principal of the caller; `None` for an operator.
    pub fn principal(&self, issuer: &str) -> Option<Principal> {
        match self {
            Self::User(user) => Some(user.who.clone()),
            Self::Agent(holder) | Self::Admin(holder) | Self::Auditor(holder) => {
                Some(Principal::new(issuer, holder.client.client_id.clone()))
            }
            Self::Operator => None,
        }
    }

    /// The caller's key in limits and stored responses: its principal, or `operator`.
    pub fn key(&self, issuer: &str) -> String {
        self.principal(issuer).map_or_else(|| "operator".to_owned(), |who| who.key())
    }

    /// Whether the caller is an administrator or an operator.
    pub fn administers(&self) -> bool {
        matches!(self, Self::Admin(..) | Self::Operator)
    }

    /// Refuses callers other than administrators and operators.
    pub fn require_administrator(&self) -> Result<(), Refusal> {
        if self.administers() { Ok(()) } else { Err(Refusal::InsufficientScope) }
    }

    /// Refuses callers other than operators. A stolen token of an administrator must not make a change that outlasts its
    /// revocation.
    pub fn require_operator(&self) -> Result<(), Refusal> {
        if matches!(self, Self::Operator) { Ok(()) } else { Err(Refusal::OperatorOnly) }
    }

    /// Refuses callers that may not register, change or disable clients of this kind, or end their authority:
    /// administrators and auditors are left to operators.
    pub fn require_may_change(&self, kind: ClientKind) -> Result<(), Refusal> {
        self.require_administrator()?;
        if kind.administers() { self.require_operator() } else { Ok(()) }
    }

    pub fn is(&self, who: &Principal, issuer: &str) -> bool {
        self.principal(issuer).as_ref() == Some(who)
    }

    /// Whether the caller may see a delegation: the caller is on the path, or administers.
    pub fn may_see(&self, path: &DelegationPath, issuer: &str) -> bool {
        self.administers() || self.principal(issuer).is_some_and(|who| path.involves(&who, issuer))
    }
}
