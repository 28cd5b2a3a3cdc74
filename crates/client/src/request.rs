//! Token requests: what is asked of the server.

use std::sync::Arc;

use actchain_protocol::digest::sha256;
use actchain_protocol::token_exchange::{GRANT_TYPE, TokenType};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use crate::client::Client;
use crate::error::Error;
use crate::token::Token;

/// A token that is presented for an exchange, with its type (RFC 8693 §3). `Debug` does not show the token.
#[derive(Debug, Clone)]
pub struct Presented {
    token: SecretString,
    kind: TokenType,
}

impl Presented {
    /// A JWT of a trusted issuer, such as a user's access token.
    pub fn jwt(token: &str) -> Self {
        Self { token: SecretString::from(token), kind: TokenType::Jwt }
    }

    /// An ID token of a trusted issuer.
    pub fn id_token(token: &str) -> Self {
        Self { token: SecretString::from(token), kind: TokenType::IdToken }
    }

    /// An access token that the same server issued: the next hop of a chain. Or an opaque token of an issuer that introspects
    /// its tokens.
    pub fn access_token(token: &str) -> Self {
        Self { token: SecretString::from(token), kind: TokenType::AccessToken }
    }
}

/// A token request before it is sent. What is not set is not restricted by the request: the server issues as much as
/// it allows.
#[derive(Debug, Clone)]
#[must_use = "a request is sent by `token` or `fresh_token`"]
pub struct TokenRequest<'a> {
    client: &'a Client,
    /// All parameters except the client's credentials. Some are tokens.
    params: Vec<(&'static str, SecretString)>,
}

impl Client {
    /// A token to act for the subject of another token (RFC 8693).
    pub fn exchange(&self, subject: Presented) -> TokenRequest<'_> {
        let request = TokenRequest { client: self, params: Vec::new() }.with("grant_type", GRANT_TYPE);
        request.presenting("subject_token", subject)
    }

    /// A token to act for the user of an earlier exchange, without a token of the user (RFC 6749 §6). `refresh_token` is
    /// [`Token::refresh_token`] of that exchange, bound to the same key. Where the error is `invalid_grant`, forget it.
    pub fn refresh(&self, refresh_token: &SecretString) -> TokenRequest<'_> {
        let request = TokenRequest { client: self, params: Vec::new() }.with("grant_type", "refresh_token");
        request.with("refresh_token", refresh_token.expose_secret())
    }

    /// A token to act for the client itself (RFC 6749 §4.4).
    pub fn client_credentials(&self) -> TokenRequest<'_> {
        TokenRequest { client: self, params: Vec::new() }.with("grant_type", "client_credentials")
    }
}

impl TokenRequest<'_> {
    /// A resource server that will accept the token, by its registered name. May be repeated.
    pub fn audience(self, name: &str) -> Self {
        self.with("audience", name)
    }

    /// A resource server that will accept the token, by its URI (RFC 8707). May be repeated.
    pub fn resource(self, uri: &str) -> Self {
        self.with("resource", uri)
    }

    /// The requested scopes, separated by spaces.
    pub fn scope(self, scope: &str) -> Self {
        self.with("scope", scope)
    }

    /// The delegation to use, if several allow the exchange.
    pub fn delegation_id(self, id: &str) -> Self {
        self.with("delegation_id", id)
    }

    /// Your name for the piece of work that begins with this exchange. It keeps tasks apart that run at the same time.
    pub fn session_id(self, name: &str) -> Self {
        self.with("session_id", name)
    }

    /// The issuer of an access token that names none, if several issuers introspect their tokens.
    pub fn subject_issuer(self, iss: &str) -> Self {
        self.with("subject_issuer", iss)
    }

    /// The token of the acting party, if that is not the client itself.
    pub fn actor_token(self, actor: Presented) -> Self {
        self.presenting("actor_token", actor)
    }

    /// Authorization details (RFC 9396 §2): an array of objects with a `type`.
    pub fn authorization_details(self, details: &Value) -> Self {
        self.with("authorization_details", &details.to_string())
    }

    /// The highest capability that the token may be used for.
    pub fn capability_ceiling(self, capability: &str) -> Self {
        self.with("capability_ceiling", capability)
    }

    /// The token for this request: from the cache, or from the server if the cache has none or its token expires soon.
    /// Of several equal requests at once, one goes to the server.
    ///
    /// A cached token may have been revoked meanwhile. If a resource server refuses it, call
    /// [`fresh_token`](Self::fresh_token).
    ///
    /// # Errors
    /// [`Error::Refused`] is final for this request, except where it has `retry_after`. Refusals are not cached.
    pub async fn token(self) -> Result<Arc<Token>, Error> {
        self.client.cached(self.fingerprint(), &self.params).await
    }

    /// As [`token`](Self::token), always from the server. The cache has the new token afterwards.
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub async fn fresh_token(self) -> Result<Arc<Token>, Error> {
        self.client.forget(&self.fingerprint()).await;
        self.token().await
    }

    /// Identifies equal requests: SHA-256 of each name and value with its length.
    fn fingerprint(&self) -> [u8; 32] {
        let parts =
            self.params.iter().flat_map(|(name, value)| [name.as_bytes(), value.expose_secret().as_bytes()]);
        let lengths: Vec<[u8; 8]> = parts.clone().map(|part| (part.len() as u64).to_be_bytes()).collect();
        let all: Vec<&[u8]> =
            lengths.iter().zip(parts).flat_map(|(length, part)| [&length[..], part]).collect();
        sha256(&all)
    }

    /// `subject_token` or `actor_token`, with the type beside it.
    fn presenting(self, name: &'static str, presented: Presented) -> Self {
        let kind = if name == "actor_token" { "actor_token_type" } else { "subject_token_type" };
        let mut request = self.with(kind, presented.kind.urn());
        request.params.push((name, presented.token));
        request
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.params.push((name, SecretString::from(value)));
        self
    }
}
