//! Evidence about a chain or an event: one file from the console or the API, which verifies without the server.

use std::path::{Path, PathBuf};

use actchain::domain::audit::evidence::derive;
use actchain::domain::audit::evidence_header::EvidenceHeader;
use actchain::domain::audit::search::EventRow;
use actchain::domain::audit::{Event, EventKind, partitions};
use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::services::audit::evidence::{EvidenceReport, verify_evidence};
use actchain::services::audit::{TrustAnchors, verify_export};
use actchain::services::erasure;
use actchain::services::transaction::AuditedTransaction;
use actchain_protocol::base64url;
use actchain_protocol::pseudonym::pseudonym;
use actchain_protocol::signed_note::VerifierKey;
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::audit_archive::{archive, key};
use crate::support::agent::ACCESS_TOKEN;
use crate::support::audit::{Dice, cover, event};
use crate::support::browser::Browser;
use crate::support::world::{IDP, World};

const FILES: [&str; 7] = [
    "README.txt",
    "chains.json",
    "checkpoint.note",
    "delegations.json",
    "events.jsonl",
    "keys.txt",
    "summary.txt",
];

/// An unpacked file of evidence.
pub struct Unpacked {
    pub folder: PathBuf,
    _all: tempfile::TempDir,
}

impl Unpacked {
    pub fn of(bytes: &[u8]) -> Self {
        let all = tempfile::tempdir().unwrap();
        tar::Archive::new(GzDecoder::new(bytes)).unpack(all.path()).unwrap();
        let mut folders: Vec<PathBuf> = names(all.path()).iter().map(|name| all.path().join(name)).collect();
        assert_eq!(folders.len(), 1, "all files are in one folder");
        Self { folder: folders.remove(0), _all: all }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Downloads a file of the console, which must have the folder of this name.
pub async fn download(browser: &Browser<'_>, world: &World, path: &str) -> Unpacked {
    let response = browser.stream(&world.server, path, None).await;
    assert_eq!(response.status(), 200, "{path}");
    let named = response.headers()["content-disposition"].to_str().unwrap().to_owned();
    assert_eq!(response.headers()["content-type"], "application/gzip");
    let unpacked = Unpacked::of(&response.bytes().await.unwrap());
    let folder = unpacked.folder.file_name().unwrap().to_str().unwrap();
    assert_eq!(named, format!("attachment; filename=\"{folder}.tar.gz\""));
    unpacked
}

async fn kept(world: &World) -> TrustAnchors {
    TrustAnchors { keys: vec![key(&world.server).await], ..TrustAnchors::default() }
}

fn user(sub: &str) -> Principal {
    Principal::new(IDP, sub)
}

async fn browser<'a>(world: &'a World, role: ConsoleRole, sub: &str) -> Browser<'a> {
    Browser::of(&world.server, role, Some(&user(sub))).await
}

/// The `txn` of a chain of three hops.
async fn chain(world: &World) -> String {
    world.third_hop().await.claims()["txn"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_about_a_chain_verifies_without_the_server() {
    let world = World::new().await;
    let txn = chain(&world).await;
    let mut auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    let page = auditor.get(&format!("/console/chains/{txn}")).await.with_status(200);
    let path = format!("/console/chains/{txn}/evidence");
    assert!(page.text.contains(&format!("href=\"{path}\"")), "{}", page.text);
    let unpacked = download(&auditor, &world, &path).await;
    assert_eq!(names(&unpacked.folder), FILES);
    let report = verify_evidence(&unpacked.folder, &kept(&world).await).unwrap();
    assert!(report.valid && !report.keys_of_folder, "{report:?}");
    let documents = world.server.documents().await;
    let of_chain = documents.iter().filter(|one| one["txn"] == txn.as_str()).count();
    let lifecycle = report.events.events as usize - of_chain;
    assert!(of_chain == 3 && lifecycle > 0, "the hops, and the delegations that allow them: {report:?}");
    // The file of the events verifies by itself, too.
    let events = verify_export(&unpacked.folder.join("events.jsonl"), &kept(&world).await).unwrap();
    assert!(events.valid && events.events == report.events.events, "{events:?}");
    let [readme, summary] = ["README.txt", "summary.txt"].map(|name| unpacked.read(name));
    for part in [&txn, "alice (https://", "actchain audit verify --key", "node verify-log.mjs ."] {
        assert!(readme.contains(part), "{part}: {readme}");
    }
    for part in [
        "user-proxy got a token to act",
        "followup-svc got a token",
        "Granted, by event",
        "In the log, the user is person-",
    ] {
        assert!(summary.contains(part), "{part}: {summary}");
    }
    let lines = unpacked.read("events.jsonl");
    assert!(lines.lines().skip(1).all(|line| !line.contains("\"alice\"")), "documents have pseudonyms");
    let recorded = world.server.last_event().await;
    assert_eq!(recorded["action"], "admin.audit_exported");
    assert_eq!(
        (&recorded["detail"]["format"], &recorded["detail"]["filter"]["txn"], &recorded["detail"]["people"]),
        (&json!("evidence"), &json!(txn), &json!(true))
    );
    // The user of the chain gets the same events by the API.
    let client = reqwest::Client::new();
    let url = format!("{}/api/v1/audit-logs/chains/{txn}/evidence", world.server.base);
    let own = client.get(url).bearer_auth(world.user_token()).send().await.unwrap();
    assert_eq!(own.status(), 200);
    let own = Unpacked::of(&own.bytes().await.unwrap());
    let own = verify_evidence(&own.folder, &kept(&world).await).unwrap();
    assert!(own.valid && own.events.events == report.events.events, "{own:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_in_any_file_is_found() {
    let world = World::new().await;
    let txn = chain(&world).await;
    let auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    let unpacked = download(&auditor, &world, &format!("/console/chains/{txn}/evidence")).await;
    for anchors in [kept(&world).await, TrustAnchors::default()] {
        let is_valid = || verify_evidence(&unpacked.folder, &anchors).is_ok_and(|report| report.valid);
        assert!(is_valid());
        for name in FILES {
            let path = unpacked.folder.join(name);
            let original = std::fs::read(&path).unwrap();
            // Every byte of the short files, and in the others some of each kind.
            let step = (original.len() / 300).max(1);
            for place in (0..original.len()).step_by(step) {
                let mut changed = original.clone();
                changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
                std::fs::write(&path, changed).unwrap();
                assert!(!is_valid(), "byte {place} of {name}");
            }
            std::fs::remove_file(&path).unwrap();
            assert!(!is_valid(), "without {name}");
            std::fs::write(&path, original).unwrap();
        }
        let lines = unpacked.read("events.jsonl");
        let without: Vec<&str> = lines.lines().filter(|line| !line.contains(&txn)).collect();
        let head = lines.lines().next().unwrap();
        let without = [head].into_iter().chain(without).collect::<Vec<&str>>().join("\n") + "\n";
        std::fs::write(unpacked.folder.join("events.jsonl"), without).unwrap();
        assert!(!is_valid(), "without the events of the chain");
        std::fs::write(unpacked.folder.join("events.jsonl"), lines).unwrap();
        assert!(is_valid());
    }
}

/// Changes what the evidence says of itself, and computes the other files again.
fn forge(unpacked: &Unpacked, change: impl FnOnce(&mut Value)) {
    let lines = unpacked.read("events.jsonl");
    let (head, events) = lines.split_once('\n').unwrap();
    let mut head: Value = serde_json::from_str(head).unwrap();
    change(&mut head["extract"]["evidence"]);
    let about: EvidenceHeader = serde_json::from_value(head["extract"]["evidence"].clone()).unwrap();
    let row = |line: &str| {
        let document = line.strip_prefix("{\"event\":")?.rsplit_once(",\"proof\":")?.0.to_owned();
        let event: Value = serde_json::from_str(&document).unwrap();
        Some(EventRow { seq: event["seq"].as_u64().unwrap(), document, event, personal: None })
    };
    let found: Vec<EventRow> = events.lines().filter_map(row).collect();
    let mut files = derive(&about, &found).unwrap().into_iter().collect::<Vec<_>>();
    files.push(("events.jsonl", format!("{head}\n{events}")));
    for (name, text) in files {
        std::fs::write(unpacked.folder.join(name), text).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_names_no_other_user_and_no_other_key() {
    let world = World::new().await;
    let txn = chain(&world).await;
    let auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    let path = format!("/console/chains/{txn}/evidence");
    let anchors = kept(&world).await;
    let verdict_after = async |change: &dyn Fn(&mut Value)| {
        let unpacked = download(&auditor, &world, &path).await;
        forge(&unpacked, |about| change(about));
        verify_evidence(&unpacked.folder, &anchors).is_ok_and(|report| report.valid)
    };
    assert!(verdict_after(&|_| ()).await, "files that are computed again");
    let bob = json!({"iss": IDP, "sub": "bob"});
    let salt = [7; 32];
    let made_up = pseudonym(&salt, IDP, "bob");
    let pseudonym_alone = |about: &mut Value| {
        about["subject"]["sub"] = about["named"]["pseudonym"].clone();
        about.as_object_mut().unwrap().remove("named");
    };
    type Change<'a> = &'a dyn Fn(&mut Value);
    let changes: [(&str, Change<'_>); 4] = [
        ("another subject", &|about| about["subject"] = bob.clone()),
        ("another subject without a pseudonym", &|about| {
            about["subject"] = bob.clone();
            about.as_object_mut().unwrap().remove("named");
        }),
        ("a pseudonym that no event has", &|about| {
            about["subject"] = bob.clone();
            about["named"] = json!({"pseudonym": made_up, "salt": base64url::encode(salt)});
        }),
        ("a pseudonym as a name", &pseudonym_alone),
    ];
    for (what, change) in changes {
        assert!(!verdict_after(change).await, "{what}");
    }
    let unpacked = download(&auditor, &world, &path).await;
    let foreign = VerifierKey::new(anchors.keys[0].name(), [9; 32]).unwrap();
    let keys = unpacked.read("keys.txt") + &foreign.text() + "\n";
    std::fs::write(unpacked.folder.join("keys.txt"), keys).unwrap();
    let report = verify_evidence(&unpacked.folder, &anchors).unwrap();
    assert_eq!((report.valid, report.altered), (false, vec!["keys.txt"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_about_an_event_has_the_event_and_its_delegations() {
    let world = World::new().await;
    let txn = chain(&world).await;
    let documents = world.server.documents().await;
    let hop = documents.iter().rfind(|one| one["txn"] == txn.as_str()).unwrap();
    let (seq, id) = (hop["seq"].as_u64().unwrap(), hop["id"].as_str().unwrap());
    let mut alice = browser(&world, ConsoleRole::User, "alice").await;
    let page = alice.get(&format!("/console/events/{seq}")).await.with_status(200);
    assert!(page.text.contains(&format!("href=\"/console/events/{seq}/evidence\"")), "{}", page.text);
    for name in [seq.to_string(), id.to_owned()] {
        let unpacked = download(&alice, &world, &format!("/console/events/{name}/evidence")).await;
        let report = verify_evidence(&unpacked.folder, &kept(&world).await).unwrap();
        assert!(report.valid, "{report:?}");
        let text = unpacked.read("events.jsonl");
        assert_eq!(text.lines().filter(|line| line.contains(&txn)).count(), 1, "{text}");
        assert!(text.contains("delegation.created") || text.contains("delegation.activated"), "{text}");
    }
    // An event of the server about no user.
    let auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    let unpacked = download(&auditor, &world, "/console/events/0/evidence").await;
    assert!(verify_evidence(&unpacked.folder, &kept(&world).await).unwrap().valid);
    assert!(unpacked.read("README.txt").contains("a subject without a known name"));
    assert_eq!(world.server.last_event().await["detail"]["people"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_chain_does_not_exist() {
    let world = World::new().await;
    let txn = chain(&world).await;
    let seq = world.server.last_event().await["seq"].clone();
    let mut eve = browser(&world, ConsoleRole::User, "eve").await;
    let exports = async || {
        let events = world.server.events().await;
        events.iter().filter(|event| event["action"] == "admin.audit_exported").count()
    };
    for name in [txn.as_str(), "no-such-chain"] {
        let answer = eve.get(&format!("/console/chains/{name}/evidence")).await;
        assert_eq!((answer.status, answer.header("content-disposition")), (404, None), "{name}");
        let path = format!("/api/v1/audit-logs/chains/{name}/evidence");
        assert_eq!(world.as_user("eve", "GET", &path, Value::Null).await.status, 404, "{name}");
    }
    for name in [seq.to_string().as_str(), "4711"] {
        assert_eq!(eve.get(&format!("/console/events/{name}/evidence")).await.status, 404, "{name}");
        let path = format!("/api/v1/audit-logs/{name}/evidence");
        assert_eq!(world.as_user("eve", "GET", &path, Value::Null).await.status, 404, "{name}");
    }
    let path = format!("/api/v1/audit-logs/chains/{txn}/evidence");
    let agent = world.as_agent(&world.user_proxy, "GET", &path, Value::Null).await;
    assert_eq!((agent.status, agent.reason()), (403, "insufficient_scope"));
    assert_eq!(exports().await, 0, "what was refused is no download");
    // A link of another site causes no event.
    let mut auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    let elsewhere = crate::support::browser::fields(&[("sec-fetch-site", "cross-site")]);
    let answer = auditor.get_with(&format!("/console/chains/{txn}/evidence"), elsewhere).await;
    assert_eq!((answer.status, exports().await), (403, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_has_no_name_in_evidence() {
    let world = World::new().await;
    // No delegation of the user remains, which would forbid the erasure.
    let txn = "an-erased-user";
    let mut dice = Dice(7);
    let made = Event { subject: Some(user("frank")), txn: Some(txn.into()), ..event(&world, &mut dice, 0) };
    let made = Event { delegation_path: Vec::new(), parent_jti: None, ..made };
    AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(&[made]).await.unwrap();
    let auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    let path = format!("/console/chains/{txn}/evidence");
    let before = download(&auditor, &world, &path).await;
    assert!(before.read("summary.txt").contains("frank"));
    erasure::erase(&world.server.operator(), &user("frank")).await.unwrap();
    let after = download(&auditor, &world, &path).await;
    let report: EvidenceReport = verify_evidence(&after.folder, &kept(&world).await).unwrap();
    assert!(report.valid && report.about.subject.is_none() && report.about.named.is_none(), "{report:?}");
    for name in FILES {
        assert!(!after.read(name).contains("frank"), "{name}");
    }
    assert!(verify_evidence(&before.folder, &kept(&world).await).unwrap().valid, "a copy stays valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_archived_is_said_to_be_archived() {
    let world = World::new().await;
    let server = &world.server;
    let ended = world.first_hop().await;
    let first = world.first_hop().await;
    let archived = server.last_event().await;
    let (seq, id) = (archived["seq"].to_string(), archived["id"].as_str().unwrap().to_owned());
    server.pass(1);
    assert!(partitions::open(&mut server.sql().await, 0, server.clock.now()).await.unwrap());
    world.email_svc.exchange(server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    let later = world.first_hop().await;
    // A whole chain that is archived, and one that goes on after it.
    let [txn, other, whole] =
        [&first, &later, &ended].map(|one| one.claims()["txn"].as_str().unwrap().to_owned());
    let folder = tempfile::tempdir().unwrap();
    let file = archive(server, folder.path()).await.unwrap().remove(0).file;
    let file = file.file_name().unwrap().to_str().unwrap().to_owned();
    let mut auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    for (name, lookup) in [(&seq, "--seq"), (&id, "--id")] {
        let page = auditor.get(&format!("/console/events/{name}")).await;
        let command = format!("actchain audit show --archive {file} {lookup} {name}");
        assert!(page.status == 410 && page.text.contains(&command), "{}", page.text);
        for path in [format!("/api/v1/audit-logs/{name}"), format!("/api/v1/audit-logs/{name}/evidence")] {
            let answer = world.as_admin("GET", &path, Value::Null).await;
            assert_eq!((answer.status, answer.reason()), (410, "events_archived"), "{path}");
        }
        assert_eq!(auditor.get(&format!("/console/events/{name}/evidence")).await.status, 410);
        // Users see no archived events, also not their own.
        let mut alice = browser(&world, ConsoleRole::User, "alice").await;
        assert_eq!(alice.get(&format!("/console/events/{name}")).await.status, 404);
    }
    let page = auditor.get(&format!("/console/chains/{whole}")).await;
    assert!(page.status == 410 && page.text.contains(&format!("grep -F {whole} {file}")), "{}", page.text);
    for path in ["", "/evidence"].map(|part| format!("/api/v1/audit-logs/chains/{whole}{part}")) {
        let answer = world.as_admin("GET", &path, Value::Null).await;
        assert_eq!((answer.status, answer.reason()), (410, "events_archived"), "{path}");
    }
    for absent in ["events/4711", "chains/7", "chains/nothing", "chains/00000000-0000-4000-8000-000000000000"]
    {
        assert_eq!(auditor.get(&format!("/console/{absent}")).await.status, 404, "{absent}");
    }
    let mut alice = browser(&world, ConsoleRole::User, "alice").await;
    assert_eq!(alice.get(&format!("/console/chains/{whole}")).await.status, 404);
    let refused = auditor.get(&format!("/console/chains/{txn}/evidence")).await;
    assert!(refused.status == 410 && refused.text.contains("archived"), "{}", refused.text);
    let path = format!("/api/v1/audit-logs/chains/{txn}/evidence");
    let answer = world.as_admin("GET", &path, Value::Null).await;
    assert_eq!((answer.status, answer.reason()), (410, "events_archived"));
    // A chain that began later is whole. What allowed it was archived, and the summary says so.
    let unpacked = download(&auditor, &world, &format!("/console/chains/{other}/evidence")).await;
    assert!(verify_evidence(&unpacked.folder, &kept(&world).await).unwrap().valid);
    assert!(unpacked.read("summary.txt").contains("were archived"), "{}", unpacked.read("summary.txt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_five_thousand_tokens_works_and_one_of_more_than_ten_thousand_events_is_refused() {
    let world = World::new().await;
    let mut dice = Dice(11);
    let mut grow = async |from: u64, to: u64| {
        let exchanged = EventKind::TokenExchanged {
            exp: 0,
            kid: "k".into(),
            introspected: None,
            refresh_token: None,
            exceptions: Vec::new(),
        };
        let made = |number: u64, event: Event| Event {
            subject: Some(user("alice")),
            txn: Some("long".into()),
            jti: Some(format!("long-{number}")),
            parent_jti: number.checked_sub(1).map(|last| format!("long-{last}")),
            delegation_path: Vec::new(),
            reason: None,
            target: None,
            kind: exchanged.clone(),
            ..event
        };
        let numbers: Vec<u64> = (from..to).collect();
        for portion in numbers.chunks(500) {
            let events: Vec<Event> =
                portion.iter().map(|number| made(*number, event(&world, &mut dice, *number))).collect();
            AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(&events).await.unwrap();
        }
        cover(&world).await;
    };
    grow(0, 5_000).await;
    let mut alice = browser(&world, ConsoleRole::User, "alice").await;
    let unpacked = download(&alice, &world, "/console/chains/long/evidence").await;
    let report = verify_evidence(&unpacked.folder, &kept(&world).await).unwrap();
    assert!(report.valid && report.events.events == 5_000, "{report:?}");
    grow(5_000, 10_001).await;
    let refused = alice.get("/console/chains/long/evidence").await;
    assert!(refused.status == 400 && refused.text.contains("more than 10000 events"), "{}", refused.text);
}
