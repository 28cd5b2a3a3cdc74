//! The redirect back from an issuer (RFC 6749 §4.1.2, RFC 9207, OpenID Connect Core 1.0 §3.1.3): the sign-in is used up, the
//! code is redeemed outside of a transaction, and a session begins. Tokens of the issuer are not kept.

use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::session::{NewSession, secret_sha256};
use super::sign_in::{SignInIssuer, find_issuer};
use super::token_request::{CodeToRedeem, TokenRequestError, redeem};
use crate::app::App;
use crate::domain::audit::detail::{SignInDetail, SignInProblem, SignInRefusal};
use crate::domain::audit::{Actor, Event, EventKind, RequestOrigin};
use crate::domain::console::sign_ins::{self, AtIssuer};
use crate::domain::console::{AuthTime, ConsoleSession, PendingSignIn, SignInPurpose, store};
use crate::domain::issuer::{Issuer, TENANT_CLAIM};
use crate::domain::jwks_cache::KeyLookupError;
use crate::domain::principal::Principal;
use crate::domain::rate_limit::network;
use crate::domain::refusal::Refusal;
use crate::domain::registry;
use crate::domain::row_mac::MacRow as _;
use crate::domain::sign_in::{GivenRole, RuledPerson};
use crate::platform::clock::rfc3339;
use crate::platform::fault::{Context as _, Fault};
use crate::services::access_token_auth::user_not_revoked;
use crate::services::issuer_tokens;
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::id_token::{self, ExpectedIdToken, IdTokenProblem, IdentifiedPerson};
use actchain_protocol::jose::{Alg, Jws};
use actchain_protocol::oauth_client;
use actchain_protocol::random;
use actchain_protocol::token_problem::TokenProblem;

/// The longest label, in characters.
const MAX_LABEL: usize = 128;

/// Parameters of the redirect from an issuer.
#[derive(Debug)]
pub struct SignInResponse {
    /// The issuer whose redirect URI was called, by its name in paths.
    pub at: String,
    pub state: SecretString,
    pub said: AuthorizationAnswer,
    /// The `iss` parameter (RFC 9207).
    pub iss: Option<String>,
    /// Values of the cookies for sign-ins that the browser has.
    pub browser: Vec<String>,
}

#[derive(Debug)]
pub enum AuthorizationAnswer {
    Code(SecretString),
    /// An error (RFC 6749 §4.1.2.1).
    Error(String),
}

/// How a sign-in ended.
#[derive(Debug)]
pub enum SignInOutcome {
    SignedIn(Box<SignedIn>),
    /// There is no such sign-in in this browser: it was used, has expired, or began in another browser.
    NotFound,
    Refused(SignInProblem),
}

/// A sign-in with its session.
#[derive(Debug)]
pub struct SignedIn {
    pub new: NewSession,
    /// The page to return to, below the console.
    pub return_to: Option<String>,
    pub purpose: SignInPurpose,
}

/// Why there is no session.
enum Unfinished {
    Refused(SignInRefusal),
    Failed(Fault),
}

impl From<Fault> for Unfinished {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl From<SignInProblem> for Unfinished {
    fn from(cause: SignInProblem) -> Self {
        Self::Refused(SignInRefusal { cause, error: None })
    }
}

impl From<IdTokenProblem> for Unfinished {
    fn from(problem: IdTokenProblem) -> Self {
        let cause = match problem {
            IdTokenProblem::AuthTimeMissing => SignInProblem::AuthTimeMissing,
            IdTokenProblem::AuthTime => SignInProblem::AuthTimeTooOld,
            IdTokenProblem::AuthenticationContext => SignInProblem::AuthenticationContext,
            IdTokenProblem::Token(_) | IdTokenProblem::AuthorizedParty | IdTokenProblem::Nonce => {
                SignInProblem::IdTokenInvalid
            }
        };
        Self::Refused(SignInRefusal { cause, error: Some(problem.name().to_owned()) })
    }
}

impl From<TokenProblem> for Unfinished {
    fn from(problem: TokenProblem) -> Self {
        IdTokenProblem::Token(problem).into()
    }
}

impl From<TokenRequestError> for Unfinished {
    fn from(error: TokenRequestError) -> Self {
        match error {
            TokenRequestError::Refused(code) => {
                Self::Refused(SignInRefusal { cause: SignInProblem::CodeRefused, error: Some(code) })
            }
            TokenRequestError::Unavailable(fault) => {
                tracing::warn!(error = %fault, "a token endpoint does not answer as it should");
                SignInProblem::IssuerUnavailable.into()
            }
            TokenRequestError::Failed(fault) => Self::Failed(fault),
        }
    }
}

/// Takes what a browser brings. In a task of its own: a code is good once, and is not lost because a browser hangs up.
pub async fn finish(
    app: &Arc<App>,
    response: SignInResponse,
    origin: RequestOrigin,
    now: OffsetDateTime,
) -> Result<SignInOutcome, Fault> {
    let task = app.detached.spawn({
        let app = Arc::clone(app);
        async move { process(&app, response, origin, now).await }
    });
    task.await.context("taking what a browser brought")?
}

async fn process(
    app: &App,
    response: SignInResponse,
    origin: RequestOrigin,
    now: OffsetDateTime,
) -> Result<SignInOutcome, Fault> {
    let Some(state) = secret_sha256(response.state.expose_secret()) else {
        return Ok(SignInOutcome::NotFound);
    };
    let browsers: Vec<[u8; 32]> =
        response.browser.iter().filter_map(|secret| secret_sha256(secret)).collect();
    let mut connection = app.pool.acquire().await?;
    let found = sign_ins::take(&app.rows, &mut connection, &state, &browsers, now).await?;
    drop(connection);
    // What this server does not know is not recorded, so that strangers cannot fill the log.
    let Some(pending) = found else { return Ok(SignInOutcome::NotFound) };
    let attempt = SignInAttempt { app, pending, origin, now };
    match attempt.complete(response).await {
        Ok(new) => Ok(SignInOutcome::SignedIn(Box::new(SignedIn {
            new,
            return_to: attempt.pending.return_to,
            purpose: attempt.pending.purpose,
        }))),
        Err(Unfinished::Refused(refusal)) => {
            let problem = refusal.cause;
            attempt.record(refusal).await?;
            Ok(SignInOutcome::Refused(problem))
        }
        Err(Unfinished::Failed(fault)) => Err(fault),
    }
}

/// A sign-in that was used up and is being completed.
struct SignInAttempt<'a> {
    app: &'a App,
    pending: PendingSignIn,
    origin: RequestOrigin,
    now: OffsetDateTime,
}

/// A person with what the session says about it.
struct SignedInPerson {
    at_issuer: IdentifiedPerson,
    role: GivenRole,
    label: Option<String>,
}

impl SignInAttempt<'_> {
    async fn complete(&self, response: SignInResponse) -> Result<NewSession, Unfinished> {
        let at = find_issuer(self.app, &response.at).await?;
        let at = at.filter(|at| at.iss() == self.pending.iss).ok_or(SignInProblem::OtherIssuer)?;
        let (issuer, sign_in) = at.parts()?;
        let says_iss = sign_in.endpoints.authorization_response_iss_parameter_supported;
        let is_from = match &response.iss {
            Some(iss) => issuer.identified_by(iss).is_some(),
            None => !says_iss,
        };
        if !is_from {
            return Err(SignInProblem::OtherIssuer.into());
        }
        let code = match response.said {
            AuthorizationAnswer::Code(code) => code,
            AuthorizationAnswer::Error(error) => {
                let error = oauth_client::is_error_code(&error).then_some(error);
                return Err(Unfinished::Refused(SignInRefusal { cause: SignInProblem::Declined, error }));
            }
        };
        let row = PendingSignIn::row(&self.pending.state_sha256);
        let verifier = self.app.seal.open(&row, &self.pending.verifier)?;
        let verifier = std::str::from_utf8(&verifier).context("reading the verifier of a sign-in")?;
        let code = CodeToRedeem { code: code.expose_secret(), verifier };
        let id_token = redeem(self.app, issuer, code, self.now).await?;
        let person = self.verify(issuer, id_token.expose_secret()).await?;
        if response.iss.is_some_and(|iss| iss != person.at_issuer.iss) {
            return Err(SignInProblem::OtherIssuer.into());
        }
        self.begin_session(&at, person).await
    }

    /// Verifies an ID token. The signature comes last: no keys are fetched for a token that is refused anyway.
    async fn verify(&self, issuer: &Issuer, id_token: &str) -> Result<SignedInPerson, Unfinished> {
        let sign_in = issuer.sign_in.as_ref().ok_or(SignInProblem::Changed)?;
        let jws = Jws::parse(id_token).ok_or(TokenProblem::Malformed)?;
        if !Alg::parse(&jws.header.alg).is_some_and(|alg| issuer.accepts(alg)) {
            return Err(TokenProblem::AlgorithmNotAllowed.into());
        }
        let fresh = Duration::seconds(self.app.config.console.fresh.into());
        let expected = ExpectedIdToken {
            client_id: &sign_in.settings.client_id,
            nonce: &self.pending.nonce,
            acr: &sign_in.settings.acr,
            max_age: (self.pending.purpose == SignInPurpose::Fresh).then_some(fresh),
            names: &issuer.claims.names,
        };
        let at_issuer = id_token::read(&jws, &expected, self.now)?;
        let trusted = issuer.identified_by(&at_issuer.iss).ok_or(TokenProblem::IssuerUnknown)?;
        // One set of keys signs for all tenants.
        if trusted.tenant.is_some() && jws.text(TENANT_CLAIM) != trusted.tenant {
            return Err(TokenProblem::Tenant.into());
        }
        match issuer_tokens::check_signature(self.app, trusted, &jws, self.now).await {
            Ok(()) => {}
            Err(KeyLookupError::Token(problem)) => return Err(problem.into()),
            Err(KeyLookupError::KeysUnavailable) => return Err(SignInProblem::IssuerUnavailable.into()),
        }
        let ruled = RuledPerson { sub: &at_issuer.subject, tenant: trusted.tenant, claims: &jws.claims };
        let label = sign_in.settings.label.as_deref().and_then(|name| jws.text(name));
        let label = label.map(|text| text.chars().take(MAX_LABEL).collect());
        Ok(SignedInPerson { role: sign_in.role(&ruled), label, at_issuer })
    }

    async fn begin_session(
        &self,
        at: &SignInIssuer,
        person: SignedInPerson,
    ) -> Result<NewSession, Unfinished> {
        let (app, now) = (self.app, self.now);
        let SignedInPerson { at_issuer, role, label } = person;
        let secret = random::token().map_err(Fault::from)?;
        let digest = secret_sha256(&secret).ok_or_else(|| Fault::new("a random secret of another length"))?;
        let session = ConsoleSession {
            id: random::id(now).map_err(Fault::from)?,
            secret_sha256: digest,
            role: role.role,
            role_by: role.by,
            who: Some(Principal::new(&at_issuer.iss, &at_issuer.subject)),
            issuer_subject: Some(at_issuer.sub.clone()),
            issuer_session: at_issuer.sid.clone(),
            label,
            signed_in_at: now,
            authenticated_at: at_issuer.auth_time.unwrap_or(at_issuer.issued_at).min(now),
            auth_time: if at_issuer.auth_time.is_some() { AuthTime::Known } else { AuthTime::Unknown },
            expires_at: now + Duration::seconds(app.config.console.session.into()),
            last_seen_at: now,
            ended_at: None,
            ip: self.origin.ip.map(|ip| ip.to_string()),
            user_agent: self.origin.user_agent.clone(),
        };
        let mut work = AuditedTransaction::begin(&app.pool).await?;
        self.require_unchanged(work.connection(), at, &session).await?;
        store::insert_session(&app.rows, work.connection(), &session).await?;
        let kind = EventKind::ConsoleSignedIn(SignInDetail {
            expires_at: rfc3339(session.expires_at),
            auth_time: at_issuer.auth_time.map(rfc3339),
        });
        let actor = session.who.clone().map_or(Actor::Server, Actor::User);
        let console = Some(session.reference());
        let event = Event { origin: self.origin.clone(), console, ..Event::new(now, kind, actor) };
        work.commit(&[event]).await?;
        Ok(NewSession { session, secret: SecretString::from(secret) })
    }

    /// Under the authority lock, which shuts out changes: the issuer is registered as it was when the token was verified,
    /// and neither a revoke-all nor a logout at the issuer came meanwhile.
    async fn require_unchanged(
        &self,
        connection: &mut PgConnection,
        at: &SignInIssuer,
        session: &ConsoleSession,
    ) -> Result<(), Unfinished> {
        if registry::store::version(connection).await? != at.version() {
            let registry = registry::store::load(&self.app.rows, connection, &self.app.issuer).await?;
            let (issuer, _) = at.parts()?;
            if registry.issuers.get(at.iss()).map(|issuer| issuer.content()) != Some(issuer.content()) {
                return Err(SignInProblem::Changed.into());
            }
        }
        let Some(who) = &session.who else { return Ok(()) };
        if !user_not_revoked(connection, who, session.authenticated_at).await? {
            return Err(SignInProblem::Revoked.into());
        }
        let person = AtIssuer {
            iss: &who.iss,
            sub: session.issuer_subject.as_deref().unwrap_or_default(),
            sid: session.issuer_session.as_deref(),
        };
        match sign_ins::was_logged_out(connection, person, self.pending.created_at).await? {
            true => Err(SignInProblem::LoggedOut.into()),
            false => Ok(()),
        }
    }

    /// Records a refusal, as many in a minute as failed authentications of a client: who is refused is not known here, and
    /// must not fill the log.
    async fn record(&self, refusal: SignInRefusal) -> Result<(), Fault> {
        let from = self.origin.ip.map(|ip| network(ip).to_string()).unwrap_or_default();
        if !self.app.limits.failures.count(&format!("sign-in {from}")) {
            return Ok(());
        }
        let kind = EventKind::ConsoleRefused(refusal);
        let event = Event {
            origin: self.origin.clone(),
            target: Some(self.pending.iss.clone()),
            reason: Some(Refusal::SignInRefused.reason()),
            ..Event::new(self.now, kind, Actor::Server)
        };
        AuditedTransaction::begin(&self.app.pool).await?.commit(&[event]).await
    }
}
