//! People sign in at their issuer (OpenID Connect Core 1.0 §3.1, with PKCE): here a sign-in begins.

use std::sync::Arc;

use secrecy::SecretString;
use time::OffsetDateTime;

use super::return_path::return_path;
use super::session::secret_sha256;
use crate::app::App;
use crate::domain::console::{PendingSignIn, SIGN_IN_LIFE, SignInPurpose, sign_ins};
use crate::domain::issuer::Issuer;
use crate::domain::registry::Registry;
use crate::domain::sign_in::{SignIn, path_name, redirect_uri};
use crate::platform::fault::Fault;
use actchain_protocol::{oauth_client, random};

/// An issuer at which people sign in, in one version of the registry.
#[derive(Debug, Clone)]
pub struct SignInIssuer {
    registry: Arc<Registry>,
    iss: String,
}

impl SignInIssuer {
    pub fn iss(&self) -> &str {
        &self.iss
    }

    /// The name in paths of the console.
    pub fn path_name(&self) -> String {
        path_name(&self.iss)
    }

    /// The version of the registry.
    pub(super) fn version(&self) -> i64 {
        self.registry.version
    }

    pub(super) fn parts(&self) -> Result<(&Issuer, &SignIn), Fault> {
        let issuer = self.registry.issuers.get(&self.iss);
        let parts = issuer.and_then(|issuer| Some((issuer, issuer.sign_in.as_ref()?)));
        parts.ok_or_else(|| Fault::new("an issuer without sign-ins"))
    }

    /// The URL at which a browser ends the session at the issuer.
    pub fn end_session_url(&self, back: &str) -> Option<String> {
        let (_, sign_in) = self.parts().ok()?;
        let endpoint = sign_in.endpoints.end_session_endpoint.as_deref()?;
        let params = [("client_id", sign_in.settings.client_id.as_str()), ("post_logout_redirect_uri", back)];
        oauth_client::authorization_url(endpoint, &params)
    }
}

/// The issuers at which people sign in.
pub async fn issuers(app: &App) -> Result<Vec<SignInIssuer>, Fault> {
    let registry = app.current_registry().await?;
    let names = registry.issuers.values().filter(|one| one.sign_in.is_some()).map(|one| one.iss.clone());
    Ok(names.map(|iss| SignInIssuer { registry: Arc::clone(&registry), iss }).collect())
}

/// The issuer with this name in paths.
pub async fn find_issuer(app: &App, name: &str) -> Result<Option<SignInIssuer>, Fault> {
    Ok(issuers(app).await?.into_iter().find(|one| one.path_name() == name))
}

/// The issuer of the people with this `iss`.
pub async fn issuer_of(app: &App, iss: &str) -> Result<Option<SignInIssuer>, Fault> {
    let of = |one: &SignInIssuer| one.parts().is_ok_and(|(issuer, _)| issuer.identified_by(iss).is_some());
    Ok(issuers(app).await?.into_iter().find(of))
}

/// What a person wants to sign in for.
#[derive(Debug)]
pub struct SignInRequest {
    pub purpose: SignInPurpose,
    /// The page to return to, as the browser names it.
    pub next: Option<String>,
    /// The secret that the browser has of another sign-in, so that two tabs do not disturb each other.
    pub browser: Option<String>,
}

/// A sign-in that has begun.
#[derive(Debug)]
pub struct BegunSignIn {
    /// Where the browser goes. It contains `state` and `nonce`.
    pub url: SecretString,
    /// The secret for the browser's cookie.
    pub browser: SecretString,
}

/// Begins a sign-in.
///
/// # Errors
/// A fault; nothing of the request is one.
pub async fn begin(
    app: &App,
    at: &SignInIssuer,
    request: SignInRequest,
    now: OffsetDateTime,
) -> Result<BegunSignIn, Fault> {
    let (issuer, _) = at.parts()?;
    let [state, nonce, verifier] = [random::token()?, random::token()?, random::token()?];
    let browser = match request.browser.filter(|secret| secret_sha256(secret).is_some()) {
        Some(secret) => secret,
        None => random::token()?,
    };
    let digest =
        |secret: &str| secret_sha256(secret).ok_or_else(|| Fault::new("a random secret of another length"));
    let (state_sha256, browser_sha256) = (digest(&state)?, digest(&browser)?);
    let pending = PendingSignIn {
        state_sha256,
        browser_sha256,
        iss: issuer.iss.clone(),
        nonce: nonce.clone(),
        verifier: app.seal.seal(&PendingSignIn::row(&state_sha256), verifier.as_bytes())?,
        return_to: request.next.and_then(|next| return_path(&app.issuer, &next)),
        purpose: request.purpose,
        created_at: now,
        expires_at: now + SIGN_IN_LIFE,
    };
    let mut connection = app.pool.acquire().await?;
    sign_ins::insert(&app.rows, &mut connection, &pending).await?;
    drop(connection);
    let values = Values { state, nonce, challenge: oauth_client::challenge(&verifier) };
    let url = authorization_url(app, issuer, &values, request.purpose)
        .ok_or_else(|| Fault::new("an authorization endpoint is no URL"))?;
    Ok(BegunSignIn { url: SecretString::from(url), browser: SecretString::from(browser) })
}

/// The values of an authorization request that are used once.
struct Values {
    state: String,
    nonce: String,
    challenge: String,
}

/// The URL of the authorization request.
fn authorization_url(app: &App, issuer: &Issuer, values: &Values, purpose: SignInPurpose) -> Option<String> {
    let SignIn { settings, endpoints, .. } = issuer.sign_in.as_ref()?;
    let redirect_uri = redirect_uri(&app.issuer, &issuer.iss);
    let (scope, acr) = (settings.scopes.join(" "), settings.acr.join(" "));
    let max_age = app.config.console.fresh.to_string();
    let mut params = vec![
        ("response_type", "code"),
        ("client_id", settings.client_id.as_str()),
        ("redirect_uri", redirect_uri.as_str()),
        ("scope", scope.as_str()),
        ("state", values.state.as_str()),
        ("nonce", values.nonce.as_str()),
        ("code_challenge", values.challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    if !acr.is_empty() {
        params.push(("acr_values", acr.as_str()));
    }
    if purpose == SignInPurpose::Fresh {
        // Some issuers know only one of the two.
        params.extend([("prompt", "login"), ("max_age", max_age.as_str())]);
    }
    oauth_client::authorization_url(&endpoints.authorization_endpoint, &params)
}
