//! Calls of the management API (`/delegate`, `/agents`, `/api/v1`) as users, agents and administrators make them.

pub use actchain_testkit::api::Api;
use serde_json::{Value, json};

use super::Answer;
use super::agent::Agent;
use super::world::World;

impl World {
    /// An access token of a client for the management API.
    pub async fn management_token(&self, agent: &Agent) -> String {
        let answer = agent
            .request(&self.server)
            .param("grant_type", "client_credentials")
            .param("audience", &self.server.app.issuer)
            .send()
            .await
            .with_status(200);
        answer.token().to_owned()
    }

    /// A token of another user of Alice's issuer.
    pub fn token_of(&self, sub: &str) -> String {
        self.user_token_with(|claims| claims["sub"] = json!(sub))
    }

    pub async fn as_alice(&self, method: &str, path: &str, body: Value) -> Answer {
        Api::new(&self.server, method, path).json(&body).user(&self.user_token()).send().await
    }

    pub async fn as_user(&self, sub: &str, method: &str, path: &str, body: Value) -> Answer {
        Api::new(&self.server, method, path).json(&body).user(&self.token_of(sub)).send().await
    }

    pub async fn as_agent(&self, agent: &Agent, method: &str, path: &str, body: Value) -> Answer {
        let token = self.management_token(agent).await;
        Api::new(&self.server, method, path).json(&body).client(agent, &token).send().await
    }

    pub async fn as_admin(&self, method: &str, path: &str, body: Value) -> Answer {
        self.as_agent(&self.admin, method, path, body).await
    }

    /// The export of the log, as an administrator.
    pub async fn export(&self, query: &str) -> Answer {
        let path = format!("/api/v1/audit-logs/export?{query}");
        let token = self.management_token(&self.admin).await;
        Api::get(&self.server, &path).client(&self.admin, &token).send().await.with_status(200)
    }

    /// Whether introspection by a resource server says that the token is active.
    pub async fn is_active(&self, token: &str) -> bool {
        let answer = self.introspect(&self.mail_server, token).await.with_status(200);
        answer.json["active"].as_bool().unwrap()
    }

    pub async fn introspect(&self, by: &Agent, token: &str) -> Answer {
        self.server.introspect(by, token).await
    }

    /// The status of a token in the status list: 0, 1 or 2.
    pub async fn status_of(&self, token: &str) -> u8 {
        self.server.listed(token).await
    }
}
