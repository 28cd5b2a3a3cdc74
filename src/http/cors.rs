//! Requests of browsers from other origins (Fetch §3.3, the CORS protocol). Every origin may read public documents;
//! only configured origins may read responses that need credentials. No response allows cookies.

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap,
    HeaderValue, ORIGIN, VARY,
};

use crate::http::routes::{self, CONSOLE, PROXY};

/// Documents that need no authentication.
const PUBLIC: [&str; 9] = [
    "/oauth/jwks",
    "/oauth/status-lists",
    "/oauth/status-lists/{list}",
    "/audit/checkpoint",
    "/audit/keys",
    "/audit/proof/inclusion",
    "/audit/proof/consistency",
    "/audit/tile/{level}/{tile}",
    "/.well-known/oauth-authorization-server",
];

/// Never readable by scripts of other origins: proxied responses, a page for browsers, and endpoints of witnesses and
/// operators.
const CLOSED: [&str; 7] = [
    CONSOLE,
    PROXY,
    "/vault/callback/{provider}",
    "/audit/checkpoint/cosignatures",
    "/health",
    "/ready",
    "/metrics",
];

/// The response headers that a script may read.
const EXPOSED: &str = "Actchain-Audit-From, Actchain-Audit-Size, Actchain-Receipt, DPoP-Nonce, ETag, Idempotent-Replayed, Location, \
                       Retry-After, WWW-Authenticate, X-Request-Id";
/// The request headers that a script may send to routes that need credentials.
const SENT: &str =
    "Actchain-Session, Authorization, Content-Type, DPoP, Idempotency-Key, If-Match, Last-Event-ID";
/// How long a browser may cache the response to a preflight, in seconds.
const MAX_AGE: &str = "600";

/// Which origins may read the responses of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Everyone,
    Listed,
    Closed,
}

fn policy(route: &str) -> Policy {
    if PUBLIC.contains(&route) {
        Policy::Everyone
    } else if CLOSED.contains(&route) {
        Policy::Closed
    } else {
        Policy::Listed
    }
}

/// The CORS decision for one request.
#[derive(Debug)]
pub(super) struct Cors {
    /// The origin whose scripts may read the response.
    allowed: Option<HeaderValue>,
    policy: Policy,
    /// Whether the response differs by origin: `Vary: Origin` is set.
    varies: bool,
}

impl Cors {
    /// Decides by the route of the request, its `Origin` header and the configured origins.
    pub(super) fn of(route: Option<&str>, headers: &HeaderMap, listed: &[String]) -> Self {
        let policy = route.map_or(Policy::Closed, policy);
        let mut origins = headers.get_all(ORIGIN);
        let origin = match (origins.next(), origins.next()) {
            (Some(origin), None) => Some(origin),
            _ => None,
        };
        let is_listed = |origin: &&HeaderValue| listed.iter().any(|one| one.as_bytes() == origin.as_bytes());
        let allowed = match policy {
            Policy::Everyone => Some(HeaderValue::from_static("*")),
            Policy::Listed => origin.filter(is_listed).cloned(),
            Policy::Closed => None,
        };
        Self { allowed, policy, varies: policy == Policy::Listed && !listed.is_empty() }
    }

    /// The response to a preflight (Fetch §3.3.3); `None` if the request is no preflight or its origin is not allowed.
    pub(super) fn preflight(
        &self,
        method: &Method,
        headers: &HeaderMap,
        route: &str,
    ) -> Option<HttpResponse> {
        let asks = headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if method != Method::OPTIONS || !asks || self.allowed.is_none() {
            return None;
        }
        // The asterisk covers every header except Authorization.
        let sent = if self.policy == Policy::Everyone { "*" } else { SENT };
        Some(
            HttpResponse::NoContent()
                .insert_header((ACCESS_CONTROL_ALLOW_METHODS, routes::methods(route)))
                .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, sent))
                .insert_header((ACCESS_CONTROL_MAX_AGE, MAX_AGE))
                .finish(),
        )
    }

    /// Sets the CORS headers of a response. Removes those of an upstream response: they apply to the upstream's origin.
    pub(super) fn mark(self, headers: &mut HeaderMap) {
        headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(actix_web::http::header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        if self.varies {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(allowed) = self.allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_here_is_a_route() {
        for name in PUBLIC.iter().chain(&CLOSED).filter(|name| **name != CONSOLE) {
            assert!(routes::operations().any(|(route, _)| route == *name), "{name}");
        }
        assert!(PUBLIC.iter().all(|name| routes::methods(name) == "GET"), "only what is read is public");
        assert_eq!(policy("/oauth/token"), Policy::Listed);
    }
}
