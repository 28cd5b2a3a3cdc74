//! `/console/check`: each rule of an exchange with its outcome, by a link or by a token, without effect.

use actchain_testkit::answer::Answer;
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::browser::{Browser, form};
use crate::support::world::{CALENDAR, IDP, MAIL, World};

/// The sentences of the rules: met, assumed, refused and not reached.
fn outcomes(page: &Answer) -> [usize; 4] {
    let list = page.text.split("<h2 id=\"result\">").nth(1).unwrap().split("</ol>").next().unwrap();
    let count = |part: &str| list.matches(part).count();
    [count("<li><span class=\"ok\">"), count("(assumed:"), count("</span> Not: "), count("(not checked)")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_without_a_token_is_a_link_and_agrees_with_the_exchange() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let events = world.server.documents().await.len();
    let alice = format!("subject=alice&subject_iss={IDP}");
    for (query, answer, expected) in [
        (
            format!("client=user-proxy&{alice}&audience={MAIL}&scope=mail.read"),
            "It would be granted",
            [11, 2, 0, 0],
        ),
        (format!("client=user-proxy&subject=alice&audience={MAIL}"), "It would be granted", [11, 2, 0, 0]),
        (format!("client=unknown&{alice}"), "client_unknown", [0, 0, 1, 12]),
        (format!("client=mail-server&{alice}"), "grant_not_allowed", [1, 0, 1, 11]),
        (
            "client=user-proxy&subject=alice&subject_iss=https://other.example".to_owned(),
            "subject_token_invalid",
            [2, 0, 1, 10],
        ),
        (format!("client=stranger&{alice}"), "delegation_required", [3, 2, 1, 7]),
        (format!("client=user-proxy&{alice}&audience=https://nowhere.example"), "resource", [6, 2, 1, 4]),
        (format!("client=user-proxy&{alice}&audience={MAIL}&scope=mail.fly"), "scope", [8, 2, 1, 2]),
        (format!("client=user-proxy&{alice}&scope=mail.fly"), "scope", [7, 2, 1, 3]),
        (
            "client=email-svc&via=D".to_owned() + &format!("&audience={MAIL}"),
            "It would be granted",
            [12, 1, 0, 0],
        ),
        ("client=followup-svc&via=D".to_owned(), "delegation_required", [4, 1, 1, 7]),
        ("client=email-svc&via=none".to_owned(), "not_found", [2, 0, 1, 10]),
        (format!("client=email-svc&via=D&scope=calendar.read&audience={CALENDAR}"), "Refused", [0, 0, 0, 0]),
    ] {
        let page = browser.get(&format!("/console/check?{query}")).await;
        assert_eq!(page.status, 200, "{query}: {}", page.text);
        if answer != "Refused" {
            assert!(page.text.contains(answer), "{query}: {}", page.text);
            assert_eq!(outcomes(&page), expected, "{query}: {}", page.text);
        } else {
            assert!(page.text.contains("It would be refused"), "{query}: {}", page.text);
        }
    }
    assert_eq!(world.server.documents().await.len(), events, "a question is no event");
    assert_eq!(world.as_admin("GET", "/delegate/D", Value::Null).await.json["uses"], 0);
    for query in ["client=a&token=x", "client=user-proxy&subject=alice&scope=a%20%20b"] {
        assert_eq!(browser.get(&format!("/console/check?{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rule_that_refuses_says_what_to_do_and_leads_there() {
    let world = World::new().await;
    world.server.revoke("D").await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get(&format!("/console/check?client=user-proxy&subject=alice&audience={MAIL}")).await;
    for part in ["delegation_revoked", "What to do: ", "/console/delegations?delegate=user-proxy"] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    assert_eq!(outcomes(&page), [4, 2, 1, 6], "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_refusals_of_an_agent_are_checked_again() {
    let world = World::new().await;
    let second = world.second_hop().await;
    world.server.revoke("F").await;
    let refused = world.followup_svc.exchange(&world.server, second.token(), ACCESS_TOKEN).send().await;
    assert_eq!(refused.status, 400);
    let direct = world.stranger.exchange(&world.server, &world.user_token(), JWT).send().await;
    assert_eq!(direct.status, 400);
    let mut browser = Browser::of_operator(&world.server).await;
    for (client, link, reason) in [
        ("stranger", "subject=alice", "delegation_required"),
        ("followup-svc", "via=E", "delegation_revoked"),
    ] {
        let page = browser.get(&format!("/console/check?client={client}")).await;
        let again = page.text.split("check again").next().unwrap().rsplit("href=\"").next().unwrap();
        let again = again.split('"').next().unwrap().replace("&amp;", "&");
        assert!(again.contains(link), "{again}");
        let page = browser.get(&again).await;
        assert!(page.text.contains("It would be refused") && page.text.contains(reason), "{}", page.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_checked_by_a_form_and_is_in_no_url() {
    let world = World::new().await;
    let token = world.user_token();
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/check?client=user-proxy").await;
    let asked = form(&page, "/check").with("subject_token", &token).with("audience", MAIL);
    assert_eq!(asked.value("client"), "user-proxy");
    let granted = browser.submit(&asked).await;
    assert!(
        granted.text.contains("It would be granted") && !granted.text.contains(&token),
        "{}",
        granted.text
    );
    assert_eq!(outcomes(&granted), [13, 0, 0, 0]);
    let bad = browser.submit(&asked.with("subject_token", "x")).await;
    assert_eq!(outcomes(&bad), [2, 0, 1, 10], "{}", bad.text);
    assert_eq!(json!(world.server.documents().await).to_string().matches("refused").count(), 0);
}
