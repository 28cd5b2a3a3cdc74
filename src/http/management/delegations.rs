//! `/delegate` with its subordinate paths, and `/agents`.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::{HeaderValue, RETRY_AFTER};
use actix_web::web::Path;
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::domain::delegation::State;
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::refusal::Refusal;
use crate::http::management::request::{
    AuthenticatedRequest, HttpError, ManagementRequest, ManagementResult, serve,
};
use crate::platform::clock;
use crate::services::delegations::ceremonies::{self, ConfirmationDecision};
use crate::services::delegations::{self, Approval, NewDelegation, Page};
use crate::services::request_context::{ApiResponse, Caller, Desk};

/// How soon an agent may poll again for the decision on its request, in seconds (RFC 8628 §3.2).
const INTERVAL: u32 = 5;
/// The longest wait for a decision, in seconds.
const MOST_WAIT: u32 = 30;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Reason {
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renewal {
    expires_in: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Commands {
    count: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRotation {
    jwk: Map<String, Value>,
}

pub(in crate::http) async fn create(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let wanted: NewDelegation = known.read()?;
        Ok(delegations::create(&known.desk(), &known.call, &wanted).await?)
    })
    .await
}

/// The query parameters of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::http) struct ListQuery {
    state: Option<State>,
    delegator_iss: Option<String>,
    delegator_sub: Option<String>,
    delegate: Option<String>,
    parent: Option<String>,
    task_id: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl ListQuery {
    fn read(self) -> Result<(DelegationFilter, Page), Refusal> {
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
            from: instant(self.from)?,
            to: instant(self.to)?,
        };
        Ok((filter, Page { cursor: self.cursor, limit: self.limit }))
    }
}

pub(in crate::http) async fn list(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let (filter, page) = known.query::<ListQuery>()?.read()?;
        Ok(delegations::list(&known.desk(), &known.call, &filter, &page).await?)
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
        Ok(delegations::agents(&known.desk(), &known.call, &Page { cursor, limit }).await?)
    })
    .await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wait {
    wait: Option<u32>,
}

pub(in crate::http) async fn show(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    let mut ask_again = None;
    let mut response = serve(incoming, async |known| {
        let Wait { wait } = known.query()?;
        if wait.is_some_and(|seconds| seconds > MOST_WAIT) {
            return Err(Refusal::Malformed("wait is 0 to 30 seconds").into());
        }
        let (done, interval) = poll(known, &id, wait.unwrap_or_default()).await?;
        ask_again = interval;
        Ok(done)
    })
    .await;
    if let Some(interval) = ask_again {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(interval));
    }
    response
}

/// Shows a delegation. While it is requested, waits up to `wait` seconds for the decision, or limits how often an agent
/// polls. Returns the number of seconds after which the caller may poll again.
async fn poll(
    mut known: AuthenticatedRequest<'_>,
    id: &str,
    wait: u32,
) -> Result<(ApiResponse, Option<u32>), HttpError> {
    let app = known.app;
    let desk = Desk::of(app);
    let (state, done) = delegations::show(&desk, &known.call, id).await?;
    if state != State::Requested {
        return Ok((done, None));
    }
    if !matches!(known.call.caller, Caller::Agent(..)) {
        return Ok((done, Some(INTERVAL)));
    }
    if wait == 0 {
        let who = known.call.caller.principal(desk.issuer).map(|who| who.sub).unwrap_or_default();
        return match app.polls.count(&format!("{who} {id}"), known.call.now, INTERVAL) {
            Ok(interval) => Ok((done, Some(interval))),
            Err(interval) => Err(HttpError::later(Refusal::SlowDown, interval)),
        };
    }
    // Without a free permit the agent is answered at once, and polls again.
    let Ok(_place) = app.long_poll_permits.try_acquire() else { return Ok((done, Some(INTERVAL))) };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(wait.into());
    let mut pause = Duration::from_millis(50);
    loop {
        tokio::time::sleep_until((tokio::time::Instant::now() + pause).min(deadline)).await;
        pause = (pause * 2).min(Duration::from_millis(800));
        known.call.now = app.clock.now();
        let (state, done) = delegations::show(&desk, &known.call, id).await?;
        if state != State::Requested {
            return Ok((done, None));
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok((done, Some(INTERVAL)));
        }
    }
}

pub(in crate::http) async fn approve(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let approval: Approval = known.read_if_any()?;
        Ok(delegations::approve(&known.desk(), &known.call, &id, &approval).await?)
    })
    .await
}

pub(in crate::http) async fn deny(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let Reason { reason } = known.read_if_any()?;
        Ok(delegations::deny(&known.desk(), &known.call, &id, reason.as_deref()).await?)
    })
    .await
}

pub(in crate::http) async fn revoke(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let Reason { reason } = known.read_if_any()?;
        Ok(delegations::revoke(&known.desk(), &known.call, &id, reason.as_deref()).await?)
    })
    .await
}

pub(in crate::http) async fn renew(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let Renewal { expires_in } = known.read()?;
        Ok(delegations::renew(&known.desk(), &known.call, &id, expires_in).await?)
    })
    .await
}

pub(in crate::http) async fn commands(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let Commands { count } = known.read()?;
        Ok(delegations::commands(&known.desk(), &known.call, &id, count).await?)
    })
    .await
}

pub(in crate::http) async fn rotate_key(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let KeyRotation { jwk } = known.read()?;
        Ok(delegations::rotate_key(&known.desk(), &known.call, &id, &jwk).await?)
    })
    .await
}

pub(in crate::http) async fn list_ceremonies(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let PageQuery { limit, cursor } = known.query()?;
        Ok(ceremonies::list(&known.desk(), &known.call, &id, &Page { cursor, limit }).await?)
    })
    .await
}

pub(in crate::http) async fn approve_ceremony(
    incoming: ManagementRequest,
    path: Path<(String, String)>,
) -> HttpResponse {
    serve(incoming, async |known| decide(known, &path, ConfirmationDecision::Approve).await).await
}

pub(in crate::http) async fn deny_ceremony(
    incoming: ManagementRequest,
    path: Path<(String, String)>,
) -> HttpResponse {
    serve(incoming, async |known| decide(known, &path, ConfirmationDecision::Deny).await).await
}

async fn decide(
    known: AuthenticatedRequest<'_>,
    (id, ceremony): &(String, String),
    decision: ConfirmationDecision,
) -> ManagementResult {
    let ceremony = Uuid::parse_str(ceremony).map_err(|_| Refusal::NotFound)?;
    Ok(ceremonies::decide(&known.desk(), &known.call, (id, ceremony), decision).await?)
}
