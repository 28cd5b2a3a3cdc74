//! JWTs of other issuers as subject or actor tokens: RFC 7523 §3 with the precautions of RFC 8725, for the declared
//! types `jwt` and `id_token` (RFC 8693 §3).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::access_token::{Act, Audience, AuthenticationContext, audience};
use super::authorization_details::Details;
use super::jwt_time::{self, Validity};
use super::scope;
use super::token_exchange::TokenType;
use super::token_problem::TokenProblem;
use crate::jose::Jws;

/// Claims that only other kinds of JWT have. A token with one of them is never accepted as an identity, whatever its
/// `typ`, because most of those kinds may leave `typ` out.
const CLAIMS_OF_OTHER_KINDS: &[&str] = &[
    // Security event tokens, logout tokens, CAEP and RISC events (RFC 8417 §2.2, RFC 9493 §4, OIDC Back-Channel Logout §2.4).
    "events",
    "toe",
    "sub_id",
    // SD-JWT, SD-JWT VC and key binding (RFC 9901 §4), W3C credentials and presentations.
    "_sd",
    "_sd_alg",
    "...",
    "sd_hash",
    "vct",
    "vct#integrity",
    "vc",
    "vp",
    // Introspection responses (RFC 9701 §5).
    "token_introspection",
    // Request objects (RFC 9101 §4).
    "response_type",
    "response_mode",
    "redirect_uri",
    "code_challenge",
    "code_challenge_method",
    // DPoP proofs (RFC 9449 §4.2).
    "htm",
    "htu",
    "ath",
    // Status list tokens (Token Status List §5.1).
    "status_list",
    // Software statements and client metadata (RFC 7591 §2.3).
    "software_id",
    "redirect_uris",
    // OpenID Federation entity statements, trust marks and their responses.
    "authority_hints",
    "metadata_policy",
    "trust_marks",
    "trust_mark_type",
    "jwks",
    // Transaction tokens.
    "tctx",
    "rctx",
    // Entity attestation tokens (RFC 9711 §4).
    "eat_profile",
    "eat_nonce",
];

/// The meaning of an issuer's claims, as declared at registration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimPolicy {
    /// How the `may_act` claim is used.
    pub may_act: MayActUse,
    /// The claims that contain scopes. If none is declared, `scope` and `scp` are used if present.
    pub scope_claims: Option<Vec<String>>,
    /// How the `act` claim is used.
    pub actors: ActorUse,
    /// The claims that name the user, the client and the session.
    pub names: ClaimNames,
    /// The clients of the issuer whose tokens are accepted; `None`: all of them.
    pub accepted_clients: Option<BTreeSet<String>>,
}

/// The names of claims where an issuer does not use those of the specifications. A token without a claim that is named
/// here is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ClaimNames {
    /// The claim that names the user; `sub` where absent. It must be unique to the user and never be assigned again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(min = 1, max = 512), example = &"oid"))]
    pub subject: Option<String>,
    /// The claim that names the client that got the token; not read where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(min = 1, max = 512), example = &"azp"))]
    pub client: Option<String>,
    /// The claim that names the session; `sid` where absent, which a token need not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(length(min = 1, max = 512), example = &"sid"))]
    pub session: Option<String>,
}

impl ClaimNames {
    /// The claim that names the user.
    pub fn subject(&self) -> &str {
        self.subject.as_deref().unwrap_or("sub")
    }

    /// The names that differ from those of the specifications, or repeat them.
    pub fn declared(&self) -> impl Iterator<Item = &String> {
        [&self.subject, &self.client, &self.session].into_iter().flatten()
    }
}

/// How the `may_act` claim of an issuer is used (RFC 8693 §4.4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MayActUse {
    /// The named client may act, without any other delegation, and no other client may.
    Authorize,
    /// Only the named client may act, and it needs a delegation like any other.
    #[default]
    Restrict,
    /// The claim is not read.
    Ignore,
}

impl MayActUse {
    /// The name in declarations and storage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Restrict => "restrict",
            Self::Ignore => "ignore",
        }
    }

    /// Parses the name in declarations and storage.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Authorize, Self::Restrict, Self::Ignore].into_iter().find(|usage| usage.name() == name)
    }
}

/// How the `act` claim of an issuer is used (RFC 8693 §4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ActorUse {
    /// A token that names an actor is refused.
    #[default]
    Refuse,
    /// The actors of a token are the first actors of its chain. They give no authority.
    Accept,
}

impl ActorUse {
    /// The name in declarations and storage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Accept => "accept",
        }
    }

    /// Parses the name in declarations and storage.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Refuse, Self::Accept].into_iter().find(|usage| usage.name() == name)
    }
}

/// Maximum number of actors that are read from a token of another issuer.
const MAX_ACTORS: usize = 32;

/// The party that a token allows to act for its subject (RFC 8693 §4.4). Every member that is present has to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MayAct {
    /// The party's `sub` at its issuer.
    pub sub: Option<String>,
    /// The party's issuer; `None` means the issuer of the token.
    pub iss: Option<String>,
    /// The party's client id.
    pub client_id: Option<String>,
}

/// The statements of another issuer about a principal.
#[derive(Debug, Clone, PartialEq)]
pub struct ExternalIdentity {
    /// The `iss` claim; whether the issuer is trusted is not checked here.
    pub iss: String,
    /// The principal, unique only together with `iss`.
    pub sub: String,
    /// At least one value; whether it includes the reader is not checked here.
    pub aud: Audience,
    /// The time claims, already checked against `now`.
    pub validity: Validity,
    /// Absent in many tokens; a token without it cannot be recognised when it comes again.
    pub jti: Option<String>,
    /// The scopes that the token allows; `None` if it does not restrict them.
    pub scopes: Option<BTreeSet<String>>,
    /// `authorization_details`, if the token has them.
    pub details: Option<Details>,
    /// `may_act`, if the token has it.
    pub may_act: Option<MayAct>,
    /// The session, if the token names it.
    pub sid: Option<String>,
    /// The client of the issuer that got the token, if its claim is declared.
    pub client: Option<String>,
    /// The actors of the token (`act`), each with its issuer and without a key: no key was proved to this server. With
    /// [`ActorUse::Refuse`] it says only that there is an actor.
    pub act: Option<Act>,
    /// Thumbprint of the key that the token is bound to (RFC 9449 §6.1), if any.
    pub jkt: Option<String>,
    /// How the principal authenticated.
    pub login: AuthenticationContext,
}

/// Checks that a token may be of the declared type. An access token of another server must be declared as `jwt`, never
/// as `id_token` (RFC 8693 §3).
///
/// # Errors
/// [`TokenProblem::WrongKind`].
pub fn check_kind(jws: &Jws<'_>, declared: TokenType) -> Result<(), TokenProblem> {
    let plain = jws.header.typ.is_none() || jws.header.is_typed("jwt");
    let fits = match declared {
        TokenType::Jwt => plain || jws.header.is_typed("at+jwt"),
        TokenType::IdToken => plain,
        TokenType::AccessToken => false,
    };
    let other_kind = CLAIMS_OF_OTHER_KINDS.iter().any(|name| jws.claims.contains_key(*name));
    if fits && !other_kind { Ok(()) } else { Err(TokenProblem::WrongKind) }
}

/// Reads and checks the claims of a JWT, or of a token that its issuer introspected.
///
/// # Errors
/// [`TokenProblem::Claims`] if a required claim (`iss`, `sub`, `aud`, `exp`; RFC 7523 §3) or a declared claim is missing, or a claim that
/// this server reads has the wrong type. [`TokenProblem::Binding`] if the token is bound in a way that this server
/// cannot check (RFC 7800 §3). [`TokenProblem::ClientNotAccepted`] for another client. [`TokenProblem::Expired`] or [`TokenProblem::NotYetValid`] if it is not valid at `now`.
pub fn read(
    claims: &Map<String, Value>,
    policy: &ClaimPolicy,
    now: OffsetDateTime,
) -> Result<ExternalIdentity, TokenProblem> {
    let validity = jwt_time::validity(claims).ok_or(TokenProblem::Claims)?;
    validity.check(now)?;
    let jkt = match claims.get("cnf") {
        None => None,
        Some(cnf) => Some(bound_to(cnf).ok_or(TokenProblem::Binding)?),
    };
    let identity = read_identity(claims, policy, validity).ok_or(TokenProblem::Claims)?;
    let accepted =
        |clients: &BTreeSet<String>| identity.client.as_ref().is_some_and(|id| clients.contains(id));
    if !policy.accepted_clients.as_ref().is_none_or(accepted) {
        return Err(TokenProblem::ClientNotAccepted);
    }
    Ok(ExternalIdentity { jkt, ..identity })
}

/// The thumbprint in `cnf`, if `cnf` has no other member.
fn bound_to(cnf: &Value) -> Option<String> {
    cnf.as_object().filter(|members| members.len() == 1)?.get("jkt")?.as_str().map(str::to_owned)
}

fn read_identity(
    claims: &Map<String, Value>,
    policy: &ClaimPolicy,
    validity: Validity,
) -> Option<ExternalIdentity> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let named = |name: &str| text(name).filter(|text| is_name(text)).map(str::to_owned);
    let iss = named("iss")?;
    Some(ExternalIdentity {
        act: match (claims.get("act"), policy.actors) {
            (None, _) => None,
            (Some(act), ActorUse::Accept) => Some(read_act(act, &iss, MAX_ACTORS)?),
            (Some(act), ActorUse::Refuse) => {
                act.as_object()?;
                Some(Act { sub: String::new(), iss: iss.clone(), cnf: None, act: None })
            }
        },
        iss,
        sub: named(policy.names.subject())?,
        aud: audience(claims)?,
        validity,
        jti: named("jti"),
        scopes: scopes(claims, policy.scope_claims.as_deref())?,
        details: match claims.get("authorization_details") {
            None => None,
            Some(value) => Some(Details::from_value(value)?),
        },
        may_act: match claims.get("may_act").filter(|_| policy.may_act != MayActUse::Ignore) {
            None => None,
            Some(value) => Some(may_act(value.as_object()?)?),
        },
        sid: match &policy.names.session {
            None => named("sid"),
            Some(name) => Some(named(name)?),
        },
        client: match &policy.names.client {
            None => None,
            Some(name) => Some(named(name)?),
        },
        jkt: None,
        login: AuthenticationContext::read(claims),
    })
}

/// Reads an actor with the earlier actors in it. An actor without `iss` belongs to the issuer of the token.
fn read_act(value: &Value, iss: &str, most: usize) -> Option<Act> {
    let members = value.as_object()?;
    let most = most.checked_sub(1)?;
    let name = |value: &Value| value.as_str().filter(|text| is_name(text)).map(str::to_owned);
    Some(Act {
        sub: name(members.get("sub")?)?,
        iss: members.get("iss").map_or_else(|| Some(iss.to_owned()), name)?,
        cnf: None,
        act: match members.get("act") {
            None => None,
            Some(earlier) => Some(Box::new(read_act(earlier, iss, most)?)),
        },
    })
}

/// The scopes that a token allows: those that all of its scope claims name. Outer `None`: a claim of the wrong type.
/// Inner `None`: the token has no scope claim and none is declared, so scopes are not restricted. A claim without
/// values allows nothing, and so does a token without any of the declared claims.
fn scopes(claims: &Map<String, Value>, declared: Option<&[String]>) -> Option<Option<BTreeSet<String>>> {
    let usual = ["scope", "scp"].map(str::to_owned);
    let mut allowed: Option<BTreeSet<String>> = None;
    for value in declared.unwrap_or(&usual).iter().filter_map(|name| claims.get(name)) {
        let named = scope_values(value)?;
        allowed = Some(match allowed {
            None => named,
            Some(before) => before.intersection(&named).cloned().collect(),
        });
    }
    Some(allowed.or_else(|| declared.map(|_| BTreeSet::new())))
}

/// Values of a string separated by spaces, or of an array of strings. Values that are not scope tokens are left out:
/// they can never be granted, so this only narrows.
fn scope_values(value: &Value) -> Option<BTreeSet<String>> {
    let is_token = |text: &&str| scope::is_token(text);
    match value {
        Value::String(text) => Some(text.split(' ').filter(is_token).map(str::to_owned).collect()),
        Value::Array(values) => {
            let texts = values.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?;
            Some(texts.into_iter().filter(is_token).map(str::to_owned).collect())
        }
        _ => None,
    }
}

/// A name that can be stored and shown: not empty, at most 512 bytes, no control characters.
pub fn is_name(text: &str) -> bool {
    (1..=512).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Requires `sub` or `client_id`. A member of the wrong type makes the whole claim invalid.
fn may_act(object: &Map<String, Value>) -> Option<MayAct> {
    let text = |name: &str| match object.get(name) {
        None => Some(None),
        Some(value) => value.as_str().map(|text| Some(text.to_owned())),
    };
    let party = MayAct { sub: text("sub")?, iss: text("iss")?, client_id: text("client_id")? };
    (party.sub.is_some() || party.client_id.is_some()).then_some(party)
}

impl MayAct {
    /// Whether this names a client of this server, as `client_id` or as `sub`, together with this server's issuer.
    /// Without `iss`, the party belongs to the issuer of the token, even if a client here has the same name.
    pub fn names(&self, client_id: &str, issuer: &str) -> bool {
        let same =
            |member: &Option<String>, value: &str| member.as_deref().is_none_or(|member| member == value);
        self.iss.as_deref() == Some(issuer) && same(&self.sub, client_id) && same(&self.client_id, client_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base64url;
    use serde_json::json;

    fn party(value: Value) -> Option<MayAct> {
        may_act(value.as_object().unwrap())
    }

    #[test]
    fn every_member_of_may_act_has_to_match() {
        let issuer = "https://as.example.com";
        let names = |value: Value| party(value).is_some_and(|party| party.names("a", issuer));
        assert!(names(json!({"sub": "a", "iss": issuer})));
        assert!(!names(json!({"sub": "a"})), "a subject of the issuer's own");
        assert!(!names(json!({"client_id": "a"})), "a client of the issuer's own");
        assert!(names(json!({"client_id": "a", "iss": issuer})));
        assert!(!names(json!({"sub": "b"})) && !names(json!({"sub": "a", "iss": "https://other.example"})));
        assert!(!names(json!({"sub": "a", "client_id": "b"})));
        assert!(
            !names(json!({})) && !names(json!({"iss": issuer})),
            "a claim without a name allows no client"
        );
        assert_eq!(party(json!({"sub": ["a"]})), None);
    }

    #[test]
    fn an_actor_is_read_with_its_issuer_and_without_its_key() {
        let read = |value: Value| read_act(&value, "https://idp.example", MAX_ACTORS);
        let nested = json!({"sub": "b", "cnf": {"jkt": "k"}, "act": {"sub": "a", "iss": "https://other.example", "x": 1}});
        let act = read(nested).unwrap();
        let names: Vec<_> = act.newest_first().map(|act| (act.iss.as_str(), act.sub.as_str())).collect();
        assert_eq!(names, [("https://idp.example", "b"), ("https://other.example", "a")]);
        assert!(act.newest_first().all(|act| act.cnf.is_none()));
        let deep =
            |levels: usize| (1..levels).fold(json!({"sub": "a"}), |act, _| json!({"sub": "a", "act": act}));
        assert_eq!(read(deep(MAX_ACTORS)).map(|act| act.depth()), Some(32));
        assert_eq!(read(deep(MAX_ACTORS + 1)), None);
        for wrong in [
            json!({}),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"sub": "a", "iss": null}),
            json!("a"),
            json!({"sub": "a", "act": []}),
            json!({"sub": "a", "act": {"iss": "x"}}),
            json!({"sub": "a\u{0}"}),
        ] {
            assert_eq!(read(wrong.clone()), None, "{wrong}");
        }
    }

    fn token(header: Value, claims: Value) -> String {
        let part = |value: Value| base64url::encode(value.to_string());
        format!("{}.{}.AAAA", part(header), part(claims))
    }

    fn fits(header: Value, claims: Value, kind: TokenType) -> bool {
        check_kind(&Jws::parse(&token(header, claims)).unwrap(), kind).is_ok()
    }

    #[test]
    fn only_the_types_of_user_tokens_are_identities() {
        for typ in ["JWT", "jwt", "application/jwt", "at+jwt", "application/AT+JWT"] {
            assert!(fits(json!({"alg": "ES256", "typ": typ}), json!({}), TokenType::Jwt), "{typ}");
        }
        assert!(fits(json!({"alg": "ES256"}), json!({}), TokenType::Jwt));
        assert!(fits(json!({"alg": "ES256"}), json!({}), TokenType::IdToken));
        assert!(fits(json!({"alg": "ES256", "typ": "JWT"}), json!({}), TokenType::IdToken));
        assert!(!fits(json!({"alg": "ES256", "typ": "at+jwt"}), json!({}), TokenType::IdToken));
        for typ in [
            "dpop+jwt",
            "client-authentication+jwt",
            "oauth-client-attestation+jwt",
            "token-introspection+jwt",
            "statuslist+jwt",
            "secevent+jwt",
            "txntoken+jwt",
            "oauth-id-jag+jwt",
            "logout+jwt",
            "vc+jwt",
            "vc+sd-jwt",
            "dc+sd-jwt",
            "kb+jwt",
            "oauth-authz-req+jwt",
            "entity-statement+jwt",
            "made-up+jwt",
            "",
        ] {
            for kind in [TokenType::Jwt, TokenType::IdToken] {
                assert!(!fits(json!({"alg": "ES256", "typ": typ}), json!({}), kind), "{typ}");
            }
        }
    }

    #[test]
    fn a_claim_of_another_kind_of_token_is_refused_even_if_it_is_null() {
        for name in CLAIMS_OF_OTHER_KINDS {
            for kind in [TokenType::Jwt, TokenType::IdToken] {
                assert!(!fits(json!({"alg": "ES256"}), json!({(*name): null}), kind), "{name}");
            }
        }
    }

    fn allowed(claims: Value, declared: Option<&[&str]>) -> Option<Option<String>> {
        let declared: Option<Vec<String>> =
            declared.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let scopes = scopes(claims.as_object().unwrap(), declared.as_deref())?;
        Some(scopes.map(|scopes| scope::join(&scopes)))
    }

    #[test]
    fn all_scope_claims_together_bound_a_token() {
        let says = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(allowed(json!({}), None), Some(None), "no claim, no restriction by the token");
        assert_eq!(allowed(json!({"scope": "a b"}), None), says("a b"));
        assert_eq!(allowed(json!({"scope": "a  b "}), None), says("a b"));
        assert_eq!(allowed(json!({"scope": ["a", "b"]}), None), says("a b"));
        assert_eq!(allowed(json!({"scp": ["a", "two words"]}), None), says("a"));
        assert_eq!(allowed(json!({"scp": "a b"}), None), says("a b"));
        assert_eq!(allowed(json!({"scope": "a b", "scp": ["b", "c"]}), None), says("b"));
        for empty in [json!({"scope": ""}), json!({"scp": []}), json!({"scp": [" "]})] {
            assert_eq!(allowed(empty.clone(), None), says(""), "{empty}");
        }
        for wrong in [json!({"scope": null}), json!({"scp": 7}), json!({"scp": [7]}), json!({"scp": {}})] {
            assert_eq!(allowed(wrong.clone(), None), None, "{wrong}");
        }
    }

    #[test]
    fn declared_scope_claims_are_the_only_ones_and_have_to_be_there() {
        let says = |text: &str| Some(Some(text.to_owned()));
        let auth0 = json!({"scope": "openid profile", "permissions": ["a", "b"]});
        assert_eq!(allowed(auth0.clone(), Some(&["permissions"])), says("a b"));
        assert_eq!(allowed(auth0, Some(&["permissions", "roles"])), says("a b"));
        assert_eq!(allowed(json!({"scope": "a"}), Some(&["roles"])), says(""), "absent allows nothing");
        assert_eq!(allowed(json!({"roles": ["a"], "scp": "a b"}), Some(&["scp", "roles"])), says("a"));
        assert_eq!(allowed(json!({"roles": null}), Some(&["roles"])), None);
    }
}
