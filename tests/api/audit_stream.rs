//! Streams of the log: server-sent events without gap or repetition, across servers.

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::agent::Agent;
use crate::support::audit::{Dice, auditor, fill};
use crate::support::management::Api;
use crate::support::world::{IDP, World};
use crate::support::{Server, http};

const STREAM: &str = "/api/v1/audit-logs/stream";

/// A reader like a browser: it stores the last id, and collects events.
struct Reader {
    bytes: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
    last_id: Option<String>,
    events: Vec<Value>,
}

async fn open(
    world: &World,
    server: &Server,
    who: (&Agent, &str),
    (query, last): (&str, Option<&str>),
) -> Reader {
    let api = Api::get(server, STREAM);
    let proof = who.0.key.sign_proof("dpop+jwt", &api.proof_claims(who.1)).unwrap();
    let mut request = http()
        .get(format!("{}{STREAM}{query}", server.base))
        .header("authorization", format!("DPoP {}", who.1))
        .header("dpop", proof);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    assert_eq!(answer.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert!(world.server.app.issuer.starts_with("http"));
    Reader { bytes: answer.bytes_stream().boxed(), text: String::new(), last_id: None, events: Vec::new() }
}

impl Reader {
    /// Reads the next bytes; `false` at the end.
    async fn take(&mut self) -> bool {
        let bytes = self.bytes.next().await;
        let Some(Ok(bytes)) = bytes else { return false };
        self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        while let Some((event, rest)) = self.text.split_once("\n\n") {
            for line in event.lines() {
                match line.split_once(": ") {
                    Some(("id", id)) => self.last_id = Some(id.to_owned()),
                    Some(("data", data)) => self.events.push(serde_json::from_str(data).unwrap()),
                    _ => {}
                }
            }
            self.text = rest.to_owned();
        }
        true
    }

    async fn until(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            assert!(self.take().await, "the stream ended");
        }
    }

    fn seqs(&self) -> Vec<u64> {
        self.events.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_they_are_recorded_also_by_another_server() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let (auditor, token) = auditor(&world).await;
    let size = world.server.events().await.len() as u64;
    let mut reader = open(&world, &twin, (&auditor, &token), ("", None)).await;
    reader.until(|reader| reader.last_id.is_some()).await;
    for _ in 0..3 {
        world.first_hop().await;
    }
    reader.until(|reader| reader.events.len() == 3).await;
    assert_eq!(reader.seqs(), [size, size + 1, size + 2]);
    let last = world.server.documents().await.pop().unwrap();
    assert_eq!(reader.events.last(), Some(&last));
    assert_eq!(reader.last_id.as_deref(), Some(last["seq"].to_string().as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_reconnects_misses_nothing_and_gets_nothing_twice() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let (auditor, token) = auditor(&world).await;
    fill(&world, &mut Dice(1), 400).await;
    let (mut last, mut seen) = (None::<String>, Vec::new());
    let total = world.server.events().await.len() + 600;
    let mut dice = Dice(2);
    let writing = fill(&world, &mut dice, 600);
    let reading = async {
        let mut round = 0;
        while seen.len() < total {
            // Each round uses another server, and disconnects in the middle.
            let server = if round % 2 == 0 { &world.server } else { &twin };
            let query = if last.is_none() { "?from_seq=0" } else { "" };
            let mut reader = open(&world, server, (&auditor, &token), (query, last.as_deref())).await;
            // Few events in some rounds, and many more in others.
            let want = (total - seen.len()).min(if round % 2 == 0 { 97 } else { 600 });
            reader.until(|reader| reader.events.len() >= want).await;
            seen.extend(reader.seqs());
            last = reader.last_id;
            round += 1;
        }
    };
    tokio::join!(writing, reading);
    assert_eq!(seen, (0..total as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filtered_stream_has_the_matching_events_and_its_id_still_advances() {
    let world = World::configured("[audit]\nheartbeat = 1\n").await;
    let (auditor, token) = auditor(&world).await;
    fill(&world, &mut Dice(3), 300).await;
    let mut reader =
        open(&world, &world.server, (&auditor, &token), ("?from_seq=0&client_id=agent-1", None)).await;
    let events = world.server.events().await;
    let wanted: Vec<u64> = events
        .iter()
        .filter(|event| event["actor"]["client_id"] == "agent-1")
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    let end = (events.len() - 1).to_string();
    reader.until(|reader| reader.last_id.as_ref() == Some(&end)).await;
    assert_eq!(reader.seqs(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_hear_of_themselves_only_until_their_token_ends() {
    let world = World::configured("[audit]\nheartbeat = 1\n").await;
    fill(&world, &mut Dice(4), 100).await;
    let token = world.user_token();
    let request = http().get(format!("{}{STREAM}?from_seq=0", world.server.base)).bearer_auth(&token);
    let bytes = request.send().await.unwrap().bytes_stream().boxed();
    let mut reader = Reader { bytes, text: String::new(), last_id: None, events: Vec::new() };
    world.first_hop().await;
    reader
        .until(|reader| reader.events.last().is_some_and(|event| event["action"] == "oauth.token.exchanged"))
        .await;
    let name = world.server.log_name(IDP, "alice").await;
    assert!(reader.events.iter().all(|event| event["subject"]["sub"] == json!(name)));
    world.server.pass(7_200);
    while reader.take().await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_lost_its_right_is_disconnected() {
    let world = World::configured("[audit]\nheartbeat = 1\n").await;
    let (auditor, token) = auditor(&world).await;
    let mut reader = open(&world, &world.server, (&auditor, &token), ("", None)).await;
    reader.until(|reader| reader.last_id.is_some()).await;
    world.server.disable("auditor").await;
    while reader.take().await {}
    // A server that stops also disconnects its readers at once, so that they reconnect elsewhere.
    let user = http().get(format!("{}{STREAM}", world.server.base)).bearer_auth(world.user_token());
    let mut bytes = user.send().await.unwrap().bytes_stream().boxed();
    world.server.app.log_watcher.close();
    while let Some(Ok(_)) = bytes.next().await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_is_disconnected_and_does_not_slow_down_others() {
    let world =
        World::configured("[audit]\nstream_write_timeout = 1\nheartbeat = 1\nmax_streams = 2\n").await;
    fill(&world, &mut Dice(5), 100).await;
    let token = world.user_token_with(|claims| claims["sub"] = json!("user-1"));
    let address = world.server.base.trim_start_matches("http://").to_owned();
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
        let request = format!(
            "GET {STREAM}?from_seq=0 HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        socket.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        stuck.push(socket);
    }
    // The limit on concurrent streams; exports are not affected.
    let more = http().get(format!("{}{STREAM}", world.server.base)).bearer_auth(&token).send().await.unwrap();
    assert_eq!(more.status(), 429);
    let export = format!("{}/api/v1/audit-logs/export", world.server.base);
    assert_eq!(
        http().get(export).bearer_auth(&token).send().await.unwrap().status(),
        429,
        "exports count, too"
    );
    let other = world.token_of("user-2");
    assert_eq!(
        http()
            .get(format!("{}{STREAM}", world.server.base))
            .bearer_auth(&other)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    // More than any buffer can store.
    let (mut dice, mut number) = (Dice(6), 0);
    while number < 40_000 {
        let events: Vec<_> = (0..2_000)
            .map(|_| {
                number += 1;
                let mut event = crate::support::audit::event(&world, &mut dice, number);
                event.subject =
                    Some(actchain::domain::principal::Principal::new(crate::support::world::IDP, "user-1"));
                event
            })
            .collect();
        let work =
            actchain::services::transaction::AuditedTransaction::begin(&world.server.app.pool).await.unwrap();
        work.commit(&events).await.unwrap();
    }
    assert_eq!(world.first_hop().await.status, 200);
    world.server.disconnected("stream", 2).await;
    // The data in the sockets ends before the log does: the readers were disconnected.
    for mut socket in stuck {
        let mut rest = Vec::new();
        // A disconnected reader sees the end of the stream or a reset.
        let _ = socket.read_to_end(&mut rest).await;
        let text = String::from_utf8_lossy(&rest);
        assert!(text.matches("data: ").count() < 40_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_are_not_in_the_log_are_refused() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    for (query, last, status) in [
        ("", Some("x"), 400),
        ("", Some("-1"), 400),
        ("", Some("18446744073709551615"), 404),
        ("", Some("99999999"), 404),
        ("?from_seq=abc", None, 400),
        ("?limit=3", None, 400),
        ("?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", None, 400),
    ] {
        let mut api = Api::get(&world.server, &format!("{STREAM}{query}"));
        if let Some(last) = last {
            api = api.header("last-event-id", last);
        }
        let answer = api.client(&auditor, &token).send().await;
        assert_eq!(answer.status, status, "{query} {last:?}: {}", answer.text);
    }
}
