//! The rules of an exchange in the order in which they are checked, and the rule that each refusal is of.

use serde::Serialize;

use crate::domain::refusal::Refusal;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExchangeRule {
    /// The client is registered and enabled.
    Client,
    /// The client may use token exchange.
    GrantType,
    /// The subject token is valid and was issued to be presented by this client.
    SubjectToken,
    /// The subject token and all tokens that it was derived from are active.
    SubjectActive,
    /// The client may become an actor of the subject token.
    Actor,
    /// A delegation leads from the holder of the subject token to the client.
    Delegation,
    /// The delegation and its ancestors are active, and have uses left.
    DelegationActive,
    /// The chain is not longer than the delegations and the server allow.
    Depth,
    /// Each target is registered and allowed.
    Resource,
    /// The authorization details are within those allowed.
    AuthorizationDetails,
    /// The scopes are allowed, and each target defines them.
    Scope,
    /// The capability is within the ceiling.
    Capability,
    /// The token would not expire at once.
    Lifetime,
}

pub(super) const RULES: [ExchangeRule; 13] = [
    ExchangeRule::Client,
    ExchangeRule::GrantType,
    ExchangeRule::SubjectToken,
    ExchangeRule::SubjectActive,
    ExchangeRule::Actor,
    ExchangeRule::Delegation,
    ExchangeRule::DelegationActive,
    ExchangeRule::Depth,
    ExchangeRule::Resource,
    ExchangeRule::AuthorizationDetails,
    ExchangeRule::Scope,
    ExchangeRule::Capability,
    ExchangeRule::Lifetime,
];

impl ExchangeRule {
    /// The rule of a decision that refuses in this way, after the subject token was found to be active.
    pub(super) fn of_decision(refusal: Refusal) -> Self {
        match refusal {
            Refusal::ActorOfOtherIssuer
            | Refusal::ActorCycle
            | Refusal::MayActMismatch
            | Refusal::DpopProofMissing
            | Refusal::SubjectKeyMismatch => Self::Actor,
            Refusal::DelegationRevoked
            | Refusal::PrincipalRevoked
            | Refusal::DelegationExpired
            | Refusal::CommandLimit
            | Refusal::DelegationRequested => Self::DelegationActive,
            Refusal::DepthExceeded => Self::Depth,
            Refusal::ResourceRefused | Refusal::DpopRequiredForMultipleAudiences => Self::Resource,
            Refusal::AuthorizationDetailsMalformed
            | Refusal::AuthorizationDetailsExceedGrant
            | Refusal::AuthorizationDetailsTooMany => Self::AuthorizationDetails,
            Refusal::ScopeExceedsGrant
            | Refusal::ScopeNotAtResource
            | Refusal::ScopeEmpty
            | Refusal::ResourceAmbiguous => Self::Scope,
            Refusal::CapabilityUnknown | Refusal::CapabilityTooHigh => Self::Capability,
            Refusal::SubjectTokenInvalid(_) => Self::Lifetime,
            _ => Self::Delegation,
        }
    }
}

/// Whether a rule is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleOutcome {
    Met,
    /// No token was presented: the rule is taken to be met.
    Assumed,
    Refused,
    /// An earlier rule refuses the exchange.
    NotReached,
}

#[derive(Debug, Clone, Serialize)]
pub struct RuleResult {
    pub rule: ExchangeRule,
    pub outcome: RuleOutcome,
}
