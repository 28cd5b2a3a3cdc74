//! A third party for the demo: a mailbox with an authorization server of its own, the browser in which its user
//! consents, and the client that reads the mailbox.

mod server;

use actix_web::dev::ServerHandle;
use actix_web::web;
use url::{Url, form_urlencoded};

use self::server::{Accounts, CLIENT, GrantedTokens, Messages, Registration, SCOPE};
use super::detail::Detail;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::oauth_client::{basic, challenge};
use actchain_protocol::random;

/// The redirect URI of the client that Carol uses.
const REDIRECT_URI: &str = "https://app.example.com/back";

/// A provider that listens on a free port of loopback until [`DemoProvider::stop`].
pub(super) struct DemoProvider {
    pub(super) base: String,
    registration: web::Data<Registration>,
    handle: ServerHandle,
    http: reqwest::Client,
    detail: Detail,
}

/// What the protected API answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ApiAnswer {
    Messages(Messages),
    /// The status of a refusal.
    Refused(u16),
}

impl ApiAnswer {
    /// The expected answer for Carol's mailbox.
    pub(super) fn carols(refreshes: u32) -> Self {
        Self::Messages(Messages::of("carol", refreshes))
    }
}

/// The parameters with which the browser returns to the client (RFC 6749 §4.1.2).
#[derive(Default)]
struct Redirect {
    code: String,
    state: String,
}

impl DemoProvider {
    pub(super) fn start(detail: Detail) -> Result<Self, Fault> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("starting the provider")?;
        let address = listener.local_addr().context("starting the provider")?;
        let registration = web::Data::new(Registration {
            base: format!("http://{address}"),
            secret: random::token()?,
            accounts: tokio::sync::Mutex::new(Accounts::default()),
        });
        let handle = server::start(listener, registration.clone())?;
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.build().context("building an HTTP client")?;
        Ok(Self { base: registration.base.clone(), registration, handle, http, detail })
    }

    pub(super) async fn stop(&self) {
        self.handle.stop(false).await;
    }

    /// The client secret of the demo's server at the provider.
    pub(super) fn secret(&self) -> &str {
        &self.registration.secret
    }

    /// The manifest for `actchain apply`. The endpoints come from the provider's metadata.
    pub(super) fn manifest(&self, secret_file: &str) -> String {
        format!(
            "providers:\n  - {{id: mailbox, name: Mailbox, issuer: \"{}\", client_id: {CLIENT}, client_secret_file: \
             \"{secret_file}\", scopes: [{SCOPE}]}}\n",
            self.base
        )
    }

    /// Plays the user's browser and a client together: the user consents, and the client obtains tokens.
    pub(super) async fn consent(&self, user: &str) -> Result<GrantedTokens, Fault> {
        let (verifier, state) = (random::token()?, random::token()?);
        let params = [
            ("response_type", "code"),
            ("client_id", CLIENT),
            ("redirect_uri", REDIRECT_URI),
            ("scope", SCOPE),
            ("state", state.as_str()),
            ("code_challenge", &challenge(&verifier)),
            ("code_challenge_method", "S256"),
        ];
        let url = Url::parse_with_params(&format!("{}/authorize", self.base), params);
        let url = url.context("writing an authorization request")?;
        let sent = self.http.get(url).header("cookie", format!("user={user}")).send().await;
        let sent = sent.context("authorizing at the provider")?;
        let location = sent.headers().get("location").and_then(|value| value.to_str().ok());
        let redirect = Redirect::parse(location.unwrap_or_default())?;
        if redirect.state != state {
            return Err(Fault::new("the provider answered another request"));
        }
        self.redeem(&redirect.code, &verifier).await
    }

    async fn redeem(&self, code: &str, verifier: &str) -> Result<GrantedTokens, Fault> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code").append_pair("code", code);
        form.append_pair("redirect_uri", REDIRECT_URI).append_pair("code_verifier", verifier);
        let request = self.http.post(format!("{}/token", self.base)).body(form.finish());
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.header("authorization", basic(CLIENT, self.secret()).as_str());
        let answer = request.send().await.context("requesting tokens of the provider")?;
        let answer = answer.text().await.context("requesting tokens of the provider")?;
        serde_json::from_str(&answer).context("reading the provider's tokens")
    }

    /// Calls the protected API with an access token.
    pub(super) async fn messages(&self, access_token: &str) -> Result<ApiAnswer, Fault> {
        let request = self.http.get(format!("{}/messages", self.base));
        let answer = request.header("authorization", format!("Bearer {access_token}")).send().await;
        let answer = answer.context("calling the provider's API")?;
        let status = answer.status();
        let text = answer.text().await.context("calling the provider's API")?;
        self.detail.raw(format_args!("GET {}/messages: {} {text}", self.base, status.as_u16()));
        if !status.is_success() {
            return Ok(ApiAnswer::Refused(status.as_u16()));
        }
        Ok(ApiAnswer::Messages(serde_json::from_str(&text).context("reading the provider's answer")?))
    }

    /// The client secret and every code and token that the provider has issued: none may appear in any output.
    pub(super) async fn secrets(&self) -> Vec<String> {
        let mut secrets = self.registration.accounts.lock().await.issued.clone();
        secrets.push(self.secret().to_owned());
        secrets
    }
}

impl Redirect {
    fn parse(location: &str) -> Result<Self, Fault> {
        let url = Url::parse(location).context("reading the provider's redirect")?;
        let mut redirect = Self::default();
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "code" => redirect.code = value.into_owned(),
                "state" => redirect.state = value.into_owned(),
                _ => {}
            }
        }
        Ok(redirect)
    }
}
