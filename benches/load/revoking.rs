//! Revokes a root while exchanges run below it and elsewhere. Measures the time to the first refusal below the root and
//! to the response, the effect on other exchanges, and whether any exchange below succeeds after the response.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::generator::{Line, Method, percentile};
use crate::seed::{self, Tree};
use crate::stage::Stage;
use crate::table::size;

/// Exchanges elsewhere: each of the connections sends one request per interval, whether or not the previous one is
/// answered.
const CONNECTIONS: u32 = 8;
const EVERY: Duration = Duration::from_millis(20);
/// How long the exchanges run before the revocation, and after it.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_millis(500);
/// Exchanges that begin within this time after the call count as concurrent with the revocation.
const DURING: Duration = Duration::from_millis(100);
/// Exchanges below the root: each of these connections sends one request after the other.
const PROBES: usize = 2;
/// The number of exchanges below the root that are tried after the response.
const AFTERWARDS: usize = 100;

/// One request and its result.
struct Sample {
    due: Instant,
    done: Instant,
    status: u16,
}

impl Sample {
    fn milliseconds(&self) -> f64 {
        (self.done - self.due).as_secs_f64() * 1_000.0
    }
}

#[derive(Default)]
struct Measured {
    in_force: Vec<f64>,
    answered: Vec<f64>,
    before: Vec<f64>,
    during: Vec<f64>,
    reached: String,
    below_before: usize,
    refused: usize,
    passed: usize,
}

pub async fn bench() {
    let rounds = size("BENCH_ROUNDS", 5);
    let (below, tokens) = (size("BENCH_BELOW", 100_000), size("BENCH_TOKENS", 1_000_000));
    let stage = Stage::set().await;
    seed::agents(&stage).await;
    stage.run(&Method::Secret, 16, 2_000).await; // caches, statements and pages warm
    measure(&stage, (below, tokens), rounds).await;
    stage.strike().await;
}

/// Trees with this many delegations and tokens below a root, and small ones.
async fn measure(stage: &Stage, (below, tokens): (i64, i64), rounds: usize) {
    println!(
        "Revoking a root; {rounds} roots a row. Meanwhile {:.0} exchanges a second elsewhere, and {PROBES} connections \
         that exchange below it\n",
        f64::from(CONNECTIONS) / EVERY.as_secs_f64()
    );
    println!(
        "{:<30} {:>21} {:>21} {:>30} {:>30} {:>22}",
        "",
        "refused below, ms",
        "whole answer, ms",
        "elsewhere before, ms",
        "elsewhere in 100 ms, ms",
        "below from then on"
    );
    println!(
        "{:<30} {:>10} {:>10} {:>10} {:>10} {:>9} {:>9} {:>10} {:>9} {:>9} {:>10} {:>11} {:>10}",
        "below it",
        "median",
        "max",
        "median",
        "max",
        "p50",
        "p99",
        "max",
        "p50",
        "p99",
        "max",
        "refused",
        "passed"
    );
    let children = (below as f64).sqrt().ceil() as i64;
    let kinds = [
        ("10".to_owned(), Tree { number: 0, below: 10, children: 4, tokens: 100 }),
        (format!("{below} in two layers"), Tree { number: 0, below, children, tokens }),
        (format!("{below} children"), Tree { number: 0, below, children: below, tokens }),
    ];
    let mut measured: Vec<Measured> = kinds.iter().map(|_| Measured::default()).collect();
    let mut number = 10;
    for _ in 0..rounds {
        let mut trees = Vec::new();
        for (_, kind) in &kinds {
            number += 1;
            let tree = Tree { number, ..*kind };
            seed::tree(stage, tree).await;
            trees.push(tree);
        }
        seed::settle_all(&[stage]).await;
        for (tree, measured) in trees.into_iter().zip(&mut measured) {
            revoke(stage, tree, measured).await;
        }
    }
    for ((what, _), measured) in kinds.iter().zip(&measured) {
        let at = percentile;
        println!(
            "{what:<30} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>9.2} {:>9.2} {:>10.2} {:>9.2} {:>9.2} {:>10.2} {:>11} {:>10}",
            at(&measured.in_force, 50.0),
            at(&measured.in_force, 100.0),
            at(&measured.answered, 50.0),
            at(&measured.answered, 100.0),
            at(&measured.before, 50.0),
            at(&measured.before, 99.0),
            at(&measured.before, 100.0),
            at(&measured.during, 50.0),
            at(&measured.during, 99.0),
            at(&measured.during, 100.0),
            measured.refused,
            measured.passed
        );
    }
    println!();
    for ((what, _), measured) in kinds.iter().zip(&measured) {
        println!(
            "{what}: reached {}; {} exchanges passed below before, {} elsewhere in the time counted",
            measured.reached,
            measured.below_before,
            measured.during.len()
        );
    }
}

async fn revoke(stage: &Stage, tree: Tree, measured: &mut Measured) {
    let first = stage.first_token(&tree.owner()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut probes = Vec::new();
    for _ in 0..PROBES {
        let requests = (0..4_000).map(|_| stage.exchange_under(&first)).collect();
        probes.push((Line::open(stage.address()).await, requests));
    }
    let turns = (BEFORE + AFTER + Duration::from_secs(2)).div_duration_f64(EVERY) as u32;
    let mut others = Vec::new();
    for _ in 0..CONNECTIONS {
        let requests = (0..turns).map(|_| stage.exchange(&Method::Secret)).collect();
        others.push((Line::open(stage.address()).await, requests));
    }
    let afterwards: Vec<Vec<u8>> = (0..AFTERWARDS).map(|_| stage.exchange_under(&first)).collect();
    let mut caller = Line::open(stage.address()).await;
    let revocation = stage.revocation(&tree.owner(), &tree.root());

    let start = Instant::now();
    let others: Vec<_> = others
        .into_iter()
        .zip(0..)
        .map(|((line, requests), n)| {
            tokio::spawn(paced(line, requests, start + EVERY / CONNECTIONS * n, Arc::clone(&stop)))
        })
        .collect();
    tokio::time::sleep(BEFORE - Duration::from_millis(300)).await;
    let probes: Vec<_> = probes
        .into_iter()
        .map(|(line, requests)| tokio::spawn(one_by_one(line, requests, Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;

    let called = Instant::now();
    let (status, body) = caller.ask(&revocation).await;
    let answered = Instant::now();
    let answer: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(status, 200, "{answer}");
    for request in afterwards {
        let (status, _) = caller.ask(&request).await;
        measured.refused += usize::from(status == 400);
        measured.passed += usize::from(status != 400);
    }
    tokio::time::sleep(AFTER).await;
    stop.store(true, Ordering::Relaxed);

    let mut below = Vec::new();
    for probe in probes {
        below.extend(probe.await.unwrap());
    }
    let in_force = below.iter().filter(|one| one.status == 400).map(|one| one.done).min().unwrap();
    let later = below.iter().filter(|one| one.due > in_force);
    for one in later {
        measured.refused += usize::from(one.status == 400);
        measured.passed += usize::from(one.status != 400);
    }
    measured.below_before += below.iter().filter(|one| one.status == 200).count();
    measured.in_force.push((in_force - called).as_secs_f64() * 1_000.0);
    measured.answered.push((answered - called).as_secs_f64() * 1_000.0);
    measured.reached = answer["affected"].to_string();
    for other in others {
        for one in other.await.unwrap() {
            assert_eq!(one.status, 200, "an exchange elsewhere failed");
            if one.due < called {
                measured.before.push(one.milliseconds());
            } else if one.due < called + DURING {
                measured.during.push(one.milliseconds());
            }
        }
    }
}

/// One request each [`EVERY`]; the latency of a late request counts from its due time.
async fn paced(mut line: Line, requests: Vec<Vec<u8>>, start: Instant, stop: Arc<AtomicBool>) -> Vec<Sample> {
    let mut samples = Vec::with_capacity(requests.len());
    let mut due = start;
    for request in requests {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // The lateness of the timer does not count as latency of the server.
        let mut counted = due;
        if Instant::now() < due {
            tokio::time::sleep_until(due.into()).await;
            counted = Instant::now();
        }
        let (status, _) = line.ask(&request).await;
        samples.push(Sample { due: counted, done: Instant::now(), status });
        due += EVERY;
    }
    samples
}

async fn one_by_one(mut line: Line, requests: Vec<Vec<u8>>, stop: Arc<AtomicBool>) -> Vec<Sample> {
    let mut samples = Vec::with_capacity(requests.len());
    for request in requests {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let due = Instant::now();
        let (status, _) = line.ask(&request).await;
        samples.push(Sample { due, done: Instant::now(), status });
    }
    samples
}
