//! Audit queries: filters, pages, and visibility.

use actchain::domain::audit::append::append_events;
use actchain::domain::audit::filter::Filter;
use actchain::domain::audit::{Actor, Event};
use actchain::platform::config::RotationInterval;
use actchain::services::audit::index;
use actchain_protocol::merkle;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::agent::{Agent, Auth};
use crate::support::audit::{Dice, all_pages, auditor, cover, event, fill, read};
use crate::support::management::Api;
use crate::support::world::{IDP, MAIL, World};

const LOGS: &str = "/api/v1/audit-logs";

/// The events that a filter must find, by a comparison with every event.
fn expected(events: &[Value], filter: &Filter) -> Vec<u64> {
    events
        .iter()
        .filter(|event| filter.matches(event, Some(&event.to_string())))
        .map(|event| event["seq"].as_u64().unwrap())
        .collect()
}

fn seqs(items: &[Value]) -> Vec<u64> {
    items.iter().map(|item| item["seq"].as_u64().unwrap()).collect()
}

fn query(filter: &Filter) -> String {
    filter.parameters().iter().map(|(name, value)| format!("&{name}={value}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_finds_the_matching_events_only_in_pages_of_any_size_and_both_orders() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let mut dice = Dice(1);
    fill(&world, &mut dice, 1_500).await;
    // A partition opens in the middle; the index covers only part of the log.
    assert!(
        index::open_partition(
            &world.server.app.pool,
            RotationInterval::Day,
            world.server.clock.now() + time::Duration::days(4_000)
        )
        .await
        .unwrap()
    );
    fill(&world, &mut dice, 1_500).await;
    assert_eq!(cover(&world).await, 2_048);
    let events = world.server.events().await;
    let choices = [
        ("action", ["oauth.token.exchanged", "client.changed", "vault.token.retrieved"]),
        ("outcome", ["success", "refused", "refused"]),
        ("reason", ["delegation_revoked", "no_such", "delegation_revoked"]),
        ("client_id", ["agent-1", "agent-4", "unknown"]),
        ("subject_sub", ["user-0", "user-3", "alice"]),
        ("actor", ["agent-0", "agent-2", "user-proxy"]),
        ("actor_type", ["client", "operator", "server"]),
        ("delegation_id", ["D", "D-1", "E"]),
        ("txn", ["chain-3", "chain-200", "chain-370"]),
        ("jti", ["token-7", "token-1200", "token-40"]),
        ("target", ["thing-0", "thing-2", "admin"]),
        ("connection", ["thing-0", "thing-1", "nothing"]),
        ("session_id", ["session-0", "session-6", "session-x"]),
        ("request_id", ["request-0", "request-1400", "request-x"]),
        ("ip", ["192.0.2.1", "192.0.2.3", "::1"]),
        ("from", ["2026-01-01T00:05:00Z", "2026-01-01T00:20:00Z", "2027-01-01T00:00:00Z"]),
        ("to", ["2026-01-01T00:10:00Z", "2026-01-01T00:21:00Z", "2025-01-01T00:00:00Z"]),
    ];
    let mut found = 0;
    for round in 0..60_u64 {
        let mut filter = Filter::default();
        // Each filter alone first, then several together.
        let together = if round < 16 { 1 } else { 1 + dice.roll(3) };
        for n in 0..together {
            let which = if round < 16 { round } else { dice.roll(16) } as usize;
            let (name, values) = &choices[which];
            filter.set(name, values[((round + n) % 3) as usize]).unwrap();
        }
        if filter.check().is_err() {
            continue;
        }
        let mut wanted = expected(&events, &filter);
        let (order, limit) =
            (["newest", "oldest"][dice.roll(2) as usize], [1_000, 173, 50][dice.roll(3) as usize]);
        if order == "newest" {
            wanted.reverse();
        }
        let path = format!("{LOGS}?order={order}&limit={limit}{}", query(&filter));
        let items = all_pages(&world, (&auditor, &token), &path).await;
        assert_eq!(seqs(&items), wanted, "{path}");
        found += wanted.len();
    }
    assert!(found > 5_000, "the filters found too little to mean anything: {found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rare_and_frequent_terms_are_found_together_in_a_log_of_many_blocks() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let mut dice = Dice(2);
    // More blocks than the first query of a search reads. A rare client acts at both ends of the log.
    let rare = |number: u64| number < 3 || [1_500, 5_000, 5_001, 12_290].contains(&number);
    let mut sql = world.server.sql().await;
    for from in (0..12_300).step_by(300) {
        let events = (from..from + 300).map(|number| {
            let event = event(&world, &mut dice, number);
            let actor = if rare(number) { Actor::client("rare", None) } else { event.actor.clone() };
            Event { actor, ..event }
        });
        append_events(&mut sql, &events.collect::<Vec<_>>()).await.unwrap();
    }
    assert_eq!(cover(&world).await, 12_288);
    let events = world.server.events().await;
    for pairs in [
        vec![("client_id", "rare"), ("outcome", "success")],
        vec![("outcome", "success"), ("client_id", "rare")],
        vec![("client_id", "rare"), ("action", "client.changed"), ("outcome", "success")],
        // Two terms that are in each block and never in one event.
        vec![("action", "oauth.token.exchanged"), ("outcome", "refused")],
        vec![("subject_sub", "user-0"), ("actor", "agent-2"), ("delegation_id", "D-1"), ("ip", "192.0.2.1")],
        vec![("txn", "chain-1200"), ("outcome", "success")],
    ] {
        let mut filter = Filter::default();
        for (name, value) in &pairs {
            filter.set(name, value).unwrap();
        }
        let wanted = expected(&events, &filter);
        for (order, limit) in [("newest", 1_000), ("oldest", 1_000), ("newest", 7), ("oldest", 2)] {
            let mut wanted = wanted.clone();
            if order == "newest" {
                wanted.reverse();
            }
            if limit < 1_000 && wanted.len() > 100 {
                continue;
            }
            let path = format!("{LOGS}?order={order}&limit={limit}{}", query(&filter));
            assert_eq!(seqs(&all_pages(&world, (&auditor, &token), &path).await), wanted, "{path}");
        }
    }
}

/// For a while, a server's clock was in another year: blocks of the period have others between them.
#[tokio::test(flavor = "multi_thread")]
async fn a_period_is_found_on_both_sides_of_events_with_a_wrong_time() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let mut dice = Dice(6);
    let now = world.server.clock.now();
    let mut sql = world.server.sql().await;
    for block in 0..5_u64 {
        let wrong = block % 2 == 1;
        let events = (0..1_024).map(|number| {
            let number = block * 1_024 + number;
            let event = event(&world, &mut dice, number);
            let at = now + time::Duration::seconds(number as i64);
            Event { at: if wrong { at - time::Duration::days(400) } else { at }, ..event }
        });
        append_events(&mut sql, &events.collect::<Vec<_>>()).await.unwrap();
    }
    assert_eq!(cover(&world).await, 5 * 1_024);
    let events = world.server.events().await;
    let (from, to) = (now + time::Duration::seconds(500), now + time::Duration::seconds(4_500));
    for beside in [None, Some(("action", "oauth.token.refused"))] {
        let mut filter = Filter { from: Some(from), to: Some(to), ..Filter::default() };
        if let Some((name, value)) = beside {
            filter.set(name, value).unwrap();
        }
        let wanted = expected(&events, &filter);
        let in_block = |block: u64| wanted.iter().filter(|seq| **seq / 1_024 == block).count();
        assert!([0, 2, 4].map(in_block).iter().all(|found| *found > 50) && in_block(1) + in_block(3) < 100);
        for (order, limit) in [("newest", 1_000), ("oldest", 77)] {
            let mut wanted = wanted.clone();
            if order == "newest" {
                wanted.reverse();
            }
            let path = format!("{LOGS}?order={order}&limit={limit}{}", query(&filter));
            let items = all_pages(&world, (&auditor, &token), &path).await;
            assert_eq!(seqs(&items), wanted, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_exactly_the_limit_knows_whether_there_is_more() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    fill(&world, &mut Dice(2), 1_100).await;
    cover(&world).await;
    let total = world.server.events().await.len();
    for filter in ["", "&outcome=refused", "&txn=chain-9"] {
        let all = all_pages(&world, (&auditor, &token), &format!("{LOGS}?limit=1000{filter}")).await;
        for limit in [all.len(), all.len() - 1, 1] {
            let limit = limit.clamp(1, 1_000);
            let page = read(&world, (&auditor, &token), &format!("{LOGS}?limit={limit}{filter}")).await;
            assert_eq!(page.json["items"].as_array().unwrap().len(), limit);
            assert_eq!(page.json["next"].is_null(), limit == all.len(), "{filter} {limit} of {}", all.len());
        }
    }
    assert!(total > 1_100);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_in_place_while_the_log_grows() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    fill(&world, &mut Dice(3), 300).await;
    let before = world.server.events().await.len() as u64;
    let first = read(&world, (&auditor, &token), &format!("{LOGS}?limit=100")).await;
    fill(&world, &mut Dice(4), 1_000).await;
    cover(&world).await;
    let next = first.json["next"].as_str().unwrap();
    let second = read(&world, (&auditor, &token), &format!("{LOGS}?limit=100&cursor={next}")).await;
    let seen =
        [seqs(first.json["items"].as_array().unwrap()), seqs(second.json["items"].as_array().unwrap())]
            .concat();
    assert_eq!(seen, (before - 200..before).rev().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_queries_get_a_clear_no() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let page = read(&world, (&auditor, &token), &format!("{LOGS}?limit=1&order=oldest")).await;
    let cursor = page.json["next"].as_str().unwrap();
    for query in [
        "limit=0",
        "limit=-1",
        "limit=1000000000",
        "limit=1001",
        "limit=ten",
        "cursor=made-up",
        "cursor=12",
        "cursor=12.abc",
        "order=sideways",
        "outcome=perhaps",
        "from=yesterday",
        "to=2026-13-01T00:00:00Z",
        "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
        "colour=red",
        "action=a&action=b",
        "txn=",
        "state=active",
        &format!("cursor={cursor}"),
        &format!("cursor={cursor}&order=oldest&outcome=success"),
    ] {
        let answer = read(&world, (&auditor, &token), &format!("{LOGS}?{query}")).await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{query}: {}", answer.text);
    }
    let good =
        read(&world, (&auditor, &token), &format!("{LOGS}?cursor={cursor}&order=oldest&limit=7")).await;
    assert_eq!(good.json["items"][0]["seq"], json!(1), "another limit is no other query");
    let dated =
        read(&world, (&auditor, &token), &format!("{LOGS}?from=2026-01-01&to=2026-01-02&limit=1")).await;
    assert_eq!(dated.json["items"].as_array().unwrap().len(), 1, "dates begin at midnight UTC");
    let later = read(&world, (&auditor, &token), &format!("{LOGS}?from=2026-01-02")).await;
    assert_eq!((later.status, &later.json["items"]), (200, &json!([])));
    // A cursor after the last event finds nothing, and does not fail.
    let after_the_end = format!("{}.{}", u64::MAX, cursor.split_once('.').unwrap().1);
    let none = read(&world, (&auditor, &token), &format!("{LOGS}?cursor={after_the_end}&order=oldest")).await;
    assert_eq!((none.status, &none.json["next"]), (200, &Value::Null));
    assert_eq!(none.json["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_see_the_events_about_them_auditors_all_and_agents_none() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    world.first_hop().await;
    fill(&world, &mut Dice(5), 50).await;
    let own = world.as_alice("GET", LOGS, Value::Null).await;
    let alice = world.server.log_name(IDP, "alice").await;
    assert_eq!(own.json["people"][&alice], json!({"state": "known", "iss": IDP, "sub": "alice"}));
    let own = own.json["items"].as_array().unwrap();
    assert!(!own.is_empty() && own.iter().all(|event| event["subject"]["sub"] == json!(alice)));
    let others = world.as_alice("GET", &format!("{LOGS}?subject_sub=user-1"), Value::Null).await;
    assert_eq!(
        (others.status, &others.json),
        (200, &json!({"items": [], "next": null, "people": {}, "personal": {}}))
    );
    let of_others = world.as_user("mallory", "GET", LOGS, Value::Null).await;
    assert_eq!(of_others.json["items"], json!([]));
    let event = &own[0];
    let path = format!("{LOGS}/{}", event["id"].as_str().unwrap());
    assert_eq!(world.as_alice("GET", &path, Value::Null).await.json["event"], *event);
    assert_eq!(world.as_user("mallory", "GET", &path, Value::Null).await.status, 404);
    let by_seq = format!("{LOGS}/{}", event["seq"]);
    assert_eq!(world.as_user("mallory", "GET", &by_seq, Value::Null).await.status, 404);
    assert_eq!(read(&world, (&auditor, &token), &by_seq).await.json["event"], *event);
    for path in [LOGS, &path, "/api/v1/audit-logs/chains", "/api/v1/audit-logs/stream"] {
        let agent = world.as_agent(&world.user_proxy, "GET", path, Value::Null).await;
        assert_eq!((agent.status, agent.reason()), (403, "insufficient_scope"), "{path}");
        assert_eq!(Api::get(&world.server, path).send().await.status, 401, "{path}");
    }
    let admin = world.as_agent(&world.admin, "GET", &format!("{LOGS}?limit=1000"), Value::Null).await;
    assert_eq!(admin.json["items"].as_array().unwrap().len(), world.server.events().await.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_reads_the_log_and_gets_nowhere_else() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    for (method, path) in [
        ("GET", "/delegate"),
        ("GET", "/delegate/D"),
        ("POST", "/delegate/D/revoke"),
        ("GET", "/agents"),
        ("POST", "/api/v1/clients/user-proxy/disable"),
        ("GET", "/api/v1/providers"),
        ("GET", "/api/v1/connections"),
        ("GET", "/api/v1/principals/impact?client_id=user-proxy"),
    ] {
        let answer = Api::new(&world.server, method, path).client(&auditor, &token).send().await;
        assert_eq!((answer.status, answer.reason()), (403, "insufficient_scope"), "{path}: {}", answer.text);
    }
    let agent = "clients:\n  - {id: a, kind: agent, auth: client_secret_basic, secret: 0123456789abcdef0123, \
                 scopes: [actchain.audit], grant_types: [client_credentials]}\n";
    assert!(world.server.apply(agent).await.unwrap_err().contains("kind auditor"));
    world.server.disable("auditor").await;
    assert_eq!(read(&world, (&auditor, &token), LOGS).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_shows_the_very_text_that_the_tree_hashes() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    world.first_hop().await;
    let event = world.server.last_event().await;
    let shown = read(&world, (&auditor, &token), &format!("{LOGS}/{}", event["id"].as_str().unwrap())).await;
    let mut sql = world.server.sql().await;
    let text: String = sqlx::query_scalar("SELECT document FROM audit_event ORDER BY seq DESC LIMIT 1")
        .fetch_one(&mut sql)
        .await
        .unwrap();
    assert_eq!(shown.json["document"], json!(text));
    assert_eq!(shown.json["inclusion"], Value::Null, "no checkpoint covers it yet");
    let app = &world.server.app;
    let note = actchain::services::audit::checkpoint(&app.pool, &app.seal, &app.issuer, app.clock.now())
        .await
        .unwrap();
    let at = format!("{LOGS}/{}", event["seq"]);
    let inclusion = read(&world, (&auditor, &token), &at).await.json["inclusion"].clone();
    assert_eq!(inclusion["checkpoint"], json!(note));
    let hash =
        |text: &Value| -> [u8; 32] { STANDARD.decode(text.as_str().unwrap()).unwrap().try_into().unwrap() };
    let path: Vec<_> = inclusion["path"].as_array().unwrap().iter().map(hash).collect();
    let (seq, size) = (inclusion["seq"].as_u64().unwrap(), inclusion["size"].as_u64().unwrap());
    let leaf = merkle::leaf(text.as_bytes());
    assert!(
        merkle::verify_inclusion(&leaf, seq, size, &path, &hash(&inclusion["root"])),
        "RFC 9162 §2.1.3.2"
    );
    for name in ["0198c0de-0000-7000-8000-000000000000", "999999", "x", "-1"] {
        assert_eq!(read(&world, (&auditor, &token), &format!("{LOGS}/{name}")).await.status, 404, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_cover_the_log_once_and_a_damaged_event_stops_neither() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let (auditor, token) = auditor(&world).await;
    fill(&world, &mut Dice(6), 4_200).await;
    let mut sql = world.server.sql().await;
    sqlx::query("UPDATE audit_event SET document = 'not JSON' WHERE seq = 77")
        .execute(&mut sql)
        .await
        .unwrap();
    let jobs = [&world.server, &twin, &world.server, &twin];
    futures_util::future::join_all(jobs.map(|server| index::run_once(&server.app.pool))).await;
    assert_eq!(cover(&world).await, 4_096);
    let events = world.server.events_that_can_be_read().await;
    let filter = {
        let mut filter = Filter::default();
        filter.set("client_id", "agent-3").unwrap();
        filter
    };
    let items =
        all_pages(&world, (&auditor, &token), &format!("{LOGS}?client_id=agent-3&order=oldest&limit=400"))
            .await;
    assert_eq!(seqs(&items), expected(&events, &filter));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_does_not_wait_for_the_authority_lock() {
    let world = World::new().await;
    fill(&world, &mut Dice(7), 1_100).await;
    let mut sql = world.server.sql().await;
    let mut open =
        sqlx::Connection::begin_with(&mut sql, actchain::domain::authority_lock::BEGIN_SHARED).await.unwrap();
    assert_eq!(cover(&world).await, 1_024, "while batches are recorded");
    sqlx::query("SELECT 1").execute(&mut *open).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_event_stops_the_indexing_with_an_error() {
    let world = World::new().await;
    fill(&world, &mut Dice(8), 1_100).await;
    sqlx::query("DELETE FROM audit_event WHERE seq = 500")
        .execute(&mut world.server.sql().await)
        .await
        .unwrap();
    let failed = index::run_once(&world.server.app.pool).await.unwrap_err();
    assert!(failed.to_string().contains("are missing"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_called_operator_is_not_taken_for_one() {
    let world = World::new().await;
    let client = Agent::new("operator", Auth::Assertion);
    let yaml = format!(
        "clients:\n  - {{id: operator, kind: agent, auth: private_key_jwt, jwks: {{keys: [{}]}}, \
         grant_types: [client_credentials], scopes: [mail.read], audiences: [\"{MAIL}\"]}}\n",
        client.key.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    let request =
        client.request(&world.server).param("grant_type", "client_credentials").param("audience", MAIL);
    request.send().await.with_status(200);
    let token = world.management_token(&world.admin).await;
    let found = async |query: &str| {
        let path = format!("/api/v1/audit-logs?limit=100&{query}");
        let page = read(&world, (&world.admin, &token), &path).await;
        let items = page.json["items"].as_array().unwrap().clone();
        items.into_iter().map(|event| event["actor"].clone()).collect::<Vec<Value>>()
    };
    let own = json!({"type": "client", "client_id": "operator", "jkt": client.jkt()});
    assert_eq!(found("client_id=operator").await, [own]);
    let operators = found("actor_type=operator").await;
    assert!(!operators.is_empty() && operators.iter().all(|actor| *actor == json!({"type": "operator"})));
}
