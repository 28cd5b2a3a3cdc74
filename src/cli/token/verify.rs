//! `actchain token verify`: what a resource server checks of an access token (RFC 9068 §4), with its status
//! (draft-ietf-oauth-status-list §8.3). Lists what was checked and what was not.

use serde_json::{Map, Value};

use crate::domain::client::usable_keys;
use crate::platform::clock::Clock;
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::Outbound;
use actchain_protocol::access_token::{self, Claims};
use actchain_protocol::jose::{Alg, Jws, PublicKey};
use actchain_protocol::json as strict_json;
use actchain_protocol::metadata::well_known_paths;
use actchain_protocol::status_list::{self, Reference, Status, StatusList};
use actchain_protocol::{jwt_time, metadata};

/// The longest status list token that is read, in bytes. A list with up to a third of its 2^20 tokens revoked is
/// shorter.
const MAX_LIST_BYTES: usize = 256 * 1024;

/// The issuer, keys and audience that a token is checked against.
#[derive(Debug)]
pub(super) struct Trust {
    /// The issuer whose tokens are accepted; `None` if the keys alone decide.
    pub(super) issuer: Option<String>,
    /// A URL or a file with a JWK Set; `None` for the JWK Set that the issuer's metadata names.
    pub(super) jwks: Option<String>,
    /// The audience that the token must name.
    pub(super) audience: Option<String>,
    /// The client that fetches keys, metadata and status lists.
    pub(super) outbound: Outbound,
}

#[derive(Debug, Default)]
pub(super) struct TokenReport {
    /// The first failed check; `None` for a valid token.
    pub(super) wrong: Option<String>,
    /// The checks that passed.
    pub(super) checked: Vec<String>,
    /// The checks that were left out, and why.
    pub(super) unchecked: Vec<String>,
}

/// Why verification ended: the token is invalid, or a check could not be made.
enum Stopped {
    Invalid(String),
    Failed(Fault),
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

fn invalid<T>(why: impl Into<String>) -> Result<T, Stopped> {
    Err(Stopped::Invalid(why.into()))
}

/// Checks a token.
///
/// # Errors
/// If it cannot be decided whether the token is valid: keys or status list cannot be fetched.
pub(super) async fn verify(jws: &Jws<'_>, trust: &Trust) -> Result<TokenReport, Fault> {
    let mut report = TokenReport::default();
    match check(jws, trust, &mut report).await {
        Ok(()) => Ok(report),
        Err(Stopped::Invalid(wrong)) => Ok(TokenReport { wrong: Some(wrong), ..report }),
        Err(Stopped::Failed(fault)) => Err(fault),
    }
}

async fn check(jws: &Jws<'_>, trust: &Trust, report: &mut TokenReport) -> Result<(), Stopped> {
    if !jws.header.is_typed(access_token::TYP) {
        return invalid("its typ is not at+jwt");
    }
    report.checked.push("type at+jwt".into());
    check_issuer(jws, trust, report)?;
    let keys = keys(trust).await?;
    let Some(key) = signer(jws, &keys) else { return invalid("no key of the issuer has signed it") };
    report.checked.push(format!("signature by the key {}", key.kid().unwrap_or("without a kid")));
    let Some(claims) = access_token::read_claims(&jws.claims) else {
        return invalid("a required claim is missing or malformed");
    };
    if !is_valid_now(&jws.claims) {
        return invalid("it has expired or is not valid yet");
    }
    report.checked.push("times".into());
    match &trust.audience {
        Some(name) if !claims.aud.values().contains(name) => return invalid(format!("it is not for {name}")),
        Some(name) => report.checked.push(format!("audience {name}")),
        None => report.unchecked.push("audience: --audience names the one to require".into()),
    }
    check_status(&claims, &keys, trust, report).await?;
    report.unchecked.push(match &claims.cnf {
        Some(cnf) => format!("possession of the key {}: only a DPoP proof shows it", cnf.jkt),
        None => "the sender: the token is a bearer token".into(),
    });
    Ok(())
}

/// Compares the issuer before anything is fetched: a token must not choose where its keys come from.
fn check_issuer(jws: &Jws<'_>, trust: &Trust, report: &mut TokenReport) -> Result<(), Stopped> {
    let Some(expected) = &trust.issuer else {
        report.unchecked.push("issuer: --jwks gave the keys, and --issuer names none".into());
        return Ok(());
    };
    match jws.text("iss") {
        Some(iss) if iss == expected => {
            report.checked.push(format!("issuer {expected}"));
            Ok(())
        }
        iss => invalid(format!(
            "its issuer is {}, not {expected}; --issuer ISSUER verifies tokens of another issuer",
            iss.unwrap_or("not named")
        )),
    }
}

fn signer<'a>(jws: &Jws<'_>, keys: &'a [PublicKey]) -> Option<&'a PublicKey> {
    let kid = jws.header.kid.as_deref();
    keys.iter().find(|key| key.kid() == kid && jws.verified_by(key, &Alg::ALL))
}

fn is_valid_now(claims: &Map<String, Value>) -> bool {
    jwt_time::validity(claims).is_some_and(|validity| validity.is_valid_at(Clock::System.now()))
}

/// Checks in the token's status list that the token is neither revoked nor suspended. The list must be of the same
/// issuer.
async fn check_status(
    claims: &Claims,
    keys: &[PublicKey],
    trust: &Trust,
    report: &mut TokenReport,
) -> Result<(), Stopped> {
    let Some(Reference { idx, uri }) = claims.status.as_ref().map(|status| &status.status_list) else {
        report.unchecked.push("status: the token names no status list".into());
        return Ok(());
    };
    if trust.jwks.as_deref().is_some_and(is_file) {
        report.unchecked.push("status: the keys came from a file, and nothing was fetched".into());
        return Ok(());
    }
    if !uri.starts_with(&metadata::endpoint(&claims.iss, "/")) {
        return invalid(format!("its status list {uri} is not one of its issuer"));
    }
    let text = trust.outbound.get_text(uri, status_list::MEDIA_TYPE).await?;
    let unusable = |what: &str| Fault::new(format!("{uri}: {what}"));
    let list = Jws::parse_within(text.trim(), MAX_LIST_BYTES).ok_or_else(|| unusable("this is no JWT"))?;
    if !list.header.is_typed(status_list::TYP) || signer(&list, keys).is_none() {
        return Err(unusable("this is no status list that the issuer has signed").into());
    }
    if list.text("sub") != Some(uri) || !is_valid_now(&list.claims) {
        return Err(unusable("the status list is of another place, or has expired").into());
    }
    let compressed = list.claims.get("status_list").and_then(|list| list.get("lst")).and_then(Value::as_str);
    let statuses = compressed.and_then(StatusList::read).ok_or_else(|| unusable("it cannot be read"))?;
    match statuses.get(*idx) {
        Some(Status::Valid) => {
            report.checked.push(format!("status: valid, as entry {idx} of {uri} says"));
            Ok(())
        }
        Some(Status::Invalid) => invalid(format!("it was revoked, as entry {idx} of {uri} says")),
        Some(Status::Suspended) => invalid(format!("it is suspended, as entry {idx} of {uri} says")),
        None => Err(unusable("it has no such entry, or one without a meaning").into()),
    }
}

fn is_file(jwks: &str) -> bool {
    !jwks.contains("://")
}

async fn keys(trust: &Trust) -> Result<Vec<PublicKey>, Fault> {
    let set = match (&trust.jwks, &trust.issuer) {
        (Some(path), _) if is_file(path) => std::fs::read(path).context(&format!("reading {path}"))?,
        (Some(url), _) => trust.outbound.get_json(url).await?,
        (None, Some(issuer)) => published(&trust.outbound, issuer).await?,
        (None, None) => return Err(Fault::new("neither an issuer nor keys to verify with")),
    };
    let keys = strict_json::parse(&set).as_ref().and_then(usable_keys);
    keys.ok_or_else(|| Fault::new("the keys of the issuer are not a JWK Set"))
}

/// The JWK Set that the metadata of an issuer points to (RFC 8414 §3).
async fn published(outbound: &Outbound, issuer: &str) -> Result<Vec<u8>, Fault> {
    let base = url::Url::parse(issuer).context(&format!("reading the issuer {issuer}"))?;
    let path = well_known_paths(issuer).into_iter().next().unwrap_or_default();
    let location = base.join(&path).context(&format!("reading the issuer {issuer}"))?;
    let document = outbound.get_json(location.as_str()).await?;
    let document = strict_json::parse_object(&document)
        .ok_or_else(|| Fault::new(format!("{location}: the metadata is no object")))?;
    if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
        return Err(Fault::new(format!("{location}: the metadata is of another issuer")));
    }
    let jwks = document.get("jwks_uri").and_then(Value::as_str);
    let jwks = jwks.ok_or_else(|| Fault::new(format!("{location}: the metadata names no jwks_uri")))?;
    outbound.get_json(jwks).await
}
