//! `actchain audit evidence` and `chains`: who acted for a user, with which authority, as a folder that verifies
//! offline.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::stage::{MAIL, Stage, send};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A stage where Alice's agent has exchanged twice; the server is still running.
fn busy_stage() -> (Stage, crate::stage::Server) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = Stage::new();
    stage.declare();
    let server = stage.serve();
    for _ in 0..2 {
        assert!(runtime.block_on(send(&server.base, &stage.exchange())).is_some());
    }
    (stage, server)
}

/// Yesterday and tomorrow, as dates.
fn days() -> [String; 2] {
    let now = time::OffsetDateTime::now_utc();
    [-1, 2].map(|days| (now + time::Duration::days(days)).date().to_string())
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn evidence_is_one_command_and_verifies_offline_down_to_every_word() {
    let (stage, _server) = busy_stage();
    let [from, to] = days();
    let key = text(&stage.run(&["key", "show", "--purpose", "checkpoint"])).trim().to_owned();
    let folder = stage.path("evidence");
    let dir = folder.to_str().unwrap();
    let arguments = ["audit", "evidence", "--subject", "alice", "--from", &from, "--to", &to, "-o", dir];
    let written = stage.json(&[&arguments[..], &["--json"]].concat());
    assert_eq!(
        (written["chains"].as_u64(), written["delegations"].as_u64()),
        (Some(2), Some(1)),
        "{written}"
    );
    assert_eq!(written["events"], 3, "two exchanges, and the delegation");
    let names =
        ["README.txt", "chains.json", "checkpoint.note", "delegations.json", "events.jsonl", "keys.txt"];
    for name in names.iter().chain(&["summary.txt"]) {
        let mode = std::fs::metadata(folder.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let summary = read("summary.txt");
    for said in ["alice (https://idp.example.com)", "agent got a token to act", "by delegation D", "[event "]
    {
        assert!(summary.contains(said), "{said}: {summary}");
    }
    let delegations: Value = serde_json::from_str(&read("delegations.json")).unwrap();
    let terms = &delegations["delegations"][0]["terms"]["granted"];
    assert_eq!((&terms["delegate"], &terms["delegator"]["sub"]), (&"agent".into(), &"alice".into()));
    assert!(
        terms["scopes"].is_null() && terms["expires_at"].is_string(),
        "not restricted, but in time: {terms}"
    );
    let chains: Value = serde_json::from_str(&read("chains.json")).unwrap();
    assert_eq!(chains["chains"][0]["hops"][0]["audience"], serde_json::json!([MAIL]));
    // Offline: neither configuration nor database.
    let verify = |dir: &Path, more: &[&str]| {
        let mut command = stage.command();
        command.env("ACTCHAIN_DATA_DIR", "/nowhere").args(["audit", "verify", dir.to_str().unwrap()]);
        command.args(more).output().unwrap()
    };
    let valid = verify(&folder, &["--key", &key]);
    assert_eq!(code(&valid), 0, "{}{}", text(&valid), said(&valid));
    assert!(text(&valid).starts_with("valid: 3 events"), "{}", text(&valid));
    let plain = verify(&folder, &["--json"]);
    let report: Value = serde_json::from_slice(&plain.stdout).unwrap();
    assert_eq!((code(&plain), &report["valid"], &report["keys_of_folder"]), (0, &true.into(), &true.into()));
    let copied = stage.path("copy");
    let altered = |name: &str, from: &str, to: &str| {
        copy(&folder, &copied);
        let whole = std::fs::read_to_string(copied.join(name)).unwrap();
        assert!(whole.contains(from), "{name} has {from}");
        std::fs::write(copied.join(name), whole.replacen(from, to, 1)).unwrap();
        verify(&copied, &["--key", &key])
    };
    for (name, from, to) in [
        ("summary.txt", "agent got", "another got"),
        ("summary.txt", "alice", "malory"),
        ("chains.json", "\"agent\"", "\"other\""),
        ("delegations.json", "\"terms\"", "\"limits\""),
        ("README.txt", "--key", "--any"),
        ("checkpoint.note", "/audit", "/other"),
    ] {
        let output = altered(name, from, to);
        assert_eq!(code(&output), 1, "{name}: {}{}", text(&output), said(&output));
        assert!(text(&output).contains(&format!("ALTERED: not what follows from the events: {name}")));
    }
    for name in ["summary.txt", "checkpoint.note"] {
        copy(&folder, &copied);
        std::fs::remove_file(copied.join(name)).unwrap();
        assert_eq!(code(&verify(&copied, &[])), 1, "{name} is missing");
    }
    let changed = altered("events.jsonl", "\"client_id\":\"agent\"", "\"client_id\":\"other\"");
    assert_eq!(code(&changed), 1);
    assert!(
        text(&changed).contains("BROKEN at seq ") && text(&changed).contains("proof"),
        "{}",
        text(&changed)
    );
    let other = stage.json(&["key", "rotate", "--purpose", "checkpoint", "--json"])["key"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(code(&verify(&folder, &["--key", &other])), 1, "signed by another key");
    for (name, change) in [("events.jsonl", "{}\n"), ("keys.txt", "no key\n")] {
        copy(&folder, &copied);
        std::fs::write(copied.join(name), change).unwrap();
        assert_eq!(code(&verify(&copied, &[])), 2, "{name} says nothing");
    }
    let newer = altered("events.jsonl", "\"format\":1", "\"format\":2");
    assert_eq!(code(&newer), 2, "a form of another version: {}", text(&newer));
    assert_eq!(code(&verify(&stage.path(""), &[])), 2, "a folder without evidence");
    let again = stage.run(&arguments);
    assert_eq!(code(&again), 2);
    assert!(said(&again).contains("is not empty"), "{}", said(&again));
}

/// Files and folders of an archive.
type Entries<'a> = &'a [(&'a str, tar::EntryType)];

fn packed(at: &Path, entries: Entries<'_>) {
    let mut archive = tar::Builder::new(GzEncoder::new(File::create(at).unwrap(), Compression::fast()));
    for (name, kind) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(0);
        header.set_link_name("/etc/passwd").unwrap();
        header.set_cksum();
        archive.append(&header, std::io::empty()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap();
}

/// As the console downloads it.
#[test]
fn an_archive_with_evidence_verifies_as_its_folder_and_writes_nowhere_else() {
    let (stage, _server) = busy_stage();
    let [from, to] = days();
    let folder = stage.path("evidence");
    let dir = folder.to_str().unwrap();
    stage.json(&[
        "audit",
        "evidence",
        "--subject",
        "alice",
        "--from",
        &from,
        "--to",
        &to,
        "-o",
        dir,
        "--json",
    ]);
    let file = stage.path("evidence.tar.gz");
    let pack = || {
        let mut archive =
            tar::Builder::new(GzEncoder::new(File::create(&file).unwrap(), Compression::fast()));
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            archive
                .append_path_with_name(&path, Path::new("evidence-1").join(path.file_name().unwrap()))
                .unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap();
    };
    let verify = || {
        let mut command = stage.command();
        command.env("ACTCHAIN_DATA_DIR", "/nowhere").args([
            "audit",
            "verify",
            "--file",
            file.to_str().unwrap(),
        ]);
        command.output().unwrap()
    };
    pack();
    let valid = verify();
    assert_eq!(code(&valid), 0, "{}{}", text(&valid), said(&valid));
    assert!(text(&valid).starts_with("valid: 3 events"), "{}", text(&valid));
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(code(&verify()), 2, "a file that was cut off");
    std::fs::write(folder.join("summary.txt"), "nothing happened").unwrap();
    pack();
    assert_eq!(code(&verify()), 1);

    let (plain, link, place) = (tar::EntryType::Regular, tar::EntryType::Symlink, tar::EntryType::Directory);
    let hostile: [Entries<'_>; 7] = [
        &[("../actchain-canary", plain)],
        &[("/tmp/actchain-canary", plain)],
        &[("evidence/../actchain-canary", plain)],
        &[("evidence/deep/events.jsonl", plain)],
        &[("evidence/events.jsonl", link)],
        &[("evidence/events.jsonl", plain), ("other/events.jsonl", plain)],
        &[("evidence", place)],
    ];
    for entries in hostile {
        packed(&file, entries);
        let refused = verify();
        assert_eq!(code(&refused), 2, "{entries:?}: {}", text(&refused));
        assert!(said(&refused).contains("one folder"), "{entries:?}: {}", said(&refused));
    }
    assert!(!Path::new("/tmp/actchain-canary").exists() && !stage.path("../actchain-canary").exists());
    let names: Vec<String> = (0..101).map(|place| format!("evidence/{place}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), plain)).collect();
    packed(&file, &many);
    assert!(said(&verify()).contains("more than 100 files"));
    packed(&file, &[]);
    assert!(said(&verify()).contains("has no files"));
}

#[test]
fn evidence_about_an_unknown_user_or_an_empty_time_says_so() {
    let (stage, _server) = busy_stage();
    let [from, to] = days();
    let run = |arguments: &[&str]| {
        let out = stage.path("none");
        let _ = std::fs::remove_dir_all(&out);
        let all = [&["audit", "evidence", "-o", out.to_str().unwrap()][..], arguments].concat();
        (stage.run(&all), out)
    };
    for (arguments, why) in [
        (vec!["--subject", "unknown", "--from", &from], "no event about unknown"),
        (vec!["--subject", "alice", "--from", &to, "--to", &from], "--from is not before --to"),
        (vec!["--subject", "alice", "--from", "soon"], "neither an RFC 3339 time nor a date"),
    ] {
        let (output, out) = run(&arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(said(&output).contains(why), "{}", said(&output));
        assert!(!out.exists(), "nothing is half done");
    }
    let none = ["--subject", "unknown", "--issuer", "https://idp.example.com", "--from", &from];
    let (output, out) = run(&none);
    assert_eq!((code(&output), text(&output).starts_with("0 events")), (0, true), "{}", said(&output));
    assert_eq!(code(&stage.run(&["audit", "verify", out.to_str().unwrap()])), 0);
    let (output, _) = run(&[
        "--subject",
        "alice",
        "--client",
        "other",
        "--issuer",
        "https://idp.example.com",
        "--from",
        &from,
    ]);
    assert!(text(&output).starts_with("0 events"), "{}{}", text(&output), said(&output));
    // Events of yesterday are not in the evidence for today.
    let (output, _) = run(&[
        "--subject",
        "alice",
        "--issuer",
        "https://idp.example.com",
        "--from",
        "2026-01-01",
        "--to",
        "2026-01-02",
    ]);
    assert!(text(&output).starts_with("0 events"), "{}{}", text(&output), said(&output));
}

#[test]
fn chains_are_listed_and_shown_in_full() {
    let (stage, _server) = busy_stage();
    let [from, to] = days();
    let page = stage.json(&["audit", "chains", "--limit", "1", "--json"]);
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let cursor = page["next"].as_str().unwrap();
    let rest = stage.json(&["audit", "chains", "--limit", "1", "--cursor", cursor, "--json"]);
    assert_ne!(page["items"][0]["txn"], rest["items"][0]["txn"]);
    let of_alice = ["--filter", "subject_sub=alice", "--from", &from, "--to", &to, "--state", "active"];
    let all = stage.json(&[&["audit", "chains", "--order", "oldest", "--json"][..], &of_alice].concat());
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
    assert_eq!(all["items"][0]["txn"], rest["items"][0]["txn"], "the oldest first");
    let txn = all["items"][0]["txn"].as_str().unwrap();
    let whole = stage.json(&["audit", "chains", txn, "--json"]);
    assert_eq!(
        (&whole["txn"], whole["hops"][0]["client_id"].as_str()),
        (&all["items"][0]["txn"], Some("agent"))
    );
    assert_eq!(whole["items"][0]["action"], "oauth.token.exchanged");
    let shown = text(&stage.run(&["audit", "chains", txn]));
    assert!(shown.contains("alice  agent") && shown.contains("oauth.token.exchanged (success)"), "{shown}");
    let listed = text(&stage.run(&["audit", "chains"]));
    assert_eq!((listed.lines().count(), listed.contains(txn)), (2, true), "{listed}");
    assert_eq!(text(&stage.run(&["audit", "chains", "--filter", "client_id=other"])).trim(), "no chains");
    assert_eq!(text(&stage.run(&["audit", "chains", "--to", "2026-01-01"])).trim(), "no chains");
    for wrong in [
        vec!["audit", "chains", "no-such-chain"],
        vec!["audit", "chains", "--limit", "0"],
        vec!["audit", "chains", "--from", "soon"],
        vec!["audit", "chains", "--state", "ended"],
        vec!["audit", "chains", "--filter", "colour=red"],
        vec!["audit", "chains", "--cursor", "1.x"],
    ] {
        assert_eq!(code(&stage.run(&wrong)), 2, "{wrong:?}");
    }
}

#[test]
fn evidence_tells_of_a_suspension_and_of_its_end() {
    let (stage, server) = busy_stage();
    drop(server);
    let restored = stage.run(&["restored", "--all"]);
    assert_eq!(code(&restored), 0, "{}", said(&restored));
    let approved = stage.run(&["delegation", "approve", "D"]);
    assert_eq!(code(&approved), 0, "{}", said(&approved));
    let _server = stage.serve();
    let [from, to] = days();
    let folder = stage.path("evidence");
    let dir = folder.to_str().unwrap();
    let written =
        stage.run(&["audit", "evidence", "--subject", "alice", "--from", &from, "--to", &to, "-o", dir]);
    assert_eq!(code(&written), 0, "{}", said(&written));
    let delegations: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("delegations.json")).unwrap()).unwrap();
    let history = delegations["delegations"][0]["history"].as_array().unwrap();
    let actions: Vec<&str> = history.iter().filter_map(|one| one["action"].as_str()).collect();
    assert_eq!(actions, ["delegation.created", "delegation.suspended", "delegation.resumed"]);
}
