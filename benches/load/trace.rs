//! Sessions in a long log: the first page of the trace of 10,000 steps, a later one, the session in numbers, and lists.

use serde_json::json;

use crate::audit_queries::fill;
use crate::generator::is_200;
use crate::stage::Stage;
use crate::table::{head, row, size};

const STEPS: usize = 10_000;
const REPORTED: usize = 100;

pub async fn bench() {
    let (events, requests) = (size("BENCH_LOG", 10_000_000), size("BENCH_ASKS", 400));
    let stage = Stage::set().await;
    let (agent, auditor) = (stage.reporting().await, stage.auditor().await);
    fill(&stage, events).await;
    let step = json!({"tool": "Bash", "outcome": "succeeded", "input": {"command": "cargo test --workspace"},
        "output": "ok", "reasoning": "The user asked for a measurement of what a trace costs.", "took_ms": 12});
    let body = json!({"session_id": "bench", "steps": vec![step; REPORTED]});
    let reports = (0..STEPS / REPORTED).map(|_| stage.posted("/delegate/D/steps", &agent, &body)).collect();
    assert_eq!(stage.send(reports, 1, is_200).await.failed, 0);
    stage.covered().await;
    let listed = stage.answer("/api/v1/sessions?client_id=proxy&limit=1", &auditor).await;
    let session = listed.json["items"][0]["id"].as_str().unwrap().to_owned();
    let first = format!("/api/v1/sessions/{session}/trace");
    let next = stage.answer(&first, &auditor).await.json["next"].as_str().unwrap().to_owned();
    head(&format!("{events} events, a session of {STEPS} steps; {requests} a row, 1 connection"));
    for (name, path) in [
        ("trace, first 200 items", first.clone()),
        ("trace, next 200 items", format!("{first}?cursor={next}")),
        ("the session in numbers", format!("/api/v1/sessions/{session}")),
        ("sessions, newest 20", "/api/v1/sessions".to_owned()),
        ("sessions of one user", "/api/v1/sessions?subject_sub=user-4242".to_owned()),
        ("sessions with refusals", "/api/v1/sessions?has_refusals=true".to_owned()),
    ] {
        let some = |count| (0..count).map(|_| stage.under("GET", &path, &auditor)).collect::<Vec<_>>();
        stage.send(some(20), 1, is_200).await;
        row(name, &[stage.send(some(requests), 1, is_200).await]);
    }
    stage.strike().await;
}
