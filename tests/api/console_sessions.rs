//! `/console/sessions`: the list, the trace of a session with what the agent says, its files, and the end of its texts.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use serde_json::{Value, json};

use crate::support::agent::JWT;
use crate::support::browser::{Browser, form};
use crate::support::world::{IDP, MAIL, World};

const WHY: &str = "<b onclick=alert(1)>The newest letter</b> says so.\u{202e}";
const INPUT: &str = "curl --unix-socket /var/run/docker.sock http://localhost/containers/json";

fn user(sub: &str) -> Option<Principal> {
    Some(Principal::new(IDP, sub))
}

/// A session of bob with an exchange, a step that is done, a step that a rule blocks, and a refusal.
async fn worked(world: &World) -> String {
    let id = world.granted("bob", json!({})).await.with_status(201).id();
    let token = world.user_token_with(|claims| {
        claims["sub"] = json!("bob");
        claims["sid"] = json!("a session/of the issuer");
    });
    let exchange = || world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL);
    exchange().send().await.with_status(200);
    exchange().param("scope", "mail.none").send().await.with_status(400);
    let report = async |body: Value| {
        let path = format!("/delegate/{id}/steps");
        world.as_agent(&world.user_proxy, "POST", &path, body).await.with_status(200)
    };
    report(json!({"steps": [{"tool": "search", "outcome": "succeeded", "took_ms": 7, "plan_step": 1, "plan_total": 2}]}))
        .await;
    let step = json!({"tool": "bash", "outcome": "proposed", "input": INPUT, "reasoning": WHY});
    let answer = report(json!({"ask": true, "steps": [step]})).await;
    answer.json["session_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_with_what_was_found_in_them_to_those_who_may_see_them() {
    let world = World::new().await;
    let id = worked(&world).await;
    world.first_hop().await;
    let row = format!("/console/sessions/{}", id.replace(' ', "%20").replace('/', "%2F"));
    let mut auditor = Browser::of(&world.server, ConsoleRole::Auditor, user("ann").as_ref()).await;
    for (query, present) in [
        ("", true),
        ("?subject_sub=bob&actor=user-proxy&window=24h", true),
        ("?from=2025-12-31&to=2026-01-02", true),
        ("?from=2026-01-02", false),
        ("?to=2025-12-31", false),
        // As the form sends them together: absolute times count.
        ("?window=1h&to=2025-12-31", false),
        ("?window=1h&to=2026-01-02", true),
        ("?findings=yes", true),
        ("?refusals=yes", true),
        ("?rule=CE-009", true),
        ("?rule=CE-001", false),
        ("?subject_sub=carol", false),
        ("?actor=email-svc", false),
    ] {
        let page = auditor.get(&format!("/console/sessions{query}")).await.with_status(200);
        assert_eq!(page.text.contains(&row), present, "{query}: {}", page.text);
        assert_eq!(page.text.contains("Nothing matches"), !present, "{query}");
    }
    let page = auditor.get("/console/sessions?findings=yes").await;
    let found = page.text.split("<tr").find(|one| one.contains(&row)).unwrap();
    for part in ["data-label=\"for\"><bdi>bob</bdi>", ">user-proxy<", "data-label=\"steps\">2<", "✗</span> 1"]
    {
        assert!(found.contains(part), "{part}: {found}");
    }
    for query in ["?findings=no", "?window=2h", "?from=soon", "?other=1", "?cursor=x"] {
        assert!(
            [400, 422].contains(&auditor.get(&format!("/console/sessions{query}")).await.status),
            "{query}"
        );
    }
    let mut bob = Browser::of(&world.server, ConsoleRole::User, user("bob").as_ref()).await;
    assert!(bob.get("/console/sessions").await.text.contains(&row));
    let mut eve = Browser::of(&world.server, ConsoleRole::User, user("eve").as_ref()).await;
    assert!(eve.get("/console/sessions").await.text.contains("No session yet"));
    for path in [row.clone(), format!("{row}/export?format=csv")] {
        assert_eq!(eve.get(&path).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_shows_what_was_done_and_quotes_why_until_the_texts_are_erased() {
    let world = World::new().await;
    let id = worked(&world).await;
    let path = format!("/console/sessions/{}", id.replace(' ', "%20").replace('/', "%2F"));
    let mut auditor = Browser::of(&world.server, ConsoleRole::Auditor, user("ann").as_ref()).await;
    let page = auditor.get(&path).await.with_status(200);
    let places =
        ["exchange</strong>", "refused <code>", ">search<", ">bash<"].map(|part| page.text.find(part));
    assert!(places.is_sorted() && places[0].is_some(), "{places:?}: {}", page.text);
    for part in [
        "step 1/2 of its plan",
        "took 7 ms",
        "finding <code>CE-009</code>",
        "says the agent",
        "&lt;b onclick=alert(1)&gt;The newest letter&lt;/b&gt; says so.U+202E",
        "✓</span> matches the digest in ",
        "No text was sent.",
        "docker.sock",
    ] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    assert!(!page.text.contains("<b onclick"), "{}", page.text);
    assert!(!page.text.contains("erase-texts"), "an auditor erases nothing");
    let file = auditor.get(&format!("{path}/export?format=csv")).await.with_status(200);
    assert!(file.header("content-disposition").unwrap().starts_with("attachment; filename=\"session-"));
    assert!(file.text.contains("CE-009"), "{}", file.text);
    for format in ["json", "sarif"] {
        let file = auditor.get(&format!("{path}/export?format={format}")).await.with_status(200);
        assert!(serde_json::from_str::<Value>(&file.text).is_ok(), "{format}");
    }
    assert_eq!(auditor.get(&format!("{path}/export?format=xml")).await.status, 400);

    let mut bob = Browser::of(&world.server, ConsoleRole::User, user("bob").as_ref()).await;
    let page = bob.get(&format!("{path}/erase-texts")).await.with_status(200);
    let shown = form(&page, "/erase-texts");
    let stale = bob.submit(&shown.clone().with("shown", "0")).await;
    assert!(stale.text.contains("Nothing was erased"), "{}", stale.text);
    assert!(bob.get(&path).await.text.contains("The newest letter"));
    let erased = bob.submit(&shown).await;
    assert_eq!(erased.status, 200, "{}", erased.text);
    let page = bob.get(&path).await.with_status(200);
    assert!(
        page.text.contains("was erased. The log has its digest alone.") && page.text.contains("CE-009"),
        "{}",
        page.text
    );
    assert!(!page.text.contains("The newest letter") && !page.text.contains("docker.sock"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_something_has_changed_are_not_shown() {
    let world = World::new().await;
    let id = worked(&world).await;
    let mut sql = world.server.sql().await;
    let changed = "UPDATE audit_event SET personal = replace(personal, 'newest', 'oldest') WHERE personal LIKE '%newest%'";
    assert_eq!(sqlx::query(changed).execute(&mut sql).await.unwrap().rows_affected(), 1);
    let path = format!("/console/sessions/{}", id.replace(' ', "%20").replace('/', "%2F"));
    let mut auditor = Browser::of(&world.server, ConsoleRole::Auditor, user("ann").as_ref()).await;
    let page = auditor.get(&path).await.with_status(200);
    assert!(
        page.text.contains("differs from the digest in it") && !page.text.contains("oldest"),
        "{}",
        page.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_says_of_a_long_session_that_it_has_not_read_all_of_it() {
    let world = World::new().await;
    worked(&world).await;
    let mut auditor = Browser::of(&world.server, ConsoleRole::Auditor, user("ann").as_ref()).await;
    let page = auditor.get("/console/sessions").await.with_status(200);
    assert!(!page.text.contains("and perhaps others"), "{}", page.text);
    let delegations = world.server.events().await;
    let id =
        delegations.iter().find(|one| one["action"] == "delegation.step").unwrap()["delegation_id"].clone();
    let path = format!("/delegate/{}/steps", id.as_str().unwrap());
    let body = json!({"steps": vec![json!({"tool": "search", "outcome": "succeeded"}); 40]});
    for _ in 0..2 {
        world.as_agent(&world.user_proxy, "POST", &path, body.clone()).await.with_status(200);
    }
    let page = auditor.get("/console/sessions").await.with_status(200);
    assert!(page.text.contains("and perhaps others"), "{}", page.text);
}
