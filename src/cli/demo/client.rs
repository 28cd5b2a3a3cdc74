//! The demo's agents and users as HTTP clients, with DPoP proofs (RFC 9449).

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::detail::{Detail, decoded, presentable};
use crate::platform::clock::Clock;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::digest::sha256;
use actchain_protocol::jose::{Jws, SigningAlg, SigningKey};
use actchain_protocol::token_exchange::GRANT_TYPE;
use actchain_protocol::{base64url, random};

/// A client with its key, and its secret if it authenticates with a secret.
pub(super) struct Agent {
    pub(super) id: String,
    pub(super) key: SigningKey,
    pub(super) secret: Option<String>,
}

impl Agent {
    /// Authenticates with its registered key.
    pub(super) fn with_key(id: &str) -> Result<Self, Fault> {
        Ok(Self { id: id.to_owned(), key: SigningKey::generate(SigningAlg::ES256)?.0, secret: None })
    }

    /// Authenticates with a client secret.
    pub(super) fn with_secret(id: &str) -> Result<Self, Fault> {
        Ok(Self { secret: Some(random::token()?), ..Self::with_key(id)? })
    }
}

/// A token that an exchange starts from.
#[derive(Clone)]
pub(super) struct SubjectToken {
    pub(super) token: String,
    token_type: &'static str,
}

impl SubjectToken {
    /// A token of the users' identity provider.
    pub(super) fn jwt(token: String) -> Self {
        Self { token, token_type: "urn:ietf:params:oauth:token-type:jwt" }
    }

    /// An access token of the demo's server.
    pub(super) fn access_token(token: String) -> Self {
        Self { token, token_type: "urn:ietf:params:oauth:token-type:access_token" }
    }

    pub(super) fn claims(&self) -> Map<String, Value> {
        claims_of(&self.token)
    }
}

/// The caller at the management API or the vault, with its access token.
pub(super) enum Caller<'a> {
    /// A user with a token of its own issuer.
    User(&'a str),
    /// An agent with an access token bound to its key.
    Agent(&'a Agent, String),
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

    pub(super) fn json(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Answer {
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

    /// Exchanges a token as an agent (RFC 8693).
    pub(super) async fn exchange(
        &self,
        agent: &Agent,
        subject: &SubjectToken,
        wanted: &[(&str, &str)],
    ) -> Result<Answer, Fault> {
        let subject = [
            ("grant_type", GRANT_TYPE),
            ("subject_token", subject.token.as_str()),
            ("subject_token_type", subject.token_type),
        ];
        self.token_request(agent, &[&subject[..], wanted].concat()).await
    }

    /// The agent as a caller of the management API, with an access token for itself.
    pub(super) async fn caller<'a>(&self, agent: &'a Agent) -> Result<Caller<'a>, Fault> {
        let wanted = [("grant_type", "client_credentials"), ("audience", self.issuer.as_str())];
        let answer = self.token_request(agent, &wanted).await?;
        Ok(Caller::Agent(agent, answer.text("/access_token").to_owned()))
    }

    async fn token_request(&self, agent: &Agent, params: &[(&str, &str)]) -> Result<Answer, Fault> {
        let url = format!("{}/oauth/token", self.issuer);
        let proof = Proof { method: &Method::POST, url: &url, access_token: None }.sign(&agent.key)?;
        self.form(agent, params, self.client.post(&url).header("dpop", proof)).await
    }

    /// Introspects a token as a client that authenticates with a secret (RFC 7662).
    pub(super) async fn introspect(&self, client: &Agent, token: &str) -> Result<Answer, Fault> {
        let request = self.client.post(format!("{}/oauth/introspect", self.issuer));
        self.form(client, &[("token", token)], request).await
    }

    async fn form(
        &self,
        client: &Agent,
        params: &[(&str, &str)],
        request: reqwest::RequestBuilder,
    ) -> Result<Answer, Fault> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(params).append_pair("client_id", &client.id);
        if let Some(secret) = &client.secret {
            form.append_pair("client_secret", secret);
        }
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        self.send(&client.id, request.body(form.finish())).await
    }

    /// Calls the management API or the vault.
    pub(super) async fn call(&self, caller: &Caller<'_>, call: Call) -> Result<Answer, Fault> {
        let url = format!("{}{}", self.issuer, call.path);
        let request = self.client.request(call.method.clone(), &url);
        let (name, request) = match caller {
            Caller::User(token) => ("the user", request.header("authorization", format!("Bearer {token}"))),
            Caller::Agent(agent, token) => {
                let target = url.split('?').next().unwrap_or_default();
                let proof = Proof { method: &call.method, url: target, access_token: Some(token) };
                let request = request.header("dpop", proof.sign(&agent.key)?);
                (agent.id.as_str(), request.header("authorization", format!("DPoP {token}")))
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
        let answer = Answer { status, body };
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

/// The request that a DPoP proof is for, and the access token in it (RFC 9449 §4.2).
struct Proof<'a> {
    method: &'a Method,
    url: &'a str,
    access_token: Option<&'a str>,
}

impl Proof<'_> {
    fn sign(&self, key: &SigningKey) -> Result<String, Fault> {
        let jti = random::token()?;
        let mut claims = json!({"jti": jti, "htm": self.method.as_str(), "htu": self.url, "iat": now()});
        if let (Some(token), Value::Object(claims)) = (self.access_token, &mut claims) {
            claims.insert("ath".into(), json!(base64url::encode(sha256(&[token.as_bytes()]))));
        }
        Ok(key.sign_proof("dpop+jwt", &claims)?)
    }
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
