//! Which commands create a data directory, whose issuer commands use, and which master key files are accepted.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use nix::sys::signal::Signal;

use crate::stage::{Stage, signal};

const ISSUER: &str = "http://127.0.0.1:1";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command with only the data directory configured.
fn plain(stage: &Stage, arguments: &[&str]) -> Output {
    stage.command().args(arguments).output().unwrap()
}

fn refused(output: &Output, part: &str) {
    let complaint = text(&output.stderr);
    assert!(output.status.code() == Some(2) && complaint.contains(part), "{complaint}");
}

#[test]
fn only_serve_and_init_make_a_data_directory() {
    let stage = Stage::new();
    let file = stage.path("a.yaml");
    std::fs::write(&file, "resources:\n  - {id: \"https://mail.example.com\", scopes: [mail.read]}").unwrap();
    let file = file.to_str().unwrap();
    let commands: [&[&str]; 11] = [
        &["apply", "-f", file],
        &["doctor"],
        &["client", "list"],
        &["client", "disable", "a"],
        &["delegation", "list"],
        &["connection", "providers"],
        &["key", "rotate"],
        &["sink", "list"],
        &["audit", "verify"],
        &["audit", "checkpoint"],
        &["backup", "a.dump"],
    ];
    for command in commands {
        refused(&plain(&stage, command), "no data directory at ");
        assert!(!stage.data_dir().exists(), "{command:?}");
    }
    // A folder that is not a data directory stays unchanged.
    std::fs::create_dir(stage.data_dir()).unwrap();
    refused(&plain(&stage, &["client", "list"]), "no data directory at ");
    assert_eq!(std::fs::read_dir(stage.data_dir()).unwrap().count(), 0);
    std::fs::remove_dir(stage.data_dir()).unwrap();
    assert!(plain(&stage, &["apply", "-f", file, "--init"]).status.success());
    assert!(stage.data_dir().join("master.key").exists(), "with the key that belongs to it");
    assert!(plain(&stage, &["client", "list"]).status.success());
}

#[test]
fn commands_take_the_issuer_of_the_server_and_say_what_they_change() {
    let stage = Stage::new();
    let server = stage.serve();
    let file = stage.path("a.yaml");
    std::fs::write(&file, "resources:\n  - {id: \"https://mail.example.com\", scopes: [mail.read]}").unwrap();
    let apply = ["apply", "-f", file.to_str().unwrap()];
    let applied = plain(&stage, &apply);
    let place = format!("issuer {ISSUER}, the database in {}", stage.data_dir().display());
    assert!(text(&applied.stderr).contains(&place), "{}", text(&applied.stderr));
    let listed = plain(&stage, &["client", "list"]);
    assert_eq!(text(&listed.stderr), "", "reading changes nothing");
    // The name of the log comes from the issuer.
    let note = text(&plain(&stage, &["audit", "checkpoint"]).stdout);
    assert!(note.starts_with("127.0.0.1:1/audit\n"), "{note}");
    let other = |arguments: &[&str]| {
        stage.command().args(arguments).env("ACTCHAIN_ISSUER", "http://127.0.0.1:2").output().unwrap()
    };
    for arguments in [&apply[..], &["client", "list"], &["audit", "verify"], &["key", "rotate", "--force"]] {
        refused(&other(arguments), &format!("is served as {ISSUER}"));
    }
    let doctor = other(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(text(&doctor.stdout).contains("WRONG issuer: the configuration says http://127.0.0.1:2"));
    assert!(plain(&stage, &["doctor"]).status.success());
    drop(server);
}

#[test]
fn the_issuer_of_a_server_on_another_port_is_found_beside_it_and_after_it() {
    let stage = Stage::new();
    let mut server = stage.serve_under(&stage.data_dir(), None).unwrap();
    let place = |output: &Output| text(&output.stderr).lines().next().unwrap_or_default().to_owned();
    let expected = format!("issuer {}, ", server.base);
    let beside = plain(&stage, &["audit", "checkpoint"]);
    assert!(place(&beside).contains(&expected), "{}", place(&beside));
    signal(server.child.id(), Signal::SIGTERM);
    server.child.wait().unwrap();
    let after = plain(&stage, &["audit", "checkpoint"]);
    assert!(place(&after).contains(&expected), "{}", place(&after));
}

#[test]
fn a_database_without_its_master_key_is_refused_and_left_as_it_is() {
    let stage = Stage::new();
    drop(stage.serve());
    let key = stage.data_dir().join("master.key");
    let kept = std::fs::read(&key).unwrap();
    let put = |content: &[u8], mode: u32| {
        std::fs::remove_file(&key).unwrap();
        std::fs::write(&key, content).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let both = |part: &str| {
        refused(&plain(&stage, &["client", "list"]), part);
        let complaint = stage.try_serve().err().expect("it refuses");
        assert!(complaint.contains(part), "{complaint}");
    };
    std::fs::remove_file(&key).unwrap();
    both("no master key at ");
    assert!(!key.exists(), "none is made");
    std::fs::write(&key, "").unwrap();
    put(b"", 0o600);
    both("the master key is empty");
    put(b"AAAA\n", 0o600);
    both("has 3 bytes");
    put(b"\xff\xfe", 0o600);
    both("master.key");
    put(&kept, 0o644);
    both("every user of this machine");
    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o700)).unwrap();
    both("master.key");
    std::fs::remove_dir(&key).unwrap();
    std::fs::write(&key, "").unwrap();
    put(&kept, 0o600);
    assert!(plain(&stage, &["client", "list"]).status.success(), "nothing has happened to it");
    drop(stage.serve());
}

#[test]
fn make_clean_removes_a_database_that_lies_elsewhere() {
    let stage = Stage::new();
    // Under root, PostgreSQL's account cannot traverse this folder.
    let outer = stage.path("closed");
    std::fs::create_dir(&outer).unwrap();
    std::fs::set_permissions(&outer, std::fs::Permissions::from_mode(0o700)).unwrap();
    let data = outer.join("data");
    let clean = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/clean-data");
        std::process::Command::new(script).arg(&data).output().unwrap()
    };
    let mut server = stage.serve_under(&data, None).unwrap();
    let home = std::fs::read_to_string(data.join("postgres-is-at"));
    let home = home.map_or_else(|_| data.join("postgres"), std::path::PathBuf::from);
    assert!(home.join("cluster").exists());
    let doctor = stage.command().arg("doctor").env("ACTCHAIN_DATA_DIR", &data).output().unwrap();
    let says = text(&doctor.stdout).contains(&format!(", whose files are in {}", home.display()));
    assert_eq!(says, !home.starts_with(&data), "{}", text(&doctor.stdout));
    assert!(!clean().status.success() && home.join("cluster").exists(), "not under a running server");
    signal(server.child.id(), Signal::SIGTERM);
    server.child.wait().unwrap();
    let cleaned = clean();
    assert!(cleaned.status.success(), "{}", text(&cleaned.stderr));
    assert!(!data.exists() && !home.exists());
}
