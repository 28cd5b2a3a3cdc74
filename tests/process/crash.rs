//! `kill -9` of the server and of PostgreSQL under load: every acknowledged token has its event, the log verifies, no
//! proof is accepted twice. A few rounds here; `make soak` runs a thousand.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use actchain_testkit::answer::claims_of;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::stage::{Exchange, Server, Stage, send, signal};

fn rounds() -> u64 {
    std::env::var("SOAK_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4)
}

fn postmaster(stage: &Stage) -> Option<u32> {
    let text = std::fs::read_to_string(stage.data_dir().join("postgres/cluster/postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// Sends exchanges until the server is shut down; stores and counts the acknowledged exchanges.
async fn load(
    stage: Arc<Stage>,
    base: String,
    ended: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
) -> Vec<(String, Exchange)> {
    let mut acknowledged = Vec::new();
    while !ended.load(Ordering::SeqCst) {
        let exchange = stage.exchange();
        if let Some((200, answer)) = send(&base, &exchange).await {
            acknowledged.push((
                claims_of(answer["access_token"].as_str().unwrap())["jti"].as_str().unwrap().to_owned(),
                exchange,
            ));
            answers.fetch_add(1, Ordering::SeqCst);
        }
    }
    acknowledged
}

/// A response that the crash does not affect: some of the server's pooled connections may still be broken.
async fn settled(server: &Server, exchange: &Exchange) -> (u16, Value) {
    loop {
        match send(&server.base, exchange).await.unwrap() {
            (503, _) => {}
            answer => return answer,
        }
    }
}

async fn wait_for_answers(server: &Server, stage: &Stage) {
    while !matches!(send(&server.base, &stage.exchange()).await, Some((200, _))) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_no_proof_works_twice_whatever_is_killed() {
    let stage = Arc::new(Stage::new());
    let mut server = stage.serve();
    stage.declare();
    let mut jtis = BTreeSet::new();
    for round in 0..rounds() {
        wait_for_answers(&server, &stage).await;
        let (ended, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (ended, answers) = (Arc::clone(&ended), Arc::clone(&answers));
                tokio::spawn(load(Arc::clone(&stage), server.base.clone(), ended, answers))
            })
            .collect();
        // After a number of responses that differs from round to round, at an arbitrary moment.
        while answers.load(Ordering::SeqCst) < 5 + (round * 37) % 180 {
            tokio::task::yield_now().await;
        }
        let kill_the_server = round % 2 == 0;
        let victim = if kill_the_server { Some(server.child.id()) } else { postmaster(&stage) };
        signal(victim.expect("a process to kill"), Signal::SIGKILL);
        ended.store(true, Ordering::SeqCst);
        let mut acknowledged = Vec::new();
        for client in clients {
            acknowledged.extend(client.await.unwrap());
        }
        if kill_the_server {
            server.child.wait().unwrap();
            server = stage.serve();
        }
        wait_for_answers(&server, &stage).await;
        for (jti, exchange) in acknowledged {
            let again = settled(&server, &exchange).await;
            assert_eq!(again.1["reason"], "dpop_proof_replayed", "round {round}: {again:?}");
            jtis.insert(jti);
        }
        let report = stage.json(&["audit", "verify", "--json"]);
        assert_eq!(report["valid"], true, "round {round}: {report}");
    }
    let tail = stage.run(&["audit", "tail", "-n", "10000000"]);
    let log = String::from_utf8(tail.stdout).unwrap();
    let recorded: BTreeSet<String> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|event| Some(event["jti"].as_str()?.to_owned()))
        .collect();
    assert!(!jtis.is_empty());
    assert!(
        jtis.is_subset(&recorded),
        "{} acknowledged tokens have no event",
        jtis.difference(&recorded).count()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_is_503_and_recovered_from_without_help() {
    let stage = Stage::new();
    let mut impatient = stage.command();
    impatient.env("ACTCHAIN_LEDGER_TIMEOUT", "1500ms");
    let server = stage.serve_by(impatient);
    stage.declare();
    wait_for_answers(&server, &stage).await;
    let family = family(postmaster(&stage).unwrap());
    family.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    let mut exchanges: Vec<_> = (0..3).map(|_| stage.exchange()).collect();
    // A client that the server has not cached must be read first.
    exchanges.push(stage.exchange().set("client_id", "another"));
    for exchange in &exchanges {
        let (status, answer) = send(&server.base, exchange).await.unwrap();
        assert_eq!((status, answer["error"].as_str()), (503, Some("temporarily_unavailable")));
    }
    let ready = reqwest::get(format!("{}/ready", server.base)).await.unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    let health = reqwest::get(format!("{}/health", server.base)).await.unwrap();
    assert_eq!(health.status().as_u16(), 200);
    family.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    wait_for_answers(&server, &stage).await;
    assert_eq!(stage.json(&["audit", "verify", "--json"])["valid"], true);
}

/// A process and its children.
fn family(pid: u32) -> Vec<u32> {
    let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let child: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let parent: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (parent == pid).then_some(child)
    });
    std::iter::once(pid).chain(children).collect()
}
