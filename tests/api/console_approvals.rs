//! Decisions in the console: what was shown is what is approved, and what waits for whom.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::support::browser::{Browser, form};
use crate::support::ends::ClosedGate;
use crate::support::world::{IDP, MAIL, World};

/// A request of `user-proxy` for Bob's authority.
async fn asked(world: &World, more: Value) -> String {
    let mut body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read", "mail.send"],
                          "audiences": [MAIL], "expires_in": 7200, "max_uses": 5});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.as_agent(&world.user_proxy, "POST", "/delegate", body).await.with_status(202).id()
}

/// Bob's delegation, whose `mail.send` is confirmed each time, with a use that waits for it.
async fn reserved(world: &World) -> (String, String) {
    let terms = json!({"scopes": ["mail.send"], "ceremony_required_for": ["mail.send"]});
    let id = world.granted("bob", terms).await.with_status(201).id();
    let answer = world.first_hop_of("bob").param("scope", "mail.send").send().await;
    answer.assert_refused(400, "insufficient_user_authentication", "ceremony_required");
    (id, answer.json["ceremony"].as_str().unwrap().to_owned())
}

/// Waits until a transaction of this database waits for a row that another one has locked.
async fn waits_for_a_row(sql: &mut PgConnection) {
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                                  WHERE a.datname = current_database() AND NOT l.granted AND l.locktype = 'transactionid')";
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut *sql).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

/// Writes that change the terms of a request, as a writer of the program would: with the MAC of the row.
async fn widen(world: &World, id: &str) {
    let mut sql = world.server.sql().await;
    sqlx::query("UPDATE delegation SET max_uses = 50, mac = NULL WHERE id = $1")
        .bind(id)
        .execute(&mut sql)
        .await
        .unwrap();
    world.server.seal_rows().await;
}

async fn refusals(world: &World, action: &str) -> Vec<Value> {
    let events = world.server.documents().await;
    events.into_iter().filter(|one| one["action"] == action).map(|one| one["reason"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_before_the_transaction_that_decides_is_not_approved() {
    let world = World::new().await;
    let server = &world.server;
    let id = asked(&world, json!({})).await;
    let mut browser = Browser::of_operator(server).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    let mut gate = ClosedGate::of(server).await;
    let approve = form(&page, "/approve");
    let changing = async {
        // The page was compared with the request; the transaction waits for its first lock.
        gate.has_waiting(1).await;
        widen(&world, &id).await;
        gate.open().await;
    };
    let (answer, ()) = tokio::join!(browser.submit(&approve), changing);
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(answer.text.contains("<bdi>5</bdi>") && answer.text.contains("<bdi>50</bdi>"), "{}", answer.text);
    assert!(answer.text.contains(&format!("href=\"/console/approvals/{id}\"")), "{}", answer.text);
    assert_eq!(world.shown(&id).await["state"], "requested");
    assert_eq!(refusals(&world, "delegation.approval_refused").await, [json!("request_changed")]);
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    assert_eq!(browser.submit(&form(&page, "/approve")).await.status, 200);
    assert_eq!(world.shown(&id).await["max_uses"], 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_commits_while_a_decision_waits_for_the_row_is_shown() {
    let world = World::new().await;
    let server = &world.server;
    let id = asked(&world, json!({})).await;
    let mut browser = Browser::of_operator(server).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    let approve = form(&page, "/approve");
    let (mut holding, mut watching) = (server.sql().await, server.sql().await);
    let mut change = holding.begin().await.unwrap();
    change
        .execute(sqlx::query("UPDATE delegation SET suspended_at = now() WHERE id = $1").bind(&id))
        .await
        .unwrap();
    let changing = async {
        waits_for_a_row(&mut watching).await;
        change.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(browser.submit(&approve), changing);
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(answer.text.contains("suspended since"), "{}", answer.text);
    assert_eq!(world.shown(&id).await["state"], "requested");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_that_changes_while_its_confirmation_waits_is_not_allowed() {
    let world = World::new().await;
    let server = &world.server;
    let (id, ceremony) = reserved(&world).await;
    let bob = Principal::new(IDP, "bob");
    let mut browser = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    let approve = form(&page, &format!("/uses/{ceremony}/approve"));
    let (mut holding, mut watching) = (server.sql().await, server.sql().await);
    let mut change = holding.begin().await.unwrap();
    change.execute("UPDATE ceremony SET scopes = '{mail.read,mail.send}'").await.unwrap();
    let changing = async {
        waits_for_a_row(&mut watching).await;
        change.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(browser.submit(&approve), changing);
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(answer.text.contains("mail.read"), "{}", answer.text);
    assert_eq!(refusals(&world, "delegation.ceremony_approval_refused").await, [json!("request_changed")]);
    assert_eq!(world.first_hop_of("bob").param("scope", "mail.send").send().await.status, 400);
}
