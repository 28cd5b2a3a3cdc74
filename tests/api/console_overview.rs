//! The overview, and the state of the log in the frame.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::jobs;
use sqlx::Executor as _;

use crate::support::browser::Browser;
use crate::support::world::{IDP, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_shows_the_first_steps_and_ticks_them_off() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console").await.text;
    assert!(
        page.contains("First steps") && page.contains("actchain apply -f examples/first-exchange.yaml"),
        "{page}"
    );
    assert_eq!(page.matches("done: ").count(), 1, "the clients were declared: {page}");
    assert!(page.contains(&format!("curl -s {}/oauth/token", world.server.app.issuer)), "{page}");
    world.first_hop().await;
    assert!(
        !browser.get("/console").await.text.contains("First steps"),
        "a server with an exchange is not new"
    );
    let mut alice = Browser::of(&world.server, ConsoleRole::User, Some(&Principal::new(IDP, "eve"))).await;
    let page = alice.get("/console").await.text;
    assert!(page.contains("Nothing waits for you.") && page.contains("Checked at"), "{page}");
    assert!(!page.contains("First steps") && !page.contains("An operator entered"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_and_ends_soon_is_shown_to_those_whom_it_concerns() {
    let world = World::new().await;
    let mut alice = Browser::of(&world.server, ConsoleRole::User, Some(&Principal::new(IDP, "alice"))).await;
    let mut eve = Browser::of(&world.server, ConsoleRole::User, Some(&Principal::new(IDP, "eve"))).await;
    assert!(!alice.get("/console").await.text.contains("ends within a day"), "not used");
    world.first_hop().await;
    let page = alice.get("/console").await.text;
    assert!(page.contains("ends within a day") && page.contains("/delegations/D\""), "{page}");
    assert!(!page.contains("/delegations/E\""), "its children end with it");
    assert!(!eve.get("/console").await.text.contains("ends within a day"));
    world.server.revoke("D").await;
    assert!(!alice.get("/console").await.text.contains("ends within a day"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_entry_is_a_bar_for_a_day() {
    let world = World::new().await;
    let (server, ann) = (&world.server, Principal::new(IDP, "ann"));
    // The browser of the test entered as an operator.
    let mut browser = Browser::of(server, ConsoleRole::Admin, Some(&ann)).await;
    let page = browser.get("/console").await.text;
    assert!(page.contains("An operator entered"), "{page}");
    browser.take(&Browser::session(server, ConsoleRole::User, Some(&ann)).await);
    assert!(!browser.get("/console").await.text.contains("An operator entered"), "not for users");
    server.pass(25 * 3_600);
    browser.take(&Browser::session(server, ConsoleRole::Admin, Some(&ann)).await);
    assert!(!browser.get("/console").await.text.contains("An operator entered"), "a day later");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_the_log_is_green_only_where_it_was_checked() {
    let world = World::new().await;
    let server = &world.server;
    let mut auditor = Browser::of(server, ConsoleRole::Auditor, Some(&Principal::new(IDP, "ann"))).await;
    let mut user = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "alice"))).await;
    let badge = |text: &str| {
        let (_, rest) = text.split_once("<details class=\"badge\">").unwrap();
        rest.split("</details>").next().unwrap().to_owned()
    };
    let page = auditor.get("/console").await.text;
    assert!(badge(&page).contains("There is no checkpoint yet."), "{}", badge(&page));
    assert!(!user.get("/console").await.text.contains("class=\"badge\""), "not for users");
    jobs::checkpoint::run_once(&server.app, server.clock.now()).await.unwrap();
    server.pass(61);
    let page = auditor.get("/console").await.text;
    let shown = badge(&page);
    assert!(shown.contains("class=\"warn\"") && shown.contains("No witness is configured"), "{shown}");
    assert!(
        shown.contains("which a key of the log has signed")
            && shown.contains("No verification of every event has ended yet."),
        "{shown}"
    );
    assert!(shown.contains(&format!("by {}", server.app.issuer)), "{shown}");
    // Another event, and no checkpoint for three minutes.
    world.first_hop().await;
    server.pass(181);
    let shown = badge(&auditor.get("/console").await.text);
    assert!(shown.contains("older than three minutes"), "{shown}");
    // The newest checkpoint is replaced by that of another log.
    let mut sql = world.server.sql().await;
    sql.execute("UPDATE audit_checkpoint SET note = replace(note, E'\\n\\n', E'x\\n\\n')").await.unwrap();
    assert!(!auditor.get("/console").await.text.contains("class=\"banner\""), "checked once a minute");
    server.pass(61);
    let page = auditor.get("/console").await.text;
    assert!(badge(&page).contains("class=\"bad\""), "{}", badge(&page));
    assert!(page.contains("class=\"banner\" role=\"alert\""), "{page}");
    assert!(auditor.get("/console/help").await.text.contains("class=\"banner\""), "on every page");
}
