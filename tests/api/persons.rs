//! Persons in the audit log: documents have pseudonyms, personal data is beside them, and an erasure makes both
//! unreadable while the log verifies.

use std::collections::BTreeSet;

use actchain::domain::audit::verify::{IntegrityError, IntegrityErrorKind};
use actchain::domain::audit::{Actor, ChainLink, Event, EventKind, PersonalText};
use actchain::domain::principal::Principal;
use actchain::jobs;
use actchain::services::audit::{self, TrustAnchors};
use actchain::services::erasure::{Erasure, ErasureOutcome, erase};
use actchain::services::principals;
use actchain::services::transaction::AuditedTransaction;
use actchain_protocol::pseudonym::{is_pseudonym, personal_sha256, pseudonym};
use serde_json::{Value, json};
use sqlx::Executor as _;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::Server;
use crate::support::agent::JWT;
use crate::support::audit::{auditor, read};
use crate::support::management::Api;
use crate::support::world::{IDP, MAIL, World};

const LOGS: &str = "/api/v1/audit-logs";

fn alice() -> Principal {
    Principal::new(IDP, "alice")
}

/// Rows of the tables that belong to the log, as text.
async fn log_tables(server: &Server) -> String {
    let mut sql = server.sql().await;
    let mut all = String::new();
    for table in
        ["audit_event", "audit_head", "audit_partition", "audit_checkpoint", "audit_posting", "person"]
    {
        let rows = sqlx::AssertSqlSafe(format!("SELECT t::text FROM {table} t"));
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut sql).await.unwrap();
        all.push_str(&rows.join("\n"));
    }
    all
}

async fn verifies(server: &Server) -> bool {
    let note = audit::checkpoint(&server.app.pool, &server.app.seal, &server.app.issuer, server.clock.now());
    let anchors = TrustAnchors { notes: vec![note.await.unwrap()], ..TrustAnchors::default() };
    audit::verify_database(&mut server.sql().await, &anchors).await.unwrap().valid
}

async fn end_authority(world: &World) {
    principals::revoke_all(&world.server.operator(), &alice(), "Alice leaves the company").await.unwrap();
}

async fn erased(server: &Server) -> Erasure {
    match erase(&server.operator(), &alice()).await.unwrap() {
        ErasureOutcome::Erased(erasure) => erasure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_document_has_the_name_of_a_user_an_address_or_free_text() {
    let world = World::new().await;
    world.third_hop().await;
    let asked = json!({"delegate": "user-proxy", "reason": "My secret plan", "scopes": ["mail.read"]});
    world.as_alice("POST", "/delegate", asked).await;
    end_authority(&world).await;
    let documents = world.server.documents().await;
    let name = world.server.log_name(IDP, "alice").await;
    assert!(is_pseudonym(&name));
    let text = json!(documents).to_string();
    for absent in ["alice", "\"ip\"", "user_agent", "User proxy", "My secret plan", "leaves the company"] {
        assert!(!text.contains(absent), "{absent}");
    }
    assert!(text.contains(&name) && text.contains("user-proxy"), "clients have their own names");
    let seen = json!(world.server.events().await).to_string();
    for present in ["alice", "\"ip\":\"127.0.0.1\"", "User proxy", "My secret plan", "leaves the company"] {
        assert!(seen.contains(present), "{present}");
    }
    assert!(verifies(&world.server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_of_an_event_that_names_a_user_has_the_pseudonym() {
    let world = World::new().await;
    let server = &world.server;
    let [subject, actor, link, owner] =
        ["s", "a", "l", "o"].map(|sub| Principal::new(IDP, format!("user-{sub}")));
    let mut event = Event {
        subject: Some(subject),
        act_chain: vec![
            ChainLink { who: link, jkt: None },
            ChainLink { who: Principal::new(&server.app.issuer, "agent"), jkt: None },
        ],
        ..Event::new(server.clock.now(), EventKind::AgentCreated { owner, jkt: None }, Actor::User(actor))
    };
    event.add_text(PersonalText::Reason, Some("because user-s asked"));
    let work = AuditedTransaction::begin(&server.app.pool).await.unwrap();
    work.commit(&[event]).await.unwrap();
    let document = server.documents().await.pop().unwrap();
    let text = document.to_string();
    let names: BTreeSet<&str> = ["/subject/sub", "/actor/sub", "/act_chain/0/sub", "/detail/owner/sub"]
        .into_iter()
        .map(|pointer| document.pointer(pointer).unwrap().as_str().unwrap())
        .collect();
    assert!(names.len() == 4 && names.iter().all(|name| is_pseudonym(name)), "{document}");
    assert!(!text.contains("user-s"), "{document}");
    assert_eq!(document["act_chain"][1]["sub"], "agent");
    assert_eq!(server.last_event().await["detail"]["owner"]["sub"], "user-o");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_agree_on_the_name_of_a_person_whom_both_meet_first() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let record = async |server: &Server, n: usize| {
        let who = Principal::new(IDP, format!("user-{}", n % 5));
        let event = Event {
            subject: Some(who),
            ..Event::new(server.clock.now(), EventKind::ClientEnabled, Actor::client("agent", None))
        };
        AuditedTransaction::begin(&server.app.pool).await.unwrap().commit(&[event]).await.unwrap();
    };
    let (one, other) = (
        futures_util::future::join_all((0..20).map(|n| record(&world.server, n))),
        futures_util::future::join_all((0..20).map(|n| record(&twin, n))),
    );
    tokio::join!(one, other);
    let documents = world.server.documents().await;
    let of = |action: &str| documents.iter().filter(|one| one["action"] == action).count();
    assert_eq!(of("client.enabled"), 40);
    let names: BTreeSet<String> = documents
        .iter()
        .filter_map(|one| Some(one["subject"]["sub"].as_str()?.to_owned()))
        .filter(|name| is_pseudonym(name))
        .collect();
    assert_eq!(names.len(), 6, "five users and alice: {names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_who_a_person_is_and_whether_the_personal_data_is_what_was_recorded() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    world.first_hop().await;
    let name = world.server.log_name(IDP, "alice").await;
    for filter in
        ["subject_sub=alice", &format!("subject_sub=alice&subject_iss={IDP}"), &format!("subject_sub={name}")]
    {
        let page = read(&world, (&auditor, &token), &format!("{LOGS}?{filter}")).await.json;
        assert_eq!(page["items"].as_array().unwrap().len(), 4, "three delegations and an exchange: {filter}");
        assert_eq!(page["items"][0]["subject"]["sub"], json!(name));
        assert_eq!(page["people"], json!({&name: {"state": "known", "iss": IDP, "sub": "alice"}}));
        let seq = page["items"][0]["seq"].to_string();
        let beside = &page["personal"][&seq];
        assert_eq!((&beside["state"], &beside["ip"]), (&json!("matches"), &json!("127.0.0.1")));
        assert_eq!(beside["client_name"], "User proxy");
    }
    let none =
        read(&world, (&auditor, &token), &format!("{LOGS}?subject_sub=alice&subject_iss=https://other"))
            .await;
    assert_eq!(none.json["items"], json!([]));
    let by_address =
        read(&world, (&auditor, &token), &format!("{LOGS}?ip=127.0.0.1&action=oauth.token.exchanged")).await;
    assert_eq!(by_address.json["items"].as_array().unwrap().len(), 1);

    // The commitment can be checked by anyone who has the row.
    let mut sql = world.server.sql().await;
    let salt: Vec<u8> = sqlx::query_scalar("SELECT salt FROM person").fetch_one(&mut sql).await.unwrap();
    assert_eq!(pseudonym(&salt.try_into().unwrap(), IDP, "alice"), name);
    let (document, text): (String, String) =
        sqlx::query_as("SELECT document, personal FROM audit_event ORDER BY seq DESC LIMIT 1")
            .fetch_one(&mut sql)
            .await
            .unwrap();
    assert!(document.contains(&format!("\"personal_sha256\":\"{}\"", personal_sha256(&text))));

    assert!(verifies(&world.server).await);
    // A writer of the tables can change neither unseen.
    sql.execute("UPDATE audit_event SET personal = replace(personal, '127.0.0.1', '192.0.2.7')")
        .await
        .unwrap();
    let first: i64 = sqlx::query_scalar("SELECT min(seq) FROM audit_event WHERE personal IS NOT NULL")
        .fetch_one(&mut sql)
        .await
        .unwrap();
    let report = audit::verify_database(&mut sql, &TrustAnchors::default()).await.unwrap();
    let kind = IntegrityErrorKind::Personal;
    assert_eq!(report.integrity_error, Some(IntegrityError { seq: first as u64, kind }), "{report:?}");
    sql.execute("UPDATE person SET sub = 'mallory'").await.unwrap();
    let changed = read(&world, (&auditor, &token), &format!("{LOGS}?subject_sub={name}")).await.json;
    assert_eq!(changed["people"][&name], json!({"state": "does_not_match"}));
    let seq = changed["items"][0]["seq"].to_string();
    assert_eq!(changed["personal"][&seq], json!({"state": "does_not_match"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_is_nowhere_in_the_log_which_verifies_as_before() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let twin = world.server.twin().await;
    world.third_hop().await;
    Api::get(&twin, "/delegate").user(&world.user_token()).send().await;
    let server = &world.server;
    assert!(
        matches!(erase(&server.operator(), &alice()).await.unwrap(), ErasureOutcome::InUse(active) if active.delegations > 0)
    );
    end_authority(&world).await;
    let before = server.documents().await;
    let name = server.log_name(IDP, "alice").await;
    assert!(log_tables(server).await.contains("alice"));
    let export = world.export("format=jsonl").await.text;

    let done = erased(server).await;
    assert_eq!(done.pseudonym, name);
    assert!(done.events > 3 && done.remaining.delegations > 0 && done.remaining.revocations == 1, "{done:?}");
    let rows = log_tables(server).await;
    let after = server.documents().await;
    assert_eq!(after[..before.len()], before[..], "documents stay");
    assert_eq!(
        (&after.last().unwrap()["action"], &after.last().unwrap()["target"]),
        (&json!("principal.erased"), &json!(name))
    );
    let left: Vec<&str> = rows.lines().filter(|row| row.contains(&name) && row.contains("salt")).collect();
    assert!(!rows.contains("alice") && left.is_empty(), "{left:?}");
    assert!(verifies(server).await);
    let again = world.export("format=jsonl").await.text;
    assert!(!again.contains("alice") && again.starts_with(export.lines().next().unwrap()));

    let shown = read(&world, (&auditor, &token), &format!("{LOGS}?subject_sub={name}&limit=1")).await.json;
    assert_eq!(shown["people"][&name], json!({"state": "erased"}));
    let seq = shown["items"][0]["seq"].to_string();
    assert_eq!(shown["personal"][&seq], json!({"state": "erased"}));
    let by_name = read(&world, (&auditor, &token), &format!("{LOGS}?subject_sub=alice")).await.json;
    assert_eq!(by_name["items"], json!([]), "the user is not found by name");
    assert_eq!(erase(&server.operator(), &alice()).await.unwrap(), ErasureOutcome::NotInLog, "a second time");
    let unknown = erase(&server.operator(), &Principal::new("https://typo.example.com", "alice")).await;
    assert!(unknown.is_err(), "an issuer that is not trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_erasure_every_server_gives_a_user_who_returns_another_name() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    // Both servers have read the name.
    world.first_hop().await;
    let hop = async |server: &Server| {
        let request = world.user_proxy.exchange(server, &world.user_token(), JWT).param("audience", MAIL);
        request.send().await.with_status(200);
    };
    hop(&twin).await;
    let before = world.server.log_name(IDP, "alice").await;
    let mut sql = world.server.sql().await;
    // As an erasure does, at this moment: the tables change, and no server is informed.
    sqlx::query("SELECT person_erase($1)").bind(&before).execute(&mut sql).await.unwrap();
    let size = world.server.documents().await.len();
    hop(&twin).await;
    world.first_hop().await;
    let after = world.server.log_name(IDP, "alice").await;
    assert_ne!(after, before);
    let documents = world.server.documents().await;
    assert!(documents[size..].iter().all(|one| one["subject"]["sub"] == json!(after)), "{documents:?}");
    assert_eq!(documents.len(), size + 2, "each exchange once");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_erasures_at_once_erase_once() {
    let world = World::new().await;
    world.first_hop().await;
    end_authority(&world).await;
    let (ctx, who) = (world.server.operator(), alice());
    let (one, other) = tokio::join!(erase(&ctx, &who), erase(&ctx, &who));
    let outcomes = [one.unwrap(), other.unwrap()];
    assert_eq!(outcomes.iter().filter(|one| **one == ErasureOutcome::NotInLog).count(), 1, "{outcomes:?}");
    let events = world.server.documents().await;
    assert_eq!(events.iter().filter(|one| one["action"] == "principal.erased").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_role_changes_no_personal_data_by_its_own_statements() {
    let world = World::new().await;
    world.first_hop().await;
    let mut sql = world.server.app.pool.acquire().await.unwrap();
    for statement in [
        "UPDATE audit_event SET personal = NULL",
        "UPDATE audit_event SET personal = '{}'",
        "UPDATE person SET sub = 'mallory'",
        "DELETE FROM person",
        "SELECT audit_clear_personal('', 0)",
        "SELECT audit_clear_personal('%', 0)",
    ] {
        assert!(sql.execute(statement).await.is_err(), "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_the_log_have_the_names_of_people_only_where_that_is_declared() {
    let world = World::new().await;
    let receiver = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(204)).mount(&receiver).await;
    for (format, people) in
        [("json", false), ("json", true), ("ocsf", false), ("ocsf", true), ("cef", false), ("cef", true)]
    {
        let id = format!("{format}-{people}");
        let url = format!("{}/{id}", receiver.uri());
        let filter = json!({"action": "oauth.token.exchanged", "subject_sub": "alice", "ip": "127.0.0.1"});
        let body = json!({"url": url, "format": format, "people": people, "filter": filter, "from_seq": 0});
        let mut declared = body;
        declared["id"] = json!(id);
        world.server.apply(&json!({"sinks": [declared]}).to_string()).await.unwrap();
    }
    world.first_hop().await;
    jobs::sinks::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    let name = world.server.log_name(IDP, "alice").await;
    let document = world.server.documents().await.pop().unwrap();
    let got = receiver.received_requests().await.unwrap();
    let body = |id: &str| {
        let of_sink: Vec<_> = got.iter().filter(|one| one.url.path() == format!("/{id}")).collect();
        assert_eq!(of_sink.len(), 1, "{id}");
        String::from_utf8(of_sink[0].body.clone()).unwrap()
    };
    for format in ["json", "ocsf", "cef"] {
        let without = body(&format!("{format}-false"));
        let seen = ["alice", "127.0.0.1 ", "\"127.0.0.1\"", "User proxy"];
        assert!(!seen.iter().any(|text| without.contains(text)) && without.contains(&name), "{without}");
        let with = body(&format!("{format}-true"));
        assert!(with.contains("alice") && with.contains("127.0.0.1"), "{with}");
    }
    let with: Value = serde_json::from_str(&body("json-true")).unwrap();
    assert_eq!(with["event"], document, "the document stays as it is in the tree");
    assert_eq!(with["people"], json!({&name: {"state": "known", "iss": IDP, "sub": "alice"}}));
    assert_eq!(
        (&with["personal"]["state"], &with["personal"]["ip"]),
        (&json!("matches"), &json!("127.0.0.1"))
    );

    let plain = world.export("format=csv").await.text;
    assert!(!plain.contains("alice") && !plain.contains(",\"127.0.0.1\",") && plain.contains(&name));
    let named = world.export("format=csv&people=true").await.text;
    assert!(named.contains("\"alice\"") && named.contains(",\"127.0.0.1\",") && named.contains("User proxy"));
    let recorded = world.server.documents().await;
    let exports: Vec<&Value> = recorded
        .iter()
        .filter(|one| one["action"] == "admin.audit_exported")
        .map(|one| &one["detail"]["people"])
        .collect();
    assert_eq!(exports, [&json!(false), &json!(true)]);
    for format in ["jsonl", "sarif"] {
        let admin = world.management_token(&world.admin).await;
        let path = format!("/api/v1/audit-logs/export?format={format}&people=true");
        let refused = Api::get(&world.server, &path).client(&world.admin, &admin).send().await;
        assert_eq!(refused.status, 400, "{format}: what verifies has documents only");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_of_an_export_is_recorded_without_the_names_in_it() {
    let world = World::new().await;
    world.first_hop().await;
    let name = world.server.log_name(IDP, "alice").await;
    let text = world.export("subject_sub=alice&ip=127.0.0.1").await.text;
    world.export("subject_sub=zoe").await;
    let id = "01a203bc-ad75-7433-9a64-484d3e5d9dc8";
    let of_keycloak = "5f1c2d3e-8a44-4b6f-9c1d-2e3f4a5b6c7d";
    let typed = format!(
        "session_id=alice-session&client_id=alice&target=alice&action=alice&reason=alice&txn={id}&jti={of_keycloak}"
    );
    world.export(&typed).await;
    world.export("action=oauth.token.exchanged&reason=connection_scope_exceeded&outcome=success").await;
    let recorded = world.server.documents().await;
    let filters: Vec<&Value> = recorded
        .iter()
        .filter(|one| one["action"] == "admin.audit_exported")
        .map(|one| &one["detail"]["filter"])
        .collect();
    let expected = [
        json!({"subject_sub": name, "ip": null}),
        json!({"subject_sub": null}),
        json!({"session_id": null, "client_id": null, "target": null, "action": null, "reason": null, "txn": id, "jti": null}),
        json!({"action": "oauth.token.exchanged", "reason": "connection_scope_exceeded", "outcome": "success"}),
    ];
    assert_eq!(filters, expected.iter().collect::<Vec<_>>());
    assert!(text.contains(&name) && !text.contains("alice") && !text.contains("\"127.0.0.1\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_operation_records_only_names_of_what_exists() {
    let world = World::new().await;
    let created = world.as_alice("POST", "/delegate", json!({"delegate": "email-svc"})).await;
    let delegation = created.json["id"].as_str().unwrap().to_owned();
    for (method, path, target) in [
        ("POST", "/api/v1/clients/email-svc/disable".to_owned(), json!("email-svc")),
        ("POST", "/api/v1/clients/Carol.Jones/disable".to_owned(), Value::Null),
        ("POST", format!("/delegate/{delegation}/approve"), json!(delegation)),
        ("POST", "/delegate/Carol.Jones/approve".to_owned(), Value::Null),
        ("DELETE", "/api/v1/audit-sinks/Carol.Jones".to_owned(), Value::Null),
        ("DELETE", "/api/v1/connections/Carol.Jones".to_owned(), Value::Null),
    ] {
        let refused = world.as_user("bob", method, &path, json!({})).await;
        assert!((400..500).contains(&refused.status), "{method} {path}: {}", refused.text);
        let event = world.server.documents().await.pop().unwrap();
        assert_eq!((&event["outcome"], &event["target"]), (&json!("refused"), &target), "{method} {path}");
    }
    let refused = world.as_alice("DELETE", "/api/v1/tasks/Carol.Jones/agents", Value::Null).await;
    assert_eq!(refused.status, 404, "{}", refused.text);
    assert!(!world.server.documents().await.iter().any(|one| one.to_string().contains("Carol.Jones")));
    let personal: Vec<Option<String>> = sqlx::query_scalar("SELECT personal FROM audit_event")
        .fetch_all(&mut world.server.sql().await)
        .await
        .unwrap();
    let tasks = personal.iter().flatten().filter(|text| text.contains(r#""task_id":"Carol.Jones""#));
    assert_eq!(tasks.count(), 1, "the name of a task is kept where it can be erased");
}
