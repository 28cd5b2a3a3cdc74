//! Verifies access tokens of this server (RFC 9068 §4). Revocation is not checked here.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::issue::time_crypto;
use crate::app::App;
use crate::domain::token::VerifiedOwnToken;
use crate::platform::fault::Fault;
use actchain_protocol::access_token::{self, Claims};
use actchain_protocol::digest::sha256;
use actchain_protocol::jose::{Alg, Jws, MAX_TOKEN_BYTES};
use actchain_protocol::jwt_time;
use actchain_protocol::token_problem::TokenProblem;

/// Why verification failed.
pub(super) enum OwnTokenError {
    Invalid(TokenProblem),
    Failed(Fault),
}

impl From<TokenProblem> for OwnTokenError {
    fn from(problem: TokenProblem) -> Self {
        Self::Invalid(problem)
    }
}

impl From<Fault> for OwnTokenError {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

/// Verifies a token by the keys of this server.
pub(super) async fn verify(
    app: &App,
    jws: &Jws<'_>,
    now: OffsetDateTime,
) -> Result<VerifiedOwnToken, OwnTokenError> {
    if !jws.header.is_typed(access_token::TYP) {
        return Err(TokenProblem::WrongKind.into());
    }
    let kid = jws.header.kid.as_deref().ok_or(TokenProblem::KeyUnknown)?;
    let mut keyring = app.keyring();
    if !keyring.verifying.contains_key(kid) && app.may_read_keys(now) {
        // Another server may sign with a key that this server has not read yet.
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
    if claims.iss != app.issuer {
        return Err(TokenProblem::IssuerUnknown.into());
    }
    // Servers issue no other ids.
    if Uuid::parse_str(&claims.jti).is_err() {
        return Err(TokenProblem::Claims.into());
    }
    Ok(VerifiedOwnToken { kid: kid.to_owned(), claims: Arc::new(claims), validity })
}

/// An unexpired token of this server. A token that was verified before is not verified again while its key is in use.
pub async fn find(app: &App, token: &str, now: OffsetDateTime) -> Result<Option<Arc<Claims>>, Fault> {
    if token.len() > MAX_TOKEN_BYTES {
        return Ok(None);
    }
    let digest = sha256(&[token.as_bytes()]);
    if let Some(known) = app.caches.own_tokens.get(&digest)
        && app.keyring().verifying.contains_key(&known.kid)
    {
        return Ok(known.validity.check(now).is_ok().then(|| Arc::clone(&known.claims)));
    }
    let Some(jws) = Jws::parse(token) else { return Ok(None) };
    match verify(app, &jws, now).await {
        Ok(verified) => {
            let claims = Arc::clone(&verified.claims);
            app.caches.own_tokens.insert(digest, Arc::new(verified));
            Ok(Some(claims))
        }
        Err(OwnTokenError::Invalid(_)) => Ok(None),
        Err(OwnTokenError::Failed(fault)) => Err(fault),
    }
}
