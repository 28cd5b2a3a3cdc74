//! Client authentication by the registered method (RFC 6749 §2.3, RFC 7523, RFC 9449).

use std::net::IpAddr;
use std::sync::Arc;

use secrecy::SecretString;
use time::OffsetDateTime;

use super::client_secret::{self, SecretTry};
use crate::app::App;
use crate::domain::client::{self, AssertionAudience, AuthMethod, Client, ClientException};
use crate::domain::delegation::candidates::Memory;
use crate::domain::jwks_cache::KeyLookupError;
use crate::domain::ledger::SingleUseId;
use crate::domain::refusal::{ClientProblem, CredentialProblem, Error, Refusal};
use crate::platform::fault::Fault;
use actchain_protocol::client_assertion;
use actchain_protocol::jose::PublicKey;
use actchain_protocol::metadata;
use actchain_protocol::token_problem::TokenProblem;

/// Client credentials of a request.
#[derive(Debug)]
pub enum Credentials {
    /// A client secret, in the header or in the body.
    Secret {
        client_id: String,
        secret: SecretString,
        /// `client_secret_basic` or `client_secret_post`.
        method: AuthMethod,
    },
    Assertion {
        /// The parameter `client_id`, if present.
        client_id: Option<String>,
        assertion: String,
    },
    /// Only a client id; the DPoP key has to prove the client.
    Key {
        /// The parameter `client_id` (RFC 6749 §2.2).
        client_id: String,
    },
}

/// Input of an authentication besides the credentials.
#[derive(Debug, Clone, Copy)]
pub struct AuthContext<'a> {
    /// Thumbprint of the key of a verified DPoP proof.
    pub jkt: Option<&'a str>,
    pub peer: Option<IpAddr>,
    pub now: OffsetDateTime,
    /// Whether a cached client can be used.
    pub memory: Memory,
}

impl<'a> AuthContext<'a> {
    fn trying(self, client_id: &'a str, secret: &'a SecretString) -> SecretTry<'a> {
        SecretTry { client_id, secret, peer: self.peer, now: self.now }
    }
}

/// An authenticated client.
#[derive(Debug, Clone)]
pub struct VerifiedClient {
    /// The client as last read.
    pub client: Arc<Client>,
    /// The client assertion, where the client used one.
    pub asserted: Option<AcceptedAssertion>,
}

/// A verified client assertion (RFC 7523).
#[derive(Debug, Clone)]
pub struct AcceptedAssertion {
    /// Replay-cache entry of the assertion's `jti`.
    pub single_use_id: SingleUseId,
    /// Thumbprint of the key that signed the assertion.
    pub key: String,
    /// The exception that the client used.
    pub exception: Option<ClientException>,
}

/// A failed authentication, with the client if the claimed id exists.
#[derive(Debug)]
pub struct AuthenticationError {
    pub client: Option<Arc<Client>>,
    pub stop: Error,
}

/// Authenticates a client. The database is read once before a secret is refused, whether or not the claimed client
/// exists.
pub async fn authenticate(
    app: &App,
    credentials: &Credentials,
    circumstances: AuthContext<'_>,
) -> Result<VerifiedClient, AuthenticationError> {
    let claimed = claimed_id(credentials);
    let found = match claimed.as_deref().map(|id| find_with_source(app, id, circumstances.memory)) {
        None => None,
        Some(finding) => {
            finding.await.map_err(|fault| AuthenticationError { client: None, stop: fault.into() })?
        }
    };
    let Some((client, read)) = found else {
        // Takes as long as a wrong secret, so that the response time does not show which clients exist.
        let pretended = match credentials {
            Credentials::Secret { client_id, secret, .. } => {
                client_secret::dummy_verify(app, circumstances.trying(client_id, secret)).await
            }
            _ => Ok(()),
        };
        let problem = unreadable(credentials).unwrap_or(ClientProblem::Unknown);
        let stop = pretended.err().unwrap_or(Refusal::InvalidClient(problem).into());
        return Err(AuthenticationError { client: None, stop });
    };
    match (check(app, &client, credentials, circumstances).await, read) {
        (Ok(asserted), _) => Ok(VerifiedClient { client, asserted }),
        (Err(stop), RegistryRead::Now) => Err(AuthenticationError { client: Some(client), stop }),
        (Err(stop), RegistryRead::Before) => check_again(app, client, credentials, circumstances, stop).await,
    }
}

/// Repeats a failed authentication with the stored client: the cached client may be outdated.
async fn check_again(
    app: &App,
    remembered: Arc<Client>,
    credentials: &Credentials,
    circumstances: AuthContext<'_>,
    stop: Error,
) -> Result<VerifiedClient, AuthenticationError> {
    let stored = app
        .read(async |connection| client::store::find(&app.rows, connection, &remembered.client_id).await)
        .await;
    let client = match stored {
        Ok(Some(client)) if client.version != remembered.version => Arc::new(client),
        Ok(Some(_)) => return Err(AuthenticationError { client: Some(remembered), stop }),
        Ok(None) => return Err(AuthenticationError { client: None, stop }),
        Err(fault) => return Err(AuthenticationError { client: None, stop: fault.into() }),
    };
    app.caches.clients.insert(client.client_id.clone(), Arc::clone(&client));
    match check(app, &client, credentials, circumstances).await {
        Ok(asserted) => Ok(VerifiedClient { client, asserted }),
        Err(stop) => Err(AuthenticationError { client: Some(client), stop }),
    }
}

fn claimed_id(credentials: &Credentials) -> Option<String> {
    match credentials {
        Credentials::Secret { client_id, .. } | Credentials::Key { client_id } => Some(client_id.clone()),
        Credentials::Assertion { client_id, assertion } => {
            let said = client_assertion::read(assertion).ok()?.client_id;
            // RFC 7521 §4.2: `client_id` and the assertion have to name the same client.
            client_id.as_ref().is_none_or(|id| *id == said).then_some(said)
        }
    }
}

/// Why the assertion names no client.
fn unreadable(credentials: &Credentials) -> Option<ClientProblem> {
    let Credentials::Assertion { client_id, assertion } = credentials else { return None };
    let problem = match client_assertion::read(assertion) {
        Err(problem) => problem,
        Ok(read) if client_id.as_ref().is_some_and(|id| *id != read.client_id) => {
            TokenProblem::ClientMismatch
        }
        Ok(_) => return None,
    };
    Some(ClientProblem::InvalidCredentials(CredentialProblem::Assertion(problem)))
}

/// Whether the client was read from the database for this request or from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RegistryRead {
    Now,
    Before,
}

/// Finds a client, in the cache first.
pub async fn find(app: &App, client_id: &str) -> Result<Option<Arc<Client>>, Fault> {
    Ok(find_with_source(app, client_id, Memory::Usable).await?.map(|(client, _)| client))
}

/// Finds a client in the database, past the cache.
pub async fn find_stored(app: &App, client_id: &str) -> Result<Option<Arc<Client>>, Fault> {
    Ok(find_with_source(app, client_id, Memory::Outdated).await?.map(|(client, _)| client))
}

async fn find_with_source(
    app: &App,
    client_id: &str,
    memory: Memory,
) -> Result<Option<(Arc<Client>, RegistryRead)>, Fault> {
    if let Some(client) = app.caches.clients.get(client_id).filter(|_| memory == Memory::Usable) {
        return Ok(Some((client, RegistryRead::Before)));
    }
    if !client::is_client_id(client_id) {
        return Ok(None);
    }
    let found =
        app.read(async |connection| client::store::find(&app.rows, connection, client_id).await).await?;
    let Some(client) = found else { return Ok(None) };
    let client = Arc::new(client);
    app.caches.clients.insert(client_id.to_owned(), Arc::clone(&client));
    Ok(Some((client, RegistryRead::Now)))
}

async fn check(
    app: &App,
    client: &Client,
    credentials: &Credentials,
    circumstances: AuthContext<'_>,
) -> Result<Option<AcceptedAssertion>, Error> {
    let AuthContext { jkt, now, .. } = circumstances;
    let refuse = |problem| Err(Error::Refused(Refusal::InvalidClient(problem)));
    let method = match credentials {
        Credentials::Secret { method, .. } => *method,
        Credentials::Assertion { .. } => AuthMethod::PrivateKeyJwt,
        Credentials::Key { .. } => AuthMethod::None,
    };
    if !client.may_authenticate_by(method) {
        if let Credentials::Secret { secret, .. } = credentials {
            client_secret::dummy_verify(app, circumstances.trying(&client.client_id, secret)).await?;
        }
        return refuse(ClientProblem::MethodNotRegistered);
    }
    let asserted = match credentials {
        Credentials::Secret { secret, .. } => {
            client_secret::verify(app, client, circumstances.trying(&client.client_id, secret)).await?;
            None
        }
        Credentials::Assertion { assertion, .. } => Some(check_assertion(app, client, assertion, now).await?),
        Credentials::Key { .. } if jkt.is_some_and(|jkt| client.may_use_key(jkt)) => None,
        Credentials::Key { .. } => return refuse(ClientProblem::InvalidCredentials(CredentialProblem::Key)),
    };
    if client.is_inactive() {
        return refuse(ClientProblem::Disabled);
    }
    Ok(asserted)
}

/// Counts the use of an exception.
pub fn count_exception(exception: ClientException) {
    metrics::counter!("actchain_client_exceptions_total", "exception" => exception.name()).increment(1);
}

async fn check_assertion(
    app: &App,
    client: &Client,
    assertion: &str,
    now: OffsetDateTime,
) -> Result<AcceptedAssertion, Error> {
    let unproven = |problem| {
        let problem = CredentialProblem::Assertion(problem);
        Error::Refused(Refusal::InvalidClient(ClientProblem::InvalidCredentials(problem)))
    };
    let read = client_assertion::read(assertion).map_err(unproven)?;
    let token_endpoint = metadata::endpoint(&app.issuer, "/oauth/token");
    let audiences = match client.assertion_audience {
        AssertionAudience::Issuer => vec![app.issuer.as_str()],
        AssertionAudience::TokenEndpoint => vec![app.issuer.as_str(), &token_endpoint],
    };
    let verify = |keys: &[PublicKey]| {
        let _timer = super::issue::time_crypto("assertion");
        read.verify(keys, &audiences, now)
    };
    let verified = match &client.jwks_uri {
        None => verify(&client.keys).map_err(unproven)?,
        Some(url) => {
            let verified = app.caches.jwk_sets.verify(url, read.kid(), now, verify).await;
            verified.map_err(|error| match error {
                KeyLookupError::KeysUnavailable => Error::Refused(Refusal::IssuerUnavailable),
                KeyLookupError::Token(problem) => unproven(problem),
            })?
        }
    };
    if !client.may_assert_by(&verified.key) {
        return Err(unproven(TokenProblem::KeyRemoved));
    }
    let single_use_id = SingleUseId {
        id: verified.replay_id,
        expires_at: verified.expires_at,
        on_replay: Refusal::InvalidClient(ClientProblem::AssertionReplayed),
        // Measured by the time of the last sweep.
        if_forgotten: Refusal::InvalidClient(ClientProblem::InvalidCredentials(
            CredentialProblem::Assertion(TokenProblem::Expired),
        )),
    };
    let exception = (verified.audience != app.issuer).then_some(ClientException::AssertionAudience);
    exception.iter().copied().for_each(count_exception);
    Ok(AcceptedAssertion { single_use_id, key: verified.key, exception })
}
