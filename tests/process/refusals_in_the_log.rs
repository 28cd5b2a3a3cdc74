//! What a server logs about refused requests and about rows that are not authentic.

use serde_json::Value;
use sqlx::Executor as _;

use crate::stage::{Stage, send, sql, until};

/// Lines of the log with a cause.
fn causes(stage: &Stage) -> Vec<Value> {
    let log = std::fs::read_to_string(stage.path("server.log")).unwrap_or_default();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line.get("cause").is_some()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_cause_of_a_refused_token_and_its_request_but_not_the_token() {
    let stage = Stage::new();
    stage.declare();
    let server = stage.serve();
    let token = stage.users_token();
    // Complete except for its signature.
    let (input, signature) = token.rsplit_once('.').unwrap();
    let other = signature.chars().rev().collect::<String>();
    let forged = format!("{input}.{}", &other[..other.len() - 1]);
    let (status, answer) = send(&server.base, &stage.exchange().set("subject_token", &forged)).await.unwrap();
    assert_eq!((status, &answer["reason"]), (400, &Value::from("subject_token_invalid")), "{answer}");
    assert!(answer.get("cause").is_none());
    until("the refusal is in the log", || !causes(&stage).is_empty());
    let line = causes(&stage).remove(0);
    assert_eq!(line["reason"], "subject_token_invalid");
    assert!(["signature", "malformed"].contains(&line["cause"].as_str().unwrap()), "{line}");
    assert!(line["span"]["request_id"].is_string(), "{line}");
    let log = std::fs::read_to_string(stage.path("server.log")).unwrap();
    assert!(!log.contains(input));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_not_authentic_is_an_error_in_the_log_and_fails_the_command() {
    let stage = Stage::new();
    stage.declare();
    let server = stage.serve();
    let widen = "UPDATE delegation SET max_depth = 9 WHERE id = 'D'";
    sql(&stage).await.execute(widen).await.unwrap();
    let (status, answer) = send(&server.base, &stage.exchange()).await.unwrap();
    assert_eq!(status, 503, "{answer}");
    let line = || {
        let log = std::fs::read_to_string(stage.path("server.log")).unwrap();
        let lines =
            log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>();
        lines.into_iter().find(|line| line["table"] == "delegation")
    };
    until("the row is in the log", || line().is_some());
    let line = line().unwrap();
    assert_eq!((&line["level"], &line["id"]), (&Value::from("ERROR"), &Value::from("D")), "{line}");
    let shown = stage.run(&["delegation", "show", "D"]);
    let said = String::from_utf8_lossy(&shown.stderr);
    assert_eq!(shown.status.code(), Some(2), "{said}");
    assert!(said.contains("delegation D: the row is not authentic"), "{said}");
}
