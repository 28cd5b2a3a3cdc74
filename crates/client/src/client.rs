//! The connection to one authorization server as one client.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actchain_protocol::{oauth_client, random};
use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use time::OffsetDateTime;
use url::{Host, Url};

use crate::error::{Error, Refused};
use crate::key::{Key, ProofOf};
use crate::token::Token;

/// Most tokens that the cache has; the least used go first.
const MOST_TOKENS: u64 = 1_000;
/// A cached token is not used in the last seconds before it expires: the request that carries it takes time, and clocks
/// differ.
const RESERVE: time::Duration = time::Duration::seconds(10);
/// Longest response that is read, in bytes.
const MOST_BYTES: usize = 256 * 1024;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Lifetime of a client assertion, in seconds.
const ASSERTION_LIFETIME: i64 = 60;

/// How the client authenticates at the token endpoint. The DPoP proof is sent in addition.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Authentication {
    /// Nothing but the proof: the client is registered with the thumbprint of its key.
    KeyAlone,
    /// A client secret, as `client_secret_basic`.
    Secret(SecretString),
    /// A JWT that the client's key signs, as `private_key_jwt` (RFC 7523 §2.2).
    PrivateKeyJwt,
}

type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// Settings of a client before it is built.
#[must_use = "call `build`"]
pub struct ClientBuilder {
    issuer: String,
    id: String,
    key: Key,
    authentication: Authentication,
    token_endpoint: Option<String>,
    http: reqwest::ClientBuilder,
    clock: Clock,
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientBuilder({} at {})", self.id, self.issuer)
    }
}

impl ClientBuilder {
    /// By default [`Authentication::KeyAlone`].
    pub fn authentication(self, authentication: Authentication) -> Self {
        Self { authentication, ..self }
    }

    /// By default `/oauth/token` below the issuer.
    pub fn token_endpoint(self, url: &str) -> Self {
        Self { token_endpoint: Some(url.to_owned()), ..self }
    }

    /// Settings of the HTTP client, such as root certificates or a proxy. Redirects are never followed, because the
    /// request has credentials.
    pub fn http(self, http: reqwest::ClientBuilder) -> Self {
        Self { http, ..self }
    }

    /// The source of the time. By default the clock of the machine.
    pub fn clock(self, clock: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// # Errors
    /// [`Error::Usage`] if the token endpoint is not an `https` URL, or the settings of the HTTP client cannot be used.
    /// `http` is allowed for this machine only.
    pub fn build(self) -> Result<Client, Error> {
        let endpoint = self
            .token_endpoint
            .unwrap_or_else(|| format!("{}/oauth/token", self.issuer.trim_end_matches('/')));
        let url = Url::parse(&endpoint).map_err(|_| Error::Usage("the token endpoint is not a URL"))?;
        if url.scheme() != "https" && !(url.scheme() == "http" && is_this_machine(&url)) {
            return Err(Error::Usage("the token endpoint is not an https URL"));
        }
        let http = self.http.redirect(reqwest::redirect::Policy::none()).build();
        let http = http.map_err(|_| Error::Usage("the settings of the HTTP client cannot be used"))?;
        Ok(Client(Arc::new(Inner {
            issuer: self.issuer,
            id: self.id,
            key: self.key,
            authentication: self.authentication,
            endpoint,
            http,
            clock: self.clock,
            nonce: Mutex::default(),
            tokens: Cache::new(MOST_TOKENS),
        })))
    }
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An agent at one authorization server. Clones share the nonce and the cache.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    issuer: String,
    id: String,
    key: Key,
    authentication: Authentication,
    endpoint: String,
    http: reqwest::Client,
    clock: Clock,
    /// The newest nonce of the token endpoint (RFC 9449 §8.2).
    nonce: Mutex<Option<String>>,
    tokens: Cache<[u8; 32], Arc<Token>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({} at {})", self.0.id, self.0.issuer)
    }
}

/// A response of the token endpoint.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Client {
    /// A client of the server with this issuer identifier. The key is the one that tokens will be bound to.
    pub fn builder(issuer: &str, client_id: &str, key: Key) -> ClientBuilder {
        ClientBuilder {
            issuer: issuer.to_owned(),
            id: client_id.to_owned(),
            key,
            authentication: Authentication::KeyAlone,
            token_endpoint: None,
            http: reqwest::Client::builder().timeout(TIMEOUT),
            clock: Arc::new(|| {
                #[expect(clippy::disallowed_methods, reason = "the default clock of a client")]
                OffsetDateTime::now_utc()
            }),
        }
    }

    /// A proof for a request to another server, for its header field `DPoP`. Each proof is for one request.
    ///
    /// # Errors
    /// [`Error::Failure`] if the key cannot sign.
    pub fn proof(&self, method: &str, uri: &str, token: Option<&Token>) -> Result<String, Error> {
        let access_token = token.map(|token| &token.access_token);
        self.0.key.proof(&ProofOf { method, uri, access_token, nonce: None }, (self.0.clock)())
    }

    /// The key that tokens are bound to.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.0.issuer
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.0.http
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        (self.0.clock)()
    }

    /// The newest nonce of the server.
    pub(crate) fn nonce(&self) -> Option<String> {
        self.0.nonce.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers a nonce; `false` if it is the one that is known.
    pub(crate) fn remember(&self, nonce: &str) -> bool {
        let mut known = self.0.nonce.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = known.as_deref() != Some(nonce);
        *known = Some(nonce.to_owned());
        is_new
    }

    pub(crate) async fn forget(&self, fingerprint: &[u8; 32]) {
        self.0.tokens.invalidate(fingerprint).await;
    }

    /// The cached token of a request. Calls with the same fingerprint wait for each other.
    pub(crate) async fn cached(
        &self,
        fingerprint: [u8; 32],
        params: &[(&'static str, SecretString)],
    ) -> Result<Arc<Token>, Error> {
        let fresh = |token: &Arc<Token>| token.expires_at - RESERVE > (self.0.clock)();
        if let Some(token) = self.0.tokens.get(&fingerprint).await.filter(fresh) {
            return Ok(token);
        }
        let computed = self
            .0
            .tokens
            .entry(fingerprint)
            .and_try_compute_with(|entry| async move {
                match entry.map(|entry| entry.into_value()).filter(fresh) {
                    Some(_) => Ok(Op::Nop),
                    None => Ok::<_, Error>(Op::Put(Arc::new(self.request(params).await?))),
                }
            })
            .await?;
        match computed {
            CompResult::Inserted(entry)
            | CompResult::ReplacedWith(entry)
            | CompResult::Unchanged(entry)
            | CompResult::Removed(entry) => Ok(entry.into_value()),
            CompResult::StillNone(_) => Err(Error::Response("it has no access token")),
        }
    }

    /// Sends a request, once more if the server demands a nonce.
    async fn request(&self, params: &[(&'static str, SecretString)]) -> Result<Token, Error> {
        let mut repeated = false;
        loop {
            let sent_at = (self.0.clock)();
            let answer = self.send(params, sent_at).await?;
            if answer.status == 200 {
                return Token::read(&answer.body, sent_at);
            }
            let refused = Refused::read(answer.status, &answer.headers, &answer.body)
                .ok_or(Error::Response("it is neither a token nor an error code"))?;
            let demanded = refused.error == "use_dpop_nonce" && answer.headers.contains_key("dpop-nonce");
            if repeated || !demanded {
                return Err(Error::Refused(Box::new(refused)));
            }
            repeated = true;
        }
    }

    /// Sends a request with a new proof and new credentials, and remembers the nonce in the response.
    async fn send(
        &self,
        params: &[(&'static str, SecretString)],
        now: OffsetDateTime,
    ) -> Result<Answer, Error> {
        let Inner { id, key, endpoint, .. } = &*self.0;
        let nonce = self.nonce();
        let request = ProofOf { method: "POST", uri: endpoint, access_token: None, nonce: nonce.as_deref() };
        let mut sent = self.0.http.post(endpoint).header("dpop", key.proof(&request, now)?);
        let mut form: Vec<(&str, &str)> =
            params.iter().map(|(name, value)| (*name, value.expose_secret())).collect();
        let assertion;
        match &self.0.authentication {
            Authentication::KeyAlone => form.push(("client_id", id)),
            Authentication::Secret(secret) => {
                let basic = oauth_client::basic(id, secret.expose_secret());
                let mut value = HeaderValue::from_str(&basic)
                    .map_err(|_| Error::Usage("the client secret cannot be sent"))?;
                value.set_sensitive(true);
                sent = sent.header(AUTHORIZATION, value);
            }
            Authentication::PrivateKeyJwt => {
                assertion = self.assertion(now)?;
                form.push((
                    "client_assertion_type",
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                ));
                form.push(("client_assertion", assertion.expose_secret()));
            }
        }
        let sent = sent
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(oauth_client::form(&form).to_string());
        let mut response = sent.send().await.map_err(Error::Unreachable)?;
        if let Some(nonce) = response.headers().get("dpop-nonce").and_then(|nonce| nonce.to_str().ok()) {
            self.remember(nonce);
        }
        let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(Error::Unreachable)? {
            if body.len() + chunk.len() > MOST_BYTES {
                return Err(Error::Response("it is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body })
    }

    /// RFC 7523 §3. The audience is the issuer, as actchain and FAPI 2.0 demand.
    fn assertion(&self, now: OffsetDateTime) -> Result<SecretString, Error> {
        let Inner { issuer, id, key, .. } = &*self.0;
        let iat = now.unix_timestamp();
        let claims = json!({"iss": id, "sub": id, "aud": issuer, "jti": random::token()?, "iat": iat,
                            "exp": iat + ASSERTION_LIFETIME});
        key.sign("client-authentication+jwt", &claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Presented;

    #[test]
    fn credentials_are_sent_over_tls_or_within_the_machine_only() {
        let build = |issuer: &str| Client::builder(issuer, "a", Key::generate().unwrap()).build();
        for issuer in
            ["https://as.example.com", "http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost"]
        {
            assert!(build(issuer).is_ok(), "{issuer}");
        }
        for issuer in
            ["http://as.example.com", "http://localhost.example.com", "ftp://localhost", "as.example.com"]
        {
            assert!(matches!(build(issuer), Err(Error::Usage(_))), "{issuer}");
        }
    }

    #[test]
    fn debug_output_has_no_secret() {
        let secret = Authentication::Secret(SecretString::from("CANARY"));
        let client =
            Client::builder("https://as.example.com", "a", Key::generate().unwrap()).authentication(secret);
        assert!(!format!("{client:?} {:?}", client.authentication).contains("CANARY"));
        let request = client.build().unwrap();
        let request = request.exchange(Presented::jwt("CANARY")).scope("a");
        assert!(!format!("{request:?}").contains("CANARY"));
    }
}
