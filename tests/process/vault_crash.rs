//! A server is killed while it refreshes a credential: a refresh token that the provider still accepts is not lost, and
//! no connection is marked as needing a reconnect.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::stage::Stage;

const REFRESH: &str = "a-refresh-token-that-stays-good";

/// The first requests get no response: their server is killed while it waits.
const UNANSWERED: usize = 2;

/// A token endpoint that accepts one refresh token repeatedly. Its access tokens are due for renewal at once.
fn provider() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let (mut seen, mut chunk) = (Vec::new(), [0; 4_096]);
                while !String::from_utf8_lossy(&seen).contains("grant_type=") {
                    match stream.read(&mut chunk) {
                        Ok(count @ 1..) => seen.extend_from_slice(&chunk[..count]),
                        _ => return,
                    }
                }
                let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
                if number <= UNANSWERED {
                    // Until the client closes the connection.
                    let _ = stream.read_to_end(&mut seen);
                    return;
                }
                let good = String::from_utf8_lossy(&seen).contains(REFRESH);
                let (status, body) = if good {
                    ("200 OK", json!({"access_token": format!("access-{number}"), "expires_in": 30}))
                } else {
                    ("400 Bad Request", json!({"error": "invalid_grant"}))
                };
                let body = body.to_string();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
            });
        }
    });
    (url, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_was_killed_loses_nothing_that_is_still_honoured() {
    let stage = Stage::new();
    let (endpoint, asked) = provider();
    let mut server = stage.serve();
    stage.declare();
    stage.declare_vault(&endpoint);
    let credential = json!({"provider": "third", "credential": {"refresh_token": REFRESH}});
    let made = stage.storing(credential).send_to(&server.base).await.unwrap().with_status(201);
    let id = made.id();
    let fetch = async |base: &str| {
        let answer = stage.exchange_for(&id).send_to(base).await.ok()?.with_status(200);
        stage.retrieval(&id, answer.token()).send_to(base).await.ok()
    };
    for _ in 0..UNANSWERED {
        let before = asked.load(Ordering::SeqCst);
        let killing = async {
            while asked.load(Ordering::SeqCst) == before {
                tokio::task::yield_now().await;
            }
            server.child.kill().unwrap();
            server.child.wait().unwrap();
        };
        let base = server.base.clone();
        let (fetched, ()) = tokio::join!(fetch(&base), killing);
        assert!(fetched.is_none(), "it was killed: {fetched:?}");
        server = stage.serve();
    }
    // The lease of the killed server expires by itself, and the waiting request gets the credential.
    let fetched = fetch(&server.base).await.unwrap().with_status(200);
    assert!(fetched.token().starts_with("access-"), "{}", fetched.text);
    let shown = stage.json(&["connection", "show", &id, "--json"]);
    assert_eq!((&shown["state"], &shown["has_refresh_token"]), (&json!("active"), &json!(true)));
}
