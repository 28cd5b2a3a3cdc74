//! `actchain connection …`: output, refusals, exit codes, and that no secret is printed.

use std::io::Write as _;
use std::process::Stdio;

use actchain::platform::secret::MasterKey;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::stage::{Stage, complaints, sql, write_private};

const IDP: &str = "https://idp.example.com";
const OURS: &str = "the-secret-of-us-at-acme";
const ACCESS: &str = "an-access-token-of-alice";
const REFRESH: &str = "a-refresh-token-of-alice";
const KEY: &str = "an-api-key-of-bob";
const PASSWORD: &str = "a-password-of-bob";

struct Said {
    code: i32,
    out: String,
    err: String,
}

/// Runs a command with text on its standard input.
fn say_to(stage: &Stage, arguments: &[&str], input: &str) -> Said {
    let mut child = stage
        .command()
        .args(arguments)
        .env("ACTCHAIN_ISSUER", "http://127.0.0.1:1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: complaints(&output.stderr) }
}

fn say(stage: &Stage, arguments: &[&str]) -> Said {
    say_to(stage, arguments, "")
}

/// A refused command: exit code 1, the reason on standard error, and nothing on standard output.
#[track_caller]
fn refused(said: &Said, complaint: &str) {
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{}", said.err);
    assert!(said.err.starts_with(&format!("actchain: {complaint}: ")), "{}", said.err);
}

/// A failed command: exit code 2, a message with all these parts, and nothing on standard output.
#[track_caller]
fn failed(said: &Said, parts: &[&str]) {
    assert_eq!((said.code, said.out.as_str()), (2, ""), "{}", said.err);
    assert!(parts.iter().all(|part| said.err.contains(part)), "{parts:?}: {}", said.err);
}

/// Declares providers of three kinds, and users with accounts there.
fn declare(stage: &Stage) {
    stage.declare();
    let yaml = format!(
        "providers:
  - {{id: acme, name: Acme, token_endpoint: \"http://127.0.0.1:9/token\", revocation_endpoint: \"http://127.0.0.1:9/revoke\",
     client_id: us-at-acme, client_secret: {OURS}, scopes: [files.read]}}
  - {{id: keys, kind: api_key, header: x-api-key, hosts: [api.keys.example.com]}}
  - {{id: logins, kind: basic}}"
    );
    std::fs::write(stage.path("providers.yaml"), yaml).unwrap();
    let applied = say(stage, &["apply", "-f", stage.path("providers.yaml").to_str().unwrap()]);
    assert_eq!(applied.code, 0, "{}", applied.err);
}

fn import(stage: &Stage, (provider, owner): (&str, &str), credential: &Value) -> Said {
    let arguments =
        ["connection", "import", "--provider", provider, "--owner-iss", IDP, "--owner-sub", owner, "--json"];
    say_to(stage, &[&arguments[..], &["--file", "-"]].concat(), &credential.to_string())
}

fn imported(stage: &Stage, whose: (&str, &str), credential: &Value) -> Value {
    let said = import(stage, whose, credential);
    assert_eq!(said.code, 0, "{}", said.err);
    serde_json::from_str(&said.out).unwrap()
}

fn tokens() -> Value {
    json!({"access_token": ACCESS, "expires_in": 600, "refresh_token": REFRESH, "scope": "files.read"})
}

#[test]
fn a_credential_is_imported_listed_shown_replaced_and_ended_and_no_secret_shows_anywhere() {
    let stage = Stage::new();
    let server = stage.serve();
    declare(&stage);
    let mut said = Vec::new();
    let mut keep = |one: Said, code: i32| {
        assert_eq!(one.code, code, "{}", one.err);
        said.push(one.out.clone() + &one.err);
        one
    };
    std::fs::write(stage.path("tokens.json"), tokens().to_string()).unwrap();
    let file = stage.path("tokens.json").display().to_string();
    let arguments =
        ["connection", "import", "--provider", "acme", "--owner-iss", IDP, "--owner-sub", "alice"];
    let made = [&arguments[..], &["--name", "at work", "--file", &file, "--json"]].concat();
    let made: Value = serde_json::from_str(&keep(say(&stage, &made), 0).out).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(
        [&made["provider"], &made["state"], &made["name"], &made["scopes"], &made["has_refresh_token"]],
        [&json!("acme"), &json!("active"), &json!("at work"), &json!(["files.read"]), &json!(true)]
    );
    assert_eq!(made["owner"], json!({"iss": IDP, "sub": "alice"}));
    let key = keep(import(&stage, ("keys", "bob"), &json!({"key": KEY})), 0).out;
    let key: Value = serde_json::from_str(&key).unwrap();
    keep(import(&stage, ("logins", "bob"), &json!({"username": "bob", "password": PASSWORD})), 0);
    let shown = keep(say(&stage, &["connection", "show", &id, "--json"]), 0);
    assert_eq!(serde_json::from_str::<Value>(&shown.out).unwrap(), made);
    let shown = keep(say(&stage, &["connection", "show", &id]), 0);
    assert!(shown.out.contains("\"at work\"") && shown.err.is_empty(), "{}", shown.out);
    let listed = keep(say(&stage, &["connection", "list"]), 0);
    let lines: Vec<&str> = listed.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", listed.out);
    assert!(lines[0].starts_with(&id) && lines[0].contains("active") && lines[0].contains("alice"));
    let rotate = ["connection", "rotate", &id, "--json", "-f", "-"];
    let next = json!({"access_token": format!("{ACCESS}-2")});
    let rotated = keep(say_to(&stage, &rotate, &next.to_string()), 0);
    let rotated: Value = serde_json::from_str(&rotated.out).unwrap();
    assert_eq!([&rotated["has_refresh_token"], &rotated["expires_at"]], [&json!(false), &Value::Null]);
    // Its provider cannot be reached: the end is in force all the same.
    let ended = keep(say(&stage, &["connection", "disconnect", &id, "--reason", "enough", "--json"]), 0);
    assert!(ended.err.contains("could not be informed"), "{}", ended.err);
    let ended: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!([&ended["state"], &ended["provider_revoked"]], [&json!("disconnected"), &json!(false)]);
    let ended = keep(say(&stage, &["connection", "disconnect", key["id"].as_str().unwrap()]), 0);
    assert!(ended.out.contains("\"disconnected\"") && ended.err.is_empty(), "{}{}", ended.out, ended.err);
    refused(&keep(say(&stage, &["connection", "disconnect", &id]), 1), "connection_disconnected");
    refused(&keep(say_to(&stage, &rotate, &next.to_string()), 1), "connection_disconnected");
    let providers = keep(say(&stage, &["connection", "providers", "--json"]), 0);
    let providers: Value = serde_json::from_str(&providers.out).unwrap();
    let ids: Vec<&Value> = providers["items"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, ["acme", "keys", "logins"]);
    assert_eq!(providers["items"][0]["oauth"]["client_id"], "us-at-acme");
    let drawn = keep(say(&stage, &["connection", "providers"]), 0);
    assert!(drawn.out.lines().next().unwrap().contains("http://127.0.0.1:9/token"), "{}", drawn.out);
    let tail = keep(say(&stage, &["audit", "tail", "-n", "100"]), 0).out;
    let events: Vec<Value> = tail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_it = events.iter().filter(|event| event["target"] == *id);
    let parts: Vec<[&Value; 3]> =
        of_it.map(|event| [&event["action"], &event["outcome"], &event["actor"]["type"]]).collect();
    let (success, operator) = (json!("success"), json!("operator"));
    let [created, changed, ended] =
        ["created", "rotated", "disconnected"].map(|what| json!(format!("vault.connection.{what}")));
    assert_eq!(
        parts[..3],
        [[&created, &success, &operator], [&changed, &success, &operator], [&ended, &success, &operator]]
    );
    drop(server);
    said.push(std::fs::read_to_string(stage.path("server.log")).unwrap());
    for secret in [OURS, ACCESS, REFRESH, KEY, PASSWORD] {
        assert!(!said.iter().any(|text| text.contains(secret)), "{secret} shows");
    }
}

#[test]
fn lists_are_filtered() {
    let stage = Stage::new();
    let _server = stage.serve();
    declare(&stage);
    let id = |one: &Value| one["id"].as_str().unwrap().to_owned();
    let alices = id(&imported(&stage, ("acme", "alice"), &tokens()));
    let bobs = id(&imported(&stage, ("keys", "bob"), &json!({"key": KEY})));
    let (alices, bobs) = (alices.as_str(), bobs.as_str());
    let list = |more: &[&str]| {
        let found = stage.json(&[&["connection", "list", "--json"], more].concat());
        found["items"].as_array().unwrap().iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(list(&[]), [alices, bobs], "oldest first");
    assert_eq!(list(&["--owner-iss", IDP, "--owner-sub", "bob"]), [bobs]);
    assert_eq!(list(&["--provider", "acme", "--state", "active"]), [alices]);
    assert_eq!(list(&["--provider", "logins"]), Vec::<String>::new());
    assert_eq!(say(&stage, &["connection", "disconnect", bobs]).code, 0);
    assert_eq!(list(&["--state", "disconnected"]), [bobs]);
    assert_eq!(list(&["--state", "needs_reconnect"]), Vec::<String>::new());
    for arguments in [
        &["connection"][..],
        &["connection", "list", "--state", "asleep"],
        &["connection", "list", "--owner-sub", "bob"],
        &["connection", "show"],
        &["connection", "import", "--provider", "keys", "--owner-iss", IDP, "--owner-sub", "bob"],
    ] {
        let said = say(&stage, arguments);
        assert!(said.code == 2 && said.out.is_empty() && !said.err.is_empty(), "{arguments:?}: {}", said.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_whole_however_many_there_are() {
    let stage = Stage::new();
    declare(&stage);
    let server = stage.serve();
    for _ in 0..101 {
        let storing = stage.storing(json!({"provider": "keys", "credential": {"key": KEY}}));
        storing.send_to(&server.base).await.unwrap().with_status(201);
    }
    let listed = stage.json(&["connection", "list", "--json"]);
    let ids = listed["items"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap());
    assert_eq!(ids.collect::<std::collections::BTreeSet<_>>().len(), 101);
    assert_eq!(say(&stage, &["connection", "list"]).out.lines().count(), 101);
}

#[test]
fn what_is_no_credential_of_its_provider_is_refused_and_never_repeated() {
    let stage = Stage::new();
    let _server = stage.serve();
    declare(&stage);
    let arguments =
        ["connection", "import", "--provider", "acme", "--owner-iss", IDP, "--owner-sub", "alice"];
    let from = |file: &str, input: &str| say_to(&stage, &[&arguments[..], &["--file", file]].concat(), input);
    for text in [
        "",
        ACCESS,
        &json!(ACCESS).to_string(),
        &json!([ACCESS]).to_string(),
        &json!({"access_token": ACCESS, "expires_in": REFRESH}).to_string(),
        &json!({"access_token": ACCESS, REFRESH: 1}).to_string(),
        &format!("{{\"access_token\": \"{ACCESS}\", \"access_token\": \"{REFRESH}\"}}"),
    ] {
        let said = from("-", text);
        failed(&said, &["reading -", "not a JSON object"]);
        assert!(!said.err.contains(ACCESS) && !said.err.contains(REFRESH), "{}", said.err);
    }
    failed(&from("nowhere.json", ""), &["nowhere.json"]);
    for credential in [json!({}), json!({"key": KEY}), json!({"access_token": "an\u{7}other"})] {
        let said = from("-", &credential.to_string());
        refused(&said, "malformed_request");
        assert!(!said.err.contains(KEY), "{}", said.err);
    }
    refused(&import(&stage, ("unknown", "alice"), &tokens()), "provider_unknown");
    let elsewhere = ["--owner-iss", "https://other.example.com", "--owner-sub", "alice", "--file", "-"];
    let elsewhere = [&["connection", "import", "--provider", "acme"], &elsewhere[..]].concat();
    refused(&say_to(&stage, &elsewhere, &tokens().to_string()), "delegator_unknown");
    for arguments in [["show", "nothing"], ["disconnect", "nothing"]] {
        refused(&say(&stage, &[&["connection"], &arguments[..]].concat()), "not_found");
    }
    let rotate = ["connection", "rotate", "nothing", "-f", "-"];
    refused(&say_to(&stage, &rotate, &tokens().to_string()), "not_found");
    assert_eq!(stage.json(&["connection", "list", "--json"]), json!({"items": []}));
}

#[test]
fn another_master_key_is_named_and_nothing_is_begun_under_it() {
    let stage = Stage::new();
    let server = stage.serve();
    declare(&stage);
    let id = imported(&stage, ("acme", "alice"), &tokens())["id"].as_str().unwrap().to_owned();
    let right = std::fs::read_to_string(stage.data_dir().join("master.key")).unwrap();
    let right = MasterKey::parse(&right.into()).unwrap();
    let wrong = MasterKey::generate().unwrap();
    write_private(&stage.path("other.key"), wrong.to_text().expose_secret());
    let under_another = |arguments: &[&str]| {
        let mut child = stage
            .command()
            .args(arguments)
            .env("ACTCHAIN_ISSUER", "http://127.0.0.1:1")
            .env("ACTCHAIN_MASTER_KEY_FILE", stage.path("other.key"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(tokens().to_string().as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: complaints(&output.stderr),
        }
    };
    let import = ["connection", "import", "--provider", "acme", "--owner-iss", IDP, "--owner-sub", "bob"];
    let complaint = [right.id(), wrong.id()];
    let parts = [complaint[0].as_str(), &complaint[1], "master key"];
    for arguments in [
        &[&import[..], &["--file", "-"]].concat()[..],
        &["connection", "rotate", &id, "--file", "-"],
        &["connection", "disconnect", &id],
        // Without the key, forged rows cannot be detected.
        &["connection", "show", &id],
    ] {
        let said = under_another(arguments);
        failed(&said, &parts);
        assert!(!said.err.contains(ACCESS) && !said.err.contains(wrong.to_text().expose_secret()));
    }
    let listed = stage.json(&["connection", "list", "--json"]);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["state"], "active");
    drop(server);
}

#[test]
fn rekeying_survives_being_killed_and_another_master_key_takes_over() {
    let stage = Stage::new();
    let server = stage.serve();
    declare(&stage);
    for n in 0..8 {
        let owner = format!("user-{n}");
        imported(&stage, ("keys", &owner), &json!({"key": format!("{KEY}-{n}")}));
    }
    let rekey = || {
        let mut command = stage.command();
        command.args(["connection", "rekey", "--json"]).env("ACTCHAIN_ISSUER", "http://127.0.0.1:1");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut database = runtime.block_on(sql(&stage));
    let mut sealing = || {
        let active = "SELECT id FROM data_key WHERE retired_at IS NULL";
        runtime.block_on(sqlx::query_scalar::<_, String>(active).fetch_one(&mut database)).unwrap()
    };
    let mut killed = 0;
    for round in 0..12 {
        let before = sealing();
        let mut child = rekey().spawn().unwrap();
        // Killed at once in even rounds, and after a new data key is in use in odd rounds.
        while round % 2 == 1 && sealing() == before && child.try_wait().unwrap().is_none() {}
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
    }
    assert!(killed > 0, "it was never interrupted");
    // Resealing opens each secret first, so each secret is still readable. Three are client secrets of this server at
    // providers.
    let done = || -> Value {
        let output = rekey().output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    done();
    let whole = done();
    assert_eq!(
        (&whole["sealed"], &whole["resumed"], &whole["wrapped"]),
        (&json!(11), &json!(false), &json!(0))
    );
    // Another master key, while the server runs with the old key.
    let next = MasterKey::generate().unwrap();
    write_private(&stage.path("next.key"), next.to_text().expose_secret());
    let output = rekey()
        .env("ACTCHAIN_MASTER_KEY_FILE", stage.path("next.key"))
        .env("ACTCHAIN_PREVIOUS_MASTER_KEY_FILE", stage.data_dir().join("master.key"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let taken_over: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(taken_over["sealed"], 11);
    assert!(taken_over["wrapped"].as_i64().unwrap() >= 5, "{taken_over}");
    drop(server);
    let complaint = stage.try_serve().err().expect("the old key alone opens nothing any more");
    assert!(complaint.contains(&next.id()), "{complaint}");
}
