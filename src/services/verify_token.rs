//! Verifies subject and actor tokens by the rules of their declared type (RFC 8693 §2.1, RFC 9068 §4, RFC 8725). The
//! result is cached by digest; revocation and expiry are checked at every use.

use std::sync::Arc;

use time::OffsetDateTime;

use super::client_authentication;
use super::introspection_request::IntrospectedToken;
use super::issuer_tokens;
use super::own_token::{self, OwnTokenError};
use crate::app::App;
use crate::domain::client::Client;
use crate::domain::introspection::Introspected;
use crate::domain::issuer::Issuer;
use crate::domain::jwks_cache::KeyLookupError;
use crate::domain::limit::Limit;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::Registry;
use crate::domain::subject::{TokenSource, VerifiedSubject};
use crate::domain::token::VerifiedOwnToken;
use crate::platform::fault::Fault;
use actchain_protocol::digest::sha256;
use actchain_protocol::jose::{self, Jws};
use actchain_protocol::scope;
use actchain_protocol::token_exchange::{PresentedToken, TokenType};
use actchain_protocol::token_problem::TokenProblem;

/// Why verification failed.
enum Unverified {
    Invalid(TokenProblem),
    /// The issuer's keys, or its answers, are unavailable.
    IssuerUnavailable,
    /// The request does not say where the token can be verified.
    Refused(Refusal),
    Failed(Fault),
}

impl From<TokenProblem> for Unverified {
    fn from(problem: TokenProblem) -> Self {
        Self::Invalid(problem)
    }
}

impl From<KeyLookupError> for Unverified {
    fn from(error: KeyLookupError) -> Self {
        match error {
            KeyLookupError::KeysUnavailable => Self::IssuerUnavailable,
            KeyLookupError::Token(problem) => problem.into(),
        }
    }
}

impl From<Refusal> for Unverified {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Fault> for Unverified {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl From<OwnTokenError> for Unverified {
    fn from(error: OwnTokenError) -> Self {
        match error {
            OwnTokenError::Invalid(problem) => problem.into(),
            OwnTokenError::Failed(fault) => fault.into(),
        }
    }
}

impl Unverified {
    fn stop(self, refusal: fn(TokenProblem) -> Refusal) -> Error {
        match self {
            Self::Invalid(problem) => refusal(problem).into(),
            Self::IssuerUnavailable => Refusal::IssuerUnavailable.into(),
            Self::Refused(refusal) => refusal.into(),
            Self::Failed(fault) => fault.into(),
        }
    }
}

/// Verifies tokens by the registry and the time of a request.
#[derive(Clone, Copy)]
pub struct TokenVerifier<'a> {
    pub app: &'a App,
    pub registry: &'a Registry,
    pub now: OffsetDateTime,
}

impl TokenVerifier<'_> {
    /// Verifies a subject token. All invalid tokens have the same response.
    pub async fn subject(
        self,
        presented: &PresentedToken,
        client: &Client,
    ) -> Result<Arc<VerifiedSubject>, Error> {
        let verified = self.accepted(presented, client).await;
        let verified = verified.map_err(|unverified| unverified.stop(Refusal::SubjectTokenInvalid))?;
        if !self.is_named_uniquely(&verified).await? {
            return Err(Refusal::SubjectAmbiguous.into());
        }
        Ok(verified)
    }

    /// Verifies an actor token: it has to identify the client, bound to the key of this request.
    pub async fn actor(
        self,
        presented: &PresentedToken,
        client: &Client,
        jkt: Option<&str>,
    ) -> Result<Arc<VerifiedSubject>, Error> {
        let verified = self.accepted(presented, client).await;
        let verified = verified.map_err(|unverified| unverified.stop(Refusal::ActorTokenInvalid))?;
        // A token with its own actor does not identify the client; its actors are not merged into the new chain.
        if verified.act.is_some() {
            return Err(Refusal::ActorTokenInvalid(TokenProblem::HasActor).into());
        }
        let proves_client = match &verified.source {
            TokenSource::Local { .. } => {
                verified.is_held_by(&client.client_id, &self.app.issuer)
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

    /// Verifies a token and its audience: this server or the client.
    async fn accepted(
        self,
        presented: &PresentedToken,
        client: &Client,
    ) -> Result<Arc<VerifiedSubject>, Unverified> {
        let verified = self.remembered(presented).await?;
        verified.validity.check(self.now)?;
        self.check_audience(&verified, presented.kind, client)?;
        Ok(verified)
    }

    /// Whether the `sub` that tokens of this server would use is unique: no other issuer's user and no client has it (RFC
    /// 9068 §5).
    pub(super) async fn is_named_uniquely(self, verified: &VerifiedSubject) -> Result<bool, Fault> {
        let Self { app, registry, .. } = self;
        let who = &verified.subject;
        let Some(claim) = registry.subject_claim(who, &app.issuer) else { return Ok(false) };
        if who.iss == app.issuer {
            return Ok(true);
        }
        // A new client raises the registry version, which the ledger compares.
        let key = (registry.version, claim);
        if app.caches.names_of_no_client.contains_key(&key) {
            return Ok(true);
        }
        let unique = client_authentication::find(app, &key.1).await?.is_none();
        if unique {
            app.caches.names_of_no_client.insert(key, ());
        }
        Ok(unique)
    }

    /// Verifies a token, or returns the cached result.
    async fn remembered(self, presented: &PresentedToken) -> Result<Arc<VerifiedSubject>, Unverified> {
        let memory = memory_key(presented, self.registry);
        // Nothing is cached here for a token with a named issuer.
        if let Some(verified) = self.app.caches.subjects.get(&memory).filter(|_| presented.issuer.is_none()) {
            return Ok(verified);
        }
        if let Some(token) = self.introspected(presented)? {
            return match issuer_tokens::introspect(self.app, token, self.now).await {
                Introspected::Active(verified) => Ok(verified),
                Introspected::Refused(problem) => Err(problem.into()),
                Introspected::Unavailable => Err(Unverified::IssuerUnavailable),
            };
        }
        let verified = Arc::new(self.verify(presented).await?);
        self.app.caches.subjects.insert(memory, Arc::clone(&verified));
        Ok(verified)
    }

    /// The issuer at which an access token is introspected; `None` for any other token. A token is sent to the issuer
    /// that it names, else to the issuer that the client names, else to the only one that introspects tokens.
    fn introspected<'a>(
        &'a self,
        presented: &'a PresentedToken,
    ) -> Result<Option<IntrospectedToken<'a>>, Unverified> {
        let PresentedToken { token, kind, issuer: named } = presented;
        let claimed = match (kind, named) {
            (TokenType::AccessToken, _) => self.claimed_issuer(token)?,
            (TokenType::Jwt | TokenType::IdToken, None) => return Ok(None),
            (TokenType::Jwt | TokenType::IdToken, Some(_)) => {
                return Err(Refusal::Malformed("subject_issuer needs the token type access_token").into());
            }
        };
        let introspecting = |issuer: &'a Issuer| Some((issuer, issuer.introspection.as_ref()?));
        let known = |iss: &str| self.registry.issuers.get(iss).and_then(introspecting);
        let found = match (named, &claimed) {
            (Some(_), Some(claimed)) if *claimed == self.app.issuer => {
                return Err(Refusal::Malformed("subject_issuer is for tokens of other issuers").into());
            }
            (Some(named), Some(claimed)) if named != claimed => {
                return Err(TokenProblem::IssuerUnknown.into());
            }
            (Some(named), _) => {
                let unknown = Refusal::Malformed("subject_issuer names no issuer that introspects tokens");
                Some(known(named).ok_or(unknown)?)
            }
            (None, Some(claimed)) => known(claimed),
            (None, None) => {
                let mut all = self.registry.issuers.values().filter_map(introspecting);
                let only = all.next();
                if all.next().is_some() {
                    let why = "subject_issuer is needed: several issuers introspect tokens";
                    return Err(Refusal::Malformed(why).into());
                }
                only
            }
        };
        let registry_version = self.registry.version;
        Ok(found.map(|(issuer, introspection)| IntrospectedToken {
            issuer,
            introspection,
            token,
            registry_version,
        }))
    }

    /// The issuer that an access token names, unverified; `None` for a token that cannot be read here.
    ///
    /// # Errors
    /// A signed token with a mistake is sent nowhere: it could be a token of this server.
    fn claimed_issuer(self, token: &str) -> Result<Option<String>, TokenProblem> {
        match Jws::parse(token) {
            Some(jws) => Ok(jws.text("iss").map(str::to_owned)),
            None if jose::begins_as_jws(token) => Err(TokenProblem::Malformed),
            None => Ok(None),
        }
    }

    async fn verify(self, presented: &PresentedToken) -> Result<VerifiedSubject, Unverified> {
        let jws = Jws::parse(&presented.token).ok_or(TokenProblem::Malformed)?;
        match presented.kind {
            TokenType::AccessToken => {
                Ok(from_own(own_token::verify(self.app, &jws, self.now).await?, self.registry)?)
            }
            TokenType::Jwt | TokenType::IdToken => {
                let issuer = jws.text("iss").and_then(|iss| self.registry.issuer(iss));
                let issuer = issuer.ok_or(TokenProblem::IssuerUnknown)?;
                Ok(issuer_tokens::verify(self.app, issuer, &jws, presented.kind, self.now).await?)
            }
        }
    }

    /// RFC 8725 §3.9: refuses a token made for another audience. The audience of an ID token is the client that
    /// requested it; that client may present it.
    fn check_audience(
        self,
        verified: &VerifiedSubject,
        kind: TokenType,
        client: &Client,
    ) -> Result<(), TokenProblem> {
        let TokenSource::TrustedIssuer { aud, .. } = &verified.source else { return Ok(()) };
        let issuer = self.registry.issuer(&verified.subject.iss).ok_or(TokenProblem::IssuerUnknown)?;
        let own_id_token = kind == TokenType::IdToken && aud.contains(&client.client_id);
        let for_us = own_id_token || aud.iter().any(|name| issuer.declared.audiences.contains(name));
        if for_us { Ok(()) } else { Err(TokenProblem::Audience) }
    }

    /// Verifies a token that this server accepts as a resource server.
    async fn presented(self, token: &str) -> Result<Arc<VerifiedSubject>, Unverified> {
        let issuer = &self.app.issuer;
        let jws = Jws::parse(token).ok_or(TokenProblem::Malformed)?;
        let kind = if jws.text("iss") == Some(issuer) { TokenType::AccessToken } else { TokenType::Jwt };
        let presented = PresentedToken { token: token.to_owned(), kind, issuer: None };
        let verified = self.remembered(&presented).await?;
        verified.validity.check(self.now)?;
        let for_us = match &verified.source {
            TokenSource::Local { .. } => verified.audiences.allows(issuer),
            TokenSource::TrustedIssuer { aud, .. } => {
                let issuer =
                    self.registry.issuer(&verified.subject.iss).ok_or(TokenProblem::IssuerUnknown)?;
                issuer.declared.lets_decide(aud)
            }
        };
        if for_us { Ok(verified) } else { Err(TokenProblem::Audience.into()) }
    }
}

/// Cache key of a verified token. It contains the registry version, so a registry change invalidates the cache.
fn memory_key(presented: &PresentedToken, registry: &Registry) -> [u8; 32] {
    sha256(&[
        &registry.version.to_be_bytes(),
        presented.kind.urn().as_bytes(),
        b" ",
        presented.token.as_bytes(),
    ])
}

/// Verifies a token presented to this server as a resource server: an access token of this server for itself, or a
/// user's token of a trusted issuer.
pub async fn presented_to_us(
    app: &App,
    token: &str,
    now: OffsetDateTime,
) -> Result<Arc<VerifiedSubject>, Error> {
    let known = app.registry();
    let verified = TokenVerifier { app, registry: &known, now }.presented(token).await;
    // Neither acceptance nor refusal may rest on a registry that another server has changed.
    let current = match &verified {
        Ok(verified) if matches!(verified.source, TokenSource::Local { .. }) => known.version,
        Ok(_) => app.registry_version().await?,
        Err(Unverified::Invalid(_)) => app.registry_version_for_refusal().await?,
        Err(_) => known.version,
    };
    let verified = if current == known.version {
        verified
    } else {
        app.refresh_registry().await?;
        TokenVerifier { app, registry: &app.registry(), now }.presented(token).await
    };
    verified.map_err(|unverified| {
        if let Unverified::Invalid(problem) = unverified {
            tracing::info!(cause = problem.name(), "an access token was refused");
        }
        unverified.stop(Refusal::SubjectTokenInvalid)
    })
}

fn from_own(token: VerifiedOwnToken, registry: &Registry) -> Result<VerifiedSubject, TokenProblem> {
    let VerifiedOwnToken { claims, validity, .. } = token;
    let claims = Arc::unwrap_or_clone(claims);
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
        // A token of this server without `authorization_details` was granted none.
        details: Some(claims.authorization_details.unwrap_or_default()),
        capability: claims.capability_ceiling,
        validity,
        sid: claims.sid,
        login: claims.login,
    })
}
