//! A peer that anyone can install: npm's `oidc-provider`, which answers `client_credentials` with DPoP and keeps everything
//! in memory. Ours stores and logs each exchange. Both in turns, in one run, with as many connections.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use actchain::platform::clock::Clock;
use actchain_testkit::agent::{Agent, Auth};
use actchain_testkit::endpoint::Endpoint;

use crate::cpu;
use crate::generator::{self, Load, Method, Run, percentile};
use crate::stage::{MAIL, Stage};
use crate::table::{self, size};

const CONNECTIONS: usize = 16;
const ROUNDS: usize = 5;
const SECRET: &str = "peer-secret-0123456789";

pub async fn bench() {
    let Some(peer) = Peer::start() else {
        println!("oidc-provider is not installed (npm ci in tests/interop): nothing to compare with");
        return;
    };
    let requests: usize = size("BENCH_REQUESTS", 4_000);
    let stage = Stage::set().await;
    stage.run(&Method::Secret, CONNECTIONS, 2_000).await;
    peer.run(2_000).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(stage.run(&Method::Secret, CONNECTIONS, requests).await);
        theirs.push(peer.run(requests).await);
    }
    let paced = at_half_load(&stage, &ours, requests).await;
    table::head(&format!(
        "actchain and oidc-provider: {requests} requests with a client secret and a proof, {CONNECTIONS} connections, medians \
         of {ROUNDS} rounds"
    ));
    table::row("oidc-provider, client credentials", &theirs);
    table::row("actchain, an exchange", &ours);
    table::row("actchain, at half the load", &[paced]);
    let share = |cost: fn(&Run) -> f64| {
        let median = |runs: &[Run]| percentile(&runs.iter().map(cost).collect::<Vec<_>>(), 50.0);
        median(&ours) / median(&theirs)
    };
    println!(
        "\nCPU time in parts of the peer's: {:.2}, with PostgreSQL {:.2}",
        share(|run| run.server_cpu),
        share(|run| run.server_cpu + run.postgres_cpu)
    );
    stage.strike().await;
}

/// As many connections, each of which waits so long that the server has half the load.
async fn at_half_load(stage: &Stage, full: &[Run], requests: usize) -> Run {
    let rate = percentile(&full.iter().map(Run::per_second).collect::<Vec<_>>(), 50.0) / 2.0;
    let taken = percentile(&full.iter().map(|run| run.percentile(50.0)).collect::<Vec<_>>(), 50.0) / 1_000.0;
    let pause = Duration::from_secs_f64((CONNECTIONS as f64 / rate - taken).max(0.0));
    let requests = (0..requests).map(|_| stage.exchange(&Method::Secret)).collect();
    stage.send_paced(requests, Load { connections: CONNECTIONS, pause, good: generator::is_200 }).await
}

struct Peer {
    process: Child,
    /// The peer ends with it.
    _input: ChildStdin,
    issuer: String,
    agent: Agent,
}

impl Endpoint for Peer {
    fn base(&self) -> &str {
        &self.issuer
    }

    fn issuer(&self) -> &str {
        &self.issuer
    }

    fn now(&self) -> i64 {
        Clock::System.now().unix_timestamp()
    }
}

impl Peer {
    fn start() -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        folder.join("node_modules/oidc-provider").exists().then_some(())?;
        let agent = Agent::new("by-secret", Auth::Basic(SECRET.to_owned()));
        let mut process = Command::new("node")
            .arg(folder.join("bench_peer.mjs"))
            .args([&agent.id, SECRET, MAIL])
            .env("NODE_ENV", "production")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut issuer = String::new();
        BufReader::new(process.stdout.take()?).read_line(&mut issuer).unwrap();
        let input = process.stdin.take()?;
        Some(Self { process, _input: input, issuer: issuer.trim().to_owned(), agent })
    }

    async fn run(&self, requests: usize) -> Run {
        let request =
            || self.agent.request(self).param("grant_type", "client_credentials").param("scope", "mail.read");
        let signed = (0..requests).map(|_| request().bytes()).collect();
        let before = cpu::of(self.process.id());
        let load = Load { connections: CONNECTIONS, pause: Duration::ZERO, good: generator::is_200 };
        let address = self.issuer.strip_prefix("http://").unwrap();
        let (elapsed, latencies, failed) = generator::send(address, signed, load).await;
        assert_eq!(failed, 0, "the peer refused requests");
        let server_cpu = (cpu::of(self.process.id()) - before) / requests as f64;
        Run { elapsed, latencies, failed, server_cpu, postgres_cpu: 0.0 }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
