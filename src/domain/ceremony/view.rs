//! A confirmation as all entry points show it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Ceremony, CeremonyState};
use crate::platform::clock::rfc3339;
use actchain_protocol::authorization_details::Details;

/// A confirmation as shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CeremonyView {
    pub id: Uuid,
    pub state: CeremonyState,
    pub delegation_id: String,
    pub client_id: String,
    pub scopes: BTreeSet<String>,
    pub audiences: BTreeSet<String>,
    pub authorization_details: Option<Details>,
    pub capability: Option<String>,
    pub requested_at: String,
    pub expires_at: String,
    pub decided_at: Option<String>,
    pub used_at: Option<String>,
}

impl CeremonyView {
    pub fn of(one: &Ceremony, now: OffsetDateTime) -> Self {
        Self {
            id: one.id,
            state: one.stage(now),
            delegation_id: one.delegation_id.clone(),
            client_id: one.client_id.clone(),
            scopes: one.scopes.clone(),
            audiences: one.audiences.clone(),
            authorization_details: one.details.clone(),
            capability: one.capability.clone(),
            requested_at: rfc3339(one.requested_at),
            expires_at: rfc3339(one.expires_at),
            decided_at: one.approved_at.or(one.denied_at).map(rfc3339),
            used_at: one.used_at.map(rfc3339),
        }
    }
}
