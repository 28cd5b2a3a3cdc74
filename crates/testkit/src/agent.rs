//! A client with its key: proofs and credentials.

use std::sync::atomic::{AtomicU64, Ordering};

use actchain_protocol::jose::{SigningAlg, SigningKey};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::endpoint::Endpoint;

/// A `jti` that is unique in this process.
pub fn fresh_jti() -> String {
    static JTI: AtomicU64 = AtomicU64::new(0);
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

    /// The claims of a valid proof for the token endpoint.
    pub fn proof_claims(&self, server: &dyn Endpoint) -> Value {
        self.proof_claims_at(server, "/oauth/token")
    }

    pub(crate) fn proof_claims_at(&self, server: &dyn Endpoint, path: &str) -> Value {
        let htu = format!("{}{path}", server.issuer());
        json!({"jti": fresh_jti(), "htm": "POST", "htu": htu, "iat": server.now()})
    }

    pub fn proof(&self, server: &dyn Endpoint) -> String {
        self.key.sign_proof("dpop+jwt", &self.proof_claims(server)).unwrap()
    }

    pub fn assertion_claims(&self, server: &dyn Endpoint) -> Value {
        json!({"iss": self.id, "sub": self.id, "aud": server.issuer(), "jti": fresh_jti(), "iat": server.now(),
               "exp": server.now() + 60})
    }

    pub fn assertion(&self, server: &dyn Endpoint) -> String {
        self.key.sign("client-authentication+jwt", &self.assertion_claims(server)).unwrap()
    }
}

pub fn basic(id: &str, secret: &str) -> String {
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encode(id), encode(secret));
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}
