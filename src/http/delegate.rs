//! `/delegate` and what lies below it, and `/agents`.

use std::time::Duration;

use actix_web::http::header::{HeaderValue, RETRY_AFTER};
use actix_web::web::{Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing_actix_web::RequestId;
use uuid::Uuid;

use super::desk::{Known, Stopped, answer, known};
use crate::app::App;
use crate::domain::delegation::State;
use crate::domain::delegation::list::Filter;
use crate::domain::refusal::{Refusal, Stop};
use crate::flows::delegations::ceremonies::{self, Decision};
use crate::flows::delegations::{self, Approval, NewDelegation, Page};
use crate::flows::desk::{Caller, Desk, Done};

/// How soon an agent may ask again whether its request was decided (RFC 8628 §3.2).
const INTERVAL: u32 = 5;
/// The longest wait for a decision.
const MOST_WAIT: u32 = 30;

type Answer = Result<Done, Stopped>;

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
struct NewKey {
    jwk: Map<String, Value>,
}

pub(super) async fn create(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    app: Data<App>,
) -> HttpResponse {
    let create = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let wanted: NewDelegation = known.read()?;
        Ok(delegations::create(&Desk::of(&app), &known.call, &wanted).await?)
    };
    answer(&app, create().await)
}

/// What is asked for in the query of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListQuery {
    state: Option<State>,
    delegator_iss: Option<String>,
    delegator_sub: Option<String>,
    delegate: Option<String>,
    parent: Option<String>,
    task: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl ListQuery {
    fn read(self) -> Result<(Filter, Page), Refusal> {
        let instant = |text: Option<String>| match text {
            None => Ok(None),
            Some(text) => OffsetDateTime::parse(&text, &Rfc3339)
                .map(Some)
                .map_err(|_| Refusal::Malformed("since and until are RFC 3339")),
        };
        let filter = Filter {
            state: self.state,
            delegator_iss: self.delegator_iss,
            delegator_sub: self.delegator_sub,
            delegate: self.delegate,
            parent: self.parent,
            task: self.task,
            since: instant(self.since)?,
            until: instant(self.until)?,
        };
        let texts =
            [&filter.delegator_iss, &filter.delegator_sub, &filter.delegate, &filter.parent, &filter.task];
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(Refusal::Malformed("The query has a character that no name has"));
        }
        Ok((filter, Page { cursor: self.cursor, limit: self.limit }))
    }
}

fn query<T: serde::de::DeserializeOwned>(request: &HttpRequest) -> Result<T, Refusal> {
    Query::<T>::from_query(request.query_string())
        .map(Query::into_inner)
        .map_err(|_| Refusal::Malformed("The query is not what this endpoint reads"))
}

pub(super) async fn list(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    app: Data<App>,
) -> HttpResponse {
    let list = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let (filter, page) = query::<ListQuery>(&request)?.read()?;
        Ok(delegations::list(&Desk::of(&app), &known.call, &filter, &page).await?)
    };
    answer(&app, list().await)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(super) async fn agents(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    app: Data<App>,
) -> HttpResponse {
    let agents = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let PageQuery { limit, cursor } = query(&request)?;
        if cursor.as_ref().is_some_and(|cursor| cursor.contains('\0')) {
            return Err(Refusal::Malformed("cursor is none of ours").into());
        }
        Ok(delegations::agents(&Desk::of(&app), &known.call, &Page { cursor, limit }).await?)
    };
    answer(&app, agents().await)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wait {
    wait: Option<u32>,
}

pub(super) async fn show(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let mut waits = false;
    let show = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let Wait { wait } = query(&request)?;
        if wait.is_some_and(|seconds| seconds > MOST_WAIT) {
            return Err(Refusal::Malformed("wait is 0 to 30 seconds").into());
        }
        let (state, done) = poll(&app, known, &id, wait.unwrap_or_default()).await?;
        waits = state == State::Requested;
        Ok(done)
    };
    let shown = show().await;
    let mut response = answer(&app, shown);
    if waits {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(INTERVAL));
    }
    response
}

/// Shows a delegation; while it is requested, waits for a decision, or sees to it that nobody asks too often.
async fn poll(app: &App, mut known: Known, id: &str, wait: u32) -> Result<(State, Done), Stopped> {
    let desk = Desk::of(app);
    let (state, done) = delegations::show(&desk, &known.call, id).await?;
    if state != State::Requested || !matches!(known.call.caller, Caller::Agent(..)) {
        return Ok((state, done));
    }
    if wait == 0 {
        let who = known.call.caller.principal(desk.issuer).map(|who| who.sub).unwrap_or_default();
        return match app.polls.count(&format!("{who} {id}"), known.call.now, INTERVAL) {
            Ok(()) => Ok((state, done)),
            Err(interval) => Err(Stopped::later(Refusal::SlowDown, interval)),
        };
    }
    // Whoever finds no place to wait is answered at once, and asks again.
    let Ok(_place) = app.waiting.try_acquire() else { return Ok((state, done)) };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(wait.into());
    let mut pause = Duration::from_millis(50);
    loop {
        tokio::time::sleep_until((tokio::time::Instant::now() + pause).min(deadline)).await;
        pause = (pause * 2).min(Duration::from_millis(800));
        known.call.now = app.clock.now();
        let (state, done) = delegations::show(&desk, &known.call, id).await?;
        if state != State::Requested || tokio::time::Instant::now() >= deadline {
            return Ok((state, done));
        }
    }
}

pub(super) async fn approve(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let approve = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let approval: Approval = known.read_if_any()?;
        Ok(delegations::approve(&Desk::of(&app), &known.call, &id, &approval).await?)
    };
    answer(&app, approve().await)
}

pub(super) async fn deny(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let deny = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let Reason { reason } = known.read_if_any()?;
        Ok(delegations::deny(&Desk::of(&app), &known.call, &id, reason.as_deref()).await?)
    };
    answer(&app, deny().await)
}

pub(super) async fn revoke(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let revoke = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let Reason { reason } = known.read_if_any()?;
        Ok(delegations::revoke(&Desk::of(&app), &known.call, &id, reason.as_deref()).await?)
    };
    answer(&app, revoke().await)
}

pub(super) async fn renew(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let renew = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let Renewal { expires_in } = known.read()?;
        Ok(delegations::renew(&Desk::of(&app), &known.call, &id, expires_in).await?)
    };
    answer(&app, renew().await)
}

pub(super) async fn commands(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let commands = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let Commands { count } = known.read()?;
        Ok(delegations::commands(&Desk::of(&app), &known.call, &id, count).await?)
    };
    answer(&app, commands().await)
}

pub(super) async fn key(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let key = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let NewKey { jwk } = known.read()?;
        Ok(delegations::rebind(&Desk::of(&app), &known.call, &id, &jwk).await?)
    };
    answer(&app, key().await)
}

pub(super) async fn list_ceremonies(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let list = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        Ok(ceremonies::list(&Desk::of(&app), &known.call, &id).await?)
    };
    answer(&app, list().await)
}

pub(super) async fn approve_ceremony(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, path): (Data<App>, Path<(String, String)>),
) -> HttpResponse {
    let done = decide(&app, (&request, request_id, payload), &path, Decision::Approve).await;
    answer(&app, done)
}

pub(super) async fn deny_ceremony(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, path): (Data<App>, Path<(String, String)>),
) -> HttpResponse {
    let done = decide(&app, (&request, request_id, payload), &path, Decision::Deny).await;
    answer(&app, done)
}

async fn decide(
    app: &App,
    (request, request_id, payload): (&HttpRequest, RequestId, Payload),
    (id, ceremony): &(String, String),
    decision: Decision,
) -> Answer {
    let known = known(app, request, request_id, payload).await?;
    let ceremony = Uuid::parse_str(ceremony).map_err(|_| Stop::Refused(Refusal::NotFound))?;
    Ok(ceremonies::decide(&Desk::of(app), &known.call, (id, ceremony), decision).await?)
}
