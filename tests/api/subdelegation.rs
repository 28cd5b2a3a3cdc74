//! Subdelegation: never wider than the parent in any dimension; capability levels; ceremonies, each for one use.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::START;
use crate::support::agent::{ACCESS_TOKEN, Agent, JWT, Request};
use crate::support::life::{instant, with};
use crate::support::world::{CALENDAR, MAIL, World};

fn limited() -> Value {
    json!({"scopes": ["mail.read", "mail.send"], "audiences": [MAIL],
           "authorization_details": [{"type": "mailbox", "identifier": "inbox", "actions": ["list", "read"]}],
           "capability_ceiling": "mutate", "max_uses": 5, "max_depth": 3, "expires_in": 600})
}

/// For each dimension: values that are wider than [`limited`], and values within it.
fn dimensions() -> Vec<(&'static str, Vec<Value>, Vec<Value>)> {
    let detail = |value: Value| json!([value]);
    vec![
        (
            "scopes",
            vec![json!(["both"]), json!(["mail.read", "mail.send", "both"])],
            vec![json!(["mail.read", "mail.send"]), json!(["mail.send"]), json!([])],
        ),
        ("audiences", vec![json!([CALENDAR]), json!([MAIL, CALENDAR])], vec![json!([MAIL]), json!([])]),
        (
            "authorization_details",
            vec![
                detail(json!({"type": "mailbox"})),
                detail(json!({"type": "mailbox", "identifier": "inbox"})),
                detail(json!({"type": "mailbox", "actions": ["read"]})),
                detail(json!({"type": "mailbox", "identifier": "sent", "actions": ["read"]})),
                detail(json!({"type": "mailbox", "identifier": "inbox", "actions": ["read", "send"]})),
            ],
            vec![
                detail(json!({"type": "mailbox", "identifier": "inbox", "actions": ["list"]})),
                detail(
                    json!({"type": "mailbox", "identifier": "inbox", "actions": ["read"], "datatypes": ["x"]}),
                ),
                json!([]),
            ],
        ),
        (
            "capability_ceiling",
            vec![json!("execute"), json!("admin")],
            vec![json!("mutate"), json!("observe")],
        ),
        ("max_uses", vec![json!(6), json!(u32::MAX)], vec![json!(5), json!(1)]),
        ("max_depth", vec![json!(4), json!(u32::MAX)], vec![json!(3), json!(2)]),
        ("expires_in", vec![], vec![json!(601), json!(600), json!(1)]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_wider_than_its_parent_in_no_dimension() {
    let world = World::new().await;
    let parent = world.granted("bob", limited()).await.id();
    for (member, wider, fitting) in dimensions() {
        for value in wider {
            let answer =
                world.passed_on(&world.user_proxy, (&parent, "email-svc"), json!({member: value})).await;
            answer.assert_too_wide(member);
        }
        for value in fitting {
            let answer =
                world.passed_on(&world.user_proxy, (&parent, "email-svc"), json!({member: value})).await;
            let child = answer.with_status(201).json;
            if member != "expires_in" {
                assert_eq!(child[member], value, "{member}");
            }
            assert_eq!((&child["parent"], &child["origin"]), (&json!(parent), &json!("granted")));
        }
    }
    let all = world.as_admin("GET", &format!("/delegate?parent={parent}"), json!({})).await;
    let made: usize = dimensions().iter().map(|(_, _, fitting)| fitting.len()).sum();
    assert_eq!(all.json["items"].as_array().unwrap().len(), made, "nothing came of what was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grandchild_is_limited_by_its_grandparent_if_the_parent_has_no_limits() {
    let world = World::new().await;
    let root = world.granted("bob", limited()).await.id();
    let middle =
        world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({})).await.with_status(201).json;
    for member in
        ["scopes", "audiences", "authorization_details", "capability_ceiling", "max_uses", "max_depth"]
    {
        assert_eq!(middle[member], json!(null), "{member}: what is left out is the delegator's own");
    }
    assert_eq!(middle["uses_left"], 5, "of which this is left");
    let middle = middle["id"].as_str().unwrap();
    for (member, wider, fitting) in dimensions() {
        for value in wider {
            let answer =
                world.passed_on(&world.email_svc, (middle, "stranger"), json!({member: value})).await;
            answer.assert_too_wide(member);
        }
        let value = fitting[0].clone();
        let answer = world.passed_on(&world.email_svc, (middle, "stranger"), json!({member: value})).await;
        answer.with_status(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_under_a_child_without_limits_have_the_limits_of_its_parent() {
    let world = World::new().await;
    let root = world.granted("bob", with(limited(), json!({"scopes": ["mail.read"]}))).await.id();
    let middle =
        world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({})).await.with_status(201).id();
    let first = world.first_hop_of("bob").send().await.with_status(200);
    let second =
        world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    let claims = second.claims();
    assert_eq!((&claims["scope"], &claims["aud"]), (&json!("mail.read"), &json!(MAIL)));
    assert_eq!((&claims["capability_ceiling"], &claims["dlg"]), (&json!("mutate"), &json!(middle)));
    assert_eq!(claims["authorization_details"], limited()["authorization_details"]);
    let wider = world
        .email_svc
        .exchange(&world.server, first.token(), ACCESS_TOKEN)
        .param("scope", "mail.read mail.send")
        .send()
        .await;
    wider.assert_refused(400, "invalid_scope", "scope_exceeds_grant");
    assert_eq!(world.shown(&root).await["uses"], 2, "what was refused was not counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_allows_nothing_and_no_descendant_regains_anything() {
    let world = World::new().await;
    let root = world.granted("bob", json!({})).await.id();
    let empty = world
        .passed_on(&world.user_proxy, (&root, "email-svc"), json!({"scopes": [], "audiences": []}))
        .await;
    let empty = empty.with_status(201).json;
    assert_eq!((&empty["scopes"], &empty["audiences"]), (&json!([]), &json!([])));
    let empty = empty["id"].as_str().unwrap();
    let regained =
        world.passed_on(&world.email_svc, (empty, "stranger"), json!({"scopes": ["mail.read"]})).await;
    regained.assert_too_wide("scopes");
    let regained = world.passed_on(&world.email_svc, (empty, "stranger"), json!({"audiences": [MAIL]})).await;
    regained.assert_too_wide("audiences");
    world.passed_on(&world.email_svc, (empty, "stranger"), json!({})).await.with_status(201);
    let first = world.first_hop_of("bob").send().await.with_status(200);
    let exchange = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
    assert_eq!((exchange.status, exchange.error()), (400, "invalid_target"), "{}", exchange.text);
    // An empty list of details allows nothing; it does not mean unrestricted.
    let none =
        world.passed_on(&world.user_proxy, (&root, "stranger"), json!({"authorization_details": []})).await;
    let none = none.with_status(201).id();
    let detail = json!([{"type": "mailbox", "actions": ["read"]}]);
    let regained = world
        .passed_on(&world.stranger, (&none, "email-svc"), json!({"authorization_details": detail}))
        .await;
    regained.assert_too_wide("authorization_details");
}

#[tokio::test(flavor = "multi_thread")]
async fn depth_counts_actors_and_the_server_has_the_last_word() {
    let world = World::configured("[tokens]\nmax_depth = 3").await;
    let (low, lower) = (world.agent("low").await, world.agent("lower").await);
    let shallow = world.granted("bob", json!({"max_depth": 1})).await.id();
    world.passed_on(&world.user_proxy, (&shallow, "email-svc"), json!({})).await.assert_too_wide("max_depth");
    let root = world.granted("bob", json!({})).await.id();
    let middle =
        world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({})).await.with_status(201).id();
    let third = world.passed_on(&world.email_svc, (&middle, &low.id), json!({})).await.with_status(201).id();
    world.passed_on(&low, (&third, &lower.id), json!({})).await.assert_too_wide("max_depth");
    world.passed_on(&low, (&third, &lower.id), json!({"max_depth": 9})).await.assert_too_wide("max_depth");
    for bad in [json!({"max_depth": 0}), json!({"max_uses": 0}), json!({"expires_in": 0})] {
        let answer = world.passed_on(&world.user_proxy, (&root, "stranger"), bad).await;
        answer.assert_problem(400, "malformed_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_ends_with_whatever_ends_first_above_it() {
    let world = World::new().await;
    let root = world.granted("bob", json!({"expires_in": 100})).await.id();
    world.server.pass(40);
    let child = world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({})).await.with_status(201);
    assert_eq!(child.json["expires_at"], instant(START + 100));
    world
        .passed_on(&world.user_proxy, (&root, "email-svc"), json!({"expires_in": 61}))
        .await
        .assert_shortened(START + 100);
    world
        .passed_on(&world.user_proxy, (&root, "email-svc"), json!({"expires_in": 60}))
        .await
        .with_status(201);
}

fn claim(answer: &Answer) -> Value {
    answer.claims()["capability_ceiling"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn capability_levels_are_ordered_and_tokens_name_their_ceiling() {
    let world = World::new().await;
    let unbounded = world.first_hop_of("alice").send().await.with_status(200);
    assert_eq!(claim(&unbounded), json!(null), "no ceiling is no claim");
    let id = world.granted("bob", json!({"capability_ceiling": "execute"})).await.id();
    let ask = async |capability: &str| {
        world.first_hop_of("bob").param("capability_ceiling", capability).send().await
    };
    assert_eq!(
        claim(&world.first_hop_of("bob").send().await.with_status(200)),
        "execute",
        "not asked: all of it"
    );
    assert_eq!(claim(&ask("execute").await.with_status(200)), "execute");
    let low = ask("observe").await.with_status(200);
    assert_eq!(claim(&low), "observe");
    ask("admin").await.assert_refused(400, "invalid_scope", "capability_too_high");
    for unknown in ["Execute", "fly", "execute observe"] {
        ask(unknown).await.assert_refused(400, "invalid_request", "capability_unknown");
    }
    // The token limits the next hop, whatever the delegations allow.
    world
        .passed_on(&world.user_proxy, (&id, "email-svc"), json!({"capability_ceiling": "mutate"}))
        .await
        .with_status(201);
    let next = |token: &str| world.email_svc.exchange(&world.server, token, ACCESS_TOKEN);
    assert_eq!(claim(&next(low.token()).send().await.with_status(200)), "observe");
    let regained = next(low.token()).param("capability_ceiling", "mutate").send().await;
    regained.assert_refused(400, "invalid_scope", "capability_too_high");
    let high = ask("execute").await.with_status(200);
    assert_eq!(claim(&next(high.token()).send().await.with_status(200)), "mutate", "the meet of all");
    let own = world
        .user_proxy
        .exchange(&world.server, low.token(), ACCESS_TOKEN)
        .param("capability_ceiling", "mutate");
    own.send().await.assert_refused(400, "invalid_scope", "capability_too_high");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_capability_is_no_ceiling() {
    let world = World::new().await;
    for name in ["fly", "", "OBSERVE", "observe "] {
        let answer = world.granted("bob", json!({"capability_ceiling": name})).await;
        answer.assert_problem(400, "capability_unknown");
    }
    let id = world.asked("bob", json!({})).await;
    let answer = world.moves("bob", &id, "approve", json!({"capability_ceiling": "fly"})).await;
    answer.assert_problem(400, "capability_unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_capability_levels_are_the_configured_ones() {
    let world = World::configured("[delegations]\ncapabilities = [\"see\", \"touch\", \"break\"]").await;
    world
        .granted("bob", json!({"capability_ceiling": "observe"}))
        .await
        .assert_problem(400, "capability_unknown");
    let id = world.granted("bob", json!({"capability_ceiling": "touch"})).await.with_status(201).id();
    let wider =
        world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({"capability_ceiling": "break"})).await;
    wider.assert_too_wide("capability_ceiling");
    world
        .passed_on(&world.user_proxy, (&id, "email-svc"), json!({"capability_ceiling": "see"}))
        .await
        .with_status(201);
    assert_eq!(claim(&world.first_hop_of("bob").send().await.with_status(200)), "touch");
    let low = world.first_hop_of("bob").param("capability_ceiling", "see").send().await.with_status(200);
    assert_eq!(claim(&low), "see");
    let high = world.first_hop_of("bob").param("capability_ceiling", "break").send().await;
    high.assert_refused(400, "invalid_scope", "capability_too_high");
}

/// The exchange needs a confirmation; returns the id of the ceremony.
#[track_caller]
pub fn ceremony(answer: &Answer) -> String {
    answer.assert_refused(400, "insufficient_user_authentication", "ceremony_required");
    answer.json["ceremony"].as_str().unwrap().to_owned()
}

pub async fn decide(world: &World, sub: &str, (delegation, id): (&str, &str), name: &str) -> Answer {
    world.as_user(sub, "POST", &format!("/delegate/{delegation}/ceremonies/{id}/{name}"), json!({})).await
}

async fn ceremonies(world: &World, sub: &str, delegation: &str) -> Vec<Value> {
    let answer = world.as_user(sub, "GET", &format!("/delegate/{delegation}/ceremonies"), json!({})).await;
    answer.with_status(200).json["items"].as_array().unwrap().clone()
}

/// Bob lets `user-proxy` send mail only with a confirmation of each use.
pub async fn reserved(world: &World) -> String {
    let terms = json!({"scopes": ["mail.read", "mail.send"], "audiences": [MAIL], "max_uses": 100,
                       "ceremony_required_for": ["mail.send"], "expires_in": 7200});
    world.granted("bob", terms).await.with_status(201).id()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delegator_confirms_each_use_of_a_reserved_scope() {
    let world = World::new().await;
    let id = reserved(&world).await;
    let read = world.first_hop_of("bob").param("scope", "mail.read").send().await.with_status(200);
    assert_eq!(read.claims()["scope"], "mail.read", "what is not reserved needs no confirmation");
    let asked = world.first_hop_of("bob").send().await;
    let first = ceremony(&asked);
    assert_eq!(asked.header("cache-control"), Some("no-store"));
    assert_eq!(ceremony(&world.first_hop_of("bob").send().await), first, "asked again is asked once");
    let pending = ceremonies(&world, "bob", &id).await;
    assert_eq!(
        pending,
        [json!({
            "id": first, "state": "pending", "delegation_id": id, "client_id": "user-proxy",
            "scopes": ["mail.read", "mail.send"], "audiences": [MAIL], "authorization_details": null,
            "capability": null, "requested_at": instant(START), "expires_at": instant(START + 300),
            "decided_at": null, "used_at": null,
        })]
    );
    assert_eq!(world.shown(&id).await["uses"], 1, "asking is not using");
    for name in ["approve", "deny"] {
        decide(&world, "alice", (&id, &first), name).await.assert_problem(404, "not_found");
        let path = format!("/delegate/{id}/ceremonies/{first}/{name}");
        let by_agent = world.as_agent(&world.user_proxy, "POST", &path, json!({})).await;
        by_agent.assert_problem(403, "insufficient_scope");
        world.as_agent(&world.stranger, "POST", &path, json!({})).await.assert_problem(404, "not_found");
    }
    world.server.pass(10);
    let approved = decide(&world, "bob", (&id, &first), "approve").await.with_status(200).json;
    assert_eq!(
        (&approved["state"], &approved["decided_at"]),
        (&json!("approved"), &json!(instant(START + 10)))
    );
    for name in ["approve", "deny"] {
        decide(&world, "bob", (&id, &first), name).await.assert_conflict("ceremony_decided", "approved");
    }
    let token = world.first_hop_of("bob").send().await.with_status(200);
    assert_eq!(token.claims()["scope"], "mail.read mail.send");
    let used = ceremonies(&world, "bob", &id).await;
    assert_eq!((&used[0]["state"], &used[0]["used_at"]), (&json!("used"), &json!(instant(START + 10))));
    let second = ceremony(&world.first_hop_of("bob").send().await);
    assert_ne!(second, first, "one confirmation is for one use");
    decide(&world, "bob", (&id, &first), "approve").await.assert_conflict("ceremony_decided", "used");
    assert_eq!(world.shown(&id).await["uses"], 2);
    let states: Vec<_> =
        ceremonies(&world, "bob", &id).await.iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["pending", "used"], "newest first");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_that_asks_for_a_confirmation_says_where_to_give_it() {
    let world = World::new().await;
    let id = reserved(&world).await;
    let asked = world.first_hop_of("bob").send().await;
    ceremony(&asked);
    assert_eq!(asked.json["delegation_id"], json!(id), "{}", asked.text);
    let again = world.first_hop_of("bob").send().await;
    assert_eq!(again.json, asked.json, "the second time, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_or_another_key_needs_another_confirmation() {
    let world = World::new().await;
    let id = reserved(&world).await;
    let approved = ceremony(&world.first_hop_of("bob").param("scope", "mail.send").send().await);
    decide(&world, "bob", (&id, &approved), "approve").await.with_status(200);
    let others = [
        ceremony(&world.first_hop_of("bob").send().await),
        ceremony(
            &world
                .first_hop_of("bob")
                .param("scope", "mail.send")
                .param("capability_ceiling", "mutate")
                .send()
                .await,
        ),
    ];
    assert!(!others.contains(&approved) && others[0] != others[1], "{others:?}");
    // The same client with another key.
    let other_key =
        Agent { key: Agent::new("x", crate::support::agent::Auth::None).key, ..world.user_proxy.clone() };
    let proof = other_key.proof(&world.server);
    let request = world.first_hop_of("bob").param("scope", "mail.send").set_header("dpop", proof);
    assert_ne!(ceremony(&request.send().await), approved);
    world.first_hop_of("bob").param("scope", "mail.send").send().await.with_status(200);
    let expected = 4;
    assert_eq!(ceremonies(&world, "bob", &id).await.len(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_use_is_refused_until_its_time_is_over() {
    let world = World::new().await;
    let id = reserved(&world).await;
    let denied = ceremony(&world.first_hop_of("bob").send().await);
    let answer = decide(&world, "bob", (&id, &denied), "deny").await.with_status(200);
    assert_eq!(
        (&answer.json["state"], &answer.json["decided_at"]),
        (&json!("denied"), &json!(instant(START)))
    );
    decide(&world, "bob", (&id, &denied), "approve").await.assert_conflict("ceremony_decided", "denied");
    let refused = world.first_hop_of("bob").send().await;
    refused.assert_refused(400, "insufficient_user_authentication", "ceremony_denied");
    world.first_hop_of("bob").param("scope", "mail.read").send().await.with_status(200);
    world.server.pass(299);
    world.first_hop_of("bob").send().await.assert_refused(
        400,
        "insufficient_user_authentication",
        "ceremony_denied",
    );
    world.server.pass(1);
    assert_ne!(ceremony(&world.first_hop_of("bob").send().await), denied, "then it may be asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_ends_at_its_instant_decided_or_not() {
    let world = World::configured("[delegations]\nceremony_ttl = 40").await;
    let id = reserved(&world).await;
    let missed = ceremony(&world.first_hop_of("bob").send().await);
    world.server.pass(39);
    assert_eq!(ceremony(&world.first_hop_of("bob").send().await), missed);
    world.server.pass(1);
    decide(&world, "bob", (&id, &missed), "approve").await.assert_conflict("ceremony_decided", "expired");
    let unused = ceremony(&world.first_hop_of("bob").send().await);
    assert_ne!(unused, missed);
    decide(&world, "bob", (&id, &unused), "approve").await.with_status(200);
    world.server.pass(40);
    assert_ne!(
        ceremony(&world.first_hop_of("bob").send().await),
        unused,
        "what was not used in time is not used"
    );
    let states: Vec<_> =
        ceremonies(&world, "bob", &id).await.iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["pending", "expired", "expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_exchanges_at_once_on_two_servers_one_uses_the_confirmation() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let id = reserved(&world).await;
    let user = world.token_of("bob");
    let exchange = |server| world.user_proxy.exchange(server, &user, JWT).param("audience", MAIL).send();
    for _ in 0..5 {
        let asked = ceremony(&exchange(&world.server).await);
        decide(&world, "bob", (&id, &asked), "approve").await.with_status(200);
        let answers =
            join_all([&world.server, &twin, &world.server, &twin].map(|server| exchange(server))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
        for lost in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!(
                (lost.status, lost.error()),
                (400, "insufficient_user_authentication"),
                "{}",
                lost.text
            );
        }
    }
    assert_eq!(world.shown(&id).await["uses"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_simultaneous_approval_and_denial_of_a_use_one_takes_effect() {
    let world = World::new().await;
    let id = reserved(&world).await;
    let user = world.token_of("bob");
    for round in 0..5 {
        let capability = ["observe", "mutate", "execute", "admin"].get(round);
        let request = || match capability {
            Some(name) => world.first_hop_of("bob").param("capability_ceiling", name),
            None => world.first_hop_of("bob"),
        };
        let asked = ceremony(&request().send().await);
        let say = |name: &str| {
            let path = format!("/delegate/{id}/ceremonies/{asked}/{name}");
            crate::support::management::Api::post(&world.server, &path, json!({})).user(&user).send()
        };
        let (approved, denied) = tokio::join!(say("approve"), say("deny"));
        let outcome = request().send().await;
        if approved.status == 200 {
            denied.assert_problem(409, "ceremony_decided");
            outcome.with_status(200);
        } else {
            approved.assert_problem(409, "ceremony_decided");
            denied.with_status(200);
            outcome.assert_refused(400, "insufficient_user_authentication", "ceremony_denied");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_refused_does_not_use_the_confirmation_up() {
    let world = World::new().await;
    let id = reserved(&world).await;
    let proof = world.user_proxy.proof(&world.server);
    let with_proof = || world.first_hop_of("bob").set_header("dpop", proof.clone());
    let asked = ceremony(&with_proof().send().await);
    decide(&world, "bob", (&id, &asked), "approve").await.with_status(200);
    // The same request again, as careless clients repeat it.
    with_proof().send().await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_replayed");
    let token = world.first_hop_of("bob").send().await;
    assert_eq!(token.status, 200, "the confirmation is still there: {}", token.text);
    assert_ne!(ceremony(&world.first_hop_of("bob").send().await), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_can_be_reserved_and_a_lower_ceiling_needs_no_confirmation() {
    let world = World::new().await;
    let terms = json!({"ceremony_required_for": ["execute"], "expires_in": 7200});
    let id = world.granted("bob", terms).await.id();
    for free in ["observe", "mutate"] {
        world.first_hop_of("bob").param("capability_ceiling", free).send().await.with_status(200);
    }
    for reserved in ["execute", "admin"] {
        ceremony(&world.first_hop_of("bob").param("capability_ceiling", reserved).send().await);
    }
    let asked = ceremony(&world.first_hop_of("bob").send().await);
    decide(&world, "bob", (&id, &asked), "approve").await.with_status(200);
    let token = world.first_hop_of("bob").send().await.with_status(200);
    // Every exchange with the reserved scope needs a confirmation, also an exchange of the agent's own token.
    let own = || world.user_proxy.exchange(&world.server, token.token(), ACCESS_TOKEN);
    ceremony(&own().send().await);
    assert_eq!(claim(&own().param("capability_ceiling", "mutate").send().await.with_status(200)), "mutate");
}

fn next_hop<'a>(world: &'a World, token: &str) -> Request<'a> {
    world.email_svc.exchange(&world.server, token, ACCESS_TOKEN)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delegator_of_the_delegation_that_reserves_a_use_confirms_it() {
    let world = World::new().await;
    let root = reserved(&world).await;
    let terms = json!({"ceremony_required_for": ["mail.read"]});
    let child = world.passed_on(&world.user_proxy, (&root, "email-svc"), terms).await.with_status(201).id();
    let asked = ceremony(&world.first_hop_of("bob").send().await);
    decide(&world, "bob", (&root, &asked), "approve").await.with_status(200);
    let first = world.first_hop_of("bob").send().await.with_status(200);
    let both = || next_hop(&world, first.token());
    let of_root = ceremony(&both().send().await);
    let listed = ceremonies(&world, "bob", &root).await;
    let listed = listed.iter().find(|one| one["id"] == *of_root).unwrap();
    assert_eq!((&listed["client_id"], &listed["delegation_id"]), (&json!("email-svc"), &json!(root)));
    decide(&world, "bob", (&child, &of_root), "approve").await.assert_problem(404, "not_found");
    let path = format!("/delegate/{root}/ceremonies/{of_root}/approve");
    world
        .as_agent(&world.user_proxy, "POST", &path, json!({}))
        .await
        .assert_problem(403, "insufficient_scope");
    decide(&world, "bob", (&root, &of_root), "approve").await.with_status(200);
    let of_child = ceremony(&both().send().await);
    assert_ne!(of_child, of_root);
    decide(&world, "bob", (&child, &of_child), "approve").await.assert_problem(403, "insufficient_scope");
    let path = format!("/delegate/{child}/ceremonies/{of_child}/approve");
    world
        .as_agent(&world.email_svc, "POST", &path, json!({}))
        .await
        .assert_problem(403, "insufficient_scope");
    world.as_agent(&world.user_proxy, "POST", &path, json!({})).await.with_status(200);
    both().send().await.with_status(200);
    assert_ne!(ceremony(&both().send().await), of_root, "both are used up");
    let alone = next_hop(&world, first.token()).param("scope", "mail.send").send().await;
    decide(&world, "bob", (&root, &ceremony(&alone)), "approve").await.with_status(200);
    next_hop(&world, first.token()).param("scope", "mail.send").send().await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_decide_too_and_confirmations_of_an_ended_delegation_are_not_decided() {
    let world = World::new().await;
    let id = reserved(&world).await;
    let one = ceremony(&world.first_hop_of("bob").send().await);
    let path = format!("/delegate/{id}/ceremonies/{one}/approve");
    world.as_admin("POST", &path, json!({})).await.with_status(200);
    let other = ceremony(&world.first_hop_of("bob").param("scope", "mail.send").send().await);
    world.moves("bob", &id, "revoke", json!({})).await.with_status(200);
    decide(&world, "bob", (&id, &other), "approve")
        .await
        .assert_conflict("invalid_state_transition", "revoked");
    world.first_hop_of("bob").send().await.assert_refused(400, "invalid_request", "delegation_revoked");
    for unknown in ["00000000-0000-0000-0000-000000000000", "x", "%00", "D"] {
        decide(&world, "bob", (&id, unknown), "approve").await.assert_problem(404, "not_found");
    }
    decide(&world, "alice", ("D", &other), "approve").await.assert_problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn ceremonies_are_events_with_the_path_of_what_reserved_them() {
    let world = World::new().await;
    let id = reserved(&world).await;
    let one = ceremony(&world.first_hop_of("bob").send().await);
    let asked = world.server.last_event().await;
    assert_eq!(
        (&asked["action"], &asked["reason"]),
        (&json!("oauth.token.refused"), &json!("ceremony_required"))
    );
    assert_eq!((&asked["delegation_id"], &asked["detail"]["ceremony"]), (&json!(id), &json!(one)));
    assert_eq!(asked["delegation_path"], json!([id]), "{asked}");
    decide(&world, "bob", (&id, &one), "approve").await.with_status(200);
    let approved = world.server.last_event().await;
    assert_eq!(approved["action"], "delegation.ceremony_approved");
    assert_eq!((&approved["actor"]["sub"], &approved["target"]), (&json!("bob"), &json!("user-proxy")));
    assert_eq!((&approved["delegation_path"], &approved["detail"]["ceremony"]), (&json!([id]), &json!(one)));
    decide(&world, "bob", (&id, &one), "deny").await.assert_conflict("ceremony_decided", "approved");
    let refused = world.server.last_event().await;
    assert_eq!(
        (&refused["action"], &refused["reason"]),
        (&json!("delegation.ceremony_denial_refused"), &json!("ceremony_decided"))
    );
    let other = ceremony(&world.first_hop_of("bob").param("scope", "mail.send").send().await);
    decide(&world, "bob", (&id, &other), "deny").await.with_status(200);
    assert_eq!(world.server.last_event().await["action"], "delegation.ceremony_denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_asked_at_once_need_one_confirmation() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let id = reserved(&world).await;
    let user = world.token_of("bob");
    let exchange = |server| world.user_proxy.exchange(server, &user, JWT).param("audience", MAIL).send();
    let answers = join_all([&world.server, &twin, &world.server, &twin].map(|server| exchange(server))).await;
    let asked: Vec<String> = answers.iter().map(ceremony).collect();
    // Whichever ceremony is approved, the same exchange succeeds once and not twice.
    decide(&world, "bob", (&id, &asked[0]), "approve").await.with_status(200);
    exchange(&twin).await.with_status(200);
    ceremony(&exchange(&world.server).await);
}
