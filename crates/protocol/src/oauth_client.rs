//! This server as a client of another authorization server (RFC 6749, RFC 7636, RFC 9207): requests, and the syntax of
//! responses. [`super::token_answer`] reads the responses of token endpoints.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};
use zeroize::Zeroizing;

use super::client_auth;
use crate::base64url;
use crate::digest::sha256;

/// Whether a text is usable as an error code: 1 to 64 visible ASCII characters.
pub fn is_error_code(code: &str) -> bool {
    (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a text can be an authorization code (RFC 6749 appendix A.11).
pub fn is_code(text: &str) -> bool {
    (1..=4096).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

/// Whether a text is a `token` of RFC 9110 §5.6.2, of at most 64 characters.
pub fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Parses scopes of another server: separated by spaces or, at some servers, by commas.
pub fn scopes(text: &str) -> BTreeSet<String> {
    text.split([' ', ',']).filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
}

/// Encodes parameters as a form, in memory that is cleared on drop.
pub fn form(params: &[(&str, &str)]) -> Zeroizing<String> {
    let length: usize = params.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
    let mut form = Serializer::new(String::with_capacity(length));
    form.extend_pairs(params);
    Zeroizing::new(form.finish())
}

/// The value of an `Authorization` field for client credentials (RFC 6749 §2.3.1).
pub fn basic(client_id: &str, secret: &str) -> Zeroizing<String> {
    let encoded = |text: &str| Zeroizing::new(byte_serialize(text.as_bytes()).collect::<String>());
    Zeroizing::new(format!("Basic {}", *pair(&encoded(client_id), &encoded(secret))))
}

/// Base64 of user name and password (RFC 7617 §2).
pub fn pair(username: &str, password: &str) -> Zeroizing<String> {
    let pair = Zeroizing::new([username.as_bytes(), b":", password.as_bytes()].concat());
    Zeroizing::new(STANDARD.encode(&pair))
}

/// How this server authenticates at an endpoint of another server (RFC 6749 §2.3, RFC 7523 §2.2).
#[derive(Clone, Copy)]
pub enum EndpointAuth<'a> {
    /// The secret is in the `Authorization` field.
    Basic(&'a str),
    /// The secret is in the form.
    Post(&'a str),
    /// A signed assertion is in the form.
    Assertion(&'a str),
    /// The client only names itself.
    None,
}

impl<'a> EndpointAuth<'a> {
    /// Adds the parameters of the authentication, and returns the value of the `Authorization` field.
    pub fn apply(
        self,
        client_id: &'a str,
        params: &mut Vec<(&'a str, &'a str)>,
    ) -> Option<Zeroizing<String>> {
        match self {
            Self::Basic(secret) => return Some(basic(client_id, secret)),
            Self::Post(secret) => params.extend([("client_id", client_id), ("client_secret", secret)]),
            Self::Assertion(jwt) => params.extend([
                ("client_id", client_id),
                ("client_assertion_type", client_auth::JWT_BEARER),
                ("client_assertion", jwt),
            ]),
            Self::None => params.push(("client_id", client_id)),
        }
        None
    }
}

/// The PKCE challenge of a verifier (RFC 7636 §4.2).
pub fn challenge(verifier: &str) -> String {
    base64url::encode(sha256(&[verifier.as_bytes()]))
}

/// The URL at which an owner authorizes a connection (RFC 6749 §4.1.1). Keeps the endpoint's own query parameters.
pub fn authorization_url(endpoint: &str, params: &[(&str, &str)]) -> Option<String> {
    let mut url = Url::parse(endpoint).ok()?;
    url.query_pairs_mut().extend_pairs(params);
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    #[test]
    fn kat_pkce_and_client_credentials() {
        for case in vectors::cases(include_str!("../vectors/pkce.json")) {
            assert_eq!(challenge(vectors::text(&case, "verifier")), case["challenge"]);
        }
        assert_eq!(basic("a b", "c:d").as_str(), "Basic YStiOmMlM0Fk");
        let url = authorization_url("https://as.example.com/a?tenant=1", &[("state", "x y")]).unwrap();
        assert_eq!(url, "https://as.example.com/a?tenant=1&state=x+y");
    }
}
