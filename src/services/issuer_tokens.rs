//! Verifies tokens of trusted issuers: JWTs by their signatures, other access tokens by introspection at the issuer.

use std::sync::Arc;
use std::time::Duration as WallDuration;

use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use super::introspection_request::{self, IntrospectedToken, Introspector};
use super::issue::time_crypto;
use crate::app::App;
use crate::domain::introspection::{AudienceRule, Introspected};
use crate::domain::issuer::{Issuer, TENANT_CLAIM, TrustedIssuer};
use crate::domain::jwks_cache::KeyLookupError;
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::domain::subject::{MayActClaim, TokenSource, VerifiedBy, VerifiedSubject};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::access_token::Act;
use actchain_protocol::digest::sha256;
use actchain_protocol::introspection_answer::{self, IntrospectionAnswer};
use actchain_protocol::jose::{Alg, Jws, PublicKey};
use actchain_protocol::jwt_key;
use actchain_protocol::token_exchange::TokenType;
use actchain_protocol::token_problem::TokenProblem;
use actchain_protocol::trusted_issuer_jwt::{self, ExternalIdentity, MayActUse};

/// Time limit of an introspection: an exchange waits for it.
const PATIENCE: WallDuration = WallDuration::from_secs(3);

/// Verifies a JWT or ID token of a trusted issuer, with that issuer's keys and algorithms. The signature comes last: no
/// keys are fetched for a token that is refused anyway.
pub(super) async fn verify(
    app: &App,
    trusted: TrustedIssuer<'_>,
    jws: &Jws<'_>,
    kind: TokenType,
    now: OffsetDateTime,
) -> Result<VerifiedSubject, KeyLookupError> {
    let TrustedIssuer { declared: issuer, tenant } = trusted;
    if !issuer.token_types.contains(&kind) {
        return Err(TokenProblem::TokenTypeNotAllowed.into());
    }
    trusted_issuer_jwt::check_kind(jws, kind)?;
    if !Alg::parse(&jws.header.alg).is_some_and(|alg| issuer.accepts(alg)) {
        return Err(TokenProblem::AlgorithmNotAllowed.into());
    }
    // One set of keys signs for all tenants.
    if tenant.is_some() && jws.text(TENANT_CLAIM) != tenant {
        return Err(TokenProblem::Tenant.into());
    }
    let identity = trusted_issuer_jwt::read(&jws.claims, &issuer.claims, now)?;
    check_signature(app, trusted, jws, now).await?;
    let proved =
        Proved { fingerprint: sha256(&[jws.signing_input().as_bytes()]), verified_by: VerifiedBy::Signature };
    Ok(from_identity(app, issuer, identity, proved)?)
}

/// Verifies a signature with the keys of an issuer.
pub(super) async fn check_signature(
    app: &App,
    trusted: TrustedIssuer<'_>,
    jws: &Jws<'_>,
    now: OffsetDateTime,
) -> Result<(), KeyLookupError> {
    let issuer = trusted.declared;
    let algorithms = issuer.accepted_algorithms();
    let signed = |keys: &[PublicKey]| {
        let _timer = time_crypto("subject");
        let of_others = |key: &PublicKey| !trusted.signs_with(key);
        if !keys.iter().any(of_others) {
            return jwt_key::signer(jws, keys, &algorithms).map(drop);
        }
        let own: Vec<PublicKey> = keys.iter().filter(|key| !of_others(key)).cloned().collect();
        match jwt_key::signer(jws, &own, &algorithms) {
            Err(_) if jwt_key::signer(jws, keys, &algorithms).is_ok() => Err(TokenProblem::Tenant),
            result => result.map(drop),
        }
    };
    match issuer.keys_url() {
        None => Ok(signed(&issuer.keys)?),
        Some(url) => app.caches.jwk_sets.verify(url, jws.header.kid.as_deref(), now, signed).await,
    }
}

/// Verifies an access token by introspection at its issuer, or returns what the issuer said lately.
pub(super) async fn introspect(app: &App, of: IntrospectedToken<'_>, now: OffsetDateTime) -> Introspected {
    let IntrospectedToken { issuer, introspection, token, registry_version } = of;
    let version = registry_version.to_be_bytes();
    let key = sha256(&[&version, issuer.iss.as_bytes(), b" ", token.as_bytes()]);
    let life = Duration::seconds(introspection.settings.cache.into());
    let introspect = async {
        let asked = tokio::time::timeout(PATIENCE, ask(app, of, now)).await.context("no answer in time");
        let asked = asked.and_then(|asked| asked);
        let result = if asked.is_ok() { "answered" } else { "failed" };
        metrics::counter!("actchain_introspections_total", "result" => result).increment(1);
        match asked {
            Ok(IntrospectionAnswer::Inactive) => Introspected::Refused(TokenProblem::Inactive),
            Ok(IntrospectionAnswer::Active(answer)) => match subject(app, of, answer, now) {
                Ok(subject) => Introspected::Active(Arc::new(subject)),
                Err(problem) => Introspected::Refused(problem),
            },
            Err(fault) => {
                tracing::warn!(issuer = issuer.iss, error = %fault, "a token could not be introspected");
                Introspected::Unavailable
            }
        }
    };
    app.caches.introspections.get_or(key, now, life, introspect).await
}

/// Reads the response for an active token as its claims.
fn subject(
    app: &App,
    of: IntrospectedToken<'_>,
    answer: Map<String, Value>,
    now: OffsetDateTime,
) -> Result<VerifiedSubject, TokenProblem> {
    let IntrospectedToken { issuer, introspection, token, .. } = of;
    let optional = introspection.settings.audience == AudienceRule::Optional;
    let without_aud = optional.then_some(&issuer.audiences);
    let claims = introspection_answer::claims(answer, &issuer.iss, without_aud)?;
    let identity = trusted_issuer_jwt::read(&claims, &issuer.claims, now)?;
    let fingerprint = match Jws::parse(token) {
        // As for a signature that is verified here: a JWT is one token, however it is verified and its signature encoded.
        Some(jws) => sha256(&[jws.signing_input().as_bytes()]),
        None => sha256(&[b"introspected ", issuer.iss.as_bytes(), b" ", token.as_bytes()]),
    };
    let proved = Proved { fingerprint, verified_by: VerifiedBy::Introspection };
    from_identity(app, issuer, identity, proved)
}

/// What the issuer answers about a token.
async fn ask(
    app: &App,
    of: IntrospectedToken<'_>,
    now: OffsetDateTime,
) -> Result<IntrospectionAnswer, Fault> {
    let keyring = app.keyring();
    let by = Introspector { outbound: &app.vault.outbound, seal: &app.seal, signer: Some(&keyring.active) };
    let posted = by.send(of, now).await?;
    let body = introspection_request::body(&posted)?;
    let answer = match of.introspection.settings.signed {
        true => signed(app, of, body, now).await?,
        false => introspection_request::plain(body)?,
    };
    introspection_answer::read(answer).ok_or_else(|| Fault::new("active is neither true nor false"))
}

/// Verifies a signed response (RFC 9701 §5).
async fn signed(
    app: &App,
    of: IntrospectedToken<'_>,
    body: &[u8],
    now: OffsetDateTime,
) -> Result<Map<String, Value>, Fault> {
    let IntrospectedToken { issuer, introspection, .. } = of;
    let by = TrustedIssuer { declared: issuer, tenant: None };
    let text = std::str::from_utf8(body).context("reading a signed answer")?;
    let jws = Jws::parse(text).ok_or_else(|| Fault::new("the answer is no signed JWT"))?;
    let checked = check_signature(app, by, &jws, now).await;
    checked.map_err(|problem| Fault::new(format!("the signature of the answer: {problem:?}")))?;
    let answer = introspection_answer::signed(&jws, &issuer.iss, &introspection.settings.client_id, now);
    answer.ok_or_else(|| Fault::new("the signed answer is not of this issuer, for this server and current"))
}

/// What was proved about a token.
struct Proved {
    fingerprint: [u8; 32],
    verified_by: VerifiedBy,
}

fn from_identity(
    app: &App,
    issuer: &Issuer,
    identity: ExternalIdentity,
    proved: Proved,
) -> Result<VerifiedSubject, TokenProblem> {
    // Only this server says that one of its clients acted: such an actor would be the holder of the token.
    if identity.act.iter().flat_map(Act::newest_first).any(|act| act.iss == app.issuer) {
        return Err(TokenProblem::Claims);
    }
    let policy = &issuer.claims;
    Ok(VerifiedSubject {
        subject: Principal::new(identity.iss, identity.sub),
        source: TokenSource::TrustedIssuer {
            jti: identity.jti,
            aud: identity.aud.values().to_vec(),
            may_act: identity
                .may_act
                .map(|party| MayActClaim { party, authorizes: policy.may_act == MayActUse::Authorize }),
            actors: policy.actors,
            fingerprint: proved.fingerprint,
            verified_by: proved.verified_by,
        },
        act: identity.act,
        jkt: identity.jkt,
        scopes: identity.scopes.map_or(Limit::Any, Limit::Only),
        audiences: Limit::Any,
        details: identity.details,
        capability: None,
        validity: identity.validity,
        sid: identity.sid,
        login: identity.login,
    })
}
