//! Refusals: answers to the caller, each with a stable reason, an RFC code and a fixed public sentence. Not faults.

mod code;
mod explained;
mod rules;
mod words;

use uuid::Uuid;

pub use self::code::OauthErrorCode;
pub use self::rules::{KINDS, rules, severity_of};

use super::ceremony::Stage;
use super::delegation::{LimitDimension, State};
use super::vault;
use crate::platform::fault::Fault;
use crate::protocol::dpop::BadProof;
use crate::protocol::token_problem::TokenProblem;

/// Why a flow stopped: the caller's doing, or ours.
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

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// How a client failed to prove who it is. Only the log tells these apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientProblem {
    /// No such client.
    Unknown,
    /// Wrong secret, assertion or key.
    InvalidCredentials(CredentialProblem),
    /// Right proof by another method than the registered one.
    MethodNotRegistered,
    /// It was disabled.
    Disabled,
    /// The assertion was used before.
    AssertionReplayed,
    /// Several methods at once, one of them an assertion (RFC 7521 §4.2.1).
    MultipleMethods,
}

/// What was wrong with the credentials of a client. Only the log and the event tell these apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialProblem {
    /// Not readable, or naming two clients.
    Malformed,
    /// Not one of the secrets.
    Secret,
    /// No proof, or by a key that is not registered.
    Key,
    /// The assertion.
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

/// A list of a request whose names have to be declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Declared {
    Scopes,
    Audiences,
    /// `ceremony_required_for`.
    Ceremonies,
    /// `authorization_details`.
    Details,
}

/// Everything that is refused, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The form of the request is wrong; the sentence says how.
    Malformed(&'static str),
    /// A body or token beyond its limit.
    TooLarge,
    /// Not a grant of this server.
    UnsupportedGrant,
    /// Not a grant of this client.
    UnauthorizedClient,
    /// The client did not prove who it is.
    InvalidClient(ClientProblem),
    /// A proof is required.
    DpopProofMissing,
    /// The proof is no good.
    DpopProofInvalid(BadProof),
    /// The proof was used before.
    DpopProofReplayed,
    /// The proof's key is not registered for this client.
    DpopProofKeyUnknown,
    /// A fresh server-provided nonce is required.
    NonceRequired,
    /// Bad signature, expired, unknown issuer, wrong audience or type: all the same outside.
    SubjectTokenInvalid(TokenProblem),
    ActorTokenInvalid(TokenProblem),
    /// In our tokens the subject would have the name of another principal (RFC 9068 §5).
    SubjectAmbiguous,
    /// `may_act` in the subject token names others than the client.
    MayActMismatch,
    /// The actor token is good, but proves somebody else.
    ActorIsNotClient,
    /// The token's issuer cannot be asked for its keys just now.
    IssuerUnavailable,
    /// The subject token is the client's own, but bound to another key.
    SubjectKeyMismatch,
    /// A subject token of another issuer that already has an actor.
    ActorOfOtherIssuer,
    /// Nothing gives this client the authority.
    DelegationRequired,
    /// The delegation, or one above it, was revoked.
    DelegationRevoked,
    /// The delegation, or one above it, has ended.
    DelegationExpired,
    /// The delegation, or one above it, waits for its delegator.
    DelegationRequested,
    /// The delegation, or one above it, has no use left.
    CommandLimit,
    /// Fewer uses are left than were reported.
    TooFewUses,
    /// One more actor than allowed.
    DepthExceeded,
    /// The client acts in this chain already.
    ActorCycle,
    /// An earlier actor of the chain was disabled.
    ActorDisabled,
    /// Scopes beyond what may be had.
    ScopeExceedsGrant,
    /// Not scope tokens.
    ScopeMalformed,
    /// Scopes that are not known at every target.
    ScopeNotAtResource,
    /// No scope is left.
    ScopeEmpty,
    /// Targets beyond what may be had, or unknown.
    ResourceRefused,
    /// Not a target.
    ResourceMalformed,
    /// Several targets without a key to bind the token to.
    DpopRequiredForMultipleAudiences,
    /// What may be had has no scope in common: one target has to be named.
    ResourceAmbiguous,
    /// Not `authorization_details`, or of an unknown type.
    AuthorizationDetailsMalformed,
    /// `authorization_details` beyond what may be had.
    AuthorizationDetailsExceedGrant,
    /// More `authorization_details` than a token can carry: some of them have to be named.
    AuthorizationDetailsTooMany,
    /// The token would be longer than anybody reads.
    TokenTooLarge,
    /// The proof or assertion could already be forgotten: a clock has been set back.
    ProofTooOld,
    /// Too many requests of this client.
    RateLimited,
    /// Too many failed secrets for this client.
    TooManyFailedAttempts,
    /// The token, or one that it was made from, was revoked.
    TokenRevoked,
    /// Everything that a principal of this chain had up to some time was ended.
    PrincipalRevoked,
    /// An agent that was made for one delegation has ended.
    AgentDeactivated,
    /// A key of this chain was removed from its client.
    KeyRemoved,
    /// A key that was removed before is offered again.
    KeyNotReusable,
    /// Not on the ladder.
    CapabilityUnknown,
    /// A capability beyond what may be had.
    CapabilityTooHigh,
    /// The delegator has to confirm this one use.
    CeremonyRequired(Uuid),
    /// The delegator did not confirm it.
    CeremonyDenied,
    /// Its confirmation was used before.
    CeremonyUsed,
    /// It has been decided, or its time is over.
    CeremonyDecided(Stage),
    /// Not a token of the client that wants it revoked.
    TokenOfAnother,
    /// Nobody said who asks.
    NotAuthenticated,
    /// The access token is no good here.
    AccessTokenInvalid,
    /// The access token is bound to a key and came as a bearer token, or under another key.
    AccessTokenBound,
    /// The access token is good, but not for this.
    InsufficientScope,
    /// There is no such thing, or it is not the caller's.
    NotFound,
    /// The present state forbids it.
    InvalidStateTransition(State),
    /// What it should hang below is not active.
    ParentNotActive(State),
    /// Wider than what it hangs below, or than what was asked for.
    ExceedsParent(LimitDimension),
    /// No resource declares the name at this place of a list.
    Undeclared(Declared, usize),
    /// A renewal that would not be later.
    ExpiryNotLater,
    /// There is no such agent.
    DelegateUnknown,
    /// The agent is disabled.
    DelegateDisabled,
    /// Not a principal of a trusted issuer.
    DelegatorUnknown,
    /// To oneself, or to somebody above.
    DelegationCycle,
    /// The task has as many agents as it may have.
    TaskAgentLimit,
    /// The idempotency key came with another request before.
    IdempotencyReused,
    /// Asked again too soon (RFC 8628 §3.5).
    SlowDown,
    /// There is no such provider.
    ProviderUnknown,
    /// The provider does not answer, or not in a way that can be understood; when to come again, in seconds.
    ProviderUnavailable(u32),
    /// The provider refused; perhaps we are not its client any more.
    ProviderRefused,
    /// The token does not name the connection, or not for this.
    ConnectionMissing,
    /// The credential allows more than the token does.
    ConnectionScopeExceeded,
    /// The provider honours the credential no more, or it was ended.
    ConnectionUnusable(vault::State),
    /// Nothing of this kind can be sealed to the key.
    KeyCannotDecrypt,
    /// Nothing that may be reached through the proxy.
    ProxyForbidden,
    /// What was to be reached through the proxy does not answer, or not in HTTP.
    ProxyFailed,
    /// It did not answer in time.
    ProxyTimeout,
    /// The body is of the wrong media type.
    MediaType,
    /// A way of asking that this server does not offer.
    NotSupported,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gn_08_sentences_stay_within_the_allowed_characters() {
        let some = [
            Refusal::NonceRequired,
            Refusal::DelegationRevoked,
            Refusal::AuthorizationDetailsMalformed,
            Refusal::ResourceAmbiguous,
            Refusal::InvalidClient(ClientProblem::Unknown),
        ];
        for refusal in some {
            let allowed = |byte: u8| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            assert!(refusal.sentence().bytes().all(allowed), "{refusal:?}");
        }
    }

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
    fn unknown_clients_and_wrong_secrets_look_alike() {
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
