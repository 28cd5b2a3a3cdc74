//! Introspection responses of other authorization servers (RFC 7662 §2.2, RFC 9701 §5), read as the claims of the token
//! that they are about.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use super::access_token::audience;
use super::introspection::TYP;
use super::jwt_time::{SKEW, numeric_date};
use super::token_problem::TokenProblem;
use crate::jose::Jws;

/// How old a signed response may be.
const MAX_AGE: Duration = Duration::minutes(1);

/// Values of `token_type` (RFC 6749 §7.1, RFC 9449 §5) and `token_use` that access tokens have. Some servers also answer
/// for refresh tokens and ID tokens, and name them here.
const ACCESS_TOKEN_KINDS: [(&str, &[&str]); 3] = [
    ("token_type", &["bearer", "dpop"]),
    ("token_use", &["access_token", "access"]),
    ("typ", &["bearer", "dpop", "jwt", "at+jwt", "application/at+jwt"]),
];

/// A response of another server.
#[derive(Debug, Clone, PartialEq)]
pub enum IntrospectionAnswer {
    /// The members of the response for an active token.
    Active(Map<String, Value>),
    /// The token is not active, or the server does not tell this caller.
    Inactive,
}

/// Reads a response. `None` unless `active` is a JSON boolean: anything else is no response.
pub fn read(answer: Map<String, Value>) -> Option<IntrospectionAnswer> {
    match answer.get("active")? {
        Value::Bool(true) => Some(IntrospectionAnswer::Active(answer)),
        Value::Bool(false) => Some(IntrospectionAnswer::Inactive),
        _ => None,
    }
}

/// The response in a signed response for one client, whose signature the caller verifies. `None` if the JWT is of another
/// type, from another issuer, for another client, or older than a minute.
pub fn signed(jws: &Jws<'_>, iss: &str, client_id: &str, now: OffsetDateTime) -> Option<Map<String, Value>> {
    let claims = &jws.claims;
    let issued_at = numeric_date(claims.get("iat")?)?;
    let is_current = issued_at <= now + SKEW && now - issued_at <= MAX_AGE;
    let for_client = audience(claims)?.values().iter().any(|name| name == client_id);
    if jws.header.is_typed(TYP) && jws.text("iss") == Some(iss) && for_client && is_current {
        claims.get("token_introspection")?.as_object().cloned()
    } else {
        None
    }
}

/// The claims of an active access token, completed by its issuer. `without_aud` are the audiences of a token whose
/// response names none.
///
/// # Errors
/// [`TokenProblem::WrongKind`] for a token that is no access token, [`TokenProblem::IssuerUnknown`] for a token of
/// another issuer, [`TokenProblem::Binding`] for a token that is bound to an unknown key.
pub fn claims(
    mut answer: Map<String, Value>,
    iss: &str,
    without_aud: Option<&BTreeSet<String>>,
) -> Result<Map<String, Value>, TokenProblem> {
    for (name, kinds) in ACCESS_TOKEN_KINDS {
        let Some(value) = answer.get(name) else { continue };
        let kind = value.as_str().map(str::to_ascii_lowercase);
        if !kind.is_some_and(|kind| kinds.contains(&kind.as_str())) {
            return Err(TokenProblem::WrongKind);
        }
    }
    let is_dpop = |value: &Value| value.as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("dpop"));
    if answer.get("token_type").is_some_and(is_dpop) && !answer.contains_key("cnf") {
        return Err(TokenProblem::Binding);
    }
    if answer.get("iss").is_some_and(|value| value != iss) {
        return Err(TokenProblem::IssuerUnknown);
    }
    answer.insert("iss".to_owned(), iss.into());
    if let Some(names) = without_aud.filter(|_| !answer.contains_key("aud")) {
        answer.insert("aud".to_owned(), names.iter().cloned().collect());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base64url;
    use serde_json::json;

    const ISS: &str = "https://idp.example";

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn only_a_json_boolean_says_whether_a_token_is_active() {
        assert!(matches!(
            read(object(json!({"active": true, "sub": "a"}))),
            Some(IntrospectionAnswer::Active(_))
        ));
        assert_eq!(read(object(json!({"active": false, "sub": "a"}))), Some(IntrospectionAnswer::Inactive));
        for answer in [json!({}), json!({"active": "true"}), json!({"active": 1}), json!({"active": null})] {
            assert_eq!(read(object(answer.clone())), None, "{answer}");
        }
    }

    #[test]
    fn a_token_of_another_kind_or_issuer_has_no_claims() {
        let of = |value: Value| claims(object(value), ISS, None);
        for answer in [
            json!({"sub": "a"}),
            json!({"sub": "a", "token_type": "Bearer", "typ": "Bearer", "token_use": "access_token", "iss": ISS}),
            json!({"sub": "a", "token_type": "DPoP", "cnf": {"jkt": "k"}}),
        ] {
            assert_eq!(of(answer.clone()).unwrap()["iss"], ISS, "{answer}");
        }
        for (answer, problem) in [
            (json!({"token_type": "Refresh"}), TokenProblem::WrongKind),
            (json!({"token_type": null}), TokenProblem::WrongKind),
            (json!({"token_use": "refresh_token"}), TokenProblem::WrongKind),
            (json!({"token_type": "Bearer", "typ": "ID"}), TokenProblem::WrongKind),
            (json!({"token_type": "DPoP"}), TokenProblem::Binding),
            (json!({"iss": "https://other.example"}), TokenProblem::IssuerUnknown),
            (json!({"iss": [ISS]}), TokenProblem::IssuerUnknown),
        ] {
            assert_eq!(of(answer.clone()), Err(problem), "{answer}");
        }
    }

    #[test]
    fn an_absent_audience_is_completed_where_that_is_declared() {
        let names = BTreeSet::from(["b".to_owned(), "a".to_owned()]);
        assert!(!claims(object(json!({})), ISS, None).unwrap().contains_key("aud"));
        assert_eq!(claims(object(json!({})), ISS, Some(&names)).unwrap()["aud"], json!(["a", "b"]));
        assert_eq!(claims(object(json!({"aud": "c"})), ISS, Some(&names)).unwrap()["aud"], "c");
    }

    #[test]
    fn a_signed_response_is_for_one_client_and_for_a_minute() {
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let good =
            json!({"iss": ISS, "aud": "us", "iat": 1_700_000_000, "token_introspection": {"active": false}});
        let read = |typ: &str, claims: &Value| {
            let part = |value: &Value| base64url::encode(value.to_string());
            let token = format!("{}.{}.AAAA", part(&json!({"alg": "ES256", "typ": typ})), part(claims));
            signed(&Jws::parse(&token).unwrap(), ISS, "us", now)
        };
        assert_eq!(read(TYP, &good), Some(object(json!({"active": false}))));
        assert_eq!(read("JWT", &good), None);
        for (name, value) in [
            ("iss", json!("https://other.example")),
            ("aud", json!("another")),
            ("iat", json!(1_700_000_011)),
            ("iat", json!(1_699_999_939)),
            ("iat", json!(null)),
            ("token_introspection", json!("x")),
        ] {
            let mut claims = good.clone();
            claims[name] = value.clone();
            assert_eq!(read(TYP, &claims), None, "{name}: {value}");
        }
    }
}
