//! Random revocations in several trees at once: introspection, status list and exchange always agree about every token,
//! on both servers, and an invalid token stays invalid.

use actchain::domain::principal::Principal;
use actchain::jobs;
use actchain::services::principals::{self, ClientKey};
use actchain::services::{delegations, tasks};
use serde_json::json;

use crate::support::Server;
use crate::support::agent::{ACCESS_TOKEN, Agent};
use crate::support::ends::{Made, new_key};
use crate::support::life::steps;
use crate::support::world::{IDP, MAIL, World};

/// Pseudorandom numbers from a seed (Knuth's MMIX constants).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A token, its holder, and its last status in the status list.
struct Held {
    holder: String,
    token: String,
    listed: u8,
}

struct Story {
    world: World,
    twin: Server,
    dice: Dice,
    /// The agents, each with its current key.
    agents: Vec<Agent>,
    made: Vec<Made>,
    delegations: Vec<String>,
    held: Vec<Held>,
}

impl Story {
    async fn begin(seed: u64) -> Self {
        let world = World::new().await;
        let twin = world.server.twin().await;
        let agents = [&world.user_proxy, &world.email_svc, &world.followup_svc, &world.stranger];
        let agents = agents.map(Clone::clone).to_vec();
        let first = world.made_by_alice("t").await;
        let below = world.made_below(&first.agent, (&first.delegation, "below")).await;
        let third = world.made_below(&world.user_proxy, ("D", "t")).await;
        let mut delegations: Vec<String> = ["D", "E", "F"].map(str::to_owned).to_vec();
        for body in [
            json!({"delegate": "stranger", "audiences": [MAIL]}),
            json!({"delegate": "user-proxy", "audiences": [MAIL], "max_uses": 6}),
        ] {
            let answer = world.as_user("bob", "POST", "/delegate", body).await;
            delegations.push(answer.json["id"].as_str().unwrap().to_owned());
        }
        let body = json!({"parent": delegations[4], "delegate": "email-svc"});
        let answer = world.as_agent(&world.user_proxy, "POST", "/delegate", body).await;
        delegations.push(answer.json["id"].as_str().unwrap().to_owned());
        delegations.extend([&first, &below, &third].map(|made| made.delegation.clone()));
        let made = vec![first, below, third];
        Self { world, twin, dice: Dice(seed), agents, made, delegations, held: Vec::new() }
    }

    fn agents_and_made(&self) -> Vec<Agent> {
        self.agents.iter().cloned().chain(self.made.iter().map(|made| made.agent.clone())).collect()
    }

    fn agent(&self, id: &str) -> Agent {
        self.agents_and_made().into_iter().find(|agent| agent.id == id).unwrap()
    }

    fn hold(&mut self, holder: &str, answer: &crate::support::Answer) {
        if answer.status == 200 {
            let token = answer.token().to_owned();
            self.held.push(Held { holder: holder.to_owned(), token, listed: 0 });
        }
    }

    /// A random agent tries to obtain a token, from a user's token or from another agent's token.
    async fn get(&mut self) {
        let all = self.agents_and_made();
        let agent = self.dice.of(&all).clone();
        let answer = if self.held.is_empty() || self.dice.below(2) == 0 {
            let sub = *self.dice.of(&["alice", "bob"]);
            let user = self.world.token_of(sub);
            self.world.hop_from_user(&agent, &user).await
        } else {
            let token = self.held[self.dice.below(self.held.len())].token.clone();
            self.world.hop(&agent, &token).await
        };
        self.hold(&agent.id, &answer);
    }

    /// Makes a random revocation or restoration. Whether the server accepts it does not matter here.
    async fn move_on(&mut self) -> String {
        let ctx = self.world.server.operator();
        let issuer = self.world.server.app.issuer.clone();
        match self.dice.below(17) {
            0 | 1 => {
                let id = self.dice.of(&self.delegations).clone();
                let _ = delegations::revoke(&ctx, &id, Some("enough")).await;
                format!("revoke {id}")
            }
            2 | 3 => {
                let id = self.dice.of(&self.agents).id.clone();
                let _ = principals::disable(&ctx, &id).await;
                format!("disable {id}")
            }
            4 | 5 => {
                let id = self.dice.of(&self.agents).id.clone();
                let _ = principals::enable(&ctx, &id).await;
                format!("enable {id}")
            }
            6 => {
                let who = match self.dice.below(4) {
                    0 => Principal::new(IDP, "alice"),
                    1 => Principal::new(IDP, "bob"),
                    _ => Principal::new(issuer, self.dice.of(&self.agents_and_made()).id.clone()),
                };
                principals::revoke_all(&ctx, &who, "left").await.unwrap();
                format!("cut off {}", who.sub)
            }
            7 | 8 if !self.held.is_empty() => {
                let Held { holder, token, .. } = self.dice.of(&self.held);
                let answer = self.twin.revoke_token(&self.agent(holder), token).await;
                assert_ne!(answer.status, 503);
                format!("revoke a token of {holder}")
            }
            9 => {
                let task = *self.dice.of(&["t", "below"]);
                let _ = tasks::end_task(&ctx, task).await;
                format!("end {task}")
            }
            10 => {
                let place = self.dice.below(self.made.len());
                let (key, made) = (new_key(), self.made[place].clone());
                let answer = made.agent.request(&self.twin).param("grant_type", "client_credentials");
                let answer = answer.param("audience", &issuer).send().await;
                if answer.status == 200 {
                    let path = format!("/delegate/{}/rotate-key", made.delegation);
                    let body = json!({"jwk": key.public_jwk()});
                    let answer = self.twin.call(&made.agent, answer.token(), ("POST", &path), body).await;
                    if answer.status == 202 {
                        self.made[place] = made.under(&key);
                    }
                }
                format!("another key for {}", made.agent.id)
            }
            11 => {
                let id = self.dice.of(&self.made).delegation.clone();
                let _ = delegations::approve(&ctx, &id, &delegations::Approval::default(), None).await;
                format!("approve {id}")
            }
            13..=15 => {
                let user = *self.dice.of(&["alice", "bob"]);
                let agent = self.dice.of(&self.agents).id.clone();
                let body = json!({"delegate": agent, "audiences": [MAIL]});
                let answer = self.world.as_user(user, "POST", "/delegate", body).await;
                if answer.status == 201 {
                    self.delegations.push(answer.json["id"].as_str().unwrap().to_owned());
                }
                format!("{user} gives to {agent} afresh")
            }
            12 => {
                // The key of this agent is used by no other test step; the agent continues with a new key.
                let agent = &mut self.agents[1];
                let jkt = agent.jkt().to_owned();
                agent.key = new_key();
                principals::remove_key(&ctx, ClientKey { client_id: &agent.id, jkt: &jkt }).await.unwrap();
                format!("remove a key of {}", agent.id)
            }
            _ => {
                let id = self.delegations[4].clone();
                let answer =
                    self.world.user_proxy.request(&self.twin).param("grant_type", "client_credentials");
                let answer = answer.param("audience", &issuer).send().await;
                if answer.status == 200 {
                    let path = format!("/delegate/{id}/steps");
                    let agent = &self.world.user_proxy;
                    self.twin.call(agent, answer.token(), ("POST", &path), steps(2)).await;
                }
                "report commands".to_owned()
            }
        }
    }

    async fn agree(&mut self, after: &str) {
        for held in &mut self.held {
            for server in [&self.world.server, &self.twin] {
                let introspected = server.introspect(&self.world.mail_server, &held.token).await;
                let (active, listed) =
                    (introspected.json["active"].as_bool().unwrap(), server.listed(&held.token).await);
                assert_eq!(
                    active,
                    listed == 0,
                    "after {after}: a token of {} is listed as {listed}",
                    held.holder
                );
                assert!(held.listed != 1 || listed == 1, "after {after}: 1 became {listed}");
                held.listed = listed;
            }
        }
        if self.held.is_empty() {
            return;
        }
        let place = self.dice.below(self.held.len());
        let (holder, token, listed) = {
            let held = &self.held[place];
            (self.agent(&held.holder), held.token.clone(), held.listed)
        };
        let own = holder.exchange(&self.twin, &token, ACCESS_TOKEN).send().await;
        assert_ne!(own.status, 503, "{}", own.text);
        assert!(own.status != 200 || listed == 0, "after {after}: an inactive token was exchanged");
        self.hold(&holder.id, &own);
    }
}

/// Returns the number of tokens, and how many of them are invalid or suspended at the end.
async fn tell(seed: u64) -> [usize; 3] {
    let mut story = Story::begin(seed).await;
    let mut so_far = Vec::new();
    for _ in 0..14 {
        for _ in 0..4 {
            story.get().await;
        }
        let moved = story.move_on().await;
        so_far.push(moved);
        story.agree(&format!("seed {seed}: {so_far:?}")).await;
        story.world.server.pass(11);
        if story.dice.below(4) == 0 {
            let now = story.world.server.clock.now();
            jobs::expiry::run_once(&story.twin.app, now).await.unwrap();
            jobs::sweep::run_once(&story.twin.app, now).await.unwrap();
            so_far.push("sweep".to_owned());
            story.agree(&format!("seed {seed}: {so_far:?}")).await;
        }
    }
    let of = |listed: u8| story.held.iter().filter(|held| held.listed == listed).count();
    [story.held.len(), of(1), of(2)]
}

async fn tell_all(seeds: std::ops::Range<u64>) {
    let mut sums = [0; 3];
    for seed in seeds {
        for (sum, count) in sums.iter_mut().zip(tell(seed).await) {
            *sum += count;
        }
    }
    assert!(sums[0] > 30 && sums[1] > 10, "there was something to agree on: {sums:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ways_of_telling_agree_in_four_stories() {
    tell_all(0..4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ways_of_telling_agree_in_four_other_stories() {
    tell_all(100..104).await;
}
