//! More requests at once than the ledger admits: how many are answered by a token and how many are refused, how long both
//! take, and the memory of the server. Each connection sends its next request as soon as it has an answer.

use std::time::Instant;

use crate::cpu;
use crate::generator::{Line, Method, percentile};
use crate::stage::Stage;
use crate::table::size;

/// Requests that wait for the ledger at most; the largest load has ten times as many connections.
const QUEUE: usize = 256;
const CONNECTIONS: [usize; 6] = [16, 64, 256, 512, 1_280, 2_560];
/// Width of the longest bar.
const WIDTH: f64 = 50.0;

pub async fn bench() {
    let requests: usize = size("BENCH_OVERLOAD", 20_000);
    let stage = Stage::set_with(&[("ACTCHAIN_LEDGER_QUEUE", &QUEUE.to_string())]).await;
    stage.run(&Method::Secret, 16, 2_000).await;
    println!("overload: {requests} exchanges a row; {QUEUE} may wait for the ledger\n");
    println!(
        "{:>6} {:>10} {:>8} {:>8} {:>10} {:>8} {:>8} {:>9}",
        "conns", "tokens/s", "p50 ms", "p99 ms", "refused/s", "p50 ms", "p99 ms", "server MB"
    );
    let mut tokens_per_second = Vec::new();
    for connections in CONNECTIONS {
        let each = requests.div_ceil(connections);
        let mut lines = Vec::new();
        for _ in 0..connections {
            let signed: Vec<Vec<u8>> = (0..each).map(|_| stage.exchange(&Method::Secret)).collect();
            lines.push((Line::open(stage.address()).await, signed));
        }
        let started = Instant::now();
        let tasks: Vec<_> =
            lines.into_iter().map(|(line, signed)| tokio::spawn(drive(line, signed))).collect();
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        for task in tasks {
            for (status, milliseconds) in task.await.unwrap() {
                match status {
                    200 => accepted.push(milliseconds),
                    503 => refused.push(milliseconds),
                    other => panic!("answered by {other}"),
                }
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let at = |all: &[f64], percent| if all.is_empty() { 0.0 } else { percentile(all, percent) };
        println!(
            "{connections:>6} {:>10.0} {:>8.1} {:>8.1} {:>10.0} {:>8.1} {:>8.1} {:>9.1}",
            accepted.len() as f64 / seconds,
            at(&accepted, 50.0),
            at(&accepted, 99.0),
            refused.len() as f64 / seconds,
            at(&refused, 50.0),
            at(&refused, 99.0),
            cpu::resident(stage.pids().0) / 1_000.0
        );
        tokens_per_second.push((connections, accepted.len() as f64 / seconds));
    }
    let most = tokens_per_second.iter().map(|(_, each)| *each).fold(1.0, f64::max);
    println!("\ntokens a second, by connections");
    for (connections, each) in tokens_per_second {
        println!("{connections:>6} {} {each:.0}", "#".repeat((each / most * WIDTH) as usize));
    }
    stage.strike().await;
}

/// The status of each answer, and its time in milliseconds.
async fn drive(mut line: Line, signed: Vec<Vec<u8>>) -> Vec<(u16, f64)> {
    let mut answers = Vec::with_capacity(signed.len());
    for request in signed {
        let started = Instant::now();
        let (status, _) = line.ask(&request).await;
        answers.push((status, started.elapsed().as_secs_f64() * 1_000.0));
    }
    answers
}
