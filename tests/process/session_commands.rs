//! `actchain session list|show|trace|export` as processes: output and exit codes.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use serde_json::{Value, json};

use crate::stage::{Stage, send};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn sessions_are_listed_shown_traced_and_exported() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = Stage::new();
    stage.declare();
    let server = stage.serve();
    for name in ["one", "two", "two"] {
        assert!(runtime.block_on(send(&server.base, &stage.exchange().param("session_id", name))).is_some());
    }
    let page = stage.json(&["session", "list", "--limit", "1", "--subject", "alice", "--json"]);
    let newest = &page["items"][0];
    assert_eq!((&newest["exchanges"], &newest["client_ids"]), (&json!(2), &json!(["agent"])));
    let cursor = page["next"].as_str().unwrap();
    let rest = ["session", "list", "--limit", "1", "--subject", "alice", "--cursor", cursor, "--json"];
    assert_eq!(stage.json(&rest)["items"][0]["exchanges"], json!(1));
    let id = newest["id"].as_str().unwrap();
    let listed = text(&stage.run(&["session", "list"]));
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.starts_with(id) && listed.contains("alice  agent  2 events, 2 exchanges"), "{listed}");
    assert_eq!(text(&stage.run(&["session", "list", "--has-refusals"])).trim(), "no sessions");
    let shown = stage.json(&["session", "show", id, "--json"]);
    assert_eq!((&shown["id"], &shown["events"]), (&newest["id"], &json!(2)));
    let trace = stage.json(&["session", "trace", id, "--json"]);
    let kinds: Vec<&Value> = trace["items"].as_array().unwrap().iter().map(|item| &item["kind"]).collect();
    assert_eq!(kinds, ["exchange"; 2]);
    let lines = text(&stage.run(&["session", "trace", id, "--limit", "1"]));
    assert!(lines.contains("exchange  agent  oauth.token.exchanged  depth 1"), "{lines}");
    assert!(lines.lines().nth(1).is_some_and(|line| line.starts_with("more: --cursor ")), "{lines}");
    let path = stage.path("session.csv");
    let out = path.to_str().unwrap();
    let exported = stage.run(&["session", "export", id, "--format", "csv", "-o", out]);
    assert_eq!((code(&exported), text(&exported)), (0, format!("2 events are in {out}\n")));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&path).unwrap().starts_with(&format!("# session,\"{id}\"")));
    let file = stage.json(&["session", "export", id]);
    assert_eq!((&file["session"]["id"], &file["items"]), (&newest["id"], &trace["items"]));
    for wrong in [
        vec!["session", "show", "no-such-session"],
        vec!["session", "trace", "no-such-session"],
        vec!["session", "export", "no-such-session"],
        vec!["session", "list", "--limit", "0"],
        vec!["session", "trace", id, "--cursor", "1.x"],
        vec!["session", "export", id, "--bom"],
    ] {
        assert_eq!(code(&stage.run(&wrong)), 1, "{wrong:?}");
    }
    for wrong in [vec!["session", "list", "--from", "soon"], vec!["session", "export", id, "--format", "xml"]]
    {
        assert_eq!(code(&stage.run(&wrong)), 2, "{wrong:?}");
    }
}
