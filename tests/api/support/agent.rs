//! An independent client: has a key, makes proofs, sends forms.

use std::sync::atomic::{AtomicU64, Ordering};

use actchain_protocol::jose::{SigningAlg, SigningKey};
use base64::Engine as _;
use serde_json::{Value, json};

use super::{Answer, Server};

static JTI: AtomicU64 = AtomicU64::new(0);

/// A `jti` that is unique in this process.
pub fn fresh_jti() -> String {
    format!("jti-{}", JTI.fetch_add(1, Ordering::SeqCst))
}

pub const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
pub const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
pub const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// How an agent authenticates.
#[derive(Debug, Clone)]
pub enum Auth {
    Basic(String),
    Post(String),
    Assertion,
    None,
}

/// A client with its key.
#[derive(Debug, Clone)]
pub struct Agent {
    pub id: String,
    pub key: SigningKey,
    pub auth: Auth,
}

impl Agent {
    pub fn new(id: &str, auth: Auth) -> Self {
        Self { id: id.to_owned(), key: SigningKey::generate(SigningAlg::ES256).unwrap().0, auth }
    }

    pub fn jkt(&self) -> &str {
        self.key.kid()
    }

    /// The claims of a valid proof.
    pub fn proof_claims(&self, server: &Server) -> Value {
        self.proof_claims_at(server, "/oauth/token")
    }

    fn proof_claims_at(&self, server: &Server, path: &str) -> Value {
        let htu = format!("{}{path}", server.app.issuer);
        json!({"jti": fresh_jti(), "htm": "POST", "htu": htu, "iat": server.now()})
    }

    pub fn proof(&self, server: &Server) -> String {
        self.key.sign_proof("dpop+jwt", &self.proof_claims(server)).unwrap()
    }

    pub fn assertion_claims(&self, server: &Server) -> Value {
        json!({"iss": self.id, "sub": self.id, "aud": server.app.issuer, "jti": fresh_jti(), "iat": server.now(),
               "exp": server.now() + 60})
    }

    pub fn assertion(&self, server: &Server) -> String {
        self.key.sign("client-authentication+jwt", &self.assertion_claims(server)).unwrap()
    }

    /// A token request with credentials and a proof.
    pub fn request<'a>(&'a self, server: &'a Server) -> Request<'a> {
        self.at(server, "/oauth/token")
    }

    /// A request with credentials and a proof to one of the OAuth endpoints.
    pub fn at<'a>(&'a self, server: &'a Server, path: &'static str) -> Request<'a> {
        let proof = self.key.sign_proof("dpop+jwt", &self.proof_claims_at(server, path)).unwrap();
        let mut request = Request { path, ..Request::to(server) }.header("dpop", proof);
        match &self.auth {
            Auth::Basic(secret) => request = request.header("authorization", basic(&self.id, secret)),
            Auth::Post(secret) => {
                request = request.param("client_id", &self.id).param("client_secret", secret)
            }
            Auth::Assertion => {
                request = request
                    .param("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
                    .param("client_assertion", &self.assertion(server));
            }
            Auth::None => request = request.param("client_id", &self.id),
        }
        request
    }

    /// An exchange of a subject token.
    pub fn exchange<'a>(&'a self, server: &'a Server, token: &str, kind: &str) -> Request<'a> {
        self.request(server)
            .param("grant_type", EXCHANGE)
            .param("subject_token", token)
            .param("subject_token_type", kind)
    }
}

pub fn basic(id: &str, secret: &str) -> String {
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encode(id), encode(secret));
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// A token request before it is sent.
#[derive(Clone)]
pub struct Request<'a> {
    server: &'a Server,
    path: &'static str,
    pub params: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
}

impl<'a> Request<'a> {
    pub fn to(server: &'a Server) -> Self {
        Self { server, path: "/oauth/token", params: Vec::new(), headers: Vec::new() }
    }

    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.params.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.params.retain(|(param, _)| param != name);
        self.headers.retain(|(header, _)| header != name);
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn set(self, name: &str, value: &str) -> Self {
        self.without(name).param(name, value)
    }

    pub fn set_header(self, name: &str, value: impl Into<String>) -> Self {
        self.without(name).header(name, value)
    }

    pub fn body(&self) -> String {
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.params).finish()
    }

    pub async fn send(self) -> Answer {
        let body = self.body();
        self.send_raw(body.into_bytes()).await
    }

    pub async fn send_raw(self, body: Vec<u8>) -> Answer {
        let mut request = super::http()
            .post(format!("{}{}", self.server.base, self.path))
            .header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Answer::read(request.body(body).send().await.unwrap()).await
    }
}
