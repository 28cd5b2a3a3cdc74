//! The RFC error code and HTTP status of each refusal.

use super::{Declared, Refusal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OauthErrorCode {
    /// A code of RFC 6749 §5.2, RFC 8693 §2.2.2, RFC 9449 §5 or RFC 9396 §5.
    pub error: &'static str,
    pub status: u16,
}

const fn code(error: &'static str, status: u16) -> OauthErrorCode {
    OauthErrorCode { error, status }
}

impl Refusal {
    /// The error code and HTTP status at the token endpoint.
    pub fn code(self) -> OauthErrorCode {
        match self {
            Self::TooLarge => code("invalid_request", 413),
            Self::UnsupportedGrant => code("unsupported_grant_type", 400),
            Self::UnauthorizedClient => code("unauthorized_client", 400),
            Self::InvalidClient(_) => code("invalid_client", 401),
            Self::DpopProofMissing
            | Self::DpopProofInvalid(_)
            | Self::DpopProofReplayed
            | Self::DpopProofKeyUnknown
            | Self::ProofTooOld => code("invalid_dpop_proof", 400),
            Self::NonceRequired => code("use_dpop_nonce", 400),
            Self::ScopeExceedsGrant | Self::ScopeMalformed | Self::ScopeNotAtResource | Self::ScopeEmpty => {
                code("invalid_scope", 400)
            }
            Self::ResourceRefused
            | Self::ResourceMalformed
            | Self::DpopRequiredForMultipleAudiences
            | Self::ResourceAmbiguous => code("invalid_target", 400),
            Self::AuthorizationDetailsMalformed
            | Self::AuthorizationDetailsExceedGrant
            | Self::AuthorizationDetailsTooMany => code("invalid_authorization_details", 400),
            Self::CapabilityTooHigh => code("invalid_scope", 400),
            Self::CeremonyRequired(_) | Self::CeremonyDenied | Self::CeremonyUsed => {
                code("insufficient_user_authentication", 400)
            }
            Self::Undeclared(Declared::Scopes | Declared::Ceremonies, _) => code("invalid_scope", 400),
            Self::Undeclared(Declared::Audiences, _) => code("invalid_target", 400),
            Self::Undeclared(Declared::Details, _) => code("invalid_authorization_details", 400),
            Self::TokenOfAnother => code("invalid_grant", 400),
            Self::NotAuthenticated | Self::AccessTokenInvalid | Self::AccessTokenBound => {
                code("invalid_token", 401)
            }
            Self::InsufficientScope => code("insufficient_scope", 403),
            Self::NotFound => code("not_found", 404),
            Self::TooFewUses
            | Self::InvalidStateTransition(_)
            | Self::ParentNotActive(_)
            | Self::CeremonyDecided(_)
            | Self::KeyNotReusable
            | Self::TaskAgentLimit => code("conflict", 409),
            Self::IdempotencyReused => code("invalid_request", 422),
            Self::MediaType => code("invalid_request", 415),
            Self::NotSupported => code("not_implemented", 501),
            Self::SlowDown => code("slow_down", 429),
            Self::RateLimited | Self::TooManyFailedAttempts => code("temporarily_unavailable", 429),
            Self::IssuerUnavailable | Self::ProviderUnavailable(_) => code("temporarily_unavailable", 503),
            Self::ProviderRefused | Self::ProxyFailed => code("temporarily_unavailable", 502),
            Self::ConnectionMissing | Self::ConnectionScopeExceeded => {
                code("invalid_authorization_details", 400)
            }
            Self::ProxyForbidden => code("insufficient_scope", 403),
            Self::ConnectionUnusable(_) => code("invalid_target", 400),
            Self::ProxyTimeout => code("temporarily_unavailable", 504),
            Self::Malformed(_)
            | Self::TokenTooLarge
            | Self::SubjectTokenInvalid(_)
            | Self::ActorTokenInvalid(_)
            | Self::SubjectAmbiguous
            | Self::MayActMismatch
            | Self::ActorIsNotClient
            | Self::SubjectKeyMismatch
            | Self::ActorOfOtherIssuer
            | Self::DelegationRequired
            | Self::DelegationRevoked
            | Self::DelegationExpired
            | Self::DelegationRequested
            | Self::CommandLimit
            | Self::DepthExceeded
            | Self::ActorCycle
            | Self::ActorDisabled
            | Self::TokenRevoked
            | Self::PrincipalRevoked
            | Self::AgentDeactivated
            | Self::KeyRemoved
            | Self::CapabilityUnknown
            | Self::ExceedsParent(_)
            | Self::ProviderUnknown
            | Self::KeyCannotDecrypt
            | Self::ExpiryNotLater
            | Self::DelegateUnknown
            | Self::DelegateDisabled
            | Self::DelegatorUnknown
            | Self::DelegationCycle => code("invalid_request", 400),
        }
    }

    /// The error code where an access token is presented, such as the management API (RFC 6750 §3.1, RFC 9449 §7.1).
    pub fn code_for_resource(self) -> OauthErrorCode {
        match self {
            Self::DpopProofMissing
            | Self::DpopProofInvalid(_)
            | Self::DpopProofReplayed
            | Self::DpopProofKeyUnknown
            | Self::ProofTooOld
            | Self::NonceRequired => OauthErrorCode { status: 401, ..self.code() },
            Self::SubjectTokenInvalid(_) | Self::TokenRevoked | Self::KeyRemoved | Self::InvalidClient(_) => {
                code("invalid_token", 401)
            }
            // The caller is authenticated: the object of the request, or an ancestor, is inactive.
            Self::PrincipalRevoked
            | Self::AgentDeactivated
            | Self::ActorDisabled
            | Self::DelegationRevoked
            | Self::DelegationExpired
            | Self::DelegationRequested
            | Self::CommandLimit
            | Self::ConnectionUnusable(_) => code("conflict", 409),
            Self::ConnectionMissing | Self::ConnectionScopeExceeded => code("insufficient_scope", 403),
            other => other.code(),
        }
    }
}
