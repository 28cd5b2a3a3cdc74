//! Operations on delegations.

pub use actchain_testkit::answer::instant;
use serde_json::{Value, json};

use super::agent::{Agent, Auth, JWT, Request};
use super::management::Api;
use super::world::{CALENDAR, IDP, MAIL, World};
use super::{Answer, Server};

/// One object with the members of both.
pub fn with(mut one: Value, more: Value) -> Value {
    one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    one
}

/// A report of this many steps.
pub fn steps(count: impl TryInto<usize>) -> Value {
    let count = count.try_into().unwrap_or_else(|_| panic!("a number of steps"));
    json!({"steps": vec![json!({"tool": "search", "outcome": "succeeded"}); count]})
}

impl World {
    /// Registers another agent with a key and all rights of agents in this world.
    pub async fn agent(&self, id: &str) -> Agent {
        let agent = Agent::new(id, Auth::Assertion);
        let yaml = format!(
            "clients:\n  - {{id: {id}, kind: agent, auth: private_key_jwt, jwks: {{keys: [{key}]}}, \
             scopes: [mail.read, mail.send, calendar.read, both], audiences: [\"{MAIL}\", \"{CALENDAR}\"], \
             authorization_details_types: [mailbox], grant_types: [client_credentials, token-exchange]}}",
            key = agent.key.public_jwk()
        );
        self.server.apply(&yaml).await.unwrap();
        agent
    }

    /// A user creates a delegation to `user-proxy`.
    pub async fn granted(&self, sub: &str, terms: Value) -> Answer {
        self.as_user(sub, "POST", "/delegate", with(json!({"delegate": "user-proxy"}), terms)).await
    }

    /// `user-proxy` requests a delegation from a user; returns its id.
    pub async fn asked(&self, sub: &str, terms: Value) -> String {
        let body = with(json!({"delegator": {"iss": IDP, "sub": sub}}), terms);
        self.as_agent(&self.user_proxy, "POST", "/delegate", body).await.with_status(202).id()
    }

    /// An agent delegates its own delegation further.
    pub async fn passed_on(&self, from: &Agent, (parent, to): (&str, &str), terms: Value) -> Answer {
        let body = with(json!({"parent": parent, "delegate": to}), terms);
        self.as_agent(from, "POST", "/delegate", body).await
    }

    /// A user's operation on a delegation.
    pub async fn moves(&self, sub: &str, id: &str, name: &str, body: Value) -> Answer {
        self.as_user(sub, "POST", &format!("/delegate/{id}/{name}"), body).await
    }

    /// A delegation as an administrator sees it.
    pub async fn shown(&self, id: &str) -> Value {
        self.as_admin("GET", &format!("/delegate/{id}"), json!({})).await.with_status(200).json
    }

    pub async fn state(&self, id: &str) -> String {
        self.shown(id).await["state"].as_str().unwrap().to_owned()
    }

    /// `user-proxy` exchanges a user's token for a token for the mail server.
    pub fn first_hop_of(&self, sub: &str) -> Request<'_> {
        self.user_proxy.exchange(&self.server, &self.token_of(sub), JWT).param("audience", MAIL)
    }

    /// The events about one delegation, oldest first.
    pub async fn events_about(&self, id: &str) -> Vec<Value> {
        let mut events = self.server.events().await;
        events.retain(|event| event["delegation_id"] == *id);
        events
    }

    /// The actions of the successful events, without those of tokens.
    pub async fn moves_of(&self, id: &str) -> Vec<String> {
        let events = self.events_about(id).await;
        let moves = events.iter().filter(|event| event["outcome"] == "success");
        let names = moves.map(|event| event["action"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("delegation.")).collect()
    }
}

/// A POST to one of several servers.
pub fn post<'a>(server: &'a Server, id: &str, name: &str, body: Value) -> Api<'a> {
    Api::post(server, &format!("/delegate/{id}/{name}"), body)
}
