//! `/api/v1/audit-logs` and what lies below it: events, chains, and the graph of an agent's delegations.

use std::collections::BTreeMap;

use actix_web::HttpResponse;
use actix_web::web::Path;

use super::desk::{Answer, Incoming, Known, Stopped, said, serve_audit};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::Order;
use crate::domain::delegation::State;
use crate::domain::refusal::Refusal;
use crate::flows::audit::ask::{self, Asked};
use crate::flows::delegations::Page;
use crate::flows::delegations::graph::{self, Sides};
use crate::flows::desk::Done;

/// Takes what a filter reads from parameters.
pub(super) fn filter(parameters: &mut BTreeMap<String, String>) -> Result<Filter, Refusal> {
    let mut filter = Filter::default();
    for (name, value) in std::mem::take(parameters) {
        if !filter.set(&name, &value)? {
            parameters.insert(name, value);
        }
    }
    Ok(filter)
}

/// Refuses what nothing has taken.
pub(super) fn nothing_else(parameters: &BTreeMap<String, String>) -> Result<(), Stopped> {
    match parameters.keys().next() {
        None => Ok(()),
        Some(name) => {
            let name: String = name.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
            let refusal = Refusal::Malformed("The query is not what this endpoint reads");
            Err(Stopped::with(refusal, format!("There is no parameter {name} here")))
        }
    }
}

fn number(text: Option<String>) -> Result<Option<usize>, Refusal> {
    text.map(|text| text.parse().map_err(|_| Refusal::Malformed("limit is a positive number"))).transpose()
}

fn state(text: Option<String>) -> Result<Option<State>, Refusal> {
    let known = |text: String| {
        let name = serde_json::Value::String(text);
        serde_json::from_value(name)
            .map_err(|_| Refusal::Malformed("state is requested, active, expired or revoked"))
    };
    text.map(known).transpose()
}

fn asked(known: &Known<'_>, with_state: WithState) -> Result<Asked, Stopped> {
    let mut parameters = known.parameters()?;
    let filter = filter(&mut parameters)?;
    let order = match parameters.remove("order").as_deref() {
        None | Some("newest") => Order::Newest,
        Some("oldest") => Order::Oldest,
        Some(_) => return Err(Refusal::Malformed("order is newest or oldest").into()),
    };
    let limit = number(parameters.remove("limit"))?;
    let cursor = parameters.remove("cursor");
    let state = match with_state {
        WithState::Yes => state(parameters.remove("state"))?,
        WithState::No => None,
    };
    nothing_else(&parameters)?;
    Ok(Asked { filter, order, limit, cursor, state })
}

#[derive(Clone, Copy)]
enum WithState {
    Yes,
    No,
}

fn answered(done: Answer) -> Result<HttpResponse, Stopped> {
    done.map(|done: Done| said(&done))
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let asked = asked(&known, WithState::No)?;
        answered(ask::list(&known.desk(), &known.call, &asked).await.map_err(Into::into))
    })
    .await
}

pub(super) async fn show(incoming: Incoming, name: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        nothing_else(&known.parameters()?)?;
        answered(ask::show(&known.desk(), &known.call, &name).await.map_err(Into::into))
    })
    .await
}

pub(super) async fn chains(incoming: Incoming) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let asked = asked(&known, WithState::Yes)?;
        answered(ask::chains(&known.desk(), &known.call, &asked).await.map_err(Into::into))
    })
    .await
}

pub(super) async fn chain(incoming: Incoming, txn: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        nothing_else(&known.parameters()?)?;
        answered(ask::chain(&known.desk(), &known.call, &txn).await.map_err(Into::into))
    })
    .await
}

/// `/api/v1/agents/{id}/delegations/graph`.
pub(super) async fn agent_graph(incoming: Incoming, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let mut parameters = known.parameters()?;
        let limit = number(parameters.remove("limit"))?.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
        let mut page = |cursor: &str| Page { cursor: parameters.remove(cursor), limit };
        let (inbound, outbound) = (page("inbound_cursor"), page("outbound_cursor"));
        let sides = Sides { state: state(parameters.remove("state"))?, inbound, outbound };
        nothing_else(&parameters)?;
        answered(graph::graph(&known.desk(), &known.call, &id, &sides).await.map_err(Into::into))
    })
    .await
}
