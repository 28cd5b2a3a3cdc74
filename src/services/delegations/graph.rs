//! Delegations to and by an agent, as edges of a graph. Reads only.

use serde::Serialize;
use sqlx::PgConnection;

use super::queries::views_page;
use crate::domain::client;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::{self, DelegationFilter, DelegationQuery, VisibilityScope};
use crate::domain::delegation::view::View;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::services::caller::Caller;
use crate::services::page::{Page, PageRequest};
use crate::services::request_context::RequestContext;

/// An agent with the delegations to it and those by it.
#[derive(Debug, Serialize)]
pub struct Graph {
    pub agent: Principal,
    pub inbound: Page<Edge>,
    pub outbound: Page<Edge>,
}

/// A delegation as an edge from delegator to delegate.
#[derive(Debug, Serialize)]
pub struct Edge {
    pub from: Principal,
    pub to: Principal,
    #[serde(flatten)]
    pub delegation: View,
}

/// The requested part of the graph.
#[derive(Debug, Default)]
pub struct GraphQuery {
    /// Only delegations in this state.
    pub state: Option<DelegationState>,
    pub inbound: PageRequest,
    pub outbound: PageRequest,
}

/// The edges of an agent that the caller may see: administrators and auditors all, users those rooted at them, an
/// agent its own.
pub async fn graph(ctx: &RequestContext<'_>, agent: &str, query: &GraphQuery) -> Result<Graph, Error> {
    let scope = scope(ctx, agent)?;
    let mut connection = ctx.pool.acquire().await?;
    if scope == VisibilityScope::Everything
        && client::store::find(ctx.rows, &mut connection, agent).await?.is_none()
    {
        return Err(Refusal::NotFound.into());
    }
    let to = inbound(agent, query.state);
    let from = outbound(ctx, agent, query.state);
    let inbound = edges(ctx, &mut connection, &scope, &to, &query.inbound).await?;
    let outbound = edges(ctx, &mut connection, &scope, &from, &query.outbound).await?;
    Ok(Graph { agent: Principal::new(ctx.issuer, agent), inbound, outbound })
}

/// Numbers of the edges of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeCounts {
    pub inbound: usize,
    pub outbound: usize,
}

/// Counts the edges that [`graph`] shows, on each side up to `most`.
pub async fn count_edges(
    ctx: &RequestContext<'_>,
    agent: &str,
    state: Option<DelegationState>,
    most: usize,
) -> Result<EdgeCounts, Error> {
    let scope = scope(ctx, agent)?;
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let mut connection = ctx.pool.acquire().await?;
    let mut count = async |filter: &DelegationFilter| {
        let query = DelegationQuery { visible: &scope, filter, after: None, limit, now: ctx.now };
        list::page(&mut connection, query).await.map(|found| found.len())
    };
    let inbound = count(&inbound(agent, state)).await?;
    let outbound = count(&outbound(ctx, agent, state)).await?;
    Ok(EdgeCounts { inbound, outbound })
}

fn scope(ctx: &RequestContext<'_>, agent: &str) -> Result<VisibilityScope, Refusal> {
    Ok(match &ctx.caller {
        Caller::Admin(_) | Caller::Auditor(_) | Caller::Operator => VisibilityScope::Everything,
        Caller::User(user) => VisibilityScope::RootedAt(user.who.clone()),
        Caller::Agent(holder) if holder.client.client_id == agent => {
            VisibilityScope::Of(Principal::new(ctx.issuer, agent))
        }
        Caller::Agent(_) => return Err(Refusal::InsufficientScope),
    })
}

fn inbound(agent: &str, state: Option<DelegationState>) -> DelegationFilter {
    DelegationFilter { delegate: Some(agent.to_owned()), state, ..DelegationFilter::default() }
}

fn outbound(ctx: &RequestContext<'_>, agent: &str, state: Option<DelegationState>) -> DelegationFilter {
    DelegationFilter {
        delegator_iss: Some(ctx.issuer.to_owned()),
        delegator_sub: Some(agent.to_owned()),
        state,
        ..DelegationFilter::default()
    }
}

async fn edges(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    scope: &VisibilityScope,
    filter: &DelegationFilter,
    page: &PageRequest,
) -> Result<Page<Edge>, Error> {
    let Page { items, next } = views_page(ctx, connection, scope, filter, page).await?;
    let edge = |view: View| Edge {
        from: view.delegator().clone(),
        to: Principal::new(ctx.issuer, view.delegate()),
        delegation: view,
    };
    Ok(Page { items: items.into_iter().map(edge).collect(), next })
}
