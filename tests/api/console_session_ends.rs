//! Every end of a session in the console is an event that says why.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::jobs;
use actchain::services::registrations::{Delegations, remove_issuer};
use actchain::services::restored::{self, ReviewScope};
use actchain::services::{erasure, principals};
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::browser::Browser;
use crate::support::world::{IDP, World};

/// Causes and users of the ends, in the order of the log.
async fn ends(server: &Server) -> Vec<(Value, Value)> {
    let mut events = server.events().await;
    events.retain(|event| event["action"] == "console.session_ended");
    events.iter().map(|event| (event["detail"]["cause"].clone(), event["subject"]["sub"].clone())).collect()
}

async fn sweep(server: &Server) {
    jobs::sweep::run_once(&server.app, server.clock.now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_session_ends_once_with_an_event() {
    let world = World::new().await;
    let (server, twin) = (&world.server, world.server.twin().await);
    let alice = Principal::new(IDP, "alice");
    let mut used = Browser::of(server, ConsoleRole::User, Some(&alice)).await;
    let mut idle = Browser::of_operator(server).await;
    server.pass(1_700);
    assert_eq!(used.get("/console").await.status, 200);
    sweep(server).await;
    assert_eq!(ends(server).await, [], "not yet");
    server.pass(200);
    sweep(server).await;
    sweep(&twin).await;
    // The browser of Alice was an operator's first.
    assert_eq!(ends(server).await, [(json!("idle"), Value::Null), (json!("idle"), Value::Null)]);
    assert_eq!((used.get("/console").await.status, idle.get("/console").await.status), (200, 303));
    // In use until it is too old.
    while used.get("/console").await.status == 200 {
        server.pass(1_500);
    }
    sweep(server).await;
    assert_eq!(ends(server).await[2..], [(json!("expired"), json!("alice"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_others_cause_is_an_event_with_its_cause() {
    let world = World::new().await;
    let server = &world.server;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|sub| Principal::new(IDP, sub));
    for who in [&alice, &alice, &bob, &carol] {
        Browser::of(server, ConsoleRole::User, Some(who)).await;
    }
    principals::revoke_all(&server.operator(), &bob, "Bob leaves").await.unwrap();
    assert_eq!(ends(server).await, [(json!("revoke_all"), json!("bob"))]);
    // Carol has a name in the log, and no authority.
    principals::revoke_all(&server.operator(), &Principal::new(IDP, "carol"), "prepares").await.unwrap();
    let erased = Browser::of(server, ConsoleRole::User, Some(&carol)).await;
    drop(erased);
    erasure::erase(&server.operator(), &carol).await.unwrap();
    let after = ends(server).await;
    let (last, _) = after.last().unwrap();
    assert_eq!(last, "person_erased", "{after:?}");
    assert_eq!(server.events().await.last().unwrap()["subject"], Value::Null);
    remove_issuer(&server.operator(), IDP, Delegations::Revoke).await.unwrap();
    let after = ends(server).await;
    assert_eq!(
        after[after.len() - 2..],
        [(json!("issuer_changed"), json!("alice")), (json!("issuer_changed"), json!("alice"))]
    );
    Browser::of_operator(server).await;
    restored::review_restored(&server.operator(), ReviewScope::All, None).await.unwrap();
    assert_eq!(ends(server).await.last(), Some(&(json!("backup_restored"), Value::Null)));
}
