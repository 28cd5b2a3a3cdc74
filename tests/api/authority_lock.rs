//! The authority lock is exclusive only for requests that can revoke something: a call that is refused because of its
//! caller or its target does not take the lock. While the lock is exclusive, no server records anything.

use std::time::Duration;

use actchain::platform::db;
use actchain::services::transaction::{AuditedTransaction, Authorized};
use serde_json::json;
use sqlx::{Connection as _, Executor as _};

use crate::support::agent::Agent;
use crate::support::agent::Auth;
use crate::support::interrupt::dropped_after;
use crate::support::management::Api;
use crate::support::world::{IDP, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_operation_does_not_take_the_exclusive_lock() {
    let world = World::new().await;
    let active = world.granted("bob", json!({})).await.id();
    let waiting = world.asked("bob", json!({})).await;
    let revoked = world.granted("bob", json!({})).await.id();
    world.moves("bob", &revoked, "revoke", json!({})).await.with_status(200);
    let key = Agent::new("any", Auth::None).key.public_jwk();
    let token = world.first_hop_of("bob").send().await.with_status(200);
    let revocation = || world.user_proxy.at(&world.server, "/oauth/revoke").param("token", token.token());
    revocation().send().await.with_status(200);
    let (agent, admin) = (&world.stranger, &world.admin);
    let agents = world.management_token(agent).await;
    let admins = world.management_token(admin).await;
    let proxys = world.management_token(&world.user_proxy).await;

    // While a transaction shares the lock, no exclusive lock is granted.
    let mut sharing = world.server.sql().await;
    let mut transaction = sharing.begin().await.unwrap();
    transaction.execute("SELECT pg_advisory_xact_lock_shared(7223459)").await.unwrap();

    let who = json!({"iss": IDP, "sub": "bob", "reason": "x"});
    let unknown = json!({"iss": world.server.app.issuer, "sub": "unknown", "reason": "x"});
    let thumbprint = "A".repeat(43);
    let client = |name: &str| format!("/api/v1/clients/user-proxy/{name}");
    let of = |id: &str, name: &str| format!("/delegate/{id}/{name}");
    let calls = [
        (
            agent,
            &agents,
            "POST",
            "/api/v1/principals/revoke-all".to_owned(),
            who,
            (403, "insufficient_scope"),
        ),
        (admin, &admins, "POST", "/api/v1/principals/revoke-all".to_owned(), unknown, (404, "not_found")),
        (agent, &agents, "POST", client("disable"), json!({}), (403, "insufficient_scope")),
        (agent, &agents, "POST", client("enable"), json!({}), (403, "insufficient_scope")),
        (admin, &admins, "POST", "/api/v1/clients/unknown/disable".into(), json!({}), (404, "not_found")),
        (
            agent,
            &agents,
            "DELETE",
            client(&format!("keys/{thumbprint}")),
            json!({}),
            (403, "insufficient_scope"),
        ),
        (
            admin,
            &admins,
            "DELETE",
            format!("/api/v1/clients/unknown/keys/{thumbprint}"),
            json!({}),
            (404, "not_found"),
        ),
        (agent, &agents, "DELETE", "/api/v1/tasks/none/agents".into(), json!({}), (404, "not_found")),
        (agent, &agents, "POST", of(&waiting, "deny"), json!({}), (404, "not_found")),
        (&world.user_proxy, &proxys, "POST", of(&waiting, "deny"), json!({}), (403, "insufficient_scope")),
        (admin, &admins, "POST", of(&active, "deny"), json!({}), (409, "invalid_state_transition")),
        (agent, &agents, "POST", of(&active, "rotate-key"), json!({"jwk": key}), (404, "not_found")),
        (
            &world.user_proxy,
            &proxys,
            "POST",
            of(&active, "rotate-key"),
            json!({"jwk": key}),
            (403, "insufficient_scope"),
        ),
        (agent, &agents, "POST", of(&active, "revoke"), json!({}), (404, "not_found")),
        (admin, &admins, "POST", of(&revoked, "revoke"), json!({}), (409, "invalid_state_transition")),
        (agent, &agents, "POST", "/api/v1/connections/none/disconnect".into(), json!({}), (404, "not_found")),
        (
            agent,
            &agents,
            "POST",
            "/api/v1/connections/none/rotate".into(),
            json!({"credential": {"key": "k"}}),
            (404, "not_found"),
        ),
    ];
    for (who, token, method, path, body, (status, reason)) in calls {
        let answer = Api::new(&world.server, method, &path).json(&body).client(who, token).send().await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{method} {path}: {}", answer.text);
    }
    let again = revocation().send().await;
    assert_eq!(again.status, 200, "what was revoked before is not revoked again: {}", again.text);
    // Meanwhile, operations that only add are recorded.
    world.first_hop_of("bob").send().await.with_status(200);
    transaction.rollback().await.unwrap();
    world.moves("bob", &active, "revoke", json!({})).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_dropped_while_it_begins_releases_the_lock_and_its_connection() {
    let world = World::new().await;
    let options = world.server.app.pool.connect_options();
    let pool = db::pool((*options).clone(), 1, Duration::from_secs(120));
    let mut polls = 1;
    loop {
        let beginning = AuditedTransaction::begin_exclusive(&pool, Authorized::without_request());
        if dropped_after(polls, beginning).await.is_some() {
            break;
        }
        polls += 1;
        // The pool has one connection: this waits until it has returned.
        let locks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'";
        let left: i64 = sqlx::query_scalar(locks).fetch_one(&pool).await.unwrap();
        assert_eq!(left, 0, "locks after {} polls", polls - 1);
    }
    assert!(polls > 1, "it was dropped before it had begun");
}
