//! Witnesses that the log asks (c2sp.org/tlog-witness): two of ours, and others that answer as they like.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use actchain::domain::audit::witness::Witnesses;
use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::http;
use actchain::jobs;
use actchain::platform::clock::Clock;
use actchain::services::audit::cosignatures::{self, RequestResult};
use actchain::services::audit::evidence::verify_evidence;
use actchain::services::audit::{TrustAnchors, verify_database, verify_export};
use actchain::services::witness::{Witness, WitnessError};
use actchain_protocol::signed_note::{self, VerifierKey};
use actchain_protocol::tlog_witness::WitnessRefusal;
use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::json;
use sqlx::Executor as _;

use crate::audit_evidence::download;
use crate::support::Server;
use crate::support::browser::Browser;
use crate::support::management::Api;
use crate::support::world::{IDP, World};
use crate::transparency::{checkpoint, grow};

/// A witness of ours that does not listen yet: its URL must be known before its log exists.
struct Planned {
    folder: tempfile::TempDir,
    listener: TcpListener,
    key: VerifierKey,
}

impl Planned {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = Witness::open(folder.path(), Some(name), Vec::new()).unwrap().verifier().clone();
        Self { folder, listener: TcpListener::bind("127.0.0.1:0").unwrap(), key }
    }

    /// As in `audit.witnesses`.
    fn entry(&self) -> String {
        format!("{} http://{}", self.key.text(), self.listener.local_addr().unwrap())
    }

    /// Watches the log of this server from now on.
    async fn listen(self, server: &Server) -> tempfile::TempDir {
        let keys = Api::get(server, "/audit/keys").send().await.text;
        let logs = keys.lines().filter_map(VerifierKey::parse).collect();
        let witness = Witness::open(self.folder.path(), None, logs).unwrap();
        let listening = http::witness::start(witness, Clock::System, self.listener).unwrap();
        tokio::spawn(listening.run());
        self.folder
    }
}

async fn world_with(entries: &[String]) -> World {
    World::configured(&format!("[audit]\nwitnesses = {entries:?}")).await
}

async fn run(server: &Server) -> Vec<(String, RequestResult)> {
    jobs::witness::run_once(&server.app, server.clock.now()).await
}

/// Who has cosigned the newest checkpoint; every signature of a witness is verified.
async fn cosigners(server: &Server, keys: &[&VerifierKey]) -> Vec<String> {
    let note = Api::get(server, "/audit/checkpoint").send().await.text;
    let (text, signatures) = signed_note::parts(&note).unwrap();
    let signers = keys.iter().filter(|key| signatures.iter().any(|one| one.is_by(key, &text)));
    signers.map(|key| key.name().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_witnesses_cosign_every_new_checkpoint_once() {
    let [first, second] = ["w1.example.com", "w2.example.com"].map(Planned::new);
    let world = world_with(&[first.entry(), second.entry()]).await;
    let server = &world.server;
    let keys = [first.key.clone(), second.key.clone()];
    let keys: Vec<&VerifierKey> = keys.iter().collect();
    let names = ["w1.example.com", "w2.example.com"];
    let _folders = (first.listen(server).await, second.listen(server).await);
    assert_eq!(run(server).await, [], "there is no checkpoint yet");
    for size in [40, 300, 1_500] {
        grow(server, size).await;
        let note = checkpoint(server).await;
        assert_eq!(run(server).await, names.map(|name| (name.to_owned(), RequestResult::Cosigned)));
        assert_eq!(cosigners(server, &keys).await, names, "of {}", note.lines().nth(1).unwrap());
        assert_eq!(run(server).await, [], "a cosigned checkpoint is not sent again");
    }
    // What `audit verify` says of the witnesses: one checkpoint more was signed, and only one witness can be asked.
    let cosigned = Api::get(server, "/audit/checkpoint").send().await.text;
    let size = cosigned.lines().nth(1).unwrap().parse().unwrap();
    grow(server, 1_600).await;
    checkpoint(server).await;
    let witnessed = async |texts: &[String], quorum, notes: Vec<String>| {
        let witnesses = Witnesses::new(texts, quorum).unwrap();
        let keys = Api::get(server, "/audit/keys").send().await.text;
        let keys = keys.lines().filter_map(VerifierKey::parse).collect();
        let anchors = TrustAnchors { keys, notes, witnesses, ..TrustAnchors::default() };
        let report = verify_database(&mut server.sql().await, &anchors).await.unwrap();
        assert!(report.valid);
        report.witnessed
    };
    let texts: Vec<String> = keys.iter().map(|key| key.text()).collect();
    let stranger = Planned::new("w3.example.com").key.text();
    assert_eq!(witnessed(&[], None, Vec::new()).await, None, "no witnesses are known");
    assert_eq!(witnessed(&texts, None, Vec::new()).await, Some(size));
    let three = [texts.clone(), vec![stranger]].concat();
    assert_eq!(witnessed(&three, None, Vec::new()).await, Some(size), "two of three are more than half");
    assert_eq!(witnessed(&three, Some(3), Vec::new()).await, None);
    server.sql().await.execute("DELETE FROM audit_cosignature").await.unwrap();
    assert_eq!(witnessed(&texts, None, Vec::new()).await, None);
    assert_eq!(witnessed(&texts, None, vec![cosigned]).await, Some(size), "a kept checkpoint counts, too");
    let cosigned = server.events().await.into_iter().filter(|one| one["action"] == "audit.witness_cosigned");
    assert_eq!(cosigned.count(), 6, "each cosignature is an event");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_has_the_newest_checkpoint_that_the_witnesses_cosigned() {
    let planned = Planned::new("w1.example.com");
    let world = world_with(&[planned.entry()]).await;
    let server = &world.server;
    let witness = planned.key.text();
    let _folder = planned.listen(server).await;
    let chain = world.first_hop().await.claims()["txn"].as_str().unwrap().to_owned();
    let note = checkpoint(server).await;
    assert_eq!(run(server).await.len(), 1);
    // A later checkpoint that no witness has cosigned.
    grow(server, 300).await;
    checkpoint(server).await;
    let keys = vec![crate::audit_archive::key(server).await];
    let witnesses = Witnesses::new(&[witness], None).unwrap();
    let anchors = TrustAnchors { keys, witnesses, ..TrustAnchors::default() };
    let ann = Principal::new(IDP, "ann");
    let auditor = Browser::of(server, ConsoleRole::Auditor, Some(&ann)).await;
    let path = format!("/console/chains/{chain}/evidence");
    let unpacked = download(&auditor, &world, &path).await;
    let report = verify_evidence(&unpacked.folder, &anchors).unwrap();
    let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
    assert!(report.valid && report.events.witnessed == Some(size), "{report:?}");
    let events = verify_export(&unpacked.folder.join("events.jsonl"), &anchors).unwrap();
    assert_eq!(events.witnessed, Some(size), "the file of the events has the cosignatures, too");
    // A chain after it gets a checkpoint that covers it, without cosignatures.
    let later = world.first_hop().await.claims()["txn"].as_str().unwrap().to_owned();
    let unpacked = download(&auditor, &world, &format!("/console/chains/{later}/evidence")).await;
    let report = verify_evidence(&unpacked.folder, &anchors).unwrap();
    assert!(report.valid && report.events.witnessed.is_none(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_cosigned_for_another_server_or_before_a_crash_is_asked_from_where_it_is() {
    let planned = Planned::new("w1.example.com");
    let world = world_with(&[planned.entry()]).await;
    let server = &world.server;
    let key = planned.key.clone();
    let _folder = planned.listen(server).await;
    checkpoint(server).await;
    run(server).await;
    // As if the server had died between the answer of the witness and the commit.
    server.sql().await.execute("DELETE FROM audit_cosignature").await.unwrap();
    assert_eq!(run(server).await, [("w1.example.com".to_owned(), RequestResult::Cosigned)], "the same size");
    server.sql().await.execute("DELETE FROM audit_cosignature").await.unwrap();
    grow(server, 600).await;
    checkpoint(server).await;
    assert_eq!(run(server).await, [("w1.example.com".to_owned(), RequestResult::Cosigned)], "a larger size");
    assert_eq!(cosigners(server, &[&key]).await, ["w1.example.com"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_truncated_or_rewritten_gets_no_cosignature() {
    let planned = Planned::new("w1.example.com");
    let world = world_with(&[planned.entry()]).await;
    let server = &world.server;
    let folder = planned.listen(server).await;
    checkpoint(server).await;
    run(server).await;
    let contradicted = [("w1.example.com".to_owned(), RequestResult::Contradicted)];
    let file = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let file = file.filter(|path| path.extension().is_some_and(|suffix| suffix == "checkpoint"));
    let kept: Vec<_> = file.collect();
    assert_eq!(kept.len(), 1, "one file for the log");
    // The witness goes on with what it has in memory; the database goes back to nothing.
    let mut sql = server.sql().await;
    sql.execute("DELETE FROM audit_cosignature").await.unwrap();
    sql.execute("DELETE FROM audit_checkpoint").await.unwrap();
    sql.execute("DELETE FROM audit_event WHERE seq > 2").await.unwrap();
    let documents: Vec<String> = sqlx::query_scalar("SELECT document FROM audit_event ORDER BY seq")
        .fetch_all(&mut sql)
        .await
        .unwrap();
    let mut tree = actchain_protocol::merkle::Frontier::default();
    documents.iter().for_each(|one| tree.push(actchain_protocol::merkle::leaf(one.as_bytes())));
    sqlx::query("UPDATE audit_head SET size = $1, peaks = $2")
        .bind(documents.len() as i64)
        .bind(tree.peaks().concat())
        .execute(&mut sql)
        .await
        .unwrap();
    checkpoint(server).await;
    assert_eq!(run(server).await, contradicted, "shorter than what was cosigned");
    grow(server, 400).await;
    checkpoint(server).await;
    assert_eq!(run(server).await, contradicted, "longer, with other events");
    assert_eq!(server.last_event().await["action"], "client.enabled", "nothing was cosigned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filtered_export_is_witnessed_only_at_the_size_of_its_proofs() {
    let planned = Planned::new("w1.example.com");
    let world = world_with(&[planned.entry()]).await;
    let server = &world.server;
    let witnesses = Witnesses::new(&[planned.key.text()], None).unwrap();
    let _folder = planned.listen(server).await;
    checkpoint(server).await;
    run(server).await;
    let earlier = Api::get(server, "/audit/checkpoint").send().await.text;
    world.first_hop().await.with_status(200);
    server.pass(120);
    let export = world.export("outcome=success").await.with_status(200).text;
    let keys_text = Api::get(server, "/audit/keys").send().await.text;
    let keys: Vec<VerifierKey> = keys_text.lines().filter_map(VerifierKey::parse).collect();
    let anchors = TrustAnchors { keys, witnesses: witnesses.clone(), ..TrustAnchors::default() };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export.jsonl");
    let witnessed = |text: &str, anchors: &TrustAnchors| {
        std::fs::write(&file, text).unwrap();
        let report = verify_export(&file, anchors).unwrap();
        assert!(report.valid, "{report:?}");
        report.witnessed
    };
    assert_eq!(witnessed(&export, &anchors), None, "its checkpoint has no cosignature yet");
    // A cosigned checkpoint of another size is beside the proofs, which may be of another log.
    let line = json!({"checkpoint": earlier, "key": anchors.keys[0].text()});
    assert_eq!(witnessed(&format!("{export}{line}\n"), &anchors), None);
    assert_eq!(run(server).await, [("w1.example.com".to_owned(), RequestResult::Cosigned)]);
    let cosigned = Api::get(server, "/audit/checkpoint").send().await.text;
    let size = cosigned.lines().nth(1).unwrap().parse().unwrap();
    let kept = TrustAnchors { notes: vec![cosigned], ..anchors };
    assert_eq!(witnessed(&export, &kept), Some(size));
    let without_key = TrustAnchors { witnesses, ..TrustAnchors::default() };
    let fault = verify_export(&file, &without_key).unwrap_err().to_string();
    assert!(fault.contains("--key"), "witnesses vouch for many logs: {fault}");
}

#[test]
fn a_witness_keeps_the_checkpoint_that_contradicts_what_it_cosigned() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    let witness = Witness::open(folder.path(), Some("w.example.com"), vec![log.verifier.clone()]).unwrap();
    let now = Clock::System.now();
    let first = log.request(5, 1);
    witness.add_checkpoint(&first, now).unwrap();
    let same_again = first.replacen("old 0", "old 5", 1);
    witness.add_checkpoint(&same_again, now).unwrap();
    let other = log.request(5, 2).replacen("old 0", "old 5", 1);
    let refused = witness.add_checkpoint(&other, now).unwrap_err();
    assert!(matches!(refused, WitnessError::Refused(WitnessRefusal::RootDiffers)), "{refused:?}");
    let kept = |suffix: &str| {
        let paths = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let path = paths.into_iter().find(|path| path.extension().is_some_and(|of| of == suffix)).unwrap();
        signed_note::open(&std::fs::read_to_string(path).unwrap(), std::slice::from_ref(&log.verifier))
            .unwrap()
            .root
    };
    assert_eq!((kept("checkpoint"), kept("refused")), ([1; 32], [2; 32]), "both signed by the log");
}

#[test]
fn a_witness_that_cannot_store_a_checkpoint_does_not_cosign_it() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    let witness = Witness::open(folder.path(), Some("w.example.com"), vec![log.verifier.clone()]).unwrap();
    std::fs::remove_dir_all(folder.path()).unwrap();
    let now = Clock::System.now();
    let lost = witness.add_checkpoint(&log.request(5, 1), now).unwrap_err();
    assert!(matches!(lost, WitnessError::Fault(_)), "{lost:?}");
    std::fs::create_dir(folder.path()).unwrap();
    witness.add_checkpoint(&log.request(5, 2), now).expect("nothing was cosigned before");
}

/// A server that gives one answer to every request.
fn answering(answer: &Arc<Mutex<(u16, String)>>) -> String {
    let answer = Arc::clone(answer);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = HttpServer::new(move || {
        let answer = Arc::clone(&answer);
        App::new().default_service(web::to(move || {
            let (status, body) = answer.lock().unwrap().clone();
            async move { HttpResponse::build(StatusCode::from_u16(status).unwrap()).body(body) }
        }))
    });
    tokio::spawn(server.workers(1).disable_signals().listen(listener).unwrap().run());
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_valid_cosignature_of_that_witness_is_stored_and_one_bad_witness_delays_no_other() {
    let good = Planned::new("good.example.com");
    let strange = Planned::new("strange.example.com");
    let answer = Arc::new(Mutex::new((200, String::new())));
    let strange_entry = format!("{} {}", strange.key.text(), answering(&answer));
    let closed_witness = Planned::new("closed.example.com");
    let closed = closed_witness.entry();
    drop(closed_witness);
    let world = world_with(&[strange_entry, closed, good.entry()]).await;
    let server = &world.server;
    let keys = [good.key.clone(), strange.key.clone()];
    let _folder = good.listen(server).await;
    checkpoint(server).await;
    let cosigned_by_good = {
        run(server).await;
        assert_eq!(cosigners(server, &[&keys[0], &keys[1]]).await, ["good.example.com"]);
        let note = Api::get(server, "/audit/checkpoint").send().await.text;
        format!("{}\n", note.lines().last().unwrap())
    };
    for (status, body, result) in [
        (200, "", RequestResult::Failed),
        (200, "cosigned\n", RequestResult::Failed),
        (200, "\u{2014} strange.example.com AAAA\n", RequestResult::Failed),
        (200, &*cosigned_by_good.replace("good", "strange"), RequestResult::Failed),
        (200, &*cosigned_by_good, RequestResult::Failed),
        (302, "", RequestResult::Failed),
        (404, "", RequestResult::Failed),
        (500, "", RequestResult::Failed),
        (409, "", RequestResult::Failed),
        (409, "0\n", RequestResult::Failed),
        (409, "1000000", RequestResult::Failed),
        (409, "1000000\n", RequestResult::Contradicted),
        (422, "", RequestResult::Contradicted),
    ] {
        *answer.lock().unwrap() = (status, body.to_owned());
        let results = run(server).await;
        let of = |name: &str| results.iter().find(|(of, _)| of == name).map(|(_, result)| *result);
        assert_eq!(of("strange.example.com"), Some(result), "{status} {body:?}");
        assert_eq!(of("closed.example.com"), Some(RequestResult::Failed));
        assert_eq!(of("good.example.com"), None, "has cosigned");
    }
    assert_eq!(cosigners(server, &[&keys[0], &keys[1]]).await, ["good.example.com"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_does_not_answer_delays_no_later_request_to_another() {
    let good = Planned::new("good.example.com");
    let silent = Planned::new("silent.example.com");
    let world = world_with(&[silent.entry(), good.entry()]).await;
    let server = &world.server;
    let _folder = good.listen(server).await;
    let witnesses: Vec<_> = server.app.witnesses.iter().cloned().collect();
    let (app, of_silent, now) = (Arc::clone(&server.app), witnesses[0].clone(), server.clock.now());
    checkpoint(server).await;
    let waiting = tokio::spawn(async move { cosignatures::request_cosignature(&app, &of_silent, now).await });
    for round in 0..2 {
        checkpoint(server).await;
        let result = cosignatures::request_cosignature(&server.app, &witnesses[1], now).await;
        assert_eq!(result, Some(RequestResult::Cosigned), "round {round}");
        world.first_hop().await;
    }
    assert!(!waiting.is_finished(), "the other request still waits for its answer");
    waiting.abort();
}

/// The values of the metrics about sizes.
async fn sizes(server: &Server, names: &[&str]) -> Vec<u64> {
    cosignatures::report_sizes(&server.app).await.unwrap();
    let text = Api::get(server, "/metrics").send().await.text;
    let value = |name: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    };
    names.iter().map(value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_exports_and_commands_show_how_far_a_quorum_has_cosigned() {
    let (one, two) = (Planned::new("one.example.com"), Planned::new("two.example.com"));
    let keys = [one.key.text(), two.key.text()];
    let world = world_with(&[one.entry(), two.entry()]).await;
    let server = &world.server;
    let size = |note: &str| note.lines().nth(1).unwrap().parse::<u64>().unwrap();
    let names = [
        "actchain_witness_cosigned_events{witness=\"one.example.com\"}",
        "actchain_witness_cosigned_events{witness=\"two.example.com\"}",
        "actchain_witnessed_events",
    ];
    let _first = one.listen(server).await;
    let both = checkpoint(server).await;
    run(server).await;
    assert_eq!(sizes(server, &names).await, [size(&both), 0, 0], "one is no quorum of two");
    let _second = two.listen(server).await;
    run(server).await;
    assert_eq!(sizes(server, &names).await, [size(&both); 3]);
    // A later checkpoint, which no witness has seen.
    world.first_hop().await;
    checkpoint(server).await;
    assert_eq!(sizes(server, &names).await, [size(&both); 3]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("export.jsonl");
    let keys_of_log = Api::get(server, "/audit/keys").send().await.text;
    let anchors = TrustAnchors {
        keys: keys_of_log.lines().filter_map(VerifierKey::parse).collect(),
        witnesses: Witnesses::new(&keys, None).unwrap(),
        ..TrustAnchors::default()
    };
    let witnessed = async |query: &str| {
        let export = world.export(query).await;
        std::fs::write(&path, &export.text).unwrap();
        let report = verify_export(&path, &anchors).unwrap();
        assert!(report.valid, "{query}: {report:?}");
        report.witnessed
    };
    assert_eq!(witnessed("").await, Some(size(&both)), "a whole export has the newest cosigned checkpoint");
    let selection = format!("outcome=success&size={}", size(&both));
    assert_eq!(
        witnessed(&selection).await,
        Some(size(&both)),
        "and a selection the cosignatures of its size"
    );
    assert_eq!(witnessed("outcome=success").await, None);
    assert_eq!(
        witnessed(&format!("from_seq={}", size(&both) + 1)).await,
        None,
        "it ends before the first event"
    );
    let mut sql = server.sql().await;
    let note = cosignatures::newest_cosigned_checkpoint(&mut sql, &anchors.witnesses).await.unwrap();
    assert_eq!(anchors.witnesses.cosigned_size(&note), Some(size(&both)));
}

/// A log with one key, for witnesses without a server.
struct Log {
    key: actchain_protocol::jose::SigningKey,
    verifier: VerifierKey,
}

impl Log {
    fn new() -> Self {
        use actchain_protocol::jose::{SigningAlg, SigningKey};
        let key = SigningKey::generate(SigningAlg::Ed25519).unwrap().0;
        let x = actchain_protocol::base64url::decode(key.public_jwk()["x"].as_str().unwrap()).unwrap();
        let verifier = VerifierKey::new("log.example.com/audit", x.try_into().unwrap()).unwrap();
        Self { key, verifier }
    }

    /// A first checkpoint of this size.
    fn request(&self, size: u64, root: u8) -> String {
        let origin = self.verifier.name().to_owned();
        let text = signed_note::Checkpoint { origin, size, root: [root; 32] }.text();
        let line = self.verifier.signature_line(&self.key.sign_raw(text.as_bytes()).unwrap());
        format!("old 0\n\n{}", signed_note::note(&text, &line))
    }
}

#[test]
fn a_witness_keeps_what_it_cosigned_and_its_folder_to_itself() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    let open = |name| Witness::open(folder.path(), name, vec![log.verifier.clone()]);
    let now = Clock::System.now();
    assert!(open(None).unwrap_err().to_string().contains("--name"), "a new witness needs a name");
    assert!(open(Some("two words")).is_err());
    let witness = open(Some("w.example.com")).unwrap();
    assert!(open(None).unwrap_err().to_string().contains("another process"), "one process a folder");
    let line = witness.add_checkpoint(&log.request(5, 1), now).unwrap();
    let key = witness.verifier().clone();
    drop(witness);

    let again = open(None).unwrap();
    assert_eq!(again.verifier(), &key);
    let conflict = again.add_checkpoint(&log.request(5, 2), now).unwrap_err();
    assert!(matches!(conflict, WitnessError::Refused(WitnessRefusal::OldSize(5))), "{conflict:?}");
    let (text, signatures) =
        signed_note::parts(&format!("{}{line}", log.request(5, 1).split_once("\n\n").unwrap().1)).unwrap();
    assert!(signatures.last().unwrap().is_by(&key, &text));
    drop(again);

    assert!(open(Some("other.example.com")).is_err(), "the name is part of the key");
    let stored = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let stored = stored.filter(|path| path.extension().is_some_and(|suffix| suffix == "checkpoint"));
    for path in stored {
        std::fs::write(path, "").unwrap();
    }
    assert!(
        open(None).unwrap_err().to_string().contains("no checkpoint"),
        "it does not begin again from nothing"
    );
}

#[test]
fn of_concurrent_histories_a_witness_cosigns_one() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    let witness = Witness::open(folder.path(), Some("w.example.com"), vec![log.verifier.clone()]).unwrap();
    let now = Clock::System.now();
    let start = std::sync::Barrier::new(8);
    let cosigned = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|root| {
                let (witness, start, body) = (&witness, &start, log.request(5, root));
                scope.spawn(move || {
                    start.wait();
                    witness.add_checkpoint(&body, now).is_ok()
                })
            })
            .collect();
        threads.into_iter().map(|one| one.join().unwrap()).filter(|cosigned| *cosigned).count()
    });
    assert_eq!(cosigned, 1);
}
