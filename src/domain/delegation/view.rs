//! A delegation as all entry points show it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{AgentDescription, DelegationPath, DelegationState, Provenance};
use crate::domain::client::{Client, Ephemeral};
use crate::domain::principal::Principal;
use crate::domain::standing_grant::coverage::GrantLimit;
use crate::platform::clock::rfc3339;
use actchain_protocol::authorization_details::Details;

/// The shown members. A limit that is `null` does not restrict.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct View {
    pub id: String,
    pub state: DelegationState,
    pub delegator: Principal,
    pub delegate: String,
    pub parent: Option<String>,
    pub path: Vec<String>,
    pub root: Principal,
    pub origin: Provenance,
    pub scopes: Option<Vec<String>>,
    pub audiences: Option<Vec<String>>,
    pub authorization_details: Option<Details>,
    pub capability_ceiling: Option<String>,
    pub ceremony_required_for: Vec<String>,
    pub max_uses: Option<i64>,
    pub uses: i64,
    pub uses_left: Option<i64>,
    pub max_depth: Option<u32>,
    /// Whether the delegate may get refresh tokens.
    #[serde(default)]
    pub offline_access: bool,
    pub reason: Option<String>,
    pub agent: Option<AgentDescription>,
    pub ephemeral: Option<EphemeralView>,
    pub requested_by: Option<Principal>,
    pub requested_at: String,
    pub activated_at: Option<String>,
    /// Since when the delegation waits for a review by its delegator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_at: Option<String>,
    /// The standing grant under which the delegation became active without a decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing_grant_id: Option<String>,
    /// Since when that grant waits for its grantor to confirm the keys of the agent; the delegation waits, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing_grant_suspended_at: Option<String>,
    /// Only in the response to a request that a standing grant did not cover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing_grant_exceeded: Option<ExceededGrant>,
    pub expires_at: String,
    /// Lifetime in seconds from the approval on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u32>,
    pub revoked_at: Option<String>,
    pub revoke_reason: Option<String>,
    pub ended_by: Option<String>,
    /// Only in the response to a request that set the expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortened: Option<bool>,
}

/// Whether a granted lifetime is the requested one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantedTtl {
    /// The requested lifetime, or none was requested.
    AsAsked,
    /// Shorter than requested: the longest that was possible.
    Shortened,
}

/// The standing grant that came nearest to a request, and the first limit that the request exceeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceededGrant {
    pub standing_grant_id: String,
    pub limit: GrantLimit,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EphemeralView {
    pub client_id: String,
    pub task_id: String,
    pub jkt: Option<String>,
    /// Thumbprint of the new key that waits for the delegator.
    pub pending_jkt: Option<String>,
}

impl View {
    /// Sets `shortened` where the lifetime is shorter than requested.
    pub fn with_lifetime(self, lifetime: GrantedTtl) -> Self {
        Self { shortened: (lifetime == GrantedTtl::Shortened).then_some(true), ..self }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn state(&self) -> DelegationState {
        self.state
    }

    pub fn delegator(&self) -> &Principal {
        &self.delegator
    }

    pub fn delegate(&self) -> &str {
        &self.delegate
    }

    /// The view of the last delegation of a path; `None` for an empty path. `delegate` is its client, if the caller
    /// has read it.
    pub fn of(path: &DelegationPath, delegate: Option<&Client>, now: OffsetDateTime) -> Option<Self> {
        let one = path.leaf()?;
        let (state, ended_by) = path.state(now);
        let made_for = |agent: &&Ephemeral| agent.delegation_id == one.id;
        let ephemeral = delegate.and_then(|client| {
            let agent = client.ephemeral.as_ref().filter(made_for)?;
            Some(EphemeralView {
                client_id: client.client_id.clone(),
                task_id: agent.task_id.clone(),
                jkt: client.dpop_keys.first().cloned(),
                pending_jkt: one.pending_jkt(),
            })
        });
        Some(Self {
            id: one.id.clone(),
            state,
            delegator: one.delegator.clone(),
            delegate: one.delegate.clone(),
            parent: one.parent.clone(),
            path: one.path.clone(),
            root: one.root.clone(),
            origin: one.origin,
            scopes: one.terms.scopes.to_stored(),
            audiences: one.terms.audiences.to_stored(),
            authorization_details: one.terms.details.clone(),
            capability_ceiling: one.terms.ceiling.clone(),
            ceremony_required_for: one.terms.ceremonies.iter().cloned().collect(),
            max_uses: one.facts.max_uses,
            uses: one.facts.uses,
            // The ancestor with the fewest uses left decides.
            uses_left: path.0.iter().filter_map(|one| one.facts.uses_left()).min(),
            max_depth: one.terms.max_depth,
            offline_access: one.terms.offline_access,
            reason: one.reason.clone(),
            agent: one.agent.clone(),
            ephemeral,
            requested_by: one.requested_by.clone(),
            requested_at: rfc3339(one.requested_at),
            activated_at: one.facts.activated_at.map(rfc3339),
            suspended_at: one.facts.suspended_at.map(rfc3339),
            standing_grant_id: one.standing_grant_id.clone(),
            standing_grant_suspended_at: one.facts.standing_grant_suspended_at.map(rfc3339),
            standing_grant_exceeded: None,
            expires_at: rfc3339(one.facts.expires_at),
            expires_in: one.requested_ttl.filter(|_| one.facts.activated_at.is_none()),
            revoked_at: one.facts.revoked_at.map(rfc3339),
            revoke_reason: one.revoke_reason.clone(),
            ended_by: ended_by.map(str::to_owned),
            shortened: None,
        })
    }
}
