//! The demo's agents and users as HTTP clients, with DPoP proofs (RFC 9449).

use std::sync::Arc;

use actchain_client::{Authentication, Client, Error, Key, Presented, Refused, Token, TokenRequest};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Map, Value, json};

use super::detail::{Detail, decoded, presentable};
use crate::platform::clock::Clock;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::jose::Jws;
use actchain_protocol::oauth_client::basic;
use actchain_protocol::random;

/// A client of the demo's server.
pub(super) struct Agent {
    pub(super) id: String,
    /// Absent if it authenticates with its registered key.
    pub(super) secret: Option<String>,
    client: Client,
}

impl Agent {
    /// Authenticates with its registered key.
    pub(super) fn with_key(issuer: &str, id: &str, key: Key) -> Result<Self, Fault> {
        let client = Client::builder(issuer, id, key).http(http_client());
        Ok(Self { id: id.to_owned(), secret: None, client: client.build().context("making a client")? })
    }

    /// Authenticates with a client secret.
    pub(super) fn with_secret(issuer: &str, id: &str) -> Result<Self, Fault> {
        Self::with_this_secret(issuer, id, random::token()?)
    }

    /// Authenticates with this secret, and proves a new key.
    pub(super) fn with_this_secret(issuer: &str, id: &str, secret: String) -> Result<Self, Fault> {
        let authentication = Authentication::Secret(SecretString::from(secret.clone()));
        let client =
            Client::builder(issuer, id, new_key()?).authentication(authentication).http(http_client());
        Ok(Self {
            id: id.to_owned(),
            secret: Some(secret),
            client: client.build().context("making a client")?,
        })
    }

    pub(super) fn key(&self) -> &Key {
        self.client.key()
    }

    /// An exchange by this agent (RFC 8693), to be sent by [`Http::token`].
    pub(super) fn exchange(&self, subject: Presented) -> TokenRequest<'_> {
        self.client.exchange(subject)
    }

    /// A token without a token of the user (RFC 6749 §6), to be sent by [`Http::token`].
    pub(super) fn refresh(&self, refresh_token: &SecretString) -> TokenRequest<'_> {
        self.client.refresh(refresh_token)
    }
}

pub(super) fn new_key() -> Result<Key, Fault> {
    Key::generate().context("generating a key")
}

pub(super) fn http_client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy()
}

/// A token of the demo's server, to be exchanged.
pub(super) fn issued(token: &Token) -> Presented {
    Presented::access_token(token.secret())
}

/// The caller at the management API or the vault, with its access token.
pub(super) enum DemoCaller<'a> {
    /// A user with a token of its own issuer.
    User(&'a str),
    /// An agent with an access token bound to its key.
    Agent(&'a Agent, Arc<Token>),
}

/// A request to the management API or the vault.
pub(super) struct Call {
    method: Method,
    path: String,
    body: Option<Value>,
}

impl Call {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None }
    }

    pub(super) fn post(path: impl Into<String>) -> Self {
        Self { method: Method::POST, path: path.into(), body: None }
    }

    pub(super) fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, path: path.into(), body: None }
    }

    pub(super) fn json(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
    /// The token in an answer of the token endpoint.
    token: Option<Arc<Token>>,
}

impl Answer {
    fn granted(token: Arc<Token>) -> Self {
        let members = json!({
            "access_token": token.secret(), "scope": token.scope, "delegation_id": token.delegation_id,
            "authorization_details": token.authorization_details,
        });
        Self { status: 200, body: without_nulls(members), token: Some(token) }
    }

    fn refused(refused: &Refused) -> Self {
        let members = json!({
            "error": refused.error, "error_description": refused.error_description, "reason": refused.reason,
            "delegation_id": refused.delegation_id, "ceremony": refused.ceremony,
        });
        Self { status: refused.status, body: without_nulls(members), token: None }
    }

    pub(super) fn token(&self) -> Result<Arc<Token>, Fault> {
        self.token.clone().ok_or_else(|| Fault::new(format!("there is no token: {}", self.presentable())))
    }

    pub(super) fn presentable(&self) -> String {
        format!("status {}: {}", self.status, presentable(&self.body))
    }

    pub(super) fn text(&self, pointer: &str) -> &str {
        text(&self.body, pointer)
    }
}

/// Sends requests to the demo's server.
pub(super) struct Http {
    pub(super) issuer: String,
    client: reqwest::Client,
    detail: Detail,
}

impl Http {
    pub(super) fn new(issuer: String, client: reqwest::Client, detail: Detail) -> Self {
        Self { issuer, client, detail }
    }

    /// The agent as a caller of the management API, with an access token for itself.
    pub(super) async fn caller<'a>(&self, agent: &'a Agent) -> Result<DemoCaller<'a>, Fault> {
        let request = agent.client.client_credentials().audience(&self.issuer);
        Ok(DemoCaller::Agent(agent, self.token(agent, request).await?.token()?))
    }

    /// Sends a token request of an agent.
    pub(super) async fn token(&self, agent: &Agent, request: TokenRequest<'_>) -> Result<Answer, Fault> {
        // A cached token would show nothing of the server.
        let answer = match request.fresh_token().await {
            Ok(token) => Answer::granted(token),
            Err(Error::Refused(refused)) => Answer::refused(&refused),
            Err(error) => return Err(Fault::caused("requesting a token", error)),
        };
        self.detail.raw(format_args!("POST /oauth/token by {}: {}", agent.id, answer.presentable()));
        Ok(answer)
    }

    /// Introspects a token as a client that authenticates with a secret (RFC 7662).
    pub(super) async fn introspect(&self, client: &Agent, token: &Token) -> Result<Answer, Fault> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("token", token.secret());
        let request = self.client.post(format!("{}/oauth/introspect", self.issuer));
        let secret = client.secret.as_deref().unwrap_or_default();
        let request = request.header("authorization", basic(&client.id, secret).as_str());
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        self.send(&client.id, request.body(form.finish())).await
    }

    /// Calls the management API or the vault.
    pub(super) async fn call(&self, caller: &DemoCaller<'_>, call: Call) -> Result<Answer, Fault> {
        let url = format!("{}{}", self.issuer, call.path);
        let request = self.client.request(call.method.clone(), &url);
        let (name, request) = match caller {
            DemoCaller::User(token) => {
                ("the user", request.header("authorization", format!("Bearer {token}")))
            }
            DemoCaller::Agent(agent, token) => {
                let proof = agent.client.proof(call.method.as_str(), &url, Some(token));
                let request = request.header("dpop", proof.context("making a proof")?);
                (agent.id.as_str(), request.header("authorization", format!("DPoP {}", token.secret())))
            }
        };
        let request = match call.body {
            None => request,
            Some(body) => request.header("content-type", "application/json").body(body.to_string()),
        };
        self.send(name, request).await
    }

    async fn send(&self, name: &str, request: reqwest::RequestBuilder) -> Result<Answer, Fault> {
        let request = request.build().context("building a request")?;
        let title = format!("{} {} by {name}", request.method(), request.url().path());
        let response = self.client.execute(request).await.context("calling the server")?;
        let status = response.status().as_u16();
        let text = response.text().await.context("reading an answer")?;
        let body = serde_json::from_str(&text).context(&format!("reading the answer {text}"))?;
        let answer = Answer { status, body, token: None };
        self.detail.raw(format_args!("{title}: {}", answer.presentable()));
        Ok(answer)
    }

    /// Fetches a URL without authentication, as any relying party can.
    pub(super) async fn text(&self, url: &str) -> Result<String, Fault> {
        let response = self.client.get(url).send().await.context("reading a document")?;
        let text = response.text().await.context("reading a document")?;
        let shown = decoded(&text).map(|token| token.to_string());
        self.detail.raw(format_args!("GET {url}: {}", shown.as_ref().unwrap_or(&text)));
        Ok(text)
    }

    /// Fetches a JSON document of the server.
    pub(super) async fn document(&self, url: &str) -> Result<Value, Fault> {
        serde_json::from_str(&self.text(url).await?).context("reading a document")
    }
}

/// Leaves out what the answer did not have.
fn without_nulls(mut body: Value) -> Value {
    if let Value::Object(members) = &mut body {
        members.retain(|_, value| !value.is_null());
    }
    body
}

/// The current time, in seconds since 1970.
pub(super) fn now() -> i64 {
    Clock::System.now().unix_timestamp()
}

/// The claims of a token whose signature is not checked here.
pub(super) fn claims_of(token: &str) -> Map<String, Value> {
    Jws::parse(token).map(|jws| jws.claims).unwrap_or_default()
}

/// A string in a document, empty if absent.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// An array of strings in a document, empty if absent.
pub(super) fn texts<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    let items = value.pointer(pointer).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).collect()
}
