//! Open pages of the console: they learn what has changed, without gap, and no longer than their session.

use actchain::domain::audit::{Actor, Event, EventKind};
use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::jobs;
use actchain::services::principals;
use actchain::services::transaction::AuditedTransaction;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sqlx::Executor as _;

use crate::support::Server;
use crate::support::audit::{Dice, fill};
use crate::support::browser::{Browser, fields, form};
use crate::support::vault::VaultWorld;
use crate::support::world::{IDP, MAIL, World};

const LIVE: &str = "/console/live";

/// The stream of an open page.
struct OpenPage {
    bytes: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
    /// Ids and contents of the messages; what no event has changed has no id.
    messages: Vec<(String, String)>,
}

impl OpenPage {
    async fn of(browser: &Browser<'_>, server: &Server, path: &str, last_id: Option<&str>) -> Self {
        let answer = browser.stream(server, path, last_id).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        Self { bytes: answer.bytes_stream().boxed(), text: String::new(), messages: Vec::new() }
    }

    /// Reads on; `false` at the end of the stream.
    async fn take(&mut self) -> bool {
        let Some(Ok(bytes)) = self.bytes.next().await else { return false };
        self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        while let Some((message, rest)) = self.text.split_once("\n\n") {
            let data: Vec<&str> = message.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            let id = message.lines().find_map(|line| line.strip_prefix("id: "));
            if !data.is_empty() {
                self.messages.push((id.unwrap_or_default().to_owned(), data.join("\n")));
            }
            self.text = rest.to_owned();
        }
        true
    }

    /// The first message from now on that has a text.
    async fn until(&mut self, text: &str) -> (String, String) {
        loop {
            if let Some(place) = self.messages.iter().position(|(_, message)| message.contains(text)) {
                return self.messages.drain(..=place).next_back().unwrap();
            }
            assert!(self.take().await, "the stream ended before {text}: {:?}", self.messages);
        }
    }

    async fn end(mut self) {
        while self.take().await {}
    }
}

/// A request of `user-proxy` for a user's authority.
async fn asked(world: &World, sub: &str) -> String {
    let body = json!({"delegator": {"iss": IDP, "sub": sub}, "scopes": ["mail.read"], "expires_in": 600});
    let answer = world.as_agent(&world.user_proxy, "POST", "/delegate", body).await.with_status(202);
    answer.json["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_waiting_approvals_follows_requests_and_decisions_of_every_server() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let (server, bob) = (&world.server, Principal::new(IDP, "bob"));
    let mut browser = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    let mut other = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "eve"))).await;
    let mut page = OpenPage::of(&browser, &twin, LIVE, None).await;
    let (_, first) = page.until("#waiting").await;
    assert!(first.ends_with("hx-swap=\"innerHTML\"></hx-partial>"), "nothing waits: {first}");
    let id = asked(&world, "bob").await;
    page.until("(1)").await;
    asked(&world, "bob").await;
    page.until("(2)").await;
    let shown = browser.get("/console/approvals").await;
    assert!(shown.text.contains("<title>(2) Approvals") && shown.text.contains(">(2)<"), "{}", shown.text);
    let denied = browser.get(&format!("/console/approvals/{id}")).await;
    browser.submit(&form(&denied, "/deny")).await;
    page.until("(1)").await;
    assert!(!other.get("/console").await.text.contains("(1)"), "requests for other users do not count");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_learns_of_newer_rows_and_of_states_and_resumes_without_a_gap() {
    let world = World::new().await;
    let server = &world.server;
    let bob = Principal::new(IDP, "bob");
    let mut browser = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    let old = asked(&world, "bob").await;
    server.pass(1);
    let list = browser.get("/console/delegations").await;
    let feed = feed_of(&list.text);
    assert!(feed.contains("rows=") && feed.contains("newest="), "{feed}");
    let mut page = OpenPage::of(&browser, server, &feed, None).await;
    let (_, first) = page.until(&format!("data-state-of=&quot;{old}&quot;")).await;
    assert!(first.contains("requested") && !first.contains(" newer"), "{first}");
    asked(&world, "bob").await;
    page.until("1 newer").await;
    asked(&world, "alice").await;
    page.take().await;
    assert!(page.messages.is_empty(), "an event that changes nothing is not sent: {:?}", page.messages);
    let (last, _) = {
        asked(&world, "bob").await;
        page.until("2 newer").await
    };
    drop(page);
    // What happens while the page is away is there when it comes back, at another server.
    asked(&world, "bob").await;
    let shown = browser.get(&format!("/console/approvals/{old}")).await;
    browser.submit(&form(&shown, "/deny")).await;
    let twin = server.twin().await;
    let mut page = OpenPage::of(&browser, &twin, &feed, Some(&last)).await;
    let (id, now) = page.until("3 newer").await;
    assert!(now.contains("revoked"), "{now}");
    assert!(id.parse::<u64>().unwrap() > last.parse::<u64>().unwrap(), "{id} follows {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_that_is_passed_on_is_newer_in_a_list_and_not_in_a_tree() {
    let world = World::new().await;
    let server = &world.server;
    let mut browser = Browser::of_operator(server).await;
    server.pass(1);
    let feed = feed_of(&browser.get("/console/delegations?view=tree").await.text);
    let (_, rows) = feed.rsplit_once("rows=").unwrap();
    let rows: Vec<&str> = rows.split(',').collect();
    assert_eq!(rows, ["D", "E", "F"], "the children that are shown are followed: {feed}");
    let mut tree = OpenPage::of(&browser, server, &feed, None).await;
    tree.until("data-state-of=&quot;F&quot;").await;
    let feed = feed_of(&browser.get("/console/delegations").await.text);
    let mut list = OpenPage::of(&browser, server, &feed, None).await;
    list.until("data-state-of=&quot;F&quot;").await;
    let child = json!({"parent": "D", "delegate": "stranger"});
    world.as_agent(&world.user_proxy, "POST", "/delegate", child).await.with_status(201);
    list.until("1 newer").await;
    server.revoke("F").await;
    let (_, now) = tree.until("revoked").await;
    assert!(!now.contains(" newer"), "{now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_cannot_follow_rows_of_other_users() {
    let world = World::new().await;
    let hidden = asked(&world, "alice").await;
    let eve = Principal::new(IDP, "eve");
    let mut browser = Browser::of(&world.server, ConsoleRole::User, Some(&eve)).await;
    let mine = asked(&world, "eve").await;
    let path = format!("{LIVE}?list=/console/delegations&rows={hidden},{mine}");
    let mut page = OpenPage::of(&browser, &world.server, &path, None).await;
    let (_, first) = page.until("data-state-of").await;
    assert!(first.contains(&mine) && !first.contains(&hidden), "{first}");
    let many: Vec<String> = (0..201).map(|number| format!("id{number}")).collect();
    for (query, status) in [
        (format!("list=/console/delegations&rows={}", many.join(",")), 400),
        ("list=/console/delegations&rows=a%20b".to_owned(), 400),
        ("list=/console/delegations&newest=x".to_owned(), 400),
        ("list=/console/delegations&state=none".to_owned(), 400),
        ("sub=x".to_owned(), 400),
    ] {
        assert_eq!(browser.get(&format!("{LIVE}?{query}")).await.status, status, "{query}");
    }
    // "show" leads to a page of the console alone.
    let path = format!("{LIVE}?list=https://evil.example/&rows=");
    let mut page = OpenPage::of(&browser, &world.server, &path, None).await;
    let (_, first) = page.until("1 newer").await;
    assert!(!first.contains("evil"), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_session_and_a_person_has_four() {
    let world = World::configured("[audit]\nheartbeat = 1\n").await;
    let server = &world.server;
    let bob = Principal::new(IDP, "bob");
    let mut browser = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    let other = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut page = OpenPage::of(&browser, server, LIVE, None).await;
        page.until("#waiting").await;
        open.push(page);
    }
    let fifth = browser.stream(server, LIVE, None).await;
    assert_eq!(fifth.status(), 429);
    assert!(fifth.headers().contains_key("retry-after"));
    assert_eq!(
        other.stream(server, LIVE, None).await.status(),
        429,
        "all sessions of a person count together"
    );
    let eve = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "eve"))).await;
    OpenPage::of(&eve, server, LIVE, None).await.until("#waiting").await;
    let page = browser.get("/console").await;
    browser.submit(&form(&page, "/console/sign-out")).await;
    for page in open {
        page.end().await;
    }
    let mut elsewhere = OpenPage::of(&other, server, LIVE, None).await;
    elsewhere.until("#waiting").await;
    // Everything of the user is revoked: the other session ends, too.
    principals::revoke_all(&server.operator(), &bob, "test").await.unwrap();
    elsewhere.end().await;
    let after = other.stream(server, LIVE, None).await;
    assert_eq!(after.status(), 401, "a fragment is not led to the issuer");

    // An open page is no use of the session, nor is one that connects again: the session ends by idleness.
    let idle = Browser::of(server, ConsoleRole::Auditor, Some(&Principal::new(IDP, "ann"))).await;
    let mut page = OpenPage::of(&idle, server, LIVE, None).await;
    page.until("#waiting").await;
    server.pass(1_000);
    let mut again = OpenPage::of(&idle, server, LIVE, None).await;
    again.until("#waiting").await;
    server.pass(801);
    page.end().await;
    again.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_lapses_is_counted_no_more() {
    let world = World::configured("[audit]\nheartbeat = 1\n[delegations]\nrequest_ttl = 600\n").await;
    let bob = Principal::new(IDP, "bob");
    asked(&world, "bob").await;
    let browser = Browser::of(&world.server, ConsoleRole::User, Some(&bob)).await;
    let mut page = OpenPage::of(&browser, &world.server, LIVE, None).await;
    page.until("(1)").await;
    world.server.pass(601);
    jobs::expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    page.until("innerHTML\"></hx-partial>").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiting_requests_are_counted_exactly_and_one_more_is_at_least() {
    let world = World::new().await;
    let id = asked(&world, "bob").await;
    let mut sql = world.server.sql().await;
    let copy = |from: i64, to: i64| {
        let columns = "path, parent, root_iss, root_sub, delegator_iss, delegator_sub, delegate, scopes, audiences,
            authorization_details, max_depth, max_uses, origin, requested_at, activated_at, expires_at, revoked_at,
            revoke_reason, capability_ceiling, ceremony_required_for, reason, agent, requested_by_iss,
            requested_by_sub, requested_ttl, pending_jwk, suspended_at, expiry_logged, created_epoch";
        let rest = columns.split_once(',').unwrap().1;
        format!(
            "INSERT INTO delegation (id, {columns})
             SELECT 'copy-' || n, ARRAY['copy-' || n], {rest} FROM delegation, generate_series({from}, {to}) n WHERE id = '{id}'"
        )
    };
    let bob = Principal::new(IDP, "bob");
    let mut browser = Browser::of(&world.server, ConsoleRole::User, Some(&bob)).await;
    for (from, to, expected) in [(1, 998, "(999)"), (999, 999, "(1,000)"), (1_000, 1_000, "(1,000+)")] {
        sqlx::query(sqlx::AssertSqlSafe(copy(from, to))).execute(&mut sql).await.unwrap();
        let page = browser.get("/console/me").await;
        assert!(page.text.contains(&format!(">{expected}<")), "{expected}: {}", page.text);
    }
    let answer = world.as_admin("GET", "/delegate?limit=1", Value::Null).await;
    assert_eq!(answer.status, 503, "a copied row has no MAC: lists refuse it, counts do not read it");
}

/// The stream of a page.
fn feed_of(page: &str) -> String {
    let (_, rest) = page.split_once("hx-sse:connect=\"").unwrap();
    rest.split('"').next().unwrap().replace("&amp;", "&")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_a_bounded_number_of_open_pages() {
    let world = World::new().await;
    let server = &world.server;
    let permits = &server.app.limits.all_live_pages;
    assert_eq!(permits.available_permits(), 256);
    let ann = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "ann"))).await;
    let bob = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "bob"))).await;
    let others = permits.acquire_many(255).await.unwrap();
    let mut page = OpenPage::of(&ann, server, LIVE, None).await;
    page.until("#waiting").await;
    let refused = bob.stream(server, LIVE, None).await;
    assert_eq!(refused.status(), 429, "the 257th page");
    assert!(refused.headers().contains_key("retry-after"));
    // The refused page has not used up a place of its person, and a closed page makes room.
    drop(others);
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut page = OpenPage::of(&bob, server, LIVE, None).await;
        page.until("#waiting").await;
        open.push(page);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_the_log_count_what_is_newer_and_visible() {
    let world = World::new().await;
    let server = &world.server;
    world.first_hop().await;
    let auditor = Principal::new(IDP, "ann");
    let mut browser = Browser::of(server, ConsoleRole::Auditor, Some(&auditor)).await;
    let mut bob = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "bob"))).await;
    let list = "/console/events?action=oauth.token.exchanged";
    let feed = feed_of(&browser.get(list).await.text);
    let mut events = OpenPage::of(&browser, server, &feed, None).await;
    let (_, first) = events.until("#newer").await;
    assert!(!first.contains(" newer"), "{first}");
    let feed = feed_of(&browser.get("/console/chains").await.text);
    let mut chains = OpenPage::of(&browser, server, &feed, None).await;
    chains.until("#newer").await;
    let feed = feed_of(&bob.get(list).await.text);
    let mut others = OpenPage::of(&bob, server, &feed, None).await;
    others.until("#newer").await;
    world.first_hop().await;
    let (_, message) = events.until("1 newer").await;
    assert!(message.contains("href=\"/console/events?action=oauth.token.exchanged\""), "{message}");
    chains.until("1 chain moved").await;
    // Events of other actions; the token for the request begins a chain.
    asked(&world, "bob").await;
    chains.until("2 chains moved").await;
    world.second_hop().await;
    events.until("3 newer").await;
    chains.until("3 chains moved").await;
    let (_, message) = others.until("(1)").await;
    assert!(!message.contains(" newer"), "events about others: {message}");
    fill(&world, &mut Dice(21), 1_200).await;
    events.until("100+ newer").await;
    let feed = feed_of(&browser.get("/console/chains?keys=key_mismatch").await.text);
    assert_eq!(feed, LIVE, "keys are not in the index");
    let older = browser.get("/console/events").await;
    let cursor = older.text.split("cursor=").nth(1).unwrap().split('"').next().unwrap();
    let older = browser.get(&format!("/console/events?cursor={cursor}")).await;
    assert_eq!(feed_of(&older.text), LIVE, "only the newest page counts what is newer");
    for query in ["log=steps&size=1", "log=events", "log=events&size=1&filter=x%3Dy", "log=events&size=-1"] {
        assert_eq!(browser.get(&format!("{LIVE}?{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_no_chain_do_not_end_the_count_of_chains_and_names_are_read_again() {
    let world = World::new().await;
    let server = &world.server;
    let mut browser = Browser::of(server, ConsoleRole::Auditor, Some(&Principal::new(IDP, "ann"))).await;
    // The log has no event about Zoe yet, and so no name for her.
    let feeds = ["/console/chains", "/console/events?subject_sub=zoe"];
    let mut pages = Vec::new();
    for path in feeds {
        let feed = feed_of(&browser.get(path).await.text);
        let mut page = OpenPage::of(&browser, server, &feed, None).await;
        page.until("#newer").await;
        pages.push(page);
    }
    let event = Event::new(server.clock.now(), EventKind::ClientEnabled, Actor::Operator);
    for _ in 0..3 {
        AuditedTransaction::begin(&server.app.pool)
            .await
            .unwrap()
            .commit(&vec![event.clone(); 100])
            .await
            .unwrap();
    }
    world.first_hop_of("zoe").send().await.with_status(400);
    pages[1].until("1 newer").await;
    pages[0].until("1 chain moved").await;
    // What is shown again by itself, and the count of a list, keep no session from ending.
    let count = browser.get("/console/chains").await.text;
    assert!(count.contains("hx-headers=\"{&quot;Actchain-Unattended&quot;: &quot;true&quot;}\""), "{count}");
    let headers = [("actchain-unattended".parse().unwrap(), "true".parse().unwrap())];
    let again = browser.get_with("/console/chains", headers.into_iter().collect()).await.text;
    assert!(again.contains("count the chains") && !again.contains("hx-trigger=\"load\""), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnected_account_shows_in_the_other_browsers_of_its_owner() {
    let vault = VaultWorld::new().await;
    let (world, server) = (&vault.world, &vault.world.server);
    let id = vault.api_key().await;
    let alice = Principal::new(IDP, "alice");
    let mut browser = Browser::of(server, ConsoleRole::User, Some(&alice)).await;
    let mut eve = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "eve"))).await;
    let list = browser.get("/console/connections").await.text;
    let mut page = OpenPage::of(&browser, server, &feed_of(&list), None).await;
    let (_, first) = page.until(&format!("data-state-of=&quot;{id}&quot;")).await;
    assert!(first.contains("active"), "{first}");
    // Another person who names the connection learns nothing of it.
    let named = feed_of(&eve.get("/console/connections").await.text) + &id;
    let mut others = OpenPage::of(&eve, server, &named, None).await;
    let (_, first) = others.until("#waiting").await;
    assert!(!first.contains(&id), "{first}");
    let one = browser.get(&format!("/console/connections/{id}")).await.text;
    let mut detail = OpenPage::of(&browser, server, &feed_of(&one), None).await;
    detail.until("active").await;
    let path = format!("/api/v1/connections/{id}/disconnect");
    world.as_user("alice", "POST", &path, json!({})).await.with_status(200);
    page.until("disconnected").await;
    detail.until("disconnected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_says_how_long_a_request_still_waits() {
    let world = World::configured("[audit]\nheartbeat = 1\n[delegations]\nrequest_ttl = 3600\n").await;
    let server = &world.server;
    let bob = Principal::new(IDP, "bob");
    let mut browser = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    let id = asked(&world, "bob").await;
    for path in ["/console/approvals".to_owned(), format!("/console/approvals/{id}")] {
        let shown = browser.get(&path).await.text;
        let feed = feed_of(&shown);
        let (_, end) = feed.split_once("?until=").unwrap();
        assert!(shown.contains(&format!("data-until=\"{end}\"")), "{shown}");
        let mut page = OpenPage::of(&browser, server, &feed, None).await;
        let (_, first) = page.until(&format!("[data-until=&quot;{end}&quot;]")).await;
        assert!(first.contains(" min)"), "{first}");
        server.pass(600);
        page.until(if path.ends_with(&id) { "(in 40 min)" } else { "(in 50 min)" }).await;
    }
    let many = vec!["1"; 201].join(",");
    for until in ["x", "1,x", &many] {
        assert_eq!(browser.get(&format!("{LIVE}?until={until}")).await.status, 400, "{until}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_standing_grants_learns_of_refusals_and_of_states() {
    let world = World::new().await;
    let (server, agent) = (&world.server, &world.user_proxy);
    let bob = Principal::new(IDP, "bob");
    let mut browser = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    let grant = |sub: &'static str| {
        let body =
            json!({"client_id": "user-proxy", "scopes": ["mail.read"], "audiences": [MAIL], "max_ttl": 600});
        world.as_user(sub, "POST", "/api/v1/standing-grants", body)
    };
    let id = grant("bob").await.with_status(201).id();
    let foreign = grant("carol").await.with_status(201).id();
    let list = browser.get("/console/standing-grants").await;
    let feed = feed_of(&list.text);
    assert!(feed.ends_with(&format!("grants=true&rows={id}")), "{feed}");
    let mut page = OpenPage::of(&browser, server, &format!("{feed},{foreign}"), None).await;
    let refused = |number: i64| {
        format!("[data-refused-of=&quot;{id}&quot;]\" hx-swap=\"innerHTML\">{number}</hx-partial>")
    };
    let (_, first) = page.until(&refused(0)).await;
    assert!(first.contains("active") && !first.contains(&foreign), "{first}");
    // A refused exchange under the grant.
    let narrow = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL], "expires_in": 600});
    world.as_agent(agent, "POST", "/delegate", narrow).await.with_status(201);
    world.first_hop_of("bob").param("scope", "mail.send").send().await.with_status(400);
    page.until(&refused(1)).await;
    let wider = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.send"], "audiences": [MAIL], "expires_in": 600});
    world.as_agent(agent, "POST", "/delegate", wider).await.with_status(202);
    page.until(&refused(2)).await;
    let again = browser.get("/console/standing-grants").await;
    assert!(again.text.contains(&format!("data-refused-of=\"{id}\">2</span>")), "{}", again.text);
    let path = format!("/api/v1/standing-grants/{id}/revoke");
    world.as_user("bob", "POST", &path, json!({})).await.with_status(200);
    page.until("revoked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_of_those_who_see_the_log_follows_its_state() {
    let world = World::configured("[audit]\nheartbeat = 1\n").await;
    let server = &world.server;
    let ann = Principal::new(IDP, "ann");
    let browser = Browser::of(server, ConsoleRole::Auditor, Some(&ann)).await;
    let mut page = OpenPage::of(&browser, server, LIVE, None).await;
    let (_, first) = page.until("hx-target=\".badge summary\"").await;
    assert!(first.contains("There is no checkpoint yet.") && !first.contains("class=\"banner\""), "{first}");
    jobs::checkpoint::run_once(&server.app, server.clock.now()).await.unwrap();
    server.pass(61);
    let (_, later) = page.until("which a key of the log has signed").await;
    assert!(later.contains("hx-target=\".badge div\""), "{later}");
    let mut sql = server.sql().await;
    sql.execute("UPDATE audit_checkpoint SET note = replace(note, E'\\n\\n', E'x\\n\\n')").await.unwrap();
    server.pass(61);
    let (_, broken) = page.until("hx-target=\"#log-banner\"").await;
    assert!(broken.contains("log broken") && broken.contains("class=\"banner\" role=\"alert\""), "{broken}");

    let alice = Principal::new(IDP, "alice");
    let user = Browser::of(server, ConsoleRole::User, Some(&alice)).await;
    let mut page = OpenPage::of(&user, server, LIVE, None).await;
    page.until("#waiting").await;
    asked(&world, "alice").await;
    server.pass(61);
    asked(&world, "alice").await;
    let (_, message) = page.until("(2)").await;
    assert!(!message.contains("badge") && !message.contains("log-banner"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_waits_for_a_checkpoint_is_shown_again() {
    let world = World::configured("[audit]\nheartbeat = 1\n").await;
    let server = &world.server;
    let ann = Principal::new(IDP, "ann");
    let mut browser = Browser::of(server, ConsoleRole::Auditor, Some(&ann)).await;
    let log = feed_of(&browser.get("/console/log").await.text);
    world.first_hop().await;
    let seq = server.last_event().await["seq"].as_u64().unwrap();
    let path = format!("/console/events/{seq}?tab=forensics");
    let event = feed_of(&browser.get(&path).await.text);
    let next = feed_of(&browser.get(&format!("/console/events/{seq}")).await.text);
    assert!(event.contains(&format!("covered={}", seq + 1)) && !next.contains("covered"), "{event} {next}");
    // A checkpoint that does not reach the event is not awaited.
    let later = event.replace(&format!("covered={}", seq + 1), &format!("covered={}", seq + 100));
    let mut others = OpenPage::of(&browser, server, &later, None).await;
    let mut pages = [
        (OpenPage::of(&browser, server, &log, None).await, "/console/log"),
        (OpenPage::of(&browser, server, &event, None).await, path.as_str()),
    ];
    jobs::checkpoint::run_once(&server.app, server.clock.now()).await.unwrap();
    for (page, path) in &mut pages {
        let (_, message) = page.until("hx-target=\"#uncovered\"").await;
        let link = format!("hx-get=\"{path}\" hx-trigger=\"load, click\"");
        assert!(message.contains(&link), "{link}: {message}");
    }
    server.pass(61);
    others.until("which a key of the log has signed").await;
    assert!(
        others.messages.iter().all(|(_, message)| !message.contains("uncovered")),
        "{:?}",
        others.messages
    );
    // htmx does not run the module that checks the proof: the browser is to load the whole page.
    let fragment = browser.get_with(&path, fields(&[("hx-request", "true")])).await;
    assert_eq!((fragment.status, fragment.header("hx-redirect")), (204, Some(path.as_str())));
    let shown = browser.get(&path).await.text;
    assert!(!shown.contains("id=\"uncovered\"") && !feed_of(&shown).contains("covered"), "{shown}");
}
