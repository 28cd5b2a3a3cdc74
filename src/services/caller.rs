//! Callers of the management API, of the console and of operators' commands.

use std::collections::BTreeSet;
use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::audit::Actor;
use crate::domain::client::{Client, ClientKind};
use crate::domain::console::SessionReference;
use crate::domain::delegation::DelegationPath;
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::domain::standing_grant::suspension::ProvenClientKey;

#[derive(Debug, Clone)]
pub enum Caller {
    User(AuthenticatedUser),
    /// An agent with its own DPoP-bound token.
    Agent(AuthenticatedClient),
    /// An administrator, by a DPoP-bound token or in the console.
    Admin(PrivilegedCaller),
    /// An auditor; can only read the audit log.
    Auditor(PrivilegedCaller),
    /// An operator with a shell on the machine.
    Operator,
}

/// A client with a DPoP-bound token, or a person in the console.
#[derive(Debug, Clone)]
pub enum PrivilegedCaller {
    Client(AuthenticatedClient),
    /// A user of a trusted issuer with this role.
    Person(AuthenticatedUser),
    /// An operator who entered by a link from the shell. The console gives operators the rights of administrators.
    Operator(SessionReference),
}

impl PrivilegedCaller {
    fn principal(&self, issuer: &str) -> Option<Principal> {
        match self {
            Self::Client(holder) => Some(Principal::new(issuer, holder.client.client_id.clone())),
            Self::Person(user) => Some(user.who.clone()),
            Self::Operator(_) => None,
        }
    }

    fn actor(&self) -> Actor {
        match self {
            Self::Client(holder) => holder.actor(),
            Self::Person(user) => Actor::User(user.who.clone()),
            Self::Operator(_) => Actor::Operator,
        }
    }

    fn session(&self) -> Option<SessionReference> {
        match self {
            Self::Client(_) => None,
            Self::Person(user) => user.session,
            Self::Operator(session) => Some(*session),
        }
    }
}

/// A user with a token of a trusted issuer, or in the console.
#[derive(Debug, Clone)]
pub struct AuthenticatedUser {
    pub who: Principal,
    /// Issue time of the token or time of the authentication, by the issuer's clock.
    pub since: OffsetDateTime,
    pub until: OffsetDateTime,
    /// The scopes that the user has, where the issuer says so in its tokens.
    pub scopes: Limit,
    /// The session, if the user is in the console.
    pub session: Option<SessionReference>,
}

/// A client with a DPoP-bound access token of this server.
#[derive(Debug, Clone)]
pub struct AuthenticatedClient {
    pub client: Arc<Client>,
    pub jkt: String,
    pub jti: Uuid,
}

impl AuthenticatedClient {
    fn actor(&self) -> Actor {
        Actor::client(&self.client.client_id, Some(self.jkt.clone()))
    }
}

impl Caller {
    /// The actor as recorded in events.
    pub fn actor(&self) -> Actor {
        match self {
            Self::User(user) => Actor::User(user.who.clone()),
            Self::Agent(holder) => holder.actor(),
            Self::Admin(one) | Self::Auditor(one) => one.actor(),
            Self::Operator => Actor::Operator,
        }
    }

    /// The principal of the caller; `None` for an operator.
    pub fn principal(&self, issuer: &str) -> Option<Principal> {
        match self {
            Self::User(user) => Some(user.who.clone()),
            Self::Agent(holder) => Some(Principal::new(issuer, holder.client.client_id.clone())),
            Self::Admin(one) | Self::Auditor(one) => one.principal(issuer),
            Self::Operator => None,
        }
    }

    /// The console session of the caller, as events name it.
    pub fn session(&self) -> Option<SessionReference> {
        match self {
            Self::User(user) => user.session,
            Self::Admin(one) | Self::Auditor(one) => one.session(),
            Self::Agent(_) | Self::Operator => None,
        }
    }

    /// The key that an agent has proven with its request.
    pub fn proven_keys(&self) -> BTreeSet<ProvenClientKey> {
        match self {
            Self::Agent(holder) => {
                ProvenClientKey::all(&holder.client.client_id, std::iter::once(&holder.jkt))
            }
            Self::User(_) | Self::Admin(_) | Self::Auditor(_) | Self::Operator => BTreeSet::new(),
        }
    }

    /// The principal that can connect accounts of its own, and when it was authenticated: not an administrator, except in
    /// person.
    pub fn account_owner(&self, issuer: &str, now: OffsetDateTime) -> Option<(Principal, OffsetDateTime)> {
        match self {
            Self::User(user) | Self::Admin(PrivilegedCaller::Person(user)) => {
                Some((user.who.clone(), user.since))
            }
            Self::Agent(_) => Some((self.principal(issuer)?, now)),
            Self::Admin(_) | Self::Auditor(_) | Self::Operator => None,
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
