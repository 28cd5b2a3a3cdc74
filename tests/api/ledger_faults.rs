//! The ledger fails closed: a stored value that is missing or unknown is a fault, never a default. Nothing is issued, the
//! fault is counted, and other requests are not affected.

use futures_util::future::join_all;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use crate::support::agent::{ACCESS_TOKEN, Request};
use crate::support::ends::ClosedGate;
use crate::support::management::Api;
use crate::support::world::World;
use crate::support::{Answer, Server};

/// The number of answers with a fault, of all servers of this process.
async fn faults(server: &Server) -> u64 {
    let metrics = Api::get(server, "/metrics").send().await.text;
    let count =
        metrics.lines().find_map(|line| line.strip_prefix("actchain_errors_total ")?.trim().parse().ok());
    count.unwrap_or(0)
}

/// The numbers of recorded tokens and of events about exchanges.
async fn recorded(sql: &mut PgConnection) -> (i64, i64) {
    let counts = sqlx::query_as(
        "SELECT (SELECT count(*) FROM issued_token),
                (SELECT count(*) FROM audit_event WHERE document LIKE '%\"oauth.token.exchanged\"%')",
    );
    counts.fetch_one(sql).await.unwrap()
}

/// Sends a request that has to meet a fault.
async fn assert_fault(world: &World, request: Request<'_>, what: &str) {
    let mut sql = world.server.sql().await;
    let before = (faults(&world.server).await, recorded(&mut sql).await);
    let answer = request.send().await;
    assert_eq!((answer.status, answer.error()), (503, "temporarily_unavailable"), "{what}: {}", answer.text);
    assert!(answer.json.get("access_token").is_none() && answer.header("retry-after").is_some(), "{what}");
    assert!(faults(&world.server).await > before.0, "{what}: not counted");
    assert_eq!(recorded(&mut sql).await, before.1, "{what}: recorded");
}

/// Replaces a part of a function of the database; returns the statement that restores the function.
async fn replace(sql: &mut PgConnection, function: &str, (from, to): (&str, &str)) -> String {
    let definition: String = sqlx::query_scalar("SELECT pg_get_functiondef($1::regproc)")
        .bind(function)
        .fetch_one(&mut *sql)
        .await
        .unwrap();
    let changed = definition.replace(from, to);
    assert_ne!(changed, definition, "{function} has no {from}: {definition}");
    sql.execute(AssertSqlSafe(changed)).await.unwrap();
    definition
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_of_a_token_that_the_program_does_not_know_is_a_fault() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    let first = world.first_hop().await;
    let next = || world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN);
    next().send().await.with_status(200);
    let restore = replace(&mut sql, "token_problem", ("ELSE NULL::text", "ELSE 'unknown'::text")).await;
    assert_fault(&world, next(), "an unknown problem").await;
    let introspected = world.server.introspect(&world.mail_server, first.token()).await;
    assert_eq!(introspected.status, 503, "{}", introspected.text);
    sql.execute(AssertSqlSafe(restore)).await.unwrap();
    next().send().await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_a_delegation_that_the_program_does_not_know_is_a_fault() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    let made = world.made_by_alice("task").await;
    let token = world.hop_from_user(&made.agent, &world.user_token()).await.with_status(200);
    let own = || made.agent.exchange(&world.server, token.token(), ACCESS_TOKEN);
    own().send().await.with_status(200);
    let restore = replace(&mut sql, "delegation_state", ("'active'", "'unknown'")).await;
    assert_fault(&world, own(), "an unknown state").await;
    sql.execute(AssertSqlSafe(restore)).await.unwrap();
    own().send().await.with_status(200);
}

/// A value, a statement that removes it, and a statement that restores it.
const VALUES: [(&str, &str, &str); 6] = [
    (
        "the count of uses",
        "ALTER TABLE delegation_usage ALTER uses DROP NOT NULL;
         UPDATE delegation_usage SET uses = NULL WHERE delegation_id = 'D'",
        "UPDATE delegation_usage SET uses = 0 WHERE delegation_id = 'D'",
    ),
    (
        "the row that counts uses",
        "DELETE FROM delegation_usage WHERE delegation_id = 'D'",
        "INSERT INTO delegation_usage (delegation_id, uses) VALUES ('D', 0)",
    ),
    (
        "the version of the candidates",
        "ALTER TABLE candidate_version ALTER version DROP NOT NULL;
         UPDATE candidate_version SET version = NULL WHERE delegator_sub = 'alice'",
        "UPDATE candidate_version SET version = 1 WHERE delegator_sub = 'alice'",
    ),
    (
        "the version of the client",
        "ALTER TABLE client ALTER version DROP NOT NULL; CREATE TABLE saved AS SELECT client_id, version FROM client;
         UPDATE client SET version = NULL WHERE client_id = 'user-proxy'",
        "UPDATE client c SET version = s.version FROM saved s WHERE s.client_id = c.client_id",
    ),
    (
        "the time of the last purge",
        "DELETE FROM replay_horizon",
        "INSERT INTO replay_horizon VALUES (true, 'epoch')",
    ),
    (
        "the version of the registry",
        "ALTER TABLE registry ALTER version DROP NOT NULL; CREATE TABLE saved_registry AS SELECT version FROM registry;
         UPDATE registry SET version = NULL",
        "UPDATE registry SET version = (SELECT version FROM saved_registry)",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_value_is_a_fault() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    for (what, remove, restore) in VALUES {
        // Caches have what the exchange needs, so that the ledger is the first to read the value.
        world.first_hop_of("alice").send().await.with_status(200);
        sql.execute(remove).await.unwrap();
        assert_fault(&world, world.first_hop_of("alice"), what).await;
        sql.execute(restore).await.unwrap();
        let restored = world.first_hop_of("alice").send().await;
        assert_eq!(restored.status, 200, "{what}: {}", restored.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_with_a_missing_value_fails_alone() {
    let world = World::new().await;
    world.granted("bob", json!({})).await.with_status(201);
    let mut sql = world.server.sql().await;
    for (what, remove, restore) in VALUES.into_iter().take(2) {
        world.first_hop_of("bob").send().await.with_status(200);
        world.first_hop_of("alice").send().await.with_status(200);
        sql.execute(remove).await.unwrap();
        // While the gate is closed, requests gather in one batch.
        let mut gate = ClosedGate::of(&world.server).await;
        let requests = (0..12).map(|n| world.first_hop_of(if n % 3 == 0 { "alice" } else { "bob" }).send());
        let opened = async {
            gate.has_waiting(1).await;
            gate.open().await;
        };
        let (answers, ()) = tokio::join!(join_all(requests), opened);
        let statuses: Vec<u16> = answers.iter().map(|answer: &Answer| answer.status).collect();
        let expected: Vec<u16> = (0..12).map(|n| if n % 3 == 0 { 503 } else { 200 }).collect();
        assert_eq!(statuses, expected, "{what}");
        sql.execute(restore).await.unwrap();
    }
}
