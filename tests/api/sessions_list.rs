//! Sessions in numbers: a list, and a single session, as far as the caller may see them.

use std::collections::{BTreeMap, BTreeSet};

use actchain::domain::audit::EventKind;
use actchain::services::transaction::AuditedTransaction;
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::audit::{Dice, all_pages, auditor, cover, event, fill, read};
use crate::support::vault::VaultWorld;
use crate::support::world::{IDP, MAIL, World};

const SESSIONS: &str = "/api/v1/sessions";

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["id"].as_str().unwrap()).collect()
}

/// The numbers that a session must have by its events.
fn counted(events: &[&Value]) -> Value {
    let count = |is: &dyn Fn(&Value) -> bool| events.iter().filter(|event| is(event)).count();
    let action = |name: &'static str| move |event: &Value| event["action"] == name;
    let delegations: BTreeSet<_> =
        events.iter().filter_map(|event| event["delegation_id"].as_str()).collect();
    json!({
        "events": events.len(),
        "exchanges": count(&action("oauth.token.exchanged")),
        "retrievals": count(&action("vault.token.retrieved")) + count(&action("vault.proxy.called")),
        "refusals": count(&|event| event["outcome"] == "refused"),
        "steps": count(&action("delegation.step")),
        "delegations": delegations.len(),
        "first_seq": events[0]["seq"],
        "last_seq": events[events.len() - 1]["seq"],
    })
}

fn numbers(session: &Value) -> Value {
    let names =
        ["events", "exchanges", "retrievals", "refusals", "steps", "delegations", "first_seq", "last_seq"];
    names
        .iter()
        .map(|name| ((*name).to_owned(), session[*name].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_counts_the_work_of_its_clients_and_shows_each_caller_its_own() {
    let vault = VaultWorld::new().await;
    let world = &vault.world;
    let (auditor, token) = auditor(world).await;
    let connection = vault.api_key().await;
    let (delegations, [_, second]) = vault.granted(&connection).await;
    assert_eq!(vault.fetch(&second, &connection).await.status, 200);
    world.server.revoke(&delegations[1]).await;
    assert_eq!(vault.fetch(&second, &connection).await.status, 409);
    let at = format!("{SESSIONS}/session-1");
    let session = read(world, (&auditor, &token), &at).await.with_status(200).json;
    assert_eq!(
        (&session["id"], &session["client_ids"], &session["complete"]),
        (&json!("session-1"), &json!(["user-proxy", "email-svc"]), &json!(true))
    );
    assert_eq!(session["events_by_client"], json!({"user-proxy": 1, "email-svc": 3}));
    let events = world.server.documents().await;
    let of_session: Vec<&Value> = events.iter().filter(|event| event["session_id"] == "session-1").collect();
    assert_eq!(numbers(&session), counted(&of_session));
    assert_eq!(
        (&session["exchanges"], &session["retrievals"], &session["refusals"], &session["delegations"]),
        (&json!(2), &json!(1), &json!(1), &json!(2))
    );
    assert_eq!(
        (&session["first_at"], &session["last_at"]),
        (&of_session[0]["at"], &of_session[of_session.len() - 1]["at"])
    );
    let name = world.server.log_name(IDP, "alice").await;
    assert_eq!(session["subjects"], json!([{"iss": IDP, "sub": name}]));
    assert_eq!(session["people"][&name], json!({"state": "known", "iss": IDP, "sub": "alice"}));

    // The index and the unindexed part of the log give the same result.
    fill(world, &mut Dice(3), 1_100).await;
    assert!(cover(world).await >= 1_024);
    let again = world.as_alice("GET", &at, Value::Null).await.json;
    assert_eq!(again, session, "her own: events of others have the same id now");
    for path in [at.clone(), format!("{at}/trace")] {
        let other = world.as_user("mallory", "GET", &path, Value::Null).await;
        assert_eq!((other.status, other.reason()), (404, "not_found"), "{path}");
        let agent = world.as_agent(&world.user_proxy, "GET", &path, Value::Null).await;
        assert_eq!((agent.status, agent.reason()), (403, "insufficient_scope"), "{path}");
        let unknown = path.replace("session-1", "no-such-session");
        assert_eq!(read(world, (&auditor, &token), &unknown).await.status, 404);
    }
    assert_eq!(
        ids(world.as_alice("GET", SESSIONS, Value::Null).await.json["items"].as_array().unwrap()),
        ["session-1"]
    );
    assert_eq!(world.as_user("mallory", "GET", SESSIONS, Value::Null).await.json["items"], json!([]));
    assert_eq!(world.as_agent(&world.user_proxy, "GET", SESSIONS, Value::Null).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn named_sessions_of_two_clients_are_apart_however_their_work_interleaves() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let yaml = format!(
        "delegations:\n  - {{id: G, delegator: {{iss: {IDP}, sub: alice}}, delegate: email-svc, expires_in: 600}}\n"
    );
    world.server.apply(&yaml).await.unwrap();
    let user = world.user_token_with(|claims| {
        claims.as_object_mut().unwrap().remove("sid");
    });
    let mut sessions: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..2 {
        for (agent, name) in
            [(&world.user_proxy, "task"), (&world.email_svc, "task"), (&world.user_proxy, "=HYPERLINK(1)")]
        {
            let first = agent.exchange(&world.server, &user, JWT).param("audience", MAIL);
            let first = first.param("session_id", name).send().await.with_status(200);
            let sid = first.claims()["sid"].as_str().unwrap().to_owned();
            *sessions.entry(sid.clone()).or_default() += 1;
            if agent.id == "user-proxy" {
                let hop = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
                assert_eq!(hop.with_status(200).claims()["sid"], json!(sid));
                *sessions.entry(sid).or_default() += 1;
            }
        }
    }
    assert_eq!(sessions.values().copied().collect::<BTreeSet<_>>(), BTreeSet::from([2, 4]));
    let items = all_pages(&world, (&auditor, &token), &format!("{SESSIONS}?limit=2&subject_sub=alice")).await;
    let got: BTreeMap<String, usize> = items
        .iter()
        .map(|item| (item["id"].as_str().unwrap().to_owned(), item["exchanges"].as_u64().unwrap() as usize))
        .collect();
    assert_eq!((items.len(), got), (3, sessions));
    let newest: Vec<u64> = items.iter().map(|item| item["last_seq"].as_u64().unwrap()).collect();
    assert!(newest.is_sorted_by(|one, next| one > next), "{newest:?}");
    let of_proxy = all_pages(&world, (&auditor, &token), &format!("{SESSIONS}?client_id=user-proxy")).await;
    assert_eq!(of_proxy.len(), 2);
    assert!(of_proxy.iter().all(|item| item["client_ids"] == json!(["user-proxy", "email-svc"])));
    let by_delegation = all_pages(&world, (&auditor, &token), &format!("{SESSIONS}?delegation_id=G")).await;
    assert_eq!(by_delegation.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_is_in_exactly_one_place_of_the_pages() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let mut dice = Dice(11);
    // Many short sessions, and some that run through the whole log.
    let many: Vec<_> = (0..1_600_u64)
        .map(|n| {
            let mut event = event(&world, &mut dice, n);
            if event.session_id.is_some() && n % 3 == 0 {
                event.session_id = Some(format!("task-{}", n / 40));
            }
            event
        })
        .collect();
    AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(&many).await.unwrap();
    assert!(cover(&world).await >= 1_024);
    let events = world.server.events().await;
    for (name, value) in [
        ("", ""),
        ("client_id", "agent-1"),
        ("subject_sub", "user-2"),
        ("delegation_id", "D-1"),
        ("from", "2026-01-01T00:10:00Z"),
        ("to", "2026-01-01T00:10:00Z"),
        ("has_refusals", "true"),
        ("client_id", "unknown"),
    ] {
        let mut filter = actchain::domain::audit::filter::Filter::default();
        match name {
            "" => {}
            "has_refusals" => drop(filter.set("outcome", "refused").unwrap()),
            _ => drop(filter.set(name, value).unwrap()),
        }
        let mut wanted: Vec<&str> = Vec::new();
        for event in events.iter().rev().filter(|event| filter.matches(event, None)) {
            if let Some(id) = event["session_id"].as_str().filter(|id| !wanted.contains(id)) {
                wanted.push(id);
            }
        }
        for limit in [100, 7] {
            let query = if name.is_empty() { String::new() } else { format!("&{name}={value}") };
            let path = format!("{SESSIONS}?limit={limit}{query}");
            let items = all_pages(&world, (&auditor, &token), &path).await;
            assert_eq!(ids(&items), wanted, "{path}");
            for item in items.iter().filter(|item| item["complete"] == true) {
                let own = events.iter().filter(|event| event["session_id"] == item["id"]).collect::<Vec<_>>();
                assert_eq!(numbers(item), counted(&own), "{path}");
            }
        }
    }
    // A user gets the numbers of its own events.
    let own = all_own(&world, "user-2").await;
    let about: Vec<&Value> =
        events.iter().filter(|event| event["subject"] == json!({"iss": IDP, "sub": "user-2"})).collect();
    assert!(own.len() > 20 && own.iter().any(|item| item["events"].as_u64() > Some(20)));
    for item in &own {
        let of_session: Vec<&Value> =
            about.iter().filter(|event| event["session_id"] == item["id"]).copied().collect();
        assert_eq!(
            (&item["events"], &item["refusals"]),
            (&counted(&of_session)["events"], &counted(&of_session)["refusals"]),
            "{item}"
        );
    }
}

async fn all_own(world: &World, sub: &str) -> Vec<Value> {
    let page = world.as_user(sub, "GET", &format!("{SESSIONS}?limit=100"), Value::Null).await;
    assert_eq!(page.json["next"], Value::Null, "{}", page.text);
    page.json["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_recorded_between_two_pages_neither_repeat_nor_hide_a_session() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let mut dice = Dice(5);
    let mut record = async |id: &str| {
        let mut one = event(&world, &mut dice, 7);
        one.kind = EventKind::TokenExchanged {
            exp: 0,
            kid: "k".into(),
            introspected: None,
            refresh_token: None,
            exceptions: Vec::new(),
        };
        one.session_id = Some(id.to_owned());
        AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(&[one]).await.unwrap();
    };
    for id in ["a", "b", "c", "d"] {
        record(id).await;
    }
    let first = read(&world, (&auditor, &token), &format!("{SESSIONS}?limit=2")).await.json;
    assert_eq!(ids(first["items"].as_array().unwrap()), ["d", "c"]);
    for id in ["a", "c", "e"] {
        record(id).await;
    }
    let next = first["next"].as_str().unwrap();
    let second = read(&world, (&auditor, &token), &format!("{SESSIONS}?limit=2&cursor={next}")).await.json;
    assert_eq!((ids(second["items"].as_array().unwrap()), &second["next"]), (vec!["b", "a"], &Value::Null));
    assert_eq!(second["items"][1]["events"], json!(2), "the numbers are those of now");
    let other = format!("{SESSIONS}?limit=2&client_id=x&cursor={next}");
    for bad in [
        other.as_str(),
        "/api/v1/sessions?cursor=x",
        "/api/v1/sessions?cursor=1.2",
        "/api/v1/sessions?limit=0",
        "/api/v1/sessions?limit=101",
        "/api/v1/sessions?has_refusals=no",
        "/api/v1/sessions?txn=x",
        "/api/v1/sessions/a?x=y",
        "/api/v1/sessions/a/trace?limit=201",
        "/api/v1/sessions/a/trace?cursor=1.x",
    ] {
        let refused = read(&world, (&auditor, &token), bad).await;
        assert_eq!((refused.status, refused.reason()), (400, "malformed_request"), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_very_long_session_is_counted_in_full_and_hides_no_other() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    world.first_hop().await;
    let mut dice = Dice(8);
    let long: Vec<_> = (0..12_000_u64)
        .map(|n| {
            let mut one = event(&world, &mut dice, n);
            one.session_id = Some("the-long-one".into());
            one
        })
        .collect();
    for part in long.chunks(2_000) {
        AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(part).await.unwrap();
    }
    cover(&world).await;
    let page = read(&world, (&auditor, &token), &format!("{SESSIONS}?limit=1")).await.json;
    assert_eq!(ids(page["items"].as_array().unwrap()), ["the-long-one"]);
    let next = page["next"].as_str().expect("another page");
    let page = read(&world, (&auditor, &token), &format!("{SESSIONS}?limit=1&cursor={next}")).await.json;
    assert_eq!(ids(page["items"].as_array().unwrap()), ["session-1"], "no page is spent on the long one");
    let whole = read(&world, (&auditor, &token), &format!("{SESSIONS}/the-long-one")).await.json;
    let events = world.server.documents().await;
    let own: Vec<&Value> = events.iter().filter(|event| event["session_id"] == "the-long-one").collect();
    let mut expected = counted(&own);
    expected["delegations"] = whole["delegations"].clone();
    assert_eq!((numbers(&whole), &whole["complete"]), (expected, &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_wait_for_an_index_that_is_far_behind() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    world.first_hop().await;
    fill(&world, &mut Dice(9), 20_100).await;
    let paths = ["", "/session-1", "/session-1/trace"].map(|rest| format!("{SESSIONS}{rest}"));
    for path in &paths {
        assert_eq!(read(&world, (&auditor, &token), path).await.status, 503, "{path}");
    }
    cover(&world).await;
    for path in &paths {
        assert_eq!(read(&world, (&auditor, &token), path).await.status, 200, "{path}");
    }
}
