//! `/delegate` with its subordinate paths, and `/agents`.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, RETRY_AFTER};
use actix_web::web::Path;
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::delegation::view::View;
use crate::domain::refusal::Refusal;
use crate::domain::step::StepReport;
use crate::http::management::request::{
    AuthenticatedRequest, HttpError, ManagementRequest, ManagementResult, accepted, at, ok, replied, serve,
    serve_steps,
};
use crate::platform::clock;
use crate::services::caller::Caller;
use crate::services::delegations::ceremonies::{self, CeremonyId, ConfirmationDecision};
use crate::services::delegations::{self, Approval, NewDelegation, Reported};
use crate::services::page::PageRequest;
use actchain_protocol::metadata::endpoint;

/// How soon an agent may poll again for the decision on its request, in seconds (RFC 8628 §3.2).
const INTERVAL: u32 = 5;
/// The longest wait for a decision, in seconds.
const MAX_WAIT: u32 = 30;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RevocationReason {
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renewal {
    expires_in: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRotation {
    jwk: Map<String, Value>,
}

pub(in crate::http) async fn create(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let request: NewDelegation = known.read()?;
        let reply = delegations::create(&known.context, &request).await?;
        let waits = reply.value.state() == DelegationState::Requested;
        let status = if waits { StatusCode::ACCEPTED } else { StatusCode::CREATED };
        let location = endpoint(&known.app.issuer, &format!("/delegate/{}", reply.value.id()));
        Ok(at(status, &location, reply))
    })
    .await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::http) struct ListQuery {
    state: Option<DelegationState>,
    delegator_iss: Option<String>,
    delegator_sub: Option<String>,
    delegate: Option<String>,
    parent: Option<String>,
    task_id: Option<String>,
    connection: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl ListQuery {
    fn read(self) -> Result<(DelegationFilter, PageRequest), Refusal> {
        let instant = |text: Option<String>| match text {
            None => Ok(None),
            Some(text) => clock::instant(&text)
                .map(Some)
                .ok_or(Refusal::Malformed("from and to are RFC 3339, or dates such as 2026-01-31")),
        };
        let filter = DelegationFilter {
            state: self.state,
            delegator_iss: self.delegator_iss,
            delegator_sub: self.delegator_sub,
            delegate: self.delegate,
            parent: self.parent,
            task_id: self.task_id,
            connection: self.connection,
            from: instant(self.from)?,
            to: instant(self.to)?,
            ..DelegationFilter::default()
        };
        Ok((filter, PageRequest { cursor: self.cursor, limit: self.limit }))
    }
}

pub(in crate::http) async fn list(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let (filter, page) = known.query::<ListQuery>()?.read()?;
        Ok(ok(&delegations::list(&known.context, &filter, &page).await?))
    })
    .await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(in crate::http) async fn agents(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let PageQuery { limit, cursor } = known.query()?;
        Ok(ok(&delegations::agents(&known.context, &PageRequest { cursor, limit }).await?))
    })
    .await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wait {
    wait: Option<u32>,
}

pub(in crate::http) async fn show(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let Wait { wait } = known.query()?;
        if wait.is_some_and(|seconds| seconds > MAX_WAIT) {
            return Err(Refusal::Malformed("wait is 0 to 30 seconds").into());
        }
        let (view, interval) = poll(known, &id, wait.unwrap_or_default()).await?;
        let mut response = ok(&view);
        if let Some(interval) = interval {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(interval));
        }
        Ok(response)
    })
    .await
}

/// Shows a delegation. While it is requested, waits up to `wait` seconds for the decision, or limits how often an agent
/// polls. Returns the number of seconds after which the caller may poll again.
async fn poll(
    mut known: AuthenticatedRequest<'_>,
    id: &str,
    wait: u32,
) -> Result<(View, Option<u32>), HttpError> {
    let app = known.app;
    let view = delegations::show(&known.context, id).await?;
    if view.state() != DelegationState::Requested {
        return Ok((view, None));
    }
    let Caller::Agent(agent) = &known.context.caller else { return Ok((view, Some(INTERVAL))) };
    if wait == 0 {
        let poller = format!("{} {id}", agent.client.client_id);
        return match app.limits.polls.count(&poller, known.context.now, INTERVAL) {
            Ok(interval) => Ok((view, Some(interval))),
            Err(interval) => Err(HttpError::later(Refusal::SlowDown, interval)),
        };
    }
    // Without a free permit the agent is answered at once, and polls again.
    let Ok(_permit) = app.limits.long_poll_permits.try_acquire() else { return Ok((view, Some(INTERVAL))) };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(wait.into());
    let mut pause = Duration::from_millis(50);
    loop {
        tokio::time::sleep_until((tokio::time::Instant::now() + pause).min(deadline)).await;
        pause = (pause * 2).min(Duration::from_millis(800));
        known.context.now = app.clock.now();
        let view = delegations::show(&known.context, id).await?;
        if view.state() != DelegationState::Requested {
            return Ok((view, None));
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok((view, Some(INTERVAL)));
        }
    }
}

pub(in crate::http) async fn approve(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let approval: Approval = known.read_if_any()?;
        Ok(replied(delegations::approve(&known.context, &id, &approval, None).await?))
    })
    .await
}

pub(in crate::http) async fn deny(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let RevocationReason { reason } = known.read_if_any()?;
        Ok(replied(delegations::deny(&known.context, &id, reason.as_deref()).await?))
    })
    .await
}

pub(in crate::http) async fn revoke(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let RevocationReason { reason } = known.read_if_any()?;
        Ok(replied(delegations::revoke(&known.context, &id, reason.as_deref()).await?))
    })
    .await
}

pub(in crate::http) async fn renew(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let Renewal { expires_in } = known.read()?;
        Ok(replied(delegations::renew(&known.context, &id, expires_in).await?))
    })
    .await
}

pub(in crate::http) async fn report_steps(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve_steps(incoming, async |known, proof| {
        let report: StepReport = known.read()?;
        Ok(replied(
            delegations::report_steps(known.app, &known.context, proof, Reported { id: &id, report }).await?,
        ))
    })
    .await
}

pub(in crate::http) async fn rotate_key(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let KeyRotation { jwk } = known.read()?;
        Ok(accepted(delegations::rotate_key(&known.context, &id, &jwk).await?))
    })
    .await
}

pub(in crate::http) async fn list_ceremonies(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let PageQuery { limit, cursor } = known.query()?;
        Ok(ok(&ceremonies::list(&known.context, &id, &PageRequest { cursor, limit }).await?))
    })
    .await
}

#[derive(Deserialize)]
pub(in crate::http) struct CeremonyPath {
    id: String,
    ceremony: String,
}

pub(in crate::http) async fn approve_ceremony(
    incoming: ManagementRequest,
    path: Path<CeremonyPath>,
) -> HttpResponse {
    serve(incoming, async |known| decide(known, &path, ConfirmationDecision::Approve).await).await
}

pub(in crate::http) async fn deny_ceremony(
    incoming: ManagementRequest,
    path: Path<CeremonyPath>,
) -> HttpResponse {
    serve(incoming, async |known| decide(known, &path, ConfirmationDecision::Deny).await).await
}

async fn decide(
    known: AuthenticatedRequest<'_>,
    path: &CeremonyPath,
    decision: ConfirmationDecision,
) -> ManagementResult {
    let id = Uuid::parse_str(&path.ceremony).map_err(|_| Refusal::NotFound)?;
    let ceremony = CeremonyId { delegation: &path.id, id };
    Ok(replied(ceremonies::decide(&known.context, ceremony, decision, None).await?))
}
