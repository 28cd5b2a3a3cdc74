//! Pages of the console at many delegations and events: what one reader waits for each, and its size. The pages that show
//! the log are measured in a longer log, too. Then the token endpoint with readers beside it and without, which has to be
//! the same.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::audit_queries;
use crate::generator::{Line, Method, Run, is_200};
use crate::seed;
use crate::stage::Stage;
use crate::table::{head, row, size};

/// Readers beside the token endpoint; each asks for the next page as soon as it has one.
const READERS: usize = 4;
const CONNECTIONS: usize = 16;

/// Name and path of each page.
const PAGES: [(&str, &str); 22] = [
    ("overview", ""),
    ("approvals", "/approvals"),
    ("delegations", "/delegations"),
    ("delegations of one user", "/delegations?delegator_sub=user-7"),
    ("delegations that have expired", "/delegations?state=expired"),
    ("delegation", "/delegations/x-7"),
    ("cut", "/delegations/x-7/cut"),
    ("agents", "/agents"),
    ("agents that begin so", "/agents?q=agent-7"),
    ("agent", "/agents/agent-77"),
    ("agent, delegations", "/agents/agent-77?tab=delegations"),
    ("agent, activity", "/agents/agent-77?tab=activity"),
    ("agent, keys", "/agents/agent-77?tab=keys"),
    ("agent, disable", "/agents/agent-77/disable"),
    ("set up", "/agents/new"),
    ("check", "/check?client=agent-77&subject=user-77"),
    ("connections", "/connections"),
    ("registry, clients", "/registry/clients"),
    ("registry, a client", "/registry/clients/agent-77"),
    ("registry, keys", "/registry/keys"),
    ("settings", "/settings"),
    ("me", "/me"),
];

/// Name and path of each page that shows the log, as `audit_queries::fill` writes it. Of the filters, the worst are those
/// with two frequent terms that never meet, and with a value that no term finds.
const PAGES_OF_LOG: [(&str, &str); 18] = [
    ("overview", ""),
    ("events", "/events"),
    ("events of an action", "/events?action=oauth.token.refused"),
    ("events of an agent", "/events?actor=agent-77"),
    ("events of a user", "/events?subject_sub=user-4242"),
    ("events of a request", "/events?request_id=request-7777"),
    ("two that never meet", "/events?action=vault.token.retrieved&reason=delegation_revoked"),
    ("one term and an address", "/events?action=oauth.token.refused&ip=127.0.0.1"),
    ("a minute in the middle", "/events?from=2026-01-01T00:01:00Z&to=2026-01-01T00:02:00Z"),
    ("an event", "/events/7777"),
    ("chains", "/chains?window=all"),
    ("chains of an agent", "/chains?window=all&actor=agent-77"),
    ("chains of a user", "/chains?window=all&subject_sub=user-4242"),
    ("count of chains", "/chains/count?window=all"),
    ("a chain", CHAIN),
    ("agent, activity", "/agents/agent-77?tab=activity"),
    ("sessions", "/sessions"),
    ("log", "/log"),
];

/// The chain of the three events from 3,000 on: `md5('txn1000')`.
const CHAIN: &str = "/chains/6d9ffb02-e261-c9fd-cd0f-cbddc6d18e6b";

pub async fn bench() {
    let delegations: i64 = size("BENCH_DELEGATIONS", 100_000);
    let events: i64 = size("BENCH_EVENTS", 1_000_000);
    let longer: i64 = size("BENCH_LOG", 10_000_000);
    let (reads, exchanges) = (size("BENCH_READS", 200), size("BENCH_REQUESTS", 4_000));
    let rounds = size("BENCH_ROUNDS", 3);
    let stage = Stage::set().await;
    seed::agents(&stage).await;
    seed::delegations(&stage, (0, delegations)).await;
    audit_queries::fill(&stage, events).await;
    let cookie = enter(&stage).await;
    println!("{delegations} delegations, {events} events; {reads} requests of each page, one reader\n");
    println!("{:<32} {:>8} {:>8} {:>8} {:>9} {:>9}", "", "p50 ms", "p95 ms", "failed", "bytes", "gzip");
    for (name, path) in PAGES {
        page(&stage, (name, path), &cookie, reads).await;
    }
    assets(&stage, &cookie).await;
    pages_of_log(&stage, longer, &cookie, reads).await;

    // The session of an operator ends after an hour.
    let cookie = enter(&stage).await;
    head(&format!("\nexchanges, {CONNECTIONS} connections; medians of {rounds} rounds"));
    stage.run(&Method::Secret, CONNECTIONS, exchanges).await;
    let (mut without, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        without.push(stage.run(&Method::Secret, CONNECTIONS, exchanges).await);
        beside.push(with_readers(&stage, &cookie, exchanges).await);
    }
    row("without readers", &without);
    let pages: usize = beside.iter().map(|(_, pages)| pages).sum();
    let runs: Vec<Run> = beside.into_iter().map(|(run, _)| run).collect();
    let seconds: f64 = runs.iter().map(|run| run.elapsed.as_secs_f64()).sum();
    row(&format!("beside {READERS} readers"), &runs);
    println!("the readers got {:.0} pages a second", pages as f64 / seconds);
    stage.strike().await;
}

/// The cookie of an operator's session.
async fn enter(stage: &Stage) -> String {
    let link = stage.console_link();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let entered = client
        .post(link)
        .header("sec-fetch-site", "same-origin")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("")
        .send()
        .await
        .unwrap();
    let cookie = entered.headers()["set-cookie"].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

fn get(stage: &Stage, path: &str, cookie: &str) -> Vec<u8> {
    let host = stage.address();
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n\r\n").into_bytes()
}

/// The pages of the log as it is, and of a longer one, with the ratio of the 95th percentiles.
async fn pages_of_log(stage: &Stage, longer: i64, cookie: &str, reads: usize) {
    println!("\npages of the log");
    let mut short = Vec::new();
    for (name, path) in PAGES_OF_LOG {
        short.push(page(stage, (name, path), cookie, reads).await);
    }
    audit_queries::fill(stage, longer).await;
    // The first session has ended meanwhile.
    let cookie = enter(stage).await;
    println!("\nthe same at {longer} events");
    let mut long = Vec::new();
    for (name, path) in PAGES_OF_LOG {
        long.push(page(stage, (name, path), &cookie, reads).await);
    }
    println!("\nratio of p95");
    for (((name, _), short), long) in PAGES_OF_LOG.into_iter().zip(short).zip(long) {
        println!("{name:<32} {:>8.1}", long / short);
    }
}

/// The 95th percentile.
async fn page(stage: &Stage, (name, path): (&str, &str), cookie: &str, reads: usize) -> f64 {
    let path = format!("/console{path}");
    let requests = |count| (0..count).map(|_| get(stage, &path, cookie)).collect::<Vec<_>>();
    // Warms pages, and plans of each connection of the pool.
    stage.send(requests(40), 1, is_200).await;
    let run = stage.send(requests(reads), 1, is_200).await;
    let (_, body) = read(stage, &path, cookie).await;
    let (half, most) = (run.percentile(50.0), run.percentile(95.0));
    let (bytes, packed) = (body.len(), gzip(&body));
    println!("{name:<32} {half:>8.1} {most:>8.1} {:>8} {bytes:>9} {packed:>9}", run.failed);
    most
}

async fn read(stage: &Stage, path: &str, cookie: &str) -> (u16, Vec<u8>) {
    let mut line = Line::open(stage.address()).await;
    let (status, body) = line.ask(&get(stage, path, cookie)).await;
    (status, body.to_vec())
}

fn gzip(bytes: &[u8]) -> usize {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap().len()
}

/// Style sheet and scripts, as a page names them.
async fn assets(stage: &Stage, cookie: &str) {
    let (_, body) = read(stage, "/console", cookie).await;
    let text = String::from_utf8(body).unwrap();
    let mut sizes = (0, 0);
    for path in text.split('"').filter(|text| text.contains("/console/assets/")) {
        let (status, body) = read(stage, path, cookie).await;
        assert_eq!(status, 200, "{path}");
        sizes = (sizes.0 + body.len(), sizes.1 + gzip(&body));
    }
    println!("{:<32} {:>8} {:>8} {:>8} {:>9} {:>9}", "assets", "", "", "", sizes.0, sizes.1);
}

/// Exchanges while readers read all pages in turn; and how many pages these got.
async fn with_readers(stage: &Stage, cookie: &str, exchanges: usize) -> (Run, usize) {
    let (is_over, pages) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let requests: Arc<Vec<Vec<u8>>> =
        Arc::new(PAGES.iter().map(|(_, path)| get(stage, &format!("/console{path}"), cookie)).collect());
    let readers: Vec<_> = (0..READERS)
        .map(|first| {
            let (is_over, pages, requests) = (is_over.clone(), pages.clone(), requests.clone());
            let address = stage.address().to_owned();
            tokio::spawn(async move {
                let mut line = Line::open(&address).await;
                for request in requests.iter().cycle().skip(first * PAGES.len() / READERS) {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let (status, _) = line.ask(request).await;
                    assert_eq!(status, 200);
                    pages.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let run = stage.run(&Method::Secret, CONNECTIONS, exchanges).await;
    is_over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    (run, pages.load(Ordering::Relaxed))
}
