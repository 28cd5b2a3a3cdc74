//! This server's access tokens (RFC 9068), with nested actors (RFC 8693 §4.1) and a key binding (RFC 9449 §6.1).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::authorization_details::Details;
use super::jwt_time;
use super::status_list::StatusClaim;

/// The media type in the `typ` header (RFC 9068 §2.1).
pub const TYP: &str = "at+jwt";

/// The key that a token or an actor is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// SHA-256 thumbprint of the key (RFC 9449 §6.1).
    pub jkt: String,
}

/// An actor, with the earlier actors nested in it (RFC 8693 §4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// The actor's identifier, unique only together with `iss`.
    pub sub: String,
    /// The issuer that assigned `sub`.
    pub iss: String,
    /// The key that the actor proved possession of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// The previous actor: information only, never used for authorization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Act>>,
}

impl Act {
    /// This actor, then the earlier ones, the most recent first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Act> {
        std::iter::successors(Some(self), |act| act.act.as_deref())
    }

    /// Number of actors in the chain, at least 1.
    pub fn depth(&self) -> u32 {
        u32::try_from(self.newest_first().count()).unwrap_or(u32::MAX)
    }
}

/// One audience is written as a string, several as an array (RFC 7519 §4.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// Written as a string.
    One(String),
    /// Written as an array, even if it has fewer than two values.
    Many(Vec<String>),
}

impl Audience {
    /// The form to write: [`Audience::One`] for exactly one value.
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

    /// All values; the form of the claim makes no difference to a verifier.
    pub fn values(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// The payload of an access token, serialized as it is signed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Claims {
    /// The server that issued the token; a URL compared exactly.
    pub iss: String,
    /// The root subject, on whose behalf the actors act.
    pub sub: String,
    /// The issuer of the root subject; absent if it is this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idp: Option<String>,
    /// The resource servers that may accept the token.
    pub aud: Audience,
    /// The client that requested the token, which is its newest actor.
    pub client_id: String,
    /// Scopes, separated by spaces; absent if there are none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// Time of issue, in Unix seconds.
    pub iat: i64,
    /// Expiry, in Unix seconds.
    pub exp: i64,
    /// Unique among the tokens of the issuer.
    pub jti: String,
    /// The key that the token is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// The actors (RFC 8693 §4.1); absent if the root subject acts itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
    /// The delegation that the token was issued under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dlg: Option<String>,
    /// The chain id, the same in all hops.
    pub txn: String,
    /// The session of the root subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The authorization details, if any were requested (RFC 9396 §9.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_details: Option<Details>,
    /// The highest capability that the token may be used for; absent if there is no restriction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability_ceiling: Option<String>,
    /// Position of the token in a status list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusClaim>,
    /// How the root subject authenticated; unchanged in all hops (RFC 9068 §2.2.1).
    #[serde(flatten)]
    pub login: AuthenticationContext,
}

/// How the root subject authenticated (RFC 9068 §2.2.1). Copied from the subject token without evaluation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AuthenticationContext {
    /// When the root subject authenticated, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    /// Authentication context class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// Authentication methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amr: Option<Vec<String>>,
}

impl AuthenticationContext {
    /// Reads the claims; claims of a wrong type are ignored.
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

/// Reads the claims of a token of this server whose signature was verified. `None` if a claim required by RFC 9068
/// §2.2 is missing or a claim has the wrong type. `act` must be an object at every level (RFC 8693 §4.1).
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

/// Reads `aud`: a string, or an array of at least one string.
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
    fn the_outermost_actor_is_the_newest() {
        let claims = read_claims(token().as_object().unwrap()).unwrap();
        let act = claims.act.as_ref().unwrap();
        let actors: Vec<_> = act.newest_first().map(|act| act.sub.as_str()).collect();
        assert_eq!((actors, act.depth()), (vec!["agent-b", "agent-a"], 2));
        assert_eq!(serde_json::to_value(&claims).unwrap(), token(), "what is read is what is written");
    }

    #[test]
    fn every_required_claim_is_required() {
        for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
            let mut claims = token();
            claims.as_object_mut().unwrap().remove(name);
            assert!(read_claims(claims.as_object().unwrap()).is_none(), "{name}");
        }
    }

    #[test]
    fn act_is_an_object_at_every_level() {
        for act in [json!("x"), json!([]), json!({"sub": "a"}), json!({"sub": "a", "iss": "b", "act": "x"})] {
            let mut claims = token();
            claims["act"] = act.clone();
            assert!(read_claims(claims.as_object().unwrap()).is_none(), "{act}");
        }
    }
}
