//! The frame around every request: its id, its line in the log, its metrics, and how much header it may have. Neither
//! query nor headers are logged: secrets end up there.

use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage};
use tracing::Span;
use tracing_actix_web::{RequestId, RootSpanBuilder};

use super::{PROXY, ROUTES, problem};

/// Bytes of all header fields together (standards GN-16 allows 16 KiB for one).
const MAX_HEADER_BYTES: usize = 32 * 1024;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const NOSNIFF: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));

/// A span that carries the request's id and nothing a caller sent but method and path.
pub(super) struct RequestSpan;

impl RootSpanBuilder for RequestSpan {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let request_id = request.extensions().get::<RequestId>().copied();
        let request_id = request_id.map(|id| id.to_string()).unwrap_or_default();
        tracing::info_span!("request", request_id)
    }

    fn on_request_end<B: MessageBody>(_: Span, _: &Result<ServiceResponse<B>, Error>) {}
}

pub(super) async fn frame(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let header_bytes: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let (method, route) = (request.method().clone(), route_of(&request));
    let mut response = if header_bytes > MAX_HEADER_BYTES {
        request.into_response(problem::of_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE))
    } else {
        next.call(request).await?.map_into_boxed_body()
    };
    let request_id = response.request().extensions().get::<RequestId>().map(ToString::to_string);
    let headers = response.headers_mut();
    headers.insert(NOSNIFF.0, NOSNIFF.1);
    if let Some(id) = request_id.as_ref().and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(REQUEST_ID, id);
    }
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response = not_allowed(response);
    }
    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    tracing::info!(
        request_id,
        method = method.as_str(),
        route,
        status,
        micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
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
    metrics::histogram!("actchain_request_seconds", "route" => route).record(elapsed.as_secs_f64());
    Ok(response)
}

/// The route, from a fixed list: what strangers make up does not become a label.
fn route_of(request: &ServiceRequest) -> &'static str {
    find_route(request.path()).map_or("other", |(route, _)| route)
}

/// The longest route whose segments a path ends with; a segment in braces stands for any.
fn find_route(path: &str) -> Option<(&'static str, &'static [&'static str])> {
    // Behind it stands a path of somebody else's, which may end like any of ours.
    if path.contains("/vault/proxy/") {
        return ROUTES.iter().find(|(route, _)| *route == PROXY).copied();
    }
    let fits = |route: &str| {
        let mut given = path.rsplit('/');
        route.trim_start_matches('/').rsplit('/').all(|wanted| {
            given
                .next()
                .is_some_and(|segment| wanted == segment || (wanted.starts_with('{') && !segment.is_empty()))
        })
    };
    let fitting = ROUTES.iter().filter(|(route, _)| fits(route));
    fitting.max_by_key(|(route, _)| route.split('/').count()).copied()
}

/// RFC 9110 §15.5.6: says which methods there are.
fn not_allowed(response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let path = response.request().path().to_owned();
    let allowed = find_route(&path).map_or_else(|| "GET".to_owned(), |(_, methods)| methods.join(", "));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_route_names_a_path() {
        let found = |path| find_route(path).map(|(route, _)| route);
        assert_eq!(found("/t1/api/v1/tasks/7/agents"), Some("/api/v1/tasks/{id}/agents"));
        assert_eq!(found("/agents"), Some("/agents"));
        assert_eq!(found("/delegate/agents"), Some("/delegate/{id}"));
        assert_eq!(found("/delegate/7/ceremonies/8/deny"), Some("/delegate/{id}/ceremonies/{ceremony}/deny"));
        assert_eq!(found("/t1/vault/proxy/7/api.example.com/oauth/token"), Some(PROXY));
        assert_eq!((found("/delegate/"), found("/nothing")), (None, None));
    }
}
