//! What a refusal is called, and what is said about it.

use super::{ClientProblem, Declared, Refusal};
use crate::domain::delegation::State;
use crate::domain::vault;
use crate::protocol::dpop::BadProof;

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
                ClientProblem::InvalidCredentials(_) => "invalid_credentials",
                ClientProblem::MethodNotRegistered => "auth_method_not_registered",
                ClientProblem::Disabled => "client_disabled",
                ClientProblem::AssertionReplayed => "assertion_replayed",
                ClientProblem::MultipleMethods => "multiple_auth_methods",
            },
            Self::DpopProofMissing => "dpop_proof_missing",
            Self::DpopProofInvalid(problem) => match problem {
                BadProof::Malformed => "dpop_proof_malformed",
                BadProof::Signature => "dpop_proof_signature",
                BadProof::Target => "dpop_proof_target",
                BadProof::Time => "dpop_proof_time",
                BadProof::AccessToken => "dpop_proof_access_token",
            },
            Self::DpopProofReplayed => "dpop_proof_replayed",
            Self::DpopProofKeyUnknown => "dpop_proof_key_unknown",
            Self::NonceRequired => "nonce_required",
            Self::SubjectTokenInvalid(_) => "subject_token_invalid",
            Self::ActorTokenInvalid(_) => "actor_token_invalid",
            Self::SubjectAmbiguous => "subject_ambiguous",
            Self::MayActMismatch => "may_act_mismatch",
            Self::ActorIsNotClient => "actor_is_not_client",
            Self::IssuerUnavailable => "issuer_unavailable",
            Self::SubjectKeyMismatch => "subject_key_mismatch",
            Self::ActorOfOtherIssuer => "actor_of_other_issuer",
            Self::DelegationRequired => "delegation_required",
            Self::DelegationRevoked => "delegation_revoked",
            Self::DelegationExpired => "delegation_expired",
            Self::DelegationRequested => "delegation_requested",
            Self::CommandLimit | Self::TooFewUses => "command_limit",
            Self::DepthExceeded => "depth_exceeded",
            Self::ActorCycle => "actor_cycle",
            Self::ActorDisabled => "actor_disabled",
            Self::ScopeExceedsGrant => "scope_exceeds_grant",
            Self::ScopeMalformed => "scope_malformed",
            Self::ScopeNotAtResource => "scope_not_at_resource",
            Self::ScopeEmpty => "scope_empty",
            Self::ResourceRefused => "resource_refused",
            Self::ResourceMalformed => "resource_malformed",
            Self::DpopRequiredForMultipleAudiences => "dpop_required_for_multiple_audiences",
            Self::ResourceAmbiguous => "resource_ambiguous",
            Self::AuthorizationDetailsMalformed => "authorization_details_malformed",
            Self::AuthorizationDetailsExceedGrant => "authorization_details_exceed_grant",
            Self::AuthorizationDetailsTooMany => "authorization_details_too_many",
            Self::TokenTooLarge => "token_too_large",
            Self::ProofTooOld => "proof_too_old",
            Self::RateLimited => "rate_limited",
            Self::TooManyFailedAttempts => "too_many_failed_attempts",
            Self::TokenRevoked => "token_revoked",
            Self::PrincipalRevoked => "principal_revoked",
            Self::AgentDeactivated => "agent_deactivated",
            Self::KeyRemoved => "key_removed",
            Self::KeyNotReusable => "key_not_reusable",
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
            Self::InvalidStateTransition(_) => "invalid_state_transition",
            Self::ParentNotActive(_) => "parent_not_active",
            Self::ExceedsParent(_) => "exceeds_parent",
            Self::Undeclared(list, _) => match list {
                Declared::Scopes | Declared::Ceremonies => "scope_unknown",
                Declared::Audiences => "resource_unknown",
                Declared::Details => "authorization_details_type_unknown",
            },
            Self::ExpiryNotLater => "expiry_not_later",
            Self::DelegateUnknown => "delegate_unknown",
            Self::DelegateDisabled => "delegate_disabled",
            Self::DelegatorUnknown => "delegator_unknown",
            Self::DelegationCycle => "delegation_cycle",
            Self::TaskAgentLimit => "task_agent_limit",
            Self::IdempotencyReused => "idempotency_key_reused",
            Self::SlowDown => "slow_down",
            Self::ProviderUnknown => "provider_unknown",
            Self::ProviderUnavailable(_) => "provider_unavailable",
            Self::ProviderRefused => "provider_refused",
            Self::ConnectionMissing => "connection_missing",
            Self::ConnectionScopeExceeded => "connection_scope_exceeded",
            Self::ConnectionUnusable(vault::State::Disconnected) => "connection_disconnected",
            Self::ConnectionUnusable(_) => "connection_needs_reconnect",
            Self::KeyCannotDecrypt => "key_cannot_decrypt",
            Self::ProxyForbidden => "proxy_forbidden",
            Self::ProxyFailed => "proxy_upstream_failed",
            Self::ProxyTimeout => "proxy_upstream_timeout",
            Self::MediaType => "unsupported_media_type",
            Self::NotSupported => "not_supported",
        }
    }

    /// Seconds until the same request may succeed, where it is one that may be repeated.
    pub fn retry_after(self) -> u32 {
        match self {
            Self::ProviderUnavailable(seconds) => seconds.max(1),
            _ => 1,
        }
    }

    /// The state that it rests on, where it is about one.
    pub fn state(self) -> Option<&'static str> {
        match self {
            Self::InvalidStateTransition(state) | Self::ParentNotActive(state) => Some(state.name()),
            Self::CeremonyDecided(stage) => Some(stage.name()),
            Self::ConnectionUnusable(state) => Some(state.name()),
            Self::DelegationRevoked | Self::PrincipalRevoked => Some(State::Revoked.name()),
            Self::DelegationExpired | Self::CommandLimit => Some(State::Expired.name()),
            Self::DelegationRequested => Some(State::Requested.name()),
            Self::TooFewUses => Some(State::Active.name()),
            _ => None,
        }
    }

    /// The first check that failed, where the reason covers several: for the log and the event, never for the caller.
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Self::SubjectTokenInvalid(problem) | Self::ActorTokenInvalid(problem) => Some(problem.name()),
            Self::InvalidClient(ClientProblem::InvalidCredentials(problem)) => Some(problem.name()),
            Self::InvalidClient(ClientProblem::Unknown) => Some("client_unknown"),
            Self::InvalidClient(ClientProblem::MethodNotRegistered) => Some("method_not_registered"),
            Self::InvalidClient(ClientProblem::Disabled) => Some("client_disabled"),
            Self::InvalidClient(ClientProblem::MultipleMethods) => Some("multiple_auth_methods"),
            _ => None,
        }
    }

    /// The part of the request that it is about, as a JSON Pointer in a URI fragment (RFC 6901 §6, RFC 9457 §3).
    pub fn pointer(self) -> Option<String> {
        match self {
            Self::ExceedsParent(wider) => Some(format!("#/{}", wider.member())),
            Self::Undeclared(list, place) => Some(match list {
                Declared::Scopes => format!("#/scopes/{place}"),
                Declared::Audiences => format!("#/audiences/{place}"),
                Declared::Ceremonies => format!("#/ceremony_required_for/{place}"),
                Declared::Details => format!("#/authorization_details/{place}/type"),
            }),
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
                | Self::RateLimited
                | Self::TooManyFailedAttempts
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
            Self::DpopProofMissing => "A DPoP proof is required",
            Self::DpopProofInvalid(_) => "The DPoP proof is not valid for this request",
            Self::DpopProofReplayed => "The DPoP proof was used before",
            Self::DpopProofKeyUnknown => "The key of the DPoP proof is not registered for this client",
            Self::NonceRequired => "The DPoP proof must carry the nonce of the DPoP-Nonce header",
            Self::SubjectTokenInvalid(_) => "The subject token is not valid",
            Self::ActorTokenInvalid(_) => "The actor token is not valid",
            Self::SubjectAmbiguous => "The subject has the name of another principal of this server",
            Self::MayActMismatch => "The subject token names other parties that may act for its subject",
            Self::ActorIsNotClient => "The actor token does not prove this client under this key",
            Self::IssuerUnavailable => "The keys of the issuer of a token cannot be fetched at the moment",
            Self::SubjectKeyMismatch => "The subject token is bound to another key",
            Self::ActorOfOtherIssuer => "The subject token names an actor that this server does not know",
            Self::DelegationRequired => "Nothing authorizes this client to act for the subject",
            Self::DelegationRevoked => "The delegation was revoked",
            Self::DelegationExpired => "The delegation has expired",
            Self::DelegationRequested => "The delegation has not been approved",
            Self::CommandLimit => "The delegation has no use left",
            Self::TooFewUses => "Fewer uses are left than were reported",
            Self::DepthExceeded => "The chain of actors would be too long",
            Self::ActorCycle => "The client already acts in this chain",
            Self::ActorDisabled => "An earlier actor of this chain was disabled",
            Self::ScopeExceedsGrant => "The scope goes beyond what may be granted",
            Self::ScopeMalformed => "The scope is malformed",
            Self::ScopeNotAtResource => "The scope is not known at every target",
            Self::ScopeEmpty => "No scope is left to grant",
            Self::ResourceRefused => "The target is unknown or may not be reached",
            Self::ResourceMalformed => "The target is malformed",
            Self::DpopRequiredForMultipleAudiences => "A token for several targets must be bound to a key",
            Self::ResourceAmbiguous => "The targets have no scope in common: name one",
            Self::AuthorizationDetailsMalformed => {
                "The authorization details are malformed or of an unknown type"
            }
            Self::AuthorizationDetailsExceedGrant => {
                "The authorization details go beyond what may be granted"
            }
            Self::AuthorizationDetailsTooMany => "There are too many authorization details: name some",
            Self::TokenTooLarge => "The token would be too large: ask for less",
            Self::ProofTooOld => "The DPoP proof is too old",
            Self::RateLimited => "Too many requests",
            Self::TooManyFailedAttempts => "Too many failed attempts",
            Self::TokenRevoked => "The subject token is not valid",
            Self::PrincipalRevoked => "What this principal had up to now was ended",
            Self::AgentDeactivated => "The agent has ended",
            Self::KeyRemoved => "The key was removed from its client",
            Self::KeyNotReusable => "The key was removed before and is not accepted again: use another key",
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
                "The access token has to be bound to a key and to come with the DPoP scheme and a proof by that key"
            }
            Self::InsufficientScope => "The access token does not allow this",
            Self::NotFound => "There is no such thing, or it is not yours",
            Self::InvalidStateTransition(_) => "The present state does not allow this",
            Self::ParentNotActive(_) => "What it should hang below is not active",
            Self::ExceedsParent(_) => "A delegation is never wider than what it comes from",
            Self::Undeclared(list, _) => match list {
                Declared::Scopes => "No resource declares the scope",
                Declared::Ceremonies => {
                    "The name is neither a capability nor a scope that a resource declares"
                }
                Declared::Audiences => "No resource has the audience",
                Declared::Details => "No resource declares the type of authorization details",
            },
            Self::ExpiryNotLater => "The new expiry is not later than the present one",
            Self::DelegateUnknown => "There is no such agent",
            Self::DelegateDisabled => "The agent is disabled",
            Self::DelegatorUnknown => "The delegator is nobody of a trusted issuer",
            Self::DelegationCycle => "Nobody delegates to itself or to somebody above",
            Self::TaskAgentLimit => "The task has as many agents as it may have",
            Self::IdempotencyReused => "The idempotency key came with another request before",
            Self::SlowDown => "Asked again too soon",
            Self::ProviderUnknown => "There is no such provider",
            Self::ProviderUnavailable(_) => "The provider cannot be reached at the moment",
            Self::ProviderRefused => "The provider refused the request",
            Self::ConnectionMissing => "The access token does not name this connection for this use",
            Self::ConnectionScopeExceeded => "The credential allows more than the access token does",
            Self::ConnectionUnusable(vault::State::Disconnected) => "The connection was ended",
            Self::ConnectionUnusable(_) => {
                "The connection is of no use any more: its owner has to connect again"
            }
            Self::KeyCannotDecrypt => "Nothing can be sealed to a key of this type: it takes an EC key",
            Self::ProxyForbidden => "Nothing of this kind may be reached through this connection",
            Self::ProxyFailed => "What was asked for does not answer",
            Self::ProxyTimeout => "What was asked for did not answer in time",
            Self::MediaType => "The body must be application/json",
            Self::NotSupported => "This server does not offer that",
        }
    }
}
