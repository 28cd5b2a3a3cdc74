//! Work while the user is away: delegations of Bob with offline access, and what agents get under them.

use serde_json::{Value, json};

use super::agent::{ACCESS_TOKEN, Agent, Request};
use super::world::World;
use super::{Answer, Server};

/// Two hops below Bob, both with offline access: `user-proxy`, then `email-svc`.
pub struct Night {
    pub world: World,
    pub root: String,
    pub child: String,
}

/// A request with a refresh token.
pub fn refreshing<'a>(agent: &Agent, server: &'a Server, token: &str) -> Request<'a> {
    agent.request(server).param("grant_type", "refresh_token").param("refresh_token", token)
}

/// The refresh token of an answer.
#[track_caller]
pub fn refresh_token(answer: &Answer) -> String {
    answer.json["refresh_token"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
}

impl Night {
    pub async fn new() -> Self {
        Self::configured("").await
    }

    pub async fn configured(config: &str) -> Self {
        Self::with(config, json!({"offline_access": true, "expires_in": 86_400 * 60})).await
    }

    pub async fn with(config: &str, terms: Value) -> Self {
        let world = World::configured(config).await;
        let root = world.granted("bob", terms).await.with_status(201).id();
        let body = json!({"offline_access": true, "scopes": ["mail.read", "mail.send"]});
        let child = world.passed_on(&world.user_proxy, (&root, "email-svc"), body).await;
        let child = child.with_status(201).id();
        Self { world, root, child }
    }

    /// The answer of the first hop, with the refresh token of `user-proxy`.
    pub async fn first(&self) -> Answer {
        self.world.first_hop_of("bob").send().await.with_status(200)
    }

    /// The refresh token of the first hop.
    pub async fn token(&self) -> String {
        refresh_token(&self.first().await)
    }

    /// The answer of the second hop, with the refresh token of `email-svc`.
    pub async fn second(&self) -> Answer {
        let first = self.first().await;
        let World { email_svc, server, .. } = &self.world;
        email_svc.exchange(server, first.token(), ACCESS_TOKEN).send().await.with_status(200)
    }

    /// A request of `user-proxy` with a refresh token.
    pub fn refresh(&self, token: &str) -> Request<'_> {
        refreshing(&self.world.user_proxy, &self.world.server, token)
    }

    /// The reason of a refusal, or "ok".
    pub async fn outcome(&self, token: &str) -> String {
        let answer = self.refresh(token).send().await;
        match answer.status {
            200 => "ok".to_owned(),
            _ => format!("{} {}", answer.error(), answer.reason()),
        }
    }
}
