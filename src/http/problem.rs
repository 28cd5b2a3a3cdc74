//! Problems outside the OAuth endpoints (RFC 9457). `type` and `reason` are stable; `docs/reference/problems.md` lists
//! them.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use crate::domain::refusal::{Error, Refusal};
use actchain_protocol::jose::Alg;

const MEDIA_TYPE: &str = "application/problem+json";

/// RFC 9457 §3.1, with the extension members of this server.
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: Option<&'static str>,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// The state that the refusal is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<[PointedError; 1]>,
}

/// An error at a member of the request (RFC 9457 §3).
#[derive(Serialize)]
struct PointedError {
    detail: &'static str,
    /// A JSON Pointer in a URI fragment (RFC 6901 §6).
    pointer: String,
}

/// A problem that the status code describes completely.
pub(super) fn of_status(status: StatusCode) -> HttpResponse {
    let problem = Problem {
        kind: "about:blank".to_owned(),
        title: status.canonical_reason(),
        status: status.as_u16(),
        reason: None,
        detail: None,
        state: None,
        errors: None,
    };
    HttpResponse::build(status).content_type(MEDIA_TYPE).json(problem)
}

/// The path names no endpoint.
pub(super) async fn not_found(_: HttpRequest) -> HttpResponse {
    of_status(StatusCode::NOT_FOUND)
}

/// The response for a refusal or a failure, with a detail for this case.
pub(super) fn of(stop: &Error, detail: Option<&str>) -> HttpResponse {
    match stop {
        Error::Refused(refusal) => refused(*refusal, detail),
        Error::Failed(fault) => {
            tracing::error!(error = %fault, "a request failed");
            metrics::counter!("actchain_errors_total").increment(1);
            let mut response = of_status(StatusCode::SERVICE_UNAVAILABLE);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

fn refused(refusal: Refusal, detail: Option<&str>) -> HttpResponse {
    metrics::counter!("actchain_refusals_total", "reason" => refusal.reason()).increment(1);
    let code = refusal.code_for_resource();
    let pointed = |pointer| {
        let detail = match refusal {
            Refusal::ExceedsParent(_) => "The value exceeds the limit",
            _ => "No resource declares the name",
        };
        [PointedError { detail, pointer }]
    };
    let problem = Problem {
        kind: format!("urn:actchain:problem:{}", refusal.reason()),
        title: Some(refusal.sentence()),
        status: code.status,
        reason: Some(refusal.reason()),
        detail,
        state: refusal.state(),
        errors: refusal.pointer().map(pointed),
    };
    let status = StatusCode::from_u16(code.status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = HttpResponse::build(status);
    response.content_type(MEDIA_TYPE).insert_header((CACHE_CONTROL, "no-store"));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            for challenge in challenges(refusal, code.error) {
                response.append_header((WWW_AUTHENTICATE, challenge));
            }
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            response.insert_header((RETRY_AFTER, refusal.retry_after().to_string()));
        }
        _ => {}
    }
    response.json(problem)
}

/// One challenge for each scheme (RFC 6750 §3, RFC 9449 §7.1); without credentials the challenge has no `error`.
fn challenges(refusal: Refusal, error: &str) -> [String; 2] {
    let algs: Vec<&str> = Alg::ALL.iter().map(|alg| alg.name()).collect();
    let algs = algs.join(" ");
    match refusal {
        Refusal::Unauthenticated => [format!("DPoP algs=\"{algs}\""), "Bearer".to_owned()],
        _ => [format!("DPoP error=\"{error}\", algs=\"{algs}\""), format!("Bearer error=\"{error}\"")],
    }
}
