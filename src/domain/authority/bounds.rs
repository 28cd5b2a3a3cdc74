//! The intersection of rights, before a request is considered.

use time::OffsetDateTime;

use crate::domain::capability::{CapabilityLevels, Ceiling};
use crate::domain::client::Client;
use crate::domain::delegation::DelegationLimits;
use crate::domain::limit::Limit;
use actchain_protocol::authorization_details::Details;

/// The maximum that a client may get for itself or under a delegation, before the request is considered.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) scopes: Limit,
    pub(super) audiences: Limit,
    pub(super) details: Option<Details>,
    pub(super) capability: Ceiling,
    pub(super) expires_at: OffsetDateTime,
}

impl Bounds {
    /// The registered rights of a client.
    pub(super) fn of_client(client: &Client, expires_at: OffsetDateTime) -> Self {
        Self {
            scopes: Limit::Only(client.scopes.clone()),
            audiences: Limit::Only(client.audiences.clone()),
            details: None,
            capability: None,
            expires_at,
        }
    }

    pub(super) fn narrow(&mut self, terms: &DelegationLimits, capability_levels: &CapabilityLevels) {
        self.scopes = self.scopes.intersect(&terms.scopes);
        self.audiences = self.audiences.intersect(&terms.audiences);
        self.details = match (self.details.take(), &terms.details) {
            (None, limit) => limit.clone(),
            (limit, None) => limit,
            (Some(ours), Some(theirs)) => Some(ours.intersect(theirs)),
        };
        self.capability = capability_levels.intersect(&self.capability, &terms.ceiling);
    }
}
