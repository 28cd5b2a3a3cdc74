//! Wraps every request: its origin with the request id, log line, metrics, the limit on header size, CORS, and when the
//! connection closes. Neither query nor headers are logged: they can contain secrets.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpResponse};
use tracing::Span;
use tracing_actix_web::{RequestId, RootSpanBuilder};

use crate::app::App;
use crate::domain::audit::RequestOrigin;
use crate::domain::refusal::Refusal;
use crate::http::connections::Connections;
use crate::http::console;
use crate::http::cors::Cors;
use crate::http::credentials;
use crate::http::origin::{REQUEST_ID, Received};
use crate::http::params;
use crate::http::problem;
use crate::http::routes::{self, CONSOLE, PROXY};
use crate::platform::clock::Stopwatch;
use crate::platform::config::Networks;

/// The limit for all header fields together, in bytes.
const MAX_HEADER_BYTES: usize = 32 * 1024;
const NOSNIFF: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));

/// A span with the ids of the request, by which log lines and events are joined.
pub(super) struct RequestSpan;

impl RootSpanBuilder for RequestSpan {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let own_id = request.extensions().get::<RequestId>().map(ToString::to_string);
        let received = Received {
            peer: request.peer_addr().map(|peer| peer.ip()),
            headers: request.headers(),
            own_id: own_id.as_deref(),
        };
        let no_proxies = Networks::default();
        let app = request.app_data::<Data<App>>();
        let origin = received.origin(app.map_or(&no_proxies, |app| &app.config.http.trusted_proxies));
        let span = tracing::info_span!("request", request_id = origin.request_id, trace_id = origin.trace_id);
        request.extensions_mut().insert(origin);
        span
    }

    fn on_request_end<B: MessageBody>(_: Span, _: &Result<ServiceResponse<B>, Error>) {}
}

pub(super) async fn frame(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let stopwatch = Stopwatch::start();
    let app = request.app_data::<Data<App>>().cloned();
    let issuer = app.as_ref().map(|app| app.issuer.as_str()).unwrap_or_default();
    let found = routes::find(issuer, request.path());
    let route = found.unwrap_or("other");
    let method = request.method().clone();
    let origins = app.as_ref().map(|app| app.config.http.cors_origins.as_slice()).unwrap_or_default();
    let cors = Cors::of(found, request.headers(), origins);
    let connections = request.app_data::<Data<Connections>>().cloned();
    let mut response = match answered_at_once(&request, found, &cors) {
        Some(response) => request.into_response(response),
        None => next.call(request).await?.map_into_boxed_body(),
    };
    let RequestOrigin { request_id, ip, .. } = credentials::origin(response.request());
    let headers = response.headers_mut();
    headers.insert(NOSNIFF.0, NOSNIFF.1);
    if let Some(id) = request_id.as_ref().and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(REQUEST_ID, id);
    }
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response = not_allowed(response, issuer);
    }
    cors.mark(response.headers_mut());
    if let Some(connections) = connections {
        connections.settle(&mut response);
    }
    let status = response.status().as_u16();
    tracing::info!(
        request_id,
        ip = ip.map(tracing::field::display),
        method = method.as_str(),
        route,
        status,
        micros = stopwatch.micros(),
        "request"
    );
    let status = if status < 400 {
        "ok"
    } else if status < 500 {
        "refused"
    } else {
        "failed"
    };
    metrics::counter!("actchain_requests_total", "route" => route, "status" => status).increment(1);
    metrics::histogram!("actchain_request_seconds", "route" => route)
        .record(stopwatch.elapsed().as_secs_f64());
    Ok(response)
}

/// Responses that need no route: too large headers, a preflight, or a path that is not valid text.
fn answered_at_once(request: &ServiceRequest, route: Option<&str>, cors: &Cors) -> Option<HttpResponse> {
    let headers = request.headers();
    let header_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > MAX_HEADER_BYTES {
        return Some(problem::of_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    // The proxy validates the upstream path itself, in its raw form.
    if route != Some(PROXY) && !params::is_text(request.uri().path()) {
        return Some(problem::of(&Refusal::NotFound.into(), None));
    }
    route.and_then(|route| cors.preflight(request.method(), headers, route))
}

/// Lists the allowed methods (RFC 9110 §15.5.6).
fn not_allowed(response: ServiceResponse<BoxBody>, issuer: &str) -> ServiceResponse<BoxBody> {
    let path = response.request().path();
    let allowed = match routes::find(issuer, path) {
        Some(CONSOLE) => console::methods(issuer, path),
        Some(route) => routes::methods(route),
        None => "GET".to_owned(),
    };
    let headers = response.headers().clone();
    let mut answer = problem::of_status(StatusCode::METHOD_NOT_ALLOWED);
    for (name, value) in headers.iter().filter(|(name, _)| **name == REQUEST_ID || **name == NOSNIFF.0) {
        answer.headers_mut().insert(name.clone(), value.clone());
    }
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    response.into_response(answer)
}
