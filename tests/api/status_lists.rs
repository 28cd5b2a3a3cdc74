//! Token Status List (draft-ietf-oauth-status-list): every token has its own index, and the list shows every revocation
//! at once.

use std::collections::HashSet;

use actchain_protocol::status_list::{SIZE, StatusList};
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, Agent, JWT};
use crate::support::life::steps;
use crate::support::management::Api;
use crate::support::world::{CALENDAR, MAIL, World};
use crate::support::{Answer, Server, claims_of};

fn place(token: &str) -> (String, u64) {
    let claims = claims_of(token);
    let reference = &claims["status"]["status_list"];
    (reference["uri"].as_str().unwrap().to_owned(), reference["idx"].as_u64().unwrap())
}

async fn get(server: &Server, uri: &str) -> Answer {
    let path = uri.strip_prefix(&server.app.issuer).unwrap();
    Api::get(server, path).send().await
}

async fn for_itself(server: &Server, agent: &Agent) -> String {
    let request = agent.request(server).param("grant_type", "client_credentials").param("audience", MAIL);
    let answer = request.send().await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.token().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_token_refers_to_an_existing_status_list() {
    let world = World::new().await;
    let first = world.first_hop().await.token().to_owned();
    let tokens = [
        first.clone(),
        world.user_proxy.exchange(&world.server, &first, ACCESS_TOKEN).send().await.token().to_owned(),
        world.third_hop().await.token().to_owned(),
        for_itself(&world.server, &world.stranger).await,
        world.management_token(&world.user_proxy).await,
        world.management_token(&world.admin).await,
    ];
    let mut places = HashSet::new();
    for token in &tokens {
        let claims = claims_of(token);
        assert_eq!(claims["status"].as_object().unwrap().len(), 1);
        assert_eq!(claims["status"]["status_list"].as_object().unwrap().len(), 2);
        let (uri, idx) = place(token);
        assert!(uri.starts_with(&format!("{}/oauth/status-lists/", world.server.app.issuer)), "{uri}");
        assert!(idx < SIZE && places.insert((uri.clone(), idx)));
        assert_eq!(get(&world.server, &uri).await.status, 200);
        assert_eq!(world.status_of(token).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_list_is_a_signed_token_with_its_uri_and_times() {
    let world = World::configured("[status]\nttl = 45").await;
    let (uri, idx) = place(world.first_hop().await.token());
    let list = get(&world.server, &uri).await;
    assert_eq!((list.status, list.header("content-type")), (200, Some("application/statuslist+jwt")));
    assert_eq!(list.header("access-control-allow-origin"), Some("*"));
    let cached = list.header("cache-control").unwrap();
    assert!(cached.contains("max-age=45") && !cached.contains("no-store"), "{cached}");
    let (typ, claims) = world.server.verified(&list.text).await;
    assert_eq!(typ, "statuslist+jwt");
    let names: HashSet<&str> = claims.keys().map(String::as_str).collect();
    assert_eq!(names, HashSet::from(["sub", "iat", "exp", "ttl", "status_list"]), "iss is not needed");
    let now = world.server.now();
    assert_eq!((&claims["sub"], &claims["iat"]), (&json!(uri), &json!(now)));
    assert_eq!((&claims["ttl"], &claims["exp"]), (&json!(45), &json!(now + 450)), "ten times the ttl");
    assert_eq!(claims["status_list"].as_object().unwrap().len(), 2);
    assert_eq!(claims["status_list"]["bits"], 2);
    let lst = claims["status_list"]["lst"].as_str().unwrap();
    assert!(!lst.contains('='), "draft-ietf-oauth-status-list §4.2");
    let read = StatusList::read(lst).expect("a ZLIB stream of all places");
    assert!(read.get(idx).is_some() && read.get(SIZE).is_none(), "draft-ietf-oauth-status-list §8.3");
    // RFC 8725 §3.12: the list is accepted as no other kind of token.
    let passed = world.email_svc.exchange(&world.server, &list.text, ACCESS_TOKEN).send().await;
    passed.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(world.introspect(&world.mail_server, &list.text).await.text, r#"{"active":false}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_the_status_list_gets_304_until_it_changes() {
    let world = World::new().await;
    let token = world.first_hop().await.token().to_owned();
    let (uri, _) = place(&token);
    let path = uri.strip_prefix(&world.server.app.issuer).unwrap();
    let list = get(&world.server, &uri).await;
    let etag = list.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    for known in [
        etag.clone(),
        format!("W/{etag}"),
        format!("\"other\", {etag}"),
        format!("\"other\",{etag}"),
        "*".into(),
    ] {
        let answer = Api::get(&world.server, path).header("if-none-match", &known).send().await;
        assert_eq!((answer.status, answer.text.as_str()), (304, ""), "{known}");
        assert_eq!(
            (answer.header("etag"), answer.header("access-control-allow-origin")),
            (Some(etag.as_str()), Some("*"))
        );
        assert!(answer.header("cache-control").is_some(), "RFC 9110 §15.4.5");
    }
    let other = Api::get(&world.server, path).header("if-none-match", "\"other\"").send().await;
    assert_eq!((other.status, &other.text), (200, &list.text));
    let head = Api::new(&world.server, "HEAD", path).send().await;
    assert_eq!((head.status, head.text.as_str(), head.header("etag")), (200, "", Some(etag.as_str())));
    world.server.revoke("D").await;
    let changed = Api::get(&world.server, path).header("if-none-match", &etag).send().await;
    assert_eq!(changed.status, 200, "something ended");
    assert_ne!(changed.header("etag"), Some(etag.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_uri_of_a_status_list_is_below_the_path_of_its_issuer() {
    let world = World::configured("issuer = \"https://as.example.com/t1\"").await;
    let mut sql = world.server.sql().await;
    sqlx::query("SELECT nextval('status_block')").execute(&mut sql).await.unwrap();
    let list = Api::get(&world.server, "/t1/oauth/status-lists/0").send().await;
    assert_eq!(list.status, 200, "{}", list.text);
    assert_eq!(claims_of(&list.text)["sub"], "https://as.example.com/t1/oauth/status-lists/0");
    let listed = Api::get(&world.server, "/t1/oauth/status-lists").send().await;
    assert_eq!(listed.json, json!({"status_lists": ["https://as.example.com/t1/oauth/status-lists/0"]}));
    assert_eq!(Api::get(&world.server, "/oauth/status-lists/0").send().await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_versions_of_a_status_list_are_not_offered() {
    let world = World::new().await;
    let (uri, _) = place(world.first_hop().await.token());
    for query in ["?time=1", "?time=", "?time", "?a=b&time=1686925000"] {
        let answer = get(&world.server, &format!("{uri}{query}")).await;
        assert_eq!((answer.status, answer.reason()), (501, "not_supported"), "{query}");
    }
    assert_eq!(get(&world.server, &format!("{uri}?timeless=1")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_status_list_is_not_found() {
    let world = World::new().await;
    assert_eq!(Api::get(&world.server, "/oauth/status-lists/0").send().await.status, 404, "before any token");
    world.first_hop().await;
    assert_eq!(Api::get(&world.server, "/oauth/status-lists/0").send().await.status, 200);
    for list in
        ["1", "00", "-1", "+0", "x", "0x0", "0.0", "%30%30", "18446744073709551615", "18446744073709551616"]
    {
        let answer = Api::get(&world.server, &format!("/oauth/status-lists/{list}")).send().await;
        assert_eq!((answer.status, answer.reason()), (404, "not_found"), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_list_that_a_token_refers_to_is_listed_and_can_be_read() {
    let world = World::new().await;
    let lists = async || Api::get(&world.server, "/oauth/status-lists").send().await;
    let none = lists().await;
    assert_eq!((none.status, &none.json), (200, &json!({"status_lists": []})));
    let first = world.first_hop().await.token().to_owned();
    // As if the first list were full: the next index comes from the third list.
    let mut sql = world.server.sql().await;
    sqlx::query("SELECT setval('status_block', $1)").bind(2 * 2048 - 1_i64).execute(&mut sql).await.unwrap();
    let twin = world.server.twin().await;
    let request = world.user_proxy.exchange(&twin, &world.user_token(), JWT).param("audience", MAIL);
    let later = request.send().await.token().to_owned();
    let issuer = &world.server.app.issuer;
    assert_eq!(place(&first).0, format!("{issuer}/oauth/status-lists/0"));
    assert_eq!(place(&later).0, format!("{issuer}/oauth/status-lists/2"));
    world.server.pass(31);
    let listed = lists().await;
    assert_eq!(
        (listed.header("content-type"), listed.header("access-control-allow-origin")),
        (Some("application/json"), Some("*"))
    );
    let uris: Vec<&str> =
        listed.json["status_lists"].as_array().unwrap().iter().map(|uri| uri.as_str().unwrap()).collect();
    assert!(uris.contains(&place(&first).0.as_str()) && uris.contains(&place(&later).0.as_str()), "{uris:?}");
    for uri in &uris {
        let list = get(&twin, uri).await;
        assert_eq!((list.status, &claims_of(&list.text)["sub"]), (200, &json!(uri)));
    }
    // Each list contains only its own tokens.
    assert_eq!(world.server.revoke_token(&world.user_proxy, &later).await.status, 200);
    assert_eq!((world.status_of(&later).await, world.status_of(&first).await), (1, 0));
    let (_, idx) = place(&later);
    let list = claims_of(&get(&world.server, &place(&first).0).await.text);
    let list = StatusList::read(list["status_list"]["lst"].as_str().unwrap()).unwrap();
    assert_eq!(list.get(idx).unwrap() as u8, u8::from(place(&first).1 == idx));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_never_assign_one_status_index_twice_and_indexes_show_no_order() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    // The first verification of a secret is slow.
    for_itself(&world.server, &world.stranger).await;
    for_itself(&twin, &world.stranger).await;
    // More than one block for each server, in turns.
    let mut places = Vec::new();
    for _ in 0..36 {
        let batch = (0..32).map(|n| {
            let server = if n % 2 == 0 { &world.server } else { &twin };
            for_itself(server, &world.stranger)
        });
        places.extend(futures_util::future::join_all(batch).await.iter().map(|token| place(token)));
    }
    let different: HashSet<&(String, u64)> = places.iter().collect();
    assert_eq!((places.len(), different.len()), (1_152, 1_152));
    let indices: Vec<u64> = places.iter().map(|(_, idx)| *idx).collect();
    let near = indices.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 512).count();
    let up = indices.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!(near < 20, "{near} of them lie close to the one before");
    assert!((400..750).contains(&up), "{up} of them lie behind the one before");
    let mut sql = world.server.sql().await;
    let stored: Vec<i64> =
        sqlx::query_scalar("SELECT status_index FROM issued_token").fetch_all(&mut sql).await.unwrap();
    let issued: HashSet<i64> = indices.iter().map(|idx| i64::try_from(*idx).unwrap()).collect();
    assert!(issued.iter().all(|idx| stored.contains(idx)), "what is stored is what the tokens say");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_client_suspends_its_tokens_and_a_revocation_is_final() {
    let world = World::new().await;
    let first = world.first_hop().await.token().to_owned();
    let second = world.hop(&world.email_svc, &first).await.token().to_owned();
    let third = world.hop(&world.followup_svc, &second).await.token().to_owned();
    let all = async || {
        [world.status_of(&first).await, world.status_of(&second).await, world.status_of(&third).await]
    };
    assert_eq!(all().await, [0, 0, 0]);
    world.server.disable("email-svc").await;
    assert_eq!(all().await, [0, 2, 2]);
    world.server.disable("followup-svc").await;
    assert_eq!(all().await, [0, 2, 2]);
    world.server.enable("email-svc").await;
    assert_eq!(all().await, [0, 0, 2], "each for itself");
    world.server.enable("followup-svc").await;
    assert_eq!(all().await, [0, 0, 0], "SUSPENDED returns to VALID");
    world.server.disable("email-svc").await;
    assert_eq!(world.server.revoke_token(&world.followup_svc, &third).await.status, 200);
    assert_eq!(all().await, [0, 2, 1], "final beats passing");
    world.server.revoke("E").await;
    assert_eq!(all().await, [0, 1, 1]);
    world.server.enable("email-svc").await;
    assert_eq!(all().await, [0, 1, 1], "1 never changes");
    world.server.disable("user-proxy").await;
    assert_eq!(all().await, [2, 1, 1]);
    world.server.enable("user-proxy").await;
    assert_eq!(all().await, [0, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_status_stays_invalid_after_every_later_change() {
    let world = World::new().await;
    let first = world.first_hop().await.token().to_owned();
    let second = world.hop(&world.email_svc, &first).await.token().to_owned();
    let third = world.hop(&world.followup_svc, &second).await.token().to_owned();
    let cut = world
        .as_admin(
            "POST",
            "/api/v1/principals/revoke-all",
            json!({"iss": world.server.app.issuer, "sub": "email-svc", "reason": "left"}),
        )
        .await;
    assert_eq!(cut.status, 200, "{}", cut.text);
    let all = async || {
        [world.status_of(&first).await, world.status_of(&second).await, world.status_of(&third).await]
    };
    assert_eq!(all().await, [0, 1, 1]);
    for step in ["disable", "enable", "revoke", "expire", "sweep", "apply"] {
        match step {
            "disable" => drop(world.server.disable("email-svc").await),
            "enable" => drop(world.server.enable("email-svc").await),
            "revoke" => drop(world.server.revoke("D").await),
            "expire" => {
                world.server.pass(299);
                actchain::jobs::expiry::run_once(&world.server.app, world.server.clock.now()).await.map(drop).unwrap();
            }
            "sweep" => drop(
                actchain::jobs::sweep::run_once(&world.server.app, world.server.clock.now()).await.unwrap(),
            ),
            _ => world
                .server
                .apply("clients:\n  - {id: followup-svc, kind: agent, auth: none, dpop_keys: [AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA], scopes: []}")
                .await
                .unwrap(),
        }
        let now = all().await;
        assert_eq!((now[1], now[2]), (1, 1), "after {step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_list_is_cached_for_its_ttl_and_still_shows_a_revocation_at_once_on_every_server() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let first = world.first_hop().await.token().to_owned();
    let (uri, _) = place(&first);
    let made = get(&world.server, &uri).await.text;
    world.server.pass(29);
    world.first_hop().await;
    assert_eq!(get(&world.server, &uri).await.text, made, "a token that is issued changes nothing");
    world.server.pass(1);
    let again = get(&world.server, &uri).await.text;
    assert_eq!(claims_of(&again)["iat"], json!(world.server.now()), "created again after its lifetime");
    let kept = [get(&world.server, &uri).await.text, get(&twin, &uri).await.text];
    assert_eq!(kept[0], again);
    assert_eq!((world.server.listed(&first).await, twin.listed(&first).await), (0, 0));
    world.server.revoke("D").await;
    assert_eq!((twin.listed(&first).await, world.server.listed(&first).await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_last_command_makes_tokens_invalid_and_a_last_exchange_does_not() {
    let world = World::new().await;
    let granted = async |max_uses: u32| {
        let body = json!({"delegate": "user-proxy", "audiences": [MAIL], "max_uses": max_uses});
        let created = world.as_user("bob", "POST", "/delegate", body).await;
        created.json["id"].as_str().unwrap().to_owned()
    };
    let id = granted(3).await;
    let token = world.hop_from_user(&world.user_proxy, &world.token_of("bob")).await.token().to_owned();
    let count = async |count: u32| {
        let path = format!("/delegate/{id}/steps");
        world.as_agent(&world.user_proxy, "POST", &path, steps(count)).await
    };
    assert_eq!((count(1).await.status, world.status_of(&token).await), (200, 0));
    let last = count(1).await;
    assert_eq!((last.status, &last.json["state"]), (200, &json!("expired")), "{}", last.text);
    assert_eq!(world.status_of(&token).await, 1);
    assert!(!world.is_active(&token).await);
    granted(1).await;
    let paid = world.hop_from_user(&world.user_proxy, &world.token_of("bob")).await.token().to_owned();
    assert_eq!((world.status_of(&paid).await, world.is_active(&paid).await), (0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_list_does_not_show_whose_tokens_it_lists() {
    let world = World::new().await;
    let tokens = [world.first_hop().await, world.second_hop().await, world.third_hop().await];
    let (uri, _) = place(tokens[0].token());
    let claims: Value = claims_of(&get(&world.server, &uri).await.text);
    for word in ["alice", "user-proxy", CALENDAR, MAIL] {
        assert!(!claims.to_string().contains(word), "{word}");
    }
    // An unused index has the same status as a valid token.
    let list = StatusList::read(claims["status_list"]["lst"].as_str().unwrap()).unwrap();
    assert!((0..SIZE).step_by(997).all(|idx| list.get(idx).unwrap() as u8 == 0));
}
