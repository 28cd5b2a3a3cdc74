//! Grants a request within bounds: an exceeding request is refused, an absent parameter means all that is possible,
//! and nothing is narrowed silently.

use std::collections::BTreeSet;

use time::{Duration, OffsetDateTime};

use super::bounds::Bounds;
use super::decision::{DecisionInput, ExchangeDecision};
use crate::domain::capability::{CapabilityLevels, Ceiling};
use crate::domain::client::{Client, ClientKind};
use crate::domain::delegation::{DelegationLimits, DelegationPath};
use crate::domain::limit::Limit;
use crate::domain::refusal::Refusal;
use crate::domain::registry::{ADMIN_SCOPE, AUDIT_SCOPE, Registry};
use crate::domain::resource::Resource;
use actchain_protocol::access_token::Act;
use actchain_protocol::authorization_details::Details;
use actchain_protocol::token_exchange::RequestedAccess;
use actchain_protocol::token_problem::TokenProblem;

pub(super) struct RequestedLimits<'a> {
    pub(super) wanted: &'a RequestedAccess,
    pub(super) registry: &'a Registry,
    pub(super) capability_levels: &'a CapabilityLevels,
    pub(super) client: &'a Client,
    /// Thumbprint of the DPoP key that the token will be bound to.
    pub(super) jkt: Option<&'a str>,
    pub(super) now: OffsetDateTime,
}

/// Grants the request within the bounds.
pub(super) fn grant(
    bounds: &Bounds,
    asked: &RequestedLimits<'_>,
    path: Option<&DelegationPath>,
    act: Option<Act>,
) -> Result<ExchangeDecision, Refusal> {
    let targets = targets(bounds, asked)?;
    if targets.len() > 1 && asked.jkt.is_none() {
        // A relying party could use a bearer token at another target (RFC 8707 §3).
        return Err(Refusal::DpopRequiredForMultipleAudiences);
    }
    let details = details(bounds, asked, &targets)?;
    let scopes = scopes(bounds, asked, &targets)?;
    if scopes.is_empty() && details.as_ref().is_none_or(|details| details.0.is_empty()) {
        return Err(if targets.len() > 1 { Refusal::ResourceAmbiguous } else { Refusal::ScopeEmpty });
    }
    let capability = capability(bounds, asked)?;
    let reserved = path.into_iter().flat_map(|path| &path.0);
    let ceremonies = reserved
        .filter(|one| one.terms.needs_ceremony(&scopes, &capability, asked.capability_levels))
        .map(|one| one.id.clone())
        .collect();
    let life = |seconds: Option<u32>| seconds.map(|seconds| asked.now + Duration::seconds(seconds.into()));
    let ends = targets.iter().map(|target| target.token_ttl).chain([asked.client.max_token_ttl]);
    let expires_at = ends.filter_map(life).fold(bounds.expires_at, OffsetDateTime::min);
    // Tokens expire on whole seconds: a token that would expire at once is not issued.
    if expires_at.unix_timestamp() <= asked.now.unix_timestamp() {
        return Err(Refusal::SubjectTokenInvalid(TokenProblem::Expired));
    }
    Ok(ExchangeDecision {
        path: path.map(DelegationPath::ids).unwrap_or_default(),
        create: None,
        act,
        scopes,
        audiences: targets.iter().map(|target| target.id.clone()).collect(),
        details,
        capability,
        ceremonies,
        expires_at,
        offline_access: path
            .is_some_and(|path| !path.0.is_empty() && path.0.iter().all(|one| one.terms.offline_access)),
        standing_grant_id: path.and_then(DelegationPath::standing_grant_id),
    })
}

/// Intersects all inputs of an exchange and grants the request within the result.
pub(super) fn grant_exchange(
    input: &DecisionInput<'_>,
    path: Option<&DelegationPath>,
    act: Option<Act>,
) -> Result<ExchangeDecision, Refusal> {
    let subject = input.subject;
    let mut bounds = Bounds::of_client(input.client, input.now + input.max_ttl);
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
    let asked = RequestedLimits {
        wanted: input.wanted,
        registry: input.registry,
        capability_levels: input.capability_levels,
        client: input.client,
        jkt: input.jkt,
        now: input.now,
    };
    grant(&bounds, &asked, path, act)
}

/// Depth is the number of actors; the server and every delegation on the path may limit it.
pub(super) fn check_depth(
    input: &DecisionInput<'_>,
    depth: u32,
    path: Option<&DelegationPath>,
) -> Result<(), Refusal> {
    let bounds = path.into_iter().flat_map(|path| &path.0).filter_map(|one| one.terms.max_depth);
    let most = bounds.min().unwrap_or(u32::MAX).min(input.max_depth);
    if depth > most { Err(Refusal::DepthExceeded) } else { Ok(()) }
}

/// The targets: the requested ones, if all are known and allowed; otherwise all allowed ones where all requested
/// scopes are defined.
fn targets<'a>(bounds: &Bounds, asked: &RequestedLimits<'a>) -> Result<Vec<&'a Resource>, Refusal> {
    let known = &asked.registry.resources;
    if let Some(names) = &asked.wanted.audiences {
        return names
            .iter()
            .map(|name| {
                known.get(name).filter(|_| bounds.audiences.allows(name)).ok_or(Refusal::ResourceRefused)
            })
            .collect();
    }
    let allowed: Vec<&Resource> =
        known.values().filter(|target| bounds.audiences.allows(&target.id)).collect();
    let targets: Vec<&Resource> = match &asked.wanted.scopes {
        None => allowed,
        Some(scopes) => {
            if !scopes.iter().all(|scope| bounds.scopes.allows(scope)) {
                return Err(Refusal::ScopeExceedsGrant);
            }
            allowed.into_iter().filter(|target| scopes.is_subset(&target.scopes)).collect()
        }
    };
    match (targets.is_empty(), &asked.wanted.scopes) {
        (false, _) => Ok(targets),
        (true, Some(_)) => Err(Refusal::ScopeNotAtResource),
        (true, None) => Err(Refusal::ResourceRefused),
    }
}

/// The scopes: every target has to define each of them (RFC 8693 §2.1.1: rights are the product of scopes and
/// targets).
fn scopes(
    bounds: &Bounds,
    asked: &RequestedLimits<'_>,
    targets: &[&Resource],
) -> Result<BTreeSet<String>, Refusal> {
    let everywhere = |scope: &String| targets.iter().all(|target| target.scopes.contains(scope));
    // Regardless of the registration, only an admin client gets the admin scope and only an auditor the audit scope.
    let fitting = |scope: &String| match scope.as_str() {
        ADMIN_SCOPE => asked.client.kind == ClientKind::Admin,
        AUDIT_SCOPE => asked.client.kind == ClientKind::Auditor,
        _ => true,
    };
    match &asked.wanted.scopes {
        Some(wanted) if !wanted.iter().all(|scope| bounds.scopes.allows(scope) && fitting(scope)) => {
            Err(Refusal::ScopeExceedsGrant)
        }
        Some(wanted) if !wanted.iter().all(everywhere) => Err(Refusal::ScopeNotAtResource),
        Some(wanted) => Ok(wanted.clone()),
        None => {
            let Limit::Only(all) = &bounds.scopes else { return Ok(BTreeSet::new()) };
            Ok(all.iter().filter(|scope| everywhere(scope) && fitting(scope)).cloned().collect())
        }
    }
}

/// The requested capability, if the bounds allow it; without a request, the highest allowed one.
fn capability(bounds: &Bounds, asked: &RequestedLimits<'_>) -> Result<Ceiling, Refusal> {
    let Some(wanted) = &asked.wanted.capability else { return Ok(bounds.capability.clone()) };
    if !asked.capability_levels.knows(wanted) {
        return Err(Refusal::CapabilityUnknown);
    }
    let wanted = Some(wanted.clone());
    if asked.capability_levels.covers(&bounds.capability, &wanted) {
        Ok(wanted)
    } else {
        Err(Refusal::CapabilityTooHigh)
    }
}

/// The details: of types that the client may have and a target knows, within the bounds.
fn details(
    bounds: &Bounds,
    asked: &RequestedLimits<'_>,
    targets: &[&Resource],
) -> Result<Option<Details>, Refusal> {
    let at_target = |kind: &str| targets.iter().any(|target| target.detail_types.contains(kind));
    let for_client = |kind: &str| asked.client.detail_types.contains(kind);
    if let Some(wanted) = &asked.wanted.details {
        let known = |kind: &str| asked.registry.resources.values().any(|one| one.detail_types.contains(kind));
        if !wanted.types().all(known) {
            return Err(Refusal::AuthorizationDetailsMalformed);
        }
        let fits = wanted.types().all(|kind| at_target(kind) && for_client(kind));
        let granted = bounds.details.as_ref().is_none_or(|granted| wanted.within(granted));
        return if fits && granted {
            Ok(Some(wanted.clone()))
        } else {
            Err(Refusal::AuthorizationDetailsExceedGrant)
        };
    }
    let Some(granted) = &bounds.details else { return Ok(None) };
    if granted.too_many() {
        return Err(Refusal::AuthorizationDetailsTooMany);
    }
    let fitting = |kind: &str| at_target(kind) && for_client(kind);
    let left: Vec<_> = granted.0.iter().filter(|detail| fitting(&detail.kind)).cloned().collect();
    Ok((!left.is_empty()).then_some(Details(left)))
}
