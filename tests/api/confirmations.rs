//! An agent that requests without end does not block other agents, the same matter is requested only once, and every
//! pending request is visible.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{JWT, Request};
use crate::support::world::{IDP, MAIL, World};

async fn reserved(world: &World) -> String {
    let terms = json!({"scopes": ["mail.read", "mail.send", "both"], "ceremony_required_for": ["mail.send"]});
    world.granted("bob", terms).await.with_status(201).id()
}

/// The exchange needs a confirmation; returns the id of the ceremony.
#[track_caller]
fn ceremony(answer: &Answer) -> String {
    answer.assert_refused(400, "insufficient_user_authentication", "ceremony_required");
    answer.json["ceremony"].as_str().unwrap().to_owned()
}

async fn page(world: &World, id: &str, query: &str) -> Answer {
    world.as_user("bob", "GET", &format!("/delegate/{id}/ceremonies?{query}"), json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_agent_has_a_share_of_the_requests_that_wait_for_a_user() {
    let config = "[delegations]\nmax_pending_requests = 5\nmax_pending_requests_per_client = 3";
    let world = World::configured(config).await;
    let ask = async |agent| {
        let body = json!({"delegator": {"iss": IDP, "sub": "bob"}});
        world.as_agent(agent, "POST", "/delegate", body).await
    };
    // Concurrent requests cannot exceed the limit.
    let answers = join_all((0..8).map(|_| ask(&world.user_proxy))).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 202, 202, 429, 429, 429, 429, 429]);
    let full = ask(&world.user_proxy).await;
    full.assert_problem(429, "rate_limited");
    assert!(full.header("retry-after").is_some());
    let mine = ask(&world.email_svc).await.with_status(202).id();
    ask(&world.email_svc).await.with_status(202);
    ask(&world.email_svc).await.assert_problem(429, "rate_limited");
    // A decision frees a place.
    world.moves("bob", &mine, "deny", json!({})).await.with_status(200);
    ask(&world.email_svc).await.with_status(202);
    ask(&world.stranger).await.assert_problem(429, "rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_equal_exchanges_on_two_servers_request_one_confirmation() {
    let world = World::new().await;
    let id = reserved(&world).await;
    let twin = world.server.twin().await;
    let token = world.token_of("bob");
    let requests: Vec<Request<'_>> = (0..16)
        .map(|n| {
            let server = if n % 2 == 0 { &world.server } else { &twin };
            let request = world.user_proxy.exchange(server, &token, JWT);
            request.param("audience", MAIL).param("scope", "mail.send")
        })
        .collect();
    let answers = join_all(requests.into_iter().map(Request::send)).await;
    let asked: BTreeSet<String> = answers.iter().map(ceremony).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let listed = page(&world, &id, "").await.with_status(200).json;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmations_that_wait_are_bounded_for_each_client_and_for_the_delegation() {
    let config = "[delegations]\nmax_pending_confirmations = 3\nmax_pending_confirmations_per_client = 2";
    let world = World::configured(config).await;
    let id = reserved(&world).await;
    world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({})).await.with_status(201);
    let read = world.first_hop_of("bob").param("scope", "mail.read mail.send both");
    let hop = |scope: &str| world.first_hop_of("bob").param("scope", scope);
    let matters = ["mail.send", "mail.send mail.read", "mail.send both"];
    let first = ceremony(&hop(matters[0]).send().await);
    let second = ceremony(&hop(matters[1]).send().await);
    for request in [hop(matters[2]), read] {
        let full = request.send().await;
        assert_eq!(
            (full.status, &full.json["error"]),
            (429, &json!("temporarily_unavailable")),
            "{}",
            full.text
        );
        assert!(full.header("retry-after").is_some());
    }
    assert_eq!(ceremony(&hop(matters[0]).send().await), first, "what waits is still answered");
    // Other agents have their own share, up to the limit of the delegation.
    let path = format!("/delegate/{id}/ceremonies/{second}/approve");
    world.as_user("bob", "POST", &path, json!({})).await.with_status(200);
    let approved = hop(matters[1]).send().await.with_status(200);
    let below = |scope: &str| {
        let request =
            world.email_svc.exchange(&world.server, approved.token(), crate::support::agent::ACCESS_TOKEN);
        request.param("scope", scope)
    };
    ceremony(&below("mail.send").send().await);
    ceremony(&below("mail.send mail.read").send().await);
    assert_eq!(hop(matters[2]).send().await.status, 429, "three wait");
    let listed = page(&world, &id, "").await.with_status(200).json;
    let pending = listed["items"].as_array().unwrap().iter().filter(|one| one["state"] == "pending");
    assert_eq!(pending.count(), 3);
    let events = world.server.events().await;
    let refused = events.iter().rfind(|event| event["reason"] == "rate_limited").unwrap();
    assert_eq!((&refused["delegation_id"], &refused["detail"]), (&json!(id), &json!({})));
    // An expired confirmation frees a place.
    world.server.pass(300);
    ceremony(&hop(matters[2]).send().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmations_are_listed_in_pages_that_lose_none_and_repeat_none() {
    let config = "[delegations]\nmax_pending_confirmations_per_client = 100";
    let world = World::configured(config).await;
    let id = reserved(&world).await;
    let mut made = Vec::new();
    for scope in ["mail.send", "mail.send mail.read", "mail.send both", "mail.send mail.read both"] {
        made.push(ceremony(&world.first_hop_of("bob").param("scope", scope).send().await));
        if made.len() == 2 {
            world.server.pass(1);
        }
    }
    let (mut seen, mut query) = (Vec::<String>::new(), "limit=1".to_owned());
    loop {
        let answer = page(&world, &id, &query).await.with_status(200).json;
        let items = answer["items"].as_array().unwrap();
        assert_eq!(items.len(), 1);
        seen.push(items[0]["id"].as_str().unwrap().to_owned());
        match &answer["next"] {
            Value::String(cursor) => query = format!("limit=1&cursor={cursor}"),
            _ => break,
        }
    }
    let all = page(&world, &id, "limit=4").await.json;
    let listed: Vec<&str> =
        all["items"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(seen, listed);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>(), made.iter().collect());
    assert_eq!(all["next"], json!(null), "a page that ends exactly says so");
    for wrong in ["limit=0", "limit=101", "cursor=x", "cursor=1.x", "page=2"] {
        page(&world, &id, wrong).await.assert_problem(400, "malformed_request");
    }
}
