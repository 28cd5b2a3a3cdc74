//! A third party: an authorization server on port 0 with authorization codes and PKCE, refresh tokens that may rotate,
//! and revocation. It counts requests, stores every secret that it issues, and fails on demand.

mod behaviour;
mod server;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use actchain_protocol::oauth_client::{basic, challenge};
use actix_web::dev::ServerHandle;
use serde_json::{Value, json};
use tokio::sync::watch;
use url::Url;

pub use self::behaviour::{After, Asked, Behaviour, CLIENT, ClientAuth, Gate, Rework, SECRET, Said, Wrong};
use self::server::ProviderState;

/// A running authorization server of a third party.
pub struct Provider {
    pub base: String,
    state: Arc<ProviderState>,
    handle: ServerHandle,
}

impl Provider {
    pub async fn start() -> Self {
        Self::of(Behaviour::default()).await
    }

    pub async fn of(kind: Behaviour) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (kind, books) = (Mutex::new(kind), Mutex::default());
        let state =
            Arc::new(ProviderState { base: base.clone(), kind, books, requests: watch::Sender::new(()) });
        let handle = server::start(listener, &state);
        Self { base, state, handle }
    }

    /// The manifest with this provider id; `more` are further members, such as `scopes: [a, b]`.
    pub fn manifest(&self, id: &str, more: &str) -> String {
        let auth = self.state.kind.lock().unwrap().auth;
        let client = match auth {
            ClientAuth::Basic => {
                format!("client_secret: {SECRET:?}, token_endpoint_auth: client_secret_basic")
            }
            ClientAuth::Post => format!("client_secret: {SECRET:?}, token_endpoint_auth: client_secret_post"),
            ClientAuth::None => "token_endpoint_auth: none".to_owned(),
        };
        let base = &self.base;
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        format!(
            "providers:\n  - {{id: {id}, client_id: {CLIENT:?}, {client}, \
             authorization_endpoint: \"{base}/authorize\", token_endpoint: \"{base}/token\", \
             revocation_endpoint: \"{base}/revoke\"{more}}}\n"
        )
    }

    /// Changes the behaviour of the provider.
    pub fn becomes(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.kind.lock().unwrap());
    }

    /// Plays the browser at the authorization URL: the user agrees; returns the URL of the redirect.
    pub async fn agree(&self, authorization_url: &str) -> Url {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let answer = client.get(authorization_url).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 302, "{}", answer.text().await.unwrap());
        Url::parse(answer.headers()["location"].to_str().unwrap()).unwrap()
    }

    /// Injects a fault into the next request of this kind; several faults are used in turn.
    pub fn once(&self, asked: Asked, wrong: Wrong) {
        self.state.books().plans.entry(asked).or_default().push_back(wrong);
    }

    /// Injects a fault into every request of this kind from now on.
    pub fn always(&self, asked: Asked, wrong: Wrong) {
        self.state.books().always.insert(asked, wrong);
    }

    /// Removes all injected faults.
    pub fn behaves(&self) {
        let mut books = self.state.books();
        books.plans.clear();
        books.always.clear();
    }

    /// The number of requests of this kind.
    pub fn count(&self, asked: Asked) -> usize {
        self.state.books().counts.get(&asked).copied().unwrap_or_default()
    }

    /// Waits until there were this many requests of this kind.
    pub async fn asked(&self, asked: Asked, times: usize) {
        let mut requests = self.state.requests.subscribe();
        while self.count(asked) < times {
            requests.changed().await.unwrap();
        }
    }

    /// The maximum of concurrent requests at the token endpoint.
    pub fn busiest(&self) -> usize {
        self.state.books().busiest
    }

    /// The user revokes all grants: every refresh token is invalid.
    pub fn end_everything(&self) {
        let mut books = self.state.books();
        let families: Vec<u64> = books.refresh.values().map(|grant| grant.family).collect();
        books.ended.extend(families);
    }

    /// Whether the provider's API accepts an access token.
    pub fn honours(&self, access_token: &str) -> bool {
        let books = self.state.books();
        books.access.get(access_token).is_some_and(|family| !books.ended.contains(family))
    }

    /// Invalidates an access token before its expiry; its grant stays valid.
    pub fn forget(&self, access_token: &str) {
        self.state.books().access.remove(access_token).unwrap();
    }

    /// The access token that was issued last.
    pub fn newest(&self) -> Option<String> {
        self.state.books().newest.clone()
    }

    /// The tokens in revocation requests, in order, whatever the result.
    pub fn revocation_requests(&self) -> Vec<String> {
        self.state.books().revocation_requests.clone()
    }

    /// The revoked tokens, in order.
    pub fn revoked(&self) -> Vec<String> {
        self.state.books().revoked.clone()
    }

    /// The parameters of all requests at the token endpoint, without those of the `Authorization` field.
    pub fn asked_for(&self) -> Vec<BTreeMap<String, String>> {
        self.state.books().asked_for.clone()
    }

    /// Every code and token that was issued: none of them may appear in any output.
    pub fn secrets(&self) -> Vec<String> {
        self.state.books().issued.clone()
    }

    /// Tokens that a provider issued to a user, to be imported into the vault.
    pub async fn issued_tokens(&self) -> Value {
        let verifier = "a-verifier-that-is-long-enough-for-all-servers-1";
        let challenge = challenge(verifier);
        let redirect = "https://elsewhere.example.com/callback";
        let url = format!(
            "{}/authorize?response_type=code&client_id={}&redirect_uri={redirect}&scope=files.read&state=0123456789abcdef0123456789abcdef\
             &code_challenge={challenge}&code_challenge_method=S256",
            self.base,
            url::form_urlencoded::byte_serialize(CLIENT.as_bytes()).collect::<String>()
        );
        let back = self.agree(&url).await;
        let code = back.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
        let form = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("grant_type", "authorization_code"),
                ("code", &code),
                ("redirect_uri", redirect),
                ("code_verifier", verifier),
            ])
            .finish();
        let answer = reqwest::Client::new()
            .post(format!("{}/token", self.base))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("authorization", basic(CLIENT, SECRET).as_str())
            .body(form)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let tokens: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        json!({"access_token": tokens["access_token"], "refresh_token": tokens["refresh_token"], "expires_in": 100,
               "scope": "files.read"})
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}
