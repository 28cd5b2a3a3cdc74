//! A connection at a provider with refresh tokens, and an agent that retrieves its access tokens.

use actchain::domain::vault::{Credential, Tokens};
use serde_json::{Value, json};

use super::Answer;
use super::provider::{CLIENT, Kind, Provider, SECRET};
use super::vault::{VaultWorld, names};

/// Tokens that a provider issued to a user, to be imported into the vault.
pub async fn issued_tokens(provider: &Provider) -> Value {
    let verifier = "a-verifier-that-is-long-enough-for-all-servers-1";
    let challenge = actchain_protocol::oauth_client::challenge(verifier);
    let redirect = "https://elsewhere.example.com/callback";
    let url = format!(
        "{}/authorize?response_type=code&client_id={}&redirect_uri={redirect}&scope=files.read&state=0123456789abcdef0123456789abcdef\
         &code_challenge={challenge}&code_challenge_method=S256",
        provider.base,
        url::form_urlencoded::byte_serialize(CLIENT.as_bytes()).collect::<String>()
    );
    let back = provider.agree(&url).await;
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
        .post(format!("{}/token", provider.base))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", actchain_protocol::oauth_client::basic(CLIENT, SECRET).as_str())
        .body(form)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let tokens: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    json!({"access_token": tokens["access_token"], "refresh_token": tokens["refresh_token"], "expires_in": 100,
           "scope": "files.read"})
}

/// A vault with a connection at a provider; its access token expires in 100 seconds.
pub struct Story {
    pub provider: Provider,
    pub vault: VaultWorld,
    pub id: String,
    pub imported: Value,
}

impl Story {
    pub async fn new() -> Self {
        Self::with(Kind::default(), "").await
    }

    pub async fn with(kind: Kind, config: &str) -> Self {
        Self::of(kind, config, 30_000).await
    }

    /// A story whose delegations are valid for two months.
    pub async fn lasting(kind: Kind) -> Self {
        Self::of(kind, "", 5_000_000).await
    }

    async fn of(kind: Kind, config: &str, life: u32) -> Self {
        let provider = Provider::of(kind).await;
        let vault = VaultWorld::configured(config, "http://127.0.0.1:9/token").await;
        let hosts = provider.base.clone();
        let more = format!("scopes: [files.read], rotates_refresh_tokens: true, hosts: [{hosts:?}]");
        let manifest = provider.manifest("third", &more);
        vault.world.server.apply(&manifest).await.unwrap();
        let imported = issued_tokens(&provider).await;
        let id = vault.connected("third", imported.clone()).await;
        vault.delegated(names(&id), json!({"expires_in": life})).await;
        Self { provider, vault, id, imported }
    }

    pub async fn token(&self) -> String {
        let [_, token] = self.vault.chain(&names(&self.id)).await;
        token
    }

    pub async fn shown(&self) -> Value {
        self.vault.world.as_alice("GET", &format!("/api/v1/connections/{}", self.id), json!({})).await.json
    }

    /// The access token that a retrieval returns now.
    pub async fn fetched(&self) -> String {
        let answer = self.vault.fetch(&self.token().await, &self.id).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["access_token"].as_str().unwrap().to_owned()
    }

    pub fn pass(&self, seconds: i64) {
        self.vault.world.server.pass(seconds);
    }

    pub async fn stored(&self) -> Tokens {
        let mut sql = self.vault.world.server.sql().await;
        let opened = self.vault.world.server.app.vault.open(&mut sql, &self.id).await.unwrap().unwrap();
        let Credential::Oauth2(tokens) = &opened.credential else { panic!("no tokens") };
        tokens.clone()
    }

    /// The response to an agent's retrieval now.
    pub async fn fetch(&self) -> Answer {
        self.vault.fetch(&self.token().await, &self.id).await
    }
}
