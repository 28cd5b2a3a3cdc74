//! The provider's HTTP server: an authorization server (RFC 6749 with PKCE, RFC 7009, RFC 8414) and the API that it
//! protects. Clients authenticate, a refresh token is valid once, and access tokens are short-lived.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::net::TcpListener;

use actix_web::dev::{Payload, ServerHandle};
use actix_web::http::StatusCode;
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer, ResponseError, web};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use url::Url;

use crate::cli::demo::client::now;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::oauth_client::{basic, challenge};
use actchain_protocol::random;

/// The client id of the demo's server at the provider.
pub(super) const CLIENT: &str = "actchain-at-the-mailbox";
pub(super) const SCOPE: &str = "messages.read";
/// Lifetime of access tokens, in seconds.
const LIFETIME: i64 = 3_600;

/// The demo's server as a client of the provider, and what the provider has issued.
pub(super) struct Registration {
    pub(super) base: String,
    pub(super) secret: String,
    pub(super) accounts: Mutex<Accounts>,
}

#[derive(Default)]
pub(super) struct Accounts {
    codes: BTreeMap<String, Code>,
    refresh_tokens: BTreeMap<String, RefreshToken>,
    access_tokens: BTreeMap<String, AccessToken>,
    grants: Vec<Grant>,
    /// Every code and token that was issued.
    pub(super) issued: Vec<String>,
}

struct Code {
    user: String,
    redirect_uri: String,
    challenge: String,
}

struct RefreshToken {
    /// Index in [`Accounts::grants`].
    grant: usize,
    state: RefreshTokenState,
}

#[derive(PartialEq, Eq)]
enum RefreshTokenState {
    Unused,
    Used,
}

struct AccessToken {
    /// Index in [`Accounts::grants`].
    grant: usize,
    /// In seconds since 1970.
    expires_at: i64,
}

struct Grant {
    user: String,
    refreshes: u32,
    state: GrantState,
}

#[derive(PartialEq, Eq)]
enum GrantState {
    Active,
    Revoked,
}

#[derive(Debug, Clone, Copy, Serialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
#[error("{self:?}")]
enum ProviderError {
    InvalidRequest,
    InvalidClient,
    InvalidGrant,
    InvalidToken,
    UnsupportedGrantType,
    NotFound,
    ServerError,
}

impl ResponseError for ProviderError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::InvalidRequest | Self::InvalidGrant | Self::UnsupportedGrantType => StatusCode::BAD_REQUEST,
            Self::InvalidClient | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status_code()).json(self)
    }
}

impl From<Fault> for ProviderError {
    fn from(_: Fault) -> Self {
        Self::ServerError
    }
}

/// Authorization server metadata (RFC 8414).
#[derive(Serialize)]
struct ProviderMetadata<'a> {
    issuer: &'a str,
    authorization_endpoint: String,
    token_endpoint: String,
    revocation_endpoint: String,
}

#[derive(Deserialize)]
struct AuthorizeQuery {
    redirect_uri: String,
    state: String,
    code_challenge: String,
    #[serde(rename = "code_challenge_method")]
    _code_challenge_method: ChallengeMethod,
}

#[derive(Deserialize)]
enum ChallengeMethod {
    S256,
}

#[derive(Deserialize)]
#[serde(tag = "grant_type", rename_all = "snake_case")]
enum ProviderTokenRequest {
    AuthorizationCode {
        code: String,
        redirect_uri: String,
        code_verifier: String,
    },
    RefreshToken {
        refresh_token: String,
    },
    #[serde(other)]
    Unsupported,
}

#[derive(Deserialize)]
struct RevocationRequest {
    token: String,
}

/// A successful response of the token endpoint (RFC 6749 §5.1).
#[derive(Serialize, Deserialize)]
pub(in crate::cli::demo) struct GrantedTokens {
    pub(in crate::cli::demo) access_token: String,
    token_type: String,
    expires_in: i64,
    pub(in crate::cli::demo) refresh_token: String,
    pub(in crate::cli::demo) scope: String,
}

/// The response of the protected API.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli::demo) struct Messages {
    pub(in crate::cli::demo) owner: String,
    pub(in crate::cli::demo) messages: Vec<String>,
    /// How often the grant was refreshed.
    pub(in crate::cli::demo) refreshes: u32,
}

/// Proof that the request authenticates as the registered client.
struct ProviderClient;

impl FromRequest for ProviderClient {
    type Error = ProviderError;
    type Future = Ready<Result<Self, ProviderError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let registration = request.app_data::<web::Data<Registration>>();
        let expected = registration.map(|registration| basic(CLIENT, &registration.secret));
        let presented = header(request, "authorization");
        let matches = presented.is_some() && presented == expected.as_ref().map(|value| value.as_str());
        ready(if matches { Ok(Self) } else { Err(ProviderError::InvalidClient) })
    }
}

pub(super) fn start(
    listener: TcpListener,
    registration: web::Data<Registration>,
) -> Result<ServerHandle, Fault> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(registration.clone())
            .app_data(web::FormConfig::default().error_handler(|_, _| ProviderError::InvalidRequest.into()))
            .app_data(web::QueryConfig::default().error_handler(|_, _| ProviderError::InvalidRequest.into()))
            .wrap(DefaultHeaders::new().add(("cache-control", "no-store")))
            .route("/.well-known/oauth-authorization-server", web::get().to(metadata))
            .route("/authorize", web::get().to(authorize))
            .route("/token", web::post().to(token))
            .route("/revoke", web::post().to(revoke))
            .route("/messages", web::get().to(messages))
            .default_service(web::to(|| async { HttpResponse::from_error(ProviderError::NotFound) }))
    })
    .workers(1)
    .disable_signals()
    .listen(listener)
    .context("starting the provider")?
    .run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok(handle)
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

async fn metadata(registration: web::Data<Registration>) -> HttpResponse {
    let base = registration.base.as_str();
    HttpResponse::Ok().json(ProviderMetadata {
        issuer: base,
        authorization_endpoint: format!("{base}/authorize"),
        token_endpoint: format!("{base}/token"),
        revocation_endpoint: format!("{base}/revoke"),
    })
}

/// The user of the session cookie consents at once.
async fn authorize(
    request: HttpRequest,
    registration: web::Data<Registration>,
    query: web::Query<AuthorizeQuery>,
) -> Result<HttpResponse, ProviderError> {
    let user = header(&request, "cookie").and_then(|cookie| cookie.strip_prefix("user="));
    let user = user.ok_or(ProviderError::InvalidRequest)?.to_owned();
    let AuthorizeQuery { redirect_uri, state, code_challenge, .. } = query.into_inner();
    let code = random::token().map_err(Fault::from)?;
    let location = Url::parse_with_params(&redirect_uri, [("code", &code), ("state", &state)]);
    let location = location.map_err(|_| ProviderError::InvalidRequest)?;
    let mut accounts = registration.accounts.lock().await;
    accounts.issued.push(code.clone());
    accounts.codes.insert(code, Code { user, redirect_uri, challenge: code_challenge });
    Ok(HttpResponse::Found().insert_header(("location", location.as_str())).finish())
}

async fn token(
    _client: ProviderClient,
    registration: web::Data<Registration>,
    form: web::Form<ProviderTokenRequest>,
) -> Result<web::Json<GrantedTokens>, ProviderError> {
    let mut accounts = registration.accounts.lock().await;
    let grant = match form.into_inner() {
        ProviderTokenRequest::AuthorizationCode { code, redirect_uri, code_verifier } => {
            let code = accounts.codes.remove(&code).ok_or(ProviderError::InvalidGrant)?;
            if code.redirect_uri != redirect_uri || code.challenge != challenge(&code_verifier) {
                return Err(ProviderError::InvalidGrant);
            }
            accounts.grants.push(Grant { user: code.user, refreshes: 0, state: GrantState::Active });
            accounts.grants.len() - 1
        }
        ProviderTokenRequest::RefreshToken { refresh_token } => accounts.refresh(&refresh_token)?,
        ProviderTokenRequest::Unsupported => return Err(ProviderError::UnsupportedGrantType),
    };
    Ok(web::Json(accounts.issue(grant)?))
}

async fn revoke(
    _client: ProviderClient,
    registration: web::Data<Registration>,
    form: web::Form<RevocationRequest>,
) -> HttpResponse {
    registration.accounts.lock().await.revoke(&form.token);
    // RFC 7009 §2.2: an unknown token is no error.
    HttpResponse::Ok().finish()
}

/// The protected API: the messages of the user, for a valid access token.
async fn messages(
    request: HttpRequest,
    registration: web::Data<Registration>,
) -> Result<web::Json<Messages>, ProviderError> {
    let token = header(&request, "authorization").and_then(|value| value.strip_prefix("Bearer "));
    let accounts = registration.accounts.lock().await;
    let grant = token.and_then(|token| accounts.active_grant(token)).ok_or(ProviderError::InvalidToken)?;
    Ok(web::Json(Messages::of(&grant.user, grant.refreshes)))
}

impl Messages {
    pub(super) fn of(owner: &str, refreshes: u32) -> Self {
        Self { owner: owner.to_owned(), messages: vec!["lunch on Friday?".to_owned()], refreshes }
    }
}

impl Accounts {
    /// Uses a refresh token, and returns the index of its grant.
    fn refresh(&mut self, refresh_token: &str) -> Result<usize, ProviderError> {
        let presented = self.refresh_tokens.get_mut(refresh_token).ok_or(ProviderError::InvalidGrant)?;
        let grant = self.grants.get_mut(presented.grant).ok_or(ProviderError::InvalidGrant)?;
        // A refresh token that is used twice was stolen (RFC 9700 §4.14.2).
        if presented.state == RefreshTokenState::Used {
            grant.state = GrantState::Revoked;
        }
        if grant.state == GrantState::Revoked {
            return Err(ProviderError::InvalidGrant);
        }
        grant.refreshes += 1;
        presented.state = RefreshTokenState::Used;
        Ok(presented.grant)
    }

    fn issue(&mut self, grant: usize) -> Result<GrantedTokens, Fault> {
        let (access_token, refresh_token) = (random::token()?, random::token()?);
        self.issued.extend([access_token.clone(), refresh_token.clone()]);
        self.access_tokens.insert(access_token.clone(), AccessToken { grant, expires_at: now() + LIFETIME });
        let state = RefreshTokenState::Unused;
        self.refresh_tokens.insert(refresh_token.clone(), RefreshToken { grant, state });
        Ok(GrantedTokens {
            access_token,
            token_type: "Bearer".to_owned(),
            expires_in: LIFETIME,
            refresh_token,
            scope: SCOPE.to_owned(),
        })
    }

    /// Revokes the grant of a token.
    fn revoke(&mut self, token: &str) {
        let of_refresh_token = self.refresh_tokens.get(token).map(|token| token.grant);
        let of_access_token = self.access_tokens.get(token).map(|token| token.grant);
        let grant = of_refresh_token.or(of_access_token).and_then(|grant| self.grants.get_mut(grant));
        if let Some(grant) = grant {
            grant.state = GrantState::Revoked;
        }
    }

    fn active_grant(&self, access_token: &str) -> Option<&Grant> {
        let token = self.access_tokens.get(access_token).filter(|token| token.expires_at > now())?;
        self.grants.get(token.grant).filter(|grant| grant.state == GrantState::Active)
    }
}
