//! Calls of everything that is not a form: the management API, the vault, documents.

use actchain_protocol::base64url;
use actchain_protocol::digest::sha256;
use serde_json::{Value, json};

use crate::agent::{Agent, fresh_jti};
use crate::answer::Answer;
use crate::endpoint::{Endpoint, http};

/// A call before it is sent.
#[derive(Clone)]
pub struct Api<'a> {
    server: &'a dyn Endpoint,
    method: reqwest::Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl<'a> Api<'a> {
    pub fn new(server: &'a dyn Endpoint, method: &str, path: &str) -> Self {
        Self {
            server,
            method: method.parse().unwrap(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn get(server: &'a dyn Endpoint, path: &str) -> Self {
        Self::new(server, "GET", path)
    }

    pub fn post(server: &'a dyn Endpoint, path: &str, body: Value) -> Self {
        Self::new(server, "POST", path).json(&body)
    }

    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string().into_bytes()).header("content-type", "application/json")
    }

    pub fn raw(self, body: &str) -> Self {
        self.body(body.as_bytes().to_vec())
    }

    pub(crate) fn body(self, body: Vec<u8>) -> Self {
        Self { body: Some(body), ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an idempotency key.
    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// As a user, with a token of its own issuer.
    pub fn user(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// The claims of a valid proof for an access token.
    pub fn proof_claims(&self, token: &str) -> Value {
        let path = self.path.split('?').next().unwrap();
        json!({"jti": fresh_jti(), "htm": self.method.as_str(), "htu": format!("{}{path}", self.server.issuer()),
               "iat": self.server.now(), "ath": base64url::encode(sha256(&[token.as_bytes()]))})
    }

    /// As a client of this server, with its access token and its key.
    pub fn client(self, agent: &Agent, token: &str) -> Self {
        let proof = agent.key.sign_proof("dpop+jwt", &self.proof_claims(token)).unwrap();
        self.header("authorization", &format!("DPoP {token}")).header("dpop", &proof)
    }

    /// The request without a body as text, for HTTP versions that no client library supports.
    pub fn text(&self, version: &str, more: &str) -> String {
        let fields: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let base = self.server.base();
        let host = base.split_once("://").map_or(base, |(_, host)| host);
        format!("{} {} {version}\r\nHost: {host}\r\n{fields}{more}\r\n", self.method, self.path)
    }

    /// The request as the bytes of HTTP/1.1.
    pub fn bytes(&self) -> Vec<u8> {
        let body = self.body.as_deref().unwrap_or_default();
        let head = self.text("HTTP/1.1", &format!("content-length: {}\r\n", body.len()));
        [head.as_bytes(), body].concat()
    }

    pub async fn send(self) -> Answer {
        self.send_to(self.server.base()).await.unwrap()
    }

    /// Sends the request to another server with the same issuer.
    ///
    /// # Errors
    /// If there is no whole response.
    pub async fn send_to(&self, base: &str) -> Result<Answer, reqwest::Error> {
        let mut request = http().request(self.method.clone(), format!("{base}{}", self.path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        Answer::of(request.send().await?).await
    }
}
