//! Ephemeral agents: each is created for one delegation, has only a key, and is deactivated with the delegation.

use actchain::jobs::expiry;
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, Agent, Auth, JWT};
use crate::support::ends::{Made, Maker, new_key, outcome};
use crate::support::management::Api;
use crate::support::world::{CALENDAR, IDP, MAIL, World};
use crate::support::{Answer, START, Server};

async fn hop(made: &Agent, server: &Server, token: &str, kind: &str) -> Answer {
    made.exchange(server, token, kind).param("audience", MAIL).send().await
}

/// The agent gets nothing any more: no new token, and 401 at the management API with an older token.
async fn assert_out(world: &World, servers: &[&Server], made: &Made, management_token: &str) {
    for server in servers {
        for agent in [made.agent.clone(), made.by_assertion()] {
            let own = agent.request(*server).param("grant_type", "client_credentials");
            let own = own.param("audience", &world.server.app.issuer).send().await;
            assert!(matches!(own.status, 400 | 401), "a token of its own: {}", own.text);
        }
        let path = format!("/delegate/{}", made.delegation);
        let called = server.call(&made.agent, management_token, ("GET", &path), json!({})).await;
        assert_eq!(called.status, 401, "{}", called.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_agent_of_a_user_acts_for_the_user_with_its_key_by_both_methods() {
    let world = World::new().await;
    let made = world.made_by_alice("task-1").await;
    let user = world.user_token();
    for agent in [made.agent.clone(), made.by_assertion()] {
        let token = hop(&agent, &world.server, &user, JWT).await;
        assert_eq!((token.status, &token.json["token_type"]), (200, &json!("DPoP")), "{}", token.text);
        let claims = token.claims();
        assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("alice"), &json!(made.agent.id)));
        assert_eq!(
            (&claims["act"]["sub"], &claims["cnf"]["jkt"]),
            (&json!(made.agent.id), &json!(made.agent.jkt()))
        );
        assert_eq!(claims["dlg"], made.delegation.as_str());
        world.assert_active(&[&world.server], &agent, token.token()).await;
    }
    let bobs = hop(&made.agent, &world.server, &world.token_of("bob"), JWT).await;
    bobs.assert_refused(400, "invalid_request", "delegation_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_proves_nothing_by_any_method() {
    let world = World::new().await;
    let made = world.made_by_alice("task-1").await;
    let user = world.user_token();
    let wrong = made.under(&new_key());
    for agent in [wrong.agent.clone(), wrong.by_assertion()] {
        hop(&agent, &world.server, &user, JWT).await.assert_refused(401, "invalid_client", "");
    }
    // An agent's assertion with a proof of another key binds to neither key.
    let asserting = made.by_assertion();
    let mixed = asserting.exchange(&world.server, &user, JWT).param("audience", MAIL);
    let mixed = mixed.set_header("dpop", wrong.agent.proof(&world.server)).send().await;
    mixed.assert_refused(400, "invalid_dpop_proof", "dpop_proof_key_unknown");
    let bare = asserting.exchange(&world.server, &user, JWT).without("dpop").param("audience", MAIL);
    bare.send().await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_missing");
    let bare = made.agent.exchange(&world.server, &user, JWT).without("dpop").param("audience", MAIL);
    bare.send().await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_missing");
    for auth in [Auth::Basic("x".repeat(20)), Auth::Post(String::from("x").repeat(20))] {
        let agent = Agent { auth, ..made.agent.clone() };
        hop(&agent, &world.server, &user, JWT).await.assert_refused(401, "invalid_client", "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_an_agent_makes_below_its_delegation_gets_no_more_than_that() {
    let world = World::new().await;
    let first = world.first_hop().await.token().to_owned();
    let second = world.hop(&world.email_svc, &first).await.token().to_owned();
    let made = world.made_below(&world.email_svc, ("E", "task-1")).await;
    let token = hop(&made.agent, &world.server, &second, ACCESS_TOKEN).await;
    assert_eq!(token.status, 200, "{}", token.text);
    assert_eq!(token.claims()["act"]["act"]["sub"], "email-svc");
    let above = hop(&made.agent, &world.server, &first, ACCESS_TOKEN).await;
    above.assert_refused(400, "invalid_request", "delegation_required");
    let wider =
        made.agent.exchange(&world.server, &second, ACCESS_TOKEN).param("audience", CALENDAR).send().await;
    assert_eq!(wider.error(), "invalid_target");
    // Only the delegate of a parent may delegate it further.
    let key = new_key();
    let not_its_own = world.make(&Maker::Agent(&world.email_svc), &key, ("t", json!({"parent": "D"}))).await;
    assert_eq!((not_its_own.status, not_its_own.reason()), (404, "not_found"));
    let wide = json!({"parent": "E", "audiences": [CALENDAR]});
    let wide = world.make(&Maker::Agent(&world.email_svc), &key, ("t", wide)).await;
    assert_eq!((wide.status, wide.reason()), (400, "exceeds_parent"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_an_agent_asks_a_user_for_waits_for_the_approval() {
    let world = World::new().await;
    let bob = world.token_of("bob");
    let ask = async |task: &str| {
        let key = new_key();
        let more =
            json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "expires_in": 300});
        let asked = world.make(&Maker::Agent(&world.user_proxy), &key, (task, more)).await;
        assert_eq!((asked.status, &asked.json["state"]), (202, &json!("requested")), "{}", asked.text);
        Made::of(&asked, key)
    };
    let made = ask("task-1").await;
    let own = async |agent: &Agent| {
        let request = agent.request(&world.server).param("grant_type", "client_credentials");
        request.param("audience", &world.server.app.issuer).send().await
    };
    for answer in [hop(&made.agent, &world.server, &bob, JWT).await, own(&made.agent).await] {
        assert!(matches!(answer.status, 400 | 401), "{}", answer.text);
        assert_ne!(outcome(&answer), "ok");
    }
    let path = format!("/delegate/{}/approve", made.delegation);
    assert_eq!(world.as_user("bob", "POST", &path, json!({})).await.status, 200);
    let token = hop(&made.agent, &world.server, &bob, JWT).await;
    assert_eq!((token.status, token.json["scope"].as_str()), (200, Some("mail.read")), "{}", token.text);
    assert_eq!(own(&made.agent).await.status, 200);
    let denied = ask("task-2").await;
    let path = format!("/delegate/{}/deny", denied.delegation);
    assert_eq!(world.as_user("bob", "POST", &path, json!({"reason": "no"})).await.status, 200);
    let lapsed = ask("task-3").await;
    world.server.pass(3_600);
    for made in [&denied, &lapsed] {
        for agent in [made.agent.clone(), made.by_assertion()] {
            assert_ne!(outcome(&own(&agent).await), "ok");
            assert_ne!(outcome(&hop(&agent, &world.server, &world.token_of("bob"), JWT).await), "ok");
        }
        let late =
            world.as_user("bob", "POST", &format!("/delegate/{}/approve", made.delegation), json!({})).await;
        assert_eq!((late.status, late.reason()), (409, "invalid_state_transition"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_ephemeral_agent_is_for_the_management_api_only() {
    let world = World::new().await;
    let made = world.made_by_alice("task-1").await;
    for agent in [made.agent.clone(), made.by_assertion()] {
        let ask = || agent.request(&world.server).param("grant_type", "client_credentials");
        let own = ask().param("audience", &world.server.app.issuer).send().await;
        assert_eq!((own.status, &own.json["scope"]), (200, &json!("actchain.delegate")), "{}", own.text);
        for request in [
            ask(),
            ask().param("audience", MAIL),
            ask().param("audience", MAIL).param("scope", "mail.read"),
            ask().param("audience", &world.server.app.issuer).param("scope", "actchain.admin"),
            ask().param("audience", &world.server.app.issuer).param("scope", "mail.read"),
            ask().param("audience", &world.server.app.issuer).param("audience", MAIL),
        ] {
            let answer = request.send().await;
            assert_eq!(answer.status, 400, "{}", answer.text);
        }
        let token = own.token();
        let get = async |path: &str| world.server.call(&agent, token, ("GET", path), json!({})).await;
        let shown = get(&format!("/delegate/{}", made.delegation)).await;
        assert_eq!((shown.status, &shown.json["state"]), (200, &json!("active")), "{}", shown.text);
        assert_eq!(get("/delegate/D").await.status, 404, "what is not its own is not there");
        assert_eq!(get("/agents").await.status, 403);
        let cut = json!({"iss": IDP, "sub": "alice", "reason": "x"});
        let cut = world.server.call(&agent, token, ("POST", "/api/v1/principals/revoke-all"), cut).await;
        assert_eq!(cut.status, 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_agent_is_listed_with_its_task_while_it_is_active() {
    let world = World::new().await;
    let made = world.made_by_alice("task-1").await;
    let other = world.made_by_alice("task-2").await;
    let below = world.made_below(&world.user_proxy, ("D", "task-1")).await;
    let tasks = async |task: &str| {
        let answer = world.as_alice("GET", &format!("/delegate?task_id={task}"), json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let items = answer.json["items"].as_array().unwrap();
        let mut ids: Vec<String> = items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let mut expected = vec![made.delegation.clone(), below.delegation.clone()];
    expected.sort();
    assert_eq!((tasks("task-1").await, tasks("task-3").await), (expected, Vec::new()));
    let bobs = world.as_user("bob", "GET", "/delegate?task_id=task-1", json!({})).await;
    assert_eq!(bobs.json["items"], json!([]), "others see nothing of it");
    let agents = async |answer: Answer| {
        let items = answer.json["items"].as_array().unwrap().clone();
        items.into_iter().filter(|item| !item["ephemeral"].is_null()).collect::<Vec<Value>>()
    };
    for answer in
        [world.as_admin("GET", "/agents", json!({})).await, world.as_alice("GET", "/agents", json!({})).await]
    {
        let listed = agents(answer).await;
        assert_eq!(listed.len(), 3);
        let one = listed.iter().find(|item| item["client_id"] == made.agent.id.as_str()).unwrap();
        assert_eq!((&one["kind"], &one["disabled"]), (&json!("agent"), &json!(false)));
        assert_eq!(
            (&one["ephemeral"]["task_id"], &one["delegations"][0]["id"]),
            (&json!("task-1"), &json!(made.delegation))
        );
        assert!(!one.to_string().contains("\"x\""), "no key material");
    }
    world.server.revoke(&other.delegation).await;
    let left = agents(world.as_alice("GET", "/agents", json!({})).await).await;
    assert_eq!(left.len(), 2, "those that have ended are not among them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_within_the_maximum_of_all_delegations() {
    let world = World::configured("[delegations]\ndefault_ttl = 600\nmax_ttl = 600").await;
    world.make(&Maker::User("alice"), &new_key(), ("t", json!({}))).await.with_status(201);
    let made = world.made_by_alice("t").await;
    world.server.pass(10);
    let path = format!("/delegate/{}/renew", made.delegation);
    world.as_alice("POST", &path, json!({"expires_in": 3600})).await.assert_shortened(START + 610);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_renewal_or_approval_extends_an_ephemeral_agent_past_its_maximum() {
    let world = World::configured("[agents]\nmax_ttl = 120\n[delegations]\ndefault_ttl = 1000").await;
    let key = new_key();
    let long = world.make(&Maker::User("alice"), &key, ("t", json!({"expires_in": 121}))).await;
    long.assert_shortened(START + 120);
    let made = world.made_by_alice("t").await;
    let ends = async || {
        let shown = world.as_alice("GET", &format!("/delegate/{}", made.delegation), json!({})).await;
        shown.json["expires_at"].as_str().unwrap().to_owned()
    };
    assert_eq!(ends().await, "2026-01-01T00:02:00.000000Z", "without a word it is as short");
    world.server.pass(60);
    let renew = async |expires_in: u32| {
        let path = format!("/delegate/{}/renew", made.delegation);
        world.as_alice("POST", &path, json!({"expires_in": expires_in})).await
    };
    assert_eq!(renew(61).await.reason(), "expiry_not_later", "counted from its beginning");
    // A key rotation does not extend the agent's maximum lifetime.
    let next = new_key();
    let path = format!("/delegate/{}/rotate-key", made.delegation);
    let rotated = world.as_agent(&made.agent, "POST", &path, json!({"jwk": next.public_jwk()})).await;
    assert_eq!(rotated.status, 202, "{}", rotated.text);
    let path = format!("/delegate/{}/approve", made.delegation);
    assert_eq!(world.as_alice("POST", &path, json!({})).await.status, 200);
    assert_eq!(ends().await, "2026-01-01T00:02:00.000000Z");
    let renewed = renew(119).await;
    assert_eq!((renewed.status, renewed.reason()), (400, "expiry_not_later"), "{}", renewed.text);
    // Nor does a request for a delegation.
    let asked = json!({"delegator": {"iss": IDP, "sub": "bob"}, "expires_in": 121});
    let asked = world.make(&Maker::Agent(&world.user_proxy), &key, ("t", asked)).await;
    assert_eq!(
        (asked.status, &asked.json["expires_in"], &asked.json["shortened"]),
        (202, &json!(120), &json!(true))
    );
    // Below a shorter delegation, it is as short as the parent.
    world.server.pass(480);
    let below = world.made_below(&world.email_svc, ("E", "u")).await;
    let shown = world.as_alice("GET", &format!("/delegate/{}", below.delegation), json!({})).await;
    assert_eq!(shown.json["expires_at"], "2026-01-01T00:10:00.000000Z", "{}", shown.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_has_a_maximum_of_active_agents_and_ended_agents_do_not_count() {
    let world = World::configured("[agents]\nmax_per_task = 2").await;
    let make = async |by: Maker<'_>, task: &str| {
        let parent = match by {
            Maker::User(_) => json!({}),
            Maker::Agent(_) => json!({"parent": "D"}),
        };
        world.make(&by, &new_key(), (task, parent)).await
    };
    let alice = || Maker::User("alice");
    assert_eq!(make(alice(), "t").await.status, 201);
    let second = make(alice(), "t").await;
    assert_eq!(second.status, 201);
    let third = make(alice(), "t").await;
    assert_eq!((third.status, third.reason()), (409, "task_agent_limit"), "{}", third.text);
    assert_eq!(make(alice(), "u").await.status, 201, "another task");
    assert_eq!(make(Maker::User("bob"), "t").await.status, 201, "another's task of the same name");
    assert_eq!(make(Maker::Agent(&world.user_proxy), "t").await.status, 201, "likewise");
    world.server.revoke(second.json["id"].as_str().unwrap()).await;
    expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    assert_eq!(make(alice(), "t").await.status, 201);
    assert_eq!(make(alice(), "t").await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_with_one_idempotency_key_creates_one_agent() {
    let world = World::configured("[agents]\nmax_per_task = 1").await;
    let user = world.user_token();
    let body = json!({"ephemeral": {"jwk": new_key().public_jwk(), "task_id": "t"}});
    let ask = || Api::post(&world.server, "/delegate", body.clone()).user(&user).key("once").send();
    let (first, again) = (ask().await, ask().await);
    assert_eq!((first.status, again.status, &first.json), (201, 201, &again.json), "{}", again.text);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(first.header("location"), again.header("location"));
    let other = Api::post(&world.server, "/delegate", body.clone()).user(&user).key("twice").send().await;
    assert_eq!((other.status, other.reason()), (409, "task_agent_limit"));
    let ended = Api::new(&world.server, "DELETE", "/api/v1/tasks/t/agents").user(&user).send().await;
    assert_eq!(ended.json["ended"], 1);
    let after = ask().await;
    assert_eq!(
        (after.status, &after.json["id"]),
        (201, &first.json["id"]),
        "the answer of then, and no second agent"
    );
    let mut sql = world.server.sql().await;
    let made: i64 =
        sqlx::query_scalar("SELECT count(*) FROM client WHERE ephemeral_delegation_id IS NOT NULL")
            .fetch_one(&mut sql)
            .await
            .unwrap();
    assert_eq!(made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_public_key_or_no_task_is_refused_and_leaves_nothing_behind() {
    let world = World::new().await;
    let public = new_key().public_jwk();
    let with = |name: &str, value: Value| {
        let mut jwk = public.clone();
        jwk[name] = value;
        jwk
    };
    let mut without_x = public.clone();
    without_x.as_object_mut().unwrap().remove("x");
    let keys = [
        with("d", json!("c2VjcmV0")),
        with("k", json!("c2VjcmV0")),
        with("p", json!("c2VjcmV0")),
        json!({"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}),
        with("use", json!("enc")),
        with("crv", json!("P-521")),
        with("x", json!("AAAA")),
        with("kty", json!("RSA")),
        without_x,
        json!({}),
    ];
    let made = world.made_by_alice("t").await;
    let management = world.management_token(&made.agent).await;
    for jwk in keys {
        let body = json!({"ephemeral": {"jwk": jwk, "task_id": "t"}});
        let answer = world.as_alice("POST", "/delegate", body).await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{jwk}: {}", answer.text);
        let path = format!("/delegate/{}/rotate-key", made.delegation);
        let rotated = world.server.call(&made.agent, &management, ("POST", &path), json!({"jwk": jwk})).await;
        assert_eq!((rotated.status, rotated.reason()), (400, "malformed_request"), "{jwk}: {}", rotated.text);
    }
    for body in [
        json!({"ephemeral": {"jwk": public}}),
        json!({"ephemeral": {"task_id": "t"}}),
        json!({"ephemeral": {"jwk": public, "task_id": ""}}),
        json!({"ephemeral": {"jwk": public, "task_id": "a/b"}}),
        json!({"ephemeral": {"jwk": public, "task_id": "a\u{7}b"}}),
        json!({"ephemeral": {"jwk": public, "task_id": "t".repeat(101)}}),
        json!({"ephemeral": {"jwk": public, "task_id": "t", "more": 1}}),
        json!({"ephemeral": {"jwk": public, "task_id": "t"}, "delegate": "stranger"}),
        json!({"ephemeral": {"jwk": "x", "task_id": "t"}}),
        json!({"ephemeral": null, "delegate": null}),
    ] {
        let answer = world.as_alice("POST", "/delegate", body.clone()).await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{body}: {}", answer.text);
    }
    let mut sql = world.server.sql().await;
    let made: i64 =
        sqlx::query_scalar("SELECT count(*) FROM client WHERE ephemeral_delegation_id IS NOT NULL")
            .fetch_one(&mut sql)
            .await
            .unwrap();
    assert_eq!(made, 1, "only the one");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_agent_ends_with_its_delegation_and_so_do_the_agents_that_it_created() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let both = [&world.server, &twin];
    for by in ["alice", "itself", "admin"] {
        let made = world.made_by_alice(&format!("task-{by}")).await;
        let management = world.management_token(&made.agent).await;
        let token = hop(&made.agent, &world.server, &world.user_token(), JWT).await.token().to_owned();
        let below = world.made_below(&made.agent, (&made.delegation, "below")).await;
        let next = hop(&below.agent, &world.server, &token, ACCESS_TOKEN).await.token().to_owned();
        world.assert_active(&both, &made.agent, &token).await;
        world.assert_active(&both, &below.agent, &next).await;
        let path = format!("/delegate/{}/revoke", made.delegation);
        let revoked = match by {
            "alice" => world.as_alice("POST", &path, json!({})).await,
            "itself" => {
                world.server.call(&made.agent, &management, ("POST", &path), json!({"reason": "done"})).await
            }
            _ => world.as_admin("POST", &path, json!({})).await,
        };
        assert_eq!(
            (revoked.status, &revoked.json["affected"]["delegations"]),
            (200, &json!(2)),
            "{}",
            revoked.text
        );
        for server in both {
            for (agent, token) in [(&made.agent, &token), (&below.agent, &next)] {
                let fate = world.fate(server, agent, token).await;
                assert_eq!((fate.active, fate.listed), (false, 1), "{by}: {fate:?}");
                assert!(
                    ["delegation_revoked", "agent_deactivated"].contains(&fate.exchange.as_str()),
                    "{fate:?}"
                );
            }
        }
        assert_out(&world, &both, &made, &management).await;
        let management = world.server.listed(&management).await;
        assert_eq!(management, 1, "{by}: its own token is invalid in the list, too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_ancestor_makes_an_ephemeral_agents_own_token_inactive() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let made = world.made_below(&world.email_svc, ("E", "t")).await;
    let management = world.management_token(&made.agent).await;
    world.server.revoke("D").await;
    assert_out(&world, &[&world.server, &twin], &made, &management).await;
    assert_eq!(world.server.listed(&management).await, 1, "nor is its own token good");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_agent_ends_with_its_task_and_each_caller_ends_only_agents_that_it_created() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let both = [&world.server, &twin];
    let alices = [world.made_by_alice("t").await, world.made_by_alice("t").await];
    let other_task = world.made_by_alice("u").await;
    let bobs = world.make(&Maker::User("bob"), &new_key(), ("t", json!({}))).await;
    assert_eq!(bobs.status, 201);
    let agents_own = world.made_below(&world.user_proxy, ("D", "t")).await;
    let management = world.management_token(&alices[0].agent).await;
    let token = hop(&alices[0].agent, &world.server, &world.user_token(), JWT).await.token().to_owned();
    let below = world.made_below(&alices[0].agent, (&alices[0].delegation, "below")).await;
    let next = hop(&below.agent, &world.server, &token, ACCESS_TOKEN).await.token().to_owned();
    let other = hop(&other_task.agent, &world.server, &world.user_token(), JWT).await.token().to_owned();
    world.assert_active(&both, &below.agent, &next).await;
    let ended = world.as_alice("DELETE", "/api/v1/tasks/t/agents", json!({})).await;
    assert_eq!(
        (ended.status, &ended.json["task_id"], &ended.json["ended"]),
        (200, &json!("t"), &json!(2)),
        "{}",
        ended.text
    );
    for server in both {
        let fate = world.fate(server, &alices[0].agent, &token).await;
        assert_eq!((fate.exchange.as_str(), fate.active, fate.listed), ("invalid_client", false, 1));
        let fate = world.fate(server, &below.agent, &next).await;
        assert_eq!((fate.active, fate.listed), (false, 1));
        assert_ne!(fate.exchange, "ok");
    }
    // Two delegations and the child of one of them; a token, a derived token, and the agent's own token for the
    // management API. Tokens that checks have obtained count, too.
    let reached = &ended.json["affected"];
    assert_eq!((&reached["delegations"], &reached["at_least"]), (&json!(3), &json!(false)), "{}", ended.text);
    assert!(reached["tokens"].as_u64().unwrap() >= 3, "{}", ended.text);
    assert_out(&world, &both, &alices[0], &management).await;
    world.assert_active(&both, &other_task.agent, &other).await;
    let again = world.as_alice("DELETE", "/api/v1/tasks/t/agents", json!({})).await;
    assert_eq!((again.status, again.reason()), (404, "not_found"));
    // The agent's own task and Bob's task of the same name are unaffected.
    let first = world.first_hop().await.token().to_owned();
    assert_eq!(hop(&agents_own.agent, &world.server, &first, ACCESS_TOKEN).await.status, 200);
    let by_stranger = world.as_agent(&world.stranger, "DELETE", "/api/v1/tasks/t/agents", json!({})).await;
    assert_eq!(by_stranger.status, 404);
    let by_maker = world.as_agent(&world.user_proxy, "DELETE", "/api/v1/tasks/t/agents", json!({})).await;
    assert_eq!((by_maker.status, &by_maker.json["ended"]), (200, &json!(1)), "{}", by_maker.text);
    assert_ne!(hop(&agents_own.agent, &world.server, &first, ACCESS_TOKEN).await.status, 200);
    let by_admin = world.as_admin("DELETE", "/api/v1/tasks/t/agents", json!({})).await;
    assert_eq!((by_admin.status, &by_admin.json["ended"]), (200, &json!(1)), "Bob's is what is left");
    let events = world.server.events().await;
    let ends = |action: &str| events.iter().filter(|event| event["action"] == action).count();
    assert_eq!((ends("delegation.revoked"), ends("client.agent_deactivated")), (4, 4), "each with its event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_any_name_can_be_ended() {
    let world = World::new().await;
    for (task, path) in [
        ("a b", "a%20b"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("100%", "100%25"),
        ("a?b#c", "a%3Fb%23c"),
        ("a+b", "a+b"),
        ("a;b=c", "a;b=c"),
        ("..a", "..a"),
    ] {
        world.made_by_alice(task).await;
        let ended = world.as_alice("DELETE", &format!("/api/v1/tasks/{path}/agents"), json!({})).await;
        assert_eq!((ended.status, &ended.json["ended"]), (200, &json!(1)), "{task}: {}", ended.text);
        assert_eq!(ended.json["task_id"], task);
    }
    // A task id that no path can name could never be revoked by its name.
    for task in [".", ".."] {
        let made = world.make(&Maker::User("alice"), &new_key(), (task, json!({}))).await;
        assert_eq!((made.status, made.reason()), (400, "malformed_request"), "{task}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_time_is_over_it_is_swept_and_never_comes_back() {
    let world = World::new().await;
    let made = world.make(&Maker::User("alice"), &new_key(), ("t", json!({"expires_in": 60}))).await;
    let living = world.made_by_alice("t").await;
    let id = made.json["ephemeral"]["client_id"].as_str().unwrap().to_owned();
    assert_eq!(expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap(), 0);
    world.server.pass(60);
    assert_eq!(expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap(), 1);
    let events = world.server.events().await;
    let ended: Vec<&Value> =
        events.iter().filter(|event| event["action"] == "client.agent_deactivated").collect();
    assert_eq!((ended.len(), &ended[0]["target"]), (1, &json!(id)));
    let before = events.len();
    assert_eq!(expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap(), 0);
    assert_eq!(world.server.events().await.len(), before, "once");
    let mut sql = world.server.sql().await;
    let kept: (Option<Value>, Vec<String>) =
        sqlx::query_as("SELECT jwks, dpop_keys FROM client WHERE client_id = $1")
            .bind(&id)
            .fetch_one(&mut sql)
            .await
            .unwrap();
    assert_eq!(kept, (None, Vec::new()), "its key is forgotten");
    for (path, status) in [("disable", 400..500), ("enable", 400..500)] {
        let answer = world.as_admin("POST", &format!("/api/v1/clients/{id}/{path}"), json!({})).await;
        assert!(status.contains(&i32::from(answer.status)), "{path}: {}", answer.text);
    }
    let refused = world.as_alice("POST", "/delegate", json!({"delegate": id})).await;
    assert!(refused.status == 400, "{}", refused.text);
    let yaml =
        format!("clients:\n  - {{id: {id}, kind: agent, auth: none, dpop_keys: [{}]}}", living.agent.jkt());
    assert!(world.server.apply(&yaml).await.unwrap_err().contains(&id));
    assert_eq!(
        hop(&living.agent, &world.server, &world.user_token(), JWT).await.status,
        200,
        "the other is active"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_the_last_use_stays_active_after_the_sweep() {
    let world = World::new().await;
    let key = new_key();
    let made = world.make(&Maker::User("alice"), &key, ("t", json!({"max_uses": 1}))).await;
    let made = Made::of(&made, key);
    let token = hop(&made.agent, &world.server, &world.user_token(), JWT).await.token().to_owned();
    let states = async || (world.is_active(&token).await, world.status_of(&token).await);
    assert_eq!(states().await, (true, 0), "it was paid for");
    world.server.pass(30);
    expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    assert_eq!(states().await, (true, 0), "a sweep only writes down");
    let again = hop(&made.agent, &world.server, &world.user_token(), JWT).await;
    assert_ne!(again.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_needs_the_delegators_approval_and_the_old_key_is_inactive_at_once() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let both = [&world.server, &twin];
    let made = world.made_by_alice("t").await;
    let token = hop(&made.agent, &world.server, &world.user_token(), JWT).await.token().to_owned();
    let below = world.made_below(&made.agent, (&made.delegation, "below")).await;
    let next = hop(&below.agent, &world.server, &token, ACCESS_TOKEN).await.token().to_owned();
    world.assert_active(&both, &below.agent, &next).await;
    let management = world.management_token(&made.agent).await;
    let key = new_key();
    let renewed = made.under(&key);
    let path = format!("/delegate/{}/rotate-key", made.delegation);
    world.server.pass(1);
    // No other caller may rotate the key.
    let body = json!({"jwk": key.public_jwk()});
    for answer in
        [world.as_alice("POST", &path, body.clone()).await, world.as_admin("POST", &path, body.clone()).await]
    {
        assert_eq!((answer.status, answer.reason()), (403, "insufficient_scope"), "{}", answer.text);
    }
    assert_eq!(world.as_agent(&world.stranger, "POST", &path, body.clone()).await.status, 404);
    let same = json!({"jwk": made.agent.key.public_jwk()});
    assert_eq!(
        world.server.call(&made.agent, &management, ("POST", &path), same).await.status,
        400,
        "its own key"
    );
    world.assert_active(&both, &made.agent, &token).await;
    let rotated = world.server.call(&made.agent, &management, ("POST", &path), body.clone()).await;
    assert_eq!((rotated.status, &rotated.json["state"]), (202, &json!("requested")), "{}", rotated.text);
    for server in both {
        let fate = world.fate(server, &made.agent, &token).await;
        assert_eq!((fate.active, fate.listed), (false, 1));
        assert_eq!(fate.exchange, "invalid_client", "the old key proves nothing");
        let fate = world.fate(server, &below.agent, &next).await;
        assert_eq!((fate.active, fate.listed), (false, 1), "nor does what was made from it");
        for agent in [renewed.agent.clone(), renewed.by_assertion(), made.by_assertion()] {
            let answer = hop(&agent, server, &world.user_token(), JWT).await;
            assert_eq!(outcome(&answer), "invalid_client", "nor the new one, yet");
        }
    }
    assert_out(&world, &both, &made, &management).await;
    // Only the delegator may approve it, and the approval cannot change limits.
    let path = format!("/delegate/{}/approve", made.delegation);
    let by_bob = world.as_user("bob", "POST", &path, json!({})).await;
    assert_eq!(by_bob.status, 404);
    let narrower = world.as_alice("POST", &path, json!({"scopes": ["mail.read"]})).await;
    assert_eq!(narrower.status, 400, "{}", narrower.text);
    let approved = world.as_alice("POST", &path, json!({})).await;
    assert_eq!(
        (approved.status, &approved.json["state"], &approved.json["ephemeral"]["jkt"]),
        (200, &json!("active"), &json!(key.kid())),
        "{}",
        approved.text
    );
    world.server.pass(1);
    for agent in [renewed.agent.clone(), renewed.by_assertion()] {
        let afresh = hop(&agent, &twin, &world.user_token(), JWT).await;
        assert_eq!(afresh.status, 200, "{}", afresh.text);
        world.assert_active(&both, &agent, afresh.token()).await;
    }
    for agent in [made.agent.clone(), made.by_assertion()] {
        hop(&agent, &twin, &world.user_token(), JWT).await.assert_refused(401, "invalid_client", "");
    }
    let under_new = world.fate(&world.server, &renewed.agent, &token).await;
    assert_eq!(
        (under_new.exchange.as_str(), under_new.listed),
        ("subject_key_mismatch", 1),
        "the old token stays inactive"
    );
    let again = world.as_alice("POST", &path, json!({})).await;
    assert_eq!((again.status, again.reason()), (409, "invalid_state_transition"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_that_is_denied_is_the_end() {
    let world = World::new().await;
    let made = world.made_by_alice("t").await;
    let key = new_key();
    let path = format!("/delegate/{}/rotate-key", made.delegation);
    let rotated = world.as_agent(&made.agent, "POST", &path, json!({"jwk": key.public_jwk()})).await;
    assert_eq!(rotated.status, 202);
    let path = format!("/delegate/{}/deny", made.delegation);
    let denied = world.as_alice("POST", &path, json!({"reason": "who is that?"})).await;
    assert_eq!((denied.status, &denied.json["state"]), (200, &json!("revoked")), "{}", denied.text);
    for agent in [made.agent.clone(), made.under(&key).agent] {
        assert_ne!(hop(&agent, &world.server, &world.user_token(), JWT).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_rotates_the_key_of_its_own_ephemeral_delegation_only() {
    let world = World::new().await;
    let body = json!({"jwk": new_key().public_jwk()});
    let answer = world.as_agent(&world.user_proxy, "POST", "/delegate/D/rotate-key", body).await;
    assert_eq!((answer.status, answer.reason()), (403, "insufficient_scope"), "{}", answer.text);
    let made = world.made_by_alice("t").await;
    let below = world.made_below(&made.agent, (&made.delegation, "below")).await;
    let body = json!({"jwk": new_key().public_jwk()});
    let path = format!("/delegate/{}/rotate-key", below.delegation);
    let by_parent = world.as_agent(&made.agent, "POST", &path, body).await;
    assert_eq!(by_parent.status, 403, "only for itself: {}", by_parent.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_agent_gets_no_second_delegation() {
    let world = World::new().await;
    let made = world.made_by_alice("t").await;
    let refused = world.as_alice("POST", "/delegate", json!({"delegate": made.agent.id})).await;
    assert_eq!((refused.status, refused.reason()), (400, "delegate_unknown"), "{}", refused.text);
    let asked = json!({"delegator": {"iss": IDP, "sub": "bob"}, "expires_in": 60});
    let asked = world.as_agent(&made.agent, "POST", "/delegate", asked).await;
    assert!(matches!(asked.status, 400 | 403), "nor does it ask for one: {}", asked.text);
    // Nor through another agent that it creates: that agent could outlive it.
    let more = json!({"delegator": {"iss": IDP, "sub": "bob"}, "expires_in": 60});
    let by_another = world.make(&Maker::Agent(&made.agent), &new_key(), ("t", more)).await;
    assert!(matches!(by_another.status, 400 | 403), "{}", by_another.text);
}
