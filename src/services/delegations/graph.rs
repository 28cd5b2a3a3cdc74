//! Delegations to and by an agent, as edges of a graph. Reads only.

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::queries::{self, Page};
use crate::domain::client;
use crate::domain::delegation::list::{Cursor, DelegationFilter, VisibilityScope};
use crate::domain::delegation::{State, View};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::services::request_context::{ApiResponse, Call, Caller, Desk};

/// A delegation as an edge from delegator to delegate.
#[derive(Serialize)]
struct Edge {
    from: Principal,
    to: Principal,
    #[serde(flatten)]
    delegation: View,
}

/// The requested part of the graph.
#[derive(Debug, Default)]
pub struct GraphQuery {
    /// Only those in this state.
    pub state: Option<State>,
    pub inbound: Page,
    pub outbound: Page,
}

/// The edges of an agent that the caller may see: administrators and auditors all, users those rooted at them, an agent its
/// own.
pub async fn graph(
    desk: &Desk<'_>,
    call: &Call,
    agent: &str,
    sides: &GraphQuery,
) -> Result<ApiResponse, Error> {
    let us = Principal::new(desk.issuer, agent);
    let seen = match &call.caller {
        Caller::Admin(_) | Caller::Auditor(_) | Caller::Operator => VisibilityScope::Everything,
        Caller::User(user) => VisibilityScope::RootedAt(user.who.clone()),
        Caller::Agent(holder) if holder.client.client_id == agent => VisibilityScope::Of(us.clone()),
        Caller::Agent(_) => return Err(Refusal::InsufficientScope.into()),
    };
    let mut connection = desk.pool.acquire().await?;
    if seen == VisibilityScope::Everything
        && client::store::find(desk.rows, &mut connection, agent).await?.is_none()
    {
        return Err(Refusal::NotFound.into());
    }
    let to = DelegationFilter {
        delegate: Some(agent.to_owned()),
        state: sides.state,
        ..DelegationFilter::default()
    };
    let from = DelegationFilter {
        delegator_iss: Some(us.iss.clone()),
        delegator_sub: Some(us.sub.clone()),
        state: sides.state,
        ..DelegationFilter::default()
    };
    let inbound = edges(&mut connection, (desk, call), (&seen, &to), &sides.inbound).await?;
    let outbound = edges(&mut connection, (desk, call), (&seen, &from), &sides.outbound).await?;
    Ok(ApiResponse::with(json!({"agent": us, "inbound": inbound, "outbound": outbound}))?)
}

async fn edges(
    connection: &mut PgConnection,
    (desk, call): (&Desk<'_>, &Call),
    (seen, filter): (&VisibilityScope, &DelegationFilter),
    page: &Page,
) -> Result<Value, Error> {
    let (ids, next) = queries::ids(connection, (seen, filter), page, call.now).await?;
    let views = queries::views(desk.rows, connection, &ids, call).await?;
    let edge = |view: View| Edge {
        from: view.delegator().clone(),
        to: Principal::new(desk.issuer, view.delegate()),
        delegation: view,
    };
    let items: Vec<Edge> = views.into_iter().map(edge).collect();
    Ok(json!({"items": items, "next": next.as_ref().map(Cursor::to_text)}))
}
