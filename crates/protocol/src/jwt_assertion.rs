//! A JWT about a subject for another authorization server, which exchanges it: a subject token (RFC 8693 §2.1) or an
//! assertion (RFC 7523 §3).

use serde::Serialize;

use super::access_token::Act;

/// The media type in the `typ` header. It differs from that of access tokens, so that this server and its resource servers
/// refuse the JWT (RFC 8725 §3.11).
pub const TYP: &str = "JWT";

/// Grant type of an assertion (RFC 7523 §2.1).
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// The payload, serialized as it is signed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AssertionClaims {
    /// The server that issued the JWT.
    pub iss: String,
    /// The subject, by the name that all tokens of the issuer use.
    pub sub: String,
    /// The issuer of the subject; absent if it is `iss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idp: Option<String>,
    /// The only authorization server that may accept the JWT.
    pub aud: String,
    /// The client of `iss` that acts now.
    pub client_id: String,
    /// The most that may be granted, separated by spaces; absent if there are no scopes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// Time of issue, in Unix seconds.
    pub iat: i64,
    /// Expiry, in Unix seconds.
    pub exp: i64,
    /// Unique among the tokens of the issuer.
    pub jti: String,
    /// The actors of the chain (RFC 8693 §4.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
    /// The only client that may use the JWT (RFC 8693 §4.4).
    pub may_act: PermittedActor,
    /// The chain, the same in all tokens of it.
    pub txn: String,
}

/// A client of the authorization server that is the audience.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PermittedActor {
    /// The authorization server.
    pub iss: String,
    /// The client's id there.
    pub sub: String,
}

/// An actor without the key that it has proved: such keys mean nothing to another server.
pub fn without_keys(act: &Act) -> Act {
    let inner = act.act.as_deref().map(without_keys).map(Box::new);
    Act { sub: act.sub.clone(), iss: act.iss.clone(), cnf: None, act: inner }
}
