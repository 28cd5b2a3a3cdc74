//! Our access tokens (RFC 9068) with nested actors (RFC 8693 §4.1) and a key (RFC 9449 §6.1).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::authorization_details::Details;
use super::jwt_time;
use super::status_list::StatusClaim;

/// The media type in `typ`.
pub const TYP: &str = "at+jwt";

/// The key that a token or an actor is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Thumbprint of the key (RFC 9449 §6.1).
    pub jkt: String,
}

/// One actor, and the ones that acted before it (RFC 8693 §4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub sub: String,
    pub iss: String,
    /// The key under which it acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// Who acted before; history, never authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Act>>,
}

impl Act {
    /// The actors, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Act> {
        std::iter::successors(Some(self), |act| act.act.as_deref())
    }

    /// How many actors there are.
    pub fn depth(&self) -> u32 {
        u32::try_from(self.newest_first().count()).unwrap_or(u32::MAX)
    }
}

/// One audience is written as a string, several as an array (RFC 7519 §4.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    /// Writes a list.
    pub fn from_list(mut list: Vec<String>) -> Self {
        match (list.pop(), list.is_empty()) {
            (Some(only), true) => Self::One(only),
            (Some(last), false) => {
                list.push(last);
                Self::Many(list)
            }
            (None, _) => Self::Many(list),
        }
    }

    pub fn values(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Claims {
    pub iss: String,
    /// The root subject.
    pub sub: String,
    /// The issuer of the root subject, where it isn't us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idp: Option<String>,
    /// Whom the token is for.
    pub aud: Audience,
    /// The client that asked for this token, which is its newest actor.
    pub client_id: String,
    /// Scopes, separated by spaces; left out where there are none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// When it was issued, in seconds.
    pub iat: i64,
    /// When it ends, in seconds.
    pub exp: i64,
    pub jti: String,
    /// The key it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
    /// The delegation that it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dlg: Option<String>,
    /// The chain; the same through all hops.
    pub txn: String,
    /// The session of the root subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// What exactly may be done, where it was asked for (RFC 9396 §9.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_details: Option<Details>,
    /// The highest capability that it may be used for; absent where that is not restricted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability_ceiling: Option<String>,
    /// Where its status is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusClaim>,
    /// How the root subject logged in; unchanged through all hops (RFC 9068 §2.2.1).
    #[serde(flatten)]
    pub login: AuthenticationContext,
}

/// How the root subject logged in (RFC 9068 §2.2.1): copied, never judged here.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AuthenticationContext {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    /// How strongly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// By which methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amr: Option<Vec<String>>,
}

impl AuthenticationContext {
    /// Reads the claims; those of other types are left out.
    pub fn read(claims: &Map<String, Value>) -> Self {
        let amr = claims
            .get("amr")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        Self {
            auth_time: claims.get("auth_time").and_then(jwt_time::whole_seconds),
            acr: claims.get("acr").and_then(Value::as_str).map(str::to_owned),
            amr,
        }
    }
}

/// Reads our own claims back from a token whose signature was checked. `None` if a required claim (§2.2) is missing
/// or any claim has the wrong type, `act` being an object at every level (RFC 8693 §4.1).
pub fn read_claims(claims: &Map<String, Value>) -> Option<Claims> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
    let optional = |name: &str| match claims.get(name) {
        None => Some(None),
        Some(value) => value.as_str().map(|text| Some(text.to_owned())),
    };
    let typed = |name: &str| claims.get(name).cloned();
    Some(Claims {
        iss: text("iss")?,
        sub: text("sub")?,
        idp: optional("idp")?,
        aud: audience(claims)?,
        client_id: text("client_id")?,
        scope: optional("scope")?.unwrap_or_default(),
        iat: claims.get("iat").and_then(jwt_time::whole_seconds)?,
        exp: claims.get("exp").and_then(jwt_time::whole_seconds)?,
        jti: text("jti")?,
        cnf: typed("cnf").map(serde_json::from_value).transpose().ok()?,
        act: typed("act").map(serde_json::from_value).transpose().ok()?,
        dlg: optional("dlg")?,
        txn: text("txn")?,
        sid: optional("sid")?,
        authorization_details: match claims.get("authorization_details") {
            None => None,
            Some(value) => Some(Details::from_value(value)?),
        },
        capability_ceiling: optional("capability_ceiling")?,
        status: typed("status").map(serde_json::from_value).transpose().ok()?,
        login: AuthenticationContext::read(claims),
    })
}

/// Reads `aud`: a string or an array of strings, at least one.
pub fn audience(claims: &Map<String, Value>) -> Option<Audience> {
    match claims.get("aud")? {
        Value::String(one) => Some(Audience::One(one.clone())),
        Value::Array(list) if !list.is_empty() => {
            let names = list.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()?;
            Some(Audience::Many(names))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token() -> Value {
        json!({"iss": "https://as.example.com", "aud": "https://mail.example.com/api", "sub": "user-456",
               "client_id": "agent-b", "iat": 1700000000, "exp": 1700000300, "jti": "at-0001", "scope": "mail.read",
               "txn": "t", "act": {"iss": "https://as.example.com", "sub": "agent-b",
               "act": {"iss": "https://as.example.com", "sub": "agent-a"}}, "cnf": {"jkt": "k"}})
    }

    #[test]
    fn te_33_the_outermost_actor_is_the_newest() {
        let claims = read_claims(token().as_object().unwrap()).unwrap();
        let act = claims.act.as_ref().unwrap();
        let actors: Vec<_> = act.newest_first().map(|act| act.sub.as_str()).collect();
        assert_eq!((actors, act.depth()), (vec!["agent-b", "agent-a"], 2));
        assert_eq!(serde_json::to_value(&claims).unwrap(), token(), "what is read is what is written");
    }

    #[test]
    fn at_05_every_required_claim_is_required() {
        for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
            let mut claims = token();
            claims.as_object_mut().unwrap().remove(name);
            assert!(read_claims(claims.as_object().unwrap()).is_none(), "{name}");
        }
    }

    #[test]
    fn te_31_act_is_an_object_at_every_level() {
        for act in [json!("x"), json!([]), json!({"sub": "a"}), json!({"sub": "a", "iss": "b", "act": "x"})] {
            let mut claims = token();
            claims["act"] = act.clone();
            assert!(read_claims(claims.as_object().unwrap()).is_none(), "{act}");
        }
    }
}
