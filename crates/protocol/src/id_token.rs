//! ID tokens that answer a sign-in at an issuer (OpenID Connect Core 1.0 §2, §3.1.3.7). Who signed them is checked elsewhere.

use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use super::access_token::{AuthenticationContext, audience};
use super::jwt_time::{self, SKEW};
use super::token_exchange::TokenType;
use super::token_problem::TokenProblem;
use super::trusted_issuer_jwt::{ClaimNames, check_kind, is_name};
use crate::jose::Jws;

/// What an ID token has to say.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedIdToken<'a> {
    /// The client id of this server at the issuer.
    pub client_id: &'a str,
    /// The value that was sent with the authorization request.
    pub nonce: &'a str,
    /// The accepted values of `acr`; any where empty.
    pub acr: &'a [String],
    /// How long ago the person may have been authenticated, if the request had `max_age`.
    pub max_age: Option<Duration>,
    /// The names of the claims of this issuer.
    pub names: &'a ClaimNames,
}

/// A person, as an ID token describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentifiedPerson {
    /// The issuer of the token.
    pub iss: String,
    /// The name of the person, by the claim that names users of this issuer.
    pub subject: String,
    /// The claim `sub`, which logout tokens have.
    pub sub: String,
    /// The session at the issuer.
    pub sid: Option<String>,
    /// When the issuer authenticated the person, if the token says so.
    pub auth_time: Option<OffsetDateTime>,
    /// When the token was issued.
    pub issued_at: OffsetDateTime,
}

/// Why an ID token does not answer a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdTokenProblem {
    /// It is no valid token at this time.
    Token(TokenProblem),
    /// `azp` names another client, or is missing although `aud` names several.
    AuthorizedParty,
    /// `nonce` is missing, or is that of another request.
    Nonce,
    /// `acr` is missing, or is none of the accepted values.
    AuthenticationContext,
    /// `auth_time` is missing although the request had `max_age`.
    AuthTimeMissing,
    /// The person was authenticated too long ago, or in the future.
    AuthTime,
}

impl From<TokenProblem> for IdTokenProblem {
    fn from(problem: TokenProblem) -> Self {
        Self::Token(problem)
    }
}

impl IdTokenProblem {
    /// The stable name, for logs and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token(problem) => problem.name(),
            Self::AuthorizedParty => "azp",
            Self::Nonce => "nonce",
            Self::AuthenticationContext => "acr",
            Self::AuthTimeMissing => "auth_time_missing",
            Self::AuthTime => "auth_time",
        }
    }
}

/// Reads and checks the claims of an ID token. Its signature and its issuer are left to the caller.
///
/// # Errors
/// The first problem.
pub fn read(
    jws: &Jws<'_>,
    expected: &ExpectedIdToken<'_>,
    now: OffsetDateTime,
) -> Result<IdentifiedPerson, IdTokenProblem> {
    check_kind(jws, TokenType::IdToken)?;
    let claims = &jws.claims;
    // A token with an actor names another party that acts in the place of the person.
    if claims.contains_key("act") {
        return Err(TokenProblem::HasActor.into());
    }
    let validity = jwt_time::validity(claims).ok_or(TokenProblem::Claims)?;
    validity.check(now)?;
    let issued_at = validity.issued_at.ok_or(TokenProblem::Claims)?;
    check_audience(claims, expected.client_id)?;
    if claims.get("nonce").and_then(Value::as_str) != Some(expected.nonce) {
        return Err(IdTokenProblem::Nonce);
    }
    let login = AuthenticationContext::read(claims);
    if !expected.acr.is_empty() && !login.acr.as_ref().is_some_and(|acr| expected.acr.contains(acr)) {
        return Err(IdTokenProblem::AuthenticationContext);
    }
    let auth_time = login.auth_time.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    if auth_time.is_some_and(|at| at > now + SKEW) {
        return Err(IdTokenProblem::AuthTime);
    }
    match (expected.max_age, auth_time) {
        (Some(_), None) => return Err(IdTokenProblem::AuthTimeMissing),
        (Some(max_age), Some(at)) if at + max_age + SKEW < now => return Err(IdTokenProblem::AuthTime),
        _ => {}
    }
    let named = |name: &str| {
        let text = claims.get(name).and_then(Value::as_str).filter(|text| is_name(text));
        text.map(str::to_owned).ok_or(TokenProblem::Claims)
    };
    Ok(IdentifiedPerson {
        iss: named("iss")?,
        subject: named(expected.names.subject())?,
        sub: named("sub")?,
        sid: claims.contains_key("sid").then(|| named("sid")).transpose()?,
        auth_time,
        issued_at,
    })
}

/// `aud` names this server; a token for several clients says by `azp` who asked for it.
fn check_audience(claims: &Map<String, Value>, client_id: &str) -> Result<(), IdTokenProblem> {
    let audience = audience(claims).ok_or(TokenProblem::Claims)?;
    if !audience.values().iter().any(|name| name == client_id) {
        return Err(TokenProblem::Audience.into());
    }
    match claims.get("azp") {
        None if audience.values().len() == 1 => Ok(()),
        Some(Value::String(azp)) if azp == client_id => Ok(()),
        _ => Err(IdTokenProblem::AuthorizedParty),
    }
}

/// Whether a claim has a value, as a text or in a list of texts.
pub fn claim_has(claims: &Map<String, Value>, name: &str, value: &str) -> bool {
    match claims.get(name) {
        Some(Value::String(text)) => text == value,
        Some(Value::Array(items)) => items.iter().any(|item| item.as_str() == Some(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base64url;
    use serde_json::json;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

    fn claims() -> Value {
        let now = NOW.unix_timestamp();
        json!({"iss": "https://idp.example", "sub": "a", "aud": "us", "exp": now + 60, "iat": now, "nonce": "n",
               "auth_time": now - 100, "acr": "mfa"})
    }

    fn problem(change: impl FnOnce(&mut Value)) -> Option<&'static str> {
        let mut claims = claims();
        change(&mut claims);
        let part = |value: Value| base64url::encode(value.to_string());
        let token = format!("{}.{}.AAAA", part(json!({"alg": "ES256"})), part(claims));
        let acr = ["mfa".to_owned()];
        let names = ClaimNames::default();
        let expected = ExpectedIdToken {
            client_id: "us",
            nonce: "n",
            acr: &acr,
            max_age: Some(Duration::seconds(100)),
            names: &names,
        };
        read(&Jws::parse(&token).unwrap(), &expected, NOW).err().map(IdTokenProblem::name)
    }

    #[test]
    fn each_claim_of_an_id_token_is_checked() {
        let now = NOW.unix_timestamp();
        assert_eq!(problem(|_| {}), None);
        assert_eq!(problem(|claims| claims["aud"] = json!(["us"])), None);
        assert_eq!(problem(|claims| claims["azp"] = json!("us")), None);
        let cases: [(&str, Value, &str); 16] = [
            ("aud", json!("them"), "audience"),
            ("aud", json!(["us", "them"]), "azp"),
            ("azp", json!("them"), "azp"),
            ("azp", Value::Null, "azp"),
            ("nonce", json!("m"), "nonce"),
            ("nonce", json!(["n"]), "nonce"),
            ("exp", json!(now), "expired"),
            ("iat", json!(now + 11), "not_yet_valid"),
            ("iat", Value::Null, "claims"),
            ("acr", json!("pwd"), "acr"),
            ("auth_time", json!(now - 111), "auth_time"),
            ("auth_time", json!(now + 11), "auth_time"),
            ("auth_time", json!("x"), "auth_time_missing"),
            ("sub", json!(""), "claims"),
            ("events", json!({}), "wrong_kind"),
            ("act", json!({"sub": "b"}), "has_actor"),
        ];
        for (name, value, expected) in cases {
            assert_eq!(problem(|claims| claims[name] = value.clone()), Some(expected), "{name}: {value}");
        }
        let without =
            |name: &'static str| problem(move |claims| drop(claims.as_object_mut().unwrap().remove(name)));
        assert_eq!(
            (without("nonce"), without("iat"), without("exp")),
            (Some("nonce"), Some("claims"), Some("claims"))
        );
        assert_eq!(
            problem(|claims| {
                claims["aud"] = json!(["us", "them"]);
                claims["azp"] = json!("us");
            }),
            None
        );
    }

    #[test]
    fn a_claim_has_a_value_as_a_text_or_in_a_list() {
        let claims = json!({"a": "x", "b": ["y", 1, "x"], "c": {"x": 1}, "d": "x y"});
        let has = |name: &str| claim_has(claims.as_object().unwrap(), name, "x");
        assert!(has("a") && has("b") && !has("c") && !has("d") && !has("e"));
    }
}
