//! Creates a delegation: active if the delegator or delegate of the parent creates it, requested if an agent
//! requests it from a user.

use serde_json::json;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::approval::require_console;
use super::ephemeral::{create_agent, ephemeral_agent};
use super::request::{EphemeralRequest, NewDelegation, after};
use super::standing_grant::{self, Consent};
use super::{view, visible};
use crate::domain::audit::{Event, EventKind, Operation, PersonalText};
use crate::domain::client::{self, ClientKind};
use crate::domain::delegation::view::{GrantedTtl, View};
use crate::domain::delegation::{
    self, Delegation, DelegationPath, DelegationRecord, DelegationState, LimitDimension, Provenance,
};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::{self, Registry};
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;
use crate::services::caller::{AuthenticatedClient, Caller};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply, Target};
use actchain_protocol::random;
use actchain_protocol::trusted_issuer_jwt;

/// Creates a delegation.
///
/// # Errors
/// A refusal, which is recorded. A delegation never exceeds its ancestors.
pub async fn create(ctx: &RequestContext<'_>, request: &NewDelegation) -> Result<Reply<View>, Error> {
    let target = request.parent.as_deref().map_or(Target::Unnamed, Target::Delegation);
    let attempt = Attempt { operation: Operation::CreateDelegation, target };
    ctx.attempt(attempt, try_to_create(ctx, request)).await
}

/// Origin of a delegation: delegator, ancestors, and whether an approval is needed.
struct Source {
    delegator: Principal,
    ancestors: Vec<Delegation>,
    origin: Provenance,
}

async fn try_to_create(ctx: &RequestContext<'_>, request: &NewDelegation) -> Result<Reply<View>, Error> {
    request.check_texts()?;
    request.terms(ctx.capability_levels)?;
    let key = request.ephemeral.as_ref().map(EphemeralRequest::key).transpose()?;
    let check = async |connection: &mut PgConnection| {
        let registry = registry::store::load(ctx.rows, connection, ctx.issuer).await?;
        request.limits().check_declared(&registry, ctx.capability_levels)?;
        let source = source(ctx, connection, &registry, request).await?;
        let consent = match source.origin {
            Provenance::Requested => {
                standing_grant::consent(ctx, connection, request, &source.delegator).await?
            }
            _ => Consent::Unasked,
        };
        if source.origin == Provenance::Requested && !matches!(consent, Consent::Covered(_)) {
            check_waiting(ctx, connection, &source.delegator).await?;
        }
        Ok((registry, source, consent))
    };
    let change = async |connection: &mut PgConnection,
                        (registry, source, consent): (Registry, Source, Consent)| {
        let (mut one, mut ttl) = build(ctx, request, &source)?;
        if let Consent::Covered(grant) = &consent {
            (one, ttl) = standing_grant::active_under(ctx, grant, one, request.expires_in)?;
        }
        check_place(ctx, &source, &one)?;
        let path = DelegationPath([source.ancestors, vec![one.clone()]].concat());
        let mut events = Vec::new();
        match (&request.ephemeral, key) {
            (Some(ephemeral), Some(key)) => {
                let agent = ephemeral_agent(ctx, &registry, &one, ephemeral, &key);
                events.push(create_agent(ctx, connection, &path, agent).await?);
            }
            _ => check_delegate(ctx.rows, connection, &one.delegate).await?,
        }
        if !delegation::transitions::insert(ctx.rows, connection, &one).await? {
            return Err(Fault::new("a new id that is there already").into());
        }
        events.push(created(ctx, &path, &one));
        if one.facts.activated_at.is_some() {
            let terms = one.recorded_terms();
            let activated = EventKind::DelegationActivated { terms, new_key: false, jkt: None };
            events.push(ctx.event_about(activated, &path));
        }
        events.extend(consent.event(ctx, &path));
        let value = view(ctx, connection, &path).await?.with_lifetime(ttl);
        Ok(Effect::Made { value: consent.explain(value), events })
    };
    ctx.transition(ChangeLock::Shared, check, change).await
}

/// Determines the delegator. A user delegates its own authority; an agent delegates further or requests a delegation
/// from a user; an operator requests for others.
async fn source(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    registry: &Registry,
    request: &NewDelegation,
) -> Result<Source, Error> {
    let root = |delegator: &Principal, origin| Source {
        delegator: delegator.clone(),
        ancestors: Vec::new(),
        origin,
    };
    match (&ctx.caller, &request.delegator, &request.parent) {
        (_, Some(_), Some(_)) => Err(Refusal::Malformed("delegator and parent exclude each other").into()),
        (Caller::User(user), None, None) => {
            require_console(ctx)?;
            Ok(root(&user.who, Provenance::Granted))
        }
        (Caller::User(user), Some(delegator), None) if *delegator == user.who => {
            require_console(ctx)?;
            Ok(root(delegator, Provenance::Granted))
        }
        (Caller::User(_) | Caller::Admin(..) | Caller::Auditor(..), ..) => {
            Err(Refusal::InsufficientScope.into())
        }
        (Caller::Agent(AuthenticatedClient { client, .. }), None, Some(parent)) => {
            let path = visible(ctx, connection, parent).await?;
            if path.leaf().is_none_or(|leaf| leaf.delegate != client.client_id) {
                return Err(Refusal::NotFound.into());
            }
            let delegator = Principal::new(ctx.issuer, client.client_id.clone());
            Ok(Source { delegator, ancestors: path.0, origin: Provenance::Granted })
        }
        // An ephemeral agent cannot request another delegation, which could outlive its own.
        (Caller::Agent(AuthenticatedClient { client, .. }), Some(_), None) if client.ephemeral.is_some() => {
            Err(Refusal::InsufficientScope.into())
        }
        (Caller::Agent(AuthenticatedClient { client, .. }), Some(delegator), None) => {
            let for_itself = request.delegate.as_ref().is_none_or(|delegate| *delegate == client.client_id);
            if !for_itself {
                return Err(Refusal::InsufficientScope.into());
            }
            check_delegator(registry, delegator)?;
            Ok(root(delegator, Provenance::Requested))
        }
        (Caller::Operator, Some(delegator), None) => {
            check_delegator(registry, delegator)?;
            Ok(root(delegator, Provenance::Requested))
        }
        (Caller::Agent(..), None, None) => {
            Err(Refusal::Malformed("An agent names a parent of its own, or the delegator of its request")
                .into())
        }
        (Caller::Operator, ..) => Err(Refusal::Malformed("delegator is missing").into()),
    }
}

/// Checks that a user can receive a request: the issuer is trusted.
fn check_delegator(registry: &Registry, delegator: &Principal) -> Result<(), Refusal> {
    match registry.issuer(&delegator.iss).is_some() && trusted_issuer_jwt::is_name(&delegator.sub) {
        true => Ok(()),
        false => Err(Refusal::DelegatorUnknown),
    }
}

/// Checks the limits of pending requests, per requester and overall.
async fn check_waiting(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    delegator: &Principal,
) -> Result<(), Error> {
    let settings = &ctx.config.delegations;
    let most = i64::from(settings.max_pending_requests);
    let asker = ctx.caller.principal(ctx.issuer);
    let waiting = delegation::list::waiting(connection, delegator, asker.as_ref(), most, ctx.now).await?;
    let share = i64::from(settings.max_pending_requests_per_client);
    // One agent with many requests must not block the requests of other agents.
    if waiting.all >= most || waiting.of_asker >= share {
        return Err(Refusal::RateLimited.into());
    }
    Ok(())
}

/// Puts the delegation together, with the lifetime that was possible.
fn build(
    ctx: &RequestContext<'_>,
    request: &NewDelegation,
    source: &Source,
) -> Result<(Delegation, GrantedTtl), Error> {
    let (terms, max_uses) = request.terms(ctx.capability_levels)?;
    let (ends, ttl) = end(ctx, request, source);
    let id = random::id(ctx.now)?.to_string();
    let waits = source.origin == Provenance::Requested;
    let one = Delegation {
        path: source.ancestors.iter().map(|one| one.id.clone()).chain([id.clone()]).collect(),
        id,
        parent: source.ancestors.last().map(|one| one.id.clone()),
        root: source.ancestors.first().map_or_else(|| source.delegator.clone(), |one| one.root.clone()),
        delegator: source.delegator.clone(),
        delegate: delegate(ctx, request, source)?,
        terms,
        origin: source.origin,
        requested_at: ctx.now,
        requested_by: ctx.caller.principal(ctx.issuer),
        facts: DelegationRecord::unused(
            (!waits).then_some(ctx.now),
            if waits { after(ctx.now, ctx.config.delegations.request_ttl) } else { ends },
            max_uses,
        ),
        requested_ttl: waits.then(|| requested_seconds(ctx, request)),
        reason: request.reason.clone(),
        agent: request.agent.clone(),
        revoke_reason: None,
        pending_jwk: None,
        standing_grant_id: None,
    };
    Ok((one, ttl))
}

/// The client id of the delegate; a new one for an ephemeral agent.
fn delegate(ctx: &RequestContext<'_>, request: &NewDelegation, source: &Source) -> Result<String, Error> {
    match (&request.delegate, &request.ephemeral, &ctx.caller) {
        (Some(_), Some(_), _) => Err(Refusal::Malformed("delegate and ephemeral exclude each other").into()),
        (Some(delegate), None, _) => Ok(delegate.clone()),
        (None, Some(_), _) => Ok(format!("agent-{}", random::id(ctx.now)?)),
        (None, None, Caller::Agent(holder)) if source.origin == Provenance::Requested => {
            Ok(holder.client.client_id.clone())
        }
        (None, None, _) => Err(Refusal::Malformed("delegate is missing").into()),
    }
}

/// The longest lifetime by configuration, in seconds.
fn max_seconds(ctx: &RequestContext<'_>, request: &NewDelegation) -> u32 {
    let max_ttl = ctx.config.delegations.max_ttl;
    if request.ephemeral.is_some() { max_ttl.min(ctx.config.agents.max_ttl) } else { max_ttl }
}

/// The lifetime in seconds: as requested or by default, within the longest.
fn requested_seconds(ctx: &RequestContext<'_>, request: &NewDelegation) -> u32 {
    request.expires_in.unwrap_or(ctx.config.delegations.default_ttl).min(max_seconds(ctx, request))
}

/// When the delegation ends. A requested lifetime is an upper bound: a longer one is shortened.
fn end(ctx: &RequestContext<'_>, request: &NewDelegation, source: &Source) -> (OffsetDateTime, GrantedTtl) {
    let parents = source.ancestors.iter().map(|one| one.facts.expires_at).min();
    let seconds = match (request.expires_in, parents) {
        // Without a requested lifetime, a delegation ends with its parent, within the configured maximum.
        (None, Some(_)) if request.ephemeral.is_none() => max_seconds(ctx, request),
        _ => requested_seconds(ctx, request),
    };
    let ends = parents.into_iter().fold(after(ctx.now, seconds), OffsetDateTime::min);
    let ttl = match request.expires_in {
        Some(asked) if ends < after(ctx.now, asked) => GrantedTtl::Shortened,
        _ => GrantedTtl::AsAsked,
    };
    (ends, ttl)
}

/// Checks that the delegation is within its ancestors, that the delegate is neither the delegator nor an ancestor,
/// and that all ancestors are active.
fn check_place(ctx: &RequestContext<'_>, source: &Source, one: &Delegation) -> Result<(), Refusal> {
    let is_delegate = |who: &Principal| who.iss == ctx.issuer && who.sub == one.delegate;
    let acts = source.ancestors.iter().any(|ancestor| ancestor.delegate == one.delegate);
    if acts || is_delegate(&one.root) || is_delegate(&one.delegator) {
        return Err(Refusal::DelegationCycle);
    }
    let actors = u32::try_from(one.path.len()).unwrap_or(u32::MAX);
    let depths = source.ancestors.iter().filter_map(|one| one.terms.max_depth);
    if actors > depths.fold(ctx.config.tokens.max_depth, u32::min) {
        return Err(Refusal::ExceedsParent(LimitDimension::Depth));
    }
    if !source.ancestors.is_empty() {
        let (state, _) = DelegationPath(source.ancestors.clone()).state(ctx.now);
        if state != DelegationState::Active {
            return Err(Refusal::ParentNotActive(state));
        }
    }
    source
        .ancestors
        .iter()
        .try_for_each(|ancestor| one.check_within_parent(ancestor, ctx.capability_levels))
        .map_err(Refusal::ExceedsParent)
}

async fn check_delegate(rows: &RowMac, connection: &mut PgConnection, delegate: &str) -> Result<(), Error> {
    let found = match client::is_client_id(delegate) {
        true => client::store::find(rows, connection, delegate).await?,
        false => None,
    };
    match found {
        // An ephemeral agent cannot receive another delegation.
        Some(client) if client.kind != ClientKind::Agent || client.ephemeral.is_some() => {
            Err(Refusal::DelegateUnknown.into())
        }
        Some(client) if client.is_inactive() => Err(Refusal::DelegateDisabled.into()),
        Some(_) => Ok(()),
        None => Err(Refusal::DelegateUnknown.into()),
    }
}

fn created(ctx: &RequestContext<'_>, path: &DelegationPath, one: &Delegation) -> Event {
    let kind = EventKind::DelegationCreated { terms: one.recorded_terms(), expires_in: one.requested_ttl };
    let mut event = Event { target: Some(one.delegate.clone()), ..ctx.event_about(kind, path) };
    event.add_text(PersonalText::Reason, one.reason.as_deref());
    event.add_text(PersonalText::Agent, one.agent.as_ref().map(|agent| json!(agent)));
    event
}
