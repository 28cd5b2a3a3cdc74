//! The cost of stored delegations and tokens: exchanges and introspections with few and with many stored rows, and status
//! lists after revocations.

use std::time::Instant;

use actchain_protocol::status_list::{Status, StatusList};
use serde_json::Value;

use crate::generator::{Line, Method, Run, is_200, percentile};
use crate::seed::{self, Tree};
use crate::stage::Stage;
use crate::table::{head, row, size};

pub struct Sizes {
    requests: usize,
    rounds: usize,
    stored: i64,
    below: i64,
    tokens: i64,
}

pub async fn bench() {
    let sizes = Sizes {
        requests: size("BENCH_REQUESTS", 4_000),
        rounds: size("BENCH_ROUNDS", 5),
        stored: size("BENCH_DELEGATIONS", 1_000_000),
        below: size("BENCH_BELOW", 100_000),
        tokens: size("BENCH_TOKENS", 1_000_000),
    };
    let (few, many) = (Stage::set().await, Stage::set().await);
    for stage in [&few, &many] {
        seed::agents(stage).await;
        seed::delegations(stage, (1, 10)).await;
        stage.run(&Method::Secret, 16, 2_000).await; // caches, statements and pages warm
    }
    let mut tokens = Vec::new();
    for _ in 0..1_000 {
        tokens.push([few.second_token().await, many.second_token().await]);
    }

    head(&format!("{} a row, 16 connections; medians of {} rounds", sizes.requests, sizes.rounds));
    seed::delegations(&many, (11, sizes.stored)).await;
    seed::settle_all(&[&few, &many]).await;
    let exchanges = compare(&[&few, &many], &sizes, |stage, _| stage.exchange(&Method::Secret), is_200).await;
    row("exchanges, 10 delegations", &exchanges[0]);
    row(&format!("exchanges, {} delegations", sizes.stored), &exchanges[1]);

    let first = Tree { number: 1, below: sizes.below, children: root_of(sizes.below), tokens: sizes.tokens };
    seed::tree(&many, first).await;
    seed::settle_all(&[&few, &many]).await;
    for _ in 0..1_000 {
        tokens.push([few.second_token().await, many.second_token().await]);
    }
    let ask = |stage: &Stage, n: usize| {
        let of = usize::from(std::ptr::eq(stage, &many));
        stage.introspection(&tokens[n % tokens.len()][of])
    };
    let introspections = compare(&[&few, &many], &sizes, ask, is_active).await;
    row("introspections, few thousand tokens", &introspections[0]);
    row(&format!("introspections, {} tokens", sizes.tokens), &introspections[1]);
    few.strike().await;

    lists(&many, first, &sizes).await;
    many.strike().await;
}

fn root_of(below: i64) -> i64 {
    (below as f64).sqrt().ceil() as i64
}

fn is_active(status: u16, body: &[u8]) -> bool {
    status == 200 && body.windows(13).any(|window| window == br#""active":true"#)
}

/// Runs the same requests on each stage in turn, for several rounds, so that other load on the machine affects all
/// stages alike.
async fn compare<F>(
    stages: &[&Stage],
    sizes: &Sizes,
    request: F,
    good: fn(u16, &[u8]) -> bool,
) -> Vec<Vec<Run>>
where
    F: Fn(&Stage, usize) -> Vec<u8>,
{
    let mut runs: Vec<Vec<Run>> = stages.iter().map(|_| Vec::new()).collect();
    for stage in stages {
        // The first requests open connections, plan statements and verify secrets.
        stage.send((0..sizes.requests / 4).map(|n| request(stage, n)).collect(), 16, good).await;
    }
    for round in 0..sizes.rounds {
        for (stage, runs) in stages.iter().zip(&mut runs) {
            let from = round * sizes.requests;
            let requests = (from..from + sizes.requests).map(|n| request(stage, n)).collect();
            runs.push(stage.send(requests, 16, good).await);
        }
    }
    runs
}

/// The time to build a status list of this many tokens, and to read it from the cache.
async fn lists(stage: &Stage, tree: Tree, sizes: &Sizes) {
    println!(
        "\nA status list of {} tokens; medians of {} times made, and of 1,000 reads of what was made\n",
        tree.tokens, sizes.rounds
    );
    println!(
        "{:<36} {:>9} {:>8} {:>9} {:>9} {:>8} {:>8} {:>9}",
        "", "made ms", "max ms", "invalid", "suspended", "bytes", "p50 ms", "p99 ms"
    );
    for (what, end, undo) in ENDS {
        change(stage, end, tree).await;
        list_row(stage, (what, tree), sizes).await;
        change(stage, undo, tree).await;
        seed::settle_all(&[stage]).await;
    }
}

/// What is revoked, how, and how the change is undone.
const ENDS: [(&str, &str, &str); 5] = [
    ("none ended", "", ""),
    (
        "1,000 ended, one by one",
        "UPDATE issued_token SET revoked_at = now()
         WHERE jti IN (SELECT jti FROM issued_token WHERE delegation_id LIKE $1 || '.%' AND cardinality(lineage) = 2
                       ORDER BY status_index LIMIT 1000)",
        "UPDATE issued_token SET revoked_at = NULL WHERE revoked_at IS NOT NULL",
    ),
    (
        "a client with 1 in 1,000 disabled",
        "UPDATE client SET disabled_at = now() WHERE client_id = 'agent-999'",
        "UPDATE client SET disabled_at = NULL WHERE client_id = 'agent-999'",
    ),
    (
        "the client of the first hop disabled",
        "UPDATE client SET disabled_at = now() WHERE client_id = 'proxy'",
        "UPDATE client SET disabled_at = NULL WHERE client_id = 'proxy'",
    ),
    (
        "all below one revoked root",
        "UPDATE delegation SET revoked_at = now() WHERE id = $1",
        "UPDATE delegation SET revoked_at = NULL WHERE id = $1",
    ),
];

/// Revokes by SQL, without the server, and raises the revocation epoch as the server would.
async fn change(stage: &Stage, statement: &'static str, tree: Tree) {
    let mut sql = stage.sql().await;
    if !statement.is_empty() {
        let query = sqlx::query(statement);
        let query = if statement.contains("$1") { query.bind(tree.root()) } else { query };
        query.execute(&mut sql).await.unwrap();
    }
    raise_epoch(stage).await;
}

async fn raise_epoch(stage: &Stage) {
    sqlx::query("UPDATE revocation_epoch SET number = number + 1")
        .execute(&mut stage.sql().await)
        .await
        .unwrap();
}

async fn list_row(stage: &Stage, (what, tree): (&str, Tree), sizes: &Sizes) {
    let request = stage.status_list(tree.number as u64);
    let mut line = Line::open(stage.address()).await;
    let (mut made, mut list) = (Vec::new(), String::new());
    for _ in 0..sizes.rounds {
        raise_epoch(stage).await;
        let started = Instant::now();
        let (status, body) = line.ask(&request).await;
        made.push(started.elapsed().as_secs_f64() * 1_000.0);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(body));
        list = String::from_utf8(body.to_vec()).unwrap();
    }
    let mut reads = Vec::new();
    for _ in 0..1_000 {
        let started = Instant::now();
        line.ask(&request).await;
        reads.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    let (invalid, suspended) = counted(&list);
    println!(
        "{what:<36} {:>9.1} {:>8.1} {invalid:>9} {suspended:>9} {:>8} {:>8.2} {:>9.2}",
        percentile(&made, 50.0),
        percentile(&made, 100.0),
        list.len(),
        percentile(&reads, 50.0),
        percentile(&reads, 99.0)
    );
}

/// The numbers of invalid and suspended tokens in a status list.
fn counted(list: &str) -> (usize, usize) {
    use base64::Engine as _;
    let claims =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(list.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let list = StatusList::read(claims["status_list"]["lst"].as_str().unwrap()).unwrap();
    let count = |wanted| (0..1 << 20).filter(|index| list.get(*index) == Some(wanted)).count();
    (count(Status::Invalid), count(Status::Suspended))
}
