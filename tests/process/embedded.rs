//! The embedded default: no configuration, commands with and without a running server, a second server.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::stage::{Server, Stage, send, signal, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_from_nothing_serves_and_stops_cleanly_on_sigterm() {
    let stage = Stage::new();
    let mut server = stage.serve();
    stage.declare();
    let answer = send(&server.base, &stage.exchange()).await.unwrap();
    assert_eq!(answer.0, 200, "{}", answer.1);
    signal(server.child.id(), Signal::SIGTERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let report = stage.json(&["audit", "verify", "--json"]);
    assert_eq!((&report["valid"], report["checkpoints"].as_u64().unwrap() > 0), (&json!(true), true));
    assert!(
        !stage.data_dir().join("postgres/cluster/postmaster.pid").exists(),
        "the cluster stopped with the last user"
    );
    drop(stage.serve());
    let log = std::fs::read_to_string(stage.path("server.log")).unwrap();
    assert!(!log.contains("_sqlx_migrations"), "a later start has nothing to say about the schema: {log}");
}

#[test]
fn commands_work_without_a_server() {
    let stage = Stage::new();
    stage.declare();
    let clients = stage.json(&["client", "list", "--json"]);
    assert_eq!(clients["items"][0]["client_id"], "agent");
}

#[test]
fn a_second_server_on_one_data_directory_refuses_with_a_clear_sentence() {
    let stage = Stage::new();
    let first = stage.serve();
    let complaint = stage.try_serve().err().expect("the second one refuses");
    let pid = first.child.id().to_string();
    assert!(complaint.contains(&pid) && complaint.contains("data"), "{complaint}");
}

#[test]
fn a_signal_while_starting_leaves_nothing_behind() {
    let stage = Stage::new();
    let log = std::fs::File::create(stage.path("server.log")).unwrap();
    let child =
        stage.command().arg("serve").env("ACTCHAIN_LISTEN", "127.0.0.1:0").stderr(log).spawn().unwrap();
    let mut server = Server::of(child);
    let cluster = || stage.data_dir().join("postgres/cluster/postmaster.pid").exists();
    until("the cluster is up", || cluster() || server.child.try_wait().unwrap().is_some());
    signal(server.child.id(), Signal::SIGTERM);
    until("the server ends", || server.child.try_wait().unwrap().is_some());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(!cluster(), "the cluster went down with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_cannot_be_written_do_not_stop_the_server() {
    let stage = Stage::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = stage
        .command()
        .arg("serve")
        .env("ACTCHAIN_LISTEN", "127.0.0.1:0")
        .stdout(std::process::Stdio::piped())
        .stderr(full)
        .spawn()
        .unwrap();
    let mut server = Server::of(child).ready().unwrap();
    assert_eq!(reqwest::get(format!("{}/health", server.base)).await.unwrap().status().as_u16(), 200);
    signal(server.child.id(), Signal::SIGTERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_token_is_in_the_servers_log() {
    let stage = Stage::new();
    let server = stage.serve();
    stage.declare();
    let exchange = stage.exchange();
    let (_, answer) = send(&server.base, &exchange).await.unwrap();
    let with_secret = format!("{}/oauth/token?client_secret=topsecret&subject_token=eyJ.x.y", server.base);
    reqwest::Client::new()
        .post(&with_secret)
        .header("authorization", "Basic YWdlbnQ6dG9wc2VjcmV0")
        .body("x")
        .send()
        .await
        .unwrap();
    let master = std::fs::read_to_string(stage.data_dir().join("master.key")).unwrap();
    drop(server);
    let log = std::fs::read_to_string(stage.path("server.log")).unwrap();
    assert!(log.contains("\"request\"") && log.contains("request_id"), "it says something: {log}");
    let value =
        |pairs: &[(String, String)], name: &str| pairs.iter().find(|(one, _)| one == name).unwrap().1.clone();
    let (subject, proof) = (value(&exchange.params, "subject_token"), value(&exchange.headers, "dpop"));
    for secret in [
        answer["access_token"].as_str().unwrap(),
        &proof,
        &subject,
        "topsecret",
        "YWdlbnQ6",
        "eyJ.x.y",
        master.trim(),
    ] {
        assert!(!log.contains(secret), "{secret}");
    }
}
