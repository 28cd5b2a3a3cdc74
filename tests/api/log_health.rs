//! The state of the log: what the verification in the background finds, and when a witness or a person vouches for the log.

use actchain::domain::audit::health::{LogConcern, LogVerdict};
use actchain::domain::audit::verify::IntegrityErrorKind;
use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::jobs::{self, audit_verification};
use actchain::services::audit::health::health as log_health;
use actchain::services::audit::verification::{self, NextStep};
use actchain::services::audit::{TrustAnchors, index, verify_database};
use actchain_protocol::signed_note;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::audit_archive::{archive, old_world};
use crate::support::Server;
use crate::support::browser::{Browser, form};
use crate::support::world::{IDP, World};
use crate::transparency::{self, checkpoint, cosign, grow, witness};

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

/// The same, in portions of 512 events.
async fn verify_in_portions(server: &Server) {
    while verification::step(&server.app, 512, server.clock.now()).await.unwrap() == NextStep::Portion {}
}

/// A log with an indexed block and a checkpoint. Events that are not indexed are compared at each check; of an indexed block
/// the stored hashes are.
async fn indexed_world() -> World {
    let world = World::new().await;
    world.first_hop().await;
    grow(&world.server, 1_100).await;
    index::run_once(&world.server.app.pool).await.unwrap();
    checkpoint(&world.server).await;
    world
}

type Head = (i64, Vec<u8>);

async fn head(server: &Server) -> Head {
    let read = sqlx::query_as("SELECT size, peaks FROM audit_head");
    read.fetch_one(&mut server.sql().await).await.unwrap()
}

/// Removes the events after a head, as the owner of the database, with all that was computed from them.
async fn cut(server: &Server, (size, peaks): &Head) {
    let rewind = sqlx::query("UPDATE audit_head SET size = $1, peaks = $2").bind(size).bind(peaks);
    rewind.execute(&mut server.sql().await).await.unwrap();
    change(server, &format!("DELETE FROM audit_event WHERE seq >= {size}")).await;
    change(server, "DELETE FROM audit_checkpoint").await;
    change(server, "DELETE FROM audit_cosignature").await;
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
    let world = indexed_world().await;
    let server = &world.server;
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
        "UPDATE audit_event SET document = replace(document, 'filler', 'folder') WHERE seq = 511",
        "UPDATE audit_event SET document = replace(document, 'filler', 'folder') WHERE seq = 512",
        "UPDATE audit_event SET document = replace(document, 'filler', 'folder') WHERE seq = 1060",
        "UPDATE audit_event SET document = document || ' ' WHERE seq = 41",
        "UPDATE audit_event SET personal = '{}' WHERE personal IS NOT NULL",
        "DELETE FROM audit_event WHERE seq = 42",
        "DELETE FROM audit_event WHERE seq >= 1090",
        "UPDATE audit_checkpoint SET note = replace(note, E'\\n\\n', E'1\\n\\n')",
        "UPDATE audit_checkpoint SET note = '' WHERE size = (SELECT max(size) FROM audit_checkpoint)",
        "UPDATE audit_checkpoint SET size = size - 1",
        "UPDATE audit_head SET peaks = set_byte(peaks, 0, 1 - get_byte(peaks, 0) % 2)",
        "INSERT INTO audit_cosignature (size, key, line, at) SELECT size, 'k', 'l', now() FROM audit_checkpoint LIMIT 1",
        "INSERT INTO audit_event (partition, seq, document) SELECT partition, seq + 5000, document FROM audit_event WHERE seq = 3",
        "UPDATE audit_node SET hash = set_byte(hash, 0, (get_byte(hash, 0) + 1) % 256) WHERE level = 1 AND n = 2",
    ];
    for statement in changes {
        let world = indexed_world().await;
        let server = &world.server;
        change(server, statement).await;
        let report = verify_database(&mut server.sql().await, &TrustAnchors::default()).await.unwrap();
        verify_in_portions(server).await;
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
    let before = head(server).await;
    grow(server, 60_000).await;
    for _ in 0..3 {
        assert_eq!(step(server).await, NextStep::Portion);
    }
    cut(server, &before).await;
    assert_eq!(step(&other).await, NextStep::Nothing);
    let error = &health(&world).await["last_verification"]["integrity_error"];
    assert_eq!(error, &json!({"seq": before.0, "kind": IntegrityErrorKind::Truncated}));
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_events_are_verified_by_their_hashes() {
    let world = old_world().await;
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(archive(&world.server, folder.path()).await.unwrap().len(), 2);
    verify_in_portions(&world.server).await;
    let valid = health(&world).await;
    assert_eq!(valid["verdict"], "consistent");
    assert_eq!(valid["last_verification"]["hashes_only"], 2_400);
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
        // A server that remembers nothing of the log.
        let other = server.twin().await;
        let unknown = log_health(&other.app, server.clock.now()).await;
        assert!(unknown.concerns().contains(&LogConcern::NotVerified), "{forged}: {unknown:?}");
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
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&receiver).await;
    let body = json!({"url": receiver.uri(), "filter": {}});
    world.as_admin("PUT", "/api/v1/audit-sinks/siem", body).await;
    let has_stopped = async || {
        let health = health(&world).await;
        health["concerns"].as_array().unwrap().contains(&json!("sink_stopped"))
    };
    jobs::sinks::run_once(&server.app, server.clock.now()).await.unwrap();
    receiver.reset().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(500)).mount(&receiver).await;
    server.pass(7 * DAY);
    server.disable("stranger").await;
    jobs::sinks::run_once(&server.app, server.clock.now()).await.unwrap();
    assert!(!has_stopped().await, "it may answer soon");
    server.pass(600);
    assert!(has_stopped().await);
    receiver.reset().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&receiver).await;
    server.pass(3_600);
    jobs::sinks::run_once(&server.app, server.clock.now()).await.unwrap();
    assert!(!has_stopped().await);
    server.pass(DAY);
    server.enable("stranger").await;
    assert!(!has_stopped().await, "the sink is behind, and no attempt has failed");
    receiver.reset().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(410)).mount(&receiver).await;
    jobs::sinks::run_once(&server.app, server.clock.now()).await.unwrap();
    server.pass(600);
    assert!(has_stopped().await, "this server has disabled the sink");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_cut_and_signed_again_is_not_the_one_that_was_seen() {
    let vouched_by = ["this server has seen", "were verified before", "a person kept"];
    for which in vouched_by {
        let world = World::new().await;
        let server = &world.server;
        world.first_hop().await;
        checkpoint(server).await;
        let before = head(server).await;
        for _ in 0..5 {
            world.second_hop().await;
        }
        match which {
            "this server has seen" => assert_eq!(health(&world).await["verdict"], "consistent"),
            "were verified before" => verify(server).await,
            _ => {
                let kept = checkpoint(server).await;
                let admin = Principal::new(IDP, "ann");
                let mut auditor = Browser::of(server, ConsoleRole::Auditor, Some(&admin)).await;
                let page = auditor.get("/console/log").await;
                auditor
                    .submit(&form(&page, "/console/log/compare").with("note", &kept))
                    .await
                    .with_status(200);
            }
        }
        cut(server, &before).await;
        checkpoint(server).await;
        // Another server has seen nothing, but reads what the first one has recorded.
        let other = server.twin().await;
        let asked = if which == "this server has seen" { server } else { &other };
        server.pass(MINUTE);
        let state = log_health(&asked.app, server.clock.now()).await;
        let LogVerdict::Broken(why) = &state.verdict else { panic!("{which}: {state:?}") };
        assert!(why.contains(which), "{which}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_contradicts_the_log_is_a_failure_for_a_week() {
    let world = World::new().await;
    let server = &world.server;
    world.first_hop().await;
    let before = head(server).await;
    world.second_hop().await;
    let kept = checkpoint(server).await;
    cut(server, &before).await;
    let admin = Principal::new(IDP, "ann");
    let mut auditor = Browser::of(server, ConsoleRole::Auditor, Some(&admin)).await;
    for _ in 0..3 {
        world.second_hop().await;
    }
    let newer = checkpoint(server).await;
    for (note, sentence) in [(&kept, "it was rewritten"), (&newer, "begins with that of the")] {
        let page = auditor.get("/console/log").await;
        let asked = form(&page, "/console/log/compare").with("note", note);
        let answer = auditor.submit(&asked).await.with_status(200);
        assert!(answer.text.contains(sentence), "{}", answer.text);
        assert_eq!(health(&world).await["verdict"], "broken", "also after another comparison");
    }
    server.pass(7 * DAY);
    assert_eq!(covered_health(&world).await["verdict"], "consistent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_state_that_is_stored_again_is_worth_a_day() {
    let world = World::new().await;
    let server = &world.server;
    grow(server, 1_100).await;
    index::run_once(&server.app.pool).await.unwrap();
    verification::step(&server.app, 512, server.clock.now()).await.unwrap();
    let saved = "CREATE TABLE saved AS SELECT * FROM log_check";
    change(server, saved).await;
    change(server, "UPDATE audit_event SET document = replace(document, 'filler', 'folder') WHERE seq = 40")
        .await;
    let restore = "UPDATE log_check SET state = saved.state, mac = saved.mac FROM saved";
    change(server, restore).await;
    verify_in_portions(server).await;
    assert_eq!(
        covered_health(&world).await["concerns"],
        json!(["no_witness"]),
        "the first portion was not read again"
    );
    server.pass(DAY);
    change(server, restore).await;
    verify_in_portions(server).await;
    let error = &health(&world).await["last_verification"]["integrity_error"];
    assert_eq!(error, &json!({"seq": 40, "kind": "leaf"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_the_signature_of_a_witness_vouch_for_nothing() {
    let known = witness("w.example.com");
    let world = World::configured(&format!("[audit]\nwitnesses = [{:?}]", known.1.text())).await;
    let server = &world.server;
    let note = checkpoint(server).await;
    verify(server).await;
    let (text, _) = signed_note::parts(&note).unwrap();
    let add = |line: String| {
        let insert = "INSERT INTO audit_cosignature (size, key, line, at) SELECT max(size), $1, $2, $3 FROM audit_checkpoint";
        let in_a_year = server.clock.now() + time::Duration::weeks(52);
        sqlx::query(insert).bind(known.1.text()).bind(line).bind(in_a_year)
    };
    let forged = cosign(&known, &text.replacen('\n', "\n1", 1));
    add(forged).execute(&mut server.sql().await).await.unwrap();
    assert_eq!(health(&world).await["concerns"], json!(["not_cosigned"]));
    let mut browser = Browser::of_operator(server).await;
    let page = browser.get("/console/log").await;
    assert!(page.text.contains("No witness has cosigned it yet"), "{}", page.text);
    assert!(
        page.text.contains("data-label=\"cosigned by\"><span class=\"dim\">no witness<"),
        "{}",
        page.text
    );
    assert!(page.text.contains("<code>w.example.com</code>: no valid cosignature"), "{}", page.text);
    change(server, "DELETE FROM audit_cosignature").await;
    add(cosign(&known, &text)).execute(&mut server.sql().await).await.unwrap();
    assert_eq!(health(&world).await["concerns"], json!([]));
    let page = browser.get("/console/log").await;
    assert!(page.text.contains("Cosigned by <code>w.example.com</code>"), "{}", page.text);
    assert!(page.text.contains("data-label=\"cosigned by\">w.example.com<"), "{}", page.text);
    assert!(page.text.contains("<code>w.example.com</code>: has cosigned "), "{}", page.text);
    // A later checkpoint without it: the time in the signature counts, not that of the row.
    world.first_hop().await;
    checkpoint(server).await;
    assert_eq!(health(&world).await["concerns"], json!([]));
    server.pass(600);
    assert_eq!(covered_health(&world).await["concerns"], json!(["not_cosigned"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_continue_a_cosigned_checkpoint_is_broken() {
    let known = witness("w.example.com");
    let world = World::configured(&format!("[audit]\nwitnesses = [{:?}]", known.1.text())).await;
    let server = &world.server;
    let before = head(server).await;
    world.first_hop().await;
    let note = checkpoint(server).await;
    let (text, _) = signed_note::parts(&note).unwrap();
    transparency::post_note(server, &signed_note::note(&text, &cosign(&known, &text))).await.with_status(200);
    // The rows of this checkpoint stay.
    change(server, "CREATE TABLE kept AS SELECT * FROM audit_checkpoint").await;
    change(server, "CREATE TABLE cosigned AS SELECT * FROM audit_cosignature").await;
    cut(server, &before).await;
    for _ in 0..2 {
        world.first_hop().await;
    }
    checkpoint(server).await;
    change(server, "INSERT INTO audit_checkpoint SELECT * FROM kept").await;
    change(server, "INSERT INTO audit_cosignature SELECT * FROM cosigned").await;
    let broken = health(&world).await;
    assert_eq!(broken["verdict"], "broken");
    assert!(broken["why"].as_str().unwrap().contains("a witness has cosigned"), "{broken}");
}
