//! The cost of a step that an agent asks about: without rules, with the built-in ones, and with a thousand.

use std::fmt::Write as _;
use std::time::Duration;

use actchain::domain::finding::built_in;
use serde_json::json;

use crate::generator::{Load, is_200};
use crate::stage::Stage;
use crate::table::{head, row, size};

const CONNECTIONS: usize = 16;
/// An agent does something between two steps. Without pauses, the generator and the server wait for each other's cores.
const PAUSE: Duration = Duration::from_millis(10);
/// Rules besides the built-in ones.
const DECLARED: usize = 960;

pub async fn bench() {
    let (requests, rounds) = (size("BENCH_REQUESTS", 4_000), size("BENCH_ROUNDS", 5));
    let stage = Stage::set().await;
    let token = stage.reporting().await;
    let command = "cargo test --workspace --no-run && git commit -m 'steps: measure them' ".repeat(4);
    let step = json!({"tool": "Bash", "outcome": "proposed", "input": {"command": command},
        "reasoning": "The user asked for a measurement of what a step costs."});
    let body = json!({"session_id": "bench", "ask": true, "steps": [step]});
    let steps =
        |count| (0..count).map(|_| stage.posted("/delegate/D/steps", &token, &body)).collect::<Vec<_>>();

    let off: Vec<String> = built_in().unwrap().iter().map(|rule| rule.id.clone()).collect();
    let off = format!("rules_off: {}\n", json!(off));
    let mut many = String::from("rules_off: []\nrules:\n");
    for number in 0..DECLARED {
        let _ = writeln!(
            many,
            "  - {{id: BENCH-{number:03}, title: A word, severity: low, targets: [input], match_mode: any, action: record,\n     \
             patterns: [{{contains: 'word-{number}'}}, {{regex: 'open +/srv/data-{number}/[a-z]+'}}],\n     \
             examples: {{match: ['word-{number}'], no_match: ['other']}}}}"
        );
    }
    head(&format!("{requests} a row, {CONNECTIONS} connections; medians of {rounds} rounds"));
    for (name, manifest) in [
        ("steps, no rule", off.as_str()),
        ("steps, the built-in rules", "rules_off: []\n"),
        ("steps, a thousand rules", many.as_str()),
    ] {
        stage.apply(manifest);
        // The first requests follow the rules, open connections and plan statements.
        tokio::time::sleep(Duration::from_secs(6)).await;
        stage.send(steps(1_000), CONNECTIONS, is_200).await;
        let mut runs = Vec::new();
        for _ in 0..rounds {
            runs.push(stage.send(steps(requests), CONNECTIONS, is_200).await);
        }
        row(name, &runs);
    }
    let load = Load { connections: CONNECTIONS, pause: PAUSE, good: is_200 };
    let mut runs = Vec::new();
    for _ in 0..rounds {
        runs.push(stage.send_paced(steps(requests), load).await);
    }
    row("the same, with pauses", &runs);
    stage.strike().await;
}
