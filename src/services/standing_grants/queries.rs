//! Queries of standing grants. Reads only.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::{KeyRegistration, agent, view, visible};
use crate::domain::audit::Action;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::Order;
use crate::domain::client;
use crate::domain::delegation::impact::{self as counted, BOUND, Impact, RevocationScope};
use crate::domain::delegation::view::View;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::standing_grant::list::{self as grants, GrantCursor, GrantQuery, StandingGrantFilter};
use crate::domain::standing_grant::store::{delegations_of, find_all};
use crate::domain::standing_grant::view::StandingGrantView;
use crate::services::audit::query::{self, AuditQuery};
use crate::services::caller::Caller;
use crate::services::page::{Page, PageRequest, cut};
use crate::services::request_context::RequestContext;

/// Events shown with a standing grant.
const RECENT: usize = 20;

/// A standing grant with what is needed to decide about it.
#[derive(Debug, Clone, Serialize)]
pub struct StandingGrantDetail {
    #[serde(flatten)]
    pub grant: StandingGrantView,
    /// Version of the agent's registration; absent if the client is not registered.
    pub client_version: Option<i64>,
    /// Thumbprints of the keys that the agent has registered at present.
    pub registered_keys: Vec<String>,
    /// The newest events of the grant.
    pub recent_activity: Vec<GrantActivity>,
}

/// An event of a standing grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GrantActivity {
    pub seq: u64,
    pub at: String,
    pub action: String,
    pub outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The limit that a request exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegation_id: Option<String>,
}

impl GrantActivity {
    fn of(event: &Value) -> Option<Self> {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            seq: event.get("seq")?.as_u64()?,
            at: text("/at")?,
            action: text("/action")?,
            outcome: text("/outcome")?,
            reason: text("/reason"),
            limit: text("/detail/limit"),
            delegation_id: text("/delegation_id"),
        })
    }
}

pub async fn show(ctx: &RequestContext<'_>, id: &str) -> Result<StandingGrantDetail, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let one = visible(ctx, &mut connection, id).await?;
    // The kind of the client may have changed: the user sees the grant, and can end it.
    let agent = client::store::find(ctx.rows, &mut connection, &one.client_id).await?;
    let grant = view(ctx, &mut connection, &one).await?;
    let registered = match &agent {
        Some(agent) => Some(KeyRegistration::of(&mut connection, agent).await?),
        None => None,
    };
    drop(connection);
    let filter = Filter { standing_grant: Some(one.id), ..Filter::default() };
    let recent = AuditQuery { filter, limit: Some(RECENT), ..AuditQuery::default() };
    let recent = query::list(ctx, &recent).await?;
    Ok(StandingGrantDetail {
        grant,
        client_version: registered.as_ref().map(|one| one.version),
        registered_keys: registered.into_iter().flat_map(|one| one.keys).collect(),
        recent_activity: recent.items.iter().filter_map(GrantActivity::of).collect(),
    })
}

/// A page of the standing grants that the caller may see, newest first: a user's own, or all.
pub async fn list(
    ctx: &RequestContext<'_>,
    filter: &StandingGrantFilter,
    page: &PageRequest,
) -> Result<Page<StandingGrantView>, Error> {
    let mut filter = filter.clone();
    match &ctx.caller {
        Caller::User(user) if filter.grantor.as_ref().is_none_or(|who| *who == user.who) => {
            filter.grantor = Some(user.who.clone());
        }
        Caller::User(_) => return Ok(Page { items: Vec::new(), next: None }),
        Caller::Admin(_) | Caller::Operator => {}
        Caller::Agent(_) | Caller::Auditor(_) => return Err(Refusal::InsufficientScope.into()),
    }
    let limit = page.limit()?;
    let after = match &page.cursor {
        None => None,
        Some(text) => {
            Some(GrantCursor::parse(text).ok_or(Refusal::Malformed("cursor is not from this server"))?)
        }
    };
    let mut connection = ctx.pool.acquire().await?;
    let query = GrantQuery { filter: &filter, after: after.as_ref(), limit: limit + 1, now: ctx.now };
    let mut found = grants::page(&mut connection, query).await?;
    let next = cut(&mut found, limit).map(GrantCursor::to_text);
    let ids: Vec<String> = found.into_iter().map(|cursor| cursor.id).collect();
    Ok(Page { items: views(ctx, &mut connection, &ids).await?, next })
}

async fn views(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<Vec<StandingGrantView>, Error> {
    let used = grants::last_uses(connection, ids).await?;
    let found = find_all(ctx.rows, connection, ids).await?;
    Ok(found.iter().map(|one| StandingGrantView::of(one, used.get(&one.id).copied(), ctx.now)).collect())
}

/// The keys that a standing grant for a request has to pin: the registered keys of the agent, and the key that the agent has
/// proven with the request.
pub async fn keys_of_request(ctx: &RequestContext<'_>, request: &View) -> Result<Vec<String>, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let agent = client::store::find(ctx.rows, &mut connection, &request.delegate).await?;
    let mut keys = match &agent {
        Some(agent) => KeyRegistration::of(&mut connection, agent).await?.keys,
        None => BTreeSet::new(),
    };
    drop(connection);
    let action = Some(Action::DelegationCreated.name().to_owned());
    let (delegation, client) = (Some(request.id.clone()), Some(request.delegate.clone()));
    let filter = Filter { action, delegation, client, ..Filter::default() };
    let asked = AuditQuery { filter, order: Order::Oldest, limit: Some(1), ..AuditQuery::default() };
    let found = query::list(ctx, &asked).await?;
    let proven = found.items.first().and_then(|event| event.pointer("/actor/jkt")?.as_str());
    let proven = proven.filter(|jkt| agent.as_ref().is_some_and(|agent| agent.may_use_key(jkt)));
    keys.extend(proven.map(str::to_owned));
    Ok(keys.into_iter().collect())
}

/// The registered keys of an agent, which a standing grant pins if it names none; empty if there is no such agent.
pub async fn keys_of_agent(ctx: &RequestContext<'_>, client_id: &str) -> Result<Vec<String>, Error> {
    let mut connection = ctx.pool.acquire().await?;
    match agent(ctx, &mut connection, client_id).await {
        Ok(agent) => Ok(KeyRegistration::of(&mut connection, &agent).await?.keys.into_iter().collect()),
        Err(Error::Refused(_)) => Ok(Vec::new()),
        Err(failed) => Err(failed),
    }
}

/// What a revocation would affect.
pub async fn impact(ctx: &RequestContext<'_>, id: &str) -> Result<Impact, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let one = visible(ctx, &mut connection, id).await?;
    let roots = delegations_of(&mut connection, &one.id, BOUND + 1, ctx.now).await?;
    Ok(counted::impact(&mut connection, &RevocationScope::Delegations(&roots), ctx.now).await?)
}
