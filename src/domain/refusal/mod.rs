//! Refusals: answers to the client, each with a stable reason, an RFC error code and a fixed public sentence.
//! [`catalogue`] has what is said about each. A [`Fault`] is not a refusal.

pub mod catalogue;

use uuid::Uuid;

use super::ceremony::CeremonyState;
use super::delegation::{DelegationState, Inactive, LimitDimension};
use super::refresh_token::problem::RefreshTokenProblem;
use super::standing_grant::StandingGrantState;
use super::vault;
use crate::platform::fault::Fault;
use actchain_protocol::dpop::BadProof;
use actchain_protocol::failure::Failure;
use actchain_protocol::token_problem::TokenProblem;

/// Why a request failed: refused because of the caller, or failed because of this server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("refused: {}", .0.reason())]
    Refused(Refusal),
    #[error(transparent)]
    Failed(#[from] Fault),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Inactive> for Refusal {
    fn from(inactive: Inactive) -> Self {
        match inactive {
            Inactive::Revoked => Self::DelegationRevoked,
            Inactive::PrincipalRevoked => Self::PrincipalRevoked,
            Inactive::Expired => Self::DelegationExpired,
            Inactive::Exhausted | Inactive::UsedUp => Self::CommandLimit,
            Inactive::Requested => Self::DelegationRequested,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.into())
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Why client authentication failed. Only the log distinguishes these reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientProblem {
    Unknown,
    /// The secret, assertion or key is wrong.
    InvalidCredentials(CredentialProblem),
    /// A valid credential of a method other than the registered one.
    MethodNotRegistered,
    /// The client is disabled.
    Disabled,
    /// The assertion was used before.
    AssertionReplayed,
    /// Several authentication methods, one of them an assertion (RFC 7521 §4.2.1).
    MultipleMethods,
}

/// What was wrong with the credentials of a client. Only the log and the event distinguish these causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialProblem {
    /// Unreadable, or the credentials name two clients.
    Malformed,
    /// None of the client's secrets matches.
    Secret,
    /// No proof, or a proof by a key that is not registered.
    Key,
    /// The assertion is invalid.
    Assertion(TokenProblem),
}

impl CredentialProblem {
    fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Secret => "secret",
            Self::Key => "key",
            Self::Assertion(problem) => problem.name(),
        }
    }
}

/// A list in a request whose names a resource has to declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Declared {
    Scopes,
    Audiences,
    /// `ceremony_required_for`.
    Ceremonies,
    /// `authorization_details`.
    Details,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The form of the request is wrong; the public sentence says how.
    Malformed(&'static str),
    /// A body or token is larger than its limit.
    TooLarge,
    /// The server does not support the grant type.
    UnsupportedGrant,
    /// The client may not use the grant type.
    UnauthorizedClient,
    /// Client authentication failed.
    InvalidClient(ClientProblem),
    /// A DPoP proof is required.
    DpopProofMissing,
    /// The DPoP proof breaks a rule of RFC 9449 §4.3.
    DpopProofInvalid(BadProof),
    /// The DPoP proof was used before.
    DpopProofReplayed,
    /// The key of the DPoP proof is not registered for this client.
    DpopProofKeyUnknown,
    /// A fresh nonce of this server is required in the DPoP proof.
    NonceRequired,
    /// Bad signature, expired, unknown issuer, wrong audience or wrong type: the response does not
    /// distinguish them.
    SubjectTokenInvalid(TokenProblem),
    ActorTokenInvalid(TokenProblem),
    /// Unknown, of another client or key, idle or ended: the response does not distinguish them.
    RefreshTokenInvalid(RefreshTokenProblem),
    /// In this server's tokens the subject would have the same `sub` as another principal (RFC 9068 §5).
    SubjectAmbiguous,
    /// `may_act` in the subject token does not name the client.
    MayActMismatch,
    /// The actor token is valid, but its subject is not the client.
    ActorIsNotClient,
    /// The keys of the token's issuer are unavailable at present.
    IssuerUnavailable,
    /// The subject token belongs to the client, but is bound to another key.
    SubjectKeyMismatch,
    /// A subject token of a trusted issuer already has an actor.
    ActorOfOtherIssuer,
    /// No delegation and no claim gives this client the authority.
    DelegationRequired,
    /// The delegation, or an ancestor, is revoked.
    DelegationRevoked,
    /// The delegation, or an ancestor, is expired.
    DelegationExpired,
    /// The delegation, or an ancestor, waits for its delegator.
    DelegationRequested,
    /// The delegation, or an ancestor, has no use left.
    CommandLimit,
    /// Fewer uses are left than the client reported.
    TooFewUses,
    /// The chain would have more actors than allowed.
    DepthExceeded,
    /// The client is already an actor of this chain.
    ActorCycle,
    /// An earlier actor of the chain is disabled.
    ActorDisabled,
    /// The requested scopes exceed what may be granted.
    ScopeExceedsGrant,
    /// The `scope` parameter is not a list of scope tokens.
    ScopeMalformed,
    /// Not every target defines the requested scopes.
    ScopeNotAtResource,
    /// No scope remains for the token.
    ScopeEmpty,
    /// A requested target is unknown, or may not be granted.
    ResourceRefused,
    /// The value is not a valid target.
    ResourceMalformed,
    /// Several targets require a DPoP key to bind the token to.
    DpopRequiredForMultipleAudiences,
    /// The targets that may be granted have no scope in common: the request has to name one target.
    ResourceAmbiguous,
    /// `authorization_details` is malformed, or has an unknown type.
    AuthorizationDetailsMalformed,
    /// The requested `authorization_details` exceed what may be granted.
    AuthorizationDetailsExceedGrant,
    /// More `authorization_details` than a token can carry: the request has to name some of them.
    AuthorizationDetailsTooMany,
    /// The token would be longer than verifiers accept.
    TokenTooLarge,
    /// The expiry of the proof or assertion is before the purge horizon of used ids, because a clock was set
    /// back.
    ProofTooOld,
    /// Too many requests of this client.
    RateLimited,
    /// Too many wrong secrets for this client.
    TooManyFailedAttempts,
    /// The token, or a token of its lineage, was revoked.
    TokenRevoked,
    /// A revoke-all covers a principal of this chain.
    PrincipalRevoked,
    /// An ephemeral agent was deactivated.
    AgentDeactivated,
    /// A key of this chain was removed from its client.
    KeyRemoved,
    /// A key that was removed before cannot be registered again.
    KeyNotReusable,
    /// The capability is not one of the configured levels.
    CapabilityUnknown,
    /// The requested capability is above what may be granted.
    CapabilityTooHigh,
    /// The delegator has to confirm this use.
    CeremonyRequired(Uuid),
    /// The delegator denied this use.
    CeremonyDenied,
    /// The confirmation was used before.
    CeremonyUsed,
    /// The confirmation has been decided, or is expired.
    CeremonyDecided(CeremonyState),
    /// The token does not belong to the client that revokes it.
    TokenOfAnother,
    /// The request has no credentials.
    Unauthenticated,
    /// The access token is not valid here.
    AccessTokenInvalid,
    /// The access token is bound to a key, but was presented as a bearer token or with another key.
    AccessTokenBound,
    /// The access token is valid, but its scope does not cover the request.
    InsufficientScope,
    /// Users decide what gives authority in the console alone.
    ConsoleRequired,
    /// A person could not sign in to the console.
    SignInRefused,
    /// The object does not exist, or does not belong to the caller.
    NotFound,
    /// The events were moved from the database to a file.
    EventsArchived,
    /// The present state does not allow the transition.
    InvalidStateTransition(DelegationState),
    /// The present state of a standing grant does not allow the transition.
    InvalidGrantTransition(StandingGrantState),
    /// The issuer of a user does not let others create standing grants for its users.
    OnlyUserGrants,
    /// A standing grant would allow more than the grantor has.
    ExceedsGrantor(LimitDimension),
    /// There are as many standing grants between the user and the agent as can be active.
    StandingGrantLimit,
    /// The request is not what was shown to the person who decides.
    RequestChanged,
    /// The parent delegation is not active.
    ParentNotActive(DelegationState),
    /// The limits exceed those of the parent, or of the request.
    ExceedsParent(LimitDimension),
    /// No resource declares the name at this index of a list.
    Undeclared(Declared, usize),
    /// A renewal has to move the expiry later.
    ExpiryNotLater,
    DelegateUnknown,
    DelegateDisabled,
    /// The delegator is not a principal of a trusted issuer.
    DelegatorUnknown,
    /// The delegate is the delegator or an ancestor.
    DelegationCycle,
    /// The task has the maximum number of agents.
    TaskAgentLimit,
    /// The idempotency key was used with another request.
    IdempotencyReused,
    /// The registered entries changed since the version that the request names.
    ManifestChanged,
    /// The change is reserved to operators, who have a shell on the machine of the server.
    OperatorOnly,
    /// The client polled too soon (RFC 8628 §3.5).
    SlowDown,
    ProviderUnknown,
    /// The provider does not respond, or its response is invalid; retry after this many seconds.
    ProviderUnavailable(u32),
    /// The provider rejected the request; this server may no longer be its client.
    ProviderRefused,
    /// The token does not name the connection, or not for this action.
    ConnectionMissing,
    /// The credential allows more than the token.
    ConnectionScopeExceeded,
    /// The provider no longer accepts the credential, or the connection is disconnected.
    ConnectionUnusable(vault::ConnectionState),
    /// Nothing of this kind can be encrypted to the key.
    KeyCannotDecrypt,
    /// The proxy does not allow the request.
    ProxyForbidden,
    /// The upstream server does not respond, or not in HTTP.
    ProxyFailed,
    /// The upstream server did not respond in time.
    ProxyTimeout,
    /// The body has the wrong media type.
    MediaType,
    /// This server does not support the requested feature.
    NotSupported,
}

impl Refusal {
    /// Seconds after which the client may repeat the request.
    pub fn retry_after(self) -> u32 {
        match self {
            Self::ProviderUnavailable(seconds) => seconds.max(1),
            _ => 1,
        }
    }

    /// The state that explains the refusal, if a state does.
    pub fn state(self) -> Option<&'static str> {
        match self {
            Self::InvalidStateTransition(state) | Self::ParentNotActive(state) => Some(state.name()),
            Self::InvalidGrantTransition(state) => Some(state.name()),
            Self::CeremonyDecided(stage) => Some(stage.name()),
            Self::ConnectionUnusable(state) => Some(state.name()),
            Self::DelegationRevoked | Self::PrincipalRevoked => Some(DelegationState::Revoked.name()),
            Self::DelegationExpired | Self::CommandLimit => Some(DelegationState::Expired.name()),
            Self::DelegationRequested => Some(DelegationState::Requested.name()),
            Self::TooFewUses => Some(DelegationState::Active.name()),
            _ => None,
        }
    }

    /// The first check that failed, if the reason covers several checks: for the log and the event, never for the caller.
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Self::SubjectTokenInvalid(problem) | Self::ActorTokenInvalid(problem) => Some(problem.name()),
            Self::RefreshTokenInvalid(problem) => Some(problem.name()),
            Self::InvalidClient(ClientProblem::InvalidCredentials(problem)) => Some(problem.name()),
            Self::InvalidClient(ClientProblem::Unknown) => Some("client_unknown"),
            Self::InvalidClient(ClientProblem::MethodNotRegistered) => Some("method_not_registered"),
            Self::InvalidClient(ClientProblem::Disabled) => Some("client_disabled"),
            Self::InvalidClient(ClientProblem::MultipleMethods) => Some("multiple_auth_methods"),
            _ => None,
        }
    }

    /// The refused part of the request, as a JSON Pointer in a URI fragment (RFC 6901 §6, RFC 9457 §3).
    pub fn pointer(self) -> Option<String> {
        match self {
            Self::ExceedsParent(wider) | Self::ExceedsGrantor(wider) => Some(format!("#/{}", wider.member())),
            Self::Undeclared(list, place) => Some(match list {
                Declared::Scopes => format!("#/scopes/{place}"),
                Declared::Audiences => format!("#/audiences/{place}"),
                Declared::Ceremonies => format!("#/ceremony_required_for/{place}"),
                Declared::Details => format!("#/authorization_details/{place}/type"),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_not_public() {
        let outside = |problem| {
            let refusal = Refusal::SubjectTokenInvalid(problem);
            (refusal.code(), refusal.sentence(), refusal.reason())
        };
        assert_eq!(outside(TokenProblem::Signature), outside(TokenProblem::Expired));
        assert_ne!(
            Refusal::SubjectTokenInvalid(TokenProblem::Signature).cause(),
            Refusal::SubjectTokenInvalid(TokenProblem::Expired).cause()
        );
    }

    #[test]
    fn unknown_clients_and_wrong_secrets_are_refused_alike() {
        let outside = |problem| {
            let refusal = Refusal::InvalidClient(problem);
            (refusal.code(), refusal.sentence(), refusal.tells_reason())
        };
        assert_eq!(
            outside(ClientProblem::Unknown),
            outside(ClientProblem::InvalidCredentials(CredentialProblem::Secret))
        );
        assert_eq!(outside(ClientProblem::Unknown), outside(ClientProblem::Disabled));
    }
}
