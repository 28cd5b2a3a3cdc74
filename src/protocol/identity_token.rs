//! JWTs of other issuers as subject or actor tokens: RFC 7523 §3 with the care of RFC 8725, for the declared types
//! `jwt` and `id_token` (RFC 8693 §3).

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::access_token::{Audience, Login, audience};
use super::authorization_details::Details;
use super::jwt_time::{self, Validity};
use super::scope;
use super::token_exchange::TokenType;
use crate::platform::jose::{Header, Jws};

/// Media types that name another kind of token (standards §15): never to be taken for an identity.
const OTHER_KINDS: [&str; 10] = [
    "dpop+jwt",
    "client-authentication+jwt",
    "oauth-client-attestation+jwt",
    "oauth-client-attestation-pop+jwt",
    "token-introspection+jwt",
    "statuslist+jwt",
    "secevent+jwt",
    "txntoken+jwt",
    "oauth-id-jag+jwt",
    "logout+jwt",
];

/// Whom a token allows to act for its subject (RFC 8693 §4.4). Every member that is there has to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MayAct {
    /// The party.
    pub sub: Option<String>,
    /// Whose party.
    pub iss: Option<String>,
    /// The party as a client.
    pub client_id: Option<String>,
}

/// What another issuer says of a principal.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The issuer.
    pub iss: String,
    /// The principal.
    pub sub: String,
    /// Whom the token was made for.
    pub aud: Audience,
    /// When it begins and ends.
    pub validity: Validity,
    /// Its id.
    pub jti: Option<String>,
    /// `scope`, where the token has one.
    pub scopes: Option<std::collections::BTreeSet<String>>,
    /// `authorization_details`, where the token has them.
    pub details: Option<Details>,
    /// `may_act`, where the token has it.
    pub may_act: Option<MayAct>,
    /// `sid`, where the token has it.
    pub sid: Option<String>,
    /// Whether somebody acts already.
    pub has_actor: bool,
    /// Thumbprint of the key that the token is bound to (RFC 9449 §6.1), where it is bound.
    pub jkt: Option<String>,
    /// How the principal logged in.
    pub login: Login,
}

/// Whether a header may belong to a token of the declared type. An access token of another server comes as `jwt`,
/// never as `id_token` (RFC 8693 §3).
pub fn header_fits(header: &Header, declared: TokenType) -> bool {
    let other_kind = OTHER_KINDS.iter().any(|kind| header.is_typed(kind));
    let access_token = header.is_typed("at+jwt");
    match declared {
        TokenType::Jwt => !other_kind,
        TokenType::IdToken => !other_kind && !access_token,
        TokenType::AccessToken => false,
    }
}

/// Reads the claims. `None` if one that is required (`iss`, `sub`, `aud`, `exp`; RFC 7523 §3) is missing, a claim that
/// is looked at has the wrong type, the token is bound in a way that is not checked here (RFC 7800 §3), or the token is not valid at `now`.
pub fn read(jws: &Jws<'_>, now: OffsetDateTime) -> Option<Identity> {
    let claims = &jws.claims;
    let validity = jwt_time::validity(claims)?;
    if !validity.holds_at(now) {
        return None;
    }
    let named = |name: &str| jws.text(name).filter(|text| is_name(text)).map(str::to_owned);
    let scopes = match claims.get("scope") {
        None => None,
        // An empty claim is a token that allows nothing, not one that allows everything.
        Some(Value::String(text)) if text.is_empty() => Some(std::collections::BTreeSet::new()),
        Some(value) => Some(scope::parse(value.as_str()?)?),
    };
    Some(Identity {
        iss: named("iss")?,
        sub: named("sub")?,
        aud: audience(claims)?,
        validity,
        jti: jws.text("jti").filter(|text| is_name(text)).map(str::to_owned),
        scopes,
        details: match claims.get("authorization_details") {
            None => None,
            Some(value) => Some(Details::from_value(value)?),
        },
        may_act: match claims.get("may_act") {
            None => None,
            Some(value) => Some(may_act(value.as_object()?)?),
        },
        sid: jws.text("sid").filter(|text| is_name(text)).map(str::to_owned),
        has_actor: match claims.get("act") {
            None => false,
            Some(act) => act.is_object().then_some(true)?,
        },
        jkt: match claims.get("cnf") {
            None => None,
            Some(cnf) => Some(cnf.as_object()?.get("jkt")?.as_str()?.to_owned()),
        },
        login: Login::read(claims),
    })
}

/// A name that can be stored and shown: not empty, at most 512 bytes, no control characters.
pub fn is_name(text: &str) -> bool {
    (1..=512).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// At least one member that names somebody; members of the wrong type spoil the claim.
fn may_act(object: &Map<String, Value>) -> Option<MayAct> {
    let text = |name: &str| match object.get(name) {
        None => Some(None),
        Some(value) => value.as_str().map(|text| Some(text.to_owned())),
    };
    let party = MayAct { sub: text("sub")?, iss: text("iss")?, client_id: text("client_id")? };
    (party.sub.is_some() || party.client_id.is_some()).then_some(party)
}

impl MayAct {
    /// Whether this names our client: as `client_id`, or as `sub` of ours. A `sub` without `iss` is somebody of the
    /// issuer's own, whatever our clients are called.
    pub fn names(&self, client_id: &str, issuer: &str) -> bool {
        let same =
            |member: &Option<String>, value: &str| member.as_deref().is_none_or(|member| member == value);
        let ours = self.sub.is_none() || self.iss.is_some();
        ours && same(&self.sub, client_id) && same(&self.client_id, client_id) && same(&self.iss, issuer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn party(value: Value) -> Option<MayAct> {
        may_act(value.as_object().unwrap())
    }

    #[test]
    fn te_38_every_member_of_may_act_has_to_match() {
        let issuer = "https://as.example.com";
        let names = |value: Value| party(value).is_some_and(|party| party.names("a", issuer));
        assert!(names(json!({"sub": "a", "iss": issuer})));
        assert!(!names(json!({"sub": "a"})), "somebody of the issuer's own");
        assert!(names(json!({"client_id": "a"})));
        assert!(!names(json!({"sub": "b"})) && !names(json!({"sub": "a", "iss": "https://other.example"})));
        assert!(!names(json!({"sub": "a", "client_id": "b"})));
        assert!(!names(json!({})) && !names(json!({"iss": issuer})), "naming nobody allows nobody");
        assert_eq!(party(json!({"sub": ["a"]})), None);
    }

    #[test]
    fn jb_14_other_kinds_of_token_are_no_identities() {
        let header = |typ: &str| Header { alg: "ES256".into(), typ: Some(typ.into()), kid: None, jwk: None };
        for typ in OTHER_KINDS {
            assert!(!header_fits(&header(typ), TokenType::Jwt), "{typ}");
            assert!(!header_fits(&header(&format!("application/{typ}")), TokenType::IdToken), "{typ}");
        }
        assert!(header_fits(&header("at+jwt"), TokenType::Jwt));
        assert!(!header_fits(&header("at+jwt"), TokenType::IdToken));
        assert!(header_fits(&header("JWT"), TokenType::IdToken));
    }
}
