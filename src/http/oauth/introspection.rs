//! For relying parties: introspection (RFC 7662, RFC 9701), revocation (RFC 7009) and status lists.

use actix_web::http::header::{ACCEPT, CACHE_CONTROL, ETAG, HeaderMap, IF_NONE_MATCH, VARY};
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use tracing_actix_web::RequestId;

use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::http::credentials;
use crate::http::oauth::response;
use crate::http::params::form;
use crate::http::problem;
use crate::protocol::introspection::{JWT_MEDIA_TYPE, preferred};
use crate::protocol::status_list;
use crate::services::introspect::{self, Answer};
use crate::services::{revoke_token, status_lists};

pub(in crate::http) async fn introspect(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    app: Data<App>,
) -> HttpResponse {
    let look = async || -> Result<Answer, Error> {
        let params = form(&request, payload, app.config.limits.max_body_bytes).await?;
        let now = app.clock.now();
        let from = credentials::client_request("/oauth/introspect", &request, request_id, &params)?;
        let token = params.get("token").ok_or(Refusal::Malformed("token is missing"))?;
        let form = preferred(accepted(request.headers()).as_deref());
        introspect::introspect(&app, &from, (token, form), now).await
    };
    let response = match look().await {
        Ok(Answer::Json(body)) => HttpResponse::Ok().insert_header((VARY, "Accept")).json(body),
        Ok(Answer::Jwt(jwt)) => {
            HttpResponse::Ok().insert_header((VARY, "Accept")).content_type(JWT_MEDIA_TYPE).body(jwt)
        }
        Err(stop) => response::stopped(&app, &stop),
    };
    response::uncached(response, nonce(&app))
}

fn accepted(headers: &HeaderMap) -> Option<String> {
    let fields: Vec<&str> = headers.get_all(ACCEPT).filter_map(|field| field.to_str().ok()).collect();
    (!fields.is_empty()).then(|| fields.join(","))
}

fn nonce(app: &App) -> Option<String> {
    app.nonces.as_ref().map(|nonces| nonces.current(app.clock.now()))
}

pub(in crate::http) async fn revoke(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    app: Data<App>,
) -> HttpResponse {
    let revoke = async || -> Result<(), Error> {
        let params = form(&request, payload, app.config.limits.max_body_bytes).await?;
        let now = app.clock.now();
        let from = credentials::client_request("/oauth/revoke", &request, request_id, &params)?;
        let token = params.get("token").ok_or(Refusal::Malformed("token is missing"))?;
        revoke_token::revoke(&app, &from, token, now).await
    };
    let response = match revoke().await {
        Ok(()) => HttpResponse::Ok().finish(),
        Err(stop) => response::stopped(&app, &stop),
    };
    response::uncached(response, nonce(&app))
}

/// All lists that unexpired tokens refer to (draft-ietf-oauth-status-list §9).
pub(in crate::http) async fn status_lists(app: Data<App>) -> HttpResponse {
    match status_lists::live(&app, app.clock.now()).await {
        Ok(lists) => HttpResponse::Ok()
            .insert_header((CACHE_CONTROL, format!("public, max-age={}", app.config.status.ttl)))
            .json(json!({"status_lists": lists})),
        Err(fault) => problem::of(&fault.into(), None),
    }
}

/// One status list (draft-ietf-oauth-status-list §8.1). Answers 304 to a client whose `If-None-Match` is current.
pub(in crate::http) async fn status_list(
    request: HttpRequest,
    app: Data<App>,
    list: Path<String>,
) -> HttpResponse {
    if request.query_string().split('&').any(|pair| pair == "time" || pair.starts_with("time=")) {
        return problem::of(&Refusal::NotSupported.into(), None);
    }
    // Only the canonical spelling of a number, so that each list has one URL.
    let number = list.parse::<u64>().ok().filter(|number| number.to_string() == *list);
    let made = match number {
        None => Err(Error::Refused(Refusal::NotFound)),
        Some(number) => status_lists::signed(&app, number, app.clock.now()).await,
    };
    let made = match made {
        Ok(made) => made,
        Err(stop) => return problem::of(&stop, None),
    };
    let etag = format!("\"{}\"", made.etag);
    let known = request.headers().get_all(IF_NONE_MATCH).filter_map(|field| field.to_str().ok());
    // RFC 9110 §13.1.2: the asterisk matches any representation.
    let is_it = |tag: &str| tag == "*" || tag.trim_start_matches("W/") == etag;
    let has_it = known.flat_map(|field| field.split(',')).any(|tag| is_it(tag.trim()));
    let mut response = if has_it { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((ETAG, etag))
        .insert_header((CACHE_CONTROL, format!("public, max-age={}", app.config.status.ttl)));
    if has_it {
        response.finish()
    } else {
        response.content_type(status_list::MEDIA_TYPE).body(made.token.clone())
    }
}
