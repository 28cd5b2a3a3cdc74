//! The jump box: what each kind of id leads to, and that things of other users are not found.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use serde_json::{Value, json};

use crate::support::agent::ACCESS_TOKEN;
use crate::support::browser::{Browser, fields, form};
use crate::support::world::{IDP, MAIL, World};

/// Where a text leads: the path, or the status of the page that found nothing.
async fn jump(browser: &mut Browser<'_>, text: &str) -> Result<String, u16> {
    let page = browser.get("/console/help").await;
    let box_of = form(&page, "/console/find").with("what", text);
    let answer = browser.post(&box_of.action, &box_of.fields).await;
    match answer.header("location") {
        Some(path) => Ok(path.to_owned()),
        None => {
            assert!(answer.text.contains("Compared with it"), "{}", answer.text);
            assert!(text.len() < 8 || !answer.text.contains(text), "what was pasted is not shown");
            Err(answer.status)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_has_an_id_is_found_by_it() {
    let world = World::new().await;
    let server = &world.server;
    let asked = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "expires_in": 600});
    let asked = world.as_agent(&world.user_proxy, "POST", "/delegate", asked).await.with_status(202);
    let asked = asked.json["id"].as_str().unwrap().to_owned();
    let token = world.second_hop().await.token().to_owned();
    let event = server.documents().await.pop().unwrap();
    let text = |name: &str| event[name].as_str().unwrap().to_owned();
    let own =
        world.email_svc.request(server).param("grant_type", "client_credentials").param("audience", MAIL);
    let own = own.send().await.with_status(200).token().to_owned();
    let page = format!("/console/events/{}", event["seq"]);
    let chain = format!("/console/chains/{}", text("txn"));
    let hop = format!("{chain}?hop={0}#hop-{0}", event["seq"]);
    let mut browser = Browser::of_operator(server).await;
    // A token that was exchanged leads to its own hop, and not to the one below.
    let first = world.first_hop().await;
    world.email_svc.exchange(server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    let issued = server.events().await.into_iter().find(|one| one["jti"] == first.claims()["jti"]).unwrap();
    let place = jump(&mut browser, first.token()).await.unwrap();
    assert!(place.ends_with(&format!("?hop={0}#hop-{0}", issued["seq"])), "{place}");
    let own = jump(&mut browser, &own).await.unwrap();
    assert!(own.starts_with("/console/chains/") && own.contains("?hop="), "{own}");
    for (what, expected) in [
        ("E".to_owned(), "/console/delegations/E"),
        (asked.clone(), &format!("/console/approvals/{asked}")),
        (" email-svc \n".to_owned(), "/console/agents/email-svc"),
        (world.followup_svc.jkt().to_owned(), "/console/agents/followup-svc"),
        (text("id"), &page),
        (event["seq"].to_string(), &page),
        (text("request_id"), &page),
        (text("txn"), &chain),
        (text("jti"), &hop),
        (token, &hop),
        (text("session_id"), &format!("/console/sessions/{}", text("session_id"))),
        ("192.0.2.7".to_owned(), "/console/events?ip=192.0.2.7"),
        ("2001:DB8::1".to_owned(), "/console/events?ip=2001%3Adb8%3A%3A1"),
    ] {
        assert_eq!(jump(&mut browser, &what).await.as_deref(), Ok(expected), "{what}");
    }
    for what in ["nothing-of-this-name", "99999999", "\u{202e}x", &"x".repeat(600)] {
        assert_eq!(jump(&mut browser, what).await, Err(404), "{what:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn things_of_other_users_are_not_found() {
    let world = World::new().await;
    let server = &world.server;
    let token = world.second_hop().await.token().to_owned();
    let event = server.documents().await.pop().unwrap();
    let mut eve = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "eve"))).await;
    let mut alice = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "alice"))).await;
    let text = |name: &str| event[name].as_str().unwrap().to_owned();
    let things = [
        "E".to_owned(),
        "email-svc".to_owned(),
        world.followup_svc.jkt().to_owned(),
        text("id"),
        event["seq"].to_string(),
        text("txn"),
        text("jti"),
        text("request_id"),
        token,
    ];
    for what in &things {
        assert_eq!(jump(&mut eve, what).await, Err(404), "{what}");
        assert!(jump(&mut alice, what).await.is_ok(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_this_server_has_not_signed_or_that_has_expired_leads_nowhere() {
    let world = World::new().await;
    let token = world.second_hop().await.token().to_owned();
    let mut browser = Browser::of_operator(&world.server).await;
    let (head, signature) = token.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{head}.{flipped}{}", &signature[1..]);
    assert_eq!(jump(&mut browser, &forged).await, Err(404));
    assert_eq!(jump(&mut browser, &world.user_token()).await, Err(404), "a token of another issuer");
    assert!(jump(&mut browser, &token).await.unwrap().starts_with("/console/chains/"));
    world.server.pass(900);
    assert_eq!(jump(&mut browser, &token).await, Err(404), "expired");
    let log = json!(world.server.documents().await).to_string();
    assert!(!log.contains(signature), "no token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jump_box_is_a_move_with_a_token_of_its_form() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let own = [("sec-fetch-site", "same-origin")];
    let without = browser.post_with("/console/find", &[("what".into(), "E".into())], fields(&own)).await;
    assert_eq!(without.status, 403);
    assert_eq!(browser.get("/console/find?what=E").await.status, 405, "no URL searches");
    let page = browser.get("/console").await;
    let box_of = form(&page, "/console/find").with("what", "E");
    let elsewhere =
        browser.post_with(&box_of.action, &box_of.fields, fields(&[("sec-fetch-site", "cross-site")])).await;
    assert_eq!(elsewhere.status, 403);
    assert_eq!(world.as_admin("GET", "/delegate/E", Value::Null).await.status, 200);
}
