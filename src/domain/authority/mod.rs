//! Decides exchanges; pure. A decision never exceeds any of its inputs.

mod grant;
#[cfg(test)]
mod tests;
mod tried;

use std::collections::BTreeSet;

use time::{Duration, OffsetDateTime};

pub use self::tried::Tried;
use super::capability::{CapabilityLevels, Ceiling};
use super::client::{Client, DpopPolicy, Kind};
use super::delegation::{Delegation, DelegationLimits, DelegationPath, DelegationRecord, Provenance};
use super::limit::Limit;
use super::principal::Principal;
use super::refusal::Refusal;
use super::registry::{ADMIN_SCOPE, AUDIT_SCOPE, DELEGATE_SCOPE, Registry};
use super::subject::{TokenSource, VerifiedSubject};
use actchain_protocol::access_token::{Act, Confirmation};
use actchain_protocol::authorization_details::Details;
use actchain_protocol::base64url;
use actchain_protocol::digest::sha256;
use actchain_protocol::token_exchange::RequestedAccess;

/// All inputs of a decision.
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
}

/// The maximum that a client may get for itself or under a delegation, before the request is considered.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    scopes: Limit,
    audiences: Limit,
    details: Option<Details>,
    capability: Ceiling,
    expires_at: OffsetDateTime,
}

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

/// Decides a client credentials grant (RFC 6749 §4.4): the registered rights of the client. With this server as the
/// target, an agent also gets the right to request delegations; an ephemeral agent has no other right of its own.
pub fn decide_client_credentials(
    client: &Client,
    (registry, capability_levels): (&Registry, &CapabilityLevels),
    (wanted, issuer): (&RequestedAccess, &str),
    bound: bool,
    (now, max_ttl): (OffsetDateTime, Duration),
) -> Result<ExchangeDecision, Refusal> {
    let mut bounds = of_client(client, now + max_ttl);
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
            Kind::Agent => drop(scopes.insert(DELEGATE_SCOPE.to_owned())),
            Kind::Auditor => drop(scopes.insert(AUDIT_SCOPE.to_owned())),
            Kind::Admin | Kind::Service | Kind::ResourceServer => {}
        }
        if matches!(client.kind, Kind::Agent | Kind::Admin | Kind::Auditor) {
            bounds.audiences = Limit::only([issuer]);
        }
        bounds.scopes = Limit::Only(scopes);
    }
    let asked = grant::RequestedLimits { wanted, registry, capability_levels, client, bound, now };
    grant::grant(&bounds, &asked, None, None)
}

/// Rule 1: the holder of the subject token narrows its scope or changes its audience. The actors stay the same.
fn own_token(input: &DecisionInput<'_>) -> Result<ExchangeDecision, Refusal> {
    match (&input.subject.jkt, input.jkt) {
        (Some(_), None) => return Err(Refusal::DpopProofMissing),
        (Some(bound), Some(jkt)) if bound != jkt => return Err(Refusal::SubjectKeyMismatch),
        _ => {}
    }
    let path = match input.subject.dlg() {
        None => None,
        Some(dlg) => Some(find(input.paths, dlg).ok_or(Refusal::DelegationRequired)?),
    };
    // The new token stays under the delegation of the subject token.
    if input.named.is_some_and(|named| input.subject.dlg() != Some(named)) {
        return Err(Refusal::DelegationRequired);
    }
    if let Some(path) = path {
        path.check(input.now)?;
    }
    let act = input.subject.act.clone();
    check_depth(input, act.as_ref().map_or(0, Act::depth), path)?;
    grant(input, path, act)
}

fn find<'a>(paths: &'a [DelegationPath], id: &str) -> Option<&'a DelegationPath> {
    paths.iter().find(|path| path.leaf().is_some_and(|leaf| leaf.id == id))
}

/// Whether a delegation leads from the holder of the subject token to the client, and is the named one if the request
/// names one.
pub fn gives_authority(input: &DecisionInput<'_>, path: &DelegationPath) -> bool {
    let Some(leaf) = path.leaf() else { return false };
    if input.named.is_some_and(|named| named != leaf.id) {
        return false;
    }
    if leaf.delegate != input.client.client_id || leaf.root != input.subject.subject {
        return false;
    }
    match input.subject.dlg() {
        Some(dlg) => leaf.parent.as_deref() == Some(dlg),
        None => leaf.parent.is_none() && leaf.delegator == input.subject.subject && at_hand(input, leaf),
    }
}

/// A delegation of a `may_act` claim belongs to the token that carried the claim, and to no other.
fn at_hand(input: &DecisionInput<'_>, leaf: &Delegation) -> bool {
    leaf.origin != Provenance::MayAct
        || may_act_id(input.subject, &input.client.client_id).as_ref() == Some(&leaf.id)
}

fn acts_already(input: &DecisionInput<'_>) -> bool {
    let client = &input.client.client_id;
    let acts = input.subject.act.iter().flat_map(Act::newest_first);
    let root = &input.subject.subject;
    acts.into_iter().any(|act| act.iss == input.issuer && act.sub == *client)
        || (root.iss == input.issuer && root.sub == *client)
}

fn add_actor(input: &DecisionInput<'_>) -> Act {
    Act {
        sub: input.client.client_id.clone(),
        iss: input.issuer.to_owned(),
        cnf: input.jkt.map(|jkt| Confirmation { jkt: jkt.to_owned() }),
        act: input.subject.act.clone().map(Box::new),
    }
}

/// Depth is the number of actors; the server and every delegation on the path may limit it.
fn check_depth(input: &DecisionInput<'_>, depth: u32, path: Option<&DelegationPath>) -> Result<(), Refusal> {
    let bounds = path.into_iter().flat_map(|path| &path.0).filter_map(|one| one.terms.max_depth);
    let most = bounds.min().unwrap_or(u32::MAX).min(input.max_depth);
    if depth > most { Err(Refusal::DepthExceeded) } else { Ok(()) }
}

/// The id of the delegation of a `may_act` claim, if the issuer is configured to authorize by the claim. The same
/// token and client give the same id: the delegation is recorded once, and its revocation stays in force.
pub fn may_act_id(subject: &VerifiedSubject, client_id: &str) -> Option<String> {
    match &subject.source {
        TokenSource::TrustedIssuer { may_act: Some(claim), fingerprint, .. } if claim.authorizes => {
            let digest = sha256(&[b"may_act", fingerprint, client_id.as_bytes()]);
            Some(format!("may-{}", base64url::encode(digest.get(..18).unwrap_or_default())))
        }
        _ => None,
    }
}

/// `None` where no claim names the client, or its delegation is recorded and was tried already.
fn by_may_act(input: &DecisionInput<'_>, act: &Act) -> Option<Result<ExchangeDecision, Refusal>> {
    let subject = input.subject;
    let client_id = &input.client.client_id;
    let id = may_act_id(subject, client_id)?;
    // A request that names a delegation uses only this delegation.
    if input.named.is_some() || find(input.paths, &id).is_some() {
        return None;
    }
    let valid_for = (subject.validity.expires_at - input.now).whole_seconds().saturating_add(1);
    let delegation = Delegation {
        path: vec![id.clone()],
        id,
        parent: None,
        root: subject.subject.clone(),
        delegator: subject.subject.clone(),
        delegate: client_id.clone(),
        terms: DelegationLimits {
            scopes: subject.scopes.clone(),
            details: subject.details.clone(),
            ..DelegationLimits::unrestricted()
        },
        origin: Provenance::MayAct,
        requested_at: input.now,
        requested_by: None,
        // The token can come back until it expires: the row is kept as long.
        requested_ttl: Some(u32::try_from(valid_for.clamp(0, i32::MAX.into())).unwrap_or_default()),
        reason: None,
        agent: None,
        facts: DelegationRecord {
            activated_at: Some(input.now),
            expires_at: subject.validity.expires_at.min(input.now + input.max_delegation_ttl),
            revoked_at: None,
            principal_revoked_at: None,
            key_rotating: false,
            max_uses: None,
            uses: 0,
            used_up_at: None,
        },
        revoke_reason: None,
        pending_jwk: None,
    };
    let path = DelegationPath(vec![delegation.clone()]);
    let decided = check_depth(input, act.depth(), Some(&path))
        .and_then(|()| grant(input, Some(&path), Some(act.clone())))
        .map(|decision| ExchangeDecision { create: Some(delegation), ..decision });
    Some(decided)
}

/// Intersects all inputs and grants the request within the result.
fn grant(
    input: &DecisionInput<'_>,
    path: Option<&DelegationPath>,
    act: Option<Act>,
) -> Result<ExchangeDecision, Refusal> {
    let subject = input.subject;
    let mut bounds = of_client(input.client, input.now + input.max_ttl);
    let of_subject = DelegationLimits {
        scopes: subject.scopes.clone(),
        audiences: subject.audiences.clone(),
        details: subject.details.clone(),
        ceiling: subject.capability.clone(),
        ..DelegationLimits::unrestricted()
    };
    bounds.narrow(&of_subject, input.capability_levels);
    bounds.expires_at = bounds.expires_at.min(subject.validity.expires_at);
    bounds.expires_at = input.actor_expires_at.map_or(bounds.expires_at, |end| bounds.expires_at.min(end));
    for one in path.into_iter().flat_map(|path| &path.0) {
        bounds.narrow(&one.terms, input.capability_levels);
        bounds.expires_at = bounds.expires_at.min(one.facts.expires_at);
    }
    let asked = grant::RequestedLimits {
        wanted: input.wanted,
        registry: input.registry,
        capability_levels: input.capability_levels,
        client: input.client,
        bound: input.jkt.is_some(),
        now: input.now,
    };
    grant::grant(&bounds, &asked, path, act)
}

fn of_client(client: &Client, server_end: OffsetDateTime) -> Bounds {
    Bounds {
        scopes: Limit::Only(client.scopes.clone()),
        audiences: Limit::Only(client.audiences.clone()),
        details: None,
        capability: None,
        expires_at: server_end,
    }
}

impl Bounds {
    fn narrow(&mut self, terms: &DelegationLimits, capability_levels: &CapabilityLevels) {
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

pub fn needs_proof(client: &Client) -> bool {
    client.dpop == DpopPolicy::Required || client.auth == super::client::AuthMethod::None
}

/// The principal of a client of this server.
pub fn principal_of(client: &Client, issuer: &str) -> Principal {
    Principal::new(issuer, client.client_id.clone())
}
