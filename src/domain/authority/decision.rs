//! What a decision is made of, and what it says.

use std::collections::BTreeSet;

use time::{Duration, OffsetDateTime};

use crate::domain::capability::{CapabilityLevels, Ceiling};
use crate::domain::client::Client;
use crate::domain::delegation::{Delegation, DelegationPath};
use crate::domain::registry::Registry;
use crate::domain::subject::VerifiedSubject;
use actchain_protocol::access_token::Act;
use actchain_protocol::authorization_details::Details;
use actchain_protocol::token_exchange::RequestedAccess;

/// What a decision considers. Nothing else takes part.
#[derive(Debug, Clone, Copy)]
pub struct DecisionInput<'a> {
    pub now: OffsetDateTime,
    pub issuer: &'a str,
    pub client: &'a Client,
    /// Thumbprint of the key of the DPoP proof, if there is a proof.
    pub jkt: Option<&'a str>,
    pub subject: &'a VerifiedSubject,
    /// Expiry of the actor token, if there is one.
    pub actor_expires_at: Option<OffsetDateTime>,
    /// The delegations that may apply, narrowest first.
    pub paths: &'a [DelegationPath],
    /// The only delegation that may give the authority, if the request names one.
    pub named: Option<&'a str>,
    pub registry: &'a Registry,
    pub wanted: &'a RequestedAccess,
    /// The configured capabilities in their order.
    pub capability_levels: &'a CapabilityLevels,
    /// Maximum lifetime of any token.
    pub max_ttl: Duration,
    /// Maximum lifetime of any delegation (`delegations.max_ttl`).
    pub max_delegation_ttl: Duration,
    /// Maximum number of actors in any token.
    pub max_depth: u32,
}

impl<'a> DecisionInput<'a> {
    pub(super) fn path(&self, id: &str) -> Option<&'a DelegationPath> {
        self.paths.iter().find(|path| path.leaf().is_some_and(|leaf| leaf.id == id))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeDecision {
    /// The delegation of the token with its ancestors, root first; empty where the client acts for itself.
    pub path: Vec<String>,
    /// A delegation that is recorded together with the token, because a `may_act` claim gave the authority.
    pub create: Option<Delegation>,
    /// The `act` claim of the new token.
    pub act: Option<Act>,
    pub scopes: BTreeSet<String>,
    pub audiences: BTreeSet<String>,
    pub details: Option<Details>,
    pub capability: Ceiling,
    /// Delegations whose delegators have to confirm this use, root first.
    pub ceremonies: Vec<String>,
    pub expires_at: OffsetDateTime,
    /// Whether every delegation of the path grants offline access.
    pub offline_access: bool,
    /// The standing grant under which the path is active.
    pub standing_grant_id: Option<String>,
}
