//! A server is killed while it refreshes a credential: a refresh token that the provider still accepts is not lost, and
//! no connection is marked as needing a reconnect.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

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

async fn post(url: String, headers: &[(&str, String)], body: String) -> Option<(u16, Value)> {
    let mut request = reqwest::Client::new().post(url).body(body);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    let text = answer.text().await.ok()?;
    Some((status, serde_json::from_str(&text).unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_was_killed_loses_nothing_that_is_still_honoured() {
    let stage = Stage::new();
    let (endpoint, asked) = provider();
    let mut server = stage.serve();
    stage.declare();
    stage.declare_vault(&endpoint);
    let credential = json!({"provider": "third", "credential": {"refresh_token": REFRESH}}).to_string();
    let user = ("authorization", format!("Bearer {}", stage.users_token()));
    let json_ = ("content-type", "application/json".to_owned());
    let at = format!("{}/api/v1/connections", server.base);
    let made = post(at, &[user, json_.clone()], credential).await.unwrap();
    assert_eq!(made.0, 201, "{}", made.1);
    let id = made.1["id"].as_str().unwrap().to_owned();
    let path = format!("/vault/connections/{id}/token");
    let fetch = async |base: &str| {
        let (body, proof) = stage.exchange_for(&id);
        let form = ("content-type", "application/x-www-form-urlencoded".to_owned());
        let token = post(format!("{base}/oauth/token"), &[("dpop", proof), form], body).await?;
        assert_eq!(token.0, 200, "{}", token.1);
        let token = token.1["access_token"].as_str().unwrap().to_owned();
        let proof = ("dpop", stage.proof_at(&path, &token));
        let headers = [("authorization", format!("DPoP {token}")), proof];
        post(format!("{base}{path}"), &headers, String::new()).await
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
    let (status, fetched) = fetch(&server.base).await.unwrap();
    assert_eq!(
        (status, fetched["access_token"].as_str().map(|token| token.starts_with("access-"))),
        (200, Some(true)),
        "{fetched}"
    );
    let shown = stage.json(&["connection", "show", &id, "--json"]);
    assert_eq!((&shown["state"], &shown["has_refresh_token"]), (&json!("active"), &json!(true)));
}
