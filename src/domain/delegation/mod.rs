//! Delegations: stored, revocable authorities that a holder grants to an agent. Rows have facts; states are derived.

pub mod candidates;
pub mod delegates;
pub mod impact;
pub mod list;
mod mac;
mod path;
pub mod store;
mod terms;
pub mod transitions;
pub mod view;
pub mod waiting;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

pub use self::terms::{ApprovedTerms, DelegationLimits, LimitDimension};
use super::capability::{CapabilityLevels, Ceiling};
use super::name;
use super::principal::Principal;
use crate::platform::clock::rfc3339;
use actchain_protocol::authorization_details::Details;
use actchain_protocol::jose::PublicKey;

#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    sqlx::Type,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum DelegationState {
    /// The delegator has not approved the delegation, or has not confirmed a new key.
    Requested,
    /// May be used, if all its ancestors are active.
    Active,
    /// The expiry has passed, or no use is left.
    Expired,
    Revoked,
}

impl DelegationState {
    /// The name on the wire and in the database.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Provenance {
    /// Declared in a manifest of `actchain apply`.
    Declared,
    /// The `may_act` claim of a subject token.
    MayAct,
    /// Granted by its delegator.
    Granted,
    /// Requested by an agent, approved by the delegator.
    Requested,
}

/// The facts from which the state is derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegationRecord {
    pub activated_at: Option<OffsetDateTime>,
    pub expires_at: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
    /// The first revoke-all that covers the delegator or the delegate.
    pub principal_revoked_at: Option<OffsetDateTime>,
    /// Whether the agent changes its key and the delegator has not confirmed the new key.
    pub key_rotating: bool,
    /// Since when the delegation waits for a review by its delegator.
    pub suspended_at: Option<OffsetDateTime>,
    /// Since when the standing grant of the delegation waits for its grantor.
    pub standing_grant_suspended_at: Option<OffsetDateTime>,
    pub max_uses: Option<i64>,
    /// Uses of this delegation and of its descendants.
    pub uses: i64,
    /// When the last use was taken, if known.
    pub used_up_at: Option<OffsetDateTime>,
    /// When a reported command took the last use.
    pub exhausted_at: Option<OffsetDateTime>,
}

/// Why a delegation may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inactive {
    Revoked,
    /// A revoke-all covers the delegator or the delegate.
    PrincipalRevoked,
    Expired,
    /// A reported command took the last use: tokens of the delegation are not valid.
    Exhausted,
    /// An exchange took the last use: tokens of the delegation stay valid.
    UsedUp,
    /// The delegation waits for its delegator.
    Requested,
}

/// Why a delegation ended. Of two ends at the same time, the lesser one decides: an expiry before a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Expired,
    Revoked,
}

impl From<End> for DelegationState {
    fn from(end: End) -> Self {
        match end {
            End::Expired => Self::Expired,
            End::Revoked => Self::Revoked,
        }
    }
}

impl DelegationRecord {
    /// The record of a new delegation. It waits for its delegator as long as `activated_at` is `None`.
    pub fn unused(
        activated_at: Option<OffsetDateTime>,
        expires_at: OffsetDateTime,
        max_uses: Option<i64>,
    ) -> Self {
        Self {
            activated_at,
            expires_at,
            revoked_at: None,
            principal_revoked_at: None,
            key_rotating: false,
            suspended_at: None,
            standing_grant_suspended_at: None,
            max_uses,
            uses: 0,
            used_up_at: None,
            exhausted_at: None,
        }
    }

    /// The earliest end of this delegation, and its time.
    fn first_end(&self, now: OffsetDateTime) -> Option<(OffsetDateTime, End)> {
        // A delegation without a use left needs a time of its end. Where the time is unknown, its activation is early
        // enough.
        let used_up_at = self.used_up().then(|| {
            let known = self.used_up_at.or(self.activated_at);
            known.unwrap_or(OffsetDateTime::UNIX_EPOCH)
        });
        let ends = [
            (Some(self.expires_at).filter(|end| now >= *end), End::Expired),
            (used_up_at, End::Expired),
            (self.revoked_at, End::Revoked),
            (self.principal_revoked_at, End::Revoked),
        ];
        ends.into_iter().filter_map(|(at, end)| Some((at?, end))).min()
    }

    /// The state at a time, without the ancestors. A revoked delegation is revoked even if its uses were used up
    /// before.
    pub fn state(&self, now: OffsetDateTime) -> DelegationState {
        match self.first_end(now) {
            _ if self.revoked_at.is_some() => DelegationState::Revoked,
            Some((_, end)) => end.into(),
            None if self.waits() => DelegationState::Requested,
            None => DelegationState::Active,
        }
    }

    fn waits(&self) -> bool {
        self.activated_at.is_none()
            || self.key_rotating
            || self.suspended_at.is_some()
            || self.standing_grant_suspended_at.is_some()
    }

    /// Why the delegation may not be used. Of several reasons the gravest is returned, not the earliest. Equal to the SQL
    /// function `delegation_problem`.
    ///
    /// # Errors
    /// The reason, unless the delegation is active.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), Inactive> {
        if self.revoked_at.is_some() {
            Err(Inactive::Revoked)
        } else if self.principal_revoked_at.is_some() {
            Err(Inactive::PrincipalRevoked)
        } else if now >= self.expires_at {
            Err(Inactive::Expired)
        } else if self.exhausted_at.is_some() {
            Err(Inactive::Exhausted)
        } else if self.used_up() {
            Err(Inactive::UsedUp)
        } else if self.waits() {
            Err(Inactive::Requested)
        } else {
            Ok(())
        }
    }

    /// Why tokens of the delegation are not valid. If its last use was an exchange, they stay valid.
    ///
    /// # Errors
    /// As [`DelegationRecord::check`], without [`Inactive::UsedUp`].
    pub fn check_tokens(&self, now: OffsetDateTime) -> Result<(), Inactive> {
        match self.check(now) {
            Err(Inactive::UsedUp) if self.waits() => Err(Inactive::Requested),
            Err(Inactive::UsedUp) => Ok(()),
            checked => checked,
        }
    }

    /// Uses left; `None` where uses are not limited.
    pub fn uses_left(&self) -> Option<i64> {
        self.max_uses.map(|most| most.saturating_sub(self.uses).max(0))
    }

    pub fn used_up(&self) -> bool {
        self.exhausted_at.is_some() || self.max_uses.is_some_and(|most| self.uses >= most)
    }
}

/// Self-description of an agent: shown to people, never used in decisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentDescription {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Delegation {
    pub id: String,
    /// Ids of the ancestors, root first, and of the delegation itself at the end.
    pub path: Vec<String>,
    pub parent: Option<String>,
    /// The subject of the root delegation.
    pub root: Principal,
    /// The principal that granted the delegation, or that has to approve it.
    pub delegator: Principal,
    /// The client that may use the delegation.
    pub delegate: String,
    pub terms: DelegationLimits,
    pub origin: Provenance,
    pub requested_at: OffsetDateTime,
    /// The agent that requested the delegation, if it was requested.
    pub requested_by: Option<Principal>,
    pub facts: DelegationRecord,
    /// Lifetime in seconds from the approval on; present until the approval.
    pub requested_ttl: Option<u32>,
    pub reason: Option<String>,
    pub agent: Option<AgentDescription>,
    pub revoke_reason: Option<String>,
    /// The new key of the agent, a JWK, until the delegator confirms or denies the key.
    pub pending_jwk: Option<Value>,
    /// The standing grant under which the delegation became active without a decision.
    pub standing_grant_id: Option<String>,
}

/// The limits of a delegation as the audit log records them. `null` does not restrict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RecordedTerms {
    pub delegator: Principal,
    /// The client that may use the delegation.
    pub delegate: String,
    pub origin: Provenance,
    pub scopes: Option<Vec<String>>,
    pub audiences: Option<Vec<String>>,
    #[schemars(with = "Option<Vec<serde_json::Map<String, Value>>>")]
    pub authorization_details: Option<Details>,
    pub capability_ceiling: Ceiling,
    pub ceremony_required_for: BTreeSet<String>,
    pub max_uses: Option<i64>,
    pub max_depth: Option<u32>,
    /// Whether the client may get refresh tokens. Absent means false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offline_access: bool,
    pub expires_at: String,
}

impl Delegation {
    /// Thumbprint of the key that waits for the delegator; `None` where no usable key waits.
    pub fn pending_jkt(&self) -> Option<String> {
        let members = self.pending_jwk.as_ref()?.as_object()?;
        PublicKey::from_jwk(members).ok().map(|key| key.thumbprint().to_owned())
    }

    /// The limits as the audit log records them, so that they can be proven later.
    pub fn recorded_terms(&self) -> Box<RecordedTerms> {
        Box::new(RecordedTerms {
            delegator: self.delegator.clone(),
            delegate: self.delegate.clone(),
            origin: self.origin,
            scopes: self.terms.scopes.to_stored(),
            audiences: self.terms.audiences.to_stored(),
            authorization_details: self.terms.details.clone(),
            capability_ceiling: self.terms.ceiling.clone(),
            ceremony_required_for: self.terms.ceremonies.clone(),
            max_uses: self.facts.max_uses,
            max_depth: self.terms.max_depth,
            offline_access: self.terms.offline_access,
            expires_at: rfc3339(self.facts.expires_at),
        })
    }

    /// Checks that this delegation may be a child of `above`: within its limits and its expiry.
    pub fn check_within_parent(
        &self,
        above: &Self,
        capability_levels: &CapabilityLevels,
    ) -> Result<(), LimitDimension> {
        self.terms.within(&above.terms, capability_levels)?;
        if above.facts.max_uses.zip(self.facts.max_uses).is_some_and(|(most, wanted)| wanted > most) {
            return Err(LimitDimension::Uses);
        }
        if self.facts.expires_at > above.facts.expires_at { Err(LimitDimension::Expiry) } else { Ok(()) }
    }

    /// Whether path, sides and limits are the same as those of another delegation; times and state do not count.
    pub fn same_terms(&self, other: &Self) -> bool {
        self.path == other.path
            && self.delegator == other.delegator
            && self.delegate == other.delegate
            && self.terms == other.terms
            && self.facts.max_uses == other.facts.max_uses
    }
}

/// A delegation with its ancestors, root first.
#[derive(Debug, Clone, PartialEq)]
pub struct DelegationPath(pub Vec<Delegation>);

pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        && name::is_addressable(text)
}

#[cfg(test)]
mod tests;
