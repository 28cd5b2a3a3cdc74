//! Verifying subject and actor tokens by the rules of the type they are declared as (RFC 8693 §2.1, RFC 9068 §4,
//! RFC 8725). A token is verified once and then remembered by its digest; what it rests on is checked at every use.

use std::sync::Arc;

use time::OffsetDateTime;

use super::client_authentication;
use super::issue::time_crypto;
use crate::app::App;
use crate::domain::client::Client;
use crate::domain::issuer::Issuer;
use crate::domain::jwks_cache::KeysUnavailable;
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::Registry;
use crate::domain::subject::{MayActClaim, TokenSource, VerifiedSubject};
use crate::platform::digest::sha256;
use crate::platform::fault::Fault;
use crate::platform::jose::{Alg, Jws, MAX_TOKEN_BYTES, PublicKey};
use crate::protocol::access_token::{self, Claims};
use crate::protocol::jwt_time::{self, Validity};
use crate::protocol::token_exchange::{PresentedToken, TokenType};
use crate::protocol::token_problem::TokenProblem;
use crate::protocol::trusted_issuer_jwt::{self, ExternalIdentity, MayActUse};
use crate::protocol::{jwt_key, scope};

/// Why a token was not verified: something is wrong with it, or that cannot be told now, or we failed.
enum Unverified {
    Invalid(TokenProblem),
    KeysUnavailable,
    Failed(Fault),
}

impl From<TokenProblem> for Unverified {
    fn from(problem: TokenProblem) -> Self {
        Self::Invalid(problem)
    }
}

impl From<KeysUnavailable> for Unverified {
    fn from(_: KeysUnavailable) -> Self {
        Self::KeysUnavailable
    }
}

impl From<Fault> for Unverified {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl Unverified {
    fn stop(self, refusal: fn(TokenProblem) -> Refusal) -> Error {
        match self {
            Self::Invalid(problem) => refusal(problem).into(),
            Self::KeysUnavailable => Refusal::IssuerUnavailable.into(),
            Self::Failed(fault) => fault.into(),
        }
    }
}

/// Verifies a subject token. Whatever is wrong with it looks the same outside.
pub async fn subject(
    app: &App,
    presented: &PresentedToken,
    (client, registry): (&Client, &Registry),
    now: OffsetDateTime,
) -> Result<Arc<VerifiedSubject>, Error> {
    let verified = accepted(app, presented, (client, registry), now).await;
    let verified = verified.map_err(|unverified| unverified.stop(Refusal::SubjectTokenInvalid))?;
    if !is_named_uniquely(app, &verified, registry).await? {
        return Err(Refusal::SubjectAmbiguous.into());
    }
    Ok(verified)
}

/// Verifies a token and that it was made for us, or for the client.
async fn accepted(
    app: &App,
    presented: &PresentedToken,
    (client, registry): (&Client, &Registry),
    now: OffsetDateTime,
) -> Result<Arc<VerifiedSubject>, Unverified> {
    let verified = remembered(app, presented, registry, now).await?;
    verified.validity.check(now)?;
    check_audience(&verified, presented.kind, client, registry)?;
    Ok(verified)
}

/// Whether the `sub` of our tokens about this subject is nobody else's: neither another issuer's nor a client's
/// (RFC 9068 §5).
async fn is_named_uniquely(
    app: &App,
    verified: &VerifiedSubject,
    registry: &Registry,
) -> Result<bool, Fault> {
    let who = &verified.subject;
    let Some(claim) = registry.subject_claim(who, &app.issuer) else { return Ok(false) };
    if who.iss == app.issuer {
        return Ok(true);
    }
    // A new client raises the version of the registry, which the ledger compares.
    let key = (registry.version, claim);
    if app.names_of_no_client.contains_key(&key) {
        return Ok(true);
    }
    let unique = client_authentication::find(app, &key.1).await?.is_none();
    if unique {
        app.names_of_no_client.insert(key, ());
    }
    Ok(unique)
}

/// Verifies a token, unless that was done lately.
async fn remembered(
    app: &App,
    presented: &PresentedToken,
    registry: &Registry,
    now: OffsetDateTime,
) -> Result<Arc<VerifiedSubject>, Unverified> {
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
) -> Result<Arc<VerifiedSubject>, Error> {
    let verified = accepted(app, presented, (client, registry), now).await;
    let verified = verified.map_err(|unverified| unverified.stop(Refusal::ActorTokenInvalid))?;
    // An actor that acts for somebody else is no proof of itself; its chain is not merged into ours.
    if verified.act.is_some() {
        return Err(Refusal::ActorTokenInvalid(TokenProblem::HasActor).into());
    }
    let proves_client = match &verified.source {
        TokenSource::Local { .. } => {
            verified.is_held_by(&client.client_id, &app.issuer)
                && verified.jkt.is_some()
                && verified.jkt.as_deref() == jkt
        }
        TokenSource::TrustedIssuer { .. } => {
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
) -> Result<VerifiedSubject, Unverified> {
    let jws = Jws::parse(&presented.token).ok_or(TokenProblem::Malformed)?;
    match presented.kind {
        TokenType::AccessToken => own(app, &jws, registry, now).await,
        TokenType::Jwt | TokenType::IdToken => {
            let issuer = jws.text("iss").and_then(|iss| registry.issuers.get(iss));
            let issuer = issuer.ok_or(TokenProblem::IssuerUnknown)?;
            foreign(app, &jws, (issuer, presented.kind), now).await
        }
    }
}

/// Our own access token (RFC 9068 §4).
async fn own(
    app: &App,
    jws: &Jws<'_>,
    registry: &Registry,
    now: OffsetDateTime,
) -> Result<VerifiedSubject, Unverified> {
    let (claims, validity) = own_claims(app, jws, now).await?;
    Ok(from_claims(claims, validity, registry)?)
}

async fn own_claims(app: &App, jws: &Jws<'_>, now: OffsetDateTime) -> Result<(Claims, Validity), Unverified> {
    if !jws.header.is_typed(access_token::TYP) {
        return Err(TokenProblem::WrongKind.into());
    }
    let kid = jws.header.kid.as_deref().ok_or(TokenProblem::KeyUnknown)?;
    let mut keyring = app.keyring();
    if !keyring.verifying.contains_key(kid) && app.may_look_for_keys(now) {
        // Another server may have begun to sign with a key that we have not read yet.
        app.refresh_keyring().await?;
        keyring = app.keyring();
    }
    let key = keyring.verifying.get(kid).ok_or(TokenProblem::KeyUnknown)?;
    let timer = time_crypto("subject");
    let signed = jws.verified_by(key, &Alg::ALL);
    drop(timer);
    if !signed {
        return Err(TokenProblem::Signature.into());
    }
    let validity = jwt_time::validity(&jws.claims).ok_or(TokenProblem::Claims)?;
    validity.check(now)?;
    let claims = access_token::read_claims(&jws.claims).ok_or(TokenProblem::Claims)?;
    if claims.iss == app.issuer { Ok((claims, validity)) } else { Err(TokenProblem::IssuerUnknown.into()) }
}

/// Our own claims, if this is a token of ours that has not ended. Whether it still stands is another question.
pub async fn our_claims(app: &App, token: &str, now: OffsetDateTime) -> Result<Option<Claims>, Error> {
    if token.len() > MAX_TOKEN_BYTES {
        return Ok(None);
    }
    let Some(jws) = Jws::parse(token) else { return Ok(None) };
    match own_claims(app, &jws, now).await {
        Ok((claims, _)) => Ok(Some(claims)),
        Err(Unverified::Invalid(_)) => Ok(None),
        Err(other) => Err(other.stop(Refusal::SubjectTokenInvalid)),
    }
}

/// Verifies a token that is presented to us as a resource server: one of ours for us, or a user's of a trusted issuer.
pub async fn presented_to_us(
    app: &App,
    token: &str,
    now: OffsetDateTime,
) -> Result<Arc<VerifiedSubject>, Error> {
    let known = app.registry();
    let verified = presented_under(app, token, &known, now).await;
    // Neither a yes nor a no rests on what another server has changed.
    let current = match &verified {
        Ok(verified) if matches!(verified.source, TokenSource::Local { .. }) => known.version,
        Ok(_) => app.registry_version().await?,
        Err(Unverified::Invalid(_)) => app.registry_version_for_strangers().await?,
        Err(_) => known.version,
    };
    let verified = if current == known.version {
        verified
    } else {
        app.refresh_registry().await?;
        presented_under(app, token, &app.registry(), now).await
    };
    verified.map_err(|unverified| {
        if let Unverified::Invalid(problem) = unverified {
            tracing::info!(cause = problem.name(), "an access token was refused");
        }
        unverified.stop(Refusal::SubjectTokenInvalid)
    })
}

async fn presented_under(
    app: &App,
    token: &str,
    registry: &Registry,
    now: OffsetDateTime,
) -> Result<Arc<VerifiedSubject>, Unverified> {
    let jws = Jws::parse(token).ok_or(TokenProblem::Malformed)?;
    let kind = if jws.text("iss") == Some(&app.issuer) { TokenType::AccessToken } else { TokenType::Jwt };
    let presented = PresentedToken { token: token.to_owned(), kind };
    let verified = remembered(app, &presented, registry, now).await?;
    verified.validity.check(now)?;
    let for_us = match &verified.source {
        TokenSource::Local { .. } => verified.audiences.allows(&app.issuer),
        TokenSource::TrustedIssuer { aud, .. } => {
            let issuer = registry.issuers.get(&verified.subject.iss).ok_or(TokenProblem::IssuerUnknown)?;
            issuer.lets_decide(aud)
        }
    };
    if for_us { Ok(verified) } else { Err(TokenProblem::Audience.into()) }
}

fn from_claims(
    claims: Claims,
    validity: Validity,
    registry: &Registry,
) -> Result<VerifiedSubject, TokenProblem> {
    let scopes = if claims.scope.is_empty() {
        Default::default()
    } else {
        scope::parse(&claims.scope).ok_or(TokenProblem::Claims)?
    };
    Ok(VerifiedSubject {
        subject: registry.root_subject(&claims).ok_or(TokenProblem::IssuerChanged)?,
        source: TokenSource::Local { jti: claims.jti, txn: claims.txn, dlg: claims.dlg },
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

/// A JWT or ID token of a trusted issuer: its own keys, its own algorithms, its own audiences. The signature comes last:
/// no keys are fetched for a token that would be refused all the same.
async fn foreign(
    app: &App,
    jws: &Jws<'_>,
    (issuer, kind): (&Issuer, TokenType),
    now: OffsetDateTime,
) -> Result<VerifiedSubject, Unverified> {
    if !issuer.token_types.contains(&kind) {
        return Err(TokenProblem::TokenTypeNotAllowed.into());
    }
    trusted_issuer_jwt::check_kind(jws, kind)?;
    if !Alg::parse(&jws.header.alg).is_some_and(|alg| issuer.algorithms.contains(&alg)) {
        return Err(TokenProblem::AlgorithmNotAllowed.into());
    }
    let identity = trusted_issuer_jwt::read(jws, &issuer.claims, now)?;
    let signed = |keys: &[PublicKey]| {
        let _timer = time_crypto("subject");
        jwt_key::signer(jws, keys, &issuer.algorithms).map(drop)
    };
    match &issuer.jwks_uri {
        None => signed(&issuer.keys)?,
        Some(url) => {
            let kid = jws.header.kid.as_deref();
            app.jwks_cache.verify((url, kid), now, signed).await??;
        }
    }
    let fingerprint = sha256(&[jws.signing_input().as_bytes()]);
    Ok(from_identity(identity, issuer.claims.may_act, fingerprint))
}

fn from_identity(identity: ExternalIdentity, usage: MayActUse, fingerprint: [u8; 32]) -> VerifiedSubject {
    // Who acts there is not known here; that somebody does is kept, and refused where it matters.
    let act = identity.has_actor.then(|| access_token::Act {
        sub: String::new(),
        iss: identity.iss.clone(),
        cnf: None,
        act: None,
    });
    VerifiedSubject {
        subject: Principal::new(identity.iss, identity.sub),
        source: TokenSource::TrustedIssuer {
            jti: identity.jti,
            aud: identity.aud.values().to_vec(),
            may_act: identity
                .may_act
                .map(|party| MayActClaim { party, authorizes: usage == MayActUse::Authorize }),
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
fn check_audience(
    verified: &VerifiedSubject,
    kind: TokenType,
    client: &Client,
    registry: &Registry,
) -> Result<(), TokenProblem> {
    let TokenSource::TrustedIssuer { aud, .. } = &verified.source else { return Ok(()) };
    let issuer = registry.issuers.get(&verified.subject.iss).ok_or(TokenProblem::IssuerUnknown)?;
    let own_id_token = kind == TokenType::IdToken && aud.contains(&client.client_id);
    let for_us = own_id_token || aud.iter().any(|name| issuer.audiences.contains(name));
    if for_us { Ok(()) } else { Err(TokenProblem::Audience) }
}
