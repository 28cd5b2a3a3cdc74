//! A standing grant as all entry points show it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{GrantCreator, KeySuspicion, StandingGrant, StandingGrantState};
use crate::domain::principal::Principal;
use crate::platform::clock::rfc3339;
use actchain_protocol::authorization_details::Details;

/// The shown members. A limit that is `null` does not restrict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StandingGrantView {
    pub id: String,
    pub state: StandingGrantState,
    pub grantor: Principal,
    pub client_id: String,
    pub keys: Vec<String>,
    pub scopes: Vec<String>,
    pub audiences: Vec<String>,
    pub authorization_details: Option<Details>,
    pub capability_ceiling: Option<String>,
    pub max_ttl: u32,
    pub max_uses: Option<i64>,
    pub max_depth: Option<u32>,
    pub offline_access: bool,
    pub created_at: String,
    pub created_by: GrantCreator,
    pub expires_at: String,
    pub revoked_at: Option<String>,
    pub suspension: Option<SuspensionView>,
    /// When a request last became active under the grant.
    pub last_used_at: Option<String>,
    /// Only in the response to a request that set the expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortened: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspensionView {
    pub at: String,
    pub cause: KeySuspicion,
    /// Thumbprint of the key that was not pinned, or that was removed.
    pub seen_key: Option<String>,
}

impl StandingGrantView {
    pub fn of(one: &StandingGrant, last_used_at: Option<OffsetDateTime>, now: OffsetDateTime) -> Self {
        let revoked_at = one.facts.revoked_at.or(one.facts.principal_revoked_at);
        let state = one.state(now);
        let suspension = one.facts.suspension.as_ref().filter(|_| state == StandingGrantState::Suspended);
        Self {
            id: one.id.clone(),
            state,
            grantor: one.grantor.clone(),
            client_id: one.client_id.clone(),
            keys: one.keys.iter().cloned().collect(),
            scopes: one.limits.scopes.iter().cloned().collect(),
            audiences: one.limits.audiences.iter().cloned().collect(),
            authorization_details: one.limits.details.clone(),
            capability_ceiling: one.limits.ceiling.clone(),
            max_ttl: one.limits.max_ttl,
            max_uses: one.limits.max_uses,
            max_depth: one.limits.max_depth,
            offline_access: one.limits.offline_access,
            created_at: rfc3339(one.created_at),
            created_by: one.created_by,
            expires_at: rfc3339(one.facts.expires_at),
            revoked_at: revoked_at.filter(|_| state == StandingGrantState::Revoked).map(rfc3339),
            suspension: suspension.map(|one| SuspensionView {
                at: rfc3339(one.at),
                cause: one.cause,
                seen_key: one.seen_key.clone(),
            }),
            last_used_at: last_used_at.map(rfc3339),
            shortened: None,
        }
    }
}
