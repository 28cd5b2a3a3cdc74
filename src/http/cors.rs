//! Browsers that come from other origins (Fetch §3.3, the CORS protocol). Every origin may read what is public; origins
//! that are configured may read what is asked for under credentials. No answer allows cookies.

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap,
    HeaderValue, ORIGIN, VARY,
};

use crate::http::PROXY;

/// Documents without authentication.
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

/// Not for scripts of other origins: answers of third parties, a page, what witnesses and operators call.
const CLOSED: [&str; 6] =
    [PROXY, "/vault/callback/{provider}", "/audit/checkpoint/cosignatures", "/health", "/ready", "/metrics"];

/// What a script may read besides the body.
const EXPOSED: &str = "Actchain-Audit-From, Actchain-Audit-Size, Actchain-Receipt, DPoP-Nonce, ETag, Idempotent-Replayed, Location, \
                       Retry-After, WWW-Authenticate, X-Request-Id";
/// What a script may send where it presents credentials.
const SENT: &str = "Authorization, Content-Type, DPoP, Idempotency-Key, Last-Event-ID";
/// How long a browser may keep the answer to a preflight, in seconds.
const MAX_AGE: &str = "600";

/// Who may read the answers of a route.
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

/// What holds for one request.
#[derive(Debug)]
pub(super) struct Cors {
    /// The origin whose scripts may read the answer.
    allowed: Option<HeaderValue>,
    policy: Policy,
    /// Whether the answer would be another one for another origin.
    varies: bool,
}

impl Cors {
    /// By the route of a request, its header, and the configured origins.
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

    /// The answer to a preflight (§3.3.3); `None` where the request is none, or its origin may not.
    pub(super) fn preflight(
        &self,
        method: &Method,
        headers: &HeaderMap,
        methods: &[&str],
    ) -> Option<HttpResponse> {
        let asks = headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if method != Method::OPTIONS || !asks || self.allowed.is_none() {
            return None;
        }
        // The asterisk stands for every header field but Authorization.
        let sent = if self.policy == Policy::Everyone { "*" } else { SENT };
        Some(
            HttpResponse::NoContent()
                .insert_header((ACCESS_CONTROL_ALLOW_METHODS, methods.join(", ")))
                .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, sent))
                .insert_header((ACCESS_CONTROL_MAX_AGE, MAX_AGE))
                .finish(),
        )
    }

    /// Says in the header of an answer who may read it. What a third party says of its own origin is not said for ours.
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
    use super::super::ROUTES;
    use super::*;

    #[test]
    fn what_is_named_here_is_a_route() {
        for name in PUBLIC.iter().chain(&CLOSED) {
            assert!(ROUTES.iter().any(|(route, _)| route == name), "{name}");
        }
        let methods = |name: &str| ROUTES.iter().find(|(route, _)| *route == name).unwrap().1;
        assert!(PUBLIC.iter().all(|name| methods(name) == ["GET"]), "only what is read is public");
        assert_eq!(policy("/oauth/token"), Policy::Listed);
    }
}
