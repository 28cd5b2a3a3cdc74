//! Decides exchanges; pure. A decision never exceeds any of its inputs.

mod bounds;
mod decision;
mod grant;
mod may_act;
mod own_token;
#[cfg(test)]
mod tests;
mod tried;

use std::collections::BTreeSet;

use time::{Duration, OffsetDateTime};

use self::bounds::Bounds;
pub use self::decision::{DecisionInput, ExchangeDecision};
use self::grant::{RequestedLimits, grant};
pub use self::may_act::may_act_id;
pub use self::tried::{Tried, gives_authority};
use super::capability::CapabilityLevels;
use super::client::{Client, ClientKind, DpopPolicy, TokenBinding};
use super::limit::Limit;
use super::principal::Principal;
use super::refusal::Refusal;
use super::registry::{ADMIN_SCOPE, AUDIT_SCOPE, DELEGATE_SCOPE, Registry};
use actchain_protocol::authorization_details::Details;
use actchain_protocol::token_exchange::RequestedAccess;

/// Decides an exchange; `paths` has all delegations that may apply.
///
/// # Errors
/// The refusal of the first rule that is not met.
pub fn decide(input: &DecisionInput<'_>) -> Result<ExchangeDecision, Refusal> {
    let mut tried = Tried::default();
    match tried.page(input)? {
        Some(decision) => Ok(decision),
        None => tried.conclude(input),
    }
}

/// The inputs of a client credentials grant.
#[derive(Debug, Clone, Copy)]
pub struct ClientDecisionInput<'a> {
    pub now: OffsetDateTime,
    pub issuer: &'a str,
    pub client: &'a Client,
    /// Thumbprint of the key of the DPoP proof, if there is a proof.
    pub jkt: Option<&'a str>,
    pub registry: &'a Registry,
    pub wanted: &'a RequestedAccess,
    pub capability_levels: &'a CapabilityLevels,
    /// Maximum lifetime of any token.
    pub max_ttl: Duration,
}

/// Decides a client credentials grant (RFC 6749 §4.4): the registered rights of the client. With this server as the
/// target, an agent also gets the right to request delegations; an ephemeral agent has no other right of its own.
pub fn decide_client_credentials(input: &ClientDecisionInput<'_>) -> Result<ExchangeDecision, Refusal> {
    let ClientDecisionInput { now, issuer, client, jkt, registry, wanted, capability_levels, max_ttl } =
        *input;
    let mut bounds = Bounds::of_client(client, now + max_ttl);
    if client.ephemeral.is_some() {
        (bounds.scopes, bounds.audiences) = (Limit::Only(BTreeSet::new()), Limit::Only(BTreeSet::new()));
        bounds.details = Some(Details::default());
    }
    let at_us = wanted.audiences.as_ref().is_some_and(|names| names.iter().eq([issuer]));
    if at_us {
        let mut scopes = match bounds.scopes {
            Limit::Only(scopes) => scopes,
            Limit::Any => BTreeSet::new(),
        };
        scopes.retain(|scope| scope == ADMIN_SCOPE);
        match client.kind {
            ClientKind::Agent => drop(scopes.insert(DELEGATE_SCOPE.to_owned())),
            ClientKind::Auditor => drop(scopes.insert(AUDIT_SCOPE.to_owned())),
            ClientKind::Admin | ClientKind::Service | ClientKind::ResourceServer => {}
        }
        if matches!(client.kind, ClientKind::Agent | ClientKind::Admin | ClientKind::Auditor) {
            bounds.audiences = Limit::only([issuer]);
        }
        bounds.scopes = Limit::Only(scopes);
    }
    let asked = RequestedLimits { wanted, registry, capability_levels, client, jkt, now };
    grant(&bounds, &asked, None, None)
}

pub fn needs_proof(client: &Client) -> bool {
    let exempt = client.dpop == DpopPolicy::Optional || client.token_type == TokenBinding::Bearer;
    !exempt || client.auth == super::client::AuthMethod::None
}

/// The principal of a client of this server.
pub fn principal_of(client: &Client, issuer: &str) -> Principal {
    Principal::new(issuer, client.client_id.clone())
}
