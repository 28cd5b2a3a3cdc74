//! Reads of delegations: pages, filters, visibility, long polling for a decision, and repeated requests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::agent::{Agent, Auth};
use crate::support::life::{instant, post, steps};
use crate::support::management::Api;
use crate::support::world::{IDP, World};
use crate::support::{Answer, START};

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let items = answer.json["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

async fn pages(world: &World, token: &str, path: &str, query: &str, limit: usize) -> Vec<Vec<Value>> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("{path}?limit={limit}{cursor}{query}");
        let answer = Api::get(&world.server, &path).user(token).send().await.with_status(200);
        let members: Vec<&String> = answer.json.as_object().unwrap().keys().collect();
        assert_eq!(members, ["items", "next"]);
        let items = answer.json["items"].as_array().unwrap().clone();
        assert!(items.len() <= limit, "{}", answer.text);
        all.push(items);
        assert!(all.len() < 60, "the pages loop");
        match answer.json["next"].as_str() {
            Some(next) => {
                let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
                cursor = format!("&cursor={next}");
            }
            None => return all,
        }
    }
}

fn ids_of(pages: &[Vec<Value>]) -> Vec<String> {
    pages.iter().flatten().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_neither_loop_nor_lose_rows_of_the_same_instant() {
    let world = World::new().await;
    let token = world.token_of("pat");
    let mut made = BTreeSet::new();
    for _ in 0..4 {
        made.insert(world.granted("pat", json!({})).await.id());
    }
    world.server.pass(1);
    for _ in 0..3 {
        made.insert(world.granted("pat", json!({})).await.id());
    }
    let one_page = ids_of(&pages(&world, &token, "/delegate", "", 100).await);
    assert_eq!(one_page.iter().cloned().collect::<BTreeSet<_>>(), made);
    assert_eq!(one_page.len(), 7);
    for limit in 1..=8 {
        let found = pages(&world, &token, "/delegate", "", limit).await;
        assert_eq!(ids_of(&found), one_page, "limit {limit}: the same rows in the same order");
        assert_eq!(found.len(), 7_usize.div_ceil(limit), "limit {limit}: no empty page at the end");
    }
    for limit in [1, 2, 3] {
        let found = pages(&world, &token, "/delegate", "&state=active", limit).await;
        assert_eq!(ids_of(&found), one_page, "limit {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_an_agent_join_what_it_received_and_what_it_delegated_without_repeating_any() {
    let world = World::new().await;
    let mut expected = BTreeSet::from(["D".to_owned(), "E".to_owned()]);
    for n in 0..3 {
        let root = world.granted(&format!("user-{n}"), json!({})).await.id();
        let child = world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({})).await.id();
        expected.extend([root, child]);
    }
    let management_token = world.management_token(&world.user_proxy).await;
    for limit in [1, 3, 8, 100] {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        for _ in 0..20 {
            let path = format!("/delegate?limit={limit}{cursor}");
            let answer =
                Api::get(&world.server, &path).client(&world.user_proxy, &management_token).send().await;
            found.extend(ids(&answer));
            let Some(next) = answer.json["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(found.len(), expected.len(), "limit {limit}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "limit {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_delegation_does_not_move_rows_between_pages() {
    let world = World::new().await;
    let token = world.token_of("pat");
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(world.granted("pat", json!({})).await.id());
        world.server.pass(1);
    }
    made.reverse();
    let get = async |query: &str| {
        let path = format!("/delegate?limit=2{query}");
        Api::get(&world.server, &path).user(&token).send().await
    };
    let first = get("").await;
    assert_eq!(ids(&first), made[..2]);
    world.granted("pat", json!({})).await.with_status(201);
    let second = get(&format!("&cursor={}", first.json["next"].as_str().unwrap())).await;
    assert_eq!(ids(&second), made[2..]);
    assert_eq!(second.json["next"], json!(null), "a page that ends exactly says so");
}

/// Creates one delegation for each way to reach a state.
async fn one_of_each(world: &World) -> usize {
    let give = async |terms: Value| world.granted("bob", terms).await.with_status(201).id();
    let below = async |parent: &str, terms: Value| {
        world.passed_on(&world.user_proxy, (parent, "email-svc"), terms).await.with_status(201).id()
    };
    world.asked("bob", json!({})).await;
    let denied = world.asked("bob", json!({})).await;
    world.moves("bob", &denied, "deny", json!({})).await.with_status(200);
    let approved = world.asked("bob", json!({})).await;
    world.moves("bob", &approved, "approve", json!({})).await.with_status(200);
    let active = give(json!({})).await;
    below(&active, json!({})).await;
    let short = give(json!({"expires_in": 10})).await;
    let child_of_short = below(&short, json!({"expires_in": 5})).await;
    let revoked_below = below(&short, json!({})).await;
    let path = format!("/delegate/{revoked_below}/revoke");
    world.as_agent(&world.user_proxy, "POST", &path, json!({})).await.with_status(200);
    let revoked = give(json!({})).await;
    let child = below(&revoked, json!({})).await;
    let grandchild = world.passed_on(&world.email_svc, (&child, "stranger"), json!({})).await.id();
    below(&revoked, json!({"expires_in": 5})).await;
    let used = give(json!({"max_uses": 1})).await;
    let below_used = below(&used, json!({})).await;
    let path = format!("/delegate/{used}/steps");
    world.as_agent(&world.user_proxy, "POST", &path, steps(1)).await.with_status(200);
    let both = give(json!({"expires_in": 10})).await;
    below(&both, json!({})).await;
    // An agent whose key rotation waits for approval; its descendants wait, too.
    let changing = Agent::new("changing", Auth::None);
    let body = json!({"ephemeral": {"jwk": changing.key.public_jwk(), "task_id": "t"}});
    let home = world.as_user("bob", "POST", "/delegate", body).await.with_status(201).json;
    let changing = Agent { id: home["delegate"].as_str().unwrap().to_owned(), ..changing };
    let home = home["id"].as_str().unwrap().to_owned();
    world.passed_on(&changing, (&home, "email-svc"), json!({})).await.with_status(201);
    let new = Agent::new("new", Auth::None).key.public_jwk();
    let path = format!("/delegate/{home}/rotate-key");
    world.as_agent(&changing, "POST", &path, json!({"jwk": new})).await.with_status(202);
    // All that Carol had is revoked; what she delegates afterwards is not.
    world.granted("carol", json!({})).await.with_status(201);
    world.asked("carol", json!({})).await;
    let principal = json!({"iss": IDP, "sub": "carol", "reason": "left"});
    world.as_admin("POST", "/api/v1/principals/revoke-all", principal).await.with_status(200);
    // Longer than the tolerated clock skew of an issuer.
    world.server.pass(11);
    world.moves("bob", &revoked, "revoke", json!({})).await.with_status(200);
    world.granted("carol", json!({})).await.with_status(201);
    assert_eq!(world.state(&child_of_short).await, "expired");
    assert_eq!(world.state(&grandchild).await, "revoked");
    assert_eq!(world.state(&below_used).await, "expired");
    21
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_that_is_searched_for_is_the_state_that_is_shown() {
    let world = World::new().await;
    let made = one_of_each(&world).await;
    let all = world.as_admin("GET", "/delegate?limit=100", json!({})).await.with_status(200);
    let mut by_state: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for item in all.json["items"].as_array().unwrap() {
        let state = item["state"].as_str().unwrap().to_owned();
        by_state.entry(state).or_default().push(item["id"].as_str().unwrap().to_owned());
        assert_eq!(
            *item,
            world.shown(item["id"].as_str().unwrap()).await,
            "a list shows what a single read shows"
        );
    }
    assert_eq!(all.json["items"].as_array().unwrap().len(), made + 3, "and D, E and F");
    assert_eq!(by_state.len(), 4, "{by_state:?}");
    for (state, expected) in by_state {
        let found = world.as_admin("GET", &format!("/delegate?limit=100&state={state}"), json!({})).await;
        assert_eq!(ids(&found), expected, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_finds_its_own_and_several_narrow() {
    let world = World::new().await;
    let first = world.granted("bob", json!({})).await.id();
    world.server.pass(10);
    let second = world.granted("bob", json!({"delegate": "email-svc"})).await.id();
    world.server.pass(10);
    let child = world.passed_on(&world.user_proxy, (&first, "email-svc"), json!({})).await.id();
    let body =
        json!({"ephemeral": {"jwk": Agent::new("x", Auth::None).key.public_jwk(), "task_id": "task 1/2"}});
    world.as_user("bob", "POST", "/delegate", body).await.assert_problem(400, "malformed_request");
    let body =
        json!({"ephemeral": {"jwk": Agent::new("x", Auth::None).key.public_jwk(), "task_id": "task 1"}});
    let made = world.as_user("bob", "POST", "/delegate", body).await.with_status(201).id();
    let find = async |query: &str| {
        let answer = world.as_admin("GET", &format!("/delegate?{query}"), json!({})).await;
        let mut found = ids(&answer);
        found.sort();
        found
    };
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort();
        ids
    };
    let iss = url::form_urlencoded::byte_serialize(IDP.as_bytes()).collect::<String>();
    assert_eq!(find("delegator_sub=bob").await, sorted(&[&first, &second, &made]));
    assert_eq!(
        find(&format!("delegator_iss={iss}&delegator_sub=bob")).await,
        sorted(&[&first, &second, &made])
    );
    assert_eq!(
        find("delegator_iss=https%3A%2F%2Felsewhere.example.com&delegator_sub=bob").await,
        sorted(&[])
    );
    assert_eq!(find("delegate=email-svc&delegator_sub=bob").await, sorted(&[&second]));
    assert_eq!(find(&format!("parent={first}")).await, sorted(&[&child]));
    assert_eq!(find("task_id=task%201").await, sorted(&[&made]));
    assert_eq!(find("task_id=task+1").await, sorted(&[&made]));
    assert_eq!(find("task_id=t").await, sorted(&[]));
    let at = |seconds: i64| instant(START + seconds).replace(':', "%3A");
    assert_eq!(find(&format!("from={}", at(10))).await, sorted(&[&second, &child, &made]));
    assert_eq!(find(&format!("from={}&to={}", at(10), at(20))).await, sorted(&[&second]));
    assert_eq!(find(&format!("delegator_sub=bob&to={}", at(10))).await, sorted(&[&first]));
    let offset = "2026-01-01T01:00:10%2B01:00";
    assert_eq!(find(&format!("from={offset}&to={}", at(20))).await, sorted(&[&second]), "another zone");
    assert_eq!(find("task_id=task+1&from=2026-01-01&to=2026-01-02").await, sorted(&[&made]), "a date");
    assert_eq!(find("from=2026-01-02").await, sorted(&[]), "a date begins at midnight UTC");
    assert_eq!(find("delegator_sub=bob&state=revoked").await, sorted(&[]));
    for text in ["%27%20OR%20%271%27=%271", "%25", "_", "b%6Fbby", "BOB"] {
        assert_eq!(find(&format!("delegator_sub={text}")).await, sorted(&[]), "{text}");
    }
    assert_eq!(find("delegator_sub=b%6Fb").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_sees_its_own_delegations_and_nothing_else() {
    let world = World::new().await;
    let root = world.granted("bob", json!({})).await.id();
    let child = world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({})).await.id();
    let asked = world.asked("bob", json!({})).await;
    let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
    let seen = async |answer: Answer| ids(&answer).into_iter().collect::<BTreeSet<_>>();
    let as_user = async |sub: &str, query: &str| {
        seen(world.as_user(sub, "GET", &format!("/delegate{query}"), json!({})).await).await
    };
    let as_agent = async |agent, query: &str| {
        seen(world.as_agent(agent, "GET", &format!("/delegate{query}"), json!({})).await).await
    };
    assert_eq!(as_user("bob", "").await, set(&[&root, &child, &asked]), "all that is rooted at it");
    assert_eq!(as_user("alice", "").await, set(&["D", "E", "F"]));
    assert_eq!(as_user("carol", "").await, set(&[]));
    assert_eq!(as_agent(&world.user_proxy, "").await, set(&["D", "E", &root, &child, &asked]));
    assert_eq!(as_agent(&world.email_svc, "").await, set(&["E", "F", &child]));
    assert_eq!(as_agent(&world.stranger, "").await, set(&[]));
    assert_eq!(as_agent(&world.admin, "").await, set(&["D", "E", "F", &root, &child, &asked]));
    // Filters narrow what a caller sees, and never widen it.
    for query in ["?delegator_sub=bob", "?delegate=user-proxy&delegator_sub=bob", &format!("?parent={root}")]
    {
        assert_eq!(as_user("alice", query).await, set(&[]), "{query}");
        assert_eq!(as_agent(&world.stranger, query).await, set(&[]), "{query}");
    }
    // A user with the same name as an agent is not that agent.
    assert_eq!(as_user("user-proxy", "").await, set(&[]));
    let cursor = world.as_admin("GET", "/delegate?limit=1", json!({})).await;
    let cursor = cursor.json["next"].as_str().unwrap();
    assert_eq!(
        as_user("carol", &format!("?cursor={cursor}")).await,
        set(&[]),
        "another's cursor shows nothing more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_makes_no_sense_is_refused_and_breaks_nothing() {
    let world = World::new().await;
    let token = world.user_token();
    for query in [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=1.5",
        "limit=99999999999999999999",
        "limit=1&limit=2",
        "state=ended",
        "state=ACTIVE",
        "state=",
        "state=active&state=revoked",
        "what=1",
        "cursor=x",
        "cursor=",
        "cursor=1.",
        "cursor=.D",
        "cursor=1.%00",
        "cursor=99999999999999999999.D",
        "from=yesterday",
        "from=2026-01",
        "from=2026-01-01T00:00:00",
        "from=2026-02-30T00:00:00Z",
        "to=1",
        "from=2026-01-01T00:00:00+01:00",
        "delegate=%00",
        "delegator_sub=a%00b",
        "delegator_iss=%00",
        "parent=%00",
        "task_id=%00",
        "cursor=%ff.D",
        "wait=1",
    ] {
        let answer = Api::get(&world.server, &format!("/delegate?{query}")).user(&token).send().await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{query}: {}", answer.text);
    }
    for query in [
        "from=9999-12-31T23:59:59-23:59",
        "to=9999-12-31T23:59:59.999999999Z",
        "from=0000-01-01T00:00:00Z",
        "to=0000-01-01T00:00:00%2B23:59",
        "cursor=9223372036854775807.D",
        "cursor=-9223372036854775808.D",
        "cursor=0.D",
        "from=1969-12-31T23:59:60Z",
        "delegate=%ff",
        "task_id=%F0%9F%98%80",
    ] {
        let answer = Api::get(&world.server, &format!("/delegate?{query}")).user(&token).send().await;
        assert!(matches!(answer.status, 200 | 400), "{query}: {} {}", answer.status, answer.text);
    }
    let long = "a".repeat(6000);
    for query in [format!("delegate={long}"), format!("parent={long}"), format!("cursor=1.{long}")] {
        let answer = Api::get(&world.server, &format!("/delegate?{query}")).user(&token).send().await;
        assert!(matches!(answer.status, 200 | 400), "{} {}", answer.status, answer.text);
    }
    for path in ["/agents?limit=0", "/agents?limit=101", "/agents?what=1", "/agents?cursor=%00"] {
        let answer = Api::get(&world.server, path).user(&token).send().await;
        answer.assert_problem(400, "malformed_request");
    }
    for query in ["wait=31", "wait=-1", "wait=x", "wait=", "wait=1&wait=1", "what=1", "wait=1.5"] {
        let answer = Api::get(&world.server, &format!("/delegate/D?{query}")).user(&token).send().await;
        answer.assert_problem(400, "malformed_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_listed_with_their_active_delegations() {
    let world = World::new().await;
    let root = world.granted("bob", json!({})).await.id();
    let child = world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({})).await.id();
    world.asked("bob", json!({})).await;
    let ended = world.granted("bob", json!({"delegate": "stranger"})).await.id();
    world.moves("bob", &ended, "revoke", json!({})).await.with_status(200);
    let held = |answer: &Answer| {
        let items = answer.json["items"].as_array().unwrap().clone();
        let one = |item: Value| {
            let held = item["delegations"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["id"].as_str().unwrap().to_owned());
            (item["client_id"].as_str().unwrap().to_owned(), held.collect::<BTreeSet<_>>())
        };
        items.into_iter().map(one).collect::<BTreeMap<_, _>>()
    };
    let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
    let of_bob = world.as_user("bob", "GET", "/agents", json!({})).await.with_status(200);
    let expected =
        BTreeMap::from([("user-proxy".into(), set(&[&root])), ("email-svc".into(), set(&[&child]))]);
    assert_eq!(held(&of_bob), expected);
    let proxy = of_bob.json["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["client_id"] == "user-proxy")
        .unwrap();
    assert_eq!((&proxy["name"], &proxy["kind"]), (&json!("User proxy"), &json!("agent")));
    assert_eq!((&proxy["disabled"], &proxy["ephemeral"]), (&json!(false), &json!(null)));
    assert_eq!(proxy["delegations"][0], world.shown(&root).await);
    let of_all = world.as_admin("GET", "/agents", json!({})).await.with_status(200);
    let expected = BTreeMap::from([
        ("user-proxy".into(), set(&[&root, "D"])),
        ("email-svc".into(), set(&[&child, "E"])),
        ("followup-svc".into(), set(&["F"])),
    ]);
    assert_eq!(held(&of_all), expected);
    let paged = pages(&world, &world.user_token(), "/agents", "", 1).await;
    let names: Vec<_> = paged.iter().flatten().map(|item| item["client_id"].clone()).collect();
    assert_eq!(names, ["email-svc", "followup-svc", "user-proxy"]);
    assert_eq!(paged.len(), 3, "no empty page at the end");
    world
        .as_agent(&world.user_proxy, "GET", "/agents", json!({}))
        .await
        .assert_problem(403, "insufficient_scope");
    world.server.disable("email-svc").await;
    let disabled = world.as_user("bob", "GET", "/agents", json!({})).await.with_status(200);
    let mail = disabled.json["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["client_id"] == "email-svc")
        .unwrap();
    assert_eq!(mail["disabled"], json!(true));
}

fn retry_after(answer: &Answer) -> Option<i64> {
    answer.header("retry-after").map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_polls_too_often_waits_longer_and_no_other_caller_does() {
    let world = World::new().await;
    let id = world.asked("bob", json!({})).await;
    let other = world.asked("bob", json!({})).await;
    let poll = async |id: &str| {
        world.as_agent(&world.user_proxy, "GET", &format!("/delegate/{id}"), json!({})).await
    };
    let first = poll(&id).await.with_status(200);
    assert_eq!((retry_after(&first), &first.json["state"]), (Some(5), &json!("requested")));
    let soon = poll(&id).await;
    soon.assert_problem(429, "slow_down");
    assert_eq!(retry_after(&soon), Some(10));
    poll(&other).await.with_status(200);
    world.server.pass(9);
    let soon = poll(&id).await;
    assert_eq!((soon.status, retry_after(&soon)), (429, Some(15)));
    world.server.pass(15);
    poll(&id).await.with_status(200);
    // Other callers are not slowed down, and after the decision no caller is.
    for _ in 0..3 {
        let by_user =
            world.as_user("bob", "GET", &format!("/delegate/{id}"), json!({})).await.with_status(200);
        assert!(retry_after(&by_user).is_some());
        world.as_admin("GET", &format!("/delegate/{id}"), json!({})).await.with_status(200);
    }
    world.moves("bob", &id, "approve", json!({})).await.with_status(200);
    for _ in 0..3 {
        assert_eq!(retry_after(&poll(&id).await.with_status(200)), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_waits_for_retry_after_is_never_slowed_down_again() {
    let world = World::new().await;
    let id = world.asked("bob", json!({})).await;
    let poll = async || world.as_agent(&world.user_proxy, "GET", &format!("/delegate/{id}"), json!({})).await;
    poll().await.with_status(200);
    let mut answer = poll().await;
    answer.assert_problem(429, "slow_down");
    for _ in 0..4 {
        world.server.pass(retry_after(&answer).unwrap());
        answer = poll().await.with_status(200);
    }
}

/// The permits for long polls of a server that has answered none yet. A server notices late that a caller has
/// disconnected, so that permits are counted only where no long poll was ever abandoned.
struct LongPollPermits<'a> {
    permits: &'a tokio::sync::Semaphore,
    all: usize,
}

impl<'a> LongPollPermits<'a> {
    fn of(world: &'a World) -> Self {
        let permits = &world.server.app.limits.long_poll_permits;
        LongPollPermits { permits, all: permits.available_permits() }
    }

    async fn until_taken(&self, number: usize) {
        while self.permits.available_permits() > self.all - number {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_returns_as_soon_as_it_is_decided() {
    for (name, state) in [("approve", "active"), ("deny", "revoked")] {
        let world = World::new().await;
        let permits = LongPollPermits::of(&world);
        let twin = world.server.twin().await;
        let id = world.asked("bob", json!({})).await;
        let management_token = world.management_token(&world.user_proxy).await;
        let user = world.token_of("bob");
        // A request that began earlier and waits as long shows that this request did not wait until its timeout.
        let undecided = format!("/delegate/{}?wait=30", world.asked("bob", json!({})).await);
        let longer = Api::get(&world.server, &undecided).client(&world.user_proxy, &management_token).send();
        let answer = async {
            permits.until_taken(1).await;
            let path = format!("/delegate/{id}?wait=30");
            let wait = Api::get(&world.server, &path).client(&world.user_proxy, &management_token).send();
            let decide = async {
                permits.until_taken(2).await;
                post(&twin, &id, name, json!({})).user(&user).send().await
            };
            let (answer, decided) = tokio::join!(wait, decide);
            decided.with_status(200);
            answer
        };
        let answer = tokio::select! {
            answer = answer => answer,
            early = longer => panic!("the one that began first ended first: {}", early.text),
        };
        assert_eq!((answer.status, &answer.json["state"]), (200, &json!(state)), "{}", answer.text);
        assert_eq!(retry_after(&answer), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_waits_as_long_as_it_was_asked_to_and_is_no_poll() {
    let world = World::new().await;
    let id = world.asked("bob", json!({})).await;
    let started = Instant::now();
    let path = format!("/delegate/{id}?wait=1");
    let answer = world.as_agent(&world.user_proxy, "GET", &path, json!({})).await.with_status(200);
    assert_eq!((&answer.json["state"], retry_after(&answer)), (&json!("requested"), Some(5)));
    assert!(started.elapsed().as_millis() >= 1000, "it waited as long as it was asked to");
    // A long poll does not count against the polling interval.
    world.as_agent(&world.user_proxy, "GET", &format!("/delegate/{id}"), json!({})).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_returns_when_the_request_expires() {
    let world = World::configured("[delegations]\nrequest_ttl = 60").await;
    let permits = LongPollPermits::of(&world);
    let id = world.asked("bob", json!({})).await;
    let path = format!("/delegate/{id}?wait=30");
    let wait = world.as_agent(&world.user_proxy, "GET", &path, json!({}));
    let lapse = async {
        permits.until_taken(1).await;
        world.server.pass(60);
    };
    let (answer, ()) = tokio::join!(wait, lapse);
    assert_eq!((answer.status, &answer.json["state"]), (200, &json!("expired")), "{}", answer.text);
}

/// A request with an idempotency key.
fn keyed<'a>(world: &'a World, sub: &str, key: &str, body: &Value) -> Api<'a> {
    Api::post(&world.server, "/delegate", body.clone()).user(&world.token_of(sub)).key(key)
}

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_answered_again_and_done_once() {
    let world = World::new().await;
    let body = json!({"delegate": "user-proxy", "reason": "once"});
    let first = keyed(&world, "bob", "k-1", &body).send().await.with_status(201);
    assert!(!replayed(&first));
    world.server.pass(30);
    let again = keyed(&world, "bob", "k-1", &body).send().await.with_status(201);
    assert!(replayed(&again));
    assert_eq!((&again.json, again.header("location")), (&first.json, first.header("location")));
    assert_eq!(again.header("content-type"), first.header("content-type"));
    let other =
        keyed(&world, "bob", "k-1", &json!({"delegate": "user-proxy", "reason": "twice"})).send().await;
    other.assert_problem(422, "idempotency_key_reused");
    let elsewhere =
        post(&world.server, &first.id(), "revoke", json!({})).user(&world.token_of("bob")).key("k-1");
    elsewhere.send().await.assert_problem(422, "idempotency_key_reused");
    // The same key of another user is a different key.
    let carol = keyed(&world, "carol", "k-1", &body).send().await.with_status(201);
    assert!(!replayed(&carol) && carol.id() != first.id());
    let listed = ids(&world.as_user("bob", "GET", "/delegate", json!({})).await);
    assert_eq!(listed, [first.id()]);
    // The key expires after a day.
    world.server.pass(24 * 3600);
    let again = keyed(&world, "bob", "k-1", &json!({"delegate": "email-svc"})).send().await.with_status(201);
    assert!(!replayed(&again) && again.id() != first.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_by_state_checks_two_thousand_delegations_and_goes_on_after_them() {
    let world = World::new().await;
    let rare = world.granted("bob", json!({})).await.id();
    world.moves("bob", &rare, "revoke", json!({})).await.with_status(200);
    world.server.pass(1);
    let id = world.granted("bob", json!({})).await.id();
    let mut sql = world.server.sql().await;
    let copies = "INSERT INTO delegation (id, path, root_iss, root_sub, delegator_iss, delegator_sub, delegate, scopes,
                      audiences, origin, requested_at, activated_at, expires_at, requested_by_iss, requested_by_sub)
                  SELECT id || '-' || n, ARRAY[id || '-' || n], root_iss, root_sub, delegator_iss, delegator_sub, delegate,
                         scopes, audiences, origin, requested_at, activated_at, expires_at, requested_by_iss, requested_by_sub
                  FROM delegation, generate_series(1, 3000) n WHERE id = $1";
    sqlx::query(copies).bind(&id).execute(&mut sql).await.unwrap();
    let uses = "INSERT INTO delegation_usage (delegation_id, uses) SELECT id, 0 FROM delegation ON CONFLICT DO NOTHING";
    sqlx::query(uses).execute(&mut sql).await.unwrap();
    world.server.seal_rows().await;
    for sub in [None, Some("bob")] {
        let mut path = "/delegate?state=revoked&limit=10".to_owned();
        let mut pages = Vec::new();
        loop {
            let answer = match sub {
                None => world.as_admin("GET", &path, json!({})).await,
                Some(sub) => world.as_user(sub, "GET", &path, json!({})).await,
            };
            let page = answer.with_status(200).json;
            let ids: Vec<String> = page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["id"].as_str().unwrap().to_owned())
                .collect();
            pages.push(ids);
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/delegate?state=revoked&limit=10&cursor={next}");
        }
        assert_eq!(pages, [vec![], vec![rare.clone()]]);
    }
    let plenty =
        world.as_admin("GET", "/delegate?state=active&limit=10", json!({})).await.with_status(200).json;
    assert_eq!(plenty["items"].as_array().unwrap().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_move_can_be_repeated_under_a_key() {
    let world = World::new().await;
    let user = world.token_of("bob");
    let id = world.asked("bob", json!({"max_uses": 10})).await;
    let management_token = world.management_token(&world.user_proxy).await;
    let by_bob = async |name: &str, body: Value| {
        let send = || post(&world.server, &id, name, body.clone()).user(&user).key(name).send();
        let (first, second) = (send().await, send().await);
        assert_eq!((first.status, replayed(&first), replayed(&second)), (200, false, true), "{}", first.text);
        assert_eq!((second.status, &second.json), (200, &first.json), "{name}");
        first
    };
    by_bob("approve", json!({"max_uses": 5})).await;
    by_bob("renew", json!({"expires_in": 4000})).await;
    let report = |key: &str, count: u32| {
        let body = steps(count);
        post(&world.server, &id, "steps", body).client(&world.user_proxy, &management_token).key(key).send()
    };
    let counted = report("c-1", 2).await.with_status(200);
    let again = report("c-1", 2).await.with_status(200);
    assert!(replayed(&again));
    assert_eq!((&again.json, &again.json["uses_left"]), (&counted.json, &json!(3)));
    assert_eq!(world.shown(&id).await["uses"], 2, "counted once");
    report("c-1", 1).await.assert_problem(422, "idempotency_key_reused");
    report("c-2", 2).await.with_status(200);
    let revoked = by_bob("revoke", json!({"reason": "enough"})).await;
    assert_eq!(revoked.json["affected"]["delegations"], 1, "the count is in what is repeated, too");
    let denied = world.asked("bob", json!({})).await;
    let deny = || post(&world.server, &denied, "deny", json!({})).user(&user).key("d").send();
    let (first, second) = (deny().await.with_status(200), deny().await.with_status(200));
    assert!(!replayed(&first) && replayed(&second) && first.json == second.json);
    assert_eq!(world.moves_of(&denied).await, ["delegation.created", "delegation.revoked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_does_not_take_its_key() {
    let world = World::new().await;
    let refused = keyed(&world, "bob", "k", &json!({"delegate": "unknown"})).send().await;
    refused.assert_problem(400, "delegate_unknown");
    let refused = keyed(&world, "bob", "k", &json!({"delegate": "unknown"})).send().await;
    refused.assert_problem(400, "delegate_unknown");
    assert!(!replayed(&refused));
    keyed(&world, "bob", "k", &json!({"delegate": "user-proxy"})).send().await.with_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_returns_no_answer_of_another_or_rejected_caller() {
    let world = World::new().await;
    let id = world.asked("bob", json!({})).await;
    let approve =
        |sub: &str| post(&world.server, &id, "approve", json!({})).user(&world.token_of(sub)).key("k").send();
    approve("bob").await.with_status(200);
    approve("alice").await.assert_problem(404, "not_found");
    // The stored response is only for authenticated callers; a rejected caller does not receive it.
    let kept =
        Api::post(&world.server, "/delegate", json!({"delegator": {"iss": IDP, "sub": "bob"}})).key("k");
    let management_token = world.management_token(&world.user_proxy).await;
    kept.clone().client(&world.user_proxy, &management_token).send().await.with_status(202);
    world.server.disable("user-proxy").await;
    let out = kept.client(&world.user_proxy, &management_token).send().await;
    out.assert_problem(401, "access_token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_repetitions_on_two_servers_create_one_delegation() {
    let patient = "[ledger]\ntimeout = 30";
    let world = World::configured(patient).await;
    let twin = world.server.twin_configured(patient).await;
    for round in 0..4 {
        let (user, key) = (world.token_of("bob"), format!("k-{round}"));
        let body = json!({"delegate": "user-proxy", "reason": key});
        let send = |n: usize| {
            let server = if n.is_multiple_of(2) { &world.server } else { &twin };
            Api::post(server, "/delegate", body.clone()).user(&user).key(&key).send()
        };
        let answers = join_all((0..8).map(send)).await;
        let made: BTreeSet<String> = answers.iter().map(|answer| answer.id()).collect();
        assert_eq!(made.len(), 1, "{made:?}");
        assert!(answers.iter().all(|answer| answer.status == 201));
        assert_eq!(answers.iter().filter(|answer| !replayed(answer)).count(), 1);
    }
    assert_eq!(ids(&world.as_user("bob", "GET", "/delegate", json!({})).await).len(), 4);
    // Commands with an idempotency key count once, too.
    let id = world.granted("carol", json!({"max_uses": 50})).await.id();
    let management_token = world.management_token(&world.user_proxy).await;
    let report = |n: usize| {
        let server = if n.is_multiple_of(2) { &world.server } else { &twin };
        post(server, &id, "steps", steps(3)).client(&world.user_proxy, &management_token).key("c").send()
    };
    let answers = join_all((0..8).map(report)).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.json["uses_left"] == 47));
    assert_eq!(world.shown(&id).await["uses"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_to_128_printable_characters() {
    let world = World::new().await;
    let body = json!({"delegate": "user-proxy"});
    let long = "k".repeat(129);
    for key in ["", "a\tb", &long] {
        keyed(&world, "bob", key, &body).send().await.assert_problem(400, "malformed_request");
    }
    for key in ["\"quoted\"", "a b", &long[1..], "'; DROP TABLE idempotency; --"] {
        let first = keyed(&world, "bob", key, &body).send().await.with_status(201);
        let again = keyed(&world, "bob", key, &body).send().await.with_status(201);
        assert_eq!((first.id(), replayed(&again)), (again.id(), true), "{key}");
    }
    let twice = keyed(&world, "bob", "one", &body).key("two").send().await;
    assert_eq!(twice.status, 400, "two keys are none: {}", twice.text);
    // Reads are executed again.
    let poll =
        |_: u8| Api::get(&world.server, "/delegate").user(&world.token_of("bob")).key("\"quoted\"").send();
    let (first, second) = (poll(0).await.with_status(200), poll(1).await.with_status(200));
    assert!(!replayed(&first) && !replayed(&second));
}
