//! `/console/log` and `/console/sinks`: what vouches for the log, how it compares with a kept checkpoint, and where events go.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::jobs;
use serde_json::{Value, json};
use sqlx::Executor as _;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::Server;
use crate::support::browser::{Browser, form};
use crate::support::world::{IDP, World};
use crate::transparency::checkpoint;

fn ann() -> Option<Principal> {
    Some(Principal::new(IDP, "ann"))
}

/// What the page says about a note.
async fn compared(browser: &mut Browser<'_>, note: &str) -> String {
    let page = browser.get("/console/log").await.with_status(200);
    let asked = form(&page, "/console/log/compare").with("note", note);
    let answer = browser.submit(&asked).await.with_status(200);
    let (_, result) = answer.text.split_once("id=\"compared\"").unwrap();
    result.split_once("</div>").unwrap().0.to_owned()
}

/// Removes all events from this one on, with the head that they made.
async fn rewind(server: &Server, to: (i64, Vec<u8>)) {
    let mut sql = server.sql().await;
    sqlx::query("UPDATE audit_head SET size = $1, peaks = $2")
        .bind(to.0)
        .bind(to.1)
        .execute(&mut sql)
        .await
        .unwrap();
    sqlx::query("DELETE FROM audit_event WHERE seq >= $1").bind(to.0).execute(&mut sql).await.unwrap();
    sql.execute("DELETE FROM audit_checkpoint").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_compared_with_a_checkpoint_that_was_kept() {
    let world = World::new().await;
    let server = &world.server;
    let mut user = Browser::of(server, ConsoleRole::User, ann().as_ref()).await;
    assert_eq!(user.get("/console/log").await.status, 404);
    let mut auditor = Browser::of(server, ConsoleRole::Auditor, ann().as_ref()).await;
    world.first_hop().await;
    let head: (i64, Vec<u8>) = sqlx::query_as("SELECT size, peaks FROM audit_head")
        .fetch_one(&mut server.sql().await)
        .await
        .unwrap();
    world.second_hop().await;
    let kept = checkpoint(server).await;
    let page = auditor.get("/console/log").await;
    assert!(page.text.contains("No witness is configured"), "{}", page.text);
    for (word, check) in
        [("no", "A witness or a person outside vouches"), ("yes", "Every sink accepts events")]
    {
        let line = format!(" {word}</span></td><td data-label=\"check\">{check}");
        assert!(page.text.contains(&line), "{line}: {}", page.text);
    }
    assert!(page.text.contains(kept.lines().nth(2).unwrap()), "the root of the checkpoint");
    let row = format!("data-label=\"checkpoint of\">{} events", kept.lines().nth(1).unwrap());
    assert!(page.text.contains(&row) && page.text.contains(">no witness<"), "{row}: {}", page.text);
    world.second_hop().await;
    // As browsers send it, and without its last line end.
    let pasted = kept.trim_end().replace('\n', "\r\n");
    let result = compared(&mut auditor, &pasted).await;
    assert!(result.contains("begins with that of the"), "{result}");
    for foreign in ["", "no checkpoint", &kept.replacen(kept.lines().nth(1).unwrap(), "1", 1)] {
        let result = compared(&mut auditor, foreign).await;
        assert!(result.contains("No key of this log has signed"), "{foreign}: {result}");
    }
    rewind(server, head.clone()).await;
    let result = compared(&mut auditor, &kept).await;
    assert!(result.contains("events were removed from its end"), "{result}");
    for _ in 0..3 {
        world.second_hop().await;
    }
    let result = compared(&mut auditor, &kept).await;
    assert!(result.contains("it was rewritten"), "{result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_shows_what_it_could_not_deliver_and_is_stopped_without_a_fresh_sign_in() {
    let world = World::configured("[audit]\nsink_attempts = 1").await;
    let server = &world.server;
    let receiver = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(500)).mount(&receiver).await;
    let url = format!("{}/hooks/secret-path", receiver.uri());
    let body = json!({"url": url, "filter": {"action": "client.disabled"}});
    world.as_admin("PUT", "/api/v1/audit-sinks/siem", body).await;
    server.disable("stranger").await;
    jobs::sinks::run_once(&server.app, server.clock.now()).await.unwrap();
    let mut auditor = Browser::of(server, ConsoleRole::Auditor, ann().as_ref()).await;
    let list = auditor.get("/console/sinks").await.with_status(200);
    assert!(list.text.contains(&receiver.uri()) && !list.text.contains("secret-path"), "{}", list.text);
    let shown = auditor.get("/console/sinks/siem").await;
    for part in ["status 500", "client.disabled", "data-label=\"attempts\">1<"] {
        assert!(shown.text.contains(part), "{part}: {}", shown.text);
    }
    assert!(!shown.text.contains("<form method=\"post\" action=\"/console/sinks"), "auditors change nothing");
    let mut admin = Browser::of(server, ConsoleRole::Admin, ann().as_ref()).await;
    server.pass(901);
    let page = admin.get("/console/sinks/siem").await;
    assert!(page.text.contains("secret-path"));
    let stopped = admin.submit(&form(&page, "/disable")).await;
    assert!(stopped.text.contains("disabled by an administrator"), "{}", stopped.text);
    assert_eq!(admin.submit(&form(&stopped, "/enable")).await.status, 403, "events leave by it again");
    let mut fresh = Browser::of(server, ConsoleRole::Admin, ann().as_ref()).await;
    let page = fresh.get("/console/sinks/siem").await;
    let again = fresh.submit(&form(&page, "/replay")).await;
    assert!(again.text.contains("soon"), "{}", again.text);
    assert_eq!(fresh.submit(&form(&again, "/enable")).await.status, 200);
    let page = fresh.get("/console/sinks/siem/remove").await;
    let removed = fresh.submit(&form(&page, "/remove")).await;
    assert!(removed.text.contains("No sink"), "{}", removed.text);
    assert_eq!(world.as_admin("GET", "/api/v1/audit-sinks/siem", Value::Null).await.status, 404);
}
