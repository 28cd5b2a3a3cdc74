//! Offline access in the console: in words where a delegation is shown, and removed by a box while approving.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use serde_json::{Value, json};

use crate::support::browser::{Browser, form};
use crate::support::world::{IDP, MAIL, World};

async fn bob(world: &World) -> Browser<'_> {
    Browser::of(&world.server, ConsoleRole::User, Some(&Principal::new(IDP, "bob"))).await
}

async fn asked(world: &World, more: Value) -> String {
    let mut terms = json!({"scopes": ["mail.read"], "audiences": [MAIL]});
    terms.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.asked("bob", terms).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_that_the_agent_would_work_while_the_user_is_away() {
    let world = World::new().await;
    let id = asked(&world, json!({"offline_access": true})).await;
    let mut browser = bob(&world).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await.with_status(200);
    assert!(page.text.contains("May work while the user is away."), "{}", page.text);
    assert!(page.text.contains("work while you are away"), "{}", page.text);
    let approve = form(&page, "/approve");
    assert_eq!(approve.value("offline:access"), "on");
    assert_eq!(browser.submit(&approve).await.status, 200);
    assert_eq!(world.shown(&id).await["offline_access"], true);
    let page = browser.get(&format!("/console/delegations/{id}")).await.with_status(200);
    assert!(page.text.contains("May work while the user is away."), "{}", page.text);
    assert!(page.text.contains("work while the user is away</th><td>allowed"), "{}", page.text);
    let plain = asked(&world, json!({})).await;
    let page = browser.get(&format!("/console/approvals/{plain}")).await.with_status(200);
    assert!(!page.text.contains("away"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_is_not_ticked_removes_it_and_the_decision_says_so() {
    let world = World::new().await;
    let id = asked(&world, json!({"offline_access": true})).await;
    let mut browser = bob(&world).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await.with_status(200);
    let approve = form(&page, "/approve").without("offline:access");
    browser.submit(&approve).await.with_status(200);
    let decided = browser.get(&format!("/console/approvals/{id}")).await.with_status(200);
    assert!(decided.text.contains("works while you are away"), "{}", decided.text);
    let shown = world.shown(&id).await;
    assert_eq!((&shown["offline_access"], &shown["state"]), (&json!(false), &json!("active")));
    let page = browser.get(&format!("/console/delegations/{id}")).await.with_status(200);
    assert!(!page.text.contains("May work while the user is away."), "{}", page.text);
    let answer = world.first_hop_of("bob").send().await.with_status(200);
    assert_eq!(answer.json.get("refresh_token"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_asks_for_it_meanwhile_is_not_approved_as_shown() {
    let world = World::new().await;
    let id = asked(&world, json!({})).await;
    let mut browser = bob(&world).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await.with_status(200);
    let change = "UPDATE delegation SET offline_access = true, mac = NULL WHERE id = $1";
    sqlx::query(change).bind(&id).execute(&mut world.server.sql().await).await.unwrap();
    world.server.seal_rows().await;
    let answer = browser.submit(&form(&page, "/approve")).await;
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert_eq!(world.state(&id).await, "requested");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_delegation_can_return_with_it_or_without_it() {
    let world = World::new().await;
    let terms = json!({"scopes": ["mail.read"], "audiences": [MAIL], "offline_access": true});
    let id = world.granted("bob", terms).await.with_status(201).id();
    world.server.revoke(&id).await;
    let mut browser = bob(&world).await;
    for kept in [true, false] {
        let page = browser.get(&format!("/console/delegations/{id}/again")).await.with_status(200);
        let again = form(&page, "/again");
        let again = if kept { again } else { again.without("offline:access") };
        browser.submit(&again).await.with_status(200);
        let list = world.as_admin("GET", "/delegate?state=active&delegator_sub=bob", Value::Null).await;
        let newest =
            list.json["items"].as_array().unwrap().iter().max_by_key(|one| one["id"].to_string()).unwrap();
        assert_eq!(newest["offline_access"], kept, "{}", list.text);
        world.server.pass(1);
    }
}
