//! `actchain audit verify|verify-receipt|archive|show` and `actchain key rotate --purpose checkpoint` as processes:
//! output and exit codes.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::stage::{Stage, send, sql, until};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

async fn receipt(base: &str, stage: &Stage) -> String {
    let answer = stage.exchange().send_to(base).await.unwrap().with_status(200);
    answer.header("actchain-receipt").unwrap().to_owned()
}

#[test]
fn a_receipt_is_proven_by_the_server_and_by_the_database_and_offline() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = Stage::new();
    stage.declare();
    let server = stage.serve();
    let receipt = runtime.block_on(receipt(&server.base, &stage));
    let path = |name: &str| stage.path(name).to_str().unwrap().to_owned();
    let early = stage.run(&["audit", "verify-receipt", "--receipt", &receipt, "--server", &server.base]);
    assert_eq!(code(&early), 2, "no checkpoint covers it yet");
    let note = stage.run(&["audit", "checkpoint"]);
    std::fs::write(stage.path("kept.note"), &note.stdout).unwrap();
    let key = text(&stage.run(&["key", "show", "--purpose", "checkpoint"])).trim().to_owned();
    for source in [vec!["--server", &server.base], vec![]] {
        let out = path("event.tlog-proof");
        let (checkpoint, mut arguments) =
            (path("kept.note"), vec!["audit", "verify-receipt", "--receipt", &receipt, "--json"]);
        arguments.extend(["--key", &key, "--checkpoint", &checkpoint, "--out", &out]);
        arguments.extend(source);
        let proven = stage.run(&arguments);
        assert_eq!((code(&proven), &json(&proven)["proven"]), (0, &Value::Bool(true)));
    }
    let before_leaf = receipt.split("leaf").next().unwrap();
    let forged = format!("{before_leaf}leaf=:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=:");
    let disproved =
        stage.run(&["audit", "verify-receipt", "--receipt", &forged, "--server", &server.base, "--json"]);
    assert_eq!((code(&disproved), &json(&disproved)["reason"]), (1, &Value::from("leaf")));
    assert_eq!(code(&stage.run(&["audit", "verify-receipt", "--receipt", "nonsense"])), 2);
    std::fs::write(stage.path("other.note"), &key).unwrap();
    let other = path("other.note");
    let other =
        stage.run(&["audit", "verify-receipt", "--receipt", &receipt, "--key", &key, "--checkpoint", &other]);
    assert_eq!(code(&other), 2, "a file that is no checkpoint disproves nothing");
    let export = stage.run(&["audit", "export"]);
    let seq: usize = receipt.split(['=', ',']).nth(1).unwrap().parse().unwrap();
    let event = text(&export).lines().nth(seq).unwrap().to_owned();
    std::fs::write(stage.path("event.json"), format!("{event}\n")).unwrap();
    let (proof, event_path) = (path("event.tlog-proof"), path("event.json"));
    let offline = ["audit", "verify-receipt", "--proof", &proof, "--event", &event_path, "--key", &key];
    assert_eq!(code(&stage.run(&offline)), 0, "c2sp.org/tlog-proof");
    std::fs::write(stage.path("event.json"), event.replace("https://", "http://")).unwrap();
    let changed = stage.run(&offline);
    assert_eq!(code(&changed), 1);
    assert!(text(&changed).contains("DISPROVED"));
    for converted in [format!("\u{feff}{event}\n"), format!("{event}\r\n")] {
        std::fs::write(stage.path("event.json"), converted).unwrap();
        assert_eq!(code(&stage.run(&offline)), 2, "a file that was converted disproves nothing");
    }
}

#[test]
fn verification_exits_0_1_and_2_and_trusts_the_specified_key_and_checkpoint() {
    let stage = Stage::new();
    stage.declare();
    let _server = stage.serve();
    let note = stage.run(&["audit", "checkpoint"]);
    std::fs::write(stage.path("old.note"), &note.stdout).unwrap();
    let old_key = text(&stage.run(&["key", "show", "--purpose", "checkpoint"])).trim().to_owned();
    let rotated = stage.json(&["key", "rotate", "--purpose", "checkpoint", "--json"]);
    let new_key = rotated["key"].as_str().unwrap().to_owned();
    assert_ne!(old_key, new_key);
    stage.json(&["key", "rotate", "--purpose", "checkpoint", "--json"]);
    let (note, export) = (stage.path("old.note"), stage.path("export.jsonl"));
    let (note, export) = (note.to_str().unwrap(), export.to_str().unwrap());
    for key in [&old_key, &new_key] {
        let report = stage.json(&["audit", "verify", "--db", "--key", key, "--json"]);
        assert!(report["valid"] == true && report["checkpoints"].as_u64() >= Some(2), "{report}");
    }
    let later = stage.json(&["audit", "verify", "--from-checkpoint", note, "--key", &old_key, "--json"]);
    assert!(later["valid"] == true && later["from"].as_u64() > Some(0), "{later}");
    assert_eq!(code(&stage.run(&["audit", "verify", "--from-checkpoint", note, "--key", &new_key])), 1);
    assert_eq!(code(&stage.run(&["audit", "export", "--out", export])), 0);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(export).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "only its owner reads what users did");
    let plain = stage.run(&["audit", "verify", "--file", export]);
    assert_eq!(code(&plain), 0);
    assert_eq!(String::from_utf8_lossy(&plain.stderr), "", "no bar where there is no terminal");
    let whole = std::fs::read_to_string(export).unwrap();
    for converted in [format!("\u{feff}{whole}"), whole.replace('\n', "\r\n")] {
        std::fs::write(export, converted).unwrap();
        let output = stage.run(&["audit", "verify", "--file", export]);
        assert_eq!(code(&output), 2, "{}", text(&output));
    }
    std::fs::write(export, whole.replacen("client", "cliemt", 1)).unwrap();
    for json in [&["--json"][..], &[]] {
        assert_eq!(code(&stage.run(&[&["audit", "verify", "--file", export], json].concat())), 1);
        assert_eq!(code(&stage.run(&[&["audit", "verify", "--file", "nowhere"], json].concat())), 2);
    }
    std::fs::write(stage.path("log.key"), &new_key).unwrap();
    let other = stage.path("log.key");
    let other = stage.run(&["audit", "verify", "--checkpoint", other.to_str().unwrap(), "--key", &new_key]);
    assert_eq!(code(&other), 2, "a file of another kind says nothing about the log");
}

#[test]
fn an_export_that_is_continued_is_one_file() {
    let stage = Stage::new();
    stage.declare();
    let _server = stage.serve();
    for (format, whole) in [("csv", true), ("jsonl", true), ("sarif", false)] {
        let path = stage.path(&format!("log.{format}"));
        let out = path.to_str().unwrap();
        let size = text(&stage.run(&["audit", "checkpoint"])).lines().nth(1).unwrap().to_owned();
        let export = |from: &str| {
            let done = stage
                .run(&["audit", "export", "--format", format, "--size", &size, "--from", from, "--out", out]);
            assert_eq!(code(&done), 0, "{}", String::from_utf8_lossy(&done.stderr));
            std::fs::read_to_string(&path).unwrap()
        };
        let all = export("0");
        if !whole {
            let runs =
                |text: String| -> Value { serde_json::from_str::<Value>(&text).unwrap()["runs"].clone() };
            let (first, again) = (runs(export("3")), runs(export("3")));
            assert_eq!(first[0]["results"], again[0]["results"], "one document, written again");
            assert_eq!(again.as_array().unwrap().len(), 1);
            continue;
        }
        // The header with the column names (CSV only), and three events.
        let lines = if format == "csv" { 4 } else { 3 };
        let cut: String = all.lines().take(lines).map(|line| format!("{line}\n")).collect();
        let cut = if format == "csv" { cut.replace('\n', "\r\n") } else { cut };
        std::fs::write(&path, cut).unwrap();
        let joined = export("3");
        match format {
            "csv" => assert_eq!(joined, all),
            _ => assert_eq!(code(&stage.run(&["audit", "verify", "--file", out])), 0, "{joined}"),
        }
    }
}

fn archives(folder: &Path) -> Vec<String> {
    let list = std::fs::read_dir(folder).unwrap().map(|one| one.unwrap().file_name().into_string().unwrap());
    list.filter(|name| !name.starts_with('.') && name.ends_with(".jsonl")).collect()
}

#[test]
fn an_archive_that_is_killed_at_any_moment_loses_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = Stage::new();
    stage.declare();
    let server = stage.serve();
    assert!(runtime.block_on(send(&server.base, &stage.exchange())).is_some());
    runtime.block_on(async {
        use actchain::domain::audit::append::append_events;
        use actchain::domain::audit::{Actor, Event, EventKind, partitions};
        let mut sql = sql(&stage).await;
        let now = time::OffsetDateTime::now_utc();
        let fill = async |sql: &mut PgConnection, count: usize| {
            let event = Event {
                target: Some("filler".into()),
                ..Event::new(now, EventKind::ClientEnabled, Actor::Operator)
            };
            let mut transaction = sql.begin().await.unwrap();
            append_events(&mut transaction, &vec![event; count]).await.unwrap();
            transaction.commit().await.unwrap();
        };
        fill(&mut sql, 5_000).await;
        assert!(partitions::open(&mut sql, 0, now).await.unwrap());
        fill(&mut sql, 1_100).await;
        sql.close().await.unwrap();
    });
    let folder = stage.path("archives");
    std::fs::create_dir(&folder).unwrap();
    let dir = folder.to_str().unwrap();
    let before = (time::OffsetDateTime::now_utc() + time::Duration::days(1)).date().to_string();
    let arguments = ["audit", "archive", "--before", &before, "--dir", dir, "--json"];
    until("the index has come to the end of the partition", || {
        let probe = stage.run(&["audit", "archive", "--before", "2000-01-01", "--dir", dir]);
        assert_eq!(code(&probe), 0, "nothing is old enough");
        runtime.block_on(async {
            let mut sql = sql(&stage).await;
            actchain::domain::audit::index::indexed(&mut sql).await.unwrap() >= 6_000 / 1_024 * 1_024
        })
    });
    let partitions = || {
        runtime.block_on(async {
            let mut sql = sql(&stage).await;
            let count = "SELECT count(*) FROM audit_partition WHERE archived_at IS NOT NULL";
            sqlx::query_scalar::<_, i64>(count).fetch_one(&mut sql).await.unwrap()
        })
    };
    // Kills the command at once, after it has begun its file, after the rename, and after it has dropped the partition.
    let begun = || std::fs::read_dir(&folder).unwrap().next().is_some();
    let named = || !archives(&folder).is_empty();
    let dropped = || partitions() > 0;
    let moments: [&dyn Fn() -> bool; 4] = [&|| true, &begun, &named, &dropped];
    for moment in moments {
        let mut child = stage.command();
        child.args(arguments).env("ACTCHAIN_ISSUER", "http://127.0.0.1:1");
        let mut child =
            child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        // A command that ends earlier is accepted, too: the previous run may have left only the removal of the
        // partition.
        while !moment() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for name in archives(&folder) {
            let file = folder.join(&name);
            let whole = stage.run(&["audit", "verify", "--file", file.to_str().unwrap()]);
            assert_eq!(code(&whole), 0, "{name} has its name only when it is whole");
        }
        assert!(partitions() == 0 || archives(&folder).len() == 1, "dropped only when it is in a file");
        let whole = stage.run(&["audit", "verify", "--archives", dir]);
        assert_eq!(code(&whole), 0, "{}", text(&whole));
    }
    let mut done = stage.run(&arguments);
    until("the killed processes have ended", || {
        done = stage.run(&arguments);
        code(&done) == 0
    });
    assert_eq!((partitions(), archives(&folder).len()), (1, 1));
    let file = folder.join(&archives(&folder)[0]);
    let file = file.to_str().unwrap();
    let event = stage.run(&["audit", "show", "--archive", file, "--seq", "4000"]);
    assert!(text(&event).contains("\"seq\":4000"));
    assert_eq!(code(&stage.run(&["audit", "show", "--archive", file, "--seq", "400000"])), 1);
    assert_eq!(code(&stage.run(&["audit", "show", "--archive", "nowhere", "--seq", "1"])), 2);
    assert_eq!(code(&stage.run(&["audit", "archive", "--before", "soon", "--dir", dir])), 2);
    let without = stage.run(&["audit", "verify", "--json"]);
    let report = json(&without);
    assert!(report["valid"] == true && report["hashes_only"].as_u64() > Some(5_000), "{report}");
    assert_eq!(code(&without), 2, "not all of it was checked");
    assert!(text(&stage.run(&["audit", "verify"])).starts_with("valid but for 50"));
    assert_eq!(code(&stage.run(&["audit", "verify", "--archives", "nowhere"])), 2);
    let report = stage.json(&["audit", "verify", "--archives", dir, "--json"]);
    assert!(report["valid"] == true && report["hashes_only"] == 0, "{report}");
    let shortened = std::fs::read_to_string(file).unwrap().replacen("filler", "folder", 1);
    std::fs::write(file, shortened).unwrap();
    let broken = stage.run(&["audit", "verify", "--archives", dir]);
    assert_eq!((code(&broken), text(&broken).trim()), (1, "BROKEN at seq 0: archive"));
    assert!(runtime.block_on(send(&server.base, &stage.exchange())).is_some());
}
