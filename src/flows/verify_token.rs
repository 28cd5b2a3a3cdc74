//! Verifying subject and actor tokens by the rules of the type they are declared as (RFC 8693 §2.1, RFC 9068 §4,
//! RFC 8725). A token is verified once and then remembered by its digest; what it rests on is checked at every use.

use std::sync::Arc;

use time::OffsetDateTime;

use super::mint::time_crypto;
use crate::app::App;
use crate::domain::client::Client;
use crate::domain::issuer::Issuer;
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Refusal, Stop};
use crate::domain::registry::Registry;
use crate::domain::subject::{Source, VerifiedSubject};
use crate::platform::digest::sha256;
use crate::platform::jose::{Jws, MAX_TOKEN_BYTES};
use crate::protocol::access_token::{self, Claims};
use crate::protocol::identity_token::{self, Identity};
use crate::protocol::jwt_time::{self, Validity};
use crate::protocol::scope;
use crate::protocol::token_exchange::{PresentedToken, TokenType};

/// Verifies a subject token. Whatever is wrong with it looks the same outside (standards TE-30).
pub async fn subject(
    app: &App,
    presented: &PresentedToken,
    (client, registry): (&Client, &Registry),
    now: OffsetDateTime,
) -> Result<Arc<VerifiedSubject>, Stop> {
    let verified = remembered(app, presented, registry, now).await?;
    if !verified.validity.holds_at(now) || !is_meant_for_us(&verified, presented.kind, client, registry) {
        return Err(Refusal::SubjectTokenInvalid.into());
    }
    Ok(verified)
}

/// Verifies a token, unless that was done lately.
async fn remembered(
    app: &App,
    presented: &PresentedToken,
    registry: &Registry,
    now: OffsetDateTime,
) -> Result<Arc<VerifiedSubject>, Stop> {
    let memory = memory_key(presented, registry);
    if let Some(verified) = app.subjects.get(&memory) {
        return Ok(verified);
    }
    let verified = Arc::new(verify(app, presented, registry, now).await?);
    app.subjects.insert(memory, Arc::clone(&verified));
    Ok(verified)
}

/// Verifies an actor token: it has to prove the client itself, under the key of this request.
pub async fn actor(
    app: &App,
    presented: &PresentedToken,
    (client, registry, jkt): (&Client, &Registry, Option<&str>),
    now: OffsetDateTime,
) -> Result<Arc<VerifiedSubject>, Stop> {
    let verified = subject(app, presented, (client, registry), now).await.map_err(|stop| match stop {
        Stop::Refused(Refusal::SubjectTokenInvalid) => Stop::Refused(Refusal::ActorTokenInvalid),
        other => other,
    })?;
    // An actor that acts for somebody else is no proof of itself; its chain is not merged into ours.
    if verified.act.is_some() {
        return Err(Refusal::ActorTokenInvalid.into());
    }
    let proves_client = match &verified.source {
        Source::Own { .. } => {
            verified.is_held_by(&client.client_id, &app.issuer)
                && verified.jkt.is_some()
                && verified.jkt.as_deref() == jkt
        }
        Source::Foreign { .. } => {
            client.actor_subjects.contains(&verified.subject)
                && verified.jkt.as_deref().is_none_or(|bound| Some(bound) == jkt)
        }
    };
    if proves_client { Ok(verified) } else { Err(Refusal::ActorIsNotClient.into()) }
}

/// What was verified under one registry is verified again under the next.
fn memory_key(presented: &PresentedToken, registry: &Registry) -> [u8; 32] {
    sha256(&[
        &registry.version.to_be_bytes(),
        presented.kind.urn().as_bytes(),
        b" ",
        presented.token.as_bytes(),
    ])
}

async fn verify(
    app: &App,
    presented: &PresentedToken,
    registry: &Registry,
    now: OffsetDateTime,
) -> Result<VerifiedSubject, Stop> {
    let jws = Jws::parse(&presented.token).ok_or(Refusal::SubjectTokenInvalid)?;
    match presented.kind {
        TokenType::AccessToken => own(app, &jws, now).await,
        TokenType::Jwt | TokenType::IdToken => {
            let issuer = jws.text("iss").and_then(|iss| registry.issuers.get(iss));
            let issuer = issuer.ok_or(Refusal::SubjectTokenInvalid)?;
            foreign(app, &jws, (issuer, presented.kind), now).await
        }
    }
}

/// Our own access token (RFC 9068 §4).
async fn own(app: &App, jws: &Jws<'_>, now: OffsetDateTime) -> Result<VerifiedSubject, Stop> {
    let (claims, validity) = own_claims(app, jws, now).await?;
    from_claims(claims, validity, &app.issuer).ok_or(Stop::Refused(Refusal::SubjectTokenInvalid))
}

async fn own_claims(app: &App, jws: &Jws<'_>, now: OffsetDateTime) -> Result<(Claims, Validity), Stop> {
    let invalid = || Stop::Refused(Refusal::SubjectTokenInvalid);
    let kid =
        jws.header.kid.as_deref().filter(|_| jws.header.is_typed(access_token::TYP)).ok_or_else(invalid)?;
    let mut keyring = app.keyring();
    if !keyring.verifying.contains_key(kid) && app.may_look_for_keys(now) {
        // Another server may have begun to sign with a key that we have not read yet.
        app.refresh_keyring().await?;
        keyring = app.keyring();
    }
    let key = keyring.verifying.get(kid).ok_or_else(invalid)?;
    let timer = time_crypto("subject");
    let signed = jws.verified_by(key, &crate::platform::jose::Alg::ALL);
    drop(timer);
    let validity =
        jwt_time::validity(&jws.claims).filter(|validity| validity.holds_at(now)).ok_or_else(invalid)?;
    let claims = access_token::read_claims(&jws.claims).filter(|claims| signed && claims.iss == app.issuer);
    Ok((claims.ok_or_else(invalid)?, validity))
}

/// Our own claims, if this is a token of ours that has not ended. Whether it still stands is another question.
pub async fn our_claims(app: &App, token: &str, now: OffsetDateTime) -> Result<Option<Claims>, Stop> {
    if token.len() > MAX_TOKEN_BYTES {
        return Ok(None);
    }
    let Some(jws) = Jws::parse(token) else { return Ok(None) };
    match own_claims(app, &jws, now).await {
        Ok((claims, _)) => Ok(Some(claims)),
        Err(Stop::Refused(_)) => Ok(None),
        Err(failed) => Err(failed),
    }
}

/// Verifies a token that is presented to us as a resource server: one of ours for us, or a user's of a trusted issuer.
pub async fn presented_to_us(
    app: &App,
    token: &str,
    now: OffsetDateTime,
) -> Result<Arc<VerifiedSubject>, Stop> {
    let invalid = || Stop::Refused(Refusal::SubjectTokenInvalid);
    if token.len() > MAX_TOKEN_BYTES {
        return Err(invalid());
    }
    let said = Jws::parse(token).and_then(|jws| jws.text("iss").map(str::to_owned)).ok_or_else(invalid)?;
    let ours = said == app.issuer;
    let registry = if ours { app.registry() } else { app.registry_for(&said, now).await? };
    let kind = if ours { TokenType::AccessToken } else { TokenType::Jwt };
    let presented = PresentedToken { token: token.to_owned(), kind };
    let verified = remembered(app, &presented, &registry, now).await?;
    let for_us = match &verified.source {
        Source::Own { .. } => verified.audiences.allows(&app.issuer),
        Source::Foreign { aud, .. } => {
            let issuer = registry.issuers.get(&verified.subject.iss).ok_or_else(invalid)?;
            issuer.lets_decide(aud)
        }
    };
    if for_us && verified.validity.holds_at(now) { Ok(verified) } else { Err(invalid()) }
}

fn from_claims(claims: Claims, validity: Validity, issuer: &str) -> Option<VerifiedSubject> {
    let scopes = if claims.scope.is_empty() { Default::default() } else { scope::parse(&claims.scope)? };
    Some(VerifiedSubject {
        subject: Principal::new(claims.idp.unwrap_or_else(|| issuer.to_owned()), claims.sub),
        source: Source::Own { jti: claims.jti, txn: claims.txn, dlg: claims.dlg },
        act: claims.act,
        jkt: claims.cnf.map(|cnf| cnf.jkt),
        scopes: Limit::Only(scopes),
        audiences: Limit::only(claims.aud.values().iter().cloned()),
        // A token of ours that names no details was granted none.
        details: Some(claims.authorization_details.unwrap_or_default()),
        capability: claims.capability_ceiling,
        validity,
        sid: claims.sid,
        login: claims.login,
    })
}

/// A JWT or ID token of a trusted issuer: its own keys, its own algorithms, its own audiences.
async fn foreign(
    app: &App,
    jws: &Jws<'_>,
    (issuer, kind): (&Issuer, TokenType),
    now: OffsetDateTime,
) -> Result<VerifiedSubject, Stop> {
    let invalid = || Stop::Refused(Refusal::SubjectTokenInvalid);
    if !issuer.token_types.contains(&kind) || !identity_token::header_fits(&jws.header, kind) {
        return Err(invalid());
    }
    let kid = jws.header.kid.as_deref();
    let fetched;
    let keys = match &issuer.jwks_uri {
        None => &issuer.keys,
        Some(url) => {
            fetched = app.remote_keys.get(url, kid, now).await.map_err(|fault| {
                tracing::warn!(error = %fault, "a token could not be verified");
                Stop::Refused(Refusal::IssuerUnavailable)
            })?;
            fetched.as_ref()
        }
    };
    let timer = time_crypto("subject");
    let named = keys.iter().filter(|key| kid.is_none() || key.kid().is_none() || key.kid() == kid);
    let signed = named.into_iter().any(|key| jws.verified_by(key, &issuer.algorithms));
    drop(timer);
    let identity = identity_token::read(jws, now).filter(|identity| signed && identity.iss == issuer.iss);
    let fingerprint = sha256(&[jws.signing_input().as_bytes()]);
    Ok(from_identity(identity.ok_or_else(invalid)?, fingerprint))
}

fn from_identity(identity: Identity, fingerprint: [u8; 32]) -> VerifiedSubject {
    // Who acts there is not known here; that somebody does is kept, and refused where it matters.
    let act = identity.has_actor.then(|| access_token::Act {
        sub: String::new(),
        iss: identity.iss.clone(),
        cnf: None,
        act: None,
    });
    VerifiedSubject {
        subject: Principal::new(identity.iss, identity.sub),
        source: Source::Foreign {
            jti: identity.jti,
            aud: identity.aud.values().to_vec(),
            may_act: identity.may_act,
            fingerprint,
        },
        act,
        jkt: identity.jkt,
        scopes: identity.scopes.map_or(Limit::Any, Limit::Only),
        audiences: Limit::Any,
        details: identity.details,
        capability: None,
        validity: identity.validity,
        sid: identity.sid,
        login: identity.login,
    }
}

/// RFC 8725 §3.9: a token that was made for somebody else is none of our business. ID tokens are made for the client
/// that asked for them, which may present its own.
fn is_meant_for_us(
    verified: &VerifiedSubject,
    kind: TokenType,
    client: &Client,
    registry: &Registry,
) -> bool {
    let Source::Foreign { aud, .. } = &verified.source else { return true };
    let Some(issuer) = registry.issuers.get(&verified.subject.iss) else { return false };
    let own_id_token = kind == TokenType::IdToken && aud.contains(&client.client_id);
    own_id_token || aud.iter().any(|name| issuer.audiences.contains(name))
}
