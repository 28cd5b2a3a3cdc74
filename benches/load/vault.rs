//! The cost of the vault: retrievals compared with exchanges, and proxied calls compared with direct calls.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::generator::{self, Load, Method, is_200, percentile};
use crate::stage::Stage;
use crate::table::{head, row, size};

const CONNECTIONS: usize = 16;

pub async fn bench() {
    let (requests, rounds) = (size("BENCH_REQUESTS", 4_000), size("BENCH_ROUNDS", 5));
    let upstream = upstream().await;
    let stage = Stage::set().await;
    let (token, connection) = stage.vault(&upstream).await;
    let retrieval = format!("/vault/connections/{connection}/token");
    let proxied = format!("/vault/proxy/{connection}/{upstream}/notes");
    let retrievals = |count| (0..count).map(|_| stage.under("POST", &retrieval, &token)).collect::<Vec<_>>();
    let calls = |count| (0..count).map(|_| stage.under("GET", &proxied, &token)).collect::<Vec<_>>();
    let direct = |count: usize| {
        let request = format!("GET /notes HTTP/1.1\r\nhost: {upstream}\r\nx-api-key: the-key\r\n\r\n");
        vec![request.into_bytes(); count]
    };
    // The first requests open connections, plan statements and verify secrets.
    stage.run(&Method::Secret, CONNECTIONS, 2_000).await;
    stage.send(retrievals(1_000), CONNECTIONS, is_200).await;
    stage.send(calls(1_000), CONNECTIONS, is_200).await;

    head(&format!("{requests} a row, {CONNECTIONS} connections; medians of {rounds} rounds"));
    let load = Load { connections: CONNECTIONS, pause: Duration::ZERO, good: is_200 };
    let [mut exchanged, mut retrieved, mut called] = [const { Vec::new() }; 3];
    let mut without = Vec::new();
    for _ in 0..rounds {
        exchanged.push(stage.run(&Method::Secret, CONNECTIONS, requests).await);
        retrieved.push(stage.send(retrievals(requests), CONNECTIONS, is_200).await);
        called.push(stage.send(calls(requests), CONNECTIONS, is_200).await);
        let (_, latencies, failed) = generator::send(&upstream, direct(requests), load).await;
        assert_eq!(failed, 0);
        without.push(latencies);
    }
    row("exchanges", &exchanged);
    row("retrievals, warm", &retrieved);
    row("calls through the proxy", &called);
    let median = |percent| {
        let all: Vec<f64> = without.iter().map(|one| percentile(one, percent) * 1_000.0).collect();
        percentile(&all, 50.0)
    };
    println!("{:<36} {:>8} {:>8.2} {:>8.2}", "the same calls made directly", "", median(50.0), median(99.0));
    stage.strike().await;
}

/// A third party that answers every request with one kilobyte.
async fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let body = json!({"notes": "x".repeat(1_000)}).to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let (mut seen, mut chunk) = (Vec::new(), [0; 4_096]);
                while let Ok(count @ 1..) = stream.read(&mut chunk).await {
                    seen.extend_from_slice(&chunk[..count]);
                    while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                        seen.drain(..end + 4);
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}
