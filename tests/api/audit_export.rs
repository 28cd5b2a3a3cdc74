//! The export of the log: it verifies offline, whole or in part, spreadsheets execute none of its cells, and each
//! caller gets the events that it may read.

use std::collections::BTreeSet;

use actchain::domain::audit::append::append_events;
use actchain::domain::audit::detail::TokenRefusal;
use actchain::domain::audit::filter::Filter;
use actchain::domain::audit::personal::PeopleMembers;
use actchain::domain::audit::verify::{IntegrityError, IntegrityErrorKind};
use actchain::domain::audit::{Actor, Event, EventKind};
use actchain::services::audit::export::{self, ExportFormat, ExportOptions};
use actchain::services::audit::{self, Report, TrustAnchors};
use actchain_protocol::csv_export::ByteOrderMark;
use serde_json::{Value, json};
use sqlx::Executor as _;

use crate::support::agent::{ACCESS_TOKEN, Agent, Auth, JWT};
use crate::support::management::Api;
use crate::support::world::{IDP, MAIL, World};

fn check(content: &str) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    std::fs::write(&path, content).unwrap();
    audit::verify_export(&path, &TrustAnchors::default()).unwrap()
}

/// A world with some chains and some refusals.
async fn busy_world() -> World {
    let world = World::new().await;
    for _ in 0..3 {
        world.second_hop().await;
    }
    let token = world.first_hop().await.token().to_owned();
    let cycle =
        world.user_proxy.exchange(&world.server, &token, ACCESS_TOKEN).param("scope", "mail.send both x");
    assert_ne!(cycle.send().await.status, 200);
    let stranger = world.stranger.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
    assert_ne!(stranger.send().await.status, 200);
    world
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_export_is_the_log_with_a_signed_checkpoint() {
    let world = busy_world().await;
    let before = world.server.documents().await;
    let answer = world.export("format=jsonl").await;
    let lines = parsed(&answer.text);
    // The issue of the administrator's access token is an event, too; the event of the export itself comes after its
    // content.
    assert_eq!(lines[..before.len()], before[..]);
    assert_eq!(lines.len(), before.len() + 3);
    assert!(lines[before.len() + 1]["leaves"].is_string(), "the hashes of those");
    assert!(lines.last().unwrap()["checkpoint"].is_string());
    assert_eq!(answer.header("actchain-audit-size"), Some((before.len() + 1).to_string().as_str()));
    assert_eq!(answer.header("content-type"), Some("application/jsonl"));
    let event = world.server.last_event().await;
    assert_eq!((&event["action"], &event["seq"]), (&json!("admin.audit_exported"), &json!(before.len() + 1)));
    assert_eq!(
        event["detail"],
        json!({"format": "jsonl", "filter": {}, "from_seq": 0, "people": false, "size": before.len() + 1})
    );
    assert!(check(&answer.text).valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_of_one_minute_share_a_checkpoint() {
    let world = busy_world().await;
    let checkpoints = async || -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM audit_checkpoint");
        count.fetch_one(&mut world.server.sql().await).await.unwrap()
    };
    let first = world.export("").await;
    let size = |answer: &crate::support::Answer| -> u64 {
        answer.header("actchain-audit-size").unwrap().parse().unwrap()
    };
    for query in ["", "format=csv", "outcome=refused"] {
        world.server.pass(10);
        let again = world.export(query).await;
        assert_eq!((size(&again), checkpoints().await), (size(&first), 1), "{query:?}");
    }
    // An export that begins after the checkpoint is not covered by the checkpoint.
    let behind = world.export(&format!("from_seq={}", size(&first) + 1)).await;
    assert!(size(&behind) > size(&first) && check(&behind.text).valid);
    assert_eq!(checkpoints().await, 2);
    world.server.pass(60);
    let later = world.export("").await;
    assert!(size(&later) > size(&behind) && check(&later.text).valid);
    assert_eq!(checkpoints().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_export_begins_with_the_edge_of_the_earlier_tree() {
    let world = busy_world().await;
    let whole = world.export("").await;
    let size = whole.header("actchain-audit-size").unwrap().to_owned();
    let rest = world.export(&format!("from_seq=7&size={size}")).await;
    let lines: Vec<&str> = rest.text.lines().collect();
    let head: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!((&head["from"], head["peaks"].as_array().unwrap().len()), (&json!(7), 3));
    assert_eq!(lines[1..].join("\n"), whole.text.lines().skip(7).collect::<Vec<_>>().join("\n"));
    assert_eq!(rest.header("actchain-audit-from"), Some("7"));
    let alone = check(&rest.text);
    assert!(alone.valid && alone.from == 7, "a part verifies by itself: {alone:?}");
    // An interrupted export, and its continuation.
    let begun =
        |lines: usize| whole.text.lines().take(lines).map(|line| format!("{line}\n")).collect::<String>();
    assert!(check(&format!("{}{}", begun(7), rest.text)).valid);
    assert!(!check(&format!("{}{}", begun(6), rest.text)).valid, "something is missing between");
    let changed = begun(7).replace("success", "succeeds");
    assert!(!check(&format!("{changed}{}", rest.text)).valid);
}

/// A file with another byte in the document of one event.
fn changed(text: &str, seq: u64) -> String {
    let is_it =
        |line: &str| line.contains(&format!("\"seq\":{seq},")) || line.contains(&format!("\"seq\":{seq}}}"));
    let change = |line: &str| match is_it(line) {
        true => line.replacen("\"action\":\"", "\"action\":\"x", 1) + "\n",
        false => format!("{line}\n"),
    };
    text.lines().map(change).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_that_was_changed_in_a_whole_export_is_named() {
    let world = busy_world().await;
    grow(&mut world.server.sql().await, 1_500).await;
    actchain::services::audit::index::run_once(&world.server.app.pool).await.unwrap();
    let whole = world.export("").await.text;
    let size = check(&whole).events;
    let leaf = |seq| Some(IntegrityError { seq, kind: IntegrityErrorKind::Leaf });
    for seq in [0, 22, 511, 512, 1_100, size - 1] {
        assert_eq!(check(&changed(&whole, seq)).integrity_error, leaf(seq));
    }
    assert_eq!(check(&changed(&changed(&whole, 700), 30)).integrity_error, leaf(30), "the first one");
    // Leaf hashes that do not lead to the checkpoint's root locate nothing: only the root decides.
    let hashes = whole.lines().find(|line| line.starts_with("{\"leaves\"")).unwrap();
    let forged = hashes.replacen(&hashes[11..13], if &hashes[11..13] == "AA" { "BB" } else { "AA" }, 1);
    let both = changed(&whole, 22).replace(hashes, &forged);
    assert_eq!(
        check(&both).integrity_error,
        Some(IntegrityError { seq: size, kind: IntegrityErrorKind::Checkpoint })
    );
    assert!(check(&whole.replace(hashes, &forged)).valid, "every event is proven without them");
    let without: String = whole
        .lines()
        .filter(|line| !line.starts_with("{\"leaves\""))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(check(&without).valid);
    // Interrupted in the middle of a group, and continued.
    let rest = world.export(&format!("from_seq=300&size={size}")).await.text;
    let begun: String = whole.lines().take(300).map(|line| format!("{line}\n")).collect();
    let joined = format!("{begun}{rest}");
    assert!(check(&joined).valid);
    for seq in [22, 299, 300, 600] {
        assert_eq!(check(&changed(&joined, seq)).integrity_error, leaf(seq));
    }
    assert_eq!(check(&changed(&rest, 600)).integrity_error, leaf(600), "a part by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_was_changed_in_the_database_is_named_by_the_export_too() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    grow(&mut sql, 1_100).await;
    actchain::services::audit::index::run_once(&world.server.app.pool).await.unwrap();
    let change = "UPDATE audit_event SET document = replace(document, 'client.enabled', 'client.disabled') WHERE seq = 900";
    sqlx::query(change).execute(&mut sql).await.unwrap();
    let report = check(&world.export("").await.text);
    assert_eq!(report.integrity_error, Some(IntegrityError { seq: 900, kind: IntegrityErrorKind::Leaf }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_converted_on_its_way_is_not_called_broken() {
    let world = busy_world().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    for query in ["", "outcome=refused"] {
        let text = world.export(query).await.text;
        let utf_16: Vec<u8> =
            std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        let late = text.rsplit_once("\n{\"checkpoint\"").unwrap();
        for (bytes, said) in [
            (format!("\u{feff}{text}").into_bytes(), "byte order mark"),
            (text.replace('\n', "\r\n").into_bytes(), "line 1 ends in CRLF"),
            (format!("{}\r\n{{\"checkpoint\"{}", late.0, late.1).into_bytes(), "ends in CRLF"),
            (utf_16, "UTF-16"),
            ([0x1f, 0x8b, 8, 0].to_vec(), "gzip"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let fault = audit::verify_export(&path, &TrustAnchors::default()).unwrap_err().to_string();
            assert!(fault.contains(said) && fault.contains("converted on its way"), "{fault}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_begins_with_a_byte_order_mark_on_request() {
    let world = World::new().await;
    let with = world.export("format=csv&bom=true").await;
    let without = world.export("format=csv&bom=false").await;
    assert!(without.text.starts_with("\"seq\","));
    assert_eq!(with.text.strip_prefix('\u{feff}').map(|text| &text[..6]), Some("\"seq\","));
    let token = world.management_token(&world.admin).await;
    for query in ["bom=true", "format=sarif&bom=true", "format=csv&bom=yes"] {
        let path = format!("/api/v1/audit-logs/export?{query}");
        let answer = Api::get(&world.server, &path).client(&world.admin, &token).send().await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_verifies_offline_event_by_event_and_a_changed_one_does_not() {
    let world = busy_world().await;
    let answer = world.export("outcome=refused").await;
    let report = check(&answer.text);
    assert!(report.valid, "{report:?}");
    let refused = world.server.events().await.iter().filter(|event| event["outcome"] == "refused").count();
    assert_eq!((report.events, report.checkpoints), (refused as u64, 1));
    let lines: Vec<&str> = answer.text.lines().collect();
    assert_eq!(lines.len(), refused + 2);
    let kind = |text: String| format!("{:?}", check(&text).integrity_error.unwrap().kind);
    assert_eq!(kind(answer.text.replace("stranger", "someone")), "Proof");
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    assert_eq!(kind(swapped.join("\n")), "Order");
    let (first, second) = (parsed(lines[1]), parsed(lines[2]));
    let proof = answer.text.replace(&first[0]["proof"].to_string(), &second[0]["proof"].to_string());
    assert_eq!(kind(proof), "Proof", "the proof of another");
    assert_eq!(kind(answer.text.replacen("\"action\"", " \"action\"", 1)), "Document");
    let note =
        parsed(lines.last().unwrap())[0]["checkpoint"].as_str().unwrap().lines().nth(2).unwrap().to_owned();
    assert_eq!(kind(answer.text.replace(&note, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")), "Signature");
    // An empty result contains nothing to prove.
    let none = world.export("action=vault.key_rotated&client_id=unknown").await;
    assert_eq!((none.text.lines().count(), check(&none.text).events), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_is_compared_with_a_kept_checkpoint_of_its_size_or_not_at_all() {
    let world = busy_world().await;
    let kept = crate::transparency::checkpoint(&world.server).await;
    let size = kept.lines().nth(1).unwrap();
    let key = crate::audit_archive::key(&world.server).await;
    let kept = TrustAnchors { keys: vec![key], notes: vec![kept.clone()], ..TrustAnchors::default() };
    let of_size = world.export(&format!("outcome=refused&size={size}")).await;
    world.server.pass(60);
    let later = world.export("outcome=refused").await;
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        let path = folder.path().join("export.jsonl");
        std::fs::write(&path, text).unwrap();
        audit::verify_export(&path, &kept)
    };
    assert!(check(&of_size.text).unwrap().valid);
    let said = check(&later.text).unwrap_err().to_string();
    assert!(said.contains(&format!("export with --size {size}")), "could not be compared: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_hold_across_blocks_whether_the_index_has_come_to_them_or_not() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    grow(&mut sql, 2_300).await;
    let before = world.export("action=client.enabled&target=t7").await;
    actchain::services::audit::index::run_once(&world.server.app.pool).await.unwrap();
    let after = world.export("action=client.enabled&target=t7").await;
    for answer in [&before, &after] {
        let report = check(&answer.text);
        assert!(report.valid, "{report:?}");
        assert_eq!(report.events, 230);
    }
    let rest = world.export("from_seq=2049").await;
    let head = parsed(rest.text.lines().next().unwrap());
    assert_eq!(head[0]["peaks"].as_array().unwrap().len(), 2);
}

/// Appends this many events as the server would.
async fn grow(sql: &mut sqlx::PgConnection, count: u64) {
    grow_by(sql, count, "").await;
}

async fn grow_by(sql: &mut sqlx::PgConnection, count: u64, more: &str) {
    let now = actchain::platform::clock::from_seconds(crate::support::START).unwrap();
    let event = |n| Event {
        target: Some(format!("t{}{more}", n % 10)),
        ..Event::new(now, EventKind::ClientEnabled, Actor::Operator)
    };
    let events: Vec<Event> = (0..count).map(event).collect();
    append_events(sql, &events).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_csv_export_has_fixed_columns_and_no_cell_that_a_spreadsheet_executes() {
    let world = World::new().await;
    let agent = [("user-agent", "=cmd|' /C calc'!A0")];
    let mut request = Api::get(&world.server, "/delegate/nothing").user(&world.user_token());
    request = request.header(agent[0].0, agent[0].1);
    request.send().await;
    let mut event = Event::new(world.server.clock.now(), EventKind::ClientEnabled, Actor::Operator);
    event.target = Some("=1+1\n@x".to_owned());
    let mut sql = world.server.sql().await;
    append_events(&mut sql, &[event]).await.unwrap();
    let answer = world.export("format=csv").await;
    assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let disposition = answer.header("content-disposition").unwrap();
    assert!(disposition.starts_with("attachment; filename=\"audit-0-") && disposition.ends_with(".csv\""));
    assert!(answer.text.starts_with("\"seq\",\"id\",\"at\",\"action\",") && answer.text.ends_with("\r\n"));
    assert!(answer.text.contains("\"'=1+1\n'@x\""), "{}", answer.text);
    let mut sql_rows = answer.text.matches("\r\n").count();
    sql_rows -= 1;
    assert_eq!(Some(sql_rows.to_string().as_str()), answer.header("actchain-audit-size"));
    let resumed = world.export("format=csv&from_seq=5").await;
    assert!(resumed.text.lines().nth(1).unwrap().starts_with("5,"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sarif_export_has_each_refusal_under_its_rule() {
    let world = busy_world().await;
    let nonce = Event {
        reason: Some("nonce_required"),
        ..Event::new(
            world.server.clock.now(),
            EventKind::TokenRefused(TokenRefusal::default()),
            Actor::client("user-proxy", None),
        )
    };
    append_events(&mut world.server.sql().await, &[nonce]).await.unwrap();
    let answer = world.export("format=sarif").await;
    assert_eq!(answer.header("content-type"), Some("application/sarif+json"));
    assert!(answer.text.starts_with('{'), "no byte order mark");
    let run = &answer.json["runs"][0];
    let results = run["results"].as_array().unwrap();
    let refused = |event: &Value| event["outcome"] == "refused" && event["reason"] != "nonce_required";
    let events = world.server.events().await;
    assert!(events.iter().any(|event| event["reason"] == "nonce_required"), "a client was sent a nonce");
    let refused: Vec<Value> = events.into_iter().filter(refused).collect();
    assert_eq!(results.len(), refused.len());
    for rule in run["tool"]["driver"]["rules"].as_array().unwrap() {
        for text in ["/fullDescription/text", "/help/text", "/help/markdown"] {
            let text = rule.pointer(text).and_then(Value::as_str);
            assert!(text.is_some_and(|text| text.ends_with('.')), "{rule}");
        }
        assert_ne!(rule["id"], "nonce_required", "an ordinary step of a protocol is no finding");
    }
    assert!(run["tool"]["driver"].get("informationUri").is_none());
    for (result, event) in results.iter().zip(&refused) {
        let rule =
            &run["tool"]["driver"]["rules"][usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
        assert_eq!((&result["ruleId"], &result["properties"]["seq"]), (&rule["id"], &event["seq"]));
        assert_eq!(result["ruleId"], event["reason"]);
    }
    let prints = |answer: &crate::support::Answer| -> BTreeSet<String> {
        let results = answer.json["runs"][0]["results"].as_array().unwrap().clone();
        results.iter().map(|one| one["partialFingerprints"]["actchainFinding/v1"].to_string()).collect()
    };
    assert_eq!(prints(&answer), prints(&world.export("format=sarif").await), "SARIF 2.1.0 §3.27.17");
    let none = world.export("format=sarif&client_id=unknown").await;
    let runs = none.json["runs"].as_array().unwrap();
    assert_eq!(
        (runs.len(), &runs[0]["results"]),
        (1, &json!([])),
        "uploads without a run are refused elsewhere"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn users_export_the_events_about_them_and_agents_none() {
    let world = busy_world().await;
    let path = "/api/v1/audit-logs/export";
    let get = async |sub: &str, query: &str| {
        let path = format!("{path}?{query}");
        Api::get(&world.server, &path).user(&world.token_of(sub)).send().await
    };
    let alice = get("alice", "").await;
    let name = world.server.log_name(IDP, "alice").await;
    let report = check(&alice.text);
    assert!(report.valid && report.events > 5, "{report:?}");
    for line in parsed(&alice.text).iter().filter(|line| line["event"].is_object()) {
        assert_eq!(line["event"]["subject"]["sub"], json!(name));
    }
    assert!(!alice.text.contains("client.changed"));
    assert_eq!(check(&get("bob", "").await.text).events, 0);
    assert_eq!(check(&get("bob", "subject_sub=alice").await.text).events, 0);
    let agent = world.management_token(&world.user_proxy).await;
    let refused = Api::get(&world.server, path).client(&world.user_proxy, &agent).send().await;
    assert_eq!((refused.status, refused.reason()), (403, "insufficient_scope"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_export_is_refused_and_not_recorded() {
    let world = World::new().await;
    let token = world.management_token(&world.admin).await;
    let before = world.server.events().await.len();
    for query in [
        "format=xml",
        "from_seq=-1",
        "from_seq=1000000000",
        "size=3",
        "colour=red",
        "format=csv&format=csv",
        "outcome=maybe",
        "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
    ] {
        let path = format!("/api/v1/audit-logs/export?{query}");
        let answer = Api::get(&world.server, &path).client(&world.admin, &token).send().await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{query}");
    }
    assert_eq!(world.server.events().await.len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_is_disconnected_and_can_see_it() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::configured("[audit]\nstream_write_timeout = 1").await;
    let mut sql = world.server.sql().await;
    // More than the buffers of two sockets can store.
    grow_by(&mut sql, 30_000, &"x".repeat(600)).await;
    let token = world.management_token(&world.admin).await;
    let path = "/api/v1/audit-logs/export";
    let proof =
        world.admin.key.sign_proof("dpop+jwt", &Api::get(&world.server, path).proof_claims(&token)).unwrap();
    let address = world.server.base.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: DPoP {token}\r\ndpop: {proof}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0_u8; 1_000];
    stream.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"));
    // The export is disconnected while the client reads nothing; the buffered part can still be read.
    world.server.disconnected("export", 1).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    let text = String::from_utf8_lossy(&rest);
    assert!(!text.ends_with("0\r\n\r\n") && !text.contains("{\"checkpoint\":"), "{} bytes", rest.len());
    // The client resumes after the last complete line.
    let last = text.rmatches("\"seq\":").next().is_some();
    assert!(last);
    let rest = world.export("from_seq=29000").await;
    assert!(rest.text.lines().last().unwrap().contains("checkpoint"));
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_events_are_not_exported_and_the_others_are_still_proven() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    grow(&mut sql, 1_500).await;
    let now = world.server.clock.now();
    assert!(actchain::domain::audit::partitions::open(&mut sql, 0, now).await.unwrap());
    let floor: i64 = sqlx::query_scalar("SELECT size FROM audit_head").fetch_one(&mut sql).await.unwrap();
    grow(&mut sql, 1_500).await;
    actchain::services::audit::index::run_once(&world.server.app.pool).await.unwrap();
    for statement in [
        "DROP TABLE audit_event_0",
        "UPDATE audit_partition SET archived_at = now(), file_sha256 = '\\x00' WHERE partition = 0",
    ] {
        sqlx::query(statement).execute(&mut sql).await.unwrap();
    }
    let whole = world.export("").await;
    assert_eq!(whole.header("actchain-audit-from"), Some(floor.to_string().as_str()));
    let lines: Vec<&str> = whole.text.lines().collect();
    assert_eq!(parsed(lines[0])[0]["from"], floor);
    assert_eq!(parsed(lines[1])[0]["seq"], floor);
    let report = check(&world.export("action=client.enabled&target=t7").await.text);
    assert_eq!((report.valid, report.events), (true, 150), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn auditors_export_everything_and_read_sinks_but_do_not_change_them() {
    let world = World::new().await;
    let auditor = Agent::new("auditor", Auth::Assertion);
    let yaml = format!(
        "clients:\n  - {{id: auditor, kind: auditor, auth: private_key_jwt, jwks: {{keys: [{}]}}, \
         scopes: [actchain.audit], grant_types: [client_credentials]}}\n\
         sinks:\n  - {{id: siem, url: 'http://127.0.0.1:9/hook/s3cret'}}\n",
        auditor.key.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    let token = world.management_token(&auditor).await;
    let send = async |method: &str, path: &str| {
        Api::new(&world.server, method, path).client(&auditor, &token).send().await
    };
    let whole = send("GET", "/api/v1/audit-logs/export").await;
    assert!(check(&whole.text).valid && whole.text.contains("client.changed"));
    assert_eq!(send("GET", "/api/v1/audit-sinks").await.json["items"][0]["id"], "siem");
    let url = send("GET", "/api/v1/audit-sinks/siem").await.json["url"].clone();
    assert_eq!(url, "http://127.0.0.1:9", "without its path, which may hold a secret");
    for (method, path) in [("DELETE", ""), ("PUT", ""), ("POST", "/dead-letters/replay")] {
        let answer = send(method, &format!("/api/v1/audit-sinks/siem{path}")).await;
        assert_eq!((answer.status, answer.reason()), (403, "insufficient_scope"), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_cancelled_leaves_no_answer_to_the_next_user_of_its_connection() {
    let world = busy_world().await;
    let app = &world.server.app;
    let options = ExportOptions {
        format: ExportFormat::Jsonl,
        filter: Filter::default(),
        from: 0,
        size: None,
        mark: ByteOrderMark::Absent,
        people: PeopleMembers::Omitted,
    };
    let mut running = export::begin(&world.server.operator(), &app.seal, options).await.unwrap();
    assert_eq!(running.next().await.unwrap().as_deref(), Some(""), "the head of a whole export");
    let mut sql = world.server.sql().await;
    let mut lock = sqlx::Connection::begin(&mut sql).await.unwrap();
    lock.execute("LOCK TABLE audit_event IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let reading = tokio::spawn(async move { running.next().await.map(drop) });
    let cancel = "SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'COPY%'";
    while sqlx::query_scalar::<_, i64>(cancel).fetch_one(&mut *lock).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(reading.await.unwrap().is_err());
    lock.rollback().await.unwrap();
    let mut connections = Vec::new();
    for number in 0..app.pool.options().get_max_connections() {
        let mut one = app.pool.acquire().await.unwrap();
        for number in [i64::from(number), i64::from(number) + 1_000] {
            let answer = sqlx::query_scalar("SELECT $1::bigint").bind(number).fetch_optional(&mut *one);
            assert_eq!(answer.await.unwrap(), Some(number));
        }
        connections.push(one);
    }
}
