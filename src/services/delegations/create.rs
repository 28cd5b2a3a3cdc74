//! Creates a delegation: active if the delegator or delegate of the parent creates it, requested if an agent asks a
//! user for it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::request::{EphemeralRequest, NewDelegation, after, check_reason};
use super::{view, visible};
use crate::domain::audit::{Action, Event};
use crate::domain::client::{self, AuthMethod, Client, DpopPolicy, Ephemeral, Grant, Kind};
use crate::domain::delegation::{
    self, Delegation, DelegationLimits, DelegationPath, DelegationRecord, GrantedTtl, LimitDimension,
    Provenance, State,
};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::{self, Registry};
use crate::domain::row_mac::RowMac;
use crate::platform::jose::PublicKey;
use crate::platform::random;
use crate::protocol::trusted_issuer_jwt;
use crate::services::request_context::{
    ApiResponse, AuditTarget, AuthenticatedClient, Call, Caller, Desk, record_delegation_refusal,
};
use crate::services::transaction::AuditedTransaction;

/// Creates a delegation.
///
/// # Errors
/// A refusal, which is recorded. A delegation never exceeds its ancestors.
pub async fn create(desk: &Desk<'_>, call: &Call, wanted: &NewDelegation) -> Result<ApiResponse, Error> {
    let result = try_to(desk, call, wanted).await;
    let about = wanted.parent.as_deref().map_or(AuditTarget::Nothing, AuditTarget::Delegation);
    record_delegation_refusal(desk, call, ("create", about), result).await
}

/// Origin of a delegation: delegator, ancestors, and whether an approval is needed.
struct Source {
    delegator: Principal,
    above: Option<DelegationPath>,
    origin: Provenance,
}

async fn try_to(desk: &Desk<'_>, call: &Call, wanted: &NewDelegation) -> Result<ApiResponse, Error> {
    wanted.check_texts()?;
    let (terms, max_uses) = wanted.terms(desk.capability_levels)?;
    let key = wanted.ephemeral.as_ref().map(EphemeralRequest::key).transpose()?;
    let mut work = AuditedTransaction::begin(desk.pool).await?;
    if let Some(done) = call.authorize_and_claim(desk, &mut work).await? {
        return Ok(done);
    }
    let registry = registry::store::load(desk.rows, work.connection(), desk.issuer).await?;
    wanted.limits().check_declared(&registry, desk.capability_levels)?;
    let source = source(work.connection(), desk, (call, &registry), wanted).await?;
    let id = random::id(call.now)?.to_string();
    let delegate = match (&wanted.delegate, &key) {
        (Some(_), Some(_)) => {
            return Err(Refusal::Malformed("delegate and ephemeral exclude each other").into());
        }
        (Some(delegate), None) => delegate.clone(),
        (None, Some(_)) => format!("agent-{}", random::id(call.now)?),
        (None, None) => match (&call.caller, source.origin) {
            (Caller::Agent(holder), Provenance::Requested) => holder.client.client_id.clone(),
            _ => return Err(Refusal::Malformed("delegate is missing").into()),
        },
    };
    let (one, lifetime) = put_together(desk, call, (wanted, terms, max_uses), (&source, id, delegate));
    fits(desk, &source, &one, call.now)?;
    let path =
        DelegationPath([source.above.map(|path| path.0).unwrap_or_default(), vec![one.clone()]].concat());
    let mut events = Vec::new();
    match (&wanted.ephemeral, key) {
        (Some(ephemeral), Some(key)) => {
            let agent =
                make_agent(work.connection(), (desk, call), (&path, &one), (ephemeral, key), &registry)
                    .await?;
            events.push(agent);
        }
        _ => check_delegate(desk.rows, work.connection(), &one.delegate).await?,
    }
    if !delegation::transitions::insert(desk.rows, work.connection(), &one).await? {
        return Err(crate::platform::fault::Fault::new("a new id that is there already").into());
    }
    events.push(created(desk, call, (&path, &one)));
    if one.facts.activated_at.is_some() {
        let detail = Some(one.recorded_terms().into());
        let activated = call.event_about(desk, Action::DelegationActivated, &path);
        events.push(Event { detail, ..activated });
    }
    let body = view(desk.rows, work.connection(), &path, call.now).await?.with_lifetime(lifetime);
    let status = if one.facts.activated_at.is_some() { 201 } else { 202 };
    let location = crate::protocol::metadata::endpoint(desk.issuer, &format!("/delegate/{}", one.id));
    let done = ApiResponse { status, location: Some(location), ..ApiResponse::with(body)? };
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&events).await?;
    Ok(done)
}

/// Determines the delegator. A user delegates its own authority; an agent delegates further or requests a delegation
/// from a user; an operator requests for others.
async fn source(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    (call, registry): (&Call, &Registry),
    wanted: &NewDelegation,
) -> Result<Source, Error> {
    let root = |delegator: &Principal, origin| Source { delegator: delegator.clone(), above: None, origin };
    match (&call.caller, &wanted.delegator, &wanted.parent) {
        (_, Some(_), Some(_)) => Err(Refusal::Malformed("delegator and parent exclude each other").into()),
        (Caller::User(user), None, None) => Ok(root(&user.who, Provenance::Granted)),
        (Caller::User(user), Some(delegator), None) if *delegator == user.who => {
            Ok(root(delegator, Provenance::Granted))
        }
        (Caller::User(_) | Caller::Admin(..) | Caller::Auditor(..), ..) => {
            Err(Refusal::InsufficientScope.into())
        }
        (Caller::Agent(AuthenticatedClient { client, .. }), None, Some(parent)) => {
            let path = visible(connection, desk, call, parent).await?;
            if path.leaf().is_none_or(|leaf| leaf.delegate != client.client_id) {
                return Err(Refusal::NotFound.into());
            }
            let delegator = Principal::new(desk.issuer, client.client_id.clone());
            Ok(Source { delegator, above: Some(path), origin: Provenance::Granted })
        }
        // An ephemeral agent cannot request another delegation, which could outlive its own.
        (Caller::Agent(AuthenticatedClient { client, .. }), Some(_), None) if client.ephemeral.is_some() => {
            Err(Refusal::InsufficientScope.into())
        }
        (Caller::Agent(AuthenticatedClient { client, .. }), Some(delegator), None) => {
            let for_itself = wanted.delegate.as_ref().is_none_or(|delegate| *delegate == client.client_id);
            if !for_itself {
                return Err(Refusal::InsufficientScope.into());
            }
            ask(connection, desk, (call, registry), delegator).await?;
            Ok(root(delegator, Provenance::Requested))
        }
        (Caller::Operator, Some(delegator), None) => {
            ask(connection, desk, (call, registry), delegator).await?;
            Ok(root(delegator, Provenance::Requested))
        }
        (Caller::Agent(..), None, None) => {
            Err(Refusal::Malformed("An agent names the parent that it holds, or the delegator that it asks")
                .into())
        }
        (Caller::Operator, ..) => Err(Refusal::Malformed("delegator is missing").into()),
    }
}

/// Checks that a user can receive a request: the issuer is trusted, and the limits of pending requests, per requester
/// and overall, are not reached.
async fn ask(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    (call, registry): (&Call, &Registry),
    delegator: &Principal,
) -> Result<(), Error> {
    if !registry.issuers.contains_key(&delegator.iss) || !trusted_issuer_jwt::is_name(&delegator.sub) {
        return Err(Refusal::DelegatorUnknown.into());
    }
    let settings = &desk.config.delegations;
    let most = i64::from(settings.max_pending_requests);
    let asker = call.caller.principal(desk.issuer);
    let waiting = delegation::list::waiting(connection, (delegator, asker.as_ref()), most, call.now).await?;
    let share = i64::from(settings.max_pending_requests_per_client);
    // One agent with many requests must not block the requests of other agents.
    if waiting.all >= most || waiting.of_asker >= share {
        return Err(Refusal::RateLimited.into());
    }
    Ok(())
}

fn put_together(
    desk: &Desk<'_>,
    call: &Call,
    (wanted, terms, max_uses): (&NewDelegation, DelegationLimits, Option<i64>),
    (source, id, delegate): (&Source, String, String),
) -> (Delegation, GrantedTtl) {
    let settings = &desk.config.delegations;
    let above: Vec<&Delegation> = source.above.iter().flat_map(|path| &path.0).collect();
    let cap = wanted
        .ephemeral
        .as_ref()
        .map_or(settings.max_ttl, |_| desk.config.agents.max_ttl.min(settings.max_ttl));
    // A requested lifetime is an upper bound: a longer one is shortened.
    let seconds = wanted.expires_in.unwrap_or(settings.default_ttl).min(cap);
    let longest = above.iter().map(|one| one.facts.expires_at).min();
    let ends = match (wanted.expires_in, longest) {
        // Without a requested lifetime, a delegation ends with its parent, within the configured maximum.
        (None, Some(longest)) if wanted.ephemeral.is_none() => after(call.now, cap).min(longest),
        (_, Some(longest)) => after(call.now, seconds).min(longest),
        (_, None) => after(call.now, seconds),
    };
    let lifetime = match wanted.expires_in {
        Some(asked) if ends < after(call.now, asked) => GrantedTtl::Shortened,
        _ => GrantedTtl::AsAsked,
    };
    let waits = source.origin == Provenance::Requested;
    let one = Delegation {
        path: above.iter().map(|one| one.id.clone()).chain([id.clone()]).collect(),
        id,
        parent: above.last().map(|one| one.id.clone()),
        root: above.first().map_or_else(|| source.delegator.clone(), |one| one.root.clone()),
        delegator: source.delegator.clone(),
        delegate,
        terms,
        origin: source.origin,
        requested_at: call.now,
        requested_by: call.caller.principal(desk.issuer),
        facts: DelegationRecord {
            activated_at: (!waits).then_some(call.now),
            expires_at: if waits { after(call.now, settings.request_ttl) } else { ends },
            revoked_at: None,
            principal_revoked_at: None,
            key_rotating: false,
            max_uses,
            uses: 0,
            used_up_at: None,
        },
        requested_ttl: waits.then_some(seconds),
        reason: wanted.reason.clone(),
        agent: wanted.agent.clone(),
        revoke_reason: None,
        pending_jwk: None,
    };
    (one, lifetime)
}

/// Checks that the delegation is within its ancestors, that the delegate is neither the delegator nor an ancestor,
/// and that all ancestors are active.
fn fits(desk: &Desk<'_>, source: &Source, one: &Delegation, now: OffsetDateTime) -> Result<(), Refusal> {
    check_reason(one.reason.as_deref())?;
    let ours = |who: &Principal| who.iss == desk.issuer && who.sub == one.delegate;
    let acts_above = source.above.iter().flat_map(|path| &path.0).any(|above| above.delegate == one.delegate);
    if acts_above || ours(&one.root) || ours(&one.delegator) {
        return Err(Refusal::DelegationCycle);
    }
    let actors = u32::try_from(one.path.len()).unwrap_or(u32::MAX);
    let above = source.above.iter().flat_map(|path| &path.0);
    let deepest =
        above.clone().filter_map(|one| one.terms.max_depth).fold(desk.config.tokens.max_depth, u32::min);
    if actors > deepest {
        return Err(Refusal::ExceedsParent(LimitDimension::Depth));
    }
    if let Some(path) = &source.above {
        let (state, _) = path.state(now);
        if state != State::Active {
            return Err(Refusal::ParentNotActive(state));
        }
    }
    above
        .into_iter()
        .try_for_each(|above| one.check_within_parent(above, desk.capability_levels))
        .map_err(Refusal::ExceedsParent)
}

async fn check_delegate(rows: &RowMac, connection: &mut PgConnection, delegate: &str) -> Result<(), Error> {
    let found = match client::is_client_id(delegate) {
        true => client::store::find(rows, connection, delegate).await?,
        false => None,
    };
    match found {
        // An ephemeral agent cannot receive another delegation.
        Some(client) if client.kind != Kind::Agent || client.ephemeral.is_some() => {
            Err(Refusal::DelegateUnknown.into())
        }
        Some(client) if client.is_inactive() => Err(Refusal::DelegateDisabled.into()),
        Some(_) => Ok(()),
        None => Err(Refusal::DelegateUnknown.into()),
    }
}

/// Creates an ephemeral agent. It authenticates by its key only, and has only the rights of its delegation.
async fn make_agent(
    connection: &mut PgConnection,
    (desk, call): (&Desk<'_>, &Call),
    (path, one): (&DelegationPath, &Delegation),
    (wanted, key): (&EphemeralRequest, PublicKey),
    registry: &Registry,
) -> Result<Event, Error> {
    let owner = call.caller.principal(desk.issuer).unwrap_or_else(|| one.delegator.clone());
    if client::store::is_removed_key(connection, key.thumbprint()).await? {
        return Err(Refusal::KeyNotReusable.into());
    }
    let present = client::store::lock_task(connection, &owner, &wanted.task_id).await?;
    if present >= i64::from(desk.config.agents.max_per_task) {
        return Err(Refusal::TaskAgentLimit.into());
    }
    let rights = rights(&call.caller, registry, desk.issuer);
    let agent = Client {
        client_id: one.delegate.clone(),
        version: 1,
        kind: Kind::Agent,
        name: format!("Agent of task {}", wanted.task_id),
        auth: AuthMethod::None,
        secrets: Vec::new(),
        declared_secret: None,
        jwks: Some(json!({"keys": [Value::Object(wanted.jwk.clone())]})),
        keys: Vec::new(),
        jwks_uri: None,
        scopes: rights.0,
        audiences: rights.1,
        detail_types: rights.2,
        grant_types: BTreeSet::from([Grant::ClientCredentials, Grant::TokenExchange]),
        dpop: DpopPolicy::Required,
        dpop_keys: BTreeSet::from([key.thumbprint().to_owned()]),
        dpop_restricted: true,
        removed_keys: BTreeSet::new(),
        actor_subjects: Vec::new(),
        max_token_ttl: None,
        disabled_at: None,
        ephemeral: Some(Ephemeral {
            delegation_id: one.id.clone(),
            task_id: wanted.task_id.clone(),
            owner: owner.clone(),
            deactivated_at: None,
        }),
    };
    client::changes::put(desk.rows, connection, &agent, call.now).await?;
    let mut event = call.event_about(desk, Action::AgentCreated, path);
    event.target = Some(agent.client_id);
    event.detail = Some(json!({"task_id": wanted.task_id, "owner": owner, "jkt": key.thumbprint()}));
    Ok(event)
}

type Rights = (BTreeSet<String>, BTreeSet<String>, BTreeSet<String>);

/// The maximum rights of an ephemeral agent: those of the agent that creates it; all registered rights if a user
/// creates it, because the delegation bounds it.
fn rights(caller: &Caller, registry: &Registry, own_issuer: &str) -> Rights {
    if let Caller::Agent(AuthenticatedClient { client, .. }) = caller {
        return (client.scopes.clone(), client.audiences.clone(), client.detail_types.clone());
    }
    let others = registry.resources.values().filter(|resource| resource.id != own_issuer);
    let mut rights = Rights::default();
    for resource in others {
        rights.0.extend(resource.scopes.iter().cloned());
        rights.1.insert(resource.id.clone());
        rights.2.extend(resource.detail_types.iter().cloned());
    }
    rights
}

fn created(desk: &Desk<'_>, call: &Call, (path, one): (&DelegationPath, &Delegation)) -> Event {
    let mut event = call.event_about(desk, Action::DelegationCreated, path);
    event.target = Some(one.delegate.clone());
    let mut detail = one.recorded_terms();
    detail.insert("reason".to_owned(), json!(one.reason));
    detail.insert("agent".to_owned(), json!(one.agent));
    if let Some(lifetime) = one.requested_ttl {
        detail.insert("expires_in".to_owned(), lifetime.into());
    }
    event.detail = Some(detail.into());
    event
}
