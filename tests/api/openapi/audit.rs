//! The responses of the audit log's endpoints, checked against the description.

use actchain::domain::audit::partitions;
use actchain::jobs;
use serde_json::{Value, json};

use super::{Held, Who};
use crate::audit_archive::archive;
use crate::support::agent::ACCESS_TOKEN;
use crate::support::contract::Contract;
use crate::support::management::Api;
use crate::support::world::World;

/// Sends every kind of audit query.
pub(super) async fn the_log_is_asked(held: &Held<'_>) {
    let admin = Who::Client(&held.world.admin);
    let logs = "/api/v1/audit-logs";
    let page = held.done(admin, ("GET", &format!("{logs}?limit=1000&order=oldest")), Value::Null).await;
    let events = page.json["items"].as_array().unwrap();
    let exchange = events.iter().find(|event| event["action"] == "oauth.token.exchanged").unwrap();
    let path = format!("{logs}/{}", exchange["id"].as_str().unwrap());
    let shown = held.done(admin, ("GET", &path), Value::Null).await;
    assert_eq!(shown.json["event"], *exchange);
    held.done(admin, ("GET", &format!("{path}/evidence")), Value::Null).await;
    held.done(admin, ("GET", &format!("{logs}/counts")), Value::Null).await;
    let app = &held.world.server.app;
    jobs::audit_verification::run_once(app, app.clock.now()).await.unwrap();
    held.done(admin, ("GET", &format!("{logs}/health")), Value::Null).await;
    held.done(admin, ("GET", &format!("{logs}/chains?limit=100")), Value::Null).await;
    let path = format!("{logs}/chains/{}", exchange["txn"].as_str().unwrap());
    held.done(admin, ("GET", &path), Value::Null).await;
    held.done(admin, ("GET", &format!("{path}/evidence")), Value::Null).await;
    let sessions = held.done(admin, ("GET", "/api/v1/sessions?limit=100"), Value::Null).await;
    let path = format!("/api/v1/sessions/{}", sessions.json["items"][0]["id"].as_str().unwrap());
    held.done(admin, ("GET", &path), Value::Null).await;
    held.done(admin, ("GET", &format!("{path}/trace")), Value::Null).await;
    for format in ["json", "csv", "sarif"] {
        held.done(admin, ("GET", &format!("{path}/export?format={format}")), Value::Null).await;
    }
    let graph = held.done(admin, ("GET", "/api/v1/agents/user-proxy/delegations/graph"), Value::Null).await;
    assert!(!graph.json["inbound"]["items"].as_array().unwrap().is_empty());
    for path in [
        format!("{logs}?limit=0"),
        format!("{logs}/x?y=z"),
        format!("{logs}/counts?from=x"),
        format!("{logs}/health?y=z"),
        format!("{logs}/chains?limit=0"),
        format!("{logs}/chains/x?y=z"),
        format!("{logs}/x/evidence?y=z"),
        format!("{logs}/chains/x/evidence?y=z"),
        format!("{logs}/stream?from_seq=x"),
        "/api/v1/sessions?limit=0".into(),
        "/api/v1/sessions/x?y=z".into(),
        "/api/v1/sessions/x/trace?limit=0".into(),
        "/api/v1/sessions/x/export?format=xml".into(),
        "/api/v1/agents/user-proxy/delegations/graph?limit=0".into(),
    ] {
        held.refused(admin, ("GET", &path), Value::Null, (400, "malformed_request")).await;
    }
    for path in [
        format!("{logs}/nothing"),
        format!("{logs}/chains/nothing"),
        format!("{logs}/nothing/evidence"),
        format!("{logs}/chains/nothing/evidence"),
        format!("{logs}/stream?from_seq=999999"),
        "/api/v1/sessions/nothing".into(),
        "/api/v1/sessions/nothing/trace".into(),
        "/api/v1/sessions/nothing/export".into(),
        "/api/v1/agents/unknown/delegations/graph".into(),
    ] {
        held.refused(admin, ("GET", &path), Value::Null, (404, "not_found")).await;
    }
    // A server that stops disconnects its readers, so that the response ends.
    held.world.server.app.log_watcher.close();
    let token = held.world.management_token(&held.world.admin).await;
    let stream = format!("{logs}/stream");
    let api = Api::get(&held.world.server, &stream).client(&held.world.admin, &token);
    let answer = held.send(api, "GET", &stream).await;
    assert_eq!((answer.status, answer.json), (200, json!(null)));
}

/// Reads an archived event, and a chain whose first event is archived.
pub(super) async fn events_are_archived(contract: &Contract) {
    let world = World::new().await;
    let held = Held { world: &world, contract };
    let (admin, server) = (Who::Client(&world.admin), &world.server);
    let ended = world.first_hop().await;
    let first = world.first_hop().await;
    let seq = server.last_event().await["seq"].to_string();
    server.pass(1);
    assert!(partitions::open(&mut server.sql().await, 0, server.clock.now()).await.unwrap());
    world.email_svc.exchange(server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    archive(server, tempfile::tempdir().unwrap().path()).await.unwrap();
    let [ended, first] = [&ended, &first].map(|one| one.claims()["txn"].as_str().unwrap().to_owned());
    let chains = [format!("chains/{ended}"), format!("chains/{first}/evidence")];
    for place in [seq.clone(), format!("{seq}/evidence")].into_iter().chain(chains) {
        let path = format!("/api/v1/audit-logs/{place}");
        held.refused(admin, ("GET", &path), Value::Null, (410, "events_archived")).await;
    }
}
