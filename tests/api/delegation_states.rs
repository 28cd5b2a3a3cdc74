//! A final state never changes: the first end on the path decides, whatever ends later. Tested for single delegations,
//! lists, chains and the log.

use serde_json::{Value, json};

use crate::support::START;
use crate::support::life::instant;
use crate::support::life::steps;
use crate::support::management::Api;
use crate::support::world::{IDP, World};

async fn swept(world: &World) {
    let app = &world.server.app;
    actchain::jobs::expiry::run_once(app, app.clock.now()).await.unwrap();
}

/// A root of Bob, and its child.
async fn family(world: &World, root: Value, child: Value) -> (String, String) {
    let root = world.granted("bob", root).await.with_status(201).id();
    let child = world.passed_on(&world.user_proxy, (&root, "email-svc"), child).await.with_status(201).id();
    (root, child)
}

/// State and `ended_by`, which must be equal alone and in the list of the state; and whether the log has an expiry.
async fn shown(world: &World, id: &str) -> (String, Value, bool) {
    let one = world.shown(id).await;
    let state = one["state"].as_str().unwrap().to_owned();
    let listed = world.as_admin("GET", &format!("/delegate?limit=100&state={state}"), json!({})).await;
    let items = listed.with_status(200).json["items"].as_array().unwrap().clone();
    assert!(items.contains(&one), "{id} is not among those that are {state}");
    let events = world.events_about(id).await;
    let expired = events.iter().any(|event| event["action"] == "delegation.expired");
    (state, one["ended_by"].clone(), expired)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_parent_ended_stays_revoked_and_never_expires() {
    let world = World::new().await;
    let (root, child) = family(&world, json!({"expires_in": 600}), json!({"expires_in": 300})).await;
    let grandchild =
        world.passed_on(&world.email_svc, (&child, "stranger"), json!({"expires_in": 200})).await.id();
    let first = world.first_hop_of("bob").send().await.with_status(200);
    let txn = first.claims()["txn"].as_str().unwrap().to_owned();
    let next = world
        .email_svc
        .exchange(&world.server, first.token(), crate::support::agent::ACCESS_TOKEN)
        .send()
        .await
        .with_status(200);
    assert_eq!(next.json["delegation_id"], json!(child));
    world.server.pass(100);
    world.moves("bob", &root, "revoke", json!({})).await.with_status(200);
    for later in [0, 250, 10_000] {
        world.server.pass(later);
        swept(&world).await;
        for id in [&child, &grandchild] {
            assert_eq!(shown(&world, id).await, ("revoked".into(), json!(root), false), "{later}");
        }
        assert_eq!(shown(&world, &root).await, ("revoked".into(), json!(null), false));
    }
    // The chain shows the same state.
    let token = world.management_token(&world.admin).await;
    let chain = Api::get(&world.server, &format!("/api/v1/audit-logs/chains/{txn}"));
    let chain = chain.client(&world.admin, &token).send().await.with_status(200);
    let hops = chain.json["hops"].as_array().unwrap();
    let states: Vec<&Value> = hops.iter().map(|hop| &hop["delegation_state"]).collect();
    assert!(!states.is_empty() && states.iter().all(|state| **state == json!("revoked")), "{}", chain.text);
    // A sweep does not read delegations that ended without an event again.
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM delegation WHERE NOT expiry_logged AND expires_at <= $1")
            .bind(world.server.clock.now())
            .fetch_one(&mut world.server.sql().await)
            .await
            .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expired_before_its_parent_was_revoked_stays_expired() {
    let world = World::new().await;
    for at in [300, 301] {
        let (root, child) = family(&world, json!({"expires_in": 600}), json!({"expires_in": 300})).await;
        world.server.pass(at);
        world.moves("bob", &root, "revoke", json!({})).await.with_status(200);
        for later in [0, 10_000] {
            world.server.pass(later);
            swept(&world).await;
            assert_eq!(shown(&world, &child).await, ("expired".into(), json!(null), true), "{at}, {later}");
            assert_eq!(shown(&world, &root).await.0, "revoked");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_up_before_its_parent_was_revoked_stays_expired() {
    let world = World::new().await;
    let (root, child) = family(&world, json!({"max_uses": 2}), json!({"max_uses": 1})).await;
    let used = async |agent, id: &str| {
        let path = format!("/delegate/{id}/steps");
        world.as_agent(agent, "POST", &path, steps(1)).await.with_status(200);
    };
    let other = world.passed_on(&world.user_proxy, (&root, "stranger"), json!({})).await.id();
    used(&world.email_svc, &child).await;
    world.server.pass(1);
    used(&world.user_proxy, &root).await;
    world.server.pass(1);
    world.moves("bob", &root, "revoke", json!({})).await.with_status(200);
    for later in [0, 10_000] {
        world.server.pass(later);
        swept(&world).await;
        assert_eq!(shown(&world, &child).await, ("expired".into(), json!(null), true));
        assert_eq!(shown(&world, &other).await.1, json!(root), "its last use was taken above it");
        assert_eq!(shown(&world, &other).await.0, "expired");
        assert_eq!(shown(&world, &root).await.0, "revoked", "that is what its revocation answered");
    }
    // The last use by an exchange also sets the time of the end.
    let (root, child) = family(&world, json!({"max_uses": 1}), json!({})).await;
    world.first_hop_of("bob").send().await.with_status(200);
    world.server.pass(1);
    world.moves("bob", &root, "revoke", json!({})).await.with_status(200);
    assert_eq!(shown(&world, &child).await.0, "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_cut_off_decides_and_a_later_one_changes_nothing() {
    let world = World::new().await;
    let revoke_all = async |iss: &str, sub: &str| {
        let body = json!({"iss": iss, "sub": sub, "reason": "left"});
        world.as_admin("POST", "/api/v1/principals/revoke-all", body).await.with_status(200);
    };
    let (before, _) = family(&world, json!({"expires_in": 50}), json!({})).await;
    world.server.pass(50);
    let (root, child) = family(&world, json!({"expires_in": 600}), json!({"expires_in": 300})).await;
    let asked = world.asked("bob", json!({})).await;
    world.server.pass(100);
    revoke_all(IDP, "bob").await;
    world.server.pass(1_000);
    revoke_all(IDP, "bob").await;
    // A token issued before is not accepted, with a tolerance for the clock skew of its issuer.
    world.server.pass(11);
    let (fresh, below) = family(&world, json!({"expires_in": 600}), json!({"expires_in": 300})).await;
    world.server.pass(100);
    let issuer = world.server.app.issuer.clone();
    revoke_all(&issuer, "email-svc").await;
    for later in [0, 500, 10_000] {
        world.server.pass(later);
        swept(&world).await;
        assert_eq!(shown(&world, &before).await, ("expired".into(), json!(null), true));
        assert_eq!(shown(&world, &root).await, ("revoked".into(), json!(null), false));
        assert_eq!(shown(&world, &child).await, ("revoked".into(), json!(root), false));
        assert_eq!(shown(&world, &asked).await, ("revoked".into(), json!(null), false));
        assert_eq!(
            shown(&world, &below).await,
            ("revoked".into(), json!(null), false),
            "its holder was cut off"
        );
    }
    assert_eq!(shown(&world, &fresh).await, ("expired".into(), json!(null), true));
    assert_eq!(world.shown(&fresh).await["expires_at"], instant(START + 50 + 100 + 1_000 + 11 + 600));
}
