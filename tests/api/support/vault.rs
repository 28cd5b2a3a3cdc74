//! Alice's connections in the vault, and chains of agents that retrieve their credentials.

use serde_json::{Value, json};

use super::Answer;
use super::agent::{ACCESS_TOKEN, Agent, JWT};
use super::management::Api;
use super::world::{IDP, MAIL, World};

/// A world whose agents may use the vault, with providers of three kinds.
pub struct VaultWorld {
    pub world: World,
}

impl World {
    /// Creates a connection of Alice; returns its id.
    pub async fn connected(&self, provider: &str, credential: Value) -> String {
        let body = json!({"provider": provider, "credential": credential});
        self.as_alice("POST", "/api/v1/connections", body).await.with_status(201).id()
    }
}

impl VaultWorld {
    pub async fn new() -> Self {
        Self::configured("", "http://127.0.0.1:9/token").await
    }

    /// With the token endpoint of the provider `acme`.
    pub async fn configured(config: &str, token_endpoint: &str) -> Self {
        let world = World::configured(config).await;
        let issuer = &world.server.app.issuer;
        let yaml = format!(
            r#"
providers:
  - {{id: keys, kind: api_key, header: x-api-key, hosts: [api.keys.example.com]}}
  - {{id: logins, kind: basic}}
  - {{id: acme, token_endpoint: "{token_endpoint}", client_id: actchain-at-acme, client_secret: acme-client-secret-1,
     scopes: [files.read, files.write]}}
clients:
  - {{id: user-proxy, kind: agent, name: User proxy, auth: private_key_jwt, jwks: {{keys: [{proxy}]}},
     scopes: [mail.read, mail.send, calendar.read, both], audiences: ["{MAIL}", "{issuer}"],
     authorization_details_types: [mailbox, vault_connection], grant_types: [client_credentials, token-exchange]}}
  - {{id: email-svc, kind: agent, name: E-mail, auth: client_secret_basic, secret: email-svc-secret-0123456789,
     scopes: [mail.read, mail.send, both], audiences: ["{MAIL}", "{issuer}"],
     authorization_details_types: [vault_connection], grant_types: [client_credentials, token-exchange]}}
"#,
            proxy = world.user_proxy.key.public_jwk(),
        );
        world.server.apply(&yaml).await.unwrap();
        // Delegation D allows everything; in these tests, each connection has its own delegation.
        assert_eq!(world.as_alice("POST", "/delegate/D/revoke", json!({})).await.status, 200);
        Self { world }
    }

    /// Creates a connection of Alice.
    pub async fn connected(&self, provider: &str, credential: Value) -> String {
        self.world.connected(provider, credential).await
    }

    pub async fn api_key(&self) -> String {
        self.connected("keys", json!({"key": "the-api-key-of-alice"})).await
    }

    /// Alice delegates some of her connections to `user-proxy`, which delegates them to `email-svc`.
    pub async fn delegated(&self, details: Value, more: Value) -> [String; 2] {
        let issuer = &self.world.server.app.issuer;
        let mut body =
            json!({"delegate": "user-proxy", "audiences": [issuer, MAIL], "authorization_details": details});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let root = self.world.as_alice("POST", "/delegate", body).await.with_status(201);
        let root = root.json["id"].as_str().unwrap().to_owned();
        let body = json!({"delegate": "email-svc", "parent": root});
        let child =
            self.world.as_agent(&self.world.user_proxy, "POST", "/delegate", body).await.with_status(201);
        [root, child.json["id"].as_str().unwrap().to_owned()]
    }

    /// Exchanges a token for a token for the vault, with these details.
    pub async fn hop(&self, agent: &Agent, (token, kind): (&str, &str), details: &Value) -> Answer {
        let issuer = &self.world.server.app.issuer;
        let request = agent.exchange(&self.world.server, token, kind).param("audience", issuer);
        request.param("authorization_details", &details.to_string()).send().await
    }

    /// Tokens of both hops that name these details.
    pub async fn chain(&self, details: &Value) -> [String; 2] {
        let first =
            self.hop(&self.world.user_proxy, (&self.world.user_token(), JWT), details).await.with_status(200);
        let second =
            self.hop(&self.world.email_svc, (first.token(), ACCESS_TOKEN), details).await.with_status(200);
        [first.token().to_owned(), second.token().to_owned()]
    }

    /// A connection, with delegations that name it and tokens of both hops.
    pub async fn granted(&self, connection: &str) -> ([String; 2], [String; 2]) {
        let details = names(connection);
        let delegations = self.delegated(details.clone(), json!({})).await;
        (delegations, self.chain(&details).await)
    }

    pub fn fetching(&self, token: &str, connection: &str) -> Api<'_> {
        let path = format!("/vault/connections/{connection}/token");
        Api::post(&self.world.server, &path, json!({})).client(&self.world.email_svc, token)
    }

    /// The response to a retrieval by `email-svc` with a token.
    pub async fn fetch(&self, token: &str, connection: &str) -> Answer {
        self.fetching(token, connection).send().await
    }

    /// The events of the vault, oldest first.
    pub async fn vault_events(&self) -> Vec<Value> {
        let mut events = self.world.server.events().await;
        let of_connections = |action: &str| action.starts_with("vault.") && action != "vault.key_rotated";
        events.retain(|event| event["action"].as_str().is_some_and(of_connections));
        events
    }
}

/// Details that name a connection.
pub fn names(connection: &str) -> Value {
    json!([{"type": "vault_connection", "identifier": connection}])
}

pub fn alice() -> Value {
    json!({"iss": IDP, "sub": "alice"})
}
