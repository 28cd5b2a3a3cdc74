//! Delivery of the log to sinks: every event, in order, signed, at least once; a failing sink does not affect the
//! others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use actchain::domain::audit::append::append_events;
use actchain::domain::audit::{Actor, Event, EventKind};
use actchain::domain::sink::store;
use actchain::jobs;
use actchain::services::sinks::{self, EnabledState, deliver};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::support::management::Api;
use crate::support::world::World;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A receiver whose responses the test sets.
struct Receiver {
    server: MockServer,
    status: Arc<AtomicU16>,
}

impl Receiver {
    async fn start() -> Self {
        let server = MockServer::start().await;
        let status = Arc::new(AtomicU16::new(204));
        let answers = Arc::clone(&status);
        Mock::given(method("POST"))
            .respond_with(move |_: &Request| {
                let status = answers.load(Ordering::SeqCst);
                let answer = ResponseTemplate::new(status);
                match status {
                    429 => answer.insert_header("retry-after", "600"),
                    503 => answer
                        .insert_header("date", "Sun, 06 Nov 1994 08:40:00 GMT")
                        .insert_header("retry-after", "Sun, 06 Nov 1994 08:55:00 GMT"),
                    302 => answer.insert_header("location", "http://127.0.0.1:9/"),
                    _ => answer,
                }
            })
            .mount(&server)
            .await;
        Self { server, status }
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    async fn got(&self) -> Vec<Request> {
        self.server.received_requests().await.unwrap()
    }

    /// The `seq` of all received events, in the order of arrival.
    async fn seqs(&self) -> Vec<u64> {
        let seq = |request: &Request| header(request, "actchain-audit-seq").parse().unwrap();
        self.got().await.iter().map(seq).collect()
    }
}

fn header(request: &Request, name: &str) -> String {
    request.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap().to_owned()
}

/// Which of some secrets signed a request; follows the specification and uses no code of the server.
fn signers(request: &Request, secrets: &[&str]) -> Vec<usize> {
    let message = [
        header(request, "webhook-id").as_bytes(),
        b".",
        header(request, "webhook-timestamp").as_bytes(),
        b".",
        &request.body,
    ]
    .concat();
    let signatures = header(request, "webhook-signature");
    let signed = |secret: &&str| {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &message);
        let wanted = format!("v1,{}", STANDARD.encode(mac.as_ref()));
        signatures.split(' ').any(|one| one == wanted)
    };
    secrets.iter().enumerate().filter(|(_, secret)| signed(secret)).map(|(place, _)| place).collect()
}

async fn declare(world: &World, id: &str, body: Value) -> Value {
    let answer = world.as_admin("PUT", &format!("/api/v1/audit-sinks/{id}"), body).await;
    assert!(answer.status < 300, "{}", answer.text);
    answer.json
}

async fn run(world: &World) -> usize {
    jobs::sinks::run_once(&world.server.app, world.server.clock.now()).await.unwrap()
}

async fn shown(world: &World, id: &str) -> Value {
    json!(sinks::show(&world.server.operator(), id).await.unwrap())
}

async fn size(world: &World) -> u64 {
    world.server.events().await.len() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_order_verbatim_and_signed() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    declare(&world, "siem", json!({"url": receiver.server.uri(), "secret": SECRET, "from_seq": 0})).await;
    world.second_hop().await;
    run(&world).await;
    let events = world.server.events().await;
    let got = receiver.got().await;
    assert_eq!(receiver.seqs().await, (0..events.len() as u64).collect::<Vec<_>>());
    let mut sql = world.server.sql().await;
    let documents: Vec<String> = sqlx::query_scalar("SELECT document FROM audit_event ORDER BY seq")
        .fetch_all(&mut sql)
        .await
        .unwrap();
    for (request, (event, document)) in got.iter().zip(events.iter().zip(&documents)) {
        assert_eq!(String::from_utf8(request.body.clone()).unwrap(), *document);
        assert_eq!(header(request, "content-type"), "application/json");
        assert_eq!(header(request, "webhook-id"), event["id"].as_str().unwrap());
        assert_eq!(header(request, "webhook-timestamp"), world.server.now().to_string());
        assert_eq!(signers(request, &[SECRET]), [0]);
    }
    let now = shown(&world, "siem").await;
    assert_eq!(
        (&now["cursor"], &now["attempts"], &now["last_error"]),
        (&json!(events.len()), &json!(0), &Value::Null)
    );
    assert_eq!(run(&world).await, 0, "nothing is due");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_sink_begins_at_the_end_and_gets_what_its_filter_lets_through() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.first_hop().await;
    let filter = json!({"action": "oauth.token.exchanged"});
    let made = declare(&world, "siem", json!({"url": receiver.server.uri(), "filter": filter})).await;
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"), "made, and shown this once");
    let from = size(&world).await;
    world.server.disable("stranger").await;
    world.first_hop().await;
    world.server.enable("stranger").await;
    run(&world).await;
    assert_eq!(receiver.seqs().await, [from + 1]);
    assert_eq!(shown(&world, "siem").await["cursor"], from + 3, "what it does not want is done with, too");
    assert!(shown(&world, "siem").await.get("secret").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_sink_does_not_accept_is_sent_again_before_later_events() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    declare(&world, "siem", json!({"url": receiver.server.uri()})).await;
    let first = size(&world).await - 1;
    world.server.disable("stranger").await;
    for (status, error) in [(500, "status 500"), (302, "status 302"), (404, "status 404")] {
        receiver.answers(status);
        let before = receiver.got().await.len();
        run(&world).await;
        assert_eq!(receiver.got().await.len(), before + 1, "one attempt, and nothing behind it");
        assert_eq!(shown(&world, "siem").await["last_error"], error);
        run(&world).await;
        assert_eq!(receiver.got().await.len(), before + 1, "not before its time");
        world.server.pass(60);
    }
    receiver.answers(429);
    run(&world).await;
    world.server.pass(599);
    assert_eq!(run(&world).await, 0, "Retry-After");
    world.server.pass(1);
    receiver.answers(503);
    run(&world).await;
    world.server.pass(899);
    assert_eq!(run(&world).await, 0, "Retry-After is a date, fifteen minutes after the answer");
    world.server.pass(1);
    receiver.answers(200);
    run(&world).await;
    let events = size(&world).await;
    assert_eq!(receiver.seqs().await, [vec![first; 5], (first..events).collect()].concat());
    let ids: Vec<String> = receiver.got().await[..6].iter().map(|one| header(one, "webhook-id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "the same message has the same id");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_taken_becomes_a_dead_letter_that_can_be_sent_again() {
    let world = World::configured("[audit]\nsink_attempts = 2").await;
    let receiver = Receiver::start().await;
    let filter = json!({"action": "client.disabled"});
    declare(&world, "siem", json!({"url": receiver.server.uri(), "filter": filter})).await;
    receiver.answers(500);
    world.server.disable("stranger").await;
    let seq = size(&world).await - 1;
    run(&world).await;
    world.server.pass(3_600);
    run(&world).await;
    let event = world.server.last_event().await;
    assert_eq!((&event["action"], &event["target"]), (&json!("admin.sink_dead_letter"), &json!("siem")));
    assert_eq!(event["detail"], json!({"seq": seq, "attempts": 2, "status": 500}));
    let path = "/api/v1/audit-sinks/siem/dead-letters";
    let letters = world.as_admin("GET", path, json!({})).await;
    assert_eq!(letters.json["items"].as_array().unwrap().len(), 1);
    let letter = &letters.json["items"][0];
    assert_eq!((&letter["seq"], &letter["error"]), (&json!(seq), &json!("status 500")));

    // The replay fails again: the dead letter stays.
    let again = world.as_admin("POST", &format!("{path}/replay"), json!({})).await;
    assert_eq!((again.status, &again.json["dead_letters"]), (200, &json!(1)));
    assert!(run(&world).await > 0);
    assert_eq!(world.as_admin("GET", path, json!({})).await.json["items"][0]["attempts"], 3);
    receiver.answers(200);
    world.as_admin("POST", &format!("{path}/replay"), json!({})).await;
    run(&world).await;
    assert_eq!(world.as_admin("GET", path, json!({})).await.json["items"], json!([]));
    assert_eq!(receiver.seqs().await, [seq; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sinks_that_are_down_do_not_tell_each_other_of_it_for_ever() {
    let world = World::configured("[audit]\nsink_attempts = 1").await;
    let receiver = Receiver::start().await;
    receiver.answers(503);
    for id in ["one", "two"] {
        declare(&world, id, json!({"url": receiver.server.uri()})).await;
    }
    world.server.disable("stranger").await;
    for _ in 0..5 {
        run(&world).await;
    }
    let before = size(&world).await;
    assert_eq!(run(&world).await, 0, "both have come to the end");
    assert_eq!(size(&world).await, before);
    let events = world.server.events().await;
    let reports = events.iter().filter(|event| event["action"] == "admin.sink_dead_letter").count();
    let others = events.len() - reports;
    assert!(reports <= 2 * others, "{reports} of {others}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_hangs_does_not_delay_other_sinks() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = format!("http://{}/", silent.local_addr().unwrap());
    declare(&world, "hangs", json!({"url": hangs})).await;
    declare(&world, "works", json!({"url": receiver.server.uri()})).await;
    let turn = tokio::spawn({
        let app = Arc::clone(&world.server.app);
        async move { deliver::run(&app, "hangs").await }
    });
    deliver::run(&world.server.app, "works").await.unwrap();
    assert!(!receiver.got().await.is_empty() && !turn.is_finished());
    world.first_hop().await;
    deliver::run(&world.server.app, "works").await.unwrap();
    assert_eq!(shown(&world, "works").await["cursor"], size(&world).await);
    turn.await.unwrap().unwrap();
    let hung = shown(&world, "hangs").await;
    assert_eq!((&hung["attempts"], hung["last_error"].is_string()), (&json!(1), true));
    assert!(!hung["last_error"].as_str().unwrap().contains(&hangs), "{hung}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_deliver_once_each_and_one_takes_over_from_the_other() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    declare(&world, "siem", json!({"url": receiver.server.uri(), "from_seq": 0})).await;
    let twin = world.server.twin().await;
    let (one, other) = (&world.server.app, &twin.app);
    let turns = tokio::join!(deliver::run(one, "siem"), deliver::run(other, "siem"));
    turns.0.unwrap();
    turns.1.unwrap();
    let size = size(&world).await;
    assert_eq!(receiver.seqs().await, (0..size).collect::<Vec<_>>());

    // A server that died in the middle: it has the lease, and its last delivery is not recorded.
    let mut sql = world.server.sql().await;
    let lease = store::Lease { sink: "siem", id: uuid::Uuid::from_u128(7) };
    let now = world.server.clock.now();
    let until = now + time::Duration::seconds(30);
    assert!(store::mark_leased(&mut sql, lease, now, until).await.unwrap().is_some());
    sqlx::query("UPDATE audit_sink SET cursor = cursor - 1").execute(&mut sql).await.unwrap();
    deliver::run(other, "siem").await.unwrap();
    assert_eq!(receiver.seqs().await.len() as u64, size, "its lease is valid");
    world.server.pass(30);
    deliver::run(other, "siem").await.unwrap();
    assert_eq!(receiver.seqs().await.last(), Some(&(size - 1)), "sent again");
    assert_eq!(receiver.seqs().await.len() as u64, size + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_sign_for_a_day_and_neither_is_ever_shown_again() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    declare(&world, "siem", json!({"url": receiver.server.uri(), "secret": SECRET})).await;
    let rotated = sinks::rotate(&world.server.operator(), &world.server.app.vault, "siem").await.unwrap();
    let new = rotated.value.secret.unwrap();
    run(&world).await;
    let last = async || receiver.got().await.pop().unwrap();
    assert_eq!(signers(&last().await, &[SECRET, &new]), [0, 1]);
    world.server.pass(86_400);
    world.server.disable("stranger").await;
    run(&world).await;
    assert_eq!(signers(&last().await, &[SECRET, &new]), [1]);
    let dump = world.server.dump().await;
    let list = world.as_admin("GET", "/api/v1/audit-sinks", json!({})).await.text;
    for secret in [SECRET, &new] {
        let bare = secret.strip_prefix("whsec_").unwrap();
        assert!(!dump.contains(bare) && !list.contains(bare));
    }
    // A new data key reseals the secrets.
    let vault = &world.server.app.vault;
    let now = world.server.clock.now();
    actchain::services::vault::rekey(&world.server.app.pool, &vault.keys, now, |_, _| {}).await.unwrap();
    world.server.enable("stranger").await;
    run(&world).await;
    assert_eq!(signers(&last().await, &[&new]), [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_answers_410_is_disabled_and_others_are_enabled_and_disabled_by_hand() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    declare(&world, "siem", json!({"url": receiver.server.uri()})).await;
    receiver.answers(410);
    run(&world).await;
    let disabled = shown(&world, "siem").await;
    assert_eq!((&disabled["enabled"], &disabled["disabled_reason"]), (&json!(false), &json!("answered 410")));
    let event = world.server.last_event().await;
    assert_eq!(
        (&event["action"], &event["detail"]),
        (&json!("admin.sink_disabled"), &json!({"status": 410}))
    );
    assert_eq!(run(&world).await, 0);
    receiver.answers(200);
    sinks::set_enabled(&world.server.operator(), "siem", EnabledState::Enabled).await.unwrap();
    run(&world).await;
    assert_eq!(shown(&world, "siem").await["cursor"], size(&world).await, "it goes on where it was");
    let removed = world.as_admin("DELETE", "/api/v1/audit-sinks/siem", json!({})).await;
    assert_eq!(removed.status, 200);
    assert_eq!(world.server.last_event().await["action"], "admin.sink_removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_format_has_its_body_and_type() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    for format in ["ocsf", "cef"] {
        declare(
            &world,
            format,
            json!({"url": format!("{}/{format}", receiver.server.uri()), "format": format}),
        )
        .await;
    }
    world.first_hop().await;
    run(&world).await;
    let got = receiver.got().await;
    let of = |path: &str| got.iter().rfind(|one| one.url.path() == path).unwrap().clone();
    let ocsf: Value = serde_json::from_slice(&of("/ocsf").body).unwrap();
    assert_eq!(
        (&ocsf["class_uid"], &ocsf["api"]["operation"]),
        (&json!(6003), &json!("oauth.token.exchanged"))
    );
    assert_eq!(header(&of("/ocsf"), "content-type"), "application/json");
    let cef = String::from_utf8(of("/cef").body).unwrap();
    assert!(
        cef.starts_with("CEF:0|actchain|actchain|") && cef.contains("act=oauth.token.exchanged"),
        "{cef}"
    );
    assert_eq!(header(&of("/cef"), "content-type"), "text/plain; charset=utf-8");
}

/// The documents of the log, in order.
async fn documents(world: &World) -> Vec<String> {
    let documents = sqlx::query_scalar("SELECT document FROM audit_event ORDER BY seq");
    documents.fetch_all(&mut world.server.sql().await).await.unwrap()
}

/// The first and the last `seq` of a batch.
fn ends(request: &Request) -> (u64, u64) {
    let number = |name| header(request, name).parse().unwrap();
    (number("actchain-audit-seq"), number("actchain-audit-last-seq"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_the_form_of_its_format_and_is_signed_as_a_whole() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    for format in ["json", "ndjson", "ocsf", "cef"] {
        let url = format!("{}/{format}", receiver.server.uri());
        let body = json!({"url": url, "format": format, "from_seq": 0, "secret": SECRET, "batch": {"max_events": 3}});
        let shown = declare(&world, format, body).await;
        assert_eq!(shown["batch"], json!({"max_events": 3, "max_bytes": 1_048_576}));
    }
    world.second_hop().await;
    let documents = documents(&world).await;
    run(&world).await;
    let got = receiver.got().await;
    for (format, media_type) in [
        ("json", "application/json"),
        ("ndjson", "application/x-ndjson"),
        ("ocsf", "application/json"),
        ("cef", "text/plain; charset=utf-8"),
    ] {
        let of_sink: Vec<&Request> =
            got.iter().filter(|one| one.url.path() == format!("/{format}")).collect();
        let mut next = 0;
        for (request, expected) in of_sink.iter().zip(documents.chunks(3)) {
            let (first, last) = ends(request);
            assert_eq!(
                (first, last - first + 1),
                (next, expected.len() as u64),
                "{format}: in order, without gaps"
            );
            next = last + 1;
            assert_eq!(header(request, "content-type"), media_type);
            assert_eq!(signers(request, &[SECRET]), [0], "{format}: the signature covers all events");
            let body = String::from_utf8(request.body.clone()).unwrap();
            match format {
                "json" => assert_eq!(body, format!("[{}]", expected.join(",")), "the documents as recorded"),
                "ndjson" => {
                    assert_eq!(body, expected.iter().map(|one| format!("{one}\n")).collect::<String>());
                }
                "ocsf" => {
                    let events: Vec<Value> = serde_json::from_str(&body).unwrap();
                    assert!(events.iter().all(|event| event["class_uid"] == 6003), "{body}");
                    assert_eq!(events.len(), expected.len());
                }
                _ => {
                    assert!(body.lines().all(|line| line.starts_with("CEF:0|")), "{body}");
                    assert_eq!(body.lines().count(), expected.len());
                }
            }
        }
        assert_eq!(next, documents.len() as u64, "{format}");
        let messages: std::collections::BTreeSet<String> =
            of_sink.iter().map(|one| header(one, "webhook-id")).collect();
        assert_eq!(messages.len(), of_sink.len(), "each batch is a message of its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_no_more_bytes_than_declared_and_a_longer_event_is_alone() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let limits = json!({"max_events": 1_000, "max_bytes": 1_500});
    declare(&world, "siem", json!({"url": receiver.server.uri(), "from_seq": 0, "batch": limits})).await;
    let event = Event::new(world.server.clock.now(), EventKind::ClientEnabled, Actor::Operator);
    let long = Event { target: Some("x".repeat(2_000)), ..event };
    append_events(&mut world.server.sql().await, &[long]).await.unwrap();
    world.second_hop().await;
    run(&world).await;
    let sizes: Vec<(usize, u64)> = receiver
        .got()
        .await
        .iter()
        .map(|one| (serde_json::from_slice::<Vec<Value>>(&one.body).unwrap().len(), one.body.len() as u64))
        .collect();
    assert!(sizes.iter().all(|(events, bytes)| *events == 1 || *bytes <= 1_500 + 1_000), "{sizes:?}");
    assert!(sizes.iter().any(|(events, bytes)| *events == 1 && *bytes > 2_000), "{sizes:?}");
    assert!(sizes.iter().any(|(events, _)| *events > 1), "{sizes:?}");
    let events: usize = sizes.iter().map(|(events, _)| events).sum();
    assert_eq!(events, documents(&world).await.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_only_the_event_that_the_sink_never_accepts_is_a_dead_letter() {
    let world = World::configured("[audit]\nsink_attempts = 3").await;
    for _ in 0..4 {
        world.second_hop().await;
    }
    let documents = documents(&world).await;
    let poison = documents.len() as u64 - 3;
    let receiver = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(move |request: &Request| {
            let events: Vec<Value> = serde_json::from_slice(&request.body).unwrap();
            let is_poisoned = events.iter().any(|event| event["seq"] == poison);
            ResponseTemplate::new(if is_poisoned { 422 } else { 204 })
        })
        .mount(&receiver)
        .await;
    let batch = json!({"max_events": 100});
    declare(&world, "siem", json!({"url": receiver.uri(), "from_seq": 0, "batch": batch})).await;
    run(&world).await;
    assert_eq!(shown(&world, "siem").await["cursor"], poison, "the events before it did not wait for it");
    for _ in 0..2 {
        world.server.pass(3_600);
        run(&world).await;
    }
    let events = world.server.events().await;
    let dead_letters: Vec<&Value> =
        events.iter().filter(|one| one["action"] == "admin.sink_dead_letter").collect();
    assert_eq!(dead_letters.len(), 1);
    assert_eq!(dead_letters[0]["detail"], json!({"seq": poison, "attempts": 3, "status": 422}));
    let mut accepted = Vec::new();
    for request in receiver.received_requests().await.unwrap() {
        let seqs = serde_json::from_slice::<Vec<Value>>(&request.body).unwrap();
        let seqs: Vec<u64> = seqs.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        if !seqs.contains(&poison) {
            accepted.extend(seqs);
        }
    }
    let all_others: Vec<u64> = (0..events.len() as u64).filter(|seq| *seq != poison).collect();
    assert_eq!(accepted, all_others, "in order, each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failure_the_first_event_is_sent_alone_and_batches_grow_again() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    for _ in 0..4 {
        world.second_hop().await;
    }
    let batch = json!({"max_events": 100});
    declare(&world, "siem", json!({"url": receiver.server.uri(), "from_seq": 0, "batch": batch})).await;
    receiver.answers(500);
    run(&world).await;
    let size = size(&world).await;
    let asked = |got: &[Request]| -> Vec<(u64, u64)> { got.iter().map(ends).collect() };
    assert_eq!(asked(&receiver.got().await), [(0, size - 1)], "one request, and the sink is down");
    receiver.answers(204);
    world.server.pass(60);
    run(&world).await;
    assert_eq!(asked(&receiver.got().await)[1..4], [(0, 0), (1, 2), (3, 6)]);
    let mut next = 0;
    for (first, last) in &asked(&receiver.got().await)[1..] {
        assert_eq!(*first, next);
        next = last + 1;
    }
    assert_eq!(next, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn declarations_are_idempotent_checked_and_for_administrators() {
    let world = World::new().await;
    let path = "/api/v1/audit-sinks/siem";
    let yaml = |rest: &str| format!("sinks:\n  - {{id: siem, url: 'http://127.0.0.1:9/'{rest}}}\n");
    world.server.apply(&yaml("")).await.unwrap();
    let before = size(&world).await;
    world.server.apply(&yaml("")).await.unwrap();
    assert_eq!(size(&world).await, before, "nothing changed, nothing recorded");
    world.server.apply(&yaml(", filter: {outcome: refused}, enabled: false")).await.unwrap();
    assert_eq!(world.server.last_event().await["action"], "admin.sink_changed");
    assert_eq!(shown(&world, "siem").await["enabled"], false);
    let batches = yaml(", filter: {outcome: refused}, enabled: false, batch: {max_events: 5}");
    for _ in 0..2 {
        world.server.apply(&batches).await.unwrap();
        assert_eq!(size(&world).await, before + 2, "one more change, recorded once");
        assert_eq!(shown(&world, "siem").await["batch"]["max_events"], 5);
    }
    for bad in [
        json!({"url": "http://10.0.0.1/"}),
        json!({"url": "https://169.254.169.254/"}),
        json!({"url": "file:///etc/passwd"}),
        json!({"url": "http://127.0.0.1:9/", "secret": "short"}),
        json!({"url": "http://127.0.0.1:9/", "filter": {"colour": "red"}}),
        json!({"url": "http://127.0.0.1:9/", "filter": {"outcome": "maybe"}}),
        json!({"url": "http://127.0.0.1:9/", "format": "xml"}),
        json!({"url": "http://127.0.0.1:9/", "batch": {}}),
        json!({"url": "http://127.0.0.1:9/", "batch": {"max_events": 0}}),
        json!({"url": "http://127.0.0.1:9/", "batch": {"max_events": 1_001}}),
        json!({"url": "http://127.0.0.1:9/", "batch": {"max_events": 1, "max_bytes": 1_023}}),
        json!({"id": "other", "url": "http://127.0.0.1:9/"}),
    ] {
        let answer = world.as_admin("PUT", path, bad.clone()).await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{bad}");
    }
    let late = json!({"url": "http://127.0.0.1:9/", "from_seq": 1_000_000});
    assert_eq!(world.as_admin("PUT", "/api/v1/audit-sinks/late", late).await.status, 400);
    let refused = world.server.last_event().await;
    assert_eq!((&refused["outcome"], &refused["target"]), (&json!("refused"), &Value::Null));
    assert_eq!(refused["action"], "admin.sink_change_refused");
    let alice = world.as_alice("PUT", path, json!({"url": "http://127.0.0.1:9/"})).await;
    assert_eq!((alice.status, alice.reason()), (403, "insufficient_scope"));
    // The right to change sinks comes before the idempotency key.
    let keyed = async |path: &str, body: Value| {
        Api::post(&world.server, path, body).key("k").user(&world.user_token()).send().await
    };
    assert_eq!(keyed("/delegate", json!({"delegate": "user-proxy"})).await.status, 201);
    let replay = keyed("/api/v1/audit-sinks/siem/dead-letters/replay", json!({})).await;
    assert_eq!((replay.status, replay.reason()), (403, "insufficient_scope"));
    let list = Api::get(&world.server, "/api/v1/audit-sinks").user(&world.user_token()).send().await;
    assert_eq!(list.status, 403);
    let nothing = world.as_admin("DELETE", "/api/v1/audit-sinks/nothing", json!({})).await;
    assert_eq!((nothing.status, nothing.reason()), (404, "not_found"));
}
