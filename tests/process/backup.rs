//! Backup while a server runs, and restore to a new folder. The commands come from docs/how-to/operating.md.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use actchain_embedded_postgres::{Cluster, Durability};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::stage::{MAIL, Stage, send};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The indented block of commands after a marker in docs/how-to/operating.md.
fn documented(name: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/operating.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let marker = format!("<!-- played: {name} -->");
    let (_, rest) =
        docs.split_once(&marker).unwrap_or_else(|| panic!("no {marker} in docs/how-to/operating.md"));
    let block = rest.lines().skip_while(|line| !line.starts_with("    "));
    block.take_while(|line| line.starts_with("    ")).map(|line| format!("{}\n", &line[4..])).collect()
}

/// Runs such a block in a shell, as an operator does.
fn play(stage: &Stage, name: &str, environment: &[(&str, &str)]) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_actchain")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-euc", &documented(name)]).current_dir(stage.path("")).env("PATH", path);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ACTCHAIN_")) {
        shell.env_remove(name);
    }
    let output = shell.envs(environment.iter().copied()).output().unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{name}: {said}");
    said
}

/// Checks a token with the keys of a server.
async fn verifies(stage: &Stage, token: &str, base: &str) -> bool {
    let jwks = stage.path("jwks.json");
    let keys = reqwest::get(format!("{base}/oauth/jwks")).await.unwrap().text().await.unwrap();
    std::fs::write(&jwks, keys).unwrap();
    let arguments = ["token", "verify", token, "--jwks", jwks.to_str().unwrap(), "--audience", MAIL];
    stage.command().args(arguments).output().unwrap().status.success()
}

fn valid_log(output: &Output) -> u64 {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["valid"], true, "{report}");
    report["events"].as_u64().unwrap()
}

/// `mode` is the mode of the folder around the data directory: under root, PostgreSQL's account can or cannot traverse
/// it.
async fn embedded(mode: u32) {
    let stage = Stage::new();
    let around = stage.path("around");
    std::fs::create_dir(&around).unwrap();
    std::fs::set_permissions(&around, std::fs::Permissions::from_mode(mode)).unwrap();
    let (old, new) = (around.join("old"), around.join("new"));
    let server = stage.serve_under(&old, Some("http://127.0.0.1:1")).unwrap();
    stage.declare_in(&old);
    let (status, answer) = send(&server.base, &stage.exchange()).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    let token = answer["access_token"].as_str().unwrap();
    let old_text = old.to_str().unwrap();
    play(&stage, "embedded backup", &[("ACTCHAIN_DATA_DIR", old_text)]);
    for kept in ["actchain.dump", "master.key"] {
        let mode = std::fs::metadata(stage.path(kept)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{kept}");
    }
    // A later exchange is not in the backup.
    send(&server.base, &stage.exchange()).await.unwrap();
    drop(server);
    let run = |data: &PathBuf, arguments: &[&str]| {
        stage.command().args(arguments).env("ACTCHAIN_DATA_DIR", data).output().unwrap()
    };
    let before = valid_log(&run(&old, &["audit", "verify", "--json"]));
    let said = play(&stage, "embedded restore", &[("ACTCHAIN_DATA_DIR", new.to_str().unwrap())]);
    assert!(said.contains("the log is whole"), "{said}");
    let restored = valid_log(&run(&new, &["audit", "verify", "--json"]));
    assert!(restored > 0 && restored < before, "{restored} of {before}");
    let checkpoint = run(&old, &["audit", "checkpoint"]);
    std::fs::write(stage.path("kept.checkpoint"), &checkpoint.stdout).unwrap();
    let said = play(&stage, "restored", &[("ACTCHAIN_DATA_DIR", new.to_str().unwrap())]);
    assert!(said.contains("all tokens that were issued before are revoked"), "{said}");
    assert!(said.contains("events are lost"), "{said}");
    assert!(said.contains("1 delegations are suspended"), "{said}");
    let again = stage.serve_under(&new, Some("http://127.0.0.1:1")).unwrap();
    assert!(verifies(&stage, token, &again.base).await, "the keys of before the backup are there");
    let (status, answer) = send(&again.base, &stage.exchange()).await.unwrap();
    assert_eq!((status, &answer["reason"]), (400, &"delegation_requested".into()), "{answer}");
    let listed = run(&new, &["delegation", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = listed.pointer("/items/0/id").or_else(|| listed.pointer("/0/id")).unwrap().as_str().unwrap();
    assert!(run(&new, &["delegation", "approve", id]).status.success());
    assert_eq!(send(&again.base, &stage.exchange()).await.unwrap().0, 200, "after its review, it works");
    drop(again);
    // An existing file or database is never overwritten.
    for arguments in [["backup", "actchain.dump"], ["restore", "actchain.dump"]] {
        let output = run(&new, &arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    }
    for data in [old, new] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/clean-data");
        assert!(Command::new(script).arg(data).status().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_database_is_backed_up_while_it_runs_and_restored_by_the_documented_commands() {
    embedded(0o711).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_database_that_lies_elsewhere_is_backed_up_and_restored_likewise() {
    embedded(0o700).await;
}

#[test]
fn what_cannot_be_restored_whole_leaves_nothing_behind() {
    let stage = Stage::new();
    stage.declare();
    drop(stage.serve());
    let backup = stage.run(&["backup", "a.dump"]);
    assert!(backup.status.success(), "{}", text(&backup.stderr));
    let whole = std::fs::read(stage.path("a.dump")).unwrap();
    std::fs::write(stage.path("half.dump"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(stage.path("none.dump"), "nothing").unwrap();
    let new = stage.path("new");
    let restore =
        |file: &str| stage.command().args(["restore", file]).env("ACTCHAIN_DATA_DIR", &new).output().unwrap();
    let refused = |file: &str, part: &str| {
        let output = restore(file);
        let complaint = text(&output.stderr);
        assert!(output.status.code() == Some(2) && complaint.contains(part), "{file}: {complaint}");
        assert!(!new.join("postgres").exists() && !new.join("postgres-is-at").exists(), "{file}");
    };
    refused("a.dump", "needs the master key");
    std::fs::create_dir(&new).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o711)).unwrap();
    std::fs::write(new.join("master.key"), "A".repeat(43)).unwrap();
    std::fs::set_permissions(new.join("master.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    refused("a.dump", "nothing was restored");
    std::fs::copy(stage.data_dir().join("master.key"), new.join("master.key")).unwrap();
    refused("half.dump", "nothing was restored");
    refused("none.dump", "nothing was restored");
    refused("absent.dump", "absent.dump");
    let output = restore("a.dump");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_database_is_backed_up_and_restored_by_the_documented_commands() {
    let stage = Stage::new();
    let cluster = Cluster::throwaway(None, std::env::var_os("PATH"), Durability::On).await.unwrap();
    let mut admin = PgConnection::connect_with(&cluster.connect_options("postgres")).await.unwrap();
    admin.execute("CREATE DATABASE outside").await.unwrap();
    let url = |database: &str| {
        let options = cluster.connect_options(database);
        let socket = options.get_socket().unwrap().display().to_string();
        format!("postgres:///{database}?host={socket}&port={}&user=actchain", options.get_port())
    };
    let key = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE";
    let environment = |database: &'static str| {
        [("ACTCHAIN_DATABASE_URL", url(database)), ("ACTCHAIN_MASTER_KEY", key.to_owned())]
    };
    let run = |database: &'static str, arguments: &[&str]| {
        stage.command().args(arguments).envs(environment(database)).output().unwrap()
    };
    assert!(run("outside", &["migrate"]).status.success());
    let world = stage.world();
    let applied = run("outside", &["apply", "-f", world.to_str().unwrap()]);
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    let [outside, admin_url, restored] = ["outside", "postgres", "restored"].map(url);
    play(&stage, "external backup", &[("ACTCHAIN_DATABASE_URL", &outside)]);
    let said = play(
        &stage,
        "external restore",
        &[("ADMIN_URL", &admin_url), ("ACTCHAIN_DATABASE_URL", &restored), ("ACTCHAIN_MASTER_KEY", key)],
    );
    assert!(said.contains("valid: "), "{said}");
    let (before, after) = ("outside", "restored");
    let [before, after] = [before, after].map(|name| valid_log(&run(name, &["audit", "verify", "--json"])));
    assert_eq!(before, after);
    // An incomplete database is detected.
    let mut sql = PgConnection::connect_with(&cluster.connect_options("restored")).await.unwrap();
    sql.execute("DELETE FROM audit_event WHERE seq = 1").await.unwrap();
    let doctor = run("restored", &["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(text(&doctor.stdout).contains("the log is broken at event 1"), "{}", text(&doctor.stdout));
}
