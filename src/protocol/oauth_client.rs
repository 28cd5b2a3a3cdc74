//! Being a client of somebody else's authorization server (RFC 6749, RFC 7636, RFC 9207): what is sent, and how answers
//! are read, also those of servers that take liberties.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};
use zeroize::Zeroizing;

use crate::platform::base64url;
use crate::platform::digest::sha256;

/// Tokens as they were given (RFC 6749 §5.1).
#[derive(Debug)]
pub struct Given {
    /// The access token.
    pub access_token: SecretString,
    /// How it is presented.
    pub token_type: String,
    /// Seconds.
    pub expires_in: Option<u32>,
    /// The refresh token, where there is one, or a new one.
    pub refresh_token: Option<SecretString>,
    /// What it allows; absent means what was asked for.
    pub scope: Option<String>,
}

/// An answer of a token endpoint.
#[derive(Debug)]
pub enum Answer {
    /// Tokens.
    Given(Given),
    /// An error of RFC 6749 §5.2, by its code.
    Refused(String),
    /// Nothing that can be understood: the server is unwell.
    Unusable,
}

#[derive(Deserialize)]
struct Raw {
    access_token: Option<SecretString>,
    token_type: Option<String>,
    expires_in: Option<Value>,
    refresh_token: Option<SecretString>,
    scope: Option<String>,
    error: Option<Value>,
}

/// The longest token that is taken, in bytes.
const MOST_TOKEN: usize = 12 * 1024;

/// Reads the answer of a token endpoint. Some servers say 200 for errors, too.
pub fn read_answer(status: u16, body: &[u8]) -> Answer {
    let Ok(raw) = serde_json::from_slice::<Raw>(body) else { return Answer::Unusable };
    if let Some(error) = raw.error {
        let code = error.as_str().filter(|code| is_error_code(code));
        return match code {
            Some(code) if status == 200 || (400..500).contains(&status) => Answer::Refused(code.to_owned()),
            _ => Answer::Unusable,
        };
    }
    let fits = |token: &SecretString| {
        let token = token.expose_secret();
        !token.is_empty()
            && token.len() <= MOST_TOKEN
            && token.bytes().all(|byte| (0x20..0x7f).contains(&byte))
    };
    let refresh_token = raw.refresh_token.filter(|token| !token.expose_secret().is_empty());
    if !refresh_token.as_ref().is_none_or(fits) {
        return Answer::Unusable;
    }
    match raw.access_token.filter(fits) {
        Some(access_token) if status == 200 => Answer::Given(Given {
            access_token,
            token_type: raw.token_type.filter(|kind| is_token(kind)).unwrap_or_else(|| "Bearer".into()),
            expires_in: raw.expires_in.as_ref().and_then(seconds),
            refresh_token,
            scope: raw.scope,
        }),
        _ => Answer::Unusable,
    }
}

/// A number, or a text that is one; nothing beyond what can be reckoned with.
fn seconds(value: &Value) -> Option<u32> {
    let seconds = match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    seconds.and_then(|seconds| u32::try_from(seconds).ok()).map(|seconds| seconds.min(i32::MAX as u32))
}

/// Whether a text can be an error code that is worth keeping.
pub fn is_error_code(code: &str) -> bool {
    (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a text can be an authorization code (RFC 6749 appendix A.11).
pub fn is_code(text: &str) -> bool {
    (1..=4096).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

/// RFC 9110 §5.6.2.
pub fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Scopes as a server says them: with spaces or, as some do, with commas between.
pub fn scopes(text: &str) -> BTreeSet<String> {
    text.split([' ', ',']).filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
}

/// Parameters as a form, in memory that is cleared afterwards.
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

/// A name and a password as RFC 7617 §2 has them.
pub fn pair(username: &str, password: &str) -> Zeroizing<String> {
    let pair = Zeroizing::new([username.as_bytes(), b":", password.as_bytes()].concat());
    Zeroizing::new(STANDARD.encode(&pair))
}

/// The PKCE challenge of a verifier (RFC 7636 §4.2).
pub fn challenge(verifier: &str) -> String {
    base64url::encode(sha256(&[verifier.as_bytes()]))
}

/// Where an owner authorizes us (RFC 6749 §4.1.1): the endpoint with what it has in its query already.
pub fn authorization_url(endpoint: &str, params: &[(&str, &str)]) -> Option<String> {
    let mut url = Url::parse(endpoint).ok()?;
    url.query_pairs_mut().extend_pairs(params);
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn given(status: u16, body: &str) -> Option<Given> {
        match read_answer(status, body.as_bytes()) {
            Answer::Given(given) => Some(given),
            _ => None,
        }
    }

    #[test]
    fn tokens_are_read_also_from_servers_that_take_liberties() {
        let full = r#"{"access_token":"a","token_type":"bearer","expires_in":3600,"refresh_token":"r","scope":"x y","z":1}"#;
        let full = given(200, full).unwrap();
        assert_eq!((full.access_token.expose_secret(), full.expires_in), ("a", Some(3600)));
        assert_eq!(full.refresh_token.unwrap().expose_secret(), "r");
        assert_eq!(given(200, r#"{"access_token":"a","expires_in":"60"}"#).unwrap().expires_in, Some(60));
        assert_eq!(given(200, r#"{"access_token":"a","expires_in":1e300}"#).unwrap().expires_in, None);
        assert!(given(200, r#"{"access_token":"a","refresh_token":""}"#).unwrap().refresh_token.is_none());
        for (status, body) in [
            (200, r#"{"access_token":""}"#),
            (200, r#"{"access_token":7}"#),
            (200, r#"{"access_token":"a\nb"}"#),
            (200, r#"{"access_token":"a","access_token":"b"}"#),
            (200, "<html>"),
            (200, ""),
            (200, "[]"),
            (302, r#"{"access_token":"a"}"#),
            (500, r#"{"access_token":"a"}"#),
        ] {
            assert!(matches!(read_answer(status, body.as_bytes()), Answer::Unusable), "{status} {body}");
        }
    }

    #[test]
    fn errors_are_told_from_servers_that_are_unwell() {
        let code = |status, body: &str| match read_answer(status, body.as_bytes()) {
            Answer::Refused(code) => Some(code),
            _ => None,
        };
        assert_eq!(code(400, r#"{"error":"invalid_grant"}"#).as_deref(), Some("invalid_grant"));
        assert_eq!(code(200, r#"{"ok":false,"error":"invalid_grant"}"#).as_deref(), Some("invalid_grant"));
        assert_eq!(code(503, r#"{"error":"invalid_grant"}"#), None);
        assert_eq!(code(400, r#"{"error":{"code":1}}"#), None);
    }

    #[test]
    fn kat_pkce_and_client_credentials() {
        // RFC 7636 appendix B.
        assert_eq!(
            challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
        assert_eq!(basic("a b", "c:d").as_str(), "Basic YStiOmMlM0Fk");
        let url = authorization_url("https://as.example.com/a?tenant=1", &[("state", "x y")]).unwrap();
        assert_eq!(url, "https://as.example.com/a?tenant=1&state=x+y");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), status in 100u16..600) {
            let _ = read_answer(status, &bytes);
        }
    }
}
