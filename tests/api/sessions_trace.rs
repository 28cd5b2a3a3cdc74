//! The trace of a session: its events in the order of the log, in pages.

use actchain::services::transaction::AuditedTransaction;
use serde_json::{Value, json};

use crate::support::agent::JWT;
use crate::support::audit::{Dice, all_pages, auditor, cover, event, read};
use crate::support::vault::VaultWorld;
use crate::support::world::{IDP, MAIL, World};

const TRACE: &str = "/api/v1/sessions/session-1/trace";

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_shows_who_did_what_in_which_order_and_how_long_it_took() {
    let vault = VaultWorld::new().await;
    let world = &vault.world;
    let (auditor, token) = auditor(world).await;
    let connection = vault.api_key().await;
    let ([root, child], [first, second]) = vault.granted(&connection).await;
    world.server.pass(2);
    assert_eq!(vault.fetch(&second, &connection).await.status, 200);
    world.server.revoke(&child).await;
    world.server.pass(3);
    assert_eq!(vault.fetch(&second, &connection).await.status, 409);
    let trace = read(world, (&auditor, &token), TRACE).await.with_status(200).json;
    let items = trace["items"].as_array().unwrap();
    let of = |member: &str| items.iter().map(|item| item[member].clone()).collect::<Vec<_>>();
    assert_eq!(of("kind"), ["exchange", "exchange", "retrieval", "refusal"]);
    assert_eq!(of("depth"), [1, 2, 2, 2]);
    let clients: Vec<&Value> = items.iter().map(|item| &item["actor"]["client_id"]).collect();
    assert_eq!(clients, ["user-proxy", "email-svc", "email-svc", "email-svc"]);
    assert_eq!(of("delegation_id"), [&root, &child, &child, &child].map(|id| json!(id)));
    assert_eq!(of("gap_ms"), [Value::Null, json!(0), json!(2_000), json!(3_000)]);
    let jti = |token: &str| crate::support::claims_of(token)["jti"].clone();
    assert_eq!((&items[0]["jti"], &items[1]["jti"]), (&jti(&first), &jti(&second)));
    assert_eq!(items[1]["parent_jti"], jti(&first));
    assert_eq!(
        (&items[2]["target"], &items[3]["reason"]),
        (&json!(connection), &json!("delegation_revoked"))
    );
    assert!(items.iter().all(|item| item["took_us"].as_u64() > Some(0)), "{items:?}");
    // Every member is that of the document.
    for item in items {
        let shown = format!("/api/v1/audit-logs/{}", item["seq"]);
        let event = read(world, (&auditor, &token), &shown).await.json["event"].clone();
        assert_eq!(event["session_id"], "session-1");
        for (name, value) in item.as_object().unwrap() {
            if !["kind", "depth", "gap_ms"].contains(&name.as_str()) {
                assert_eq!(*value, event[name], "{name}");
            }
        }
    }
    let own = world.as_alice("GET", TRACE, Value::Null).await.json;
    assert_eq!(own["items"], trace["items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_a_trace_are_one_trace() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let mut dice = Dice(4);
    let events: Vec<_> = (0..1_500_u64).map(|n| event(&world, &mut dice, n)).collect();
    AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(&events).await.unwrap();
    cover(&world).await;
    let documents = world.server.documents().await;
    let wanted: Vec<&Value> = documents
        .iter()
        .filter(|event| event["session_id"] == "session-1")
        .map(|event| &event["seq"])
        .collect();
    let whole = all_pages(&world, (&auditor, &token), TRACE).await;
    assert_eq!(whole.iter().map(|item| &item["seq"]).collect::<Vec<_>>(), wanted);
    let default = read(&world, (&auditor, &token), TRACE).await.json;
    assert_eq!(
        (default["items"].as_array().unwrap().len(), wanted.len() < 200),
        (wanted.len().min(200), true)
    );
    let small = all_pages(&world, (&auditor, &token), &format!("{TRACE}?limit=7")).await;
    assert_eq!(small, whole, "gaps are the same across pages");
    assert!(whole.iter().skip(1).all(|item| item["gap_ms"].is_i64()) && whole[0]["gap_ms"].is_null());
    assert!(whole.iter().any(|item| item["gap_ms"].as_i64() < Some(0)), "clocks that disagree are shown");

    // A user sees its own items, and no time of another's: not even by a cursor that names it.
    let name = world.server.log_name(IDP, "user-1").await;
    let own = world.as_user("user-1", "GET", &format!("{TRACE}?limit=5"), Value::Null).await.json;
    let items = own["items"].as_array().unwrap();
    let about =
        |seq: &Value| documents.iter().find(|event| event["seq"] == *seq).unwrap()["subject"]["sub"].clone();
    assert!(items.len() == 5 && items.iter().all(|item| about(&item["seq"]) == json!(name)));
    let (_, fingerprint) = own["next"].as_str().unwrap().split_once('.').unwrap();
    let last = items[4]["seq"].as_u64().unwrap();
    let other = documents.iter().find(|event| {
        event["seq"].as_u64() > Some(last)
            && event["session_id"] == "session-1"
            && about(&event["seq"]) != json!(name)
    });
    let forged = format!("{TRACE}?cursor={}.{fingerprint}", other.unwrap()["seq"]);
    let page = world.as_user("user-1", "GET", &forged, Value::Null).await.with_status(200).json;
    assert_eq!(page["items"][0]["gap_ms"], Value::Null);
    let good = format!("{TRACE}?cursor={}", own["next"].as_str().unwrap());
    let page = world.as_user("user-1", "GET", &good, Value::Null).await.with_status(200).json;
    assert!(page["items"][0]["gap_ms"].is_i64());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_is_a_pseudonym_in_the_session() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    world.second_hop().await;
    let name = world.server.log_name(IDP, "alice").await;
    let who = actchain::domain::principal::Principal::new(IDP, "alice");
    actchain::services::principals::revoke_all(&world.server.operator(), &who, "she leaves").await.unwrap();
    let erased = actchain::services::erasure::erase(&world.server.operator(), &who).await.unwrap();
    assert!(matches!(erased, actchain::services::erasure::ErasureOutcome::Erased(_)), "{erased:?}");
    let session = read(&world, (&auditor, &token), "/api/v1/sessions/session-1").await.json;
    assert_eq!(session["subjects"], json!([{"iss": IDP, "sub": name}]));
    assert_eq!(session["people"], json!({&name: {"state": "erased"}}));
    let trace = read(&world, (&auditor, &token), TRACE).await;
    let states: Vec<&Value> = trace.json["personal"].as_object().unwrap().values().collect();
    assert_eq!(states, [&json!({"state": "erased"}); 2]);
    assert!(!trace.text.contains("alice"), "{}", trace.text);
    world.server.pass(3_600);
    for path in [TRACE, "/api/v1/sessions/session-1"] {
        assert_eq!(world.as_alice("GET", path, Value::Null).await.status, 404, "not hers any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_an_issuer_is_found_whatever_its_name_is() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    for sid in ["../audit-logs", "a/b?c=d&e", "%2e%2e", "é\u{1f980} \"x\"", "=1+1"] {
        let user = world.user_token_with(|claims| claims["sid"] = json!(sid));
        let first = world.user_proxy.exchange(&world.server, &user, JWT).param("audience", MAIL).send().await;
        assert_eq!(first.with_status(200).claims()["sid"], sid);
        let name: String = url::form_urlencoded::byte_serialize(sid.as_bytes()).collect();
        let path = format!("/api/v1/sessions/{}", name.replace('+', "%20").replace('.', "%2E"));
        let found = read(&world, (&auditor, &token), &path).await;
        assert_eq!((found.status, &found.json["id"]), (200, &json!(sid)), "{path}: {}", found.text);
        let trace = read(&world, (&auditor, &token), &format!("{path}/trace")).await;
        assert_eq!(trace.json["items"].as_array().map(Vec::len), Some(1), "{path}: {}", trace.text);
    }
    for path in ["%00", "%FF", &"x".repeat(1_025)] {
        let path = format!("/api/v1/sessions/{path}");
        assert!([400, 404].contains(&read(&world, (&auditor, &token), &path).await.status), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_items_whose_texts_are_shown_until_they_are_erased() {
    let world = World::new().await;
    let id = world.granted("bob", json!({})).await.id();
    let first = world.first_hop_of("bob").send().await.with_status(200);
    let sid = first.claims()["sid"].as_str().unwrap().to_owned();
    let steps = json!({"session_id": sid, "steps": [
        {"tool": "Bash", "outcome": "succeeded", "input": "=ls /srv", "took_ms": 12, "plan_step": 1, "tool_use_id": "t1"},
        {"tool": "Read", "outcome": "failed"},
    ]});
    let path = format!("/delegate/{id}/steps");
    world.as_agent(&world.user_proxy, "POST", &path, steps).await.with_status(200);
    let at = format!("/api/v1/sessions/{sid}/trace");
    let trace = world.as_user("bob", "GET", &at, Value::Null).await.with_status(200).json;
    let items = trace["items"].as_array().unwrap();
    let kinds: Vec<&Value> = items.iter().map(|item| &item["kind"]).collect();
    assert_eq!(kinds, ["exchange", "step", "step"]);
    assert_eq!(
        items[1]["step"],
        json!({"tool": "Bash", "outcome": "succeeded", "took_ms": 12, "plan_step": 1, "tool_use_id": "t1"})
    );
    assert_eq!(
        (&items[2]["step"], &items[0]["step"]),
        (&json!({"tool": "Read", "outcome": "failed"}), &Value::Null)
    );
    assert_eq!(
        (&items[1]["delegation_id"], &items[1]["actor"]["client_id"]),
        (&json!(id), &json!("user-proxy"))
    );
    let beside = &trace["personal"][items[1]["seq"].to_string()];
    assert_eq!((&beside["state"], &beside["input"]), (&json!("matches"), &json!("=ls /srv")));
    let session = format!("/api/v1/sessions/{sid}");
    let shown = world.as_user("bob", "GET", &session, Value::Null).await.json;
    assert_eq!((&shown["steps"], &shown["exchanges"], &shown["events"]), (&json!(2), &json!(1), &json!(3)));
    let export = format!("{session}/export?format=csv");
    let csv = world.as_user("bob", "GET", &export, Value::Null).await.text;
    assert!(csv.contains("\"Bash\",\"succeeded\",12,1,\"t1\""), "{csv}");
    assert!(!csv.contains("ls /srv"), "texts are not in a file, which no erasure reaches");

    let erased = world.as_user("bob", "DELETE", &format!("{session}/texts"), Value::Null).await;
    assert_eq!(erased.status, 200, "{}", erased.text);
    let trace = world.as_user("bob", "GET", &at, Value::Null).await;
    let beside = &trace.json["personal"][items[1]["seq"].to_string()];
    assert_eq!(*beside, json!({"state": "erased"}));
    assert!(!trace.text.contains("ls /srv") && trace.json["items"][1]["step"] == items[1]["step"]);
}
