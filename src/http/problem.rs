//! Problems outside the OAuth endpoints (RFC 9457).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

/// A problem that the status code says all about.
pub(super) fn of_status(status: StatusCode) -> HttpResponse {
    HttpResponse::build(status).content_type("application/problem+json").body(
        json!({"type": "about:blank", "title": status.canonical_reason(), "status": status.as_u16()})
            .to_string(),
    )
}

/// There is nothing at this path.
pub(super) async fn not_found(_: HttpRequest) -> HttpResponse {
    of_status(StatusCode::NOT_FOUND)
}
