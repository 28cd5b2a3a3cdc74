//! `/api/v1/audit-logs`: events and chains, and the graph of an agent's delegations.

use std::collections::BTreeMap;

use actix_web::HttpResponse;
use actix_web::web::Path;
use time::OffsetDateTime;

use crate::domain::audit::chain_keys::KeyContinuity;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::Order;
use crate::domain::delegation::DelegationState;
use crate::domain::refusal::Refusal;
use crate::http::evidence_file::{self, EvidenceTarget};
use crate::http::management::request::{AuthenticatedRequest, HttpError, ManagementRequest, ok, serve_audit};
use crate::platform::clock;
use crate::services::audit::chains;
use crate::services::audit::health::{self, LogHealthView};
use crate::services::audit::hourly_counts::{self, CountedPeriod};
use crate::services::audit::log_state;
use crate::services::audit::query::{self, AuditQuery, ChainConditions};
use crate::services::delegations::graph::{self, GraphQuery};
use crate::services::page::PageRequest;

/// Removes the filter's parameters from the map and parses them.
pub(in crate::http) fn filter(parameters: &mut BTreeMap<String, String>) -> Result<Filter, Refusal> {
    let mut filter = Filter::default();
    for (name, value) in std::mem::take(parameters) {
        if !filter.set(&name, &value)? {
            parameters.insert(name, value);
        }
    }
    Ok(filter)
}

/// Refuses parameters that no reader has removed from the map.
pub(in crate::http) fn reject_unknown_params(parameters: &BTreeMap<String, String>) -> Result<(), HttpError> {
    match parameters.keys().next() {
        None => Ok(()),
        Some(name) => {
            let name: String = name.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
            let refusal = Refusal::Malformed("The query is not what this endpoint reads");
            Err(HttpError::with(refusal, format!("There is no parameter {name} here")))
        }
    }
}

pub(in crate::http) fn number(text: Option<String>) -> Result<Option<usize>, Refusal> {
    text.map(|text| text.parse().map_err(|_| Refusal::Malformed("limit is a positive number"))).transpose()
}

fn time(text: Option<String>) -> Result<Option<OffsetDateTime>, Refusal> {
    let unknown = Refusal::Malformed("from and to are RFC 3339, or dates such as 2026-01-31");
    text.map(|text| clock::instant(&text).ok_or(unknown)).transpose()
}

fn state(text: Option<String>) -> Result<Option<DelegationState>, Refusal> {
    let unknown = |_| Refusal::Malformed("state is requested, active, expired or revoked");
    text.map(|text| text.parse().map_err(unknown)).transpose()
}

fn key_continuity(text: Option<String>) -> Result<Option<KeyContinuity>, Refusal> {
    let unknown = |_| Refusal::Malformed("key_continuity is consistent, no_key or key_mismatch");
    text.map(|text| text.parse().map_err(unknown)).transpose()
}

fn read_query(known: &AuthenticatedRequest<'_>, items: LogItems) -> Result<AuditQuery, HttpError> {
    let mut parameters = known.parameters()?;
    let filter = filter(&mut parameters)?;
    let order = match parameters.remove("order").as_deref() {
        None | Some("newest") => Order::Newest,
        Some("oldest") => Order::Oldest,
        Some(_) => return Err(Refusal::Malformed("order is newest or oldest").into()),
    };
    let limit = number(parameters.remove("limit"))?;
    let cursor = parameters.remove("cursor");
    let chains = match items {
        LogItems::Events => ChainConditions::default(),
        LogItems::Chains => ChainConditions {
            state: state(parameters.remove("state"))?,
            key_continuity: key_continuity(parameters.remove("key_continuity"))?,
        },
    };
    reject_unknown_params(&parameters)?;
    Ok(AuditQuery { filter, order, limit, cursor, chains })
}

/// Filters by state and keys are for chains alone.
#[derive(Clone, Copy)]
enum LogItems {
    Events,
    Chains,
}

pub(in crate::http) async fn list(incoming: ManagementRequest) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let audit_query = read_query(&known, LogItems::Events)?;
        Ok(ok(&query::list(&known.context, &audit_query).await?))
    })
    .await
}

pub(in crate::http) async fn counts(incoming: ManagementRequest) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let mut parameters = known.parameters()?;
        let mut time = |name: &str| time(parameters.remove(name));
        let period = CountedPeriod { from: time("from")?, to: time("to")? };
        reject_unknown_params(&parameters)?;
        Ok(ok(&hourly_counts::count(&known.context, period).await?))
    })
    .await
}

pub(in crate::http) async fn health(incoming: ManagementRequest) -> HttpResponse {
    serve_audit(incoming, async |known| {
        reject_unknown_params(&known.parameters()?)?;
        log_state::require_reader(&known.context)?;
        let health = health::health(known.app, known.context.now).await;
        Ok(ok(&LogHealthView::from(&*health)))
    })
    .await
}

pub(in crate::http) async fn show(incoming: ManagementRequest, name: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        reject_unknown_params(&known.parameters()?)?;
        Ok(ok(&query::show(&known.context, &name).await?))
    })
    .await
}

pub(in crate::http) async fn chains(incoming: ManagementRequest) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let audit_query = read_query(&known, LogItems::Chains)?;
        Ok(ok(&chains::list(&known.context, &audit_query).await?))
    })
    .await
}

pub(in crate::http) async fn chain(incoming: ManagementRequest, txn: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        reject_unknown_params(&known.parameters()?)?;
        Ok(ok(&chains::show(&known.context, &txn).await?))
    })
    .await
}

/// `/api/v1/audit-logs/chains/{txn}/evidence`.
pub(in crate::http) async fn chain_evidence(incoming: ManagementRequest, txn: Path<String>) -> HttpResponse {
    evidence(incoming, EvidenceTarget::Chain(txn.into_inner())).await
}

/// `/api/v1/audit-logs/{id}/evidence`.
pub(in crate::http) async fn event_evidence(incoming: ManagementRequest, name: Path<String>) -> HttpResponse {
    evidence(incoming, EvidenceTarget::Event(name.into_inner())).await
}

async fn evidence(incoming: ManagementRequest, target: EvidenceTarget) -> HttpResponse {
    serve_audit(incoming, async |known| {
        reject_unknown_params(&known.parameters()?)?;
        Ok(evidence_file::send(known.app, &known.context, target).await?)
    })
    .await
}

/// `/api/v1/agents/{id}/delegations/graph`.
pub(in crate::http) async fn agent_graph(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let mut parameters = known.parameters()?;
        let limit = number(parameters.remove("limit"))?.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
        let mut page = |cursor: &str| PageRequest { cursor: parameters.remove(cursor), limit };
        let (inbound, outbound) = (page("inbound_cursor"), page("outbound_cursor"));
        let query = GraphQuery { state: state(parameters.remove("state"))?, inbound, outbound };
        reject_unknown_params(&parameters)?;
        Ok(ok(&graph::graph(&known.context, &id, &query).await?))
    })
    .await
}
