//! What can go wrong between an agent and the server.

use std::time::Duration;

use actchain_protocol::failure::Failure;
use actchain_protocol::json;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused the request.
    #[error(transparent)]
    Refused(Box<Refused>),
    /// No response: the connection failed, or took too long. Whether the server handled the request is unknown.
    #[error("the authorization server could not be reached")]
    Unreachable(#[source] reqwest::Error),
    /// The response is none that RFC 6749 or RFC 8693 allows, or it would weaken the token.
    #[error("the response of the authorization server is not usable: {0}")]
    Response(&'static str),
    /// The client was built or called with a value that cannot be used.
    #[error("{0}")]
    Usage(&'static str),
    /// The key file cannot be read or written.
    #[error("the key file {path} cannot be used")]
    KeyFile {
        /// The path as it was passed.
        path: String,
        /// The error of the operating system.
        #[source]
        cause: std::io::Error,
    },
    /// A signature or random bytes could not be made.
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// An error response of the token endpoint (RFC 6749 §5.2), with the members that actchain adds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused: {error}{}{}", .reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default(),
    .error_description.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
#[non_exhaustive]
pub struct Refused {
    /// The status of the HTTP response.
    pub status: u16,
    /// The error code of the specification, such as `invalid_grant`.
    pub error: String,
    /// The precise reason, such as `delegation_revoked`. Stable; absent where the server does not tell it.
    pub reason: Option<String>,
    /// A sentence for developers. Not stable.
    pub error_description: Option<String>,
    /// How long to wait before the next attempt; absent if waiting does not help.
    pub retry_after: Option<Duration>,
    /// The delegation whose use needs a confirmation, with reason `ceremony_required`.
    pub delegation_id: Option<String>,
    /// The id of the confirmation that a person has to give, with reason `ceremony_required`.
    pub ceremony: Option<String>,
}

impl Refused {
    /// Reads an error response; `None` if the body has no error code.
    pub(crate) fn read(status: u16, headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let members = json::parse_object(body)?;
        let text = |name: &str| members.get(name).and_then(Value::as_str).map(str::to_owned);
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Some(Self {
            status,
            error: text("error")?,
            reason: text("reason"),
            error_description: text("error_description"),
            retry_after: seconds.map(Duration::from_secs),
            delegation_id: text("delegation_id"),
            ceremony: text("ceremony"),
        })
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn an_error_response_is_read_with_the_members_of_actchain() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
        let body = br#"{"error":"invalid_request","error_description":"A person has to confirm this",
                        "reason":"ceremony_required","ceremony":"c","delegation_id":"d"}"#;
        let refused = Refused::read(400, &headers, body).unwrap();
        assert_eq!(refused.retry_after, Some(Duration::from_secs(7)));
        assert_eq!((refused.ceremony.as_deref(), refused.delegation_id.as_deref()), (Some("c"), Some("d")));
        assert_eq!(
            refused.to_string(),
            "refused: invalid_request (ceremony_required): A person has to confirm this"
        );
        assert_eq!(Refused::read(400, &headers, br#"{"error":"slow_down"}"#).unwrap().reason, None);
        for body in ["", "[]", "{}", r#"{"error":7}"#, "<html>"] {
            assert_eq!(Refused::read(502, &headers, body.as_bytes()), None, "{body}");
        }
    }
}
