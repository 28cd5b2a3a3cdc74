//! Refusals: answers to the caller, each with a stable reason, an RFC code and a fixed public sentence. Not faults.

use uuid::Uuid;

use super::ceremony::Stage;
use super::delegation::{State, Wider};
use crate::platform::fault::Fault;
use crate::protocol::dpop::BadProof;

/// Why a flow stopped: the caller's doing, or ours.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// An answer.
    #[error("refused: {}", .0.reason())]
    Refused(Refusal),
    /// Our failure.
    #[error(transparent)]
    Failed(#[from] Fault),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<sqlx::Error> for Stop {
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
    Unproven,
    /// Right proof by another method than the registered one.
    WrongMethod,
    /// It was disabled.
    Disabled,
    /// The assertion was used before.
    AssertionReplayed,
    /// Several methods at once, one of them an assertion (RFC 7521 §4.2.1).
    SeveralMethods,
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
    ProofMissing,
    /// The proof is no good.
    ProofInvalid(BadProof),
    /// The proof was used before.
    ProofReplayed,
    /// The proof's key is not registered for this client.
    ProofKeyUnknown,
    /// A fresh server-provided nonce is required.
    NonceRequired,
    /// Bad signature, expired, unknown issuer, wrong audience or type: all the same outside.
    SubjectTokenInvalid,
    /// Likewise.
    ActorTokenInvalid,
    /// The actor token is good, but proves somebody else.
    ActorIsNotClient,
    /// The token's issuer cannot be asked for its keys just now.
    IssuerUnavailable,
    /// The subject token is the client's own, but bound to another key.
    SubjectKeyMismatch,
    /// A subject token of another issuer that already has an actor.
    ForeignActor,
    /// Nothing gives this client the authority.
    NoDelegation,
    /// The delegation, or one above it, was revoked.
    DelegationRevoked,
    /// The delegation, or one above it, has ended.
    DelegationExpired,
    /// The delegation, or one above it, waits for its delegator.
    DelegationRequested,
    /// The delegation, or one above it, has no use left.
    CommandLimit,
    /// One more actor than allowed.
    DepthExceeded,
    /// The client acts in this chain already.
    ActorCycle,
    /// An earlier actor of the chain was disabled.
    ActorDisabled,
    /// Scopes beyond what may be had.
    ScopeTooWide,
    /// Not scope tokens.
    ScopeMalformed,
    /// Scopes that are not known at every target.
    ScopeNotAtTarget,
    /// No scope is left.
    ScopeEmpty,
    /// Targets beyond what may be had, or unknown.
    TargetRefused,
    /// Not a target.
    TargetMalformed,
    /// Several targets without a key to bind the token to.
    TargetsNeedKey,
    /// What may be had has no scope in common: one target has to be named.
    TargetAmbiguous,
    /// Not `authorization_details`, or of an unknown type.
    DetailsMalformed,
    /// `authorization_details` beyond what may be had.
    DetailsTooWide,
    /// More `authorization_details` than a token can carry: some of them have to be named.
    DetailsTooMany,
    /// The token would be longer than anybody reads.
    TokenTooLarge,
    /// The proof or assertion could already be forgotten: a clock has been set back.
    ClockWentBack,
    /// Too many requests of this client.
    Throttled,
    /// Too many failed secrets for this client.
    GuessingSecrets,
    /// The token, or one that it was made from, was revoked.
    TokenRevoked,
    /// Everything that a principal of this chain had up to some time was ended.
    PrincipalCutOff,
    /// An agent that was made for one delegation has ended.
    AgentEnded,
    /// A key of this chain was removed from its client.
    KeyRemoved,
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
    WrongState(State),
    /// What it should hang below is not active.
    ParentNotActive(State),
    /// Wider than what it hangs below, or than what was asked for.
    TooWide(Wider),
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
    TaskFull,
    /// The idempotency key came with another request before.
    IdempotencyReused,
    /// Asked again too soon (RFC 8628 §3.5).
    SlowDown,
    /// The body is of the wrong media type.
    MediaType,
    /// A way of asking that this server does not offer.
    NotOffered,
}

/// The `error` of an answer and its HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// RFC 6749 §5.2, RFC 8693 §2.2.2, RFC 9449 §5, RFC 9396 §5.
    pub error: &'static str,
    /// HTTP status.
    pub status: u16,
}

const fn code(error: &'static str, status: u16) -> Code {
    Code { error, status }
}

impl Refusal {
    /// The stable slug, for logs, metrics and programs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_request",
            Self::TooLarge => "request_too_large",
            Self::UnsupportedGrant => "unsupported_grant",
            Self::UnauthorizedClient => "grant_not_allowed",
            Self::InvalidClient(problem) => match problem {
                ClientProblem::Unknown => "client_unknown",
                ClientProblem::Unproven => "client_unproven",
                ClientProblem::WrongMethod => "client_method_wrong",
                ClientProblem::Disabled => "client_disabled",
                ClientProblem::AssertionReplayed => "assertion_replayed",
                ClientProblem::SeveralMethods => "several_methods",
            },
            Self::ProofMissing => "proof_missing",
            Self::ProofInvalid(problem) => match problem {
                BadProof::Malformed => "proof_malformed",
                BadProof::Signature => "proof_signature",
                BadProof::Target => "proof_target",
                BadProof::Time => "proof_time",
                BadProof::AccessToken => "proof_access_token",
            },
            Self::ProofReplayed => "proof_replayed",
            Self::ProofKeyUnknown => "proof_key_unknown",
            Self::NonceRequired => "nonce_required",
            Self::SubjectTokenInvalid => "subject_token_invalid",
            Self::ActorTokenInvalid => "actor_token_invalid",
            Self::ActorIsNotClient => "actor_is_not_client",
            Self::IssuerUnavailable => "issuer_unavailable",
            Self::SubjectKeyMismatch => "subject_key_mismatch",
            Self::ForeignActor => "foreign_actor",
            Self::NoDelegation => "no_delegation",
            Self::DelegationRevoked => "delegation_revoked",
            Self::DelegationExpired => "delegation_expired",
            Self::DelegationRequested => "delegation_requested",
            Self::CommandLimit => "command_limit",
            Self::DepthExceeded => "depth_exceeded",
            Self::ActorCycle => "actor_cycle",
            Self::ActorDisabled => "actor_disabled",
            Self::ScopeTooWide => "scope_too_wide",
            Self::ScopeMalformed => "scope_malformed",
            Self::ScopeNotAtTarget => "scope_not_at_target",
            Self::ScopeEmpty => "scope_empty",
            Self::TargetRefused => "target_refused",
            Self::TargetMalformed => "target_malformed",
            Self::TargetsNeedKey => "targets_need_key",
            Self::TargetAmbiguous => "target_ambiguous",
            Self::DetailsMalformed => "details_malformed",
            Self::DetailsTooWide => "details_too_wide",
            Self::DetailsTooMany => "details_too_many",
            Self::TokenTooLarge => "token_too_large",
            Self::ClockWentBack => "clock_went_back",
            Self::Throttled => "throttled",
            Self::GuessingSecrets => "guessing_secrets",
            Self::TokenRevoked => "token_revoked",
            Self::PrincipalCutOff => "principal_cut_off",
            Self::AgentEnded => "agent_ended",
            Self::KeyRemoved => "key_removed",
            Self::CapabilityUnknown => "capability_unknown",
            Self::CapabilityTooHigh => "capability_too_high",
            Self::CeremonyRequired(_) => "ceremony_required",
            Self::CeremonyDenied => "ceremony_denied",
            Self::CeremonyUsed => "ceremony_used",
            Self::CeremonyDecided(_) => "ceremony_decided",
            Self::TokenOfAnother => "token_of_another_client",
            Self::NotAuthenticated => "not_authenticated",
            Self::AccessTokenInvalid => "access_token_invalid",
            Self::AccessTokenBound => "access_token_bound",
            Self::InsufficientScope => "insufficient_scope",
            Self::NotFound => "not_found",
            Self::WrongState(_) => "wrong_state",
            Self::ParentNotActive(_) => "parent_not_active",
            Self::TooWide(_) => "delegation_too_wide",
            Self::ExpiryNotLater => "expiry_not_later",
            Self::DelegateUnknown => "delegate_unknown",
            Self::DelegateDisabled => "delegate_disabled",
            Self::DelegatorUnknown => "delegator_unknown",
            Self::DelegationCycle => "delegation_cycle",
            Self::TaskFull => "task_full",
            Self::IdempotencyReused => "idempotency_key_reused",
            Self::SlowDown => "slow_down",
            Self::MediaType => "unsupported_media_type",
            Self::NotOffered => "not_offered",
        }
    }

    /// The RFC's code and the HTTP status (standards §14).
    pub fn code(self) -> Code {
        match self {
            Self::TooLarge => code("invalid_request", 413),
            Self::UnsupportedGrant => code("unsupported_grant_type", 400),
            Self::UnauthorizedClient => code("unauthorized_client", 400),
            Self::InvalidClient(_) => code("invalid_client", 401),
            Self::ProofMissing
            | Self::ProofInvalid(_)
            | Self::ProofReplayed
            | Self::ProofKeyUnknown
            | Self::ClockWentBack => code("invalid_dpop_proof", 400),
            Self::NonceRequired => code("use_dpop_nonce", 400),
            Self::ScopeTooWide | Self::ScopeMalformed | Self::ScopeNotAtTarget | Self::ScopeEmpty => {
                code("invalid_scope", 400)
            }
            Self::TargetRefused | Self::TargetMalformed | Self::TargetsNeedKey | Self::TargetAmbiguous => {
                code("invalid_target", 400)
            }
            Self::DetailsMalformed | Self::DetailsTooWide | Self::DetailsTooMany => {
                code("invalid_authorization_details", 400)
            }
            Self::CapabilityTooHigh => code("invalid_scope", 400),
            Self::CeremonyRequired(_) | Self::CeremonyDenied | Self::CeremonyUsed => {
                code("insufficient_user_authentication", 400)
            }
            Self::TokenOfAnother => code("invalid_grant", 400),
            Self::NotAuthenticated | Self::AccessTokenInvalid | Self::AccessTokenBound => {
                code("invalid_token", 401)
            }
            Self::InsufficientScope => code("insufficient_scope", 403),
            Self::NotFound => code("not_found", 404),
            Self::WrongState(_) | Self::ParentNotActive(_) | Self::CeremonyDecided(_) | Self::TaskFull => {
                code("conflict", 409)
            }
            Self::IdempotencyReused => code("invalid_request", 422),
            Self::MediaType => code("invalid_request", 415),
            Self::NotOffered => code("not_implemented", 501),
            Self::SlowDown => code("slow_down", 429),
            Self::Throttled | Self::GuessingSecrets => code("temporarily_unavailable", 429),
            Self::IssuerUnavailable => code("temporarily_unavailable", 503),
            Self::Malformed(_)
            | Self::TokenTooLarge
            | Self::SubjectTokenInvalid
            | Self::ActorTokenInvalid
            | Self::ActorIsNotClient
            | Self::SubjectKeyMismatch
            | Self::ForeignActor
            | Self::NoDelegation
            | Self::DelegationRevoked
            | Self::DelegationExpired
            | Self::DelegationRequested
            | Self::CommandLimit
            | Self::DepthExceeded
            | Self::ActorCycle
            | Self::ActorDisabled
            | Self::TokenRevoked
            | Self::PrincipalCutOff
            | Self::AgentEnded
            | Self::KeyRemoved
            | Self::CapabilityUnknown
            | Self::TooWide(_)
            | Self::ExpiryNotLater
            | Self::DelegateUnknown
            | Self::DelegateDisabled
            | Self::DelegatorUnknown
            | Self::DelegationCycle => code("invalid_request", 400),
        }
    }

    /// The code where an access token is presented (RFC 6750 §3.1, RFC 9449 §7.1), as at the administrative endpoints.
    pub fn code_for_resource(self) -> Code {
        match self {
            Self::ProofMissing
            | Self::ProofInvalid(_)
            | Self::ProofReplayed
            | Self::ProofKeyUnknown
            | Self::ClockWentBack
            | Self::NonceRequired => Code { status: 401, ..self.code() },
            Self::SubjectTokenInvalid
            | Self::TokenRevoked
            | Self::PrincipalCutOff
            | Self::AgentEnded
            | Self::KeyRemoved
            | Self::ActorDisabled
            | Self::InvalidClient(_) => code("invalid_token", 401),
            Self::DelegationRevoked
            | Self::DelegationExpired
            | Self::DelegationRequested
            | Self::CommandLimit => code("conflict", 409),
            other => other.code(),
        }
    }

    /// The state that it rests on, where it is about one.
    pub fn state(self) -> Option<&'static str> {
        match self {
            Self::WrongState(state) | Self::ParentNotActive(state) => Some(state.name()),
            Self::CeremonyDecided(stage) => Some(stage.name()),
            Self::DelegationRevoked => Some(State::Revoked.name()),
            Self::DelegationExpired | Self::CommandLimit => Some(State::Expired.name()),
            Self::DelegationRequested => Some(State::Requested.name()),
            _ => None,
        }
    }

    /// Whether the answer names the reason: where policy refused an authenticated client (RFC 8693 §2.2.2).
    pub fn tells_reason(self) -> bool {
        !matches!(
            self,
            Self::InvalidClient(_)
                | Self::Malformed(_)
                | Self::TooLarge
                | Self::Throttled
                | Self::GuessingSecrets
        )
    }

    /// The public sentence: fixed, ASCII, without quotes (RFC 6749 §5.2).
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Malformed(sentence) => sentence,
            Self::TooLarge => "The request is too large",
            Self::UnsupportedGrant => "This server does not know the grant type",
            Self::UnauthorizedClient => "This client may not use the grant type",
            Self::InvalidClient(_) => "Client authentication failed",
            Self::ProofMissing => "A DPoP proof is required",
            Self::ProofInvalid(_) => "The DPoP proof is not valid for this request",
            Self::ProofReplayed => "The DPoP proof was used before",
            Self::ProofKeyUnknown => "The key of the DPoP proof is not registered for this client",
            Self::NonceRequired => "The DPoP proof must carry the nonce of the DPoP-Nonce header",
            Self::SubjectTokenInvalid => "The subject token is not valid",
            Self::ActorTokenInvalid => "The actor token is not valid",
            Self::ActorIsNotClient => "The actor token does not prove this client under this key",
            Self::IssuerUnavailable => "The keys of the issuer of a token cannot be fetched at the moment",
            Self::SubjectKeyMismatch => "The subject token is bound to another key",
            Self::ForeignActor => "The subject token names an actor that this server does not know",
            Self::NoDelegation => "Nothing authorizes this client to act for the subject",
            Self::DelegationRevoked => "The delegation was revoked",
            Self::DelegationExpired => "The delegation has expired",
            Self::DelegationRequested => "The delegation has not been approved",
            Self::CommandLimit => "The delegation has no use left",
            Self::DepthExceeded => "The chain of actors would be too long",
            Self::ActorCycle => "The client already acts in this chain",
            Self::ActorDisabled => "An earlier actor of this chain was disabled",
            Self::ScopeTooWide => "The scope goes beyond what may be granted",
            Self::ScopeMalformed => "The scope is malformed",
            Self::ScopeNotAtTarget => "The scope is not known at every target",
            Self::ScopeEmpty => "No scope is left to grant",
            Self::TargetRefused => "The target is unknown or may not be reached",
            Self::TargetMalformed => "The target is malformed",
            Self::TargetsNeedKey => "A token for several targets must be bound to a key",
            Self::TargetAmbiguous => "The targets have no scope in common: name one",
            Self::DetailsMalformed => "The authorization details are malformed or of an unknown type",
            Self::DetailsTooWide => "The authorization details go beyond what may be granted",
            Self::DetailsTooMany => "There are too many authorization details: name some",
            Self::TokenTooLarge => "The token would be too large: ask for less",
            Self::ClockWentBack => "The DPoP proof is too old",
            Self::Throttled => "Too many requests",
            Self::GuessingSecrets => "Too many failed attempts",
            Self::TokenRevoked => "The subject token is not valid",
            Self::PrincipalCutOff => "What this principal had up to now was ended",
            Self::AgentEnded => "The agent has ended",
            Self::KeyRemoved => "The key was removed from its client",
            Self::CapabilityUnknown => "There is no such capability",
            Self::CapabilityTooHigh => "The capability goes beyond what may be granted",
            Self::CeremonyRequired(_) => "The delegator has to confirm this use",
            Self::CeremonyDenied => "The delegator did not confirm this use",
            Self::CeremonyUsed => "The confirmation was used before",
            Self::CeremonyDecided(_) => "It has been decided, or its time is over",
            Self::TokenOfAnother => "The token belongs to another client",
            Self::NotAuthenticated => "An access token is required",
            Self::AccessTokenInvalid => "The access token is not valid here",
            Self::AccessTokenBound => {
                "The access token is bound to a key: it needs the DPoP scheme and a proof by this key"
            }
            Self::InsufficientScope => "The access token does not allow this",
            Self::NotFound => "There is no such thing, or it is not yours",
            Self::WrongState(_) => "The present state does not allow this",
            Self::ParentNotActive(_) => "What it should hang below is not active",
            Self::TooWide(_) => "A delegation is never wider than what it comes from",
            Self::ExpiryNotLater => "The new expiry is not later than the present one",
            Self::DelegateUnknown => "There is no such agent",
            Self::DelegateDisabled => "The agent is disabled",
            Self::DelegatorUnknown => "The delegator is nobody of a trusted issuer",
            Self::DelegationCycle => "Nobody delegates to itself or to somebody above",
            Self::TaskFull => "The task has as many agents as it may have",
            Self::IdempotencyReused => "The idempotency key came with another request before",
            Self::SlowDown => "Asked again too soon",
            Self::MediaType => "The body must be application/json",
            Self::NotOffered => "This server does not offer that",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gn_08_sentences_stay_within_the_allowed_characters() {
        let some = [
            Refusal::NonceRequired,
            Refusal::DelegationRevoked,
            Refusal::DetailsMalformed,
            Refusal::TargetAmbiguous,
            Refusal::InvalidClient(ClientProblem::Unknown),
        ];
        for refusal in some {
            let allowed = |byte: u8| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            assert!(refusal.sentence().bytes().all(allowed), "{refusal:?}");
        }
    }

    #[test]
    fn unknown_clients_and_wrong_secrets_look_alike() {
        let outside = |problem| {
            let refusal = Refusal::InvalidClient(problem);
            (refusal.code(), refusal.sentence(), refusal.tells_reason())
        };
        assert_eq!(outside(ClientProblem::Unknown), outside(ClientProblem::Unproven));
        assert_eq!(outside(ClientProblem::Unknown), outside(ClientProblem::Disabled));
    }
}
