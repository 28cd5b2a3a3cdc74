//! `/console/chains`: the list, the page of a chain with its tree and keys, and its file.

use actchain::domain::audit::{Actor, Event, EventKind};
use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::services::transaction::AuditedTransaction;
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, Agent, Auth, JWT};
use crate::support::audit::cover;
use crate::support::browser::Browser;
use crate::support::world::{IDP, MAIL, World};

fn user(sub: &str) -> Option<Principal> {
    Some(Principal::new(IDP, sub))
}

/// A chain of Alice with two hops below its first one, of which the second has another key, and with a refusal. Returns its
/// `txn`, the `seq` of its events, and both keys.
async fn drifted(world: &World) -> (String, Vec<u64>, [String; 2]) {
    let first = world.first_hop().await;
    let other = Agent::new("email-svc", Auth::Basic("email-svc-secret-0123456789".into()));
    for agent in [&world.email_svc, &other] {
        agent.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    }
    let wide =
        world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).param("scope", "mail.none");
    wide.send().await.with_status(400);
    let txn = first.claims()["txn"].as_str().unwrap().to_owned();
    let events = world.server.events().await;
    let own = events.iter().filter(|event| event["txn"] == txn.as_str() && event["parent_jti"].is_string());
    let seqs = own.map(|event| event["seq"].as_u64().unwrap()).collect();
    (txn, seqs, [world.email_svc.jkt().to_owned(), other.jkt().to_owned()])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_one_row_that_its_filters_find() {
    let world = World::new().await;
    let (txn, ..) = drifted(&world).await;
    let row = format!("/console/chains/{txn}");
    let mut auditor = Browser::of(&world.server, ConsoleRole::Auditor, user("ann").as_ref()).await;
    for (query, present) in [
        ("", true),
        ("?window=all", true),
        ("?actor=email-svc&subject_sub=alice&window=1h", true),
        ("?keys=key_mismatch", true),
        ("?keys=consistent", false),
        ("?state=active", true),
        ("?state=revoked", false),
        ("?outcome=refused", true),
        ("?subject_sub=carol", false),
    ] {
        let page = auditor.get(&format!("/console/chains{query}")).await.with_status(200);
        assert_eq!(page.text.contains(&row), present, "{query}: {}", page.text);
    }
    let page = auditor.get("/console/chains").await;
    assert!(
        page.text.contains("data-link"),
        "also the usual window has a link with its times: {}",
        page.text
    );
    let found = page.text.split("<tr").find(|one| one.contains(&row)).unwrap();
    for part in [
        "<bdi>alice</bdi>",
        ">user-proxy<",
        ">email-svc<",
        "✗</span> mismatch",
        "data-label=\"hops\">4<",
        "✗</span> 1 refused",
        "+1 branch",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
    for query in ["?window=2h", "?keys=red", "?state=ended", "?other=1", "?cursor=x", "?from=yesterday"] {
        let status = auditor.get(&format!("/console/chains{query}")).await.status;
        assert!([400, 422].contains(&status), "{query}: {status}");
    }
    world.server.pass(1);
    let page = auditor.get("/console/chains?window=7d").await;
    let fixed = page.text.split("href=\"").find(|link| link.contains("data-link")).unwrap();
    let (fixed, _) = fixed.split_once('"').unwrap();
    assert_eq!(
        fixed,
        "/console/chains?from=2025-12-25T00%3A00%3A01.000000Z&amp;to=2026-01-01T00%3A00%3A01.000000Z"
    );
    let later = auditor.get(&fixed.replace("&amp;", "&")).await.with_status(200);
    assert!(later.text.contains(&row) && later.text.contains("value=\"2025-12-25T00:00:01.000000Z\""));
    let both = auditor.get("/console/chains?window=7d&from=2025-12-01").await;
    assert!(!later.text.contains("data-link") && !both.text.contains("data-link"), "they have their times");
    // Fields that a form sends together: absolute times count, and not the window.
    for (times, present) in [("to=2026-01-02", true), ("from=2025-12-01&to=2025-12-05", false)] {
        let page = auditor.get(&format!("/console/chains?window=24h&{times}")).await.with_status(200);
        assert_eq!(page.text.contains(&row), present, "{times}: {}", page.text);
    }
    let count = auditor.get("/console/chains/count?window=all").await.with_status(200);
    assert!(count.text.contains("<strong>1</strong> chain"), "{}", count.text);
    let elsewhere = auditor.get("/admin/delegation-chains?window=7d").await;
    assert_eq!(
        (elsewhere.status, elsewhere.header("location")),
        (308, Some("/console/chains?window=7d")),
        "the place at other servers of this kind"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn long_chains_are_counted_without_reading_all_their_events() {
    let world = World::new().await;
    for chain in 0..3 {
        for _ in 0..16 {
            let event = Event {
                txn: Some(format!("long-{chain}")),
                ..Event::new(world.server.clock.now(), EventKind::ClientEnabled, Actor::Operator)
            };
            let portion = vec![event; 500];
            AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(&portion).await.unwrap();
        }
    }
    cover(&world).await;
    world.first_hop().await;
    let mut auditor = Browser::of_operator(&world.server).await;
    let count = auditor.get("/console/chains/count?window=all").await.with_status(200);
    assert!(count.text.contains("<strong>4</strong> chains"), "{}", count.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_window_names_the_next_one_with_a_chain() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    assert!(browser.get("/console/chains").await.text.contains("actchain demo --keep --open-console"));
    world.first_hop().await;
    world.server.pass(2 * 24 * 3600);
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/chains").await;
    assert!(page.text.contains("No chain in this window"), "{}", page.text);
    assert!(page.text.contains("href=\"/console/chains?window=7d\""), "{}", page.text);
    let narrow = browser.get("/console/chains?window=1h&actor=user-proxy").await;
    assert!(narrow.text.contains("actor=user-proxy&amp;window=7d"), "{}", narrow.text);
    let none = browser.get("/console/chains?window=1h&actor=no-one").await;
    assert!(
        none.text.contains("Nothing matches") && !none.text.contains("No chain in this window"),
        "{}",
        none.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_shows_both_hops_below_the_first_and_where_to_cut() {
    let world = World::new().await;
    let (txn, seqs, _) = drifted(&world).await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get(&format!("/console/chains/{txn}?hop={}", seqs[1])).await.with_status(200);
    let items: Vec<&str> = page.text.split("<li id=\"hop-").skip(1).collect();
    assert_eq!(items.len(), 4, "{}", page.text);
    let depths: Vec<bool> = items.iter().map(|item| item.contains("data-depth=\"2\"")).collect();
    assert_eq!(depths, [false, true, true, true]);
    let sought = items.iter().find(|item| item.starts_with(&seqs[1].to_string())).unwrap();
    assert!(
        sought.contains("aria-current=\"true\"") && sought.contains("/cut\" data-move=\"x\""),
        "{sought}"
    );
    assert_eq!(page.text.matches("data-move=\"x\"").count(), 1);
    let refused = items.iter().find(|item| item.contains("refused <code>")).unwrap();
    assert!(refused.contains("data-finding"), "{refused}");
    assert_eq!(page.text.matches("<circle").count(), 4, "time and depth");
    assert_eq!(page.text.matches("<line").count(), 3);
    // Auditors have no pages of delegations.
    let mut auditor = Browser::of(&world.server, ConsoleRole::Auditor, user("ann").as_ref()).await;
    let page = auditor.get(&format!("/console/chains/{txn}")).await.with_status(200);
    assert!(!page.text.contains("/console/delegations/"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drift_is_red_with_both_keys_and_the_events_that_name_them() {
    let world = World::new().await;
    let (txn, seqs, [before, after]) = drifted(&world).await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get(&format!("/console/chains/{txn}?tab=keys")).await.with_status(200);
    let drift = page.text.split("<tr").find(|row| row.contains("✗</span> earlier hop")).unwrap();
    for part in [before, after, format!("/console/events/{}\">event {}", seqs[1], seqs[1])] {
        assert!(drift.contains(&part), "{part}: {drift}");
    }
    let first = page.text.split("<tr").find(|row| row.contains(&format!("hop-{}\"", seqs[0]))).unwrap();
    assert!(first.contains("✓</span> consistent"), "the root is never red: {first}");
    let claims = browser.get(&format!("/console/chains/{txn}?tab=claims&hop={}", seqs[1])).await;
    for part in ["&quot;act&quot;: {", "&quot;sub&quot;: &quot;alice&quot;", "&quot;jkt&quot;", "open"] {
        assert!(claims.text.contains(part), "{part}: {}", claims.text);
    }
    let events = browser.get(&format!("/console/chains/{txn}?tab=events")).await;
    assert!(events.text.contains(&format!("/console/events/{}", seqs[2])), "{}", events.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_another_user_is_not_there_and_its_file_is_what_the_api_says() {
    let world = World::new().await;
    let (txn, ..) = drifted(&world).await;
    let path = format!("/console/chains/{txn}");
    let mut eve = Browser::of(&world.server, ConsoleRole::User, user("eve").as_ref()).await;
    for path in [path.clone(), format!("{path}/export"), "/console/chains/no-such-chain".into()] {
        assert_eq!(eve.get(&path).await.status, 404, "{path}");
    }
    assert!(!eve.get("/console/chains?window=all").await.text.contains(&txn));
    let mut alice = Browser::of(&world.server, ConsoleRole::User, user("alice").as_ref()).await;
    alice.get(&path).await.with_status(200);
    let file = alice.get(&format!("{path}/export")).await.with_status(200);
    assert!(file.header("content-disposition").unwrap().ends_with(".json\""));
    let shown = world.as_admin("GET", &format!("/api/v1/audit-logs/chains/{txn}"), Value::Null).await;
    let read: Value = serde_json::from_str(&file.text).unwrap();
    assert_eq!(read["hops"], shown.json["hops"]);
    assert_eq!(read["txn"], json!(txn));
}

/// A list reads the beginning and the end of a long chain. What is between may be anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_a_list_has_not_read_in_full_is_not_called_consistent() {
    let world = World::new().await;
    let first = world.first_hop().await;
    let hop = async |agent: &Agent| {
        agent.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    };
    for number in 0..130 {
        let other = Agent::new("email-svc", Auth::Basic("email-svc-secret-0123456789".into()));
        hop(if number == 100 { &other } else { &world.email_svc }).await;
    }
    let txn = first.claims()["txn"].as_str().unwrap().to_owned();
    let mut browser = Browser::of_operator(&world.server).await;
    for query in ["", "?keys=key_mismatch"] {
        let page = browser.get(&format!("/console/chains{query}")).await.with_status(200);
        let row = page.text.split("<tr").find(|row| row.contains(&txn)).unwrap();
        assert!(
            row.contains("not checked in full") && !row.contains("✓</span> consistent"),
            "{query}: {row}"
        );
    }
    let page = browser.get(&format!("/console/chains/{txn}?tab=keys")).await.with_status(200);
    assert!(page.text.contains("✗</span> mismatch"), "the page reads all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_from_a_chain_leads_to_the_list_as_it_was() {
    let world = World::new().await;
    let (txn, ..) = drifted(&world).await;
    let mut browser = Browser::of_operator(&world.server).await;
    let list = browser.get("/console/chains?actor=email-svc&window=24h").await.with_status(200);
    let filters = "actor=email-svc&amp;window=24h";
    assert!(list.text.contains(&format!("/console/chains/{txn}?{filters}\"")), "{}", list.text);
    let page = browser
        .get(&format!("/console/chains/{txn}?tab=keys&actor=email-svc&window=24h"))
        .await
        .with_status(200);
    for link in [
        format!("/console/chains?{filters}\" data-back"),
        format!("/console/chains/{txn}?tab=claims&amp;{filters}\""),
    ] {
        assert!(page.text.contains(&link), "{link}: {}", page.text);
    }
    let own = format!("/console/chains/{txn}?{filters}\" aria-current=\"page\"");
    assert!(page.text.contains("<nav class=\"list\"") && page.text.contains(&own), "the list: {}", page.text);
    // A user sees the list of its own chains, and another query has no list.
    let mut eve = Browser::of(&world.server, ConsoleRole::User, user("eve").as_ref()).await;
    assert_eq!(eve.get(&format!("/console/chains/{txn}?window=all")).await.status, 404);
    for query in ["", "?a=b", "?window=other", "?window=all&cursor=1.x", "?tab=keys"] {
        let alone = browser.get(&format!("/console/chains/{txn}{query}")).await.with_status(200);
        assert!(!alone.text.contains("<nav class=\"list\""), "{query}: {}", alone.text);
    }
    // What the URL says is text.
    let hostile = browser.get(&format!("/console/chains/{txn}?a=%22%3E%3Cscript%3E")).await.with_status(200);
    assert!(
        !hostile.text.contains("\"><script>") && hostile.text.contains("?a=%22%3E%3Cscript%3E\""),
        "{}",
        hostile.text
    );
}

/// A window before now begins later at each request.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_page_of_a_window_is_there_a_second_later() {
    let world = World::new().await;
    for place in 0..41 {
        let token = world.user_token_with(|claims| claims["sid"] = json!(format!("session-{place}")));
        let hop = world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL);
        hop.send().await.with_status(200);
    }
    let mut ann = Browser::of(&world.server, ConsoleRole::Auditor, Some(&Principal::new(IDP, "ann"))).await;
    for list in ["chains", "events?window=1h", "sessions?window=1h"] {
        let shown = ann.get(&format!("/console/{list}")).await.with_status(200);
        let (before, _) = shown.text.split_once("\">Older</a>").unwrap_or_else(|| panic!("{}", shown.text));
        let older = before.rsplit_once("href=\"").unwrap().1.replace("&amp;", "&");
        world.server.pass(1);
        let shown = ann.get(&older).await.with_status(200);
        assert!(shown.text.contains("data-row"), "{}", shown.text);
    }
}
