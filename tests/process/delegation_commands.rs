//! `actchain delegation …` and the commands of `actchain client` that revoke: output in JSON and for people, refusals,
//! and exit codes.

use serde_json::{Value, json};

use crate::stage::{MAIL, Stage, complaints, send};

const IDP: &str = "https://idp.example.com";

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn say(stage: &Stage, arguments: &[&str]) -> Said {
    let output = stage.run(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: complaints(&output.stderr) }
}

/// A refused command: exit code 1, the reason on standard error, and nothing on standard output.
#[track_caller]
fn refused(stage: &Stage, arguments: &[&str], complaint: &str) {
    let said = say(stage, arguments);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{arguments:?}: {}", said.err);
    assert!(said.err.starts_with(&format!("actchain: {complaint}")), "{arguments:?}: {}", said.err);
}

/// Like [`refused`], for a delegation in this state.
#[track_caller]
fn refused_in_state(stage: &Stage, arguments: &[&str], state: &str) {
    refused(stage, arguments, "invalid_state_transition: ");
    let said = say(stage, arguments).err;
    assert!(said.trim_end().ends_with(&format!("(it is {state})")), "{arguments:?}: {said}");
}

/// Requests a delegation from `bob` to `agent`; returns its id.
fn request(stage: &Stage, more: &[&str]) -> Value {
    let asked =
        ["delegation", "request", "--delegate", "agent", "--delegator-iss", IDP, "--delegator", "bob"];
    stage.json(&[&asked, more, &["--json"]].concat())
}

/// Alice's delegation `D` to `agent` has the child `E`, to `second`, and `E` has the child `F`, to `third`.
fn declare_three(stage: &Stage) {
    stage.declare();
    let secret = "auth: client_secret_basic, secret: 0123456789abcdef";
    let yaml = format!(
        "clients:
  - {{id: second, kind: agent, {secret}, scopes: [mail.read], audiences: [\"{MAIL}\"]}}
  - {{id: third, kind: agent, {secret}, scopes: [mail.read], audiences: [\"{MAIL}\"]}}
delegations:
  - {{id: E, parent: D, delegate: second, scopes: [mail.read], expires_in: 3600}}
  - {{id: F, parent: E, delegate: third, expires_in: 600}}"
    );
    std::fs::write(stage.path("three.yaml"), yaml).unwrap();
    let applied = say(stage, &["apply", "-f", stage.path("three.yaml").to_str().unwrap()]);
    assert_eq!(applied.code, 0, "{}", applied.err);
}

#[test]
fn a_request_is_approved_narrower_renewed_and_revoked_and_each_move_says_what_came_of_it() {
    let stage = Stage::new();
    let _server = stage.serve();
    stage.declare();
    let limits = ["--scope", "mail.read", "--audience", MAIL, "--max-uses", "5", "--expires-in", "600"];
    let asked = request(&stage, &[&limits[..], &["--reason", "to read his mail"]].concat());
    let id = asked["id"].as_str().unwrap();
    assert_eq!(
        [&asked["state"], &asked["scopes"], &asked["audiences"], &asked["max_uses"], &asked["reason"]],
        [&json!("requested"), &json!(["mail.read"]), &json!([MAIL]), &json!(5), &json!("to read his mail")]
    );
    assert_eq!(asked["delegator"], json!({"iss": IDP, "sub": "bob"}));
    refused_in_state(&stage, &["delegation", "renew", id, "--expires-in", "900"], "requested");
    refused(&stage, &["delegation", "approve", id, "--max-uses", "6"], "exceeds_parent: ");
    let undeclared = ["delegation", "approve", id, "--scope", "mail.read", "--scope", "mail.raed"];
    refused(&stage, &undeclared, "scope_unknown: No resource declares the scope (at #/scopes/1)");
    let narrower = ["--max-uses", "2", "--expires-in", "300", "--ceremony", "mail.read"];
    let approved = stage.json(&[&["delegation", "approve", id, "--json"], &narrower[..]].concat());
    assert_eq!(
        [&approved["state"], &approved["max_uses"], &approved["ceremony_required_for"]],
        [&json!("active"), &json!(2), &json!(["mail.read"])]
    );
    assert_eq!(approved["scopes"], json!(["mail.read"]), "what is left out stays");
    refused_in_state(&stage, &["delegation", "approve", id], "active");
    refused(&stage, &["delegation", "renew", id, "--expires-in", "1"], "expiry_not_later: ");
    let renewed = stage.json(&["delegation", "renew", id, "--expires-in", "900", "--json"]);
    let ends = |view: &Value| view["expires_at"].as_str().unwrap().to_owned();
    assert!(ends(&renewed) > ends(&approved), "{renewed}");
    let revoked = stage.json(&["delegation", "revoke", id, "--reason", "enough", "--json"]);
    let reached = json!({"delegations": 1, "tokens": 0, "at_least": false});
    assert_eq!(revoked, json!({"id": id, "state": "revoked", "affected": reached}));
    for argument in [["revoke"], ["approve"], ["deny"]] {
        refused_in_state(&stage, &[&["delegation"], &argument[..], &[id]].concat(), "revoked");
    }
    let shown = stage.json(&["delegation", "show", id, "--json"]);
    assert_eq!([&shown["state"], &shown["revoke_reason"]], [&json!("revoked"), &json!("enough")]);
    let tail = say(&stage, &["audit", "tail", "-n", "100"]).out;
    let events: Vec<Value> = tail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let done = events.iter().filter(|event| event["delegation_id"] == *id && event["outcome"] == "success");
    let actions: Vec<&str> = done.map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(
        actions,
        ["delegation.created", "delegation.activated", "delegation.renewed", "delegation.revoked"]
    );
    let operator = |event: &&Value| event["actor"]["type"] == "operator" && event["target"] == *id;
    assert!(events.iter().filter(operator).any(|event| event["reason"] == "exceeds_parent"));
}

#[test]
fn a_request_that_is_denied_stays_so() {
    let stage = Stage::new();
    let _server = stage.serve();
    stage.declare();
    let id = request(&stage, &[])["id"].as_str().unwrap().to_owned();
    let denied = stage.json(&["delegation", "deny", &id, "--reason", "not now", "--json"]);
    assert_eq!([&denied["state"], &denied["revoke_reason"]], [&json!("revoked"), &json!("not now")]);
    refused_in_state(&stage, &["delegation", "approve", &id, "--json"], "revoked");
    refused_in_state(&stage, &["delegation", "renew", &id, "--expires-in", "9000"], "revoked");
}

#[test]
fn a_request_names_a_user_who_can_approve_and_an_agent_to_approve() {
    let stage = Stage::new();
    let _server = stage.serve();
    stage.declare();
    let request = |delegate: &str, iss: &str, more: &[&str], complaint: &str| {
        let asked = ["delegation", "request", "--delegate", delegate, "--delegator-iss", iss];
        refused(&stage, &[&asked[..], &["--delegator", "bob"], more].concat(), complaint);
    };
    request("unknown", IDP, &[], "delegate_unknown: ");
    request("agent", "https://other.example.com", &[], "delegator_unknown: ");
    request("agent", IDP, &["--audience", "https://other.example.com"], "resource_unknown: ");
    request("agent", IDP, &["--capability-ceiling", "everything"], "capability_unknown: ");
    request("agent", IDP, &["--max-uses", "0"], "malformed_request: ");
    assert_eq!(say(&stage, &["client", "disable", "agent"]).code, 0);
    request("agent", IDP, &[], "delegate_disabled: ");
}

#[test]
fn what_is_not_there_is_answered_by_1_and_what_cannot_be_done_by_2() {
    let stage = Stage::new();
    let _server = stage.serve();
    stage.declare();
    for arguments in [
        &["delegation", "show", "nothing"][..],
        &["delegation", "show", "nothing", "--json"],
        &["delegation", "approve", "nothing"],
        &["delegation", "deny", "nothing"],
        &["delegation", "revoke", "nothing", "--json"],
        &["delegation", "renew", "nothing", "--expires-in", "1"],
        &["delegation", "tree", "nothing"],
        &["delegation", "tree", "nothing", "--json"],
        &["client", "disable", "unknown"],
        &["client", "enable", "unknown", "--json"],
        &["client", "revoke-all", "unknown"],
        &["client", "key", "remove", "unknown", &"A".repeat(43)],
        &["client", "key", "remove", "unknown", &"A".repeat(43)],
        &["client", "key", "restore", "agent", &"A".repeat(43)],
    ] {
        // An operator sees everything: "not found" means that the delegation does not exist.
        refused(&stage, arguments, "not_found: The object does not exist\n");
    }
    for arguments in [
        &["delegation"][..],
        &["delegation", "list", "--state", "sleeping"],
        &["delegation", "list", "--limit", "101"],
        &["delegation", "renew", "D"],
        &["delegation", "renew", "D", "--expires-in", "-1"],
        &["delegation", "request", "--delegate", "agent"],
        &["delegation", "show", "D", "--xml"],
        &["client", "key", "remove", "agent"],
    ] {
        let said = say(&stage, arguments);
        assert!(said.code == 2 && said.out.is_empty() && !said.err.is_empty(), "{arguments:?}: {}", said.out);
    }
    let mut nowhere = stage.command();
    nowhere.args(["delegation", "list", "--json"]).envs([
        ("ACTCHAIN_DATABASE_URL", "postgres://visitor@127.0.0.1:1/nothing"),
        ("ACTCHAIN_MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
    ]);
    let output = nowhere.output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        complaint,
        "actchain: connecting to PostgreSQL at 127.0.0.1:1/nothing as visitor: Connection refused (os error 111); \
         PostgreSQL does not listen there: start it, or correct host and port in database_url\n"
    );
}

#[test]
fn lists_are_filtered_and_come_in_pages_that_neither_lose_nor_repeat_a_row() {
    let stage = Stage::new();
    let _server = stage.serve();
    declare_three(&stage);
    let asked = request(&stage, &[])["id"].as_str().unwrap().to_owned();
    let list = |more: &[&str]| stage.json(&[&["delegation", "list", "--json"], more].concat());
    let ids = |answer: &Value| {
        let items = answer["items"].as_array().unwrap().iter();
        items.map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&list(&[]))[0], asked, "newest first");
    assert_eq!(ids(&list(&["--state", "requested"])), [asked.as_str()]);
    assert_eq!(ids(&list(&["--state", "revoked"])), Vec::<String>::new());
    assert_eq!(ids(&list(&["--parent", "D"])), ["E"]);
    assert_eq!(ids(&list(&["--delegate", "third"])), ["F"]);
    assert_eq!(ids(&list(&["--delegator", "alice", "--delegator-iss", IDP])), ["D"]);
    assert_eq!(ids(&list(&["--delegator", "alice", "--delegate", "second"])), Vec::<String>::new());
    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let after: Vec<&str> = cursor.iter().flat_map(|cursor| ["--cursor", cursor.as_str()]).collect();
        let page = list(&[&["--limit", "1"], &after[..]].concat());
        assert_eq!(page["items"].as_array().unwrap().len(), 1);
        seen.extend(ids(&page));
        assert!(seen.len() <= 4, "{seen:?}");
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids(&list(&[])));
    assert_eq!(seen.len(), 4);
    let drawn = say(&stage, &["delegation", "list", "--limit", "3"]);
    let lines: Vec<&str> = drawn.out.lines().collect();
    assert!(drawn.code == 0 && lines.len() == 4 && lines[3].starts_with("more: --cursor "), "{}", drawn.out);
    assert!(lines[0].contains(&asked) && lines[0].contains("requested") && lines[0].contains("bob"));
    for limit in ["0", "101"] {
        let said = say(&stage, &["delegation", "list", "--limit", limit]);
        assert!(said.code == 2 && said.err.contains("1..=100"), "{}", said.err);
    }
    refused(&stage, &["delegation", "list", "--cursor", "yesterday"], "malformed_request: ");
}

#[test]
fn a_tree_shows_what_hangs_below_and_what_ended_it() {
    let stage = Stage::new();
    let _server = stage.serve();
    declare_three(&stage);
    let bobs = request(&stage, &[])["id"].as_str().unwrap().to_owned();
    let drawn = |more: &[&str]| {
        let said = say(&stage, &[&["delegation", "tree"], more].concat());
        assert_eq!(said.code, 0, "{}", said.err);
        said.out
    };
    let of_alice = drawn(&["--delegator", "alice"]);
    let lines: Vec<&str> = of_alice.lines().collect();
    assert_eq!(lines.len(), 4, "{of_alice}");
    assert_eq!(lines[0], format!("alice ({IDP})"));
    assert!(lines[1].starts_with("└─ agent  active  [D]  scopes as above"), "{of_alice}");
    assert!(lines[2].starts_with("   └─ second  active  [E]  scopes mail.read"), "{of_alice}");
    assert!(lines[3].starts_with("      └─ third  active  [F]"), "{of_alice}");
    assert_eq!(drawn(&["--delegator", "unknown"]), "");
    let all = drawn(&[]);
    assert!(all.contains(&bobs) && all.contains("[F]"), "{all}");
    assert_eq!(drawn(&["F"]).lines().count(), 2, "the delegator and what it gave");
    let again = request(&stage, &[])["id"].as_str().unwrap().to_owned();
    let of_bob = drawn(&["--delegator", "bob"]);
    let lines: Vec<&str> = of_bob.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, format!("bob ({IDP})").as_str()), "{of_bob}");
    assert!(lines[1].contains(&again) && lines[2].contains(&bobs), "the newest first: {of_bob}");
    assert!(lines[1].starts_with("├─ ") && lines[2].starts_with("└─ "), "one line for both: {of_bob}");
    let reached = stage.json(&["delegation", "revoke", "E", "--json"])["affected"].clone();
    assert_eq!(reached, json!({"delegations": 2, "tokens": 0, "at_least": false}));
    let after = drawn(&["D"]);
    let lines: Vec<&str> = after.lines().collect();
    assert!(lines[1].contains("agent  active  [D]"), "{after}");
    assert!(lines[2].contains("second  revoked  [E]"), "{after}");
    assert!(lines[3].contains("third  revoked by E  [F]"), "{after}");
    let nested = stage.json(&["delegation", "tree", "D", "--json"]);
    let root = &nested["trees"][0];
    assert_eq!([&root["id"], &root["state"]], [&json!("D"), &json!("active")]);
    let leaf = &root["below"][0]["below"][0];
    assert_eq!(
        [&leaf["id"], &leaf["state"], &leaf["ended_by"], &leaf["below"]],
        [&json!("F"), &json!("revoked"), &json!("E"), &json!([])]
    );
    assert_eq!(nested["trees"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_client_is_refused_until_it_is_enabled() {
    let stage = Stage::new();
    let server = stage.serve();
    stage.declare();
    let status = async || send(&server.base, &stage.exchange()).await.unwrap().0;
    assert_eq!(status().await, 200);
    let disabled = stage.json(&["client", "disable", "agent", "--json"]);
    let reached = json!({"delegations": 1, "tokens": 1, "at_least": false});
    assert_eq!(
        disabled,
        json!({"client_id": "agent", "state": "disabled", "changed": true, "affected": reached})
    );
    assert_eq!(status().await, 401);
    let again = stage.json(&["client", "disable", "agent", "--json"]);
    assert_eq!(again, json!({"client_id": "agent", "state": "disabled", "changed": false}));
    let enabled = say(&stage, &["client", "enable", "agent"]);
    assert!(enabled.code == 0 && enabled.out.contains("\"enabled\""), "{}", enabled.out);
    assert_eq!(status().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_key_was_removed_proves_nothing_with_it() {
    let stage = Stage::new();
    let server = stage.serve();
    stage.declare();
    let status = async || send(&server.base, &stage.exchange()).await.unwrap().0;
    assert_eq!(status().await, 200);
    let key = stage.json(&["client", "show", "agent", "--json"])["dpop_keys"][0].as_str().unwrap().to_owned();
    refused(&stage, &["client", "key", "remove", "agent", "no-thumbprint"], "malformed_request: ");
    // One thumbprint in 64 begins with a hyphen.
    let hyphens =
        ["-KzLh1k-iHRAPMHEWkaD4N29_s0RXCBjuiJIVDTG3iQ", "-hzLh1k-iHRAPMHEWkaD4N29_s0RXCBjuiJIVDTG3iQ"];
    for (command, hyphen) in ["remove", "restore"].into_iter().flat_map(|one| hyphens.map(|key| (one, key))) {
        let said = stage.json(&["client", "key", command, "agent", hyphen, "--json"]);
        assert_eq!(said["jkt"], json!(hyphen));
    }
    let removed = stage.json(&["client", "key", "remove", "agent", &key, "--json"]);
    assert_eq!([&removed["client_id"], &removed["jkt"]], [&json!("agent"), &json!(key)]);
    assert_eq!(stage.json(&["client", "show", "agent", "--json"])["dpop_keys"], json!([]));
    assert_eq!(status().await, 401);
    let listed = stage.json(&["client", "key", "list", "agent", "--json"]);
    let removed = json!([{"jkt": key, "registered": false, "pinned": false, "removed": true}]);
    assert_eq!(listed["items"], removed, "{listed}");
    // The file that declared the key is refused until the key is restored; the message says so.
    let refused = say(&stage, &["apply", "-f", stage.path("world.yaml").to_str().unwrap()]);
    let way = format!("actchain client key restore agent {key}");
    assert!(refused.code != 0 && refused.err.contains(&way), "{}", refused.err);
    let restored = stage.json(&["client", "key", "restore", "agent", &key, "--json"]);
    assert_eq!([&restored["client_id"], &restored["jkt"]], [&json!("agent"), &json!(key)]);
    stage.declare();
    assert_eq!(status().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_ends_what_there_is_and_lets_live_what_comes_afterwards() {
    let stage = Stage::new();
    let server = stage.serve();
    declare_three(&stage);
    let status = async || send(&server.base, &stage.exchange()).await.unwrap().0;
    assert_eq!(status().await, 200);
    refused(
        &stage,
        &["client", "revoke-all", "alice", "--iss", "https://other.example.com"],
        "delegator_unknown: ",
    );
    let revocation =
        stage.json(&["client", "revoke-all", "alice", "--iss", IDP, "--reason", "left", "--json"]);
    assert_eq!([&revocation["iss"], &revocation["sub"]], [&json!(IDP), &json!("alice")]);
    assert_eq!(revocation["affected"], json!({"delegations": 3, "tokens": 1, "at_least": false}));
    for (id, ended_by) in [("D", Value::Null), ("F", json!("D"))] {
        let shown = stage.json(&["delegation", "show", id, "--json"]);
        assert_eq!([&shown["state"], &shown["ended_by"]], [&json!("revoked"), &ended_by], "{shown}");
    }
    assert_eq!(status().await, 400);
    let yaml = format!(
        "delegations:\n  - {{id: D2, delegator: {{iss: \"{IDP}\", sub: alice}}, delegate: agent, expires_in: 600}}"
    );
    std::fs::write(stage.path("afresh.yaml"), yaml).unwrap();
    assert_eq!(say(&stage, &["apply", "-f", stage.path("afresh.yaml").to_str().unwrap()]).code, 0);
    assert_eq!(stage.json(&["delegation", "show", "D2", "--json"])["state"], "active");
    let by_client = stage.json(&["client", "revoke-all", "second", "--json"]);
    assert_eq!([&by_client["iss"], &by_client["sub"]], [&json!("http://127.0.0.1:1"), &json!("second")]);
    assert_eq!(by_client["affected"]["delegations"], 0, "it had nothing left");
}

#[test]
fn what_commands_say_to_people_is_on_standard_output() {
    let stage = Stage::new();
    let _server = stage.serve();
    stage.declare();
    let asked = say(
        &stage,
        &["delegation", "request", "--delegate", "agent", "--delegator-iss", IDP, "--delegator", "bob"],
    );
    let line = asked.out.lines().find(|line| line.starts_with("id ")).unwrap();
    let id = line.split('"').nth(1).unwrap();
    for (arguments, part) in [
        (&["delegation", "show", id][..], "\"requested\""),
        (&["delegation", "approve", id], "\"active\""),
        (&["delegation", "renew", id, "--expires-in", "7200"], "\"active\""),
        (&["delegation", "revoke", id], "\"delegations\":1"),
        (&["delegation", "list", "--state", "revoked"], id),
        (&["client", "disable", "agent"], "\"disabled\""),
        (&["client", "enable", "agent"], "\"enabled\""),
        (&["client", "revoke-all", "agent"], "\"affected\"".trim_matches('"')),
    ] {
        let said = say(&stage, arguments);
        assert!(
            said.code == 0 && said.out.contains(part) && said.err.is_empty(),
            "{arguments:?}: {}",
            said.out
        );
    }
}
