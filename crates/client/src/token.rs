//! An issued token, as the response of the server describes it.

use actchain_protocol::json;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use crate::error::Error;

/// An access token that is bound to the client's key. `Debug` does not show the token itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Token {
    pub(crate) access_token: SecretString,
    /// For later requests without a token of the user ([`Client::refresh`](crate::Client::refresh)), if the delegation allows
    /// offline access. Keep it like the key.
    pub refresh_token: Option<SecretString>,
    /// The server's statement of the lifetime, counted from before the request was sent.
    pub expires_at: OffsetDateTime,
    /// The granted scopes, separated by spaces; may be fewer than requested. Empty if there are none.
    pub scope: String,
    /// The granted authorization details (RFC 9396 §7), if there are any.
    pub authorization_details: Option<Value>,
    /// The delegation that allowed the exchange, if one did.
    pub delegation_id: Option<String>,
}

impl Token {
    /// The token, for the header field `Authorization: DPoP …`. Never log it.
    pub fn secret(&self) -> &str {
        self.access_token.expose_secret()
    }

    /// Reads a successful response (RFC 6749 §5.1, RFC 9449 §5). A token of type `Bearer` is refused: it would be
    /// usable without the key.
    pub(crate) fn read(body: &[u8], sent_at: OffsetDateTime) -> Result<Self, Error> {
        let mut members = json::parse_object(body).ok_or(Error::Response("it is not a JSON object"))?;
        let Some(Value::String(access_token)) = members.remove("access_token") else {
            return Err(Error::Response("it has no access token"));
        };
        let access_token = SecretString::from(access_token);
        let refresh_token = match members.remove("refresh_token") {
            Some(Value::String(token)) => Some(SecretString::from(token)),
            _ => None,
        };
        let text = |members: &Map<String, Value>, name: &str| {
            members.get(name).and_then(Value::as_str).map(str::to_owned)
        };
        if !text(&members, "token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("DPoP")) {
            return Err(Error::Response("the token is not bound to the key"));
        }
        let lifetime = members.get("expires_in").and_then(Value::as_i64).filter(|seconds| *seconds > 0);
        let expires_at = lifetime.and_then(|seconds| sent_at.checked_add(Duration::seconds(seconds)));
        Ok(Self {
            access_token,
            refresh_token,
            expires_at: expires_at.ok_or(Error::Response("it has no lifetime"))?,
            scope: text(&members, "scope").unwrap_or_default(),
            delegation_id: text(&members, "delegation_id"),
            authorization_details: members.remove("authorization_details"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Token, Error> {
        Token::read(body.as_bytes(), OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn a_token_that_is_not_bound_or_does_not_expire_is_refused() {
        let token = read(r#"{"access_token":"CANARY","token_type":"dpop","expires_in":60}"#).unwrap();
        assert_eq!(token.expires_at.unix_timestamp(), 60);
        assert!(token.refresh_token.is_none());
        assert!(!format!("{token:?}").contains("CANARY"));
        let body =
            r#"{"access_token":"CANARY","token_type":"DPoP","expires_in":60,"refresh_token":"CANARY-2"}"#;
        let token = read(body).unwrap();
        assert_eq!(token.refresh_token.as_ref().unwrap().expose_secret(), "CANARY-2");
        assert!(!format!("{token:?}").contains("CANARY"));
        for body in [
            r#"{"access_token":"CANARY","token_type":"Bearer","expires_in":60}"#,
            r#"{"access_token":"CANARY","expires_in":60}"#,
            r#"{"access_token":"CANARY","token_type":"DPoP"}"#,
            r#"{"access_token":"CANARY","token_type":"DPoP","expires_in":0}"#,
            r#"{"access_token":"CANARY","access_token":"b","token_type":"DPoP","expires_in":60}"#,
            r#"{"token_type":"DPoP","expires_in":60}"#,
            "",
        ] {
            let error = read(body).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("CANARY"), "{body}");
        }
    }
}
