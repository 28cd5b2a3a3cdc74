//! `actchain hook` with the JSON that agents' programs give their hooks.

use std::process::Stdio;

use actchain_client::Key;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::support::world::{IDP, World};

/// Nothing listens there.
const AWAY: &str = "http://127.0.0.1:1";

/// A coding agent with a key, a delegation `C`, and a queue.
struct Coder {
    world: World,
    folder: TempDir,
}

impl Coder {
    async fn new() -> Self {
        let world = World::new().await;
        #[expect(clippy::disallowed_methods, reason = "the command uses the clock of the machine")]
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        world.server.pass(now - world.server.now());
        let key = Key::generate().unwrap();
        let issuer = &world.server.app.issuer;
        let yaml = format!(
            r#"clients:
  - {{id: coder, kind: agent, auth: private_key_jwt, jwks: {{keys: [{}]}}, scopes: [mail.read, actchain.delegate],
     audiences: ["{issuer}"], grant_types: [token-exchange, client_credentials]}}
delegations:
  - {{id: C, delegator: {{iss: "{IDP}", sub: alice}}, delegate: coder, expires_in: 3600}}
"#,
            key.public_jwk()
        );
        world.server.apply(&yaml).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key.pem"), key.to_pem().expose_secret()).unwrap();
        Self { world, folder }
    }

    /// Runs the hook with an input; the answer, or null for none.
    async fn hook(&self, server: &str, input: &Value, more: &[&str]) -> Value {
        self.hook_with(server, input.to_string().as_bytes(), more).await
    }

    async fn hook_with(&self, server: &str, input: &[u8], more: &[&str]) -> Value {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_actchain"))
            .env_clear()
            .args(["hook", "--server", server, "--client", "coder", "--key", &path("key.pem")])
            .args(["--delegation", "C", "--queue", &path("queue")])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        match output.stdout.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&output.stdout).unwrap(),
        }
    }

    async fn own(&self, input: &Value) -> Value {
        self.hook(&self.world.server.app.issuer.clone(), input, &[]).await
    }

    async fn steps(&self) -> Vec<Value> {
        let mut events = self.world.server.events().await;
        events.retain(|event| event["action"] == "delegation.step");
        events
    }
}

fn before(command: &str, id: &str) -> Value {
    json!({"session_id": "5b2e1f0c-claude", "transcript_path": "/home/alice/.claude/projects/x/1.jsonl", "cwd": "/home/alice/x",
        "permission_mode": "default", "hook_event_name": "PreToolUse", "tool_name": "Bash",
        "tool_input": {"command": command, "description": "What it does"}, "tool_use_id": id})
}

fn after(command: &str, id: &str, response: Value) -> Value {
    let mut input = before(command, id);
    input["hook_event_name"] = "PostToolUse".into();
    input["tool_response"] = response;
    input
}

fn stop() -> Value {
    json!({"session_id": "5b2e1f0c-claude", "hook_event_name": "Stop", "stop_hook_active": false})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_asked_about_before_and_reported_after_its_use() {
    let coder = Coder::new().await;
    assert_eq!(coder.own(&before("ls", "toolu_1")).await, Value::Null, "the program decides as always");
    let response = json!({"stdout": "a\u{0}b", "stderr": "", "interrupted": false});
    assert_eq!(coder.own(&after("ls", "toolu_1", response)).await, Value::Null);
    let denied =
        coder.own(&before("curl --unix-socket /var/run/docker.sock http://localhost/info", "toolu_2")).await;
    let answer = &denied["hookSpecificOutput"];
    assert_eq!(
        (&answer["hookEventName"], &answer["permissionDecision"]),
        (&json!("PreToolUse"), &json!("deny"))
    );
    assert!(answer["permissionDecisionReason"].as_str().unwrap().contains("CE-"), "{denied}");
    assert_eq!(coder.own(&stop()).await, Value::Null);
    let steps = coder.steps().await;
    let said: Vec<(&Value, &Value)> =
        steps.iter().map(|one| (&one["detail"]["outcome"], &one["detail"]["decision"])).collect();
    assert_eq!(
        said,
        [
            (&json!("proposed"), &json!("allow")),
            (&json!("succeeded"), &Value::Null),
            (&json!("proposed"), &json!("block"))
        ]
    );
    assert!(steps[1]["texts"]["output"].as_str().unwrap().contains("a\u{fffd}b"), "{}", steps[1]);
    let sessions: Vec<&Value> = steps.iter().map(|one| &one["session_id"]).collect();
    assert!(sessions.iter().all(|id| *id == sessions[0]), "one session by the name of the program's");
    assert_eq!(coder.world.shown("C").await["uses"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_misses_waits_on_disk_and_is_recorded_once() {
    let coder = Coder::new().await;
    let answer = coder.hook(AWAY, &before("make", "toolu_1"), &[]).await;
    assert_eq!(answer["hookSpecificOutput"]["permissionDecision"], "ask");
    let answer = coder.hook(AWAY, &before("make", "toolu_2"), &["--when-away", "deny"]).await;
    assert_eq!(answer["hookSpecificOutput"]["permissionDecision"], "deny");
    let answer = coder.hook(AWAY, &before("make", "toolu_3"), &["--when-away", "allow"]).await;
    assert_eq!(answer, Value::Null);
    coder.hook(AWAY, &after("make", "toolu_3", json!("ok")), &[]).await;
    // The machine stopped while the last line was written.
    let waiting = coder.folder.path().join("queue/waiting.jsonl");
    let mut text = std::fs::read_to_string(&waiting).unwrap();
    assert_eq!(text.lines().count(), 4);
    text.push_str(r#"{"key":"half"#);
    // In the middle of a character.
    std::fs::write(&waiting, [text.as_bytes(), b"\xc3"].concat()).unwrap();
    assert!(coder.steps().await.is_empty());
    coder.own(&after("make test", "toolu_4", json!("ok"))).await;
    let seen = |steps: &[Value]| {
        let one = |step: &Value| {
            (step["detail"]["tool_use_id"].as_str().unwrap().to_owned(), step["detail"]["outcome"].clone())
        };
        steps.iter().map(one).collect::<Vec<_>>()
    };
    let expected = [
        ("toolu_1", "proposed"),
        ("toolu_2", "proposed"),
        ("toolu_3", "proposed"),
        ("toolu_3", "succeeded"),
        ("toolu_4", "succeeded"),
    ];
    let expected: Vec<_> = expected.map(|(id, outcome)| (id.to_owned(), json!(outcome))).into();
    assert_eq!(seen(&coder.steps().await), expected);
    coder.own(&stop()).await;
    assert_eq!(seen(&coder.steps().await), expected, "nothing waits any more");
    // What will never be accepted is kept, and delays nothing.
    coder.world.moves("alice", "C", "revoke", json!({})).await.with_status(200);
    coder.own(&after("make", "toolu_5", json!("ok"))).await;
    let refused = std::fs::read_to_string(coder.folder.path().join("queue/refused.jsonl")).unwrap();
    assert!(refused.contains("delegation_revoked") && refused.contains("toolu_5"), "{refused}");
    assert_eq!(std::fs::read_to_string(&waiting).unwrap(), "");
    let denied = coder.own(&before("make", "toolu_6")).await;
    assert_eq!(
        denied["hookSpecificOutput"]["permissionDecision"], "deny",
        "no step under a revoked delegation"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_step_is_answered_as_the_server_answers_and_long_texts_keep_their_ends() {
    let coder = Coder::new().await;
    let plain = json!({"session_id": "job-7", "tool": "search", "outcome": "proposed", "input": "weather"});
    assert_eq!(coder.own(&plain).await["decision"], "allow");
    let long = format!("{}{}", "ä".repeat(20_000), "end");
    coder.own(&json!({"tool": "read", "outcome": "succeeded", "output": long})).await;
    let step = coder.steps().await.pop().unwrap();
    let kept = step["texts"]["output"].as_str().unwrap();
    assert!(
        kept.len() <= 16 * 1024 && kept.starts_with('ä') && kept.ends_with("äend") && kept.contains("[…]")
    );
    // What is not examined whole is not done.
    let hidden = format!(
        "# {}\ncurl --unix-socket /var/run/docker.sock http://localhost/info\n# {}",
        "x".repeat(12_000),
        "x".repeat(6_000)
    );
    let denied = coder.own(&before(&hidden, "toolu_9")).await;
    assert_eq!(denied["hookSpecificOutput"]["permissionDecision"], "deny");
    assert_eq!(
        coder.own(&json!({"tool": "Bash", "outcome": "proposed", "input": hidden})).await["decision"],
        "block"
    );
    // A tool whose name is none here, and bytes that are no UTF-8.
    let odd = after("ls", "toolu 1", json!("x")).to_string().replace("\"Bash\"", "\"my tool\"");
    let odd = [odd.replace("\"x\"", "\"").into_bytes(), b"\xff\"}".to_vec()].concat();
    coder.hook_with(&coder.world.server.app.issuer.clone(), &odd, &[]).await;
    let step = coder.steps().await.pop().unwrap();
    assert_eq!(
        (&step["detail"]["tool"], &step["detail"]["tool_use_id"]),
        (&json!("my_tool"), &json!("toolu_1"))
    );
}
