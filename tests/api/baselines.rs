//! What is unusual for a client or user: found by rules after a day, once, on every server, and forgotten with the person.

use actchain::domain::principal::Principal;
use actchain::services::erasure::{ErasureOutcome, erase};
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::life::steps;
use crate::support::world::{CALENDAR, IDP, MAIL, World};
use crate::support::{Answer, Server};

const DAY: i64 = 86_400;

async fn granted(world: &World, sub: &str) -> String {
    world.granted(sub, json!({"expires_in": 600, "max_depth": 3})).await.with_status(201).id()
}

/// `user-proxy` gets a token for a user at one audience.
async fn exchange(world: &World, server: &Server, sub: &str, audience: &str) -> Answer {
    let token = world.token_of(sub);
    world.user_proxy.exchange(server, &token, JWT).param("audience", audience).send().await.with_status(200)
}

/// The rules that found something in the newest event of this action.
async fn found(world: &World, action: &str) -> Vec<Value> {
    let events = world.server.events().await;
    let newest = events.iter().rev().find(|event| event["action"] == action).unwrap();
    newest["findings"].as_array().into_iter().flatten().map(|one| one["rule"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_use_of_a_target_is_found_once_for_an_agent_that_has_worked_for_a_day() {
    const ACTION: &str = "oauth.token.exchanged";
    let world = World::new().await;
    let twin = world.server.twin().await;
    granted(&world, "bob").await;
    exchange(&world, &world.server, "bob", MAIL).await;
    assert_eq!(found(&world, ACTION).await, Vec::<Value>::new(), "a new agent");
    world.server.pass(DAY - 1);
    granted(&world, "bob").await;
    exchange(&world, &twin, "bob", MAIL).await;
    assert_eq!(found(&world, ACTION).await, Vec::<Value>::new(), "a known target");
    world.server.pass(1);
    for (server, rules) in [(&twin, vec![json!("AC-005")]), (&twin, vec![]), (&world.server, vec![])] {
        exchange(&world, server, "bob", CALENDAR).await;
        assert_eq!(found(&world, ACTION).await, rules);
    }
    // What one agent has used is not usual for another.
    let agent = world.agent("other").await;
    world.as_user("bob", "POST", "/delegate", json!({"delegate": "other"})).await.with_status(201);
    let token = world.token_of("bob");
    agent.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await.with_status(200);
    assert_eq!(found(&world, ACTION).await, Vec::<Value>::new(), "another agent that is new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_target_within_the_first_day_is_usual() {
    let world = World::new().await;
    granted(&world, "bob").await;
    exchange(&world, &world.server, "bob", MAIL).await;
    world.server.pass(DAY - 1);
    granted(&world, "bob").await;
    exchange(&world, &world.server, "bob", CALENDAR).await;
    assert_eq!(found(&world, "oauth.token.exchanged").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_deeper_than_all_of_the_user_is_found_once_after_a_day() {
    const ACTION: &str = "oauth.token.exchanged";
    let world = World::new().await;
    let twin = world.server.twin().await;
    granted(&world, "bob").await;
    exchange(&world, &world.server, "bob", MAIL).await;
    // Another user, whose chains were as deep from the first day on.
    world.second_hop().await;
    world.server.pass(DAY);
    let id = granted(&world, "bob").await;
    world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({})).await.with_status(201);
    for (server, rules) in [(&world.server, vec![json!("AC-007")]), (&world.server, vec![]), (&twin, vec![])]
    {
        let first = exchange(&world, server, "bob", MAIL).await;
        assert_eq!(found(&world, ACTION).await, Vec::<Value>::new());
        world.email_svc.exchange(server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
        assert_eq!(found(&world, ACTION).await, rules);
    }
    let id = granted(&world, "alice").await;
    world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({})).await.with_status(201);
    let first = exchange(&world, &twin, "alice", MAIL).await;
    world.email_svc.exchange(&twin, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    assert_eq!(found(&world, ACTION).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_without_any_exchange_are_found_at_the_first_step() {
    const ACTION: &str = "delegation.step";
    let world = World::new().await;
    let report = async |id: &str| {
        let path = format!("/delegate/{id}/steps");
        world.as_agent(&world.user_proxy, "POST", &path, steps(2)).await.with_status(200);
        let events = world.server.events().await;
        let of_delegation = events.iter().filter(|one| one["action"] == ACTION && one["delegation_id"] == id);
        let findings = of_delegation.map(|one| one["findings"].as_array().map_or(0, Vec::len));
        findings.collect::<Vec<_>>()
    };
    let id = granted(&world, "bob").await;
    assert_eq!(report(&id).await, [1, 0]);
    assert_eq!(report(&id).await, [1, 0, 0, 0]);
    let first = world.server.events().await.into_iter().find(|one| one["action"] == ACTION).unwrap();
    let finding = json!({"rule": "AC-006", "severity": "low", "action": "record", "target": "event"});
    assert_eq!(first["findings"], json!([finding]));
    let used = granted(&world, "carol").await;
    exchange(&world, &world.server, "carol", MAIL).await;
    assert_eq!(report(&used).await, [0, 0], "after an exchange");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_agent_teaches_nothing_and_is_never_unusual() {
    let world = World::new().await;
    granted(&world, "bob").await;
    exchange(&world, &world.server, "bob", MAIL).await;
    world.server.pass(DAY);
    let id = granted(&world, "bob").await;
    let made = world.made_below(&world.user_proxy, (&id, "task-1")).await;
    let first = exchange(&world, &world.server, "bob", MAIL).await;
    made.agent.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    assert_eq!(found(&world, "oauth.token.exchanged").await, Vec::<Value>::new());
    // The depth of a lasting agent is still the first of its kind.
    world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({})).await.with_status(201);
    world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    assert_eq!(found(&world, "oauth.token.exchanged").await, [json!("AC-007")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_depth_of_an_erased_person_is_forgotten() {
    let world = World::new().await;
    let id = granted(&world, "bob").await;
    exchange(&world, &world.server, "bob", MAIL).await;
    let rows = async || {
        let mut sql = world.server.sql().await;
        let count =
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM usual_depth WHERE subject_sub = 'bob'");
        count.fetch_one(&mut sql).await.unwrap()
    };
    assert_eq!(rows().await, 1);
    world.moves("bob", &id, "revoke", json!({})).await.with_status(200);
    world.server.pass(2 * DAY);
    let done = erase(&world.server.operator(), &Principal::new(IDP, "bob")).await.unwrap();
    assert!(matches!(done, ErasureOutcome::Erased(_)), "{done:?}");
    assert_eq!(rows().await, 0);
    // What the server remembers is of the person who was erased: the depth is stored again.
    granted(&world, "bob").await;
    exchange(&world, &world.server, "bob", MAIL).await;
    assert_eq!(rows().await, 1);
}
