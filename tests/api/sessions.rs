//! Sessions: which exchanges belong to one piece of work. The first exchange of a chain decides; a session grants and
//! refuses nothing.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::agent::{ACCESS_TOKEN, Agent, Auth, JWT, Request};
use crate::support::audit::{auditor, read};
use crate::support::world::{IDP, MAIL, World};
use crate::support::{Answer, Server};

/// A user's token without a session of the issuer.
fn token_of(world: &World, sub: &str) -> String {
    world.user_token_with(|claims| {
        claims["sub"] = json!(sub);
        claims.as_object_mut().unwrap().remove("sid");
    })
}

fn first_exchange<'a>(agent: &'a Agent, server: &'a Server, token: &str) -> Request<'a> {
    agent.exchange(server, token, JWT).param("audience", MAIL)
}

fn session(answer: Answer) -> Uuid {
    let claims = answer.with_status(200).claims();
    claims["sid"].as_str().expect("a session").parse().expect("a UUID")
}

async fn worked(world: &World, sub: &str, name: Option<&str>) -> Uuid {
    let request = first_exchange(&world.user_proxy, &world.server, &token_of(world, sub));
    session(match name {
        Some(name) => request.param("session_id", name).send().await,
        None => request.send().await,
    })
}

async fn with_bob_and_the_second_agent() -> World {
    let world = World::new().await;
    let delegation = |id: &str, sub: &str, delegate: &str| {
        format!(
            "  - {{id: {id}, delegator: {{iss: {IDP}, sub: {sub}}}, delegate: {delegate}, expires_in: 86400}}\n"
        )
    };
    let yaml = format!(
        "delegations:\n{}{}{}",
        delegation("B", "bob", "user-proxy"),
        delegation("A2", "alice", "email-svc"),
        delegation("A3", "alice", "user-proxy")
    );
    world.server.apply(&yaml).await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_kept_through_all_hops_and_named_by_token_introspection_event_and_search() {
    let world = World::new().await;
    let first = first_exchange(&world.user_proxy, &world.server, &token_of(&world, "alice")).send().await;
    let second = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
    let third = world
        .followup_svc
        .exchange(&world.server, second.token(), ACCESS_TOKEN)
        .param("session_id", "a name does not leave the chain's session")
        .send()
        .await
        .with_status(200);
    let introspected = world.introspect(&world.mail_server, third.token()).await;
    let sid = session(third);
    assert_eq!((session(first), session(second)), (sid, sid));
    assert_eq!(introspected.json["sid"], json!(sid));
    let auditor = auditor(&world).await;
    let found = read(&world, (&auditor.0, &auditor.1), &format!("/api/v1/audit-logs?session_id={sid}")).await;
    let found = found.json["items"].as_array().unwrap();
    let actions: BTreeSet<_> = found.iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!((found.len(), actions), (3, BTreeSet::from(["oauth.token.exchanged"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_joins_the_session_of_another_client_or_user() {
    let world = with_bob_and_the_second_agent().await;
    let alice = token_of(&world, "alice");
    let own = worked(&world, "alice", None).await;
    assert_eq!(worked(&world, "alice", None).await, own);
    assert_ne!(worked(&world, "bob", None).await, own);
    let other_agent = session(first_exchange(&world.email_svc, &world.server, &alice).send().await);
    assert_ne!(other_agent, own);

    let named = worked(&world, "alice", Some("task 7")).await;
    assert_eq!(worked(&world, "alice", Some("task 7")).await, named);
    let others = [
        worked(&world, "alice", Some("task 8")).await,
        worked(&world, "bob", Some("task 7")).await,
        session(
            first_exchange(&world.email_svc, &world.server, &alice)
                .param("session_id", "task 7")
                .send()
                .await,
        ),
        // Neither the id of a session nor its name opens it to another agent.
        session(
            first_exchange(&world.email_svc, &world.server, &alice)
                .param("session_id", &named.to_string())
                .send()
                .await,
        ),
        own,
        other_agent,
    ];
    assert_eq!(others.iter().collect::<BTreeSet<_>>().len(), 6);
    assert!(!others.contains(&named));
    // Named work leaves the unnamed session as it was.
    assert_eq!(worked(&world, "alice", None).await, own);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_names_a_session_and_the_parameter_comes_first() {
    let world = World::new().await;
    let token = token_of(&world, "alice");
    let named = worked(&world, "alice", Some("task 7")).await;
    let request = || first_exchange(&world.user_proxy, &world.server, &token);
    let by_header = request().set_header("actchain-session", "task 7").send().await;
    assert_eq!(session(by_header), named);
    let both = request().set_header("actchain-session", "task 8").param("session_id", "task 7").send().await;
    assert_eq!(session(both), named);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_any_form_never_refuses() {
    let world = World::new().await;
    let unnamed = worked(&world, "alice", None).await;
    for odd in ["", " ", "a\u{7}b", &"x".repeat(129), &"ä".repeat(4_000)] {
        let sid = worked(&world, "alice", Some(odd)).await;
        assert_eq!(sid == unnamed, odd != " ", "{odd:?}");
    }
    for name in ["ü".repeat(128), "' OR 1=1 --".to_owned(), "<b>\u{202e}".to_owned(), unnamed.to_string()] {
        assert_ne!(worked(&world, "alice", Some(&name)).await, unnamed, "{name}");
    }
    // Names leave no rows behind.
    let mut sql = world.server.sql().await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM session").fetch_one(&mut sql).await.unwrap();
    assert_eq!(rows, 1);
    let log = world.server.documents().await;
    assert!(log.iter().all(|event| !event.to_string().contains("OR 1=1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_after_half_an_hour_without_an_exchange() {
    let world = with_bob_and_the_second_agent().await;
    let first = worked(&world, "alice", None).await;
    for _ in 0..3 {
        world.server.pass(29 * 60);
        assert_eq!(worked(&world, "alice", None).await, first);
    }
    world.server.pass(30 * 60 + 1);
    let second = worked(&world, "alice", None).await;
    assert_ne!(second, first);
    world.server.pass(32 * 60);
    actchain::jobs::sweep::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    let mut sql = world.server.sql().await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM session").fetch_one(&mut sql).await.unwrap();
    assert_eq!(rows, 0);
    assert_ne!(worked(&world, "alice", None).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_row_of_a_session_is_written_once_a_minute() {
    let world = with_bob_and_the_second_agent().await;
    let mut sql = world.server.sql().await;
    let mut versions = Vec::new();
    for pass in [0, 1, 58, 1, 59, 1] {
        world.server.pass(pass);
        worked(&world, "alice", None).await;
        let version: String =
            sqlx::query_scalar("SELECT xmin::text FROM session").fetch_one(&mut sql).await.unwrap();
        versions.push(version);
    }
    let written: Vec<bool> = versions.windows(2).map(|pair| pair[0] != pair[1]).collect();
    assert_eq!(written, [false, false, true, false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_at_the_same_time_on_two_servers_begin_one_session() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let token = token_of(&world, "alice");
    let requests = (0..32).map(|n| {
        let server = if n % 2 == 0 { &world.server } else { &twin };
        first_exchange(&world.user_proxy, server, &token).send()
    });
    let answers = futures_util::future::join_all(requests).await;
    let sessions: BTreeSet<Uuid> = answers.into_iter().map(session).collect();
    assert_eq!(sessions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_in_the_session_of_the_work() {
    let world = World::new().await;
    let sid = worked(&world, "alice", None).await;
    let refused = first_exchange(&world.user_proxy, &world.server, &token_of(&world, "alice"))
        .param("scope", "unknown")
        .send()
        .await;
    assert_eq!(refused.status, 400);
    let event = world.server.last_event().await;
    assert_eq!((&event["outcome"], &event["session_id"]), (&json!("refused"), &json!(sid)));
    // A client that is not authenticated has no session.
    let unknown = Agent::new("email-svc", Auth::Basic("not-the-secret-0123456789".into()));
    first_exchange(&unknown, &world.server, &token_of(&world, "alice")).send().await;
    world.server.settled().await;
    assert_eq!(world.server.last_event().await["session_id"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_the_issuer_stays() {
    let world = World::new().await;
    let answer = first_exchange(&world.user_proxy, &world.server, &world.user_token())
        .param("session_id", "mine")
        .send()
        .await
        .with_status(200);
    assert_eq!(answer.claims()["sid"], "session-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_does_not_survive_the_erasure_of_its_user() {
    let world = with_bob_and_the_second_agent().await;
    let before = [worked(&world, "bob", None).await, worked(&world, "bob", Some("task")).await];
    let who = actchain::domain::principal::Principal::new(IDP, "bob");
    let mut sql = world.server.sql().await;
    world.server.revoke("B").await;
    let erased = actchain::services::erasure::erase(&world.server.operator(), &who).await.unwrap();
    assert!(matches!(erased, actchain::services::erasure::ErasureOutcome::Erased(_)), "{erased:?}");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM session").fetch_one(&mut sql).await.unwrap();
    assert_eq!(rows, 0);
    // The names of another user are read after the erasure; the request of the erased one is repeated, and refused.
    first_exchange(&world.user_proxy, &world.server, &token_of(&world, "carol")).send().await;
    first_exchange(&world.user_proxy, &world.server, &token_of(&world, "bob")).send().await;
    let refused: Uuid = world.server.last_event().await["session_id"].as_str().unwrap().parse().unwrap();
    assert!(!before.contains(&refused));
    world
        .server
        .apply(&format!(
            "delegations:\n  - {{id: B2, delegator: {{iss: {IDP}, sub: bob}}, delegate: user-proxy, expires_in: 600}}"
        ))
        .await
        .unwrap();
    let after = [worked(&world, "bob", None).await, worked(&world, "bob", Some("task")).await];
    assert!(before.iter().all(|one| !after.contains(one)), "{before:?} {after:?}");
}
