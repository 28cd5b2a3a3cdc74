//! Revocations while hundreds of requests run below them, on two servers with one database. Requests answered before
//! the revocation count; after its response nothing is active any more.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use actchain::domain::audit::{Actor, Event, EventKind};
use actchain::domain::principal::Principal;
use actchain::domain::token;
use actchain::services::principals::{self, ClientKey};
use actchain::services::transaction::{AuditedTransaction, Authorized};

use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::ends::{ClosedGate, new_key, outcome};
use crate::support::management::Api;
use crate::support::world::{IDP, MAIL, World};
use crate::support::{Answer, Server, claims_of};

async fn two_servers() -> (World, Server) {
    let world = World::new().await;
    let twin = world.server.twin().await;
    (world, twin)
}

/// The response to one request, and whether the request was sent after the revocation was answered.
struct Shot {
    answer: Answer,
    after_the_end: bool,
}

/// Sends requests to two servers concurrently, runs the revocation in between, and continues for a while.
async fn under_fire<F>(
    shoot: impl Fn(usize) -> F + Sync,
    end: impl Future<Output = Answer>,
) -> (Vec<Shot>, Answer)
where
    F: Future<Output = Answer>,
{
    const SIDES: usize = 24;
    const BEFORE: usize = 40;
    const AFTER: usize = 4;
    let (granted, ended, broken) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    let side = async |side: usize| {
        let mut shots = Vec::new();
        let mut after = 0;
        while after < AFTER {
            let after_the_end = ended.load(Ordering::SeqCst);
            let answer = shoot(side).await;
            assert_ne!(answer.status, 503, "{}", answer.text);
            match answer.status {
                200 | 201 => granted.fetch_add(1, Ordering::SeqCst),
                _ if !after_the_end => broken.fetch_add(1, Ordering::SeqCst),
                _ => 0,
            };
            after += usize::from(after_the_end);
            shots.push(Shot { answer, after_the_end });
        }
        shots
    };
    let end = async {
        while granted.load(Ordering::SeqCst) < BEFORE {
            assert!(broken.load(Ordering::SeqCst) < 200, "nothing works even before the end");
            tokio::task::yield_now().await;
        }
        let answer = end.await;
        assert!(matches!(answer.status, 200 | 202), "{}", answer.text);
        ended.store(true, Ordering::SeqCst);
        answer
    };
    let (shots, answer) = tokio::join!(futures_util::future::join_all((0..SIDES).map(side)), end);
    (shots.into_iter().flatten().collect(), answer)
}

fn of_action(events: &[Value], action: &str) -> Option<usize> {
    events.iter().position(|event| event["action"] == action && event["outcome"] == "success")
}

fn is_issue(event: &&Value) -> bool {
    event["action"] == "oauth.token.exchanged" && event["outcome"] == "success"
}

/// Checks the result: the log has no exchange after the event of the revocation, responses and log agree, later
/// requests are refused, and all issued tokens are inactive on both servers.
async fn assert_ended(
    world: &World,
    twin: &Server,
    (shots, ending, reasons): (&[Shot], &str, &[&str]),
    before: usize,
) {
    let events = world.server.events().await;
    let events = &events[before..];
    let end = of_action(events, ending).expect("the end is in the log");
    let late: Vec<&Value> = events[end..].iter().filter(is_issue).collect();
    assert!(late.is_empty(), "{} exchanges after {ending}, such as {}", late.len(), late[0]);
    let issued: Vec<&Shot> = shots.iter().filter(|shot| shot.answer.status == 200).collect();
    assert_eq!(issued.len(), events[..end].iter().filter(is_issue).count(), "answers and log agree");
    assert!(issued.len() >= 40 && issued.iter().all(|shot| !shot.after_the_end));
    assert!(shots.iter().filter(|shot| shot.after_the_end).count() >= 90, "and there were some after it");
    for shot in shots.iter().filter(|shot| shot.answer.status != 200) {
        assert!(reasons.contains(&outcome(&shot.answer).as_str()), "{}", shot.answer.text);
    }
    for (n, shot) in issued.iter().enumerate() {
        let server = if n % 2 == 0 { &world.server } else { twin };
        let introspected = server.introspect(&world.mail_server, shot.answer.token()).await;
        assert_eq!(introspected.json, json!({"active": false}));
    }
    let last = issued.last().unwrap().answer.token();
    assert_ne!((world.server.listed(last).await, twin.listed(last).await), (0, 0));
}

/// A world with warm caches, whose three agents alternate between two servers.
struct Field {
    world: World,
    twin: Server,
    user: String,
    first: String,
    second: String,
}

impl Field {
    async fn new() -> Self {
        let (world, twin) = two_servers().await;
        let user = world.user_token();
        let first = world.hop_from_user(&world.user_proxy, &user).await.token().to_owned();
        let second = world.hop(&world.email_svc, &first).await.token().to_owned();
        let on_twin = world.email_svc.exchange(&twin, &first, ACCESS_TOKEN).send().await;
        assert_eq!(on_twin.status, 200);
        Self { world, twin, user, first, second }
    }

    fn server(&self, n: usize) -> &Server {
        if n.is_multiple_of(2) { &self.world.server } else { &self.twin }
    }

    async fn shoot(&self, n: usize) -> Answer {
        let server = self.server(n);
        // Moves the clock, because requests with later times are not always recorded later.
        server.clock.shift(time::Duration::milliseconds(3));
        match n % 3 {
            0 => self.world.user_proxy.exchange(server, &self.user, JWT).param("audience", MAIL).send().await,
            1 => self.world.email_svc.exchange(server, &self.first, ACCESS_TOKEN).send().await,
            _ => self.world.followup_svc.exchange(server, &self.second, ACCESS_TOKEN).send().await,
        }
    }

    /// As an administrator at the second server, with an existing token.
    async fn as_admin(&self, token: &str, (method, path): (&str, &str), body: Value) -> Answer {
        self.twin.call(&self.world.admin, token, (method, path), body).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_is_revoked_while_hundreds_of_exchanges_run_below_it() {
    let field = Field::new().await;
    let before = field.world.server.events().await.len();
    let alice = field.world.user_token();
    let end = Api::post(&field.twin, "/delegate/D/revoke", json!({})).user(&alice).send();
    let (shots, answer) = under_fire(|n| field.shoot(n), end).await;
    let issued = shots.iter().filter(|shot| shot.answer.status == 200).count();
    let reached = &answer.json["affected"];
    // The tokens of the warm-up are below the delegation, too.
    let expected = json!({"delegations": 3, "tokens": issued + 3, "at_least": false});
    assert_eq!(reached, &expected, "counted when nothing could be added any more");
    assert_ended(&field.world, &field.twin, (&shots, "delegation.revoked", &["delegation_revoked"]), before)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_all_of_a_user_takes_effect_while_hundreds_of_exchanges_run() {
    let field = Field::new().await;
    let before = field.world.server.events().await.len();
    let admin = field.world.management_token(&field.world.admin).await;
    let body = json!({"iss": IDP, "sub": "alice", "reason": "left"});
    let end = field.as_admin(&admin, ("POST", "/api/v1/principals/revoke-all"), body);
    let (shots, answer) = under_fire(|n| field.shoot(n), end).await;
    let issued = shots.iter().filter(|shot| shot.answer.status == 200).count();
    assert_eq!(answer.json["affected"], json!({"delegations": 3, "tokens": issued + 3, "at_least": false}));
    let ending = (shots.as_slice(), "principal.revoked", ["principal_revoked"].as_slice());
    assert_ended(&field.world, &field.twin, ending, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_above_is_disabled_while_hundreds_of_exchanges_run() {
    let field = Field::new().await;
    let before = field.world.server.events().await.len();
    let admin = field.world.management_token(&field.world.admin).await;
    let end = field.as_admin(&admin, ("POST", "/api/v1/clients/user-proxy/disable"), json!({}));
    let (shots, _) = under_fire(|n| field.shoot(n), end).await;
    let ending = (shots.as_slice(), "client.disabled", ["actor_disabled", "invalid_client"].as_slice());
    assert_ended(&field.world, &field.twin, ending, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_removed_while_hundreds_of_exchanges_run() {
    let field = Field::new().await;
    let before = field.world.server.events().await.len();
    let admin = field.world.management_token(&field.world.admin).await;
    let path = format!("/api/v1/clients/user-proxy/keys/{}", field.world.user_proxy.jkt());
    let end = field.as_admin(&admin, ("DELETE", &path), json!({}));
    let (shots, _) = under_fire(|n| field.shoot(n), end).await;
    let ending = (shots.as_slice(), "client.key_removed", ["key_removed", "invalid_client"].as_slice());
    assert_ended(&field.world, &field.twin, ending, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_revoked_while_hundreds_of_exchanges_run_below_it() {
    let field = Field::new().await;
    let before = field.world.server.events().await.len();
    let end = field.twin.revoke_token(&field.world.user_proxy, &field.first);
    // Only exchanges of that token; exchanges of the user's token would continue.
    let shoot = |n: usize| field.shoot(if n.is_multiple_of(3) { n + 1 } else { n });
    let (shots, _) = under_fire(shoot, end).await;
    let ending = (shots.as_slice(), "oauth.token.revoked", ["token_revoked"].as_slice());
    assert_ended(&field.world, &field.twin, ending, before).await;
    assert_eq!(field.world.first_hop().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_ends_while_hundreds_of_exchanges_of_its_agents_run() {
    let (world, twin) = two_servers().await;
    let agents =
        [world.made_by_alice("t").await, world.made_by_alice("t").await, world.made_by_alice("t").await];
    let user = world.user_token();
    let before = world.server.events().await.len();
    let end = async {
        let call = Api::new(&twin, "DELETE", "/api/v1/tasks/t/agents");
        call.user(&world.user_token()).send().await
    };
    let shoot = |n: usize| {
        let server = if n.is_multiple_of(2) { &world.server } else { &twin };
        let agent = &agents[n % 3].agent;
        agent.exchange(server, &user, JWT).param("audience", MAIL).send()
    };
    let (shots, answer) = under_fire(shoot, end).await;
    assert_eq!(answer.json["ended"], 3, "{}", answer.text);
    let reasons = ["invalid_client", "agent_deactivated", "delegation_revoked"];
    assert_ended(&world, &twin, (&shots, "delegation.revoked", &reasons), before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_made_for_a_task_ends_itself_while_its_exchanges_run() {
    let (world, twin) = two_servers().await;
    let made = world.made_by_alice("t").await;
    let user = world.user_token();
    let management = world.management_token(&made.agent).await;
    let before = world.server.events().await.len();
    let path = format!("/delegate/{}/revoke", made.delegation);
    let end = twin.call(&made.agent, &management, ("POST", &path), json!({}));
    let shoot = |n: usize| {
        let server = if n.is_multiple_of(2) { &world.server } else { &twin };
        made.agent.exchange(server, &user, JWT).param("audience", MAIL).send()
    };
    let (shots, _) = under_fire(shoot, end).await;
    let reasons = ["invalid_client", "agent_deactivated", "delegation_revoked"];
    assert_ended(&world, &twin, (&shots, "delegation.revoked", &reasons), before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_key_changes_while_its_exchanges_run() {
    let (world, twin) = two_servers().await;
    let made = world.made_by_alice("t").await;
    let user = world.user_token();
    let management = world.management_token(&made.agent).await;
    let before = world.server.events().await.len();
    let path = format!("/delegate/{}/rotate-key", made.delegation);
    let end = twin.call(&made.agent, &management, ("POST", &path), json!({"jwk": new_key().public_jwk()}));
    let shoot = |n: usize| {
        let server = if n.is_multiple_of(2) { &world.server } else { &twin };
        server.clock.shift(time::Duration::milliseconds(3));
        made.agent.exchange(server, &user, JWT).param("audience", MAIL).send()
    };
    let (shots, _) = under_fire(shoot, end).await;
    let reasons = ["invalid_client", "agent_deactivated", "delegation_requested"];
    assert_ended(&world, &twin, (&shots, "delegation.key_rotation_requested", &reasons), before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_new_keys_at_once_one_waits_and_of_several_approvals_one_counts() {
    let (world, twin) = two_servers().await;
    let made = world.made_by_alice("t").await;
    let management = world.management_token(&made.agent).await;
    let path = format!("/delegate/{}/rotate-key", made.delegation);
    let keys: Vec<_> = (0..8).map(|_| new_key()).collect();
    let ask = |n: usize| {
        let server = if n.is_multiple_of(2) { &world.server } else { &twin };
        let (made, management, path, body) =
            (&made, &management, &path, json!({"jwk": keys[n].public_jwk()}));
        async move { server.call(&made.agent, management, ("POST", path), body).await }
    };
    let asked = futures_util::future::join_all((0..8).map(ask)).await;
    let winners: Vec<usize> = (0..8).filter(|n| asked[*n].status == 202).collect();
    assert_eq!(winners.len(), 1, "{:?}", asked.iter().map(|answer| answer.status).collect::<Vec<_>>());
    assert!(asked.iter().all(|answer| matches!(answer.status, 202 | 401 | 409)));
    let path = format!("/delegate/{}/approve", made.delegation);
    let alice = world.user_token();
    let approve = |n: usize| {
        let server = if n.is_multiple_of(2) { &world.server } else { &twin };
        Api::post(server, &path, json!({})).user(&alice).send()
    };
    let approved = futures_util::future::join_all((0..6).map(approve)).await;
    assert_eq!(approved.iter().filter(|answer| answer.status == 200).count(), 1);
    assert!(
        approved.iter().all(|answer| answer.status == 200 || answer.reason() == "invalid_state_transition")
    );
    for (n, key) in keys.iter().enumerate() {
        let agent = made.under(key).agent;
        let answer = agent.exchange(&twin, &alice, JWT).param("audience", MAIL).send().await;
        assert_eq!(answer.status, if winners.contains(&n) { 200 } else { 401 }, "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_made_while_its_parent_is_revoked_was_reached_or_is_refused() {
    let (world, twin) = two_servers().await;
    let token = world.management_token(&world.user_proxy).await;
    let alice = world.user_token();
    let end = Api::post(&twin, "/delegate/D/revoke", json!({})).user(&alice).send();
    let shoot = |n: usize| {
        let server = if n.is_multiple_of(2) { &world.server } else { &twin };
        let body = if n.is_multiple_of(3) {
            json!({"parent": "D", "ephemeral": {"jwk": new_key().public_jwk(), "task_id": format!("t{n}")}})
        } else {
            json!({"parent": "D", "delegate": "stranger"})
        };
        let (agent, token) = (&world.user_proxy, &token);
        async move { server.call(agent, token, ("POST", "/delegate"), body).await }
    };
    let (shots, answer) = under_fire(shoot, end).await;
    let made: Vec<&Shot> = shots.iter().filter(|shot| shot.answer.status == 201).collect();
    assert!(made.iter().all(|shot| !shot.after_the_end));
    assert_eq!(answer.json["affected"]["delegations"], made.len() + 3, "{}", answer.text);
    for shot in shots.iter().filter(|shot| shot.answer.status != 201) {
        assert_eq!(
            (shot.answer.status, shot.answer.reason()),
            (409, "parent_not_active"),
            "{}",
            shot.answer.text
        );
    }
    for shot in made {
        let path = format!("/delegate/{}", shot.answer.json["id"].as_str().unwrap());
        let shown = world.as_alice("GET", &path, json!({})).await.json;
        assert_eq!((&shown["state"], &shown["ended_by"]), (&json!("revoked"), &json!("D")));
    }
    let events = world.server.events().await;
    let end = of_action(&events, "delegation.revoked").unwrap();
    assert!(of_action(&events[end..], "delegation.created").is_none(), "nothing below it came after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_while_agents_are_made_for_it_takes_all_that_were_there() {
    let (world, twin) = two_servers().await;
    let user = world.user_token();
    let end = Api::new(&twin, "DELETE", "/api/v1/tasks/t/agents").user(&user).send();
    let shoot = |n: usize| {
        let server = if n.is_multiple_of(2) { &world.server } else { &twin };
        let (key, user) = (new_key(), &user);
        async move {
            let body = json!({"ephemeral": {"jwk": key.public_jwk(), "task_id": "t"}});
            let mut answer = Api::post(server, "/delegate", body).user(user).send().await;
            // A full task is no failure, and counts as nothing.
            if answer.reason() == "task_agent_limit" {
                answer.status = 299;
            }
            answer
        }
    };
    let (shots, answer) = under_fire(shoot, end).await;
    assert!(shots.iter().all(|shot| matches!(shot.answer.status, 201 | 299)));
    let events = world.server.events().await;
    let end = of_action(&events, "client.agent_deactivated").unwrap();
    let made_before = events[..end].iter().filter(|event| event["action"] == "client.agent_created").count();
    assert_eq!(answer.json["ended"], made_before, "{}", answer.text);
    let mut sql = world.server.sql().await;
    let (living, ended): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE deactivated_at IS NULL), count(*) FILTER (WHERE deactivated_at IS NOT NULL)
         FROM client WHERE ephemeral_delegation_id IS NOT NULL",
    )
    .fetch_one(&mut sql)
    .await
    .unwrap();
    assert_eq!(usize::try_from(ended).unwrap(), made_before);
    assert!(living <= 100, "and the task has no more than it may");
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_that_want_to_join_a_task_of_five_are_exactly_five() {
    let config = "[agents]\nmax_per_task = 5";
    let world = World::configured(config).await;
    let twin = world.server.twin_configured(config).await;
    let user = world.user_token();
    let requests = (0..40).map(|n| {
        let server = if n % 2 == 0 { &world.server } else { &twin };
        let body = json!({"ephemeral": {"jwk": new_key().public_jwk(), "task_id": "t"}});
        Api::post(server, "/delegate", body).user(&user).send()
    });
    let answers = futures_util::future::join_all(requests).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 5);
    assert_eq!(answers.iter().filter(|answer| answer.reason() == "task_agent_limit").count(), 35);
    let mut sql = world.server.sql().await;
    let (agents, delegations): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM client WHERE ephemeral_delegation_id IS NOT NULL),
                (SELECT count(*) FROM delegation WHERE origin = 'granted')",
    )
    .fetch_one(&mut sql)
    .await
    .unwrap();
    assert_eq!((agents, delegations), (5, 5), "what was refused left nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_simultaneous_revocations_of_one_delegation_one_succeeds() {
    let field = Field::new().await;
    let alice = field.world.user_token();
    let revoke = |n: usize| {
        let id = ["D", "E", "F"][n % 3];
        let path = format!("/delegate/{id}/revoke");
        let call = Api::post(field.server(n / 3), &path, json!({})).user(&alice);
        async move { (id, call.send().await) }
    };
    let answers = futures_util::future::join_all((0..18).map(revoke)).await;
    for id in ["D", "E", "F"] {
        let of_it: Vec<&Answer> =
            answers.iter().filter(|(of, _)| *of == id).map(|(_, answer)| answer).collect();
        assert_eq!(of_it.iter().filter(|answer| answer.status == 200).count(), 1, "{id}");
        assert!(
            of_it.iter().all(|answer| answer.status == 200 || answer.reason() == "invalid_state_transition")
        );
    }
    let events = field.world.server.events().await;
    let revoked = events
        .iter()
        .filter(|event| event["action"] == "delegation.revoked" && event["outcome"] == "success");
    assert_eq!(revoked.count(), 3);
    // Each counts what no earlier revocation had counted; the first counts three.
    let reached = |(_, answer): &(&str, Answer)| answer.json["affected"]["delegations"].as_u64();
    assert!((1..=6).contains(&answers.iter().filter_map(reached).sum::<u64>()));
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_of_every_kind_at_once_stand_in_nobodys_way() {
    let field = Field::new().await;
    let world = &field.world;
    let made = world.made_by_alice("t").await;
    let admin = world.management_token(&world.admin).await;
    let alice = world.user_token();
    let others: Vec<String> = (0..4).map(|n| world.token_of(&format!("user-{n}"))).collect();
    let ends = (0..6).map(|n| {
        let (field, admin, alice, made) = (&field, &admin, &alice, &made);
        async move {
            let world = &field.world;
            let server = field.server(n);
            let as_admin = async |method: &str, path: &str, body: Value| {
                server.call(&world.admin, admin, (method, path), body).await
            };
            let as_alice = async |method: &str, path: &str| {
                Api::new(server, method, path).json(&json!({})).user(alice).send().await
            };
            let mut answers = vec![
                as_admin("POST", "/api/v1/clients/email-svc/disable", json!({})).await,
                as_admin("POST", "/api/v1/clients/email-svc/enable", json!({})).await,
                as_alice("POST", "/delegate/F/revoke").await,
                as_admin("DELETE", "/api/v1/tasks/t/agents", json!({})).await,
            ];
            // Between a disablement and an enablement by the others, this client is unknown.
            let revoked = server.revoke_token(&world.email_svc, &field.second).await;
            let disabled = revoked.status == 401 && revoked.json["error"] == "invalid_client";
            assert!(revoked.status == 200 || disabled, "{} {}", revoked.status, revoked.text);
            let path = format!("/delegate/{}/revoke", made.delegation);
            answers.push(as_alice("POST", &path).await);
            let body = json!({"iss": IDP, "sub": "bob", "reason": "left"});
            answers.push(as_admin("POST", "/api/v1/principals/revoke-all", body).await);
            let path = format!("/api/v1/clients/followup-svc/keys/{}", world.followup_svc.jkt());
            answers.push(as_admin("DELETE", &path, json!({})).await);
            actchain::jobs::expiry::run_once(&server.app, server.clock.now()).await.unwrap();
            actchain::jobs::sweep::run_once(&server.app, server.clock.now()).await.unwrap();
            answers
        }
    });
    let gives = (0..24).map(|n| {
        let (server, token) = (field.server(n), &others[n % 4]);
        async move {
            let body = json!({"delegate": "stranger", "audiences": [MAIL], "max_uses": 3});
            Api::post(server, "/delegate", body).user(token).send().await
        }
    });
    let exchanges = (0..120).map(|n| field.shoot(n));
    let (ends, gives, exchanges) = tokio::join!(
        futures_util::future::join_all(ends),
        futures_util::future::join_all(gives),
        futures_util::future::join_all(exchanges)
    );
    for answer in ends.iter().flatten() {
        assert!(matches!(answer.status, 200 | 404 | 409), "{} {}", answer.status, answer.text);
    }
    assert!(gives.iter().all(|answer| answer.status == 201), "other users are not affected");
    assert!(exchanges.iter().all(|answer| answer.status != 503));
    // The exchanges of the agent that was not changed.
    let of_user_proxy = exchanges.iter().step_by(3);
    assert!(of_user_proxy.clone().all(|answer| answer.status == 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_a_status_list_has_shown_as_invalid_stays_invalid() {
    let field = Field::new().await;
    let world = &field.world;
    let done = AtomicBool::new(false);
    let read = async |server: &Server| {
        let mut seen = Vec::new();
        while !done.load(Ordering::SeqCst) {
            seen.push(server.listed(&field.second).await);
        }
        seen.push(server.listed(&field.second).await);
        seen
    };
    let change = async {
        for n in 0..12 {
            world.server.disable("user-proxy").await;
            if n == 6 {
                world.server.revoke("E").await;
            }
            world.server.enable("user-proxy").await;
        }
        done.store(true, Ordering::SeqCst);
    };
    let (here, there, ()) = tokio::join!(read(&world.server), read(&field.twin), change);
    for seen in [here, there] {
        let end = seen.iter().position(|status| *status == 1).expect("it was revoked");
        assert!(seen[end..].iter().all(|status| *status == 1), "{:?}", &seen[end..]);
    }
}

/// The call waits at the authority lock behind a revocation of its caller: the caller was active when the call arrived,
/// and is not any more when the call runs.
async fn overtaken(
    world: &World,
    end: impl Future<Output = ()>,
    call: impl Future<Output = Answer>,
) -> Answer {
    let mut gate = ClosedGate::of(&world.server).await;
    let (queued, wait) = tokio::sync::oneshot::channel();
    let order = async {
        gate.has_waiting(1).await;
        // Calls from now on are newer than the revocation, but queue after it.
        world.server.pass(11);
        queued.send(()).unwrap();
        gate.has_waiting(2).await;
        gate.open().await;
    };
    let call = async {
        wait.await.unwrap();
        call.await
    };
    tokio::join!(end, order, call).2
}

/// A world whose servers wait for the authority lock for as long as a test may keep it locked.
async fn patient_world() -> World {
    let world = World::configured("[ledger]\ntimeout = 20").await;
    world.first_hop().await;
    world
}

async fn children_of(world: &World, parent: &str) -> usize {
    let path = format!("/delegate?parent={parent}");
    world.as_admin("GET", &path, json!({})).await.json["items"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_revoked_while_its_call_waits_creates_no_delegation() {
    let world = patient_world().await;
    let bob = world.token_of("bob");
    let end = async {
        let who = Principal::new(IDP, "bob");
        principals::revoke_all(&world.server.operator(), &who, "left").await.unwrap();
    };
    let body = json!({"delegate": "stranger", "audiences": [MAIL]});
    let call = async { Api::post(&world.server, "/delegate", body).user(&bob).send().await };
    let answer = overtaken(&world, end, call).await;
    assert_eq!((answer.status, answer.reason()), (401, "access_token_invalid"), "{}", answer.text);
    world.server.pass(11);
    let token = world.hop_from_user(&world.stranger, &world.token_of("bob")).await;
    assert_ne!(token.status, 200, "nothing came of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_disabled_while_its_call_waits_creates_no_delegation() {
    let world = patient_world().await;
    let token = world.management_token(&world.user_proxy).await;
    let end = async { drop(world.server.disable("user-proxy").await) };
    let body = json!({"parent": "D", "delegate": "stranger"});
    let call = async { world.server.call(&world.user_proxy, &token, ("POST", "/delegate"), body).await };
    let answer = overtaken(&world, end, call).await;
    assert_eq!((answer.status, answer.reason()), (401, "access_token_invalid"), "{}", answer.text);
    assert_eq!(children_of(&world, "D").await, 1, "only E");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_token_or_key_ends_while_its_call_waits_creates_no_delegation() {
    for ending in ["token", "key"] {
        let world = patient_world().await;
        let token = world.management_token(&world.user_proxy).await;
        let jti = uuid::Uuid::parse_str(claims_of(&token)["jti"].as_str().unwrap()).unwrap();
        let end = async {
            if ending == "key" {
                let jkt = world.user_proxy.jkt();
                let key = ClientKey { client_id: "user-proxy", jkt };
                principals::remove_key(&world.server.operator(), key).await.unwrap();
            } else {
                // As at the revocation endpoint, but without a proof that would have to be recorded first.
                let mut work = AuditedTransaction::begin_exclusive(
                    &world.server.app.pool,
                    Authorized::without_request(),
                )
                .await
                .unwrap();
                let now = world.server.clock.now();
                assert!(token::store::mark_revoked(work.connection(), jti, now).await.unwrap());
                work.commit(&[Event::new(now, EventKind::TokenRevoked, Actor::Operator)]).await.unwrap();
            }
        };
        let body = json!({"parent": "D", "delegate": "stranger"});
        let call = async { world.server.call(&world.user_proxy, &token, ("POST", "/delegate"), body).await };
        let answer = overtaken(&world, end, call).await;
        assert_eq!(
            (answer.status, answer.reason()),
            (401, "access_token_invalid"),
            "{ending}: {}",
            answer.text
        );
        assert_eq!(children_of(&world, "D").await, 1, "only E");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_that_is_disabled_while_its_call_waits_administers_nothing() {
    let world = patient_world().await;
    let token = world.management_token(&world.admin).await;
    let end = async { drop(world.server.disable("admin").await) };
    let path = "/api/v1/clients/user-proxy/disable";
    let call = async { world.server.call(&world.admin, &token, ("POST", path), json!({})).await };
    let answer = overtaken(&world, end, call).await;
    assert_eq!((answer.status, answer.reason()), (401, "access_token_invalid"), "{}", answer.text);
    assert_eq!(world.hop_from_user(&world.user_proxy, &world.user_token()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_the_lock_is_refused_if_its_delegation_is_revoked_meanwhile() {
    let world = patient_world().await;
    let token = world.management_token(&world.user_proxy).await;
    let end = async { drop(world.server.revoke("D").await) };
    let body = json!({"parent": "D", "delegate": "stranger"});
    let call = async { world.server.call(&world.user_proxy, &token, ("POST", "/delegate"), body).await };
    let answer = overtaken(&world, end, call).await;
    assert_eq!(
        (answer.status, answer.reason(), &answer.json["state"]),
        (409, "parent_not_active", &json!("revoked"))
    );
    let world = patient_world().await;
    let end = async { drop(world.server.revoke("D").await) };
    let user = world.user_token();
    let call = async { world.hop_from_user(&world.user_proxy, &user).await };
    let answer = overtaken(&world, end, call).await;
    answer.assert_refused(400, "invalid_request", "delegation_revoked");
}
