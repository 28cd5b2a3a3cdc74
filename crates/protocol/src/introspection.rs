//! Introspection responses (RFC 7662 §2.2), in the form that the caller prefers: plain, or as claims to be signed
//! (RFC 9701 §5).

use serde_json::{Value, json};

use super::access_token::Claims;
use super::authorization_details::Details;

/// The media type of a signed response (RFC 9701 §4).
pub const JWT_MEDIA_TYPE: &str = "application/token-introspection+jwt";
/// The `typ` of a signed response (RFC 9701 §5).
pub const TYP: &str = "token-introspection+jwt";

const JSON_MEDIA_TYPE: &str = "application/json";
/// The weight of a range without `q` (RFC 9110 §12.4.2), in thousandths.
const FULL_WEIGHT: u16 = 1000;

/// The media type of an introspection response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `application/json` (RFC 7662).
    Json,
    /// A signed JWT (RFC 9701).
    Jwt,
}

/// Reads `Accept` (RFC 9110 §12.5.1). JSON is the default: a signed response needs a higher weight than JSON.
pub fn preferred(accept: Option<&str>) -> Form {
    let weight = |media_type| accept.map_or(0, |accept| weight(accept, media_type));
    if weight(JWT_MEDIA_TYPE) > weight(JSON_MEDIA_TYPE) { Form::Jwt } else { Form::Json }
}

/// The weight that the most specific range gives to a media type.
fn weight(accept: &str, media_type: &str) -> u16 {
    let ranges = accept.split(',').filter_map(range);
    let weights = ranges.filter_map(|(range, weight)| Some((specificity(range, media_type)?, weight)));
    weights.max().map_or(0, |(_, weight)| weight)
}

fn specificity(range: &str, media_type: &str) -> Option<u8> {
    match range.to_ascii_lowercase().as_str() {
        exact if exact == media_type => Some(2),
        "application/*" => Some(1),
        "*/*" => Some(0),
        _ => None,
    }
}

/// Parses a range and its weight; the media types of this server have no other parameters. `None` if the weight is
/// malformed.
fn range(part: &str) -> Option<(&str, u16)> {
    let (range, parameters) = part.split_once(';').unwrap_or((part, ""));
    let mut weight = FULL_WEIGHT;
    for parameter in parameters.split(';') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name.trim().eq_ignore_ascii_case("q") {
            weight = qvalue(value.trim())?;
        }
    }
    Some((range.trim(), weight))
}

/// Parses a weight (RFC 9110 §12.4.2), 0 to 1 with at most three decimals. Returns thousandths.
fn qvalue(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match whole {
        "0" => format!("{decimals:0<3}").parse().ok(),
        "1" => decimals.bytes().all(|byte| byte == b'0').then_some(FULL_WEIGHT),
        _ => None,
    }
}

/// The members of a response that depend on the caller.
#[derive(Debug, Clone, Default)]
pub struct VisibleClaims<'a> {
    /// The scopes that concern the caller, separated by spaces (RFC 7662 §4).
    pub scope: &'a str,
    /// The details that concern the caller (RFC 9396 §9.2).
    pub details: Option<&'a Details>,
    /// The delegation of the token, in the view of the caller.
    pub delegation: Option<Value>,
}

/// The response for a token that is active for the caller. Absent members are left out. An empty list of details is
/// not absent: it allows nothing.
pub fn active(claims: &Claims, view: VisibleClaims<'_>) -> Value {
    let mut answer = json!({
        "active": true,
        "iss": claims.iss,
        "sub": claims.sub,
        "idp": claims.idp,
        "aud": claims.aud,
        "client_id": claims.client_id,
        "scope": (!view.scope.is_empty()).then_some(view.scope),
        "token_type": if claims.cnf.is_some() { "DPoP" } else { "Bearer" },
        "iat": claims.iat,
        "exp": claims.exp,
        "jti": claims.jti,
        "cnf": claims.cnf,
        "act": claims.act,
        "txn": claims.txn,
        "sid": claims.sid,
        "authorization_details": view.details,
        "capability_ceiling": claims.capability_ceiling,
        "auth_time": claims.login.auth_time,
        "acr": claims.login.acr,
        "amr": claims.login.amr,
        "delegation": view.delegation,
    });
    if let Some(members) = answer.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    answer
}

/// The response for any token that is not active, whatever the reason (RFC 7662 §2.2).
pub fn inactive() -> Value {
    json!({"active": false})
}

/// The claims of a signed response for one resource server. `sub` and `exp` are not at the top level, so that the
/// response cannot be mistaken for a token (RFC 9701 §5).
pub fn signed_claims(iss: &str, audience: &str, iat: i64, answer: Value) -> Value {
    json!({"iss": iss, "aud": audience, "iat": iat, "token_introspection": answer})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_token::read_claims;

    fn claims() -> Value {
        json!({"iss": "https://as.example.com", "aud": "https://mail.example.com", "sub": "user-456",
               "client_id": "agent-a", "iat": 1_700_000_000, "exp": 1_700_000_300, "jti": "at-1", "txn": "t",
               "scope": "mail.read mail.send"})
    }

    fn answer(claims: &Value, view: VisibleClaims<'_>) -> Value {
        active(&read_claims(claims.as_object().unwrap()).unwrap(), view)
    }

    #[test]
    fn an_inactive_token_has_no_other_member() {
        assert_eq!(inactive().to_string(), r#"{"active":false}"#);
    }

    #[test]
    fn absent_members_are_left_out() {
        let mut expected = claims();
        expected["active"] = json!(true);
        expected["token_type"] = json!("Bearer");
        expected.as_object_mut().unwrap().remove("scope");
        assert_eq!(answer(&claims(), VisibleClaims::default()), expected);
    }

    #[test]
    fn members_have_their_types_and_values() {
        let mut token = claims();
        let more = json!({
            "aud": ["https://mail.example.com", "https://cal.example.com"], "idp": "https://idp.example.com",
            "cnf": {"jkt": "k"}, "act": {"iss": "https://as.example.com", "sub": "agent-a", "cnf": {"jkt": "k"}},
            "sid": "s", "auth_time": 1_699_999_000, "acr": "mfa", "amr": ["pwd", "otp"],
            "capability_ceiling": "mutate"
        });
        token.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut expected = token.clone();
        token["dlg"] = json!("d");
        let details = Details::parse(r#"[{"type": "mail", "actions": ["read"]}]"#).unwrap();
        let delegation = json!({"id": "d", "path": ["d"]});
        let view = VisibleClaims {
            scope: "mail.read",
            details: Some(&details),
            delegation: Some(delegation.clone()),
        };
        let answer = answer(&token, view);
        let shown = json!({
            "active": true, "token_type": "DPoP", "scope": "mail.read", "delegation": delegation,
            "authorization_details": [{"type": "mail", "actions": ["read"]}]
        });
        expected.as_object_mut().unwrap().extend(shown.as_object().unwrap().clone());
        assert_eq!(answer, expected);
        for name in ["iat", "exp", "auth_time"] {
            assert!(answer[name].is_i64(), "{name}");
        }
    }

    #[test]
    fn the_caller_sees_its_own_scopes_and_details() {
        let mut token = claims();
        token["authorization_details"] = json!([{"type": "mail"}]);
        let narrowed = answer(&token, VisibleClaims { scope: "mail.read", ..VisibleClaims::default() });
        assert_eq!((&narrowed["scope"], narrowed.get("authorization_details")), (&json!("mail.read"), None));
        let none =
            answer(&token, VisibleClaims { details: Some(&Details::default()), ..VisibleClaims::default() });
        assert_eq!(
            none["authorization_details"],
            json!([]),
            "nothing is allowed, which absence would not say"
        );
    }

    #[test]
    fn callers_that_prefer_signed_introspection_get_it() {
        for accept in [
            "application/token-introspection+jwt",
            "Application/Token-Introspection+JWT ; Q=0.1",
            "application/json;q=0.8, application/token-introspection+jwt;q=0.801",
            "application/json;q=0.5,application/*",
            "application/json;q=0, */*;q=0.1",
            "application/json; charset=utf-8; q=0.9, application/token-introspection+jwt; q=1.000",
            "*/*;q=0.1, application/token-introspection+jwt",
            "application/json;q=2, application/token-introspection+jwt;q=0.1",
            ",, ;q=1, json, application/token-introspection+jwt",
        ] {
            assert_eq!(preferred(Some(accept)), Form::Jwt, "{accept}");
        }
    }

    #[test]
    fn all_other_callers_get_json() {
        assert_eq!(preferred(None), Form::Json);
        for accept in [
            "",
            "application/json",
            "*/*",
            "application/*",
            "text/html",
            "application/jwt",
            "application/token-introspection+jwt, application/json",
            "application/token-introspection+jwt;q=0",
            "application/token-introspection+jwt;q=0.000, */*",
            "application/token-introspection+jwt;q=0, application/json;q=0",
            "application/token-introspection+jwt;q=0.3, application/*;q=0.4, */*",
            "application/token-introspection+jwt;q=",
            "application/token-introspection+jwt;q",
            "application/token-introspection+jwt;q=1.001",
            "application/token-introspection+jwt;q=0.9999",
            "application/token-introspection+jwt;q=+1",
            "application/token-introspection+jwt;q=-1",
            "application/token-introspection+jwt;q=1;q=high",
            "application/token-introspection+jwt application/json",
        ] {
            assert_eq!(preferred(Some(accept)), Form::Json, "{accept}");
        }
    }

    #[test]
    fn a_signed_introspection_is_no_access_token() {
        let introspection = answer(&claims(), VisibleClaims::default());
        let signed =
            signed_claims("https://as.example.com", "mail-api", 1_700_000_001, introspection.clone());
        let expected = json!({"iss": "https://as.example.com", "aud": "mail-api", "iat": 1_700_000_001,
                              "token_introspection": introspection});
        assert_eq!(signed, expected);
        assert!(read_claims(signed.as_object().unwrap()).is_none());
    }

    #[test]
    fn a_signed_introspection_of_an_inactive_token_has_no_other_member() {
        let signed = signed_claims("https://as.example.com", "mail-api", 1_700_000_001, inactive());
        assert_eq!(signed["token_introspection"], json!({"active": false}));
    }
}
