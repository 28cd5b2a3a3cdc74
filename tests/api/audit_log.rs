//! The log: every operation is recorded, and every change of the log is detected.

use actchain::domain::audit::verify::IntegrityErrorKind;
use actchain::platform::seal::SealingKey;
use actchain::services::audit::{self, LogDatabase, Report, TrustAnchors, VerifyScope};
use actchain_protocol::signed_note::VerifierKey;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::support::agent::JWT;
use crate::support::world::{MAIL, World};

/// Verifies by one connection and by three, which find the same.
async fn verify(world: &World, kept: &TrustAnchors) -> Report {
    let mut connection = world.server.sql().await;
    let by_one = audit::verify_database(&mut connection, kept).await.unwrap();
    let mut others = [world.server.sql().await, world.server.sql().await];
    let database = LogDatabase { connection: &mut connection, others: &mut others, scope: VerifyScope::Log };
    let by_three = audit::verify_database_shown(database, kept, &mut |_, _| {}).await.unwrap();
    assert_eq!(by_one, by_three);
    by_one
}

async fn checkpoint(world: &World) -> String {
    let app = &world.server.app;
    let seal = SealingKey::of(&world.server.master);
    audit::checkpoint(&app.pool, &seal, &app.issuer, world.server.clock.now()).await.unwrap()
}

async fn key(world: &World) -> VerifierKey {
    let text = audit::published_key(&mut world.server.sql().await, &world.server.app.issuer).await.unwrap();
    VerifierKey::parse(&text).unwrap()
}

/// A world with some events, a checkpoint over them, and three later events.
async fn busy_world() -> (World, TrustAnchors) {
    let world = World::new().await;
    for _ in 0..3 {
        world.first_hop().await;
    }
    let note = checkpoint(&world).await;
    for _ in 0..3 {
        world.first_hop().await;
    }
    let kept = TrustAnchors { keys: vec![key(&world).await], notes: vec![note], ..TrustAnchors::default() };
    (world, kept)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_its_event_and_the_log_verifies() {
    let (world, kept) = busy_world().await;
    let before = world.server.events().await;
    let answer = world.first_hop().await;
    let events = world.server.events().await;
    assert_eq!(events.len(), before.len() + 1);
    assert!(events.iter().enumerate().all(|(seq, event)| event["seq"] == json!(seq)), "gapless");
    let event = events.last().unwrap();
    assert_eq!((&event["jti"], &event["outcome"]), (&answer.claims()["jti"], &json!("success")));
    assert_eq!(
        event["actor"],
        json!({"type": "client", "client_id": "user-proxy", "jkt": world.user_proxy.jkt()})
    );
    assert_eq!(event["texts"]["client_name"], "User proxy");
    assert!(event["at"].as_str().unwrap().ends_with('Z'));
    let report = verify(&world, &kept).await;
    assert!(report.valid, "{report:?}");
    assert_eq!(report.events, events.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn administrative_changes_are_events_too() {
    let world = World::new().await;
    let actions: Vec<_> = world.server.events().await.iter().map(|event| event["action"].clone()).collect();
    for action in [
        "key.changed",
        "admin.issuer_changed",
        "admin.resource_changed",
        "client.changed",
        "delegation.created",
    ] {
        assert!(actions.contains(&json!(action)), "{action}");
    }
    world.server.disable("stranger").await;
    let event = world.server.last_event().await;
    assert_eq!((&event["action"], &event["target"]), (&json!("client.disabled"), &json!("stranger")));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_contains_a_token_a_secret_or_key_material() {
    let world = World::new().await;
    let first = world.first_hop().await;
    world.second_hop().await;
    let log = serde_json::to_string(&world.server.events().await).unwrap();
    for secret in
        [first.token(), "email-svc-secret-0123456789", "stranger-secret-0123456789", "argon2", ".eyJ"]
    {
        assert!(!log.contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_tamper_with_the_database_is_found() {
    let cases = [
        (
            "UPDATE audit_event SET document = replace(document, 'user-proxy', 'user-other')
             WHERE seq = (SELECT max(seq) FROM audit_event WHERE document LIKE '%user-proxy%')",
            "changed",
        ),
        ("UPDATE audit_event SET document = document || ' ' WHERE seq = 12", "reformatted"),
        ("DELETE FROM audit_event WHERE seq = 3", "deleted in the middle"),
        ("DELETE FROM audit_event WHERE seq = 0", "deleted at the head"),
        ("DELETE FROM audit_event WHERE seq = (SELECT max(seq) FROM audit_event)", "deleted at the tail"),
        ("DELETE FROM audit_event", "deleted altogether"),
        ("UPDATE audit_event SET seq = seq + 1000 WHERE seq >= 15", "moved"),
        ("INSERT INTO audit_event SELECT max(seq) + 1, '{}', 0 FROM audit_event", "added"),
        ("UPDATE audit_head SET size = 0, peaks = ''", "head rewound"),
        (
            "DELETE FROM audit_event; UPDATE audit_head SET size = 0, peaks = ''; DELETE FROM audit_checkpoint",
            "all deleted",
        ),
    ];
    let (world, kept) = busy_world().await;
    assert!(verify(&world, &kept).await.valid);
    let mut sql = world.server.sql().await;
    let tables = ["audit_event", "audit_head", "audit_checkpoint"];
    for table in tables {
        sql.execute(AssertSqlSafe(format!("CREATE TABLE kept_{table} AS TABLE {table}"))).await.unwrap();
    }
    for (statement, what) in cases {
        sql.execute(statement).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let report = verify(&world, &kept).await;
        assert!(!report.valid, "{what}: {report:?}");
        for table in tables {
            let restore = format!("TRUNCATE {table} CASCADE; INSERT INTO {table} SELECT * FROM kept_{table}");
            sql.execute(AssertSqlSafe(restore)).await.unwrap();
        }
    }
    assert!(verify(&world, &kept).await.valid, "as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rewritten_with_the_servers_own_keys_fails_against_a_kept_checkpoint() {
    let (world, kept) = busy_world().await;
    let mut sql = world.server.sql().await;
    let documents: Vec<String> = sqlx::query_scalar("SELECT document FROM audit_event ORDER BY seq")
        .fetch_all(&mut sql)
        .await
        .unwrap();
    let mut tree = actchain_protocol::merkle::Frontier::default();
    for (seq, document) in documents.iter().enumerate() {
        let forged = document.replace("user-proxy", "user-other");
        tree.push(actchain_protocol::merkle::leaf(forged.as_bytes()));
        sqlx::query("UPDATE audit_event SET document = $2 WHERE seq = $1")
            .bind(seq as i64)
            .bind(forged)
            .execute(&mut sql)
            .await
            .unwrap();
    }
    sqlx::query("UPDATE audit_head SET peaks = $1")
        .bind(tree.peaks().concat())
        .execute(&mut sql)
        .await
        .unwrap();
    sqlx::query("DELETE FROM audit_checkpoint").execute(&mut sql).await.unwrap();
    checkpoint(&world).await;
    assert!(
        verify(&world, &TrustAnchors::default()).await.valid,
        "without a kept checkpoint the log is consistent"
    );
    let report = verify(&world, &kept).await;
    assert!(!report.valid, "but a kept checkpoint contradicts it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_role_can_add_to_the_log_and_nothing_else() {
    let world = World::new().await;
    let mut connection = world.server.app.pool.acquire().await.unwrap();
    for statement in [
        "UPDATE audit_event SET document = ''",
        "DELETE FROM audit_event",
        "TRUNCATE audit_event",
        "DELETE FROM audit_checkpoint",
        "UPDATE audit_checkpoint SET note = ''",
        "DELETE FROM audit_head",
        "DROP TABLE audit_event",
        "ALTER TABLE audit_event DISABLE TRIGGER ALL",
        "UPDATE audit_event_0 SET document = ''",
        "DELETE FROM audit_event_0",
        "DROP TABLE audit_event_0",
        "UPDATE audit_head SET partition = 7",
        "UPDATE audit_partition SET first_seq = 0",
        "UPDATE audit_block SET leaves = ''",
        "DELETE FROM audit_node",
        "DELETE FROM audit_posting",
        "UPDATE audit_cosignature SET line = ''",
        "INSERT INTO audit_leaf VALUES (0, decode(repeat('00', 32), 'hex'))",
        "UPDATE audit_partition SET archived_at = now(), file_sha256 = ''",
        "ALTER TABLE audit_event DETACH PARTITION audit_event_0",
        "DELETE FROM audit_block",
    ] {
        let error = connection.execute(AssertSqlSafe(statement)).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code()).unwrap().into_owned();
        assert_eq!(code, "42501", "{statement}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_not_signed_over_a_truncated_log() {
    let (world, _) = busy_world().await;
    checkpoint(&world).await;
    let mut sql = world.server.sql().await;
    sql.execute("DELETE FROM audit_event; UPDATE audit_head SET size = 0, peaks = ''").await.unwrap();
    let app = &world.server.app;
    let seal = SealingKey::of(&world.server.master);
    let refused =
        audit::checkpoint(&app.pool, &seal, &app.issuer, world.server.clock.now()).await.unwrap_err();
    assert!(refused.to_string().contains("truncated"), "c2sp.org/tlog-checkpoint: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_append_to_one_log_without_a_fork() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let user = world.user_token();
    let before = world.server.events().await.len();
    let requests = (0..100).map(|n| {
        let server = if n % 2 == 0 { &world.server } else { &twin };
        world.user_proxy.exchange(server, &user, JWT).param("audience", MAIL).send()
    });
    let answers = futures_util::future::join_all(requests).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(world.server.events().await.len(), before + 100);
    assert!(verify(&world, &TrustAnchors::default()).await.valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_verifies_offline_and_a_changed_one_does_not() {
    let (world, kept) = busy_world().await;
    // A checkpoint over all events, instead of the latest checkpoint.
    world.server.pass(60);
    let file = world.export("").await.text.into_bytes();
    let count = world.server.events().await.len() as u64 - 1;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let check = |content: &[u8], kept: &TrustAnchors| {
        std::fs::write(&path, content).unwrap();
        audit::verify_export(&path, kept)
    };
    let whole = check(&file, &TrustAnchors::default()).unwrap();
    assert_eq!(whole.vouched, count, "up to its end");
    assert_eq!((whole.valid, whole.events), (true, count));
    assert!(check(&file, &kept).unwrap().valid);
    let text = String::from_utf8(file.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let integrity_error =
        |lines: Vec<&str>| !check(lines.join("\n").as_bytes(), &TrustAnchors::default()).unwrap().valid;
    let changed = text.replace("user-proxy", "user-other");
    assert!(integrity_error(changed.lines().collect()), "changed");
    assert!(integrity_error([&lines[..3], &lines[4..]].concat()), "deleted");
    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    assert!(integrity_error(swapped), "reordered");
    assert!(integrity_error([&lines[..4], &lines[lines.len() - 1..]].concat()), "truncated");
    assert!(
        check(lines[..4].join("\n").as_bytes(), &TrustAnchors::default()).is_err(),
        "nothing vouches: could not check"
    );
    let mut flipped = file.clone();
    flipped[1_000] ^= 0x80;
    assert!(!check(&flipped, &TrustAnchors::default()).unwrap().valid, "not even text");
}

/// A world whose log is indexed, with a checkpoint in the middle and at the end.
async fn indexed_world() -> (World, TrustAnchors) {
    let world = World::new().await;
    crate::transparency::grow(&world.server, 1_300).await;
    let from = checkpoint(&world).await;
    crate::transparency::grow(&world.server, 2_300).await;
    audit::index::run_once(&world.server.app.pool).await.unwrap();
    checkpoint(&world).await;
    (world, TrustAnchors { from: Some(from), ..TrustAnchors::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bad_seq_is_named_with_what_is_wrong_with_it() {
    let (world, from) = indexed_world().await;
    let whole = verify(&world, &TrustAnchors::default()).await;
    assert!(whole.valid && whole.events == 2_300 && whole.checkpoints == 2, "{whole:?}");
    let mut sql = world.server.sql().await;
    let tables =
        ["audit_event", "audit_head", "audit_checkpoint", "audit_block", "audit_node", "audit_cosignature"];
    for table in tables {
        sql.execute(AssertSqlSafe(format!("CREATE TABLE kept_{table} AS TABLE {table}"))).await.unwrap();
    }
    let cases: [(&str, u64, IntegrityErrorKind); 18] = [
        (
            "UPDATE audit_event SET document = replace(document, 'filler', 'folder') WHERE seq = 900",
            900,
            IntegrityErrorKind::Leaf,
        ),
        (
            "UPDATE audit_event SET document = replace(document, 'filler', 'folder') WHERE seq = 2200",
            2_300,
            IntegrityErrorKind::Checkpoint,
        ),
        (
            "UPDATE audit_event SET document = document || ' ' WHERE seq = 900",
            900,
            IntegrityErrorKind::Document,
        ),
        ("UPDATE audit_event SET document = '{}' WHERE seq = 900", 900, IntegrityErrorKind::Order),
        ("DELETE FROM audit_event WHERE seq = 900", 900, IntegrityErrorKind::Gap),
        ("DELETE FROM audit_event WHERE seq >= 2250", 2_250, IntegrityErrorKind::Truncated),
        ("INSERT INTO audit_event SELECT 2300, '{}', 0", 2_300, IntegrityErrorKind::Surplus),
        (
            "UPDATE audit_event a SET document = b.document FROM audit_event b WHERE a.seq = 900 AND b.seq = 901",
            900,
            IntegrityErrorKind::Order,
        ),
        (A_LEAF, 100, IntegrityErrorKind::Leaf),
        ("DELETE FROM audit_block WHERE block = 0", 0, IntegrityErrorKind::Leaf),
        (
            "UPDATE audit_node SET hash = decode(repeat('00', 32), 'hex') WHERE n = 2",
            768,
            IntegrityErrorKind::Root,
        ),
        ("DELETE FROM audit_node WHERE n = 7", 2_048, IntegrityErrorKind::Root),
        (
            "INSERT INTO audit_node VALUES (1, 8, decode(repeat('00', 32), 'hex'))",
            2_300,
            IntegrityErrorKind::Surplus,
        ),
        (
            "UPDATE audit_head SET peaks = set_byte(peaks, 0, get_byte(peaks, 0) # 1)",
            2_300,
            IntegrityErrorKind::Root,
        ),
        (
            "UPDATE audit_checkpoint SET note = replace(note, E'\\n1300\\n', E'\\n1301\\n') WHERE size = 1300",
            1_301,
            IntegrityErrorKind::Signature,
        ),
        ("UPDATE audit_checkpoint SET note = 'x' WHERE size = 1300", 1_300, IntegrityErrorKind::Unreadable),
        (
            "INSERT INTO audit_cosignature VALUES (1300, 'w+00000000+AAAA', 'x', now())",
            1_300,
            IntegrityErrorKind::Signature,
        ),
        (
            "UPDATE audit_head SET size = 2299, peaks = (SELECT peaks FROM audit_head)",
            0,
            IntegrityErrorKind::Root,
        ),
    ];
    for (statement, seq, kind) in cases {
        // A head that does not fit its size makes verification impossible: that is a fault, tested elsewhere.
        if kind == IntegrityErrorKind::Root && seq == 0 {
            sql.execute(statement).await.unwrap();
            let fault = audit::verify_database(&mut world.server.sql().await, &TrustAnchors::default()).await;
            assert!(fault.is_err(), "could not be checked");
        } else {
            sql.execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
            let report = verify(&world, &TrustAnchors::default()).await;
            let integrity_error =
                report.integrity_error.unwrap_or_else(|| panic!("{statement} is not found"));
            assert_eq!((integrity_error.seq, integrity_error.kind), (seq, kind), "{statement}");
            let later = verify(&world, &from).await;
            let believed = seq < 1_300
                && ![IntegrityErrorKind::Signature, IntegrityErrorKind::Unreadable].contains(&kind);
            assert!(
                believed == later.valid || kind == IntegrityErrorKind::Root || statement.contains("block"),
                "{statement}: {later:?}"
            );
        }
        for table in tables.iter().rev() {
            sql.execute(AssertSqlSafe(format!("DELETE FROM {table}"))).await.unwrap();
        }
        for table in tables {
            sql.execute(AssertSqlSafe(format!("INSERT INTO {table} SELECT * FROM kept_{table}")))
                .await
                .unwrap();
        }
    }
    let again = verify(&world, &from).await;
    assert!(again.valid, "{again:?}");
    assert_eq!((again.from, again.events), (1_300, 2_300));
}

/// A leaf in the middle of the first block.
const A_LEAF: &str = "UPDATE audit_block SET leaves = overlay(leaves PLACING decode(repeat('00', 32), 'hex') FROM 3201 FOR 32) WHERE block = 0";

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_checkpoint_must_be_signed_and_consistent_with_the_log() {
    let (world, from) = indexed_world().await;
    let note = from.from.unwrap();
    let believe = async |note: &str, keys: Vec<VerifierKey>| {
        verify(&world, &TrustAnchors { from: Some(note.to_owned()), keys, ..TrustAnchors::default() }).await
    };
    let log = key(&world).await;
    assert!(believe(&note, vec![log.clone()]).await.valid);
    let stranger = VerifierKey::new("x", [1; 32]).unwrap();
    assert_eq!(
        believe(&note, vec![stranger]).await.integrity_error.unwrap().kind,
        IntegrityErrorKind::Signature
    );
    let forged = note.replace("\n1300\n", "\n1200\n");
    assert_eq!(
        believe(&forged, vec![log]).await.integrity_error.unwrap().kind,
        IntegrityErrorKind::Signature
    );
    // The whole log is rewritten, including stored hashes: it is not consistent with the trusted checkpoint.
    let mut sql = world.server.sql().await;
    sql.execute("UPDATE audit_block SET leaves = leaves || '' WHERE false; DELETE FROM audit_checkpoint")
        .await
        .unwrap();
    sql.execute("UPDATE audit_node SET hash = decode(repeat('00', 32), 'hex') WHERE n = 0").await.unwrap();
    let report = believe(&note, Vec::new()).await;
    assert_eq!(
        report.integrity_error.map(|integrity_error| (integrity_error.seq, integrity_error.kind)),
        Some((1_300, IntegrityErrorKind::Checkpoint))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_has_the_request_id_of_its_answer() {
    let world = World::new().await;
    let answer = world.first_hop().await;
    let event = world.server.last_event().await;
    assert_eq!(event["request_id"].as_str(), answer.header("x-request-id"));
    assert_eq!(event["ip"], "127.0.0.1");
}
