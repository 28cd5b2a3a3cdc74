//! An external database: migrated by a command, opened with a configured master key, shared by servers.

use std::process::{Output, Stdio};

use actchain::platform::secret::MasterKey;
use actchain_embedded_postgres::{Cluster, Durability};
use secrecy::ExposeSecret as _;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::stage::{Stage, send};

#[tokio::test(flavor = "multi_thread")]
async fn serve_refuses_what_is_not_migrated_or_not_keyed_and_says_what_to_do() {
    let stage = Stage::new();
    let cluster = Cluster::throwaway(None, std::env::var_os("PATH"), Durability::On).await.unwrap();
    let options = cluster.connect_options("postgres");
    PgConnection::connect_with(&options).await.unwrap().execute("CREATE DATABASE outside").await.unwrap();
    let socket = options.get_socket().expect("a socket").display().to_string();
    let url = format!("postgres:///outside?host={socket}&port={}&user=actchain", options.get_port());
    let master = MasterKey::generate().unwrap().to_text().expose_secret().to_owned();
    let run = |arguments: &[&str], key: bool| -> Output {
        let mut command = stage.command();
        command.args(arguments).env("ACTCHAIN_DATABASE_URL", &url).env("ACTCHAIN_LISTEN", "127.0.0.1:0");
        if key {
            command.env("ACTCHAIN_MASTER_KEY", &master);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
    };
    let says = |output: Output, part: &str| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(part), "{text}");
    };
    says(run(&["serve"], true), "actchain migrate");
    assert!(run(&["migrate"], false).status.success());
    says(run(&["serve"], false), "master key");
    assert!(run(&["doctor"], true).status.success());
    assert!(!stage.data_dir().exists(), "nothing was made beside it");
    let mut sql = PgConnection::connect_with(&cluster.connect_options("outside")).await.unwrap();
    sql.execute("INSERT INTO _sqlx_migrations SELECT 9999, description, installed_on, success, checksum, execution_time FROM _sqlx_migrations LIMIT 1").await.unwrap();
    says(run(&["serve"], true), "9999");
}

/// A cluster with a migrated database, and the environment of a server that uses it.
pub async fn outside(stage: &Stage, durability: Durability) -> (Cluster, [(&'static str, String); 2]) {
    let cluster = Cluster::throwaway(None, std::env::var_os("PATH"), durability).await.unwrap();
    let options = cluster.connect_options("postgres");
    PgConnection::connect_with(&options).await.unwrap().execute("CREATE DATABASE outside").await.unwrap();
    let socket = options.get_socket().expect("a socket").display().to_string();
    let url = format!("postgres:///outside?host={socket}&port={}&user=actchain", options.get_port());
    let master = MasterKey::generate().unwrap().to_text().expose_secret().to_owned();
    let environment = [("ACTCHAIN_DATABASE_URL", url), ("ACTCHAIN_MASTER_KEY", master)];
    assert!(stage.command().arg("migrate").envs(environment.clone()).output().unwrap().status.success());
    (cluster, environment)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_can_lose_what_it_has_committed_is_refused() {
    let stage = Stage::new();
    let (_cluster, environment) = outside(&stage, Durability::Off).await;
    for arguments in [&["serve"][..], &["client", "list"], &["doctor"]] {
        let output = stage.command().args(arguments).envs(environment.clone()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!output.status.success(), "{arguments:?}: {said}");
        for setting in ["fsync = off", "full_page_writes = off"] {
            assert!(said.contains(setting), "{arguments:?}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answered_token_loses_its_event_where_the_database_commits_asynchronously_by_default() {
    let stage = Stage::new();
    let (cluster, environment) = outside(&stage, Durability::On).await;
    let options = cluster.connect_options("outside");
    let mut sql = PgConnection::connect_with(&options).await.unwrap();
    // Commits that are lost in a crash stay in memory for ten seconds.
    sql.execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await.unwrap();
    sql.execute("ALTER SYSTEM SET synchronous_commit = off").await.unwrap();
    sql.execute("ALTER DATABASE outside SET synchronous_commit = off").await.unwrap();
    sql.execute("SELECT pg_reload_conf()").await.unwrap();
    sql.close().await.unwrap();
    let world = stage.world();
    let applied = stage
        .command()
        .args(["apply", "-f", world.to_str().unwrap()])
        .env("ACTCHAIN_ISSUER", "http://127.0.0.1:1")
        .envs(environment.clone())
        .output()
        .unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let server = stage.serve_with(&environment).unwrap();
    let mut tokens = Vec::new();
    for _ in 0..8 {
        let (status, answer) = send(&server.base, &stage.exchange()).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        let claims = actchain_testkit::answer::claims_of(answer["access_token"].as_str().unwrap());
        tokens.push(claims["jti"].as_str().unwrap().to_owned());
    }
    // Kills all PostgreSQL processes at once, as in a crash.
    crate::stage::signal(cluster.postmaster_pid().unwrap(), nix::sys::signal::Signal::SIGKILL);
    drop(server);
    cluster.ensure_running().await.unwrap();
    let mut sql = PgConnection::connect_with(&options).await.unwrap();
    for jti in tokens {
        let count = "SELECT count(*) FROM audit_event WHERE document LIKE '%' || $1 || '%'";
        let events: i64 = sqlx::query_scalar(count).bind(&jti).fetch_one(&mut sql).await.unwrap();
        assert_eq!(events, 1, "the event of {jti} is lost");
    }
}
