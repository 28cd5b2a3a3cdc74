//! The catalogue of refusals: one entry for each. Responses, exports, metrics and the audit log read from it;
//! `docs/reference/problems.md` and `openapi.yaml` are compared with it.
//!
//! The compiler demands an entry for each variant of [`Refusal`], and a use of each entry.

mod caller;
pub mod code;
mod delegation;
pub mod entry;
mod exchange;
mod form;
mod proof;
mod standing_grant;
mod vault;

use self::code::OauthErrorCode;
use self::entry::{CatalogueEntry, Endpoints};
use super::{ClientProblem, Declared, Refusal};
use crate::domain::vault::ConnectionState;
use actchain_protocol::dpop::BadProof;
use actchain_protocol::severity::Severity;

/// Defines the entry of each refusal, and the list of all entries from the same lines.
macro_rules! catalogue {
    ($($refusal:pat => $entry:expr,)*) => {
        /// All entries, in the order of the catalogue. Several can have the same reason: the first explains it.
        pub const ENTRIES: &[&CatalogueEntry] = &[$(&$entry),*];

        impl Refusal {
            fn entry(self) -> &'static CatalogueEntry {
                match self {
                    $($refusal => &$entry,)*
                }
            }
        }
    };
}

catalogue! {
    Refusal::Malformed(_) => form::MALFORMED_REQUEST,
    Refusal::TooLarge => form::REQUEST_TOO_LARGE,
    Refusal::MediaType => form::UNSUPPORTED_MEDIA_TYPE,
    Refusal::IdempotencyReused => form::IDEMPOTENCY_KEY_REUSED,
    Refusal::ManifestChanged => form::MANIFEST_CHANGED,
    Refusal::OperatorOnly => caller::OPERATOR_ONLY,
    Refusal::NotSupported => form::NOT_SUPPORTED,
    Refusal::ScopeMalformed => form::SCOPE_MALFORMED,
    Refusal::ResourceMalformed => form::RESOURCE_MALFORMED,
    Refusal::AuthorizationDetailsMalformed => form::AUTHORIZATION_DETAILS_MALFORMED,
    Refusal::CapabilityUnknown => form::CAPABILITY_UNKNOWN,
    Refusal::Unauthenticated => caller::NOT_AUTHENTICATED,
    Refusal::AccessTokenInvalid => caller::ACCESS_TOKEN_INVALID,
    Refusal::AccessTokenBound => caller::ACCESS_TOKEN_BOUND,
    Refusal::InsufficientScope => caller::INSUFFICIENT_SCOPE,
    Refusal::ConsoleRequired => caller::CONSOLE_REQUIRED,
    Refusal::SignInRefused => caller::SIGN_IN_REFUSED,
    Refusal::NotFound => caller::NOT_FOUND,
    Refusal::EventsArchived => caller::EVENTS_ARCHIVED,
    Refusal::InvalidClient(ClientProblem::Unknown) => caller::CLIENT_UNKNOWN,
    Refusal::InvalidClient(ClientProblem::InvalidCredentials(_)) => caller::INVALID_CREDENTIALS,
    Refusal::InvalidClient(ClientProblem::MethodNotRegistered) => caller::AUTH_METHOD_NOT_REGISTERED,
    Refusal::InvalidClient(ClientProblem::Disabled) => caller::CLIENT_DISABLED,
    Refusal::InvalidClient(ClientProblem::AssertionReplayed) => caller::ASSERTION_REPLAYED,
    Refusal::InvalidClient(ClientProblem::MultipleMethods) => caller::MULTIPLE_AUTH_METHODS,
    Refusal::UnsupportedGrant => caller::UNSUPPORTED_GRANT,
    Refusal::UnauthorizedClient => caller::GRANT_NOT_ALLOWED,
    Refusal::RateLimited => caller::RATE_LIMITED,
    Refusal::TooManyFailedAttempts => caller::TOO_MANY_FAILED_ATTEMPTS,
    Refusal::SlowDown => caller::SLOW_DOWN,
    Refusal::IssuerUnavailable => caller::ISSUER_UNAVAILABLE,
    Refusal::DpopProofMissing => proof::MISSING,
    Refusal::DpopProofInvalid(BadProof::Malformed) => proof::MALFORMED,
    Refusal::DpopProofInvalid(BadProof::Signature) => proof::SIGNATURE,
    Refusal::DpopProofInvalid(BadProof::Target) => proof::TARGET,
    Refusal::DpopProofInvalid(BadProof::Time) => proof::TIME,
    Refusal::DpopProofInvalid(BadProof::AccessToken) => proof::ACCESS_TOKEN,
    Refusal::DpopProofReplayed => proof::REPLAYED,
    Refusal::DpopProofKeyUnknown => proof::KEY_UNKNOWN,
    Refusal::NonceRequired => proof::NONCE_REQUIRED,
    Refusal::ProofTooOld => proof::TOO_OLD,
    Refusal::SubjectTokenInvalid(_) => exchange::SUBJECT_TOKEN_INVALID,
    Refusal::ActorTokenInvalid(_) => exchange::ACTOR_TOKEN_INVALID,
    Refusal::RefreshTokenInvalid(_) => exchange::REFRESH_TOKEN_INVALID,
    Refusal::ActorIsNotClient => exchange::ACTOR_IS_NOT_CLIENT,
    Refusal::SubjectKeyMismatch => exchange::SUBJECT_KEY_MISMATCH,
    Refusal::SubjectAmbiguous => exchange::SUBJECT_AMBIGUOUS,
    Refusal::MayActMismatch => exchange::MAY_ACT_MISMATCH,
    Refusal::ActorOfOtherIssuer => exchange::ACTOR_OF_OTHER_ISSUER,
    Refusal::DelegationRequired => exchange::DELEGATION_REQUIRED,
    Refusal::DepthExceeded => exchange::DEPTH_EXCEEDED,
    Refusal::ActorCycle => exchange::ACTOR_CYCLE,
    Refusal::ActorDisabled => exchange::ACTOR_DISABLED,
    Refusal::TokenRevoked => exchange::TOKEN_REVOKED,
    Refusal::KeyRemoved => exchange::KEY_REMOVED,
    Refusal::PrincipalRevoked => exchange::PRINCIPAL_REVOKED,
    Refusal::AgentDeactivated => exchange::AGENT_DEACTIVATED,
    Refusal::TokenTooLarge => exchange::TOKEN_TOO_LARGE,
    Refusal::TokenOfAnother => exchange::TOKEN_OF_ANOTHER_CLIENT,
    Refusal::ScopeExceedsGrant => exchange::SCOPE_EXCEEDS_GRANT,
    Refusal::ScopeNotAtResource => exchange::SCOPE_NOT_AT_RESOURCE,
    Refusal::ScopeEmpty => exchange::SCOPE_EMPTY,
    Refusal::CapabilityTooHigh => exchange::CAPABILITY_TOO_HIGH,
    Refusal::ResourceRefused => exchange::RESOURCE_REFUSED,
    Refusal::DpopRequiredForMultipleAudiences => exchange::DPOP_REQUIRED_FOR_MULTIPLE_AUDIENCES,
    Refusal::ResourceAmbiguous => exchange::RESOURCE_AMBIGUOUS,
    Refusal::AuthorizationDetailsExceedGrant => exchange::AUTHORIZATION_DETAILS_EXCEED_GRANT,
    Refusal::AuthorizationDetailsTooMany => exchange::AUTHORIZATION_DETAILS_TOO_MANY,
    Refusal::CeremonyRequired(_) => exchange::CEREMONY_REQUIRED,
    Refusal::CeremonyDenied => exchange::CEREMONY_DENIED,
    Refusal::CeremonyUsed => exchange::CEREMONY_USED,
    Refusal::DelegationRequested => delegation::REQUESTED,
    Refusal::DelegationExpired => delegation::EXPIRED,
    Refusal::DelegationRevoked => delegation::REVOKED,
    Refusal::CommandLimit => delegation::COMMAND_LIMIT,
    Refusal::TooFewUses => delegation::TOO_FEW_USES,
    Refusal::InvalidStateTransition(_) | Refusal::InvalidGrantTransition(_) => delegation::INVALID_STATE_TRANSITION,
    Refusal::OnlyUserGrants => standing_grant::ONLY_USER_GRANTS,
    Refusal::ExceedsGrantor(_) => standing_grant::EXCEEDS_GRANTOR,
    Refusal::StandingGrantLimit => standing_grant::LIMIT,
    Refusal::RequestChanged => delegation::REQUEST_CHANGED,
    Refusal::ParentNotActive(_) => delegation::PARENT_NOT_ACTIVE,
    Refusal::CeremonyDecided(_) => delegation::CEREMONY_DECIDED,
    Refusal::KeyNotReusable => delegation::KEY_NOT_REUSABLE,
    Refusal::TaskAgentLimit => delegation::TASK_AGENT_LIMIT,
    Refusal::ExceedsParent(_) => delegation::EXCEEDS_PARENT,
    Refusal::Undeclared(Declared::Scopes, _) => delegation::SCOPE_UNKNOWN,
    Refusal::Undeclared(Declared::Ceremonies, _) => delegation::CEREMONY_UNKNOWN,
    Refusal::Undeclared(Declared::Audiences, _) => delegation::RESOURCE_UNKNOWN,
    Refusal::Undeclared(Declared::Details, _) => delegation::DETAILS_TYPE_UNKNOWN,
    Refusal::ExpiryNotLater => delegation::EXPIRY_NOT_LATER,
    Refusal::DelegationCycle => delegation::CYCLE,
    Refusal::DelegateUnknown => delegation::DELEGATE_UNKNOWN,
    Refusal::DelegateDisabled => delegation::DELEGATE_DISABLED,
    Refusal::DelegatorUnknown => delegation::DELEGATOR_UNKNOWN,
    Refusal::ProviderUnknown => vault::PROVIDER_UNKNOWN,
    Refusal::ProviderUnavailable(_) => vault::PROVIDER_UNAVAILABLE,
    Refusal::ProviderRefused => vault::PROVIDER_REFUSED,
    Refusal::ConnectionMissing => vault::CONNECTION_MISSING,
    Refusal::ConnectionScopeExceeded => vault::CONNECTION_SCOPE_EXCEEDED,
    Refusal::ConnectionUnusable(ConnectionState::Disconnected) => vault::CONNECTION_DISCONNECTED,
    Refusal::ConnectionUnusable(_) => vault::CONNECTION_NEEDS_RECONNECT,
    Refusal::KeyCannotDecrypt => vault::KEY_CANNOT_DECRYPT,
    Refusal::ProxyForbidden => vault::PROXY_FORBIDDEN,
    Refusal::ProxyFailed => vault::PROXY_UPSTREAM_FAILED,
    Refusal::ProxyTimeout => vault::PROXY_UPSTREAM_TIMEOUT,
}

/// The reasons for which a refresh token is of no use any more.
const ENDS_REFRESH_TOKEN: [&str; 11] = [
    "refresh_token_invalid",
    "delegation_required",
    "delegation_revoked",
    "delegation_expired",
    "command_limit",
    "token_revoked",
    "principal_revoked",
    "agent_deactivated",
    "key_removed",
    "subject_token_invalid",
    "subject_ambiguous",
];

/// Reasons that every well-behaved client meets: it learns a nonce (RFC 9449 §8), or that the delegator has to confirm
/// first.
const PROTOCOL_STEPS: [&str; 2] = [proof::NONCE_REQUIRED.reason, exchange::CEREMONY_REQUIRED.reason];

/// The entry that explains a reason; `None` for a reason that this version does not know.
pub fn find(reason: &str) -> Option<&'static CatalogueEntry> {
    ENTRIES.iter().copied().find(|entry| entry.reason == reason)
}

/// The entries that explain a reason, one for each reason.
pub fn explained() -> impl Iterator<Item = &'static CatalogueEntry> {
    ENTRIES.iter().copied().filter(|entry| find(entry.reason) == Some(entry))
}

/// Whether a refresh token that is refused for this reason is of no use any more.
pub fn ends_refresh_token(reason: &str) -> bool {
    ENDS_REFRESH_TOKEN.contains(&reason)
}

pub fn is_protocol_step(reason: &str) -> bool {
    PROTOCOL_STEPS.contains(&reason)
}

impl Refusal {
    /// Stable name for programs, in responses, metrics and the audit log.
    pub fn reason(self) -> &'static str {
        self.entry().reason
    }

    /// The error code and HTTP status at OAuth endpoints.
    pub fn code(self) -> OauthErrorCode {
        match self.entry().answers.places {
            Endpoints::Oauth(code) | Endpoints::Resource(code) | Endpoints::Both { oauth: code, .. } => code,
        }
    }

    /// The error code and HTTP status for a request with a refresh token. Where the refresh token is of no use any more,
    /// its client has to forget it (RFC 6749 §5.2).
    pub fn code_for_refresh(self) -> OauthErrorCode {
        if ends_refresh_token(self.reason()) { code::INVALID_GRANT } else { self.code() }
    }

    /// The error code and HTTP status where an access token is presented (RFC 6750 §3.1, RFC 9449 §7.1).
    pub fn code_for_resource(self) -> OauthErrorCode {
        match self.entry().answers.places {
            Endpoints::Oauth(code) | Endpoints::Resource(code) | Endpoints::Both { resource: code, .. } => {
                code
            }
        }
    }

    /// Whether OAuth endpoints name the reason.
    pub fn tells_reason(self) -> bool {
        self.entry().answers.tells_reason
    }

    /// How serious the refusal is; see [`Severity`].
    pub fn severity(self) -> Severity {
        self.entry().severity
    }

    /// The public sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Malformed(sentence) => sentence,
            _ => self.entry().sentence,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn sentences_stay_within_the_allowed_characters() {
        let allowed = |byte: u8| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        for entry in ENTRIES {
            assert!(entry.sentence.bytes().all(allowed), "{entry:?}");
            assert!(!entry.sentence.is_empty() && !entry.sentence.ends_with('.'), "{entry:?}");
        }
    }

    #[test]
    fn every_reason_is_explained_once() {
        let all: BTreeSet<&str> = ENTRIES.iter().map(|entry| entry.reason).collect();
        let explained: Vec<&CatalogueEntry> = explained().collect();
        assert_eq!(all, explained.iter().map(|entry| entry.reason).collect());
        assert_eq!(all.len(), explained.len());
        for entry in ENTRIES {
            let text = find(entry.reason).unwrap();
            assert_eq!((entry.meaning, entry.advice), (text.meaning, text.advice), "{}", entry.reason);
        }
    }

    #[test]
    fn every_entry_says_what_it_means_and_what_to_do() {
        for entry in ENTRIES {
            let reason = entry.reason;
            assert!(
                !reason.is_empty() && reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{reason}"
            );
            for text in [entry.meaning, entry.advice] {
                assert!(text.ends_with('.') && !text.contains(['|', '\n']), "{reason}: {text}");
            }
        }
    }

    #[test]
    fn signs_of_theft_are_errors_and_late_requests_are_notes() {
        assert_eq!(Refusal::DpopProofReplayed.severity().level(), "error");
        assert_eq!(Refusal::SubjectKeyMismatch.severity().level(), "error");
        assert_eq!(Refusal::ActorCycle.severity().level(), "error");
        assert_eq!(Refusal::ScopeExceedsGrant.severity().level(), "warning");
        assert_eq!(Refusal::DelegationExpired.severity().level(), "note");
    }
}
