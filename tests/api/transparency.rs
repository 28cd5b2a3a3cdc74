//! The public log: checkpoints, proofs, tiles, cosignatures, receipts; also read with an independent tool for such
//! logs.

use actchain::domain::audit::append::append_events;
use actchain::domain::audit::{Actor, Event, EventKind, store, tree};
use actchain::platform::outbound::{AddressPolicy, Outbound};
use actchain::platform::seal::SealingKey;
use actchain::services::audit::verify_receipt::{self, ProofError, ProofSource, ReceiptTrustAnchors};
use actchain::services::audit::{self, index};
use actchain::services::keys;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use actchain_protocol::merkle::{self, Frontier, Hash};
use actchain_protocol::receipt::Receipt;
use actchain_protocol::signed_note::{self, SignerKind, VerifierKey, cosignature, cosigned};
use actchain_protocol::tlog_tiles::{Content, Tile};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::support::agent::{Agent, Auth};
use crate::support::management::Api;
use crate::support::world::World;
use crate::support::{Answer, Server};

/// Appends events until the log has this many.
pub async fn grow(server: &Server, to: u64) {
    let mut sql = server.sql().await;
    loop {
        let size = store::head(&mut sql).await.unwrap().size();
        if size >= to {
            return;
        }
        let more = (to - size).min(500);
        let event = Event {
            target: Some(format!("filler {size}")),
            ..Event::new(server.clock.now(), EventKind::ClientEnabled, Actor::Operator)
        };
        let mut transaction = sql.begin().await.unwrap();
        append_events(&mut transaction, &vec![event; more as usize]).await.unwrap();
        transaction.commit().await.unwrap();
    }
}

pub async fn checkpoint(server: &Server) -> String {
    let seal = SealingKey::of(&server.master);
    audit::checkpoint(&server.app.pool, &seal, &server.app.issuer, server.clock.now()).await.unwrap()
}

async fn get(server: &Server, path: &str) -> Answer {
    Api::get(server, path).send().await
}

fn hash(text: &Value) -> Hash {
    STANDARD.decode(text.as_str().unwrap()).unwrap().try_into().unwrap()
}

fn hashes(list: &Value) -> Vec<Hash> {
    list.as_array().unwrap().iter().map(hash).collect()
}

async fn leaves(server: &Server) -> Vec<Hash> {
    let sql = "SELECT document FROM audit_event ORDER BY seq";
    let documents: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut server.sql().await).await.unwrap();
    documents.iter().map(|document| merkle::leaf(document.as_bytes())).collect()
}

fn root(leaves: &[Hash]) -> Hash {
    let mut tree = Frontier::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree.root()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_proof_verifies_whether_or_not_the_events_are_indexed() {
    let world = World::new().await;
    let server = &world.server;
    for size in [257, 1_024, 1_025, 2_600] {
        grow(server, size).await;
        checkpoint(server).await;
    }
    let leaves = leaves(server).await;
    for indexed in [0, 1_024, 2_048] {
        let mut sql = server.sql().await;
        if indexed > 0 {
            while tree::inclusion(&mut sql, 0, 1).await.is_ok() {
                let mut transaction = sql.begin().await.unwrap();
                let covered = actchain::domain::audit::index::indexed(&mut transaction).await.unwrap();
                if covered >= indexed {
                    break;
                }
                assert!(actchain::domain::audit::index::index_next_block(&mut transaction).await.unwrap());
                transaction.commit().await.unwrap();
            }
        }
        for (seq, size) in [
            (0, 1),
            (0, 2_600),
            (1_023, 1_024),
            (1_024, 1_025),
            (300, 257 + 44),
            (2_599, 2_600),
            (700, 2_049),
        ] {
            let answer = get(server, &format!("/audit/proof/inclusion?seq={seq}&size={size}")).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(hash(&answer.json["leaf"]), leaves[seq as usize]);
            assert_eq!(hash(&answer.json["root"]), root(&leaves[..size as usize]), "{indexed}: {seq} {size}");
            let path = hashes(&answer.json["path"]);
            assert!(merkle::verify_inclusion(
                &leaves[seq as usize],
                seq,
                size,
                &path,
                &hash(&answer.json["root"])
            ));
        }
        for (from, to) in [
            (0, 0),
            (0, 2_600),
            (1, 2_600),
            (257, 1_024),
            (1_024, 1_025),
            (1_025, 2_600),
            (2_048, 2_599),
            (9, 9),
        ] {
            let answer = get(server, &format!("/audit/proof/consistency?from={from}&to={to}")).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let (old, new) = (hash(&answer.json["from_root"]), hash(&answer.json["to_root"]));
            assert_eq!((old, new), (root(&leaves[..from as usize]), root(&leaves[..to as usize])));
            assert!(merkle::verify_consistency(from, to, &hashes(&answer.json["path"]), &old, &new));
        }
        for size in [0, 1, 1_023, 1_024, 2_047, 2_600] {
            let frontier = tree::frontier(&mut sql, size).await.unwrap();
            assert_eq!((frontier.size(), frontier.root()), (size, root(&leaves[..size as usize])));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_proven_after_the_newest_checkpoint_or_from_a_log_that_contradicts_it() {
    let world = World::new().await;
    let server = &world.server;
    let missing = get(server, "/audit/checkpoint").await;
    assert_eq!((missing.status, missing.reason()), (404, "not_found"), "none was signed yet");
    assert_eq!(get(server, "/audit/proof/inclusion?seq=0").await.status, 404);
    checkpoint(server).await;
    let size = server.events().await.len();
    world.first_hop().await;
    let whole = get(server, "/audit/proof/inclusion?seq=0").await;
    assert_eq!((whole.status, &whole.json["size"]), (200, &json!(size)));
    for (path, status) in [
        (format!("/audit/proof/inclusion?seq={size}"), 404),
        (format!("/audit/proof/inclusion?seq=0&size={}", size + 1), 404),
        ("/audit/proof/inclusion?seq=0&size=0".to_owned(), 404),
        ("/audit/proof/inclusion?seq=9223372036854775808".to_owned(), 404),
        ("/audit/proof/inclusion?seq=18446744073709551616".to_owned(), 400),
        ("/audit/proof/inclusion?seq=-1".to_owned(), 400),
        ("/audit/proof/inclusion?seq=x".to_owned(), 400),
        ("/audit/proof/inclusion".to_owned(), 400),
        ("/audit/proof/inclusion?seq=0&seq=1".to_owned(), 400),
        ("/audit/proof/inclusion?seq=0&colour=red".to_owned(), 400),
        (format!("/audit/proof/consistency?from={}", size + 1), 404),
        ("/audit/proof/consistency?from=2&to=1".to_owned(), 404),
        ("/audit/proof/consistency?to=1".to_owned(), 400),
        ("/audit/tile/0/000.p/200".to_owned(), 404),
        ("/audit/tile/0/000".to_owned(), 404),
        ("/audit/tile/0/0".to_owned(), 404),
        ("/audit/tile/63/x999/x999/999".to_owned(), 404),
    ] {
        let answer = get(server, &path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    let mut sql = server.sql().await;
    sql.execute("UPDATE audit_event SET document = replace(document, 'user-proxy', 'user-other')")
        .await
        .unwrap();
    let broken = get(server, "/audit/proof/inclusion?seq=0").await;
    assert_eq!(broken.status, 503, "a log that was changed proves nothing: {}", broken.text);
    let seal = SealingKey::of(&server.master);
    let signed = audit::checkpoint(&server.app.pool, &seal, &server.app.issuer, server.clock.now()).await;
    assert!(
        signed.unwrap_err().to_string().contains("rewritten"),
        "c2sp.org/tlog-checkpoint: nothing is signed for it either"
    );
}

/// Reads tiles over HTTP for `tlog_tiles`.
struct Tiles {
    base: String,
    runtime: tokio::runtime::Handle,
}

impl ::tlog_tiles::TileReader for Tiles {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[::tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, ::tlog_tiles::Error> {
        let fetch = async |tile: &::tlog_tiles::Tile| {
            let content = Content::Hashes(tile.level());
            let tile = Tile { content, n: tile.level_index(), width: tile.width() as u16 };
            let answer = reqwest::get(format!("{}/audit/{}", self.base, tile.path())).await.unwrap();
            assert_eq!(answer.status(), 200, "{}", tile.path());
            let cache = answer.headers()["cache-control"].to_str().unwrap().to_owned();
            assert_eq!(cache.contains("immutable"), tile.is_full(), "c2sp.org/tlog-tiles");
            answer.bytes().await.unwrap().to_vec()
        };
        Ok(tokio::task::block_in_place(|| {
            self.runtime.block_on(async {
                let mut all = Vec::new();
                for tile in tiles {
                    all.push(fetch(tile).await);
                }
                all
            })
        }))
    }

    fn save_tiles(&self, _: &[::tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_tool_reads_the_log_from_its_tiles_and_checks_the_proofs() {
    let world = World::new().await;
    let server = &world.server;
    grow(server, 600).await;
    checkpoint(server).await;
    grow(server, 1_500).await;
    index::run_once(&server.app.pool).await.unwrap();
    checkpoint(server).await;
    let answer = get(server, "/audit/checkpoint").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let keys = get(server, "/audit/keys").await;
    let known = ::signed_note::StandardVerifier::new(keys.text.trim()).unwrap();
    let known = ::signed_note::VerifierList::new(vec![Box::new(known)]);
    let note = ::signed_note::Note::from_bytes(answer.text.as_bytes()).unwrap();
    assert_eq!(note.verify(&known).unwrap().0.len(), 1, "one Ed25519 line that others verify");
    let checkpoint = ::tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
    assert_eq!(checkpoint.size(), 1_500);
    let tiles = Tiles { base: server.base.clone(), runtime: tokio::runtime::Handle::current() };
    let reader = ::tlog_tiles::TileHashReader::new(checkpoint.size(), *checkpoint.hash(), &tiles);
    let leaves = leaves(server).await;
    for seq in [0u64, 255, 256, 1_023, 1_024, 1_499] {
        let leaf = ::tlog_tiles::Hash(leaves[seq as usize]);
        let proof = ::tlog_tiles::prove_record(1_500, seq, &reader).unwrap();
        ::tlog_tiles::check_record(&proof, 1_500, *checkpoint.hash(), seq, leaf).unwrap();
        let ours = get(server, &format!("/audit/proof/inclusion?seq={seq}&size=1500")).await;
        let ours: Vec<_> = hashes(&ours.json["path"]).into_iter().map(::tlog_tiles::Hash).collect();
        assert_eq!(ours, proof, "RFC 9162 §2.1.3.1");
    }
    let ours = get(server, "/audit/proof/consistency?from=600").await;
    let path: Vec<_> = hashes(&ours.json["path"]).into_iter().map(::tlog_tiles::Hash).collect();
    let old = ::tlog_tiles::Hash(hash(&ours.json["from_root"]));
    ::tlog_tiles::check_tree(&path, 1_500, *checkpoint.hash(), 600, old).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_for_auditors_and_administrators_only() {
    let world = World::new().await;
    let auditor = Agent::new("auditor", Auth::Assertion);
    let yaml = format!(
        "clients:\n  - {{id: auditor, kind: auditor, auth: private_key_jwt, jwks: {{keys: [{}]}}, scopes: [actchain.audit],\n     grant_types: [client_credentials]}}",
        auditor.key.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    checkpoint(&world.server).await;
    let path = "/audit/tile/entries/000.p/3";
    assert_eq!(get(&world.server, path).await.status, 401);
    assert_eq!(world.as_alice("GET", path, json!({})).await.status, 403);
    assert_eq!(world.as_agent(&world.admin, "GET", path, json!({})).await.status, 200);
    let token = world.management_token(&auditor).await;
    let request = Api::get(&world.server, path).client(&auditor, &token);
    let answer = request.send().await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    let mut expected = Vec::new();
    let documents: Vec<String> =
        sqlx::query_scalar("SELECT document FROM audit_event WHERE seq < 3 ORDER BY seq")
            .fetch_all(&mut world.server.sql().await)
            .await
            .unwrap();
    for document in documents {
        expected.extend_from_slice(&(document.len() as u16).to_be_bytes());
        expected.extend_from_slice(document.as_bytes());
    }
    assert_eq!(answer.text, String::from_utf8_lossy(&expected));
    let public = get(&world.server, "/audit/tile/entries/000").await;
    assert_eq!(public.status, 401);
}

pub fn witness(name: &str) -> (SigningKey, VerifierKey) {
    let (key, _) = SigningKey::generate(SigningAlg::Ed25519).unwrap();
    let public = key.public_jwk()["x"].as_str().map(actchain_protocol::base64url::decode).unwrap().unwrap();
    let verifier = VerifierKey::of_kind(SignerKind::Witness, name, public.try_into().unwrap()).unwrap();
    (key, verifier)
}

pub fn cosign((key, verifier): &(SigningKey, VerifierKey), text: &str) -> String {
    let signature = key.sign_raw(cosigned(text, 1_767_225_600).as_bytes()).unwrap();
    verifier.signature_line(&cosignature(1_767_225_600, &signature))
}

/// A note with one changed character in its first signature line, at this place of the base64 text.
fn altered(note: &str, place: usize) -> String {
    let (text, lines) = note.split_once("\n\n").unwrap();
    let (name, blob) = lines.rsplit_once(' ').unwrap();
    let mut blob = blob.to_owned();
    let other = if blob[place..].starts_with('A') { "B" } else { "A" };
    blob.replace_range(place..=place, other);
    format!("{text}\n\n{name} {blob}")
}

pub async fn post_note(server: &Server, note: &str) -> Answer {
    let api = Api::new(server, "POST", "/audit/checkpoint/cosignatures").raw(note);
    api.header("content-type", "text/plain; charset=utf-8").send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn known_witnesses_cosign_checkpoints_of_this_log_and_no_other_text() {
    let known = [witness("w1.example.com"), witness("w2.example.com")];
    let stranger = witness("w3.example.com");
    let list = known.iter().map(|one| format!("{:?}", one.1.text())).collect::<Vec<_>>().join(", ");
    let world = World::configured(&format!("[audit]\nwitnesses = [{list}]")).await;
    let server = &world.server;
    let note = checkpoint(server).await;
    let (text, _) = signed_note::parts(&note).unwrap();
    let before = server.events().await.len();
    let other = text.replacen('\n', "\n1", 1);
    let (spoiled, good) = (cosign(&known[0], &other), cosign(&known[0], &text));
    for (bad, what) in [
        ("hello".to_owned(), "no note"),
        (note.clone(), "no witness"),
        (signed_note::note(&text, &cosign(&stranger, &text)), "a stranger"),
        (signed_note::note(&text, &spoiled), "a signature over something else"),
        (
            signed_note::note(&text, &format!("{}{spoiled}", cosign(&known[1], &text))),
            "a good one and a bad one",
        ),
        (signed_note::note(&other, &spoiled), "not our checkpoint"),
        (format!("{}{good}", altered(&note, 40)), "our own signature altered beside a good witness"),
        (format!("{}{good}", altered(&note, 2)), "our own key id altered beside a good witness"),
    ] {
        let answer = post_note(server, &bad).await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{what}: {}", answer.text);
    }
    assert_eq!(server.events().await.len(), before, "nothing happened");
    let both = signed_note::note(&text, &format!("{}{}", cosign(&known[0], &text), cosign(&stranger, &text)));
    let answer = post_note(server, &both).await;
    assert_eq!((answer.status, &answer.json), (200, &json!({"added": 1})), "{}", answer.text);
    let again = post_note(server, &both).await;
    assert_eq!((again.status, &again.json), (200, &json!({"added": 0})));
    let event = server.last_event().await;
    assert_eq!(event["action"], "audit.witness_cosigned");
    assert_eq!(event["actor"], json!({"type": "witness", "name": "w1.example.com"}));
    assert_eq!(server.events().await.len(), before + 1, "said once");
    let shown = get(server, "/audit/checkpoint").await.text;
    let (text, signatures) = signed_note::parts(&shown).unwrap();
    assert_eq!(signatures.len(), 2);
    assert!(signatures[1].is_by(&known[0].1, &text), "shown to every caller");
    // A cosignature alone does not cause a new checkpoint.
    actchain::jobs::checkpoint::run_once(&server.app, server.clock.now()).await.unwrap();
    assert_eq!(get(server, "/audit/checkpoint").await.text, shown);
    let proof = get(server, "/audit/proof/inclusion?seq=0").await;
    assert_eq!(proof.json["checkpoint"], shown, "and beside proofs");
    let keys = get(server, "/audit/keys").await.text;
    let keys: Vec<VerifierKey> = keys.lines().filter_map(VerifierKey::parse).collect();
    assert!(signed_note::open(&shown, &[keys, vec![known[0].1.clone()]].concat()).is_some());
    let kind = Api::new(server, "POST", "/audit/checkpoint/cosignatures").json(&json!({})).send().await;
    assert_eq!(kind.status, 400);
}

async fn anchors(server: &Server) -> ReceiptTrustAnchors {
    let keys = get(server, "/audit/keys").await.text;
    ReceiptTrustAnchors {
        keys: keys.lines().filter_map(VerifierKey::parse).collect(),
        known_checkpoint: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_answer_has_a_receipt_that_the_log_proves() {
    let world = World::new().await;
    let server = &world.server;
    let first = checkpoint(server).await;
    let mut receipts = Vec::new();
    for answer in [world.first_hop().await, world.second_hop().await] {
        let receipt = Receipt::parse(answer.header("actchain-receipt").unwrap()).unwrap();
        let event = &server.events().await[receipt.seq as usize];
        assert_eq!(event["jti"], answer.claims()["jti"], "the event of this very token");
        receipts.push(receipt);
    }
    let outbound = Outbound::new(AddressPolicy::of_issuer(&server.base)).unwrap();
    let from = || ProofSource::Server(&outbound, &server.base);
    let mut anchors = anchors(server).await;
    anchors.known_checkpoint = Some(first.clone());
    let early = verify_receipt::verify(&receipts[1], from(), &anchors).await;
    assert!(early.is_err(), "no checkpoint covers it yet: could not be checked");
    checkpoint(server).await;
    for receipt in &receipts {
        let proven = verify_receipt::verify(receipt, from(), &anchors).await.unwrap();
        assert!(proven.proven, "{proven:?}");
        let event: String = sqlx::query_scalar("SELECT document FROM audit_event WHERE seq = $1")
            .bind(receipt.seq as i64)
            .fetch_one(&mut server.sql().await)
            .await
            .unwrap();
        let file = proven.file.unwrap();
        let offline =
            |file: &str, event: &str| verify_receipt::check_file(file, event.as_bytes(), &anchors.keys);
        assert!(offline(&file, &event).unwrap().proven, "c2sp.org/tlog-proof: also by itself");
        assert_eq!(
            offline(&file, &event.replace("user-proxy", "user-other")).unwrap().reason,
            Some(ProofError::Inclusion)
        );
        let moved = file.replace(&format!("index {}", receipt.seq), &format!("index {}", receipt.seq - 1));
        assert!(!offline(&moved, &event).unwrap().proven);
        assert!(offline("nothing", &event).is_err());
        let mut sql = server.sql().await;
        assert!(
            verify_receipt::verify(receipt, ProofSource::Database(&mut sql), &anchors).await.unwrap().proven
        );
    }
    let wrong = Receipt { leaf: [7; 32], ..receipts[0] };
    let disproved = verify_receipt::verify(&wrong, from(), &anchors).await.unwrap();
    assert_eq!((disproved.proven, disproved.reason), (false, Some(ProofError::Leaf)));
    let stranger =
        ReceiptTrustAnchors { keys: vec![VerifierKey::new("x", [1; 32]).unwrap()], known_checkpoint: None };
    let disproved = verify_receipt::verify(&receipts[0], from(), &stranger).await.unwrap();
    assert_eq!(disproved.reason, Some(ProofError::Signature));
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_can_be_switched_off() {
    let world = World::configured("[audit]\nreceipts = false").await;
    assert!(world.first_hop().await.header("actchain-receipt").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn log_keys_rotate_and_earlier_checkpoints_still_verify() {
    let world = World::new().await;
    let server = &world.server;
    let seal = SealingKey::of(&server.master);
    let mut notes = vec![checkpoint(server).await];
    let mut keys = vec![get(server, "/audit/keys").await.text.trim().to_owned()];
    for _ in 0..2 {
        server.pass(60);
        keys::rotate_log(&server.app.pool, &seal, server.clock.now()).await.unwrap();
        notes.push(checkpoint(server).await);
        keys.push(get(server, "/audit/keys").await.text.lines().next().unwrap().to_owned());
        server.pass(60);
        world.first_hop().await;
        notes.push(checkpoint(server).await);
    }
    let keys: Vec<VerifierKey> = keys.iter().map(|text| VerifierKey::parse(text).unwrap()).collect();
    let signers = |note: &str| -> Vec<usize> {
        let (text, signatures) = signed_note::parts(note).unwrap();
        let by = |key: &VerifierKey| signatures.iter().any(|one| one.is_by(key, &text));
        (0..keys.len()).filter(|at| by(&keys[*at])).collect()
    };
    let by: Vec<Vec<usize>> = notes.iter().map(|note| signers(note)).collect();
    assert_eq!(
        by,
        [vec![0], vec![0, 1], vec![1], vec![1, 2], vec![2]],
        "the first after a rotation is signed by both"
    );
    actchain::jobs::key_rotation::run_once(&server.app, server.clock.now() + time::Duration::days(90))
        .await
        .unwrap();
    assert_eq!(get(server, "/audit/keys").await.text.lines().count(), 3, "former keys stay");
    let verify = async |kept: &audit::TrustAnchors| {
        audit::verify_database(&mut server.sql().await, kept).await.unwrap()
    };
    assert!(verify(&audit::TrustAnchors::default()).await.valid);
    for (key, note) in keys.iter().zip([&notes[0], &notes[2], &notes[4]]) {
        let kept = audit::TrustAnchors {
            keys: vec![key.clone()],
            notes: vec![note.clone()],
            ..audit::TrustAnchors::default()
        };
        let report = verify(&kept).await;
        assert!(report.valid, "{report:?}");
        assert!(report.checkpoints >= 2);
    }
}

/// An accepted cosignature, and one that fails without a database, checked against the description.
pub async fn a_cosignature_is_taken(contract: &crate::support::contract::Contract) {
    let known = witness("w.example.com");
    let world = World::configured(&format!("[audit]\nwitnesses = [{:?}]", known.1.text())).await;
    let path = "/audit/checkpoint/cosignatures";
    let note = checkpoint(&world.server).await;
    let (text, _) = signed_note::parts(&note).unwrap();
    let note = signed_note::note(&text, &cosign(&known, &text));
    let taken = post_note(&world.server, &note).await;
    contract.hold("POST", path, &taken);
    contract.hold_request("POST", path, Some(&json!(note)));
    assert_eq!(taken.status, 200);
    world.server.app.pool.close().await;
    let failed = post_note(&world.server, &note).await;
    contract.hold("POST", path, &failed);
    assert_eq!(failed.status, 503);
}
