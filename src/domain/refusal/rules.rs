//! Refusals as findings: one rule for each reason, and how much it matters.

use uuid::Uuid;

use super::explained::{Explained, explained};
use super::{ClientProblem, CredentialProblem, Declared, Refusal};
use crate::domain::ceremony::Stage;
use crate::domain::delegation::{LimitDimension, State};
use crate::domain::vault;
use crate::protocol::dpop::BadProof;
use crate::protocol::sarif::Rule;
use crate::protocol::severity::Severity;
use crate::protocol::token_problem::TokenProblem;

/// One of each kind: every reason is among them.
pub const KINDS: [Refusal; 94] = {
    use Refusal as R;
    [
        R::Malformed("The form of the request is wrong"),
        R::TooLarge,
        R::UnsupportedGrant,
        R::UnauthorizedClient,
        R::InvalidClient(ClientProblem::Unknown),
        R::InvalidClient(ClientProblem::InvalidCredentials(CredentialProblem::Secret)),
        R::InvalidClient(ClientProblem::MethodNotRegistered),
        R::InvalidClient(ClientProblem::Disabled),
        R::InvalidClient(ClientProblem::AssertionReplayed),
        R::InvalidClient(ClientProblem::MultipleMethods),
        R::DpopProofMissing,
        R::DpopProofInvalid(BadProof::Malformed),
        R::DpopProofInvalid(BadProof::Signature),
        R::DpopProofInvalid(BadProof::Target),
        R::DpopProofInvalid(BadProof::Time),
        R::DpopProofInvalid(BadProof::AccessToken),
        R::DpopProofReplayed,
        R::DpopProofKeyUnknown,
        R::NonceRequired,
        R::SubjectTokenInvalid(TokenProblem::Signature),
        R::ActorTokenInvalid(TokenProblem::Signature),
        R::SubjectAmbiguous,
        R::MayActMismatch,
        R::ActorIsNotClient,
        R::IssuerUnavailable,
        R::SubjectKeyMismatch,
        R::ActorOfOtherIssuer,
        R::DelegationRequired,
        R::DelegationRevoked,
        R::DelegationExpired,
        R::DelegationRequested,
        R::CommandLimit,
        R::DepthExceeded,
        R::ActorCycle,
        R::ActorDisabled,
        R::ScopeExceedsGrant,
        R::ScopeMalformed,
        R::ScopeNotAtResource,
        R::ScopeEmpty,
        R::ResourceRefused,
        R::ResourceMalformed,
        R::DpopRequiredForMultipleAudiences,
        R::ResourceAmbiguous,
        R::AuthorizationDetailsMalformed,
        R::AuthorizationDetailsExceedGrant,
        R::AuthorizationDetailsTooMany,
        R::TokenTooLarge,
        R::ProofTooOld,
        R::RateLimited,
        R::TooManyFailedAttempts,
        R::TokenRevoked,
        R::PrincipalRevoked,
        R::AgentDeactivated,
        R::KeyRemoved,
        R::KeyNotReusable,
        R::CapabilityUnknown,
        R::CapabilityTooHigh,
        R::CeremonyRequired(Uuid::nil()),
        R::CeremonyDenied,
        R::CeremonyUsed,
        R::CeremonyDecided(Stage::Used),
        R::TokenOfAnother,
        R::NotAuthenticated,
        R::AccessTokenInvalid,
        R::AccessTokenBound,
        R::InsufficientScope,
        R::NotFound,
        R::InvalidStateTransition(State::Active),
        R::ParentNotActive(State::Revoked),
        R::ExceedsParent(LimitDimension::Scopes),
        R::Undeclared(Declared::Scopes, 0),
        R::Undeclared(Declared::Audiences, 0),
        R::Undeclared(Declared::Details, 0),
        R::ExpiryNotLater,
        R::DelegateUnknown,
        R::DelegateDisabled,
        R::DelegatorUnknown,
        R::DelegationCycle,
        R::TaskAgentLimit,
        R::IdempotencyReused,
        R::SlowDown,
        R::ProviderUnknown,
        R::ProviderUnavailable(1),
        R::ProviderRefused,
        R::ConnectionMissing,
        R::ConnectionScopeExceeded,
        R::ConnectionUnusable(vault::State::NeedsReconnect),
        R::ConnectionUnusable(vault::State::Disconnected),
        R::KeyCannotDecrypt,
        R::ProxyForbidden,
        R::ProxyFailed,
        R::ProxyTimeout,
        R::MediaType,
        R::NotSupported,
    ]
};

/// The rule of each reason but those of ordinary steps of a protocol, which nothing is wrong with.
pub fn rules() -> Vec<Rule> {
    let explained: Vec<Explained> = explained().collect();
    let rule = |kind: Refusal| {
        let text = explained.iter().find(|one| one.reason == kind.reason());
        Rule {
            id: kind.reason(),
            sentence: kind.sentence(),
            meaning: text.map_or(kind.sentence(), |text| text.meaning),
            advice: text.map_or("See docs/reference/problems.md.", |text| text.advice),
            severity: kind.severity(),
        }
    };
    KINDS.into_iter().filter(|kind| !kind.is_protocol_step()).map(rule).collect()
}

/// How much a refusal with this reason matters; `None` for a reason that this version does not know.
pub fn severity_of(reason: &str) -> Option<Severity> {
    KINDS.into_iter().find(|kind| kind.reason() == reason).map(Refusal::severity)
}

impl Refusal {
    /// Whether every well-behaved client meets this refusal on its way: it receives a nonce to put into its proof (RFC 9449 §8),
    /// or learns that the delegator has to confirm first.
    pub fn is_protocol_step(self) -> bool {
        matches!(self, Self::NonceRequired | Self::CeremonyRequired(_))
    }

    /// How much it matters that this was refused: high where somebody held what is not its own, or pretended to be
    /// somebody else; medium where it asked for more than it has; low where it came too late or made a mistake of form.
    pub fn severity(self) -> Severity {
        match self {
            Self::InvalidClient(
                ClientProblem::InvalidCredentials(_)
                | ClientProblem::Disabled
                | ClientProblem::AssertionReplayed,
            )
            | Self::DpopProofInvalid(BadProof::Signature | BadProof::AccessToken)
            | Self::DpopProofReplayed
            | Self::DpopProofKeyUnknown
            | Self::ActorIsNotClient
            | Self::SubjectKeyMismatch
            | Self::ActorOfOtherIssuer
            | Self::SubjectAmbiguous
            | Self::ActorCycle
            | Self::ActorDisabled
            | Self::TooManyFailedAttempts
            | Self::TokenRevoked
            | Self::KeyRemoved
            | Self::KeyNotReusable
            | Self::CeremonyUsed
            | Self::TokenOfAnother
            | Self::AccessTokenBound
            | Self::DelegationCycle => Severity::High,
            Self::UnauthorizedClient
            | Self::InvalidClient(
                ClientProblem::Unknown | ClientProblem::MethodNotRegistered | ClientProblem::MultipleMethods,
            )
            | Self::DpopProofMissing
            | Self::DpopProofInvalid(BadProof::Target)
            | Self::SubjectTokenInvalid(_)
            | Self::ActorTokenInvalid(_)
            | Self::MayActMismatch
            | Self::DelegationRequired
            | Self::DelegationRevoked
            | Self::DelegationRequested
            | Self::DepthExceeded
            | Self::ScopeExceedsGrant
            | Self::ScopeNotAtResource
            | Self::ResourceRefused
            | Self::AuthorizationDetailsExceedGrant
            | Self::CapabilityTooHigh
            | Self::PrincipalRevoked
            | Self::AgentDeactivated
            | Self::CeremonyDenied
            | Self::ProofTooOld
            | Self::AccessTokenInvalid
            | Self::InsufficientScope
            | Self::NotFound
            | Self::ExceedsParent(_)
            | Self::DelegateDisabled
            | Self::TaskAgentLimit
            | Self::ConnectionMissing
            | Self::ConnectionScopeExceeded
            | Self::ProxyForbidden => Severity::Medium,
            Self::Malformed(_)
            | Self::TooLarge
            | Self::UnsupportedGrant
            | Self::DpopProofInvalid(BadProof::Malformed | BadProof::Time)
            | Self::NonceRequired
            | Self::IssuerUnavailable
            | Self::DelegationExpired
            | Self::CommandLimit
            | Self::TooFewUses
            | Self::ScopeMalformed
            | Self::ScopeEmpty
            | Self::ResourceMalformed
            | Self::DpopRequiredForMultipleAudiences
            | Self::ResourceAmbiguous
            | Self::AuthorizationDetailsMalformed
            | Self::AuthorizationDetailsTooMany
            | Self::TokenTooLarge
            | Self::RateLimited
            | Self::CapabilityUnknown
            | Self::CeremonyRequired(_)
            | Self::CeremonyDecided(_)
            | Self::NotAuthenticated
            | Self::InvalidStateTransition(_)
            | Self::ParentNotActive(_)
            | Self::Undeclared(..)
            | Self::ExpiryNotLater
            | Self::DelegateUnknown
            | Self::DelegatorUnknown
            | Self::IdempotencyReused
            | Self::SlowDown
            | Self::ProviderUnknown
            | Self::ProviderUnavailable(_)
            | Self::ProviderRefused
            | Self::ConnectionUnusable(_)
            | Self::KeyCannotDecrypt
            | Self::ProxyFailed
            | Self::ProxyTimeout
            | Self::MediaType
            | Self::NotSupported => Severity::Low,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn sa_05_every_reason_has_one_rule() {
        let rules = rules();
        let ids: BTreeSet<&str> = rules.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), rules.len());
        // The slugs as they stand in the code: a new reason without a rule shows here.
        let words = include_str!("words.rs");
        let body = words.split("pub fn reason").nth(1).unwrap().split("pub fn state").next().unwrap();
        let slugs: BTreeSet<&str> = body.split('"').skip(1).step_by(2).collect();
        let steps = BTreeSet::from(["nonce_required", "ceremony_required"]);
        assert_eq!(ids, slugs.difference(&steps).copied().collect(), "all but ordinary steps of a protocol");
    }

    #[test]
    fn every_rule_says_what_it_means_and_what_to_do() {
        for rule in rules() {
            let found = explained().find(|one| one.reason == rule.id);
            let found =
                found.unwrap_or_else(|| panic!("docs/reference/problems.md has no row for {}", rule.id));
            assert_eq!((rule.meaning, rule.advice), (found.meaning, found.advice));
            assert!(rule.meaning.ends_with('.') && rule.advice.ends_with('.'), "{rule:?}");
        }
    }

    #[test]
    fn sa_04_what_was_stolen_matters_more_than_what_came_late() {
        assert_eq!(Refusal::DpopProofReplayed.severity().level(), "error");
        assert_eq!(Refusal::SubjectKeyMismatch.severity().level(), "error");
        assert_eq!(Refusal::ActorCycle.severity().level(), "error");
        assert_eq!(Refusal::ScopeExceedsGrant.severity().level(), "warning");
        assert_eq!(Refusal::DelegationExpired.severity().level(), "note");
    }
}
