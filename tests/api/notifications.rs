//! Notifications: a sink tells each user what waits for a decision, in few messages, and once each.

mod counts;
mod declaring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use actchain::domain::audit::append::append_events;
use actchain::domain::audit::{Actor, Event, EventKind};
use actchain::domain::delegation::store as delegations;
use actchain::domain::principal::Principal;
use actchain::domain::sink::store;
use actchain::jobs;
use actchain::services::erasure::{ErasureOutcome, erase};
use actchain::services::restored::{ReviewScope, review_restored};
use actchain::services::sinks::{self, SinkDeclaration, deliver};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::support::agent::{Agent, Auth};
use crate::support::life::with;
use crate::support::world::{IDP, World};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SINK: &str = "approvals";
/// Free text of an agent, which no message has.
const CANARY: &str = "canary-of-the-agent";

/// A receiver of webhooks whose answers the test sets, for all users or for one.
struct Receiver {
    server: MockServer,
    status: Arc<AtomicU16>,
    for_bob: Arc<AtomicU16>,
}

impl Receiver {
    async fn start() -> Self {
        let server = MockServer::start().await;
        let (status, for_bob) = (Arc::new(AtomicU16::new(204)), Arc::new(AtomicU16::new(0)));
        let (all, bob) = (Arc::clone(&status), Arc::clone(&for_bob));
        Mock::given(method("POST"))
            .respond_with(move |request: &Request| {
                let is_bob = body(request)["data"]["user"]["sub"] == "bob";
                let status = match bob.load(Ordering::SeqCst) {
                    status if is_bob && status > 0 => status,
                    _ => all.load(Ordering::SeqCst),
                };
                let answer = ResponseTemplate::new(status);
                if status == 429 { answer.insert_header("retry-after", "600") } else { answer }
            })
            .mount(&server)
            .await;
        Self { server, status, for_bob }
    }

    async fn got(&self) -> Vec<Request> {
        self.server.received_requests().await.unwrap()
    }

    /// The notified users, with the numbers of requests that are named and not named.
    async fn notified(&self) -> Vec<(String, usize, i64)> {
        let notified = |request: &Request| {
            let data = &body(request)["data"];
            let user = data["user"]["sub"].as_str().unwrap().to_owned();
            (user, data["items"].as_array().unwrap().len(), data["more"].as_i64().unwrap())
        };
        self.got().await.iter().map(notified).collect()
    }
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

fn header(request: &Request, name: &str) -> String {
    request.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap().to_owned()
}

/// An operator declares the sink.
async fn declare(world: &World, declared: Value) {
    let declared: SinkDeclaration = serde_json::from_value(with(json!({"id": SINK}), declared)).unwrap();
    let server = &world.server;
    sinks::declare(&server.operator(), &server.app.vault, &declared).await.unwrap();
}

async fn webhooks(settings: Value) -> (World, Receiver) {
    let config = "[audit]\nsink_attempts = 3\n[delegations]\nmax_pending_requests = 100\n\
                  max_pending_requests_per_client = 100";
    let (world, receiver) = (World::configured(config).await, Receiver::start().await);
    let declared = json!({"url": receiver.server.uri(), "secret": SECRET, "notification": settings});
    declare(&world, declared).await;
    (world, receiver)
}

async fn run(world: &World) -> usize {
    jobs::sinks::run_once(&world.server.app, world.server.clock.now()).await.unwrap()
}

async fn shown(world: &World) -> Value {
    json!(sinks::show(&world.server.operator(), SINK).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_a_new_key_and_a_single_use_are_in_messages_with_a_link_and_without_words_of_the_agent() {
    let (world, receiver) = webhooks(json!({"wait": 0})).await;
    let terms =
        json!({"reason": CANARY, "agent": {"type": CANARY, "model": CANARY}, "scopes": ["mail.read"]});
    let asked = world.asked("bob", terms).await;
    let agent = Agent::new("ephemeral", Auth::None);
    let ephemeral = json!({"ephemeral": {"jwk": agent.key.public_jwk(), "task_id": CANARY}});
    let home = world.as_user("bob", "POST", "/delegate", ephemeral).await.with_status(201).json;
    let agent = Agent { id: home["delegate"].as_str().unwrap().to_owned(), ..agent };
    let home = home["id"].as_str().unwrap().to_owned();
    let jwk = Agent::new("new", Auth::None).key.public_jwk();
    let path = format!("/delegate/{home}/rotate-key");
    world.as_agent(&agent, "POST", &path, json!({"jwk": jwk})).await.with_status(202);
    let reserved = json!({"scopes": ["mail.send"], "ceremony_required_for": ["mail.send"]});
    let reserved = world.granted("carol", reserved).await.with_status(201).id();
    let refused = world.first_hop_of("carol").param("scope", "mail.send").send().await;
    let ceremony = refused.json["ceremony"].as_str().unwrap().to_owned();
    // What is asked again waits already.
    world.first_hop_of("carol").param("scope", "mail.send").send().await;
    run(&world).await;
    run(&world).await;
    let mut got = receiver.got().await;
    // Messages that are due at the same time have no order.
    got.sort_by_key(|request| body(request)["data"]["user"]["sub"].to_string());
    let mut notified = receiver.notified().await;
    notified.sort_unstable();
    assert_eq!(
        notified,
        [("bob".to_owned(), 2, 0), ("carol".to_owned(), 1, 0)],
        "each user once, and nothing that was granted"
    );
    let page = |id: &str| json!(format!("{}/console/approvals/{id}", world.server.app.issuer));
    let bob = body(&got[0]);
    assert_eq!((&bob["type"], bob["timestamp"].is_string()), (&json!("decision.waiting"), true));
    assert_eq!(bob["data"]["user"], json!({"iss": IDP, "sub": "bob"}));
    assert_eq!(bob["data"]["url"], json!(format!("{}/console/approvals", world.server.app.issuer)));
    let (request, key) = (&bob["data"]["items"][0], &bob["data"]["items"][1]);
    assert_eq!(
        (&request["kind"], &request["delegation_id"], &request["client_id"], &request["url"]),
        (&json!("request"), &json!(asked), &json!("user-proxy"), &page(&asked))
    );
    assert_eq!(
        (&key["kind"], &key["delegation_id"], &key["client_id"], &key["url"]),
        (&json!("key_rotation"), &json!(home), &json!(agent.id), &page(&home))
    );
    let used = &body(&got[1])["data"]["items"][0];
    assert_eq!(
        (&used["kind"], &used["delegation_id"], &used["ceremony"], &used["url"]),
        (&json!("use"), &json!(reserved), &json!(ceremony), &page(&reserved))
    );
    for request in &got {
        let text = String::from_utf8(request.body.clone()).unwrap();
        assert!(!text.contains(CANARY), "{text}");
        assert_eq!(header(request, "content-type"), "application/json");
        assert_eq!(header(request, "webhook-timestamp"), world.server.now().to_string());
        let (id, at) = (header(request, "webhook-id"), header(request, "webhook-timestamp"));
        let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
        let signed = format!("{id}.{at}.{text}");
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
        assert_eq!(header(request, "webhook-signature"), format!("v1,{}", STANDARD.encode(mac.as_ref())));
    }
    assert_ne!(header(&got[0], "webhook-id"), header(&got[1], "webhook-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_needs_a_confirmation_is_in_a_message_once() {
    let (world, receiver) = webhooks(json!({"wait": 0})).await;
    let rule = json!({"id": "MY-001", "title": "Payments", "severity": "high", "targets": ["input"], "match_mode": "any",
        "patterns": [{"contains": "pay"}], "action": "confirm", "examples": {"match": ["pay"], "no_match": ["other"]}});
    world.as_admin("POST", "/api/v1/apply", json!({"rules": [rule]})).await.with_status(200);
    world.server.app.refresh_rules().await.unwrap();
    let root = world.granted("bob", json!({})).await.id();
    let below = world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({})).await.id();
    let step = json!({"tool": "Shop", "outcome": "proposed", "input": "pay 5", "tool_use_id": "p"});
    let body_of = json!({"ask": true, "steps": [step]});
    let path = format!("/delegate/{below}/steps");
    let asked = world.as_agent(&world.email_svc, "POST", &path, body_of.clone()).await.with_status(200).json;
    world.as_agent(&world.email_svc, "POST", &path, body_of).await.with_status(200);
    run(&world).await;
    assert_eq!(receiver.notified().await, [("bob".to_owned(), 1, 0)]);
    let got = receiver.got().await;
    let item = &body(&got[0])["data"]["items"][0];
    assert_eq!(
        (&item["kind"], &item["delegation_id"], &item["client_id"]),
        (&json!("use"), &json!(root), &json!("email-svc"))
    );
    assert_eq!(item["ceremony"], asked["steps"][0]["ceremony"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_hears_of_delegations_that_a_restored_backup_suspended() {
    let (world, receiver) = webhooks(json!({"wait": 0})).await;
    let report = review_restored(&world.server.operator(), ReviewScope::All, None).await.unwrap();
    assert_eq!(report.suspended, ["D", "E", "F"]);
    run(&world).await;
    let got = receiver.got().await;
    assert_eq!(got.len(), 1, "what agents delegated has no user to decide");
    let data = &body(&got[0])["data"];
    assert_eq!((&data["user"]["sub"], &data["items"][0]["kind"]), (&json!("alice"), &json!("review")));
    assert_eq!((&data["items"][0]["delegation_id"], &data["more"]), (&json!("D"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_within_the_wait_is_one_message_without_what_was_decided() {
    let (world, receiver) = webhooks(json!({"wait": 30})).await;
    let first = world.asked("bob", json!({})).await;
    run(&world).await;
    world.server.pass(29);
    let second = world.asked("bob", json!({})).await;
    let third = world.asked("bob", json!({})).await;
    run(&world).await;
    assert!(receiver.got().await.is_empty(), "the first has waited for 29 seconds");
    world.moves("bob", &second, "deny", json!({})).await.with_status(200);
    world.server.pass(1);
    run(&world).await;
    let got = receiver.got().await;
    assert_eq!(got.len(), 1);
    let items = body(&got[0])["data"]["items"].clone();
    let ids: Vec<&Value> = items.as_array().unwrap().iter().map(|one| &one["delegation_id"]).collect();
    assert_eq!(ids, [&json!(first), &json!(third)]);
    // What is decided within the wait is not notified at all.
    let fourth = world.asked("bob", json!({})).await;
    run(&world).await;
    world.moves("bob", &fourth, "approve", json!({})).await.with_status(200);
    world.server.pass(30);
    run(&world).await;
    assert_eq!(receiver.got().await.len(), 1);
    assert_eq!(run(&world).await, 0, "nothing is due");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_gets_no_more_messages_in_an_hour_than_declared_and_then_hears_of_the_rest() {
    let (world, receiver) = webhooks(json!({"wait": 0, "max_per_hour": 2})).await;
    for _ in 0..3 {
        world.asked("bob", json!({})).await;
        run(&world).await;
        world.server.pass(60);
    }
    for _ in 0..11 {
        world.asked("bob", json!({})).await;
    }
    world.asked("carol", json!({})).await;
    run(&world).await;
    let notified = |user: &str, named, more| (user.to_owned(), named, more);
    let before = [notified("bob", 1, 0), notified("bob", 1, 0), notified("carol", 1, 0)];
    assert_eq!(receiver.notified().await, before, "another user is not limited");
    world.server.pass(3_600 - 3 * 60 - 1);
    assert_eq!(run(&world).await, 0, "the hour is not over");
    world.server.pass(1);
    run(&world).await;
    assert_eq!(receiver.notified().await[3..], [notified("bob", 10, 2)], "twelve, of which ten are named");
    // A quiet hour later, nothing is kept of what users were notified.
    world.server.pass(3_600);
    world.asked("dave", json!({})).await;
    run(&world).await;
    let names: Vec<String> = sqlx::query_scalar("SELECT recipient FROM audit_sink_recipient")
        .fetch_all(&mut world.server.sql().await)
        .await
        .unwrap();
    assert_eq!(names, [world.server.log_name(IDP, "dave").await]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_for_one_user_are_one_message() {
    let (world, receiver) = webhooks(json!({"wait": 30})).await;
    let id = world.asked("bob", json!({})).await;
    let server = &world.server;
    let mut sql = server.sql().await;
    let one = delegations::find(&server.app.rows, &mut sql, &id).await.unwrap().unwrap();
    let kind = EventKind::DelegationCreated { terms: one.recorded_terms(), expires_in: None };
    let event = Event {
        subject: Some(Principal::new(IDP, "bob")),
        delegation_id: Some(id.clone()),
        ..Event::new(server.clock.now(), kind, Actor::client("user-proxy", None))
    };
    for _ in 0..10 {
        append_events(&mut sql, &vec![event.clone(); 1_000]).await.unwrap();
    }
    run(&world).await;
    assert!(receiver.got().await.is_empty());
    server.pass(30);
    run(&world).await;
    assert_eq!(receiver.notified().await, [("bob".to_owned(), 10, 9_991)]);
    let at_end = shown(&world).await["cursor"] == json!(server.events().await.len());
    assert!(at_end && run(&world).await == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_accepted_is_sent_again_with_the_same_id() {
    let (world, receiver) = webhooks(json!({"wait": 0})).await;
    receiver.status.store(500, Ordering::SeqCst);
    world.asked("bob", json!({})).await;
    run(&world).await;
    let failed = shown(&world).await;
    assert_eq!((&failed["attempts"], &failed["last_error"]), (&json!(1), &json!("status 500")));
    assert_eq!(run(&world).await, 0, "not before its time");
    world.server.pass(5);
    receiver.status.store(429, Ordering::SeqCst);
    run(&world).await;
    world.server.pass(599);
    assert_eq!(run(&world).await, 0, "Retry-After");
    world.server.pass(1);
    receiver.status.store(204, Ordering::SeqCst);
    run(&world).await;
    let got = receiver.got().await;
    let ids: Vec<String> = got.iter().map(|one| header(one, "webhook-id")).collect();
    assert_eq!((got.len(), ids.iter().all(|id| *id == ids[0])), (3, true));
    let done = shown(&world).await;
    assert_eq!((&done["attempts"], &done["last_error"]), (&json!(0), &Value::Null));
    assert_eq!(run(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_one_user_cannot_get_delays_no_other_and_becomes_a_dead_letter() {
    let (world, receiver) = webhooks(json!({"wait": 0})).await;
    receiver.for_bob.store(404, Ordering::SeqCst);
    let asked = world.asked("bob", json!({})).await;
    let seq = world.server.events().await.len() - 1;
    world.asked("carol", json!({})).await;
    run(&world).await;
    let users = async || receiver.notified().await.into_iter().map(|(user, ..)| user).collect::<Vec<_>>();
    let mut both = users().await;
    both.sort_unstable();
    assert_eq!(both, ["bob", "carol"]);
    for _ in 0..2 {
        world.server.pass(60);
        run(&world).await;
    }
    let event = world.server.last_event().await;
    assert_eq!((&event["action"], &event["target"]), (&json!("admin.sink_dead_letter"), &json!(SINK)));
    assert_eq!(event["detail"], json!({"seq": seq, "attempts": 3, "status": 404}));
    world.server.pass(600);
    run(&world).await;
    assert_eq!(users().await.len(), 4, "a dead letter is not sent again");
    // Sent again on demand, as far as it still waits.
    let path = format!("/api/v1/audit-sinks/{SINK}/dead-letters");
    let letters = async || world.as_admin("GET", &path, json!({})).await.json["items"].clone();
    assert_eq!(letters().await[0]["seq"], json!(seq));
    receiver.for_bob.store(204, Ordering::SeqCst);
    world.as_admin("POST", &format!("{path}/replay"), json!({})).await.with_status(200);
    run(&world).await;
    assert_eq!((users().await.len(), letters().await), (5, json!([])));
    let last = receiver.got().await.pop().unwrap();
    assert_eq!(body(&last)["data"]["items"][0]["delegation_id"], json!(asked));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_send_one_message_and_one_takes_over_from_the_other() {
    let (world, receiver) = webhooks(json!({"wait": 0})).await;
    let twin = world.server.twin().await;
    for _ in 0..4 {
        world.asked("bob", json!({})).await;
        let turns = tokio::join!(deliver::run(&world.server.app, SINK), deliver::run(&twin.app, SINK));
        turns.0.unwrap();
        turns.1.unwrap();
    }
    assert_eq!(receiver.notified().await, vec![("bob".to_owned(), 1, 0); 4]);
    // A server that died after the message was sent: it has the lease, and did not record that.
    world.asked("carol", json!({})).await;
    let mut sql = world.server.sql().await;
    let untold = "CREATE TABLE untold AS SELECT * FROM audit_sink_recipient WHERE due_at IS NOT NULL";
    receiver.status.store(500, Ordering::SeqCst);
    deliver::run(&twin.app, SINK).await.unwrap();
    sqlx::query(untold).execute(&mut sql).await.unwrap();
    receiver.status.store(204, Ordering::SeqCst);
    world.server.pass(5);
    deliver::run(&twin.app, SINK).await.unwrap();
    sqlx::query("DELETE FROM audit_sink_recipient WHERE recipient IN (SELECT recipient FROM untold)")
        .execute(&mut sql)
        .await
        .unwrap();
    sqlx::query("INSERT INTO audit_sink_recipient SELECT * FROM untold").execute(&mut sql).await.unwrap();
    let lease = store::Lease { sink: SINK, id: uuid::Uuid::from_u128(7) };
    let now = world.server.clock.now();
    let until = now + time::Duration::seconds(30);
    assert!(store::mark_leased(&mut sql, lease, now, until).await.unwrap().is_some());
    deliver::run(&world.server.app, SINK).await.unwrap();
    assert_eq!(receiver.got().await.len(), 6, "its lease is valid");
    world.server.pass(30);
    deliver::run(&world.server.app, SINK).await.unwrap();
    let ids: Vec<String> = receiver.got().await[4..].iter().map(|one| header(one, "webhook-id")).collect();
    assert_eq!((ids.len(), ids.iter().all(|id| *id == ids[0])), (3, true), "repeated with the same id");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_and_an_agent_get_no_message() {
    let (world, receiver) = webhooks(json!({"wait": 30})).await;
    for user in ["bob", "carol"] {
        let id = world.asked(user, json!({})).await;
        run(&world).await;
        world.moves(user, &id, "deny", json!({})).await.with_status(200);
    }
    // Of more requests than are kept, a message is sent whether or not they were decided.
    let mut sql = world.server.sql().await;
    sqlx::query("UPDATE audit_sink_recipient SET waiting = 2000").execute(&mut sql).await.unwrap();
    let erased = erase(&world.server.operator(), &Principal::new(IDP, "bob")).await.unwrap();
    assert!(matches!(erased, ErasureOutcome::Erased(_)), "{erased:?}");
    // An agent decides about the new key of an agent below it.
    let agent = Agent::new("ephemeral", Auth::None);
    let below = json!({"parent": "D", "ephemeral": {"jwk": agent.key.public_jwk(), "task_id": "t"}});
    let below = world.as_agent(&world.user_proxy, "POST", "/delegate", below).await.with_status(201).json;
    let agent = Agent { id: below["delegate"].as_str().unwrap().to_owned(), ..agent };
    let path = format!("/delegate/{}/rotate-key", below["id"].as_str().unwrap());
    let new = Agent::new("other", Auth::None).key.public_jwk();
    world.as_agent(&agent, "POST", &path, json!({"jwk": new})).await.with_status(202);
    world.server.pass(30);
    run(&world).await;
    assert_eq!(receiver.notified().await, [("carol".to_owned(), 0, 1_999)]);
    assert_eq!(run(&world).await, 0);
}
