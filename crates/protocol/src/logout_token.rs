//! Logout tokens (OpenID Connect Back-Channel Logout 1.0 §2.4, §2.6). Who signed them is checked elsewhere.

use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::access_token::audience;
use super::jwt_time::{SKEW, numeric_date};
use super::trusted_issuer_jwt::is_name;
use crate::jose::Jws;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// How old a logout token may be.
pub const MAX_AGE: Duration = Duration::minutes(10);

/// What an issuer says about a session that has ended there. At least one of `sub` and `sid` is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogoutToken {
    /// The issuer of the token.
    pub iss: String,
    /// The person: all its sessions have ended, unless `sid` names one.
    pub sub: Option<String>,
    /// The session that has ended.
    pub sid: Option<String>,
    /// Names the token, so that it is used once.
    pub jti: String,
}

/// Reads and checks a logout token for a client. `None` for any other token.
pub fn read(jws: &Jws<'_>, client_id: &str, now: OffsetDateTime) -> Option<LogoutToken> {
    let plain = jws.header.typ.is_none() || jws.header.is_typed("jwt");
    if !plain && !jws.header.is_typed("logout+jwt") {
        return None;
    }
    let claims = &jws.claims;
    // A token with a nonce is an ID token (§2.4).
    if claims.contains_key("nonce") || !claims.get("events")?.get(EVENT)?.is_object() {
        return None;
    }
    if !audience(claims)?.values().iter().any(|name| name == client_id) {
        return None;
    }
    let issued_at = numeric_date(claims.get("iat")?)?;
    if issued_at > now + SKEW || issued_at + MAX_AGE < now {
        return None;
    }
    if let Some(expires_at) = claims.get("exp")
        && numeric_date(expires_at)? <= now
    {
        return None;
    }
    let named = |value: &Value| value.as_str().filter(|text| is_name(text)).map(str::to_owned);
    let optional = |name: &str| match claims.get(name) {
        None => Some(None),
        Some(value) => named(value).map(Some),
    };
    let token = LogoutToken {
        iss: named(claims.get("iss")?)?,
        sub: optional("sub")?,
        sid: optional("sid")?,
        jti: named(claims.get("jti")?)?,
    };
    (token.sub.is_some() || token.sid.is_some()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base64url;
    use serde_json::json;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

    fn accepts(header: Value, change: impl FnOnce(&mut Value)) -> bool {
        let now = NOW.unix_timestamp();
        let mut claims = json!({"iss": "https://idp.example", "aud": "us", "iat": now, "exp": now + 120, "jti": "j",
                                "sub": "a", "sid": "s", "events": {EVENT: {}}});
        change(&mut claims);
        let part = |value: Value| base64url::encode(value.to_string());
        let token = format!("{}.{}.AAAA", part(header), part(claims));
        read(&Jws::parse(&token).unwrap(), "us", NOW).is_some()
    }

    #[test]
    fn each_claim_of_a_logout_token_is_checked() {
        let now = NOW.unix_timestamp();
        let plain = || json!({"alg": "ES256"});
        let without = |name: &'static str| {
            accepts(plain(), move |claims| drop(claims.as_object_mut().unwrap().remove(name)))
        };
        assert!(accepts(plain(), |_| {}) && accepts(json!({"alg": "ES256", "typ": "logout+jwt"}), |_| {}));
        assert!(!accepts(json!({"alg": "ES256", "typ": "at+jwt"}), |_| {}));
        assert!(without("sub") && without("sid") && without("exp"));
        for name in ["iss", "aud", "iat", "jti", "events"] {
            assert!(!without(name), "{name}");
        }
        for (name, value) in [
            ("nonce", json!("n")),
            ("nonce", Value::Null),
            ("aud", json!("them")),
            ("iat", json!(now + 11)),
            ("iat", json!(now - 601)),
            ("exp", json!(now)),
            ("events", json!({})),
            ("events", json!({EVENT: true})),
            ("events", json!([EVENT])),
            ("sub", json!(7)),
            ("sid", json!("")),
        ] {
            assert!(!accepts(plain(), |claims| claims[name] = value.clone()), "{name}: {value}");
        }
        assert!(!accepts(plain(), |claims| {
            let claims = claims.as_object_mut().unwrap();
            claims.remove("sub");
            claims.remove("sid");
        }));
    }
}
