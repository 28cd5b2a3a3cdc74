//! A server without work: its resident memory, alone and with idle connections, and the time from its start to its
//! first answer.

use std::process::Command;
use std::time::Instant;

use actchain::platform::secret::MasterKey;
use actchain_embedded_postgres::{Cluster, Durability};
use actchain_testkit::program::{Program, ServerProcess};
use nix::sys::signal::Signal;
use secrecy::ExposeSecret as _;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::cpu;
use crate::generator::{Line, percentile};
use crate::table::size;

/// What anyone may ask, and what a relying party asks first.
const METADATA: &str = "/.well-known/oauth-authorization-server";
const STARTS: usize = 5;

pub async fn bench() {
    println!("a server without work\n");
    memory(size("BENCH_IDLE_CONNECTIONS", 10_000)).await;
    let embedded = Program::new(env!("CARGO_BIN_EXE_actchain"));
    let first = start(&embedded, embedded.command()).await;
    println!("{:<56} {first:>8.0} ms", "embedded database, first start");
    starts("embedded database, later starts", &embedded, &|| embedded.command()).await;
    let outside = Program::new(env!("CARGO_BIN_EXE_actchain"));
    let (cluster, environment) = external(&outside).await;
    let command = || {
        let mut command = outside.command();
        command.envs(environment.clone());
        command
    };
    starts("external database", &outside, &command).await;
    cluster.close().await.unwrap();
}

async fn memory(connections: usize) {
    let program = Program::new(env!("CARGO_BIN_EXE_actchain"));
    let mut command = program.command();
    command.env("ACTCHAIN_LIMITS_REQUESTS_PER_SECOND_PER_CLIENT", "0");
    let server = serve(&program, command);
    let (address, request) = asking(&server);
    let mut lines = Vec::with_capacity(connections);
    let resident = |what: &str| println!("{what:<56} {:>8.1} MB", cpu::resident(server.child.id()) / 1_000.0);
    Line::open(&address).await.ask(&request).await;
    resident("resident after the first answer");
    for _ in 0..connections {
        let mut line = Line::open(&address).await;
        assert_eq!(line.ask(&request).await.0, 200);
        lines.push(line);
    }
    resident(&format!("resident with {connections} idle connections, one answer each"));
}

/// A cluster with a migrated database, and the environment of a server that uses it.
async fn external(program: &Program) -> (Cluster, [(&'static str, String); 2]) {
    let cluster = Cluster::throwaway(None, std::env::var_os("PATH"), Durability::On).await.unwrap();
    let options = cluster.connect_options("postgres");
    PgConnection::connect_with(&options).await.unwrap().execute("CREATE DATABASE outside").await.unwrap();
    let socket = options.get_socket().unwrap().display().to_string();
    let url = format!("postgres:///outside?host={socket}&port={}&user=actchain", options.get_port());
    let master = MasterKey::generate().unwrap().to_text().expose_secret().to_owned();
    let environment = [("ACTCHAIN_DATABASE_URL", url), ("ACTCHAIN_MASTER_KEY", master)];
    assert!(program.command().arg("migrate").envs(environment.clone()).output().unwrap().status.success());
    start(program, {
        let mut command = program.command();
        command.envs(environment.clone());
        command
    })
    .await;
    (cluster, environment)
}

/// The median of several starts.
async fn starts(what: &str, program: &Program, command: &dyn Fn() -> Command) {
    let mut taken = Vec::new();
    for _ in 0..STARTS {
        taken.push(start(program, command()).await);
    }
    println!("{what:<56} {:>8.0} ms", percentile(&taken, 50.0));
}

/// Milliseconds from the start of the process to its first answer. The server is stopped afterwards.
async fn start(program: &Program, command: Command) -> f64 {
    let began = Instant::now();
    let server = serve(program, command);
    let (address, request) = asking(&server);
    assert_eq!(Line::open(&address).await.ask(&request).await.0, 200);
    began.elapsed().as_secs_f64() * 1_000.0
}

fn serve(program: &Program, command: Command) -> ServerProcess {
    let mut server = program.serve(command).unwrap();
    // The server stops its database, which a killed server would leave running.
    server.last_signal = Signal::SIGTERM;
    server
}

fn asking(server: &ServerProcess) -> (String, Vec<u8>) {
    let address = server.base.strip_prefix("http://").unwrap().to_owned();
    let request = format!("GET {METADATA} HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes();
    (address, request)
}
