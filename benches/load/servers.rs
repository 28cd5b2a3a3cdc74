//! Several servers on one database: throughput, and CPU time of an exchange. All write to one log, in turns.

use crate::stage::Stage;
use crate::table::{self, size};

/// In all, however many servers there are.
const CONNECTIONS: usize = 32;
const ROUNDS: usize = 5;

pub async fn bench() {
    let requests: usize = size("BENCH_REQUESTS", 4_000);
    let stage = Stage::set().await;
    let mut others = Vec::new();
    table::head(&format!(
        "servers on one database: {requests} exchanges, {CONNECTIONS} connections in all, medians of {ROUNDS} rounds"
    ));
    for servers in [1, 2, 4] {
        while others.len() + 1 < servers {
            others.push(stage.another_server());
        }
        stage.run_at_all(&others, CONNECTIONS, 2_000).await;
        let mut runs = Vec::new();
        for _ in 0..ROUNDS {
            runs.push(stage.run_at_all(&others, CONNECTIONS, requests).await);
        }
        table::row(&format!("{servers} of them"), &runs);
    }
    drop(others);
    stage.strike().await;
}
