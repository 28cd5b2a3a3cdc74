//! `actchain top --once` as a process, on the embedded and on an external database.

use std::process::{Command, Output};

use actchain_embedded_postgres::Durability;
use serde_json::{Value, json};

use crate::external::outside;
use crate::stage::{Server, Stage, send, until};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A stage whose commands and servers use one database.
struct Watched {
    stage: Stage,
    environment: Vec<(&'static str, String)>,
}

impl Watched {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.stage.command();
        command.args(arguments).envs(self.environment.iter().cloned());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn json(&self) -> Value {
        let output = self.run(&["top", "--once", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Two exchanges, a refusal with a finding, and a request that waits.
    async fn play(&self, server: &Server) {
        self.stage.declare_scope(self.command(&[]));
        for _ in 0..2 {
            assert_eq!(send(&server.base, &self.stage.exchange()).await.unwrap().0, 200);
        }
        let (status, refused) =
            send(&server.base, &self.stage.exchange().param("scope", "mail.send")).await.unwrap();
        assert_eq!(status, 400, "{refused}");
        let request = ["delegation", "request", "--delegate", "agent", "--delegator", "bob"];
        let requested = self.run(&[&request[..], &["--delegator-iss", "https://idp.example.com"]].concat());
        assert!(requested.status.success(), "{}", text(&requested.stderr));
    }

    async fn shows_what_happened(&self, server: Server) {
        let empty = self.json();
        assert_eq!(
            (&empty["chains"], &empty["findings"], &empty["waiting"]["number"]),
            (&json!([]), &json!([]), &json!(0))
        );
        self.play(&server).await;
        let read = self.json();
        let seconds: Vec<&Value> =
            read["rates"].as_array().unwrap().iter().map(|window| &window["seconds"]).collect();
        assert_eq!(seconds, [60, 300, 3_600]);
        let hour = &read["rates"][2];
        let counts = ["complete", "exchanges", "refusals", "retrievals", "findings"].map(|name| &hour[name]);
        assert_eq!(counts, [&json!(true), &json!(2), &json!(1), &json!(0), &json!(1)], "{hour}");
        assert_eq!(hour["reasons"], json!({"scope_exceeds_grant": 1}));
        assert_eq!(hour["events"], read["log"]["size"], "the log is younger than an hour");
        let waiting = &read["waiting"];
        assert_eq!((&waiting["number"], &waiting["at_least"]), (&json!(1), &json!(false)));
        let one = &waiting["items"][0];
        assert_eq!(
            (&one["kind"], &one["agent"], &one["delegator"]["sub"]),
            (&json!("request"), &json!("agent"), &json!("bob"))
        );
        let chain = &read["chains"][0];
        assert_eq!(
            (&chain["subject"], &chain["actors"], &chain["state"]),
            (&json!("alice"), &json!(["agent"]), &json!("active"))
        );
        let newest = &read["events"][0];
        assert_eq!(
            (&newest["action"], &newest["by"]),
            (&json!("delegation.created"), &json!("operator")),
            "{newest}"
        );
        let finding = &read["findings"][0];
        assert_eq!(
            (&finding["action"], &finding["reason"]),
            (&json!("oauth.token.refused"), &json!("scope_exceeds_grant"))
        );
        assert_eq!(finding["findings"][0]["rule"], json!("AC-004"));
        assert_eq!(read["log"]["verdict"], json!("consistent"));
        until("the server has verified every event", || {
            let last = self.json()["log"]["last_verification"].clone();
            last.is_object() && last["integrity_error"].is_null()
        });
        let ledger = &read["ledger"];
        assert_eq!(ledger["source"], json!(format!("{}/metrics", server.base)));
        assert!(ledger["batches"].as_u64() >= Some(3) && ledger["commit_ms_mean"].is_f64(), "{ledger}");
        assert_eq!(read["server"]["pid"], json!(server.child.id()));
        let setting = |key: &str| {
            let all = read["settings"].as_array().unwrap();
            all.iter().find(|one| one["key"] == key).unwrap().clone()
        };
        assert_eq!(setting("data_dir")["source_name"], json!("ACTCHAIN_DATA_DIR"));
        assert_eq!(
            setting("database_url").get("secret").is_some(),
            self.environment.iter().any(|(name, _)| *name == "ACTCHAIN_DATABASE_URL")
        );
        assert_eq!(setting("database_url")["value"], Value::Null);

        let shown = text(&self.run(&["top", "--once"]).stdout);
        for part in [
            "actchain top  http://127.0.0.1:1  the database ",
            "exchanges                     0.0       2       2        2\n",
            "✗ scope_exceeds_grant                   1       1        1\n",
            "! request  agent for bob",
            "✓ active  alice → agent",
            "! AC-004 (low)",
            "since the server's start: ",
            "data_dir = ",
        ] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
        assert!(!shown.contains('\u{1b}'), "{shown}");

        drop(server);
        let alone = self.json();
        assert!(alone["ledger"]["not_reachable"].is_string() && alone["ledger"].get("batches").is_none());
        assert_eq!(alone["rates"][2]["exchanges"], json!(2), "the database is read without a server");
        let shown = text(&self.run(&["top", "--once"]).stdout);
        assert!(shown.contains("! metrics not reachable"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reading_shows_what_happened_on_the_embedded_database() {
    let stage = Stage::new();
    stage.declare();
    let server = stage.serve();
    Watched { stage, environment: Vec::new() }.shows_what_happened(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reading_shows_what_happened_on_an_external_database() {
    let stage = Stage::new();
    let (_cluster, environment) = outside(&stage, Durability::On).await;
    let world = stage.world();
    let watched = Watched { stage, environment: environment.to_vec() };
    let mut apply = watched.command(&["apply", "-f", world.to_str().unwrap()]);
    assert!(apply.env("ACTCHAIN_ISSUER", "http://127.0.0.1:1").status().unwrap().success());
    let server = watched.stage.serve_with(&watched.environment).unwrap();
    watched.shows_what_happened(server).await;
}

#[test]
fn what_top_cannot_do_is_said_in_one_line() {
    let stage = Stage::new();
    for (arguments, part) in [
        (&["top", "--init"][..], "--once"),
        (&["top", "--once"], "no data directory"),
        (&["top", "--every", "500ms"], "1s to 1h"),
        (&["top", "--every", "2h"], "1s to 1h"),
        (&["top", "--json"], "--once"),
        (&["top", "--once", "--every", "3s"], "--once"),
    ] {
        let output = stage.command().args(arguments).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(part), "{arguments:?}: {said}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
    let refused = stage.command().args(["top", "--init"]).output().unwrap();
    assert_eq!(text(&refused.stderr).lines().count(), 1);
    assert!(!stage.data_dir().exists(), "a screen that cannot be drawn makes nothing");
}
