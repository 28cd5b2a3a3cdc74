//! A provider that issues its tokens in exchange for tokens of chains, and an agent that retrieves them.

use serde_json::{Value, json};

use super::Answer;
use super::provider::{Behaviour, CLIENT, Provider, SECRET};
use super::vault::VaultWorld;

/// A vault with the provider `crm`, whose scopes are `files.read` and `files.write`. Alice has connected nothing.
pub struct Brokered {
    pub provider: Provider,
    pub vault: VaultWorld,
    /// The delegations of `user-proxy` and `email-svc`.
    pub delegations: [String; 2],
}

/// Details that name the provider, and limit the scopes.
pub fn crm(scopes: &[&str]) -> Value {
    json!([{"type": "vault_connection", "identifier": "crm", "scopes": scopes}])
}

impl Brokered {
    pub async fn new() -> Self {
        Self::declared("").await
    }

    /// With further members of the declaration.
    pub async fn declared(more: &str) -> Self {
        let provider = Provider::of(Behaviour { refreshes: false, ..Behaviour::default() }).await;
        let vault = VaultWorld::new().await;
        vault.world.server.apply(&manifest(&provider, more)).await.unwrap();
        let details = json!([{"type": "vault_connection", "identifier": "crm"}]);
        let delegations = vault.delegated(details, json!({"expires_in": 30_000})).await;
        Self { provider, vault, delegations }
    }

    /// A token of `email-svc` that names the provider with these scopes.
    pub async fn token(&self, scopes: &[&str]) -> String {
        let [_, token] = self.vault.chain(&crm(scopes)).await;
        token
    }

    pub async fn fetch(&self, scopes: &[&str]) -> Answer {
        self.vault.fetch(&self.token(scopes).await, "crm").await
    }

    /// Alice's connections.
    pub async fn listed(&self) -> Vec<Value> {
        let listed =
            self.vault.world.as_alice("GET", "/api/v1/connections", json!({})).await.with_status(200);
        listed.json["items"].as_array().unwrap().clone()
    }

    pub async fn run_job(&self) {
        let server = &self.vault.world.server;
        actchain::jobs::vault::run_once(&server.app, server.clock.now()).await.unwrap();
    }

    pub async fn events_of(&self, action: &str) -> Vec<Value> {
        let mut events = self.vault.world.server.events().await;
        events.retain(|event| event["action"] == action);
        events
    }
}

/// The declaration of `crm`.
pub fn manifest(provider: &Provider, more: &str) -> String {
    let base = &provider.base;
    format!(
        "providers:\n  - {{id: crm, kind: token_exchange, client_id: {CLIENT:?}, client_secret: {SECRET:?}, \
         issuer: \"{base}\", token_endpoint: \"{base}/token\", revocation_endpoint: \"{base}/revoke\", \
         scopes: [files.read, files.write], hosts: [\"{base}\"]{more}}}\n"
    )
}
