//! Registration of a client at another server (RFC 7591), and the means to delete it again (RFC 7592).

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::jose::PublicKey;

/// Longest value of the answer that is kept, in bytes.
const MOST: usize = 4_096;

/// A client to register.
#[derive(Debug, Clone, Copy)]
pub struct Registration<'a> {
    /// `software_id`: the same in all requests for one client, so that repeated registrations can be found.
    pub software_id: &'a str,
    /// The keys that the client's assertions are signed with.
    pub keys: &'a [PublicKey],
}

impl Registration<'_> {
    /// The client metadata (RFC 7591 §2): a client that authenticates by its key, and gets tokens for itself. Keys have `use` and
    /// `kid`: Keycloak refuses keys without them.
    pub fn metadata(&self) -> Value {
        let keys: Vec<Value> = self.keys.iter().map(|key| key.to_signing_jwk(key.thumbprint())).collect();
        json!({
            "client_name": self.software_id,
            "software_id": self.software_id,
            "token_endpoint_auth_method": "private_key_jwt",
            "grant_types": ["client_credentials"],
            "response_types": [],
            "redirect_uris": [],
            "jwks": {"keys": keys},
        })
    }
}

/// A registered client.
#[derive(Debug)]
pub struct RegisteredClient {
    /// The client id at the server.
    pub client_id: String,
    /// The client configuration endpoint; `None` if the server offers none at its own origin.
    pub configuration: Option<ClientConfiguration>,
}

/// Where and how a registered client is managed (RFC 7592 §3).
#[derive(Debug, Clone)]
pub struct ClientConfiguration {
    /// The client configuration endpoint.
    pub uri: String,
    /// The registration access token.
    pub access_token: SecretString,
}

#[derive(Deserialize)]
struct Answer {
    client_id: String,
    registration_client_uri: Option<String>,
    registration_access_token: Option<SecretString>,
}

/// Reads the client information response of a registration endpoint (RFC 7591 §3.2.1). The access token is sent to the
/// origin that issued it alone. `None` if no client was registered.
pub fn read(endpoint: &str, status: u16, body: &[u8]) -> Option<RegisteredClient> {
    // The RFC demands 201; some servers answer 200.
    if !matches!(status, 200 | 201) {
        return None;
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let usable = |text: &str| (1..=MOST).contains(&text.len()) && !text.chars().any(char::is_control);
    if !usable(&answer.client_id) {
        return None;
    }
    let origin = |url: &str| Url::parse(url).ok().map(|url| url.origin());
    let uri = answer.registration_client_uri.filter(|uri| usable(uri) && origin(uri) == origin(endpoint));
    let configuration = uri
        .zip(answer.registration_access_token)
        .map(|(uri, access_token)| ClientConfiguration { uri, access_token });
    Some(RegisteredClient { client_id: answer.client_id, configuration })
}

/// Whether a client is deleted after this answer of its configuration endpoint (RFC 7592 §2.3). 401 and 404 say that there is no
/// such client any more: an earlier request has deleted it.
pub fn is_deleted(status: u16) -> bool {
    matches!(status, 200 | 204 | 401 | 404)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "https://idp.example.com/register";

    fn of(body: Value) -> Option<RegisteredClient> {
        read(ENDPOINT, 201, body.to_string().as_bytes())
    }

    #[test]
    fn a_client_is_managed_at_the_origin_that_registered_it() {
        let at = |uri: &str| {
            of(json!({"client_id": "c", "registration_client_uri": uri, "registration_access_token": "t"}))
                .unwrap()
                .configuration
                .map(|one| one.uri)
        };
        assert_eq!(
            at("https://idp.example.com/register/c").as_deref(),
            Some("https://idp.example.com/register/c")
        );
        for elsewhere in ["https://evil.example.com/register/c", "http://idp.example.com/register/c", "x", ""]
        {
            assert_eq!(at(elsewhere), None, "{elsewhere}");
        }
        assert!(of(json!({"client_id": "c"})).unwrap().configuration.is_none());
    }

    #[test]
    fn an_answer_without_a_client_registers_none() {
        assert!(of(json!({})).is_none() && of(json!({"client_id": ""})).is_none());
        assert!(read(ENDPOINT, 400, br#"{"client_id": "c"}"#).is_none());
        assert!(read(ENDPOINT, 201, b"<html>").is_none());
    }
}
