//! Old partitions go to archive files that verify by themselves; proofs and roots stay the same.

use std::path::Path;

use actchain::domain::audit::append::append_events;
use actchain::domain::audit::verify::{IntegrityError, IntegrityErrorKind};
use actchain::domain::audit::{Actor, Event, EventKind, index as blocks, partitions, store, tree};
use actchain::platform::fault::Fault;
use actchain::platform::seal::SealingKey;
use actchain::services::audit::archive::{self, ArchiveLookup, ArchiveOptions, ArchivedPartition};
use actchain::services::audit::{self, LogDatabase, LogSigner, Report, TrustAnchors, VerifyScope, index};
use actchain_protocol::jose::{SigningAlg, SigningKey};
use actchain_protocol::signed_note::{self, VerifierKey};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _};
use time::Duration;

use crate::support::Server;
use crate::support::audit::{all_pages, auditor, read};
use crate::support::management::Api;
use crate::support::world::World;
use crate::transparency::{checkpoint, grow};

/// Three partitions: two closed partitions, with 1500 and 900 events, and the open partition.
pub async fn old_world() -> World {
    let world = World::new().await;
    let server = &world.server;
    for (size, after) in [(1_500, 0), (2_400, 1)] {
        grow(server, size).await;
        server.pass(31 * 86_400);
        assert!(partitions::open(&mut server.sql().await, after, server.clock.now()).await.unwrap());
    }
    grow(server, 3_100).await;
    index::run_once(&server.app.pool).await.unwrap();
    checkpoint(server).await;
    world
}

pub async fn archive(server: &Server, folder: &Path) -> Result<Vec<ArchivedPartition>, Fault> {
    let wanted = ArchiveOptions { before: server.clock.now(), folder };
    let signer = LogSigner { seal: &SealingKey::of(&server.master), issuer: &server.app.issuer };
    archive::archive(&server.database, signer, wanted, server.clock.now()).await
}

pub async fn key(server: &Server) -> VerifierKey {
    let text = audit::published_key(&mut server.sql().await, &server.app.issuer).await.unwrap();
    VerifierKey::parse(&text).unwrap()
}

async fn partitions(server: &Server) -> i64 {
    let sql = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_event'::regclass";
    sqlx::query_scalar(sql).fetch_one(&mut server.sql().await).await.unwrap()
}

/// Whether a statement on this database waits for a lock on a whole table.
async fn waits_for_a_lock(sql: &mut sqlx::PgConnection) -> bool {
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    sqlx::query_scalar(waiting).fetch_one(sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_events_are_in_valid_files_and_all_events_are_still_proven() {
    let world = old_world().await;
    let server = &world.server;
    let folder = tempfile::tempdir().unwrap();
    let roots: Vec<_> = {
        let mut sql = server.sql().await;
        let mut roots = Vec::new();
        for size in [1, 1_500, 2_000, 2_400, 3_000] {
            roots.push((size, tree::frontier(&mut sql, size).await.unwrap()));
        }
        roots
    };
    let documents: Vec<String> = sqlx::query_scalar("SELECT document FROM audit_event ORDER BY seq")
        .fetch_all(&mut server.sql().await)
        .await
        .unwrap();
    let first_partition =
        ArchiveOptions { before: server.clock.now() - Duration::days(31), folder: folder.path() };
    let signer = LogSigner { seal: &SealingKey::of(&server.master), issuer: &server.app.issuer };
    // Before the second partition was opened, only the first was closed.
    let done = archive::archive(&server.database, signer, first_partition, server.clock.now()).await.unwrap();
    assert_eq!(done.iter().map(|one| (one.from, one.to)).collect::<Vec<_>>(), [(0, 1_500)]);
    let more = archive(server, folder.path()).await.unwrap();
    assert_eq!(
        more.iter().map(|one| (one.partition, one.from, one.to)).collect::<Vec<_>>(),
        [(1, 1_500, 2_400)]
    );
    assert!(archive(server, folder.path()).await.unwrap().is_empty(), "the one that is written to stays");
    assert_eq!(partitions(server).await, 1);
    let rows: i64 = sqlx::query_scalar("SELECT min(seq) FROM audit_event")
        .fetch_one(&mut server.sql().await)
        .await
        .unwrap();
    assert_eq!(rows, 2_400);
    let postings: i32 = sqlx::query_scalar("SELECT min(block) FROM audit_posting")
        .fetch_one(&mut server.sql().await)
        .await
        .unwrap();
    assert_eq!(postings, 2, "those of blocks that are wholly in files were deleted");
    let event = server.last_event().await;
    assert_eq!(
        (&event["action"], &event["detail"]["partition"]),
        (&json!("admin.audit_archived"), &json!(1))
    );
    assert_eq!(event["detail"]["sha256"], more[0].sha256);
    assert_eq!(event["detail"]["file"], more[0].file.file_name().unwrap().to_str().unwrap());
    // The database: roots, proofs and verification.
    checkpoint(server).await;
    let mut sql = server.sql().await;
    for (size, before) in roots {
        assert_eq!(tree::frontier(&mut sql, size).await.unwrap(), before, "{size}");
    }
    for seq in [0, 1_499, 1_500, 2_399, 2_400, 3_000] {
        let answer = Api::get(server, &format!("/audit/proof/inclusion?seq={seq}")).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let report = audit::verify_database(&mut sql, &TrustAnchors::default()).await.unwrap();
    assert!(report.valid, "{report:?}");
    assert_eq!(report.hashes_only, 2_400, "and says what it saw only as hashes");
    let shown = TrustAnchors { archives: Some(folder.path().to_owned()), ..TrustAnchors::default() };
    let report = audit::verify_database(&mut sql, &shown).await.unwrap();
    assert!(report.valid && report.hashes_only == 0, "with the files, every event was read: {report:?}");
    world.server.disable("stranger").await;
    // Each archive file by itself.
    let kept = TrustAnchors { keys: vec![key(server).await], ..TrustAnchors::default() };
    for (one, from) in done.iter().chain(&more).zip([0, 1_500]) {
        let report = audit::verify_export(&one.file, &kept).unwrap();
        assert!(report.valid, "{report:?}");
        assert_eq!((report.from, report.events), (from, one.to));
        let text = std::fs::read_to_string(&one.file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let groups = one.to.div_ceil(512) - one.from / 512;
        assert_eq!(lines.len() as u64, one.to - one.from + groups + 2, "events, their hashes, both ends");
        assert_eq!(lines[1], documents[one.from as usize]);
        for (changed, what) in [
            (text.replacen("filler", "folder", 1), "changed"),
            ([&lines[..4], &lines[5..]].concat().join("\n"), "an event left out"),
            ([&lines[..4], &lines[lines.len() - 1..]].concat().join("\n"), "cut off"),
            ([&lines[1..2], &lines[1..]].concat().join("\n"), "another beginning"),
            (text.replacen("\"from\":", "\"from\":1", 1), "moved"),
        ] {
            let copy = folder.path().join("copy");
            std::fs::write(&copy, changed).unwrap();
            let report = audit::verify_export(&copy, &kept).unwrap();
            assert!(!report.valid, "{what}: {report:?}");
        }
    }
    let wanted: Value = serde_json::from_str(&documents[1_700]).unwrap();
    let id = wanted["id"].as_str().unwrap().parse().unwrap();
    for lookup in [ArchiveLookup::Seq(1_700), ArchiveLookup::Id(id)] {
        assert_eq!(archive::show(&more[0].file, &lookup).unwrap(), Some(documents[1_700].clone()));
        assert_eq!(archive::show(&done[0].file, &lookup).unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_partition_is_dropped_unless_its_file_is_complete() {
    let world = old_world().await;
    let server = &world.server;
    let folder = tempfile::tempdir().unwrap();
    let nowhere = archive(server, &folder.path().join("nowhere")).await.unwrap_err().to_string();
    assert!(nowhere.contains("nowhere"), "{nowhere}");
    let full = folder.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::os::unix::fs::symlink("/dev/full", full.join(".audit-000000000000-000000001500.jsonl.part"))
        .unwrap();
    let full = archive(server, &full).await.unwrap_err().to_string();
    assert!(full.contains("writing"), "a full disk: {full}");
    let other = folder.path().join("audit-000000000000-000000001500.jsonl");
    std::fs::write(&other, "another file").unwrap();
    let there = archive(server, folder.path()).await.unwrap_err().to_string();
    assert!(there.contains("another file"), "{there}");
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "another file");
    std::fs::remove_file(&other).unwrap();
    assert_eq!(partitions(server).await, 3, "nothing was dropped");
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(left, ["full"], "and no half file is left");
    // A reader that keeps the table locked.
    let mut reader = server.sql().await;
    reader.execute("BEGIN; SELECT count(*) FROM audit_event").await.unwrap();
    let coming_again = async {
        let mut sql = server.sql().await;
        // The archive job waits, gives up, and retries.
        for waits in [true, false, true] {
            while waits_for_a_lock(&mut sql).await != waits {}
        }
    };
    tokio::select! {
        done = archive(server, folder.path()) => panic!("archived under a reader: {done:?}"),
        () = coming_again => {}
    }
    world.server.disable("stranger").await;
    reader.execute("ROLLBACK").await.unwrap();
    assert_eq!(partitions(server).await, 3);
    // Dropped in the middle, as if its process had been killed: the unfinished work is repeated.
    let done = loop {
        match archive(server, folder.path()).await {
            // The connection of the dropped job closes later.
            Err(fault) if fault.to_string().contains("another process") => tokio::task::yield_now().await,
            other => break other.unwrap(),
        }
    };
    assert_eq!((done.len(), partitions(server).await), (2, 1));
    assert!(audit::verify_database(&mut server.sql().await, &TrustAnchors::default()).await.unwrap().valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_is_not_archived_and_two_do_not_archive_at_once() {
    let world = World::new().await;
    let server = &world.server;
    let folder = tempfile::tempdir().unwrap();
    grow(server, 1_100).await;
    server.pass(31 * 86_400);
    assert!(partitions::open(&mut server.sql().await, 0, server.clock.now()).await.unwrap());
    grow(server, 2_100).await;
    index::run_once(&server.app.pool).await.unwrap();
    let mut other = server.sql().await;
    other.execute("SELECT pg_advisory_lock(7223460)").await.unwrap();
    let second = archive(server, folder.path()).await.unwrap_err().to_string();
    assert!(second.contains("another process"), "{second}");
    other.execute("SELECT pg_advisory_unlock(7223460)").await.unwrap();
    let change = "UPDATE audit_event SET document = replace(document, 'filler', 'folder') WHERE seq = 700";
    other.execute(change).await.unwrap();
    let changed = archive(server, folder.path()).await.unwrap_err().to_string();
    assert!(changed.contains("hashes"), "{changed}");
    assert_eq!((partitions(server).await, std::fs::read_dir(folder.path()).unwrap().count()), (2, 0));
    // An attacker who changes the stored hash as well.
    let document: String = sqlx::query_scalar("SELECT document FROM audit_event WHERE seq = 700")
        .fetch_one(&mut other)
        .await
        .unwrap();
    let leaf: String = actchain_protocol::merkle::leaf(document.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let forge = format!(
        "UPDATE audit_block SET leaves = overlay(leaves PLACING '\\x{leaf}'::bytea FROM {} FOR 32) WHERE block = 0",
        700 * 32 + 1
    );
    other.execute(AssertSqlSafe(forge)).await.unwrap();
    let forged = archive(server, folder.path()).await.unwrap_err().to_string();
    assert!(forged.contains("hashes") || forged.contains("checkpoint"), "{forged}");
    assert_eq!(partitions(server).await, 2);
    assert_eq!(blocks::indexed(&mut other).await.unwrap(), 2_048);
    assert_eq!(store::head(&mut other).await.unwrap().size(), 2_100);
}

/// Verifies the database with its index, and with the files of archived events.
async fn verify_all(server: &Server, folder: &Path) -> Report {
    let anchors = TrustAnchors { archives: Some(folder.to_owned()), ..TrustAnchors::default() };
    let (mut sql, mut others) = (server.sql().await, [server.sql().await]);
    let database = LogDatabase { connection: &mut sql, others: &mut others, scope: VerifyScope::LogAndIndex };
    audit::verify_database_shown(database, &anchors, &mut |_, _| {}).await.unwrap()
}

/// The answers to requests for proofs of these events, in the newest checkpoint.
async fn proven(server: &Server, seqs: &[u64]) {
    checkpoint(server).await;
    for seq in seqs {
        let answer = Api::get(server, &format!("/audit/proof/inclusion?seq={seq}")).send().await;
        assert_eq!(answer.status, 200, "{seq}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_log_is_archived_in_the_middle_of_a_block() {
    let world = World::new().await;
    let server = &world.server;
    let folder = tempfile::tempdir().unwrap();
    let mut roots = Vec::new();
    // Three partitions end in one block, which is not complete: nothing of the log is indexed.
    for (size, after) in [(300, 0), (301, 1), (700, 2)] {
        grow(server, size).await;
        server.pass(31 * 86_400);
        assert!(partitions::open(&mut server.sql().await, after, server.clock.now()).await.unwrap());
        roots.push((size, tree::frontier(&mut server.sql().await, size).await.unwrap()));
        let done = archive(server, folder.path()).await.unwrap();
        assert_eq!(done.iter().map(|one| one.to).collect::<Vec<_>>(), [size]);
        let report = verify_all(server, folder.path()).await;
        assert!(report.valid && report.hashes_only == 0, "{report:?}");
    }
    let whole = |report: &Report| report.valid && report.hashes_only == 0;
    let check = async |size: u64| {
        grow(server, size).await;
        index::run_once(&server.app.pool).await.unwrap();
        proven(server, &[0, 299, 300, 301, 699, 700, size - 1]).await;
        let mut sql = server.sql().await;
        for (size, before) in &roots {
            assert_eq!(tree::frontier(&mut sql, *size).await.unwrap(), *before, "{size}");
        }
        let report = verify_all(server, folder.path()).await;
        assert!(whole(&report), "{size}: {report:?}");
        let hashes = audit::verify_database(&mut sql, &TrustAnchors::default()).await.unwrap();
        assert!(hashes.valid && hashes.hashes_only == 700, "{hashes:?}");
        for query in ["", "from_seq=701", "action=client.enabled"] {
            let export = world.export(query).await.text;
            let path = folder.path().join("export.jsonl");
            std::fs::write(&path, export).unwrap();
            let report = audit::verify_export(&path, &TrustAnchors::default()).unwrap();
            assert!(report.valid && report.events > 100, "{query}: {report:?}");
        }
        let (auditor, token) = (&world.admin, world.management_token(&world.admin).await);
        let found = all_pages(&world, (auditor, &token), "/api/v1/audit-logs?limit=1000&order=oldest").await;
        assert_eq!(found[0]["seq"], 700, "searches begin at the first event that is not archived");
    };
    check(900).await;
    let leaves = async || -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM audit_leaf");
        count.fetch_one(&mut server.sql().await).await.unwrap()
    };
    assert_eq!(leaves().await, 700, "no block has the leaves of those events");
    // The block becomes complete, and the next two.
    check(3_200).await;
    server.pass(31 * 86_400);
    assert!(partitions::open(&mut server.sql().await, 3, server.clock.now()).await.unwrap());
    let size = store::head(&mut server.sql().await).await.unwrap().size();
    archive(server, folder.path()).await.unwrap();
    assert_eq!(leaves().await as u64, size - 3_072, "those that a block has taken over are deleted");
    assert!(whole(&verify_all(server, folder.path()).await));
    // A stored leaf is as much part of the tree as a block.
    let mut sql = server.sql().await;
    let last = size - 1;
    let hash: Vec<u8> = sqlx::query_scalar("SELECT hash FROM audit_leaf WHERE seq = $1")
        .bind(last as i64)
        .fetch_one(&mut sql)
        .await
        .unwrap();
    for (statement, seq, kind) in [
        ("UPDATE audit_leaf SET hash = sha256(hash) WHERE seq = $1", last, IntegrityErrorKind::Leaf),
        ("DELETE FROM audit_leaf WHERE seq = $1", last, IntegrityErrorKind::Leaf),
        (
            "INSERT INTO audit_leaf SELECT size + $1 * 0, sha256('') FROM audit_head",
            size + 1,
            IntegrityErrorKind::Surplus,
        ),
    ] {
        sqlx::query(statement).bind(last as i64).execute(&mut sql).await.unwrap();
        let report = verify_all(server, folder.path()).await;
        assert_eq!(report.integrity_error, Some(IntegrityError { seq, kind }), "{statement}");
        let restore =
            "INSERT INTO audit_leaf VALUES ($1, $2) ON CONFLICT (seq) DO UPDATE SET hash = excluded.hash";
        sqlx::query(restore).bind(last as i64).bind(&hash).execute(&mut sql).await.unwrap();
    }
}

/// What an owner of the tables can do without the log's key: drop a partition, and record that it was archived, in its
/// row and in an event.
async fn pretend_archived(server: &Server, to: u64) {
    let mut sql = server.sql().await;
    sql.execute("UPDATE audit_partition SET archived_at = now(), file_sha256 = '\\x00' WHERE partition = 0")
        .await
        .unwrap();
    sql.execute("DROP TABLE audit_event_0").await.unwrap();
    let kind = EventKind::AuditArchived {
        partition: 0,
        from: 0,
        to,
        sha256: "00".into(),
        file: "audit.jsonl".into(),
    };
    let event =
        Event { target: Some("partition 0".into()), ..Event::new(server.clock.now(), kind, Actor::Operator) };
    append_events(&mut sql, &[event]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_missing_were_archived_only_if_the_logs_key_has_signed_that() {
    let world = old_world().await;
    let server = &world.server;
    let note = checkpoint(server).await;
    let kept = TrustAnchors { keys: vec![key(server).await], notes: vec![note], ..TrustAnchors::default() };
    let mut sql = server.sql().await;
    assert!(audit::verify_database(&mut sql, &kept).await.unwrap().valid);
    pretend_archived(server, 1_500).await;
    checkpoint(server).await;
    for kept in [&kept, &TrustAnchors::default()] {
        let report = audit::verify_database(&mut sql, kept).await.unwrap();
        let integrity_error = Some(IntegrityError { seq: 0, kind: IntegrityErrorKind::Gap });
        assert_eq!(
            report.integrity_error, integrity_error,
            "all hashes are right, and the log's key has signed nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_another_key_or_about_other_events_does_not_excuse_a_gap() {
    let world = old_world().await;
    let server = &world.server;
    let folder = tempfile::tempdir().unwrap();
    archive(server, folder.path()).await.unwrap();
    let kept = TrustAnchors { keys: vec![key(server).await], ..TrustAnchors::default() };
    let mut sql = server.sql().await;
    let sql_text = "SELECT statement FROM audit_partition WHERE archived_at IS NOT NULL ORDER BY partition";
    let notes: Vec<String> = sqlx::query_scalar(sql_text).fetch_all(&mut sql).await.unwrap();
    let (text, _) = signed_note::parts(&notes[0]).unwrap();
    let stranger = SigningKey::generate(SigningAlg::Ed25519).unwrap().0;
    let public = actchain_protocol::base64url::decode(stranger.public_jwk()["x"].as_str().unwrap()).unwrap();
    let verifier = VerifierKey::new(text.lines().next().unwrap(), public.try_into().unwrap()).unwrap();
    let forged = verifier.signature_line(&stranger.sign_raw(text.as_bytes()).unwrap());
    let report = async |partition: i32, note: Option<&str>| {
        let mut sql = server.sql().await;
        let change = "UPDATE audit_partition SET statement = $2 WHERE partition = $1";
        sqlx::query(change).bind(partition).bind(note).execute(&mut sql).await.unwrap();
        audit::verify_database(&mut sql, &kept).await.unwrap()
    };
    for (note, kind) in [
        (None, IntegrityErrorKind::Gap),
        (Some(notes[1].clone()), IntegrityErrorKind::Gap),
        (Some(signed_note::note(&text, &forged)), IntegrityErrorKind::Signature),
        (Some(notes[0].replacen("events 0 1500", "events 0 1499", 1)), IntegrityErrorKind::Signature),
        (Some("no note".to_owned()), IntegrityErrorKind::Signature),
    ] {
        let integrity_error = report(0, note.as_deref()).await.integrity_error;
        assert_eq!(integrity_error, Some(IntegrityError { seq: 0, kind }), "{note:?}");
    }
    assert!(report(0, Some(&notes[0])).await.valid);
    let second = report(1, Some(&notes[0])).await.integrity_error;
    assert_eq!(
        second,
        Some(IntegrityError { seq: 1_500, kind: IntegrityErrorKind::Gap }),
        "the statement of the partition before"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_archived_events_are_checked_against_the_statement_and_the_tree() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = old_world().await;
    let server = &world.server;
    let folder = tempfile::tempdir().unwrap();
    let done = archive(server, folder.path()).await.unwrap();
    let keys = vec![key(server).await];
    let kept = TrustAnchors {
        keys: keys.clone(),
        archives: Some(folder.path().to_owned()),
        ..TrustAnchors::default()
    };
    let mut sql = server.sql().await;
    let report = audit::verify_database(&mut sql, &kept).await.unwrap();
    assert!(report.valid && report.hashes_only == 0, "{report:?}");
    for one in &done {
        let note = std::fs::read_to_string(one.file.with_added_extension("note")).unwrap();
        let text = signed_note::open_text(&note, &keys).expect("the statement lies beside the file");
        assert!(text.contains(&format!("\nevents {} {}\n", one.from, one.to)), "{text}");
        assert!(text.contains(&format!("\nsha256 {}\n", one.sha256)), "{text}");
        for path in [one.file.clone(), one.file.with_added_extension("note")] {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "only its owner reads {}", path.display());
        }
    }
    let text = std::fs::read_to_string(&done[1].file).unwrap();
    for changed in [text.replacen("filler", "folder", 1), format!("{text}\n"), String::new()] {
        std::fs::write(&done[1].file, changed).unwrap();
        let report = audit::verify_database(&mut sql, &kept).await.unwrap();
        assert_eq!(
            report.integrity_error,
            Some(IntegrityError { seq: 1_500, kind: IntegrityErrorKind::Archive })
        );
    }
    std::fs::remove_file(&done[1].file).unwrap();
    let report = audit::verify_database(&mut sql, &kept).await.unwrap();
    assert!(report.valid && report.hashes_only == 900, "one file is not shown: {report:?}");
    // Events below a trusted checkpoint need no file.
    let believed = checkpoint(server).await;
    let later = TrustAnchors { keys, from: Some(believed), ..TrustAnchors::default() };
    let report = audit::verify_database(&mut sql, &later).await.unwrap();
    assert!(report.valid && report.hashes_only == 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_chains_and_readers_go_as_far_back_as_the_database_does() {
    let world = old_world().await;
    let (auditor, token) = auditor(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let all = all_pages(&world, (&auditor, &token), "/api/v1/audit-logs?limit=1000").await;
    archive(&world.server, folder.path()).await.unwrap();
    let token = world.management_token(&auditor).await;
    for query in ["limit=1000", "limit=1000&order=oldest", "limit=1000&outcome=success"] {
        let left = all_pages(&world, (&auditor, &token), &format!("/api/v1/audit-logs?{query}")).await;
        assert!(left.iter().all(|event| event["seq"].as_u64().unwrap() >= 2_400), "{query}");
        assert!(left.len() >= all.len() - 2_400 && left.len() < all.len(), "{query}: {}", left.len());
    }
    for (path, status) in [("/api/v1/audit-logs/17", 410), ("/api/v1/audit-logs/stream?from_seq=17", 404)] {
        assert_eq!(read(&world, (&auditor, &token), path).await.status, status, "{path}");
    }
    let chains = all_pages(&world, (&auditor, &token), "/api/v1/audit-logs/chains?limit=100").await;
    assert!(chains.iter().all(|chain| chain["first_seq"].as_u64().unwrap() >= 2_400));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_archived_before_every_enabled_sink_has_received_it() {
    let world = old_world().await;
    let folder = tempfile::tempdir().unwrap();
    let yaml =
        |rest: &str| format!("sinks:\n  - {{id: siem, url: 'http://127.0.0.1:9/', from_seq: 17{rest}}}\n");
    world.server.apply(&yaml("")).await.unwrap();
    let waits = archive(&world.server, folder.path()).await.unwrap_err();
    assert!(waits.to_string().contains("sink siem has been sent events up to 17"), "{waits}");
    assert_eq!(partitions(&world.server).await, 3);
    world.server.apply(&yaml(", enabled: false")).await.unwrap();
    assert_eq!(archive(&world.server, folder.path()).await.unwrap().len(), 2);
}
