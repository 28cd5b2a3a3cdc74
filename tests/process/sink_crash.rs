//! `kill -9` of a server that delivers to a sink: no event is lost, and only the last request is repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use actchain_testkit::program::signal;
use nix::sys::signal::Signal;
use serde_json::Value;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::stage::{Stage, send, sql, until};

const KILLS: usize = 3;

fn events(request: &Request) -> Vec<Value> {
    serde_json::from_slice(&request.body).unwrap()
}

/// A receiver that kills a process, once, while the process waits for an answer.
async fn receiver(victim: &Arc<AtomicU32>) -> MockServer {
    let receiver = MockServer::start().await;
    let victim = Arc::clone(victim);
    Mock::given(method("POST"))
        .respond_with(move |_: &Request| {
            match victim.swap(0, Ordering::SeqCst) {
                0 => {}
                process => signal(process, Signal::SIGKILL),
            }
            ResponseTemplate::new(204)
        })
        .mount(&receiver)
        .await;
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_while_it_delivers_loses_no_event_and_repeats_one_request() {
    let stage = Stage::new();
    let mut server = stage.serve();
    stage.declare();
    let victim = Arc::new(AtomicU32::new(0));
    let receiver = receiver(&victim).await;
    let sink = format!(
        "sinks:\n  - {{id: siem, url: '{}', from_seq: 0, batch: {{max_events: 3}}}}\n",
        receiver.uri()
    );
    std::fs::write(stage.path("sink.yaml"), sink).unwrap();
    let path = stage.path("sink.yaml");
    victim.store(server.child.id(), Ordering::SeqCst);
    assert!(stage.run(&["apply", "-f", path.to_str().unwrap()]).status.success());
    for round in 0..KILLS {
        server.child.wait().unwrap();
        server = stage.serve();
        if round + 1 < KILLS {
            victim.store(server.child.id(), Ordering::SeqCst);
        }
        // The lease of the killed server ends, as it does after 30 seconds.
        let mut connection = sql(&stage).await;
        sqlx::query("UPDATE audit_sink SET lease_until = now()").execute(&mut connection).await.unwrap();
        drop(connection);
        // More to deliver. The server may be killed during an exchange.
        for _ in 0..4 {
            let _ = send(&server.base, &stage.exchange()).await;
        }
    }
    let size = loop {
        let shown = stage.json(&["sink", "show", "siem", "--json"]);
        let size = stage.run(&["audit", "tail", "-n", "1"]).stdout;
        let last: Value = serde_json::from_slice(&size).unwrap();
        if shown["cursor"].as_u64() == last["seq"].as_u64().map(|seq| seq + 1) {
            break shown["cursor"].as_u64().unwrap();
        }
    };
    let (mut next, mut repeated) = (0, 0);
    let mut documents = Vec::new();
    for request in receiver.received_requests().await.unwrap() {
        let seqs: Vec<u64> = events(&request).iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        let first = seqs[0];
        assert_eq!(seqs, (first..first + seqs.len() as u64).collect::<Vec<_>>(), "in order, without gaps");
        if first < next {
            assert!(next - first <= 3, "only the events of the last request are repeated");
            documents.truncate(usize::try_from(first).unwrap());
            repeated += 1;
        } else {
            assert_eq!(first, next, "no event is left out");
        }
        next = first + seqs.len() as u64;
        documents.extend(events(&request));
    }
    assert_eq!((next, repeated), (size, KILLS), "each kill repeats one request");
    let log = stage.run(&["audit", "tail", "-n", "1000000"]).stdout;
    let log: Vec<Value> =
        log.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(documents, log, "what arrived is the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_while_it_notifies_repeats_the_message_and_loses_none() {
    let stage = Stage::new();
    let mut server = stage.serve();
    stage.declare();
    let victim = Arc::new(AtomicU32::new(0));
    let receiver = receiver(&victim).await;
    let declared = format!(
        "delegations:\n  - {{id: U, delegator: {{iss: 'https://idp.example.com', sub: alice}}, delegate: agent, \
         expires_in: 3600, ceremony_required_for: [mail.read]}}\n\
         sinks:\n  - {{id: approvals, url: '{}', notification: {{wait: 0}}}}\n",
        receiver.uri()
    );
    let path = stage.path("notification.yaml");
    std::fs::write(&path, declared).unwrap();
    assert!(stage.run(&["apply", "-f", path.to_str().unwrap()]).status.success());
    victim.store(server.child.id(), Ordering::SeqCst);
    let asking = stage.exchange().param("delegation_id", "U").param("scope", "mail.read");
    let answer = send(&server.base, &asking).await;
    assert!(answer.is_none_or(|(status, body)| status == 400 && body["reason"] == "ceremony_required"));
    server.child.wait().unwrap();
    server = stage.serve();
    // The lease of the killed server ends, as it does after 30 seconds.
    let mut connection = sql(&stage).await;
    sqlx::query("UPDATE audit_sink SET lease_until = now()").execute(&mut connection).await.unwrap();
    drop(connection);
    until("the message is accepted", || {
        stage.json(&["sink", "show", "approvals", "--json"])["delivered_at"].is_string()
    });
    let got = receiver.received_requests().await.unwrap();
    let ids: Vec<_> = got.iter().map(|one| one.headers.get("webhook-id").unwrap()).collect();
    assert_eq!((ids.len(), ids[0] == ids[1]), (2, true), "the kill repeats the message");
    let items =
        |request: &Request| serde_json::from_slice::<Value>(&request.body).unwrap()["data"]["items"].clone();
    assert_eq!(items(&got[0]), items(&got[1]));
    assert_eq!(
        (&items(&got[1])[0]["kind"], &items(&got[1])[0]["delegation_id"]),
        (&"use".into(), &"U".into())
    );
    drop(server);
}
