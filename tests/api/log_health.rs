//! The state of the log: what the verification in the background finds, and when a witness or a person vouches for the log.

use actchain::domain::audit::verify::IntegrityErrorKind;
use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::jobs::{self, audit_verification};
use actchain::services::audit::verification::NextStep;
use actchain::services::audit::{TrustAnchors, index, verify_database};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::audit_archive::{archive, old_world};
use crate::support::Server;
use crate::support::browser::{Browser, form};
use crate::support::world::{IDP, World};
use crate::transparency::{checkpoint, grow};

/// Longer than a state of the log is reused.
const MINUTE: i64 = 61;
const DAY: i64 = 86_400;

/// The state by the API, after a minute and with a new checkpoint.
async fn covered_health(world: &World) -> Value {
    checkpoint(&world.server).await;
    health(world).await
}

/// The state by the API, after a minute: a server reuses it for so long.
async fn health(world: &World) -> Value {
    world.server.pass(MINUTE);
    world.as_admin("GET", "/api/v1/audit-logs/health", Value::Null).await.with_status(200).json
}

async fn step(server: &Server) -> NextStep {
    audit_verification::run_once(&server.app, server.clock.now()).await.unwrap()
}

/// Verifies until nothing is left to do.
async fn verify(server: &Server) {
    while step(server).await == NextStep::Portion {}
}

async fn change(server: &Server, statement: &str) {
    server.sql().await.execute(AssertSqlSafe(statement)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_has_no_concern_only_if_it_was_verified_and_a_person_vouches() {
    let world = World::new().await;
    let server = &world.server;
    world.first_hop().await;
    assert_eq!(covered_health(&world).await["concerns"], json!(["no_witness", "not_verified"]));
    verify(server).await;
    let verified = covered_health(&world).await;
    assert_eq!(verified["concerns"], json!(["no_witness"]));
    assert_eq!(verified["last_verification"]["integrity_error"], Value::Null);
    let admin = Principal::new(IDP, "ann");
    let mut auditor = Browser::of(server, ConsoleRole::Auditor, Some(&admin)).await;
    let page = auditor.get("/console/log").await;
    assert!(page.text.contains("class=\"warn\" title=") && page.text.contains("Every event was verified"));
    let kept = checkpoint(server).await;
    let asked = form(&page, "/console/log/compare").with("note", &kept);
    let compared = auditor.submit(&asked).await.with_status(200);
    assert!(
        compared.text.contains("class=\"ok\" title=") && compared.text.contains("log consistent"),
        "{}",
        compared.text
    );
    let vouched = covered_health(&world).await;
    assert_eq!((&vouched["verdict"], &vouched["concerns"]), (&json!("consistent"), &json!([])));
    assert!(vouched["kept_checkpoint"]["size"].as_u64().unwrap() > 0);
    server.pass(DAY);
    assert_eq!(covered_health(&world).await["concerns"], json!(["not_verified"]), "verified too long ago");
    server.pass(6 * DAY);
    verify(server).await;
    assert_eq!(covered_health(&world).await["concerns"], json!(["no_witness"]), "compared too long ago");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_reads_the_whole_log_reads_its_state() {
    let world = World::new().await;
    let path = "/api/v1/audit-logs/health";
    let answer = world.as_agent(&world.user_proxy, "GET", path, Value::Null).await;
    assert_eq!((answer.status, answer.reason()), (403, "insufficient_scope"));
    let user =
        crate::support::management::Api::get(&world.server, path).user(&world.user_token()).send().await;
    assert_eq!((user.status, user.reason()), (403, "insufficient_scope"), "{}", user.text);
    let unknown = world.as_admin("GET", &format!("{path}?deep=1"), Value::Null).await;
    assert_eq!(unknown.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_is_on_every_page_until_a_verification_finds_the_log_valid() {
    let world = World::new().await;
    let server = &world.server;
    world.first_hop().await;
    // What a checkpoint does not cover yet is compared at once, and a stored hash represents a complete block.
    grow(server, 1_100).await;
    index::run_once(&server.app.pool).await.unwrap();
    checkpoint(server).await;
    verify(server).await;
    let (seq, document): (i64, String) =
        sqlx::query_as("SELECT seq, document FROM audit_event ORDER BY seq OFFSET 2 LIMIT 1")
            .fetch_one(&mut server.sql().await)
            .await
            .unwrap();
    change(
        server,
        &format!(
            "UPDATE audit_event SET document = replace(document, '\"seq\"', '\"sea\"') WHERE seq = {seq}"
        ),
    )
    .await;
    verify(server).await;
    assert_eq!(health(&world).await["verdict"], "consistent", "the next verification is not due");
    server.pass(DAY / 2);
    verify(server).await;
    let broken = health(&world).await;
    assert_eq!(broken["verdict"], "broken");
    assert_eq!(broken["last_verification"]["integrity_error"], json!({"seq": seq, "kind": "order"}));
    assert!(broken["why"].as_str().unwrap().contains(&format!("an error at event {seq}")), "{broken}");
    let admin = Principal::new(IDP, "ann");
    for role in [ConsoleRole::Auditor, ConsoleRole::Admin, ConsoleRole::User] {
        let page = Browser::of(server, role, Some(&admin)).await.get("/console").await;
        assert_eq!(page.text.contains("The audit log fails a check."), role != ConsoleRole::User, "{role:?}");
    }
    let restored =
        sqlx::query("UPDATE audit_event SET document = $1 WHERE seq = $2").bind(document).bind(seq);
    restored.execute(&mut server.sql().await).await.unwrap();
    server.pass(3_600);
    verify(server).await;
    assert_eq!(health(&world).await["verdict"], "consistent");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_change_is_found_as_by_the_command() {
    let changes = [
        "UPDATE audit_event SET document = replace(document, 'filler', 'folder') WHERE seq = 40",
        "UPDATE audit_event SET document = document || ' ' WHERE seq = 41",
        "UPDATE audit_event SET personal = '{}' WHERE personal IS NOT NULL",
        "DELETE FROM audit_event WHERE seq = 42",
        "DELETE FROM audit_event WHERE seq >= 1090",
        "UPDATE audit_checkpoint SET note = replace(note, E'\\n\\n', E'1\\n\\n')",
        "UPDATE audit_checkpoint SET note = '' WHERE size = (SELECT max(size) FROM audit_checkpoint)",
        "UPDATE audit_checkpoint SET size = size - 1",
        "UPDATE audit_head SET peaks = set_byte(peaks, 0, 1 - get_byte(peaks, 0) % 2)",
        "UPDATE audit_node SET hash = set_byte(hash, 0, (get_byte(hash, 0) + 1) % 256) WHERE level = 1 AND n = 2",
    ];
    for statement in changes {
        let world = World::new().await;
        let server = &world.server;
        world.first_hop().await;
        grow(server, 1_100).await;
        index::run_once(&server.app.pool).await.unwrap();
        checkpoint(server).await;
        change(server, statement).await;
        let report = verify_database(&mut server.sql().await, &TrustAnchors::default()).await.unwrap();
        verify(server).await;
        let found = &health(&world).await["last_verification"]["integrity_error"];
        assert_eq!(found, &json!(report.integrity_error), "{statement}");
        assert!(report.integrity_error.is_some(), "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_off_is_missed_at_once() {
    let world = World::new().await;
    grow(&world.server, 40).await;
    checkpoint(&world.server).await;
    change(&world.server, "DELETE FROM audit_event WHERE seq >= 39").await;
    let broken = health(&world).await;
    assert_eq!(broken["verdict"], "broken");
    assert!(broken["why"].as_str().unwrap().contains("are missing"), "{broken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_continues_a_verification_and_finds_what_was_removed_meanwhile() {
    let world = World::new().await;
    let server = &world.server;
    grow(server, 40_000).await;
    let other = server.twin().await;
    assert_eq!(step(server).await, NextStep::Portion);
    assert_eq!(step(&other).await, NextStep::Portion);
    let running = health(&world).await;
    assert_eq!(running["running_verification"]["events"], 32_768);
    assert_eq!(running["last_verification"], Value::Null);
    verify(&other).await;
    let ended = health(&world).await;
    assert_eq!(ended["running_verification"], Value::Null);
    assert!(ended["last_verification"]["events"].as_u64().unwrap() >= 40_000);
    assert_eq!(ended["last_verification"]["integrity_error"], Value::Null);
    server.pass(DAY / 2);
    let head: (i64, Vec<u8>) = sqlx::query_as("SELECT size, peaks FROM audit_head")
        .fetch_one(&mut server.sql().await)
        .await
        .unwrap();
    grow(server, 60_000).await;
    for _ in 0..3 {
        assert_eq!(step(server).await, NextStep::Portion);
    }
    // The owner of the database removes the end of the log, with all that vouches for it.
    let rewind = sqlx::query("UPDATE audit_head SET size = $1, peaks = $2").bind(head.0).bind(head.1);
    rewind.execute(&mut server.sql().await).await.unwrap();
    change(server, &format!("DELETE FROM audit_event WHERE seq >= {}", head.0)).await;
    change(server, "DELETE FROM audit_checkpoint").await;
    assert_eq!(step(&other).await, NextStep::Nothing);
    let error = &health(&world).await["last_verification"]["integrity_error"];
    assert_eq!(error, &json!({"seq": head.0, "kind": IntegrityErrorKind::Truncated}));
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_events_are_verified_by_their_hashes() {
    let world = old_world().await;
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(archive(&world.server, folder.path()).await.unwrap().len(), 2);
    verify(&world.server).await;
    let valid = health(&world).await;
    assert_eq!(valid["verdict"], "consistent");
    assert!(valid["last_verification"]["events"].as_u64().unwrap() >= 3_100);
    change(&world.server, "UPDATE audit_partition SET statement = NULL WHERE partition = 0").await;
    world.server.pass(DAY / 2);
    verify(&world.server).await;
    let error = &health(&world).await["last_verification"]["integrity_error"];
    assert_eq!(error, &json!({"seq": 0, "kind": "gap"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn write_access_to_the_database_alone_makes_no_result() {
    let world = World::new().await;
    let server = &world.server;
    world.first_hop().await;
    change(server, "UPDATE audit_event SET document = document || ' ' WHERE seq = 1").await;
    verify(server).await;
    assert_eq!(health(&world).await["verdict"], "broken");
    for forged in [
        "UPDATE log_check SET state = jsonb_set(state, '{last,integrity_error}', 'null')",
        "UPDATE log_check SET state = '{}'",
        "UPDATE log_check SET mac = ''",
        "DELETE FROM log_check",
    ] {
        change(server, forged).await;
        let unknown = health(&world).await;
        let concerns = unknown["concerns"].as_array().unwrap();
        assert!(concerns.contains(&json!("not_verified")), "{forged}: {unknown}");
        verify(server).await;
        assert_eq!(health(&world).await["verdict"], "broken", "{forged}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_period_nothing_is_verified() {
    let world = World::configured("[audit]\nverify_every = 0").await;
    world.first_hop().await;
    assert_eq!(step(&world.server).await, NextStep::Nothing);
    assert_eq!(covered_health(&world).await["concerns"], json!(["no_witness", "not_verified"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_accepts_nothing_is_a_concern_after_ten_minutes() {
    let world = World::new().await;
    let server = &world.server;
    let receiver = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(500)).mount(&receiver).await;
    let body = json!({"url": receiver.uri(), "filter": {}});
    world.as_admin("PUT", "/api/v1/audit-sinks/siem", body).await;
    let has_stopped = async || {
        let health = health(&world).await;
        health["concerns"].as_array().unwrap().contains(&json!("sink_stopped"))
    };
    jobs::sinks::run_once(&server.app, server.clock.now()).await.unwrap();
    assert!(!has_stopped().await, "it may answer soon");
    server.pass(600);
    assert!(has_stopped().await);
    receiver.reset().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&receiver).await;
    server.pass(3_600);
    jobs::sinks::run_once(&server.app, server.clock.now()).await.unwrap();
    assert!(!has_stopped().await);
}
