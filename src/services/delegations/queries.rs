//! Queries of delegations and of their agents. Reads only.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::PgConnection;

use super::{view, visible};
use crate::domain::client::{self, Client, ClientKind};
use crate::domain::delegation::delegates::{self, AgentSearch};
use crate::domain::delegation::list::{self, Cursor, DelegationFilter, DelegationQuery, VisibilityScope};
use crate::domain::delegation::view::View;
use crate::domain::delegation::{self, DelegationPath, DelegationState};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::services::caller::Caller;
use crate::services::page::{Page, PageRequest, cut};
use crate::services::request_context::RequestContext;

/// Maximum number of delegations shown with each agent.
const MAX_OF_AGENT: i64 = 20;

/// An agent with its active delegations.
#[derive(Debug, Clone, Serialize)]
pub struct AgentView {
    pub client_id: String,
    pub name: String,
    pub kind: ClientKind,
    pub disabled: bool,
    pub ephemeral: Option<EphemeralAgent>,
    pub delegations: Vec<View>,
}

#[derive(Debug, Clone, Serialize)]
pub struct EphemeralAgent {
    pub task_id: String,
    pub delegation_id: String,
    pub owner: Principal,
}

pub async fn show(ctx: &RequestContext<'_>, id: &str) -> Result<View, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let path = visible(ctx, &mut connection, id).await?;
    Ok(view(ctx, &mut connection, &path).await?)
}

/// A page of the delegations that the caller may see, newest first.
pub async fn list(
    ctx: &RequestContext<'_>,
    filter: &DelegationFilter,
    page: &PageRequest,
) -> Result<Page<View>, Error> {
    let scope = match &ctx.caller {
        Caller::User(user) => VisibilityScope::RootedAt(user.who.clone()),
        Caller::Agent(..) => VisibilityScope::Of(ctx.caller.principal(ctx.issuer).ok_or(Refusal::NotFound)?),
        Caller::Admin(..) | Caller::Operator => VisibilityScope::Everything,
        Caller::Auditor(..) => return Err(Refusal::InsufficientScope.into()),
    };
    let mut connection = ctx.pool.acquire().await?;
    views_page(ctx, &mut connection, &scope, filter, page).await
}

/// The first children of delegations that the caller has been shown, newest first; each parent has a page.
///
/// # Errors
/// Refused to callers without a list of delegations.
pub async fn children(
    ctx: &RequestContext<'_>,
    parents: &[String],
    limit: u32,
) -> Result<BTreeMap<String, Page<View>>, Error> {
    let limit = PageRequest { cursor: None, limit: Some(limit) }.limit()?;
    let mut connection = ctx.pool.acquire().await?;
    let mut found: BTreeMap<String, Vec<Cursor>> =
        parents.iter().map(|id| (id.clone(), Vec::new())).collect();
    for (parent, child) in list::children(&mut connection, parents, limit + 1).await? {
        found.entry(parent).or_default().push(child);
    }
    let mut nexts = BTreeMap::new();
    for (parent, children) in &mut found {
        nexts.insert(parent.clone(), cut(children, limit).map(Cursor::to_text));
    }
    let ids: Vec<String> = found.into_values().flatten().map(|child| child.id).collect();
    let mut pages: BTreeMap<String, Page<View>> =
        nexts.into_iter().map(|(parent, next)| (parent, Page { items: Vec::new(), next })).collect();
    let mut shown = views(ctx, &mut connection, &ids).await?;
    shown.sort_by(|one, other| (&other.requested_at, &other.id).cmp(&(&one.requested_at, &one.id)));
    for child in shown {
        if let Some(page) = child.parent.as_ref().and_then(|parent| pages.get_mut(parent)) {
            page.items.push(child);
        }
    }
    Ok(pages)
}

pub(super) async fn views_page(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    scope: &VisibilityScope,
    filter: &DelegationFilter,
    page: &PageRequest,
) -> Result<Page<View>, Error> {
    let limit = page.limit()?;
    let after = match &page.cursor {
        None => None,
        Some(text) => Some(Cursor::parse(text).ok_or(Refusal::Malformed("cursor is not from this server"))?),
    };
    let query =
        DelegationQuery { visible: scope, filter, after: after.as_ref(), limit: limit + 1, now: ctx.now };
    let mut found = list::page(connection, query).await?;
    let next = match cut(&mut found, limit) {
        Some(last) => Some(last.to_text()),
        None => list::reached(connection, query).await?.map(|place| place.to_text()),
    };
    let ids: Vec<String> = found.into_iter().map(|cursor| cursor.id).collect();
    Ok(Page { items: views(ctx, connection, &ids).await?, next })
}

pub(super) async fn views(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<Vec<View>, Error> {
    let paths = delegation::store::all_paths(ctx.rows, connection, ids).await?;
    let delegates: Vec<String> =
        paths.iter().filter_map(|path| Some(path.leaf()?.delegate.clone())).collect();
    let clients = client::store::find_all(ctx.rows, connection, &delegates).await?;
    let delegate = |path: &DelegationPath| {
        let leaf = path.leaf()?;
        clients.iter().find(|client| client.client_id == leaf.delegate)
    };
    Ok(paths.iter().filter_map(|path| View::of(path, delegate(path), ctx.now)).collect())
}

/// Agents with their active delegations: all for administrators, a user's own for users.
pub async fn agents(ctx: &RequestContext<'_>, page: &PageRequest) -> Result<Page<AgentView>, Error> {
    let limit = page.limit()?;
    let root = match &ctx.caller {
        Caller::User(user) => Some(user.who.clone()),
        Caller::Admin(..) | Caller::Operator => None,
        Caller::Agent(..) | Caller::Auditor(..) => return Err(Refusal::InsufficientScope.into()),
    };
    let after = page.cursor.as_deref().unwrap_or_default();
    let search = AgentSearch { root: root.as_ref(), prefix: "", after, limit: limit + 1, now: ctx.now };
    let mut connection = ctx.pool.acquire().await?;
    let mut ids = delegates::agents(&mut connection, search).await?;
    let next = cut(&mut ids, limit).cloned();
    let scope = root.map_or(VisibilityScope::Everything, VisibilityScope::RootedAt);
    let mut items = Vec::new();
    for client in client::store::find_all(ctx.rows, &mut connection, &ids).await? {
        let filter = DelegationFilter {
            delegate: Some(client.client_id.clone()),
            state: Some(DelegationState::Active),
            ..DelegationFilter::default()
        };
        let query = DelegationQuery {
            visible: &scope,
            filter: &filter,
            after: None,
            limit: MAX_OF_AGENT,
            now: ctx.now,
        };
        let found = list::page(&mut connection, query).await?;
        let ids: Vec<String> = found.into_iter().map(|cursor| cursor.id).collect();
        items.push(agent(client, views(ctx, &mut connection, &ids).await?));
    }
    Ok(Page { items, next })
}

fn agent(client: Client, delegations: Vec<View>) -> AgentView {
    let disabled = client.is_inactive();
    let ephemeral = client.ephemeral.map(|agent| EphemeralAgent {
        task_id: agent.task_id,
        delegation_id: agent.delegation_id,
        owner: agent.owner,
    });
    AgentView {
        client_id: client.client_id,
        name: client.name,
        kind: client.kind,
        disabled,
        ephemeral,
        delegations,
    }
}
