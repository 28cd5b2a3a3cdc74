//! Attacks on verification: an incomplete log that would pass as complete, or a complete log that would fail.

use actchain::domain::audit::partitions;
use actchain::domain::audit::verify::{IntegrityError, IntegrityErrorKind};
use actchain::platform::seal::SealingKey;
use actchain::services::audit::{self, TrustAnchors};
use actchain::services::keys;
use serde_json::json;
use sqlx::Executor as _;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::audit_archive::{archive, key, old_world};
use crate::support::world::World;
use crate::transparency::checkpoint;

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_key_that_has_signed_no_checkpoint_vouches_for_nothing() {
    let world = World::new().await;
    let server = &world.server;
    world.first_hop().await;
    checkpoint(server).await;
    let kept = TrustAnchors { keys: vec![key(server).await], ..TrustAnchors::default() };
    let mut sql = server.sql().await;
    assert!(audit::verify_database(&mut sql, &kept).await.unwrap().valid);
    // An owner of the database rewrites the log: a new key signs the only checkpoint.
    let seal = SealingKey::of(&server.master);
    sql.execute("DELETE FROM audit_checkpoint").await.unwrap();
    server.pass(60);
    keys::rotate_log(&server.app.pool, &seal, server.clock.now()).await.unwrap();
    checkpoint(server).await;
    let report = audit::verify_database(&mut sql, &kept).await.unwrap();
    assert_eq!(
        report.integrity_error.map(|integrity_error| integrity_error.kind),
        Some(IntegrityErrorKind::Signature)
    );
    // Or deletes all checkpoints.
    sql.execute("DELETE FROM audit_checkpoint").await.unwrap();
    assert!(audit::verify_database(&mut sql, &kept).await.is_err(), "that could not be checked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_in_the_place_of_another_is_found() {
    let world = World::new().await;
    let server = &world.server;
    checkpoint(server).await;
    let mut sql = server.sql().await;
    sql.execute(
        "INSERT INTO audit_checkpoint (size, note, made_at) SELECT 1000000, note, made_at FROM audit_checkpoint",
    )
    .await
    .unwrap();
    let report = audit::verify_database(&mut sql, &TrustAnchors::default()).await.unwrap();
    assert_eq!(
        report.integrity_error,
        Some(IntegrityError { seq: 1_000_000, kind: IntegrityErrorKind::Checkpoint })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_checkpoint_that_cannot_be_read_is_named_and_not_passed_over() {
    let world = World::new().await;
    let server = &world.server;
    let note = checkpoint(server).await;
    let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
    world.first_hop().await;
    checkpoint(server).await;
    let kept = TrustAnchors { keys: vec![key(server).await], ..TrustAnchors::default() };
    let mut sql = server.sql().await;
    let signature = note.lines().last().unwrap();
    let blob = signature.rsplit_once(' ').unwrap().1;
    for (damaged, kind) in [
        ("garbage".to_owned(), IntegrityErrorKind::Unreadable),
        (note.replace(signature, ""), IntegrityErrorKind::Unreadable),
        (note.replace('\u{2014}', "-"), IntegrityErrorKind::Unreadable),
        (note.replace(&format!("\n{size}\n"), "\nmany\n"), IntegrityErrorKind::Unreadable),
        (note.replace(blob, "AAAAAAAA"), IntegrityErrorKind::Signature),
    ] {
        let change = "UPDATE audit_checkpoint SET note = $2 WHERE size = $1";
        let size_bound = i64::try_from(size).unwrap();
        sqlx::query(change).bind(size_bound).bind(&damaged).execute(&mut sql).await.unwrap();
        for kept in [&kept, &TrustAnchors::default()] {
            let report = audit::verify_database(&mut sql, kept).await.unwrap();
            assert_eq!(report.integrity_error, Some(IntegrityError { seq: size, kind }), "{damaged}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_resumed_after_a_rotation_names_the_key_that_signed() {
    let world = World::new().await;
    let server = &world.server;
    world.first_hop().await;
    let whole = world.export("").await;
    let size = whole.header("actchain-audit-size").unwrap().to_owned();
    let seal = SealingKey::of(&server.master);
    server.pass(60);
    keys::rotate_log(&server.app.pool, &seal, server.clock.now()).await.unwrap();
    let rest = world.export(&format!("from_seq=3&size={size}")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rest.jsonl");
    std::fs::write(&path, &rest.text).unwrap();
    let report = audit::verify_export(&path, &TrustAnchors::default()).unwrap();
    assert!(report.valid, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_behind_the_checkpoint_that_is_believed_is_a_gap() {
    let world = World::new().await;
    let note = checkpoint(&world.server).await;
    let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
    world.first_hop().await;
    world.first_hop().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rest.jsonl");
    let kept =
        TrustAnchors { keys: vec![key(&world.server).await], from: Some(note), ..TrustAnchors::default() };
    for (from, integrity_error) in
        [(size, None), (size + 1, Some(IntegrityError { seq: size, kind: IntegrityErrorKind::Gap }))]
    {
        std::fs::write(&path, world.export(&format!("from_seq={from}")).await.text).unwrap();
        assert_eq!(
            audit::verify_export(&path, &kept).unwrap().integrity_error,
            integrity_error,
            "from {from}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_partition_is_dropped_with_events_that_are_not_its_own() {
    let world = old_world().await;
    let server = &world.server;
    let mut sql = server.sql().await;
    sql.execute("UPDATE audit_event SET partition = 0 WHERE seq = 3050").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let refused = archive(server, folder.path()).await.unwrap_err().to_string();
    assert!(refused.contains("not its own"), "{refused}");
    assert!(
        audit::verify_database(&mut sql, &TrustAnchors::default()).await.unwrap().valid,
        "nothing is lost"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_were_archived_before_a_sink_got_them_are_not_passed_over_in_silence() {
    let receiver = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(204)).mount(&receiver).await;
    let world = World::new().await;
    let server = &world.server;
    let declared = json!({"url": receiver.uri(), "from_seq": 2});
    let answer = world.as_admin("PUT", "/api/v1/audit-sinks/siem", declared).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let mut sql = server.sql().await;
    server.pass(31 * 86_400);
    assert!(partitions::open(&mut sql, 0, server.clock.now()).await.unwrap());
    let floor = server.events().await.len();
    sql.execute("UPDATE audit_partition SET archived_at = now(), file_sha256 = '\\x00' WHERE partition = 0")
        .await
        .unwrap();
    actchain::jobs::sinks::run_once(&server.app, server.clock.now()).await.unwrap();
    let events = server.events().await;
    let said = events.iter().find(|event| event["action"] == "admin.sink_skipped").unwrap();
    assert_eq!(said["detail"], json!({"from": 2, "to": floor}));
}
