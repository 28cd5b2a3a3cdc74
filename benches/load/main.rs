//! Exchanges per second, latency, and CPU time per exchange of a real server and its PostgreSQL, beside the
//! cryptographic floor, all measured in one run. The generator and the database share the machine with the server.
//!
//! Requests are signed before the clock starts; each carries a new proof. The server has already verified the subject
//! token once, as for a service that handles many requests with one token.
//!
//! `-- exchanges`, or the name of another of `PARTS`, runs one part alone.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, unreachable_pub, reason = "measures real time")]

mod audit_queries;
mod audit_verify;
mod cpu;
mod ends;
mod export;
mod floor;
mod generator;
mod grants;
mod idle;
mod lists;
mod log_cost;
mod overload;
mod pages;
mod peer;
mod revoking;
mod seed;
mod servers;
mod stage;
mod steps;
mod table;
mod trace;
mod vault;

use generator::{Method, Run};
use stage::Stage;
use table::size;

const CONNECTIONS: [usize; 3] = [1, 16, 64];
const PARTS: [&str; 17] = [
    "exchanges",
    "ends",
    "revoking",
    "vault",
    "lists",
    "log",
    "audit-queries",
    "audit-verify",
    "export",
    "pages",
    "steps",
    "trace",
    "grants",
    "idle",
    "peer",
    "servers",
    "overload",
];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    // Cargo adds arguments that start with a hyphen.
    let parts: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|word| word == part);
    assert!(parts.iter().all(|part| PARTS.contains(&part.as_str())), "one of {PARTS:?}");
    if wanted("exchanges") {
        runtime.block_on(exchanges());
    }
    if wanted("ends") {
        runtime.block_on(ends::bench());
    }
    if wanted("revoking") {
        runtime.block_on(revoking::bench());
    }
    if wanted("vault") {
        runtime.block_on(vault::bench());
    }
    if wanted("lists") {
        runtime.block_on(lists::bench());
    }
    if wanted("log") {
        runtime.block_on(log_cost::bench());
    }
    if wanted("audit-queries") {
        runtime.block_on(audit_queries::bench());
    }
    if wanted("audit-verify") {
        runtime.block_on(audit_verify::bench());
    }
    if wanted("export") {
        runtime.block_on(export::bench());
    }
    if wanted("pages") {
        runtime.block_on(pages::bench());
    }
    if wanted("steps") {
        runtime.block_on(steps::bench());
    }
    if wanted("trace") {
        runtime.block_on(trace::bench());
    }
    if wanted("grants") {
        runtime.block_on(grants::bench());
    }
    if wanted("idle") {
        runtime.block_on(idle::bench());
    }
    if wanted("peer") {
        runtime.block_on(peer::bench());
    }
    if wanted("servers") {
        runtime.block_on(servers::bench());
    }
    if wanted("overload") {
        runtime.block_on(overload::bench());
    }
}

async fn exchanges() {
    let requests: usize = size("BENCH_REQUESTS", 4_000);
    let events: u64 = size("BENCH_EVENTS", 1_000_000);
    let floor = floor::measure();
    println!(
        "cryptographic floor, CPU µs: verify a proof {:.0}, verify an assertion {:.0}, sign a token {:.0}",
        floor.proof, floor.assertion, floor.sign
    );
    println!("{requests} exchanges a row; {} cores\n", std::thread::available_parallelism().unwrap());
    println!(
        "{:<26} {:<16} {:>5} {:>8} {:>8} {:>8} {:>6} {:>10} {:>8} {:>10}",
        "stored", "client", "conns", "per s", "p50 ms", "p99 ms", "failed", "server µs", "× floor", "PG µs"
    );
    let stage = Stage::set().await;
    stage.run(&Method::Secret, 16, 2_000).await; // caches, statements and pages warm
    stage.add_delegations(10).await;
    for method in [Method::Secret, Method::Assertion] {
        for connections in CONNECTIONS {
            row(
                "10 delegations, new log",
                &method,
                connections,
                stage.run(&method, connections, requests).await,
                &floor,
            );
        }
    }
    stage.add_delegations(100_000).await;
    row("100,000 delegations", &Method::Secret, 16, stage.run(&Method::Secret, 16, requests).await, &floor);
    stage.fill_log(events).await;
    // The rest of the index would be written during the next row.
    stage.covered().await;
    row(
        &format!("{events} events more"),
        &Method::Secret,
        16,
        stage.run(&Method::Secret, 16, requests).await,
        &floor,
    );
    row("both", &Method::Assertion, 16, stage.run(&Method::Assertion, 16, requests).await, &floor);
    for connections in CONNECTIONS {
        let run = stage.run_unrouted(connections, requests).await;
        row("HTTP alone: answered by 404", &Method::Secret, connections, run, &floor);
    }
    stage.strike().await;
}

fn row(stored: &str, method: &Method, connections: usize, run: Run, floor: &floor::Floor) {
    let least = match method {
        Method::Secret => floor.proof + floor.sign,
        Method::Assertion => floor.proof + floor.assertion + floor.sign,
    };
    println!(
        "{stored:<26} {:<16} {connections:>5} {:>8.0} {:>8.2} {:>8.2} {:>6} {:>10.0} {:>8.2} {:>10.0}",
        method.name(),
        run.per_second(),
        run.percentile(50.0),
        run.percentile(99.0),
        run.failed,
        run.server_cpu,
        run.server_cpu / least,
        run.postgres_cpu
    );
}
