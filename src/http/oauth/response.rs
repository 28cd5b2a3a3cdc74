//! Converts results of services to OAuth responses (RFC 6749 §5, RFC 8693 §2.2, RFC 9449 §8).

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use uuid::Uuid;

use crate::app::App;
use crate::domain::audit::store::LeafRef;
use crate::domain::refusal::catalogue::code::OauthErrorCode;
use crate::domain::refusal::{Error, Refusal};
use crate::services::issue::IssuedToken;
use actchain_protocol::authorization_details::Details;
use actchain_protocol::receipt::{self, Receipt};
use actchain_protocol::scope;
use actchain_protocol::token_exchange::TokenType;

/// Seconds to wait before a retry when the server cannot answer.
const WAIT: &str = "1";

#[derive(Serialize)]
struct TokenResponse<'a> {
    access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
    token_type: &'static str,
    expires_in: i64,
    /// RFC 6749 §3.3 allows no empty scope: a token with only authorization details has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization_details: Option<&'a Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// The kind of a token request, which decides about error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestedGrant {
    RefreshToken,
    Other,
}

/// RFC 6749 §5.2, with members for refusals by policy (RFC 8693 §2.2.2).
#[derive(Serialize)]
struct ErrorResponse<'a> {
    error: &'static str,
    error_description: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// Id of the confirmation that the use needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    ceremony: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegation_id: Option<&'a str>,
}

/// The response to a token request, with the next DPoP nonce if there is one. `reserved_by` is the delegation whose use
/// needs a confirmation.
pub(super) fn token(
    app: &App,
    result: &Result<IssuedToken, Error>,
    nonce: Option<String>,
    reserved_by: Option<&str>,
    grant: RequestedGrant,
) -> HttpResponse {
    let response = match result {
        Ok(issued) => {
            let mut response = HttpResponse::Ok();
            receipt(app, &mut response, issued.place);
            response.json(TokenResponse {
                access_token: &issued.access_token,
                issued_token_type: issued.exchanged.then_some(TokenType::AccessToken.urn()),
                token_type: issued.token_type,
                expires_in: issued.expires_in,
                scope: scope::join(&issued.scope),
                authorization_details: issued.details.as_ref(),
                delegation_id: issued.delegation_id.as_deref(),
                refresh_token: issued.refresh_token.as_deref().map(String::as_str),
            })
        }
        Err(Error::Refused(refusal)) => {
            let code = match grant {
                RequestedGrant::RefreshToken => refusal.code_for_refresh(),
                RequestedGrant::Other => refusal.code(),
            };
            refused(app, *refusal, code, reserved_by)
        }
        Err(stop) => stopped(app, stop),
    };
    uncached(response, nonce)
}

/// Adds the receipt of the event in the audit log, if receipts are enabled.
pub(in crate::http) fn receipt(app: &App, response: &mut HttpResponseBuilder, place: Option<LeafRef>) {
    if let Some(LeafRef { seq, leaf }) = place.filter(|_| app.config.audit.receipts) {
        response.insert_header((receipt::FIELD, Receipt { seq, leaf }.text()));
    }
}

/// The response to a refused or failed request at an OAuth endpoint.
pub(in crate::http) fn stopped(app: &App, stop: &Error) -> HttpResponse {
    match stop {
        Error::Refused(refusal) => refused(app, *refusal, refusal.code(), None),
        Error::Failed(fault) => {
            tracing::error!(error = %fault, "a request failed");
            unavailable()
        }
    }
}

/// Marks a response as not cacheable (RFC 6749 §5.1), and adds the next DPoP nonce if there is one.
pub(in crate::http) fn uncached(mut response: HttpResponse, nonce: Option<String>) -> HttpResponse {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, actix_web::http::header::HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, actix_web::http::header::HeaderValue::from_static("no-cache"));
    if let Some(nonce) = nonce.and_then(|nonce| nonce.parse().ok()) {
        headers.insert(actix_web::http::header::HeaderName::from_static("dpop-nonce"), nonce);
    }
    response
}

fn refused(app: &App, refusal: Refusal, code: OauthErrorCode, reserved_by: Option<&str>) -> HttpResponse {
    metrics::counter!("actchain_refusals_total", "reason" => refusal.reason()).increment(1);
    // The response is the same for all causes. Only the log names the cause.
    if let Some(cause) = refusal.cause() {
        tracing::info!(reason = refusal.reason(), cause, "refused");
    }
    let status = StatusCode::from_u16(code.status).unwrap_or(StatusCode::BAD_REQUEST);
    let ceremony = match refusal {
        Refusal::CeremonyRequired(id) => Some(id),
        _ => None,
    };
    let body = ErrorResponse {
        error: code.error,
        error_description: refusal.sentence(),
        reason: refusal.tells_reason().then(|| refusal.reason()),
        ceremony,
        delegation_id: ceremony.and(reserved_by),
    };
    let mut response = HttpResponse::build(status);
    match status {
        StatusCode::UNAUTHORIZED => {
            // RFC 9110 §15.5.2: every 401 carries a challenge, whatever method the client tried.
            let realm = app.issuer.replace(['"', '\\'], "");
            response.insert_header((WWW_AUTHENTICATE, format!("Basic realm=\"{realm}\"")));
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let wait = if refusal == Refusal::TooManyFailedAttempts { 60 } else { refusal.retry_after() };
            response.insert_header((RETRY_AFTER, wait.to_string()));
        }
        _ => {}
    }
    response.json(body)
}

/// A failure of this server: the response says only "try again".
fn unavailable() -> HttpResponse {
    metrics::counter!("actchain_errors_total").increment(1);
    HttpResponse::ServiceUnavailable().insert_header((RETRY_AFTER, WAIT)).json(ErrorResponse {
        error: "temporarily_unavailable",
        error_description: "The server cannot answer at the moment",
        reason: None,
        ceremony: None,
        delegation_id: None,
    })
}
