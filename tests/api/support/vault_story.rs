//! A connection at a provider with refresh tokens, and an agent that retrieves its access tokens.

use actchain::domain::vault::{Credential, ProviderTokens};
use serde_json::{Value, json};

use super::Answer;
use super::provider::{Behaviour, Provider};
use super::vault::{VaultWorld, names};

/// A vault with a connection at a provider; its access token expires in 100 seconds.
pub struct Story {
    pub provider: Provider,
    pub vault: VaultWorld,
    pub id: String,
    pub imported: Value,
}

impl Story {
    pub async fn new() -> Self {
        Self::with(Behaviour::default(), "").await
    }

    pub async fn with(kind: Behaviour, config: &str) -> Self {
        Self::of(kind, config, 30_000).await
    }

    /// A story whose delegations are valid for two months.
    pub async fn lasting(kind: Behaviour) -> Self {
        Self::of(kind, "", 5_000_000).await
    }

    async fn of(kind: Behaviour, config: &str, life: u32) -> Self {
        let provider = Provider::of(kind).await;
        let vault = VaultWorld::configured(config, "http://127.0.0.1:9/token").await;
        let hosts = provider.base.clone();
        let more = format!("scopes: [files.read], hosts: [{hosts:?}]");
        let manifest = provider.manifest("third", &more);
        vault.world.server.apply(&manifest).await.unwrap();
        let imported = provider.issued_tokens().await;
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
        let answer = self.vault.fetch(&self.token().await, &self.id).await.with_status(200);
        answer.json["access_token"].as_str().unwrap().to_owned()
    }

    pub fn pass(&self, seconds: i64) {
        self.vault.world.server.pass(seconds);
    }

    pub async fn stored(&self) -> ProviderTokens {
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
