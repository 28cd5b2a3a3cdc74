//! The strict parser of form bodies (RFC 6749 §3.2): decodes names and values before it compares them, refuses
//! repetition where it is not allowed, and treats empty values as absent. With `actchain_protocol::json` it is the boundary for
//! texts: accepted text is UTF-8 without the NUL character, which PostgreSQL does not store.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Bytes, Payload, Query};
use serde::de::DeserializeOwned;

use crate::domain::refusal::Refusal;
use actchain_protocol::token_exchange::percent_decode;

/// The only parameters that may be repeated (RFC 8693 §2.1, RFC 8707 §2).
const REPEATABLE: [&str; 2] = ["audience", "resource"];
/// More parameters than any valid request has.
const MAX_PARAMETERS: usize = 100;

/// Parameters that may come only in the body, which is not logged (RFC 6749 §2.3.1, RFC 6750 §5.3).
const NEVER_IN_THE_QUERY: [&str; 7] = [
    "client_secret",
    "client_assertion",
    "subject_token",
    "actor_token",
    "access_token",
    "client_id",
    "token",
];

/// How long a body may take to arrive.
const MOST_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Params(BTreeMap<String, Vec<String>>);

impl Params {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let malformed = |sentence| Refusal::Malformed(sentence);
        let body = std::str::from_utf8(body).map_err(|_| malformed("The body is not valid UTF-8"))?;
        let mut params: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (count, pair) in body.split('&').filter(|pair| !pair.is_empty()).enumerate() {
            if count >= MAX_PARAMETERS {
                return Err(malformed("There are too many parameters"));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = percent_decode(name).zip(percent_decode(value));
            let (name, value) = decoded.ok_or(malformed("A parameter is not form-encoded UTF-8"))?;
            params.entry(name).or_default().push(value);
        }
        let repeated = |(name, values): (&String, &Vec<String>)| {
            values.len() > 1 && !REPEATABLE.contains(&name.as_str())
        };
        if params.iter().any(repeated) {
            return Err(malformed("A parameter is repeated"));
        }
        for values in params.values_mut() {
            values.retain(|value| !value.is_empty());
        }
        Ok(Self(params))
    }

    /// The value of a parameter; `None` if it is absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str)
    }

    /// All names with their values.
    #[cfg(fuzzing)]
    pub(super) fn into_values(self) -> BTreeMap<String, Vec<String>> {
        self.0
    }

    /// All names with their values, by name.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name.as_str(), value.as_str())))
    }

    /// The rest of each name that begins with `prefix` and has a value.
    pub(super) fn names_after(&self, prefix: &str) -> Vec<&str> {
        let present = self.0.iter().filter(|(_, values)| !values.is_empty());
        present.filter_map(|(name, _)| name.strip_prefix(prefix)).collect()
    }

    pub(super) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Reads the form of a request. Checks time, size and content type, and refuses credentials in the URI.
pub(super) async fn form(request: &HttpRequest, payload: Payload, most: usize) -> Result<Params, Refusal> {
    let body = body(payload, most).await?;
    check_frame(request)?;
    Params::read(&body)
}

/// Whether a path or a query decodes as text: escapes are complete, and the result is UTF-8 without NUL.
pub(super) fn is_text(encoded: &str) -> bool {
    percent_decode(encoded).is_some()
}

pub(super) fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Refusal> {
    let read = Query::<T>::from_query(request.query_string()).ok();
    read.filter(|_| is_text(request.query_string()))
        .map(Query::into_inner)
        .ok_or(Refusal::Malformed("The query is not what this endpoint reads"))
}

/// Reads a body of at most `most` bytes, within [`MOST_PATIENCE`].
pub(super) async fn body(payload: Payload, most: usize) -> Result<Bytes, Refusal> {
    match actix_web::rt::time::timeout(MOST_PATIENCE, payload.to_bytes_limited(most)).await {
        Ok(Ok(Ok(body))) => Ok(body),
        Ok(Ok(Err(_))) => Err(Refusal::Malformed("The body could not be read")),
        Ok(Err(_)) => Err(Refusal::TooLarge),
        Err(_) => Err(Refusal::Malformed("The body did not arrive in time")),
    }
}

/// Checks the content type, and refuses a query with credentials.
fn check_frame(request: &HttpRequest) -> Result<(), Refusal> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Refusal::Malformed("The body must be application/x-www-form-urlencoded"));
    }
    let query = Params::read(request.query_string().as_bytes())?;
    if NEVER_IN_THE_QUERY.iter().any(|name| query.get(name).is_some()) {
        return Err(Refusal::Malformed("Credentials and tokens belong in the body, not in the URI"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(body: &str) -> Result<Params, Refusal> {
        Params::read(body.as_bytes())
    }

    #[test]
    fn repeated_parameters_are_found_in_any_encoding() {
        for body in ["scope=a&scope=b", "scope=a&%73cope=b", "scope=a&scope=", "foo=1&foo=2"] {
            assert!(read(body).is_err(), "{body}");
        }
        let params = read("audience=a&audience=b&resource=c&audience=").unwrap();
        assert_eq!((params.all("audience").len(), params.get("resource")), (2, Some("c")));
    }

    #[test]
    fn a_parameter_with_an_empty_value_is_absent() {
        let params = read("scope=&a&=x&&").unwrap();
        assert_eq!((params.get("scope"), params.get("a")), (None, None));
    }

    #[test]
    fn texts_are_utf_8_without_nul() {
        for text in ["", "/delegate/a%2Fb", "/%C3%BC", "a=%F0%9F%98%80&b"] {
            assert!(is_text(text), "{text}");
        }
        for text in ["/%00", "/a%00b", "%ff", "%ED%A0%80", "%C3", "%zz", "%"] {
            assert!(!is_text(text), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_form_is_refused() {
        assert!(Params::read(b"a=\xff").is_err() && read("a=%00").is_err() && read("%=1").is_err());
        assert!(read(&"a1=1&".repeat(2)).is_err());
        let many: String = (0..10_000).map(|n| format!("p{n}=1&")).collect();
        assert!(read(&many).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Params::read(&body);
        }

        #[test]
        fn what_was_encoded_is_read_back(name in "[a-z]{1,8}", value in "\\PC{1,20}") {
            let body: String = url::form_urlencoded::Serializer::new(String::new()).append_pair(&name, &value).finish();
            let params = read(&body).unwrap();
            prop_assert_eq!(params.get(&name), Some(value.as_str()));
        }
    }
}
