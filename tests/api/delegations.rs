//! The life cycle of delegations at `/delegate`: requested, approved, used, renewed, revoked.

use std::collections::BTreeSet;

use actchain::jobs::{expiry, sweep};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::life::{instant, post, steps, with};
use crate::support::management::Api;
use crate::support::world::{CALENDAR, IDP, MAIL, World};
use crate::support::{Answer, START, Server};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_asks_the_user_approves_a_narrower_version_and_the_exchange_works() {
    let world = World::new().await;
    let body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read", "mail.send"], "audiences": [MAIL],
                      "expires_in": 600, "reason": "to answer his mail", "agent": {"type": "assistant", "model": "m"}});
    let asked = world.as_agent(&world.user_proxy, "POST", "/delegate", body).await;
    assert_eq!((asked.status, &asked.json["state"]), (202, &json!("requested")), "{}", asked.text);
    let id = asked.json["id"].as_str().unwrap().to_owned();
    assert_eq!(asked.header("location").unwrap(), format!("{}/delegate/{id}", world.server.app.issuer));
    let bob = world.token_of("bob");
    let exchange = || world.user_proxy.exchange(&world.server, &bob, JWT).param("audience", MAIL).send();
    exchange().await.assert_refused(400, "invalid_request", "delegation_requested");
    let by_itself =
        world.as_agent(&world.user_proxy, "POST", &format!("/delegate/{id}/approve"), json!({})).await;
    assert_eq!((by_itself.status, by_itself.reason()), (403, "insufficient_scope"));
    let by_alice = world.as_alice("POST", &format!("/delegate/{id}/approve"), json!({})).await;
    assert_eq!((by_alice.status, by_alice.reason()), (404, "not_found"));
    let wider = json!({"scopes": ["mail.read", "mail.send", "both"]});
    let wider = world.as_user("bob", "POST", &format!("/delegate/{id}/approve"), wider).await;
    assert_eq!((wider.status, wider.reason()), (400, "exceeds_parent"));
    let approved = json!({"scopes": ["mail.read"], "expires_in": 300});
    let approved = world.as_user("bob", "POST", &format!("/delegate/{id}/approve"), approved).await;
    assert_eq!((approved.status, &approved.json["state"]), (200, &json!("active")), "{}", approved.text);
    let token = exchange().await;
    assert_eq!((token.status, token.json["scope"].as_str()), (200, Some("mail.read")), "{}", token.text);
    assert!(world.is_active(token.token()).await);
    assert_eq!(world.status_of(token.token()).await, 0);
    let revoked =
        world.as_user("bob", "POST", &format!("/delegate/{id}/revoke"), json!({"reason": "enough"})).await;
    assert_eq!((revoked.status, &revoked.json["state"]), (200, &json!("revoked")), "{}", revoked.text);
    assert_eq!(revoked.json["affected"], json!({"delegations": 1, "tokens": 1, "at_least": false}));
    assert!(!world.is_active(token.token()).await);
    assert_eq!(world.status_of(token.token()).await, 1);
    let own = world.user_proxy.exchange(&world.server, token.token(), ACCESS_TOKEN).send().await;
    own.assert_refused(400, "invalid_request", "delegation_revoked");
}

/// A request with a limit in every dimension.
fn limited() -> Value {
    json!({"scopes": ["mail.read", "mail.send"], "audiences": [MAIL],
           "authorization_details": [{"type": "mailbox", "actions": ["list", "read"]}],
           "capability_ceiling": "execute", "ceremony_required_for": ["both"], "max_uses": 5, "max_depth": 3,
           "expires_in": 600})
}

/// For each dimension: the member, a value that is wider than [`limited`], and a narrower value.
fn dimensions() -> [(&'static str, Value, Value); 7] {
    [
        ("scopes", json!(["mail.read", "both"]), json!(["mail.read"])),
        ("audiences", json!([MAIL, CALENDAR]), json!([])),
        (
            "authorization_details",
            json!([{"type": "mailbox", "actions": ["read", "delete"]}]),
            json!([{"type": "mailbox", "actions": ["read"]}]),
        ),
        ("capability_ceiling", json!("admin"), json!("observe")),
        ("max_uses", json!(6), json!(4)),
        ("max_depth", json!(4), json!(2)),
        ("expires_in", json!(601), json!(599)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_gives_for_itself_and_it_is_active_at_once() {
    let world = World::new().await;
    let terms = json!({"scopes": ["mail.read"], "audiences": [MAIL], "expires_in": 600, "reason": "mail",
                       "agent": {"type": "assistant", "model": "m-1"}});
    let created = world.granted("bob", terms).await.with_status(201);
    let id = created.id();
    assert_eq!(created.header("location").unwrap(), format!("{}/delegate/{id}", world.server.app.issuer));
    assert_eq!(created.header("cache-control"), Some("no-store"));
    let bob = json!({"iss": IDP, "sub": "bob"});
    let expected = json!({
        "id": id, "state": "active", "delegator": bob, "delegate": "user-proxy", "parent": null, "path": [id],
        "root": bob, "origin": "granted", "scopes": ["mail.read"], "audiences": [MAIL],
        "authorization_details": null, "capability_ceiling": null, "ceremony_required_for": [],
        "max_uses": null, "uses": 0, "uses_left": null, "max_depth": null, "offline_access": false, "reason": "mail",
        "agent": {"type": "assistant", "model": "m-1"}, "ephemeral": null, "requested_by": bob,
        "requested_at": instant(START), "activated_at": instant(START), "expires_at": instant(START + 600),
        "revoked_at": null, "revoke_reason": null, "ended_by": null,
    });
    assert_eq!(created.json, expected);
    for answer in [
        world.as_user("bob", "GET", &format!("/delegate/{id}"), json!({})).await,
        world.as_agent(&world.user_proxy, "GET", &format!("/delegate/{id}"), json!({})).await,
        world.as_admin("GET", &format!("/delegate/{id}"), json!({})).await,
    ] {
        assert_eq!((answer.status, &answer.json), (200, &expected));
        assert_eq!(answer.header("retry-after"), None);
    }
    let token = world.first_hop_of("bob").send().await.with_status(200);
    assert_eq!((&token.claims()["scope"], &token.claims()["dlg"]), (&json!("mail.read"), &json!(id)));
    assert_eq!(world.moves_of(&id).await, ["delegation.created", "delegation.activated"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_leaves_out_is_its_own_and_the_usual_life() {
    let world = World::configured("[delegations]\ndefault_ttl = 700\nmax_ttl = 800").await;
    let created =
        world.granted("bob", json!({"delegator": {"iss": IDP, "sub": "bob"}})).await.with_status(201);
    assert_eq!(
        (&created.json["scopes"], &created.json["expires_at"]),
        (&json!(null), &json!(instant(START + 700)))
    );
    let longest = world.granted("bob", json!({"expires_in": 800})).await.with_status(201);
    assert_eq!(longest.json["shortened"], json!(null));
    // A lifetime is an upper bound: a longer lifetime is shortened, and the response says so.
    for seconds in [801, u32::MAX] {
        world.granted("bob", json!({"expires_in": seconds})).await.assert_shortened(START + 800);
    }
    let asked = json!({"delegator": {"iss": IDP, "sub": "bob"}, "expires_in": 801});
    let asked = world.as_agent(&world.user_proxy, "POST", "/delegate", asked).await.with_status(202).json;
    assert_eq!((&asked["expires_in"], &asked["shortened"]), (&json!(800), &json!(true)));
    let parent = world.granted("bob", json!({"expires_in": 500})).await.id();
    let below = world.passed_on(&world.user_proxy, (&parent, "email-svc"), json!({"expires_in": 600})).await;
    below.assert_shortened(START + 500);
    let shown = world.shown(&below.id()).await;
    assert_eq!((&shown["expires_at"], &shown["shortened"]), (&json!(instant(START + 500)), &json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_delegates_only_what_was_delegated_to_it() {
    let world = World::new().await;
    let for_alice = json!({"delegator": {"iss": IDP, "sub": "alice"}});
    world.granted("bob", for_alice.clone()).await.assert_problem(403, "insufficient_scope");
    world.granted("bob", json!({"parent": "D"})).await.assert_problem(403, "insufficient_scope");
    // An agent may request only for itself.
    let other = with(for_alice.clone(), json!({"delegate": "email-svc"}));
    let other = world.as_agent(&world.user_proxy, "POST", "/delegate", other).await;
    other.assert_problem(403, "insufficient_scope");
    let nothing =
        world.as_agent(&world.user_proxy, "POST", "/delegate", json!({"delegate": "email-svc"})).await;
    nothing.assert_problem(400, "malformed_request");
    let both = with(for_alice, json!({"parent": "D"}));
    let both = world.as_agent(&world.user_proxy, "POST", "/delegate", both).await;
    both.assert_problem(400, "malformed_request");
    // An agent does not see delegations that are not delegated to it.
    for parent in ["D", "F", "nothing"] {
        let answer = world.passed_on(&world.email_svc, (parent, "stranger"), json!({})).await;
        answer.assert_problem(404, "not_found");
    }
    // It sees its descendants, but delegates further only what is delegated to itself.
    let above = world.passed_on(&world.user_proxy, ("E", "stranger"), json!({})).await;
    above.assert_problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_approver_is_named_by_its_token_and_never_by_the_body() {
    let world = World::new().await;
    let id = world.asked("bob", json!({})).await;
    let bob = json!({"iss": IDP, "sub": "bob"});
    for body in [
        json!({"delegator": bob}),
        json!({"approver": bob}),
        json!({"approved_by": bob}),
        json!({"iss": IDP, "sub": "bob"}),
    ] {
        let by_alice = world.as_alice("POST", &format!("/delegate/{id}/approve"), body).await;
        by_alice.assert_problem(400, "malformed_request");
    }
    for name in ["approve", "deny", "revoke"] {
        world.moves("alice", &id, name, json!({})).await.assert_problem(404, "not_found");
        let stranger =
            world.as_agent(&world.stranger, "POST", &format!("/delegate/{id}/{name}"), json!({})).await;
        stranger.assert_problem(404, "not_found");
    }
    for name in ["approve", "deny"] {
        let asker =
            world.as_agent(&world.user_proxy, "POST", &format!("/delegate/{id}/{name}"), json!({})).await;
        asker.assert_problem(403, "insufficient_scope");
    }
    // A user with the same name at another issuer is another user.
    let (key, _) =
        actchain_protocol::jose::SigningKey::generate(actchain_protocol::jose::SigningAlg::ES256).unwrap();
    let yaml = format!(
        "issuers:\n  - {{iss: https://other.example.com, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256], alias: other}}",
        key.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    let mut claims = world.user_claims();
    (claims["iss"], claims["sub"]) = (json!("https://other.example.com"), json!("bob"));
    let token = key.sign("JWT", &claims).unwrap();
    let answer = post(&world.server, &id, "approve", json!({})).user(&token).send().await;
    answer.assert_problem(404, "not_found");
    assert_eq!(world.state(&id).await, "requested");
    world.moves("bob", &id, "approve", json!({})).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_narrows_in_every_dimension_and_widens_in_none() {
    let world = World::new().await;
    let id = world.asked("bob", limited()).await;
    let before = world.shown(&id).await;
    for (member, wider, _) in dimensions().into_iter().filter(|(member, ..)| *member != "expires_in") {
        let answer = world.moves("bob", &id, "approve", json!({member: wider})).await;
        answer.assert_too_wide(member);
    }
    assert_eq!(world.shown(&id).await, before, "what was refused changed nothing");
    let long = world.asked("carol", limited()).await;
    let long = world.moves("carol", &long, "approve", json!({"expires_in": 601})).await;
    long.assert_shortened(START + 600);
    let mut narrower = json!({"ceremony_required_for": ["mail.send", "both"]});
    for (member, _, value) in dimensions() {
        narrower[member] = value;
    }
    world.server.pass(60);
    let approved = world.moves("bob", &id, "approve", narrower.clone()).await.with_status(200).json;
    for member in
        ["scopes", "audiences", "authorization_details", "capability_ceiling", "max_uses", "max_depth"]
    {
        assert_eq!(approved[member], narrower[member], "{member}");
    }
    assert_eq!(approved["ceremony_required_for"], json!(["both", "mail.send"]));
    assert_eq!(approved["uses_left"], 4);
    assert_eq!(approved["requested_at"], instant(START));
    assert_eq!(approved["activated_at"], instant(START + 60));
    assert_eq!(approved["expires_at"], instant(START + 60 + 599), "its lifetime begins with its approval");
    assert_eq!(world.shown(&id).await, approved);
    let nothing = world.first_hop_of("bob").send().await;
    nothing.assert_refused(400, "invalid_target", "resource_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_drops_no_ceremony_and_bounds_what_was_asked_for_without_bounds() {
    let world = World::new().await;
    let kept = world.asked("bob", limited()).await;
    let kept =
        world.moves("bob", &kept, "approve", json!({"ceremony_required_for": []})).await.with_status(200);
    assert_eq!(kept.json["ceremony_required_for"], json!(["both"]));
    let open = world.asked("carol", json!({})).await;
    let typo =
        world.moves("carol", &open, "approve", json!({"audiences": ["https://mail.example.con"]})).await;
    typo.assert_undeclared("resource_unknown", "#/audiences/0");
    let terms = with(limited(), json!({"scopes": [], "max_uses": 1}));
    let bounded = world.moves("carol", &open, "approve", terms).await.with_status(200).json;
    assert_eq!((&bounded["scopes"], &bounded["uses_left"]), (&json!([]), &json!(1)), "none is not any");
    assert_eq!(bounded["authorization_details"], limited()["authorization_details"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_body_approves_as_asked_and_denies_without_a_reason() {
    let world = World::new().await;
    let (one, other) = (world.asked("bob", limited()).await, world.asked("bob", json!({})).await);
    let bare = async |id: &str, name: &str| {
        let path = format!("/delegate/{id}/{name}");
        Api::new(&world.server, "POST", &path).user(&world.token_of("bob")).send().await
    };
    let approved = bare(&one, "approve").await.with_status(200).json;
    assert_eq!((&approved["state"], &approved["max_uses"]), (&json!("active"), &json!(5)));
    let denied = bare(&other, "deny").await.with_status(200).json;
    assert_eq!((&denied["state"], &denied["revoke_reason"]), (&json!("revoked"), &json!("denied")));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_approvals_at_once_on_two_servers_one_counts() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    for _ in 0..6 {
        let id = world.asked("bob", json!({"scopes": ["mail.read", "mail.send"]})).await;
        let approve = |server, scope: &str| {
            let token = world.token_of("bob");
            post(server, &id, "approve", json!({"scopes": [scope]})).user(&token).send()
        };
        let answers = tokio::join!(approve(&world.server, "mail.read"), approve(&twin, "mail.send"));
        let (won, lost) = match answers.0.status {
            200 => (&answers.0, &answers.1),
            _ => (&answers.1, &answers.0),
        };
        assert_eq!((won.status, &won.json["state"]), (200, &json!("active")), "{}", won.text);
        lost.assert_conflict("invalid_state_transition", "active");
        assert_eq!(
            world.shown(&id).await["scopes"],
            won.json["scopes"],
            "the one that won is what is in force"
        );
        assert_eq!(world.moves_of(&id).await, ["delegation.created", "delegation.activated"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_approval_and_denial_at_once_on_two_servers_one_counts() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    for round in 0..8 {
        let id = world.asked("bob", json!({})).await;
        let (first, second): (&Server, &Server) =
            if round % 2 == 0 { (&world.server, &twin) } else { (&twin, &world.server) };
        let token = world.token_of("bob");
        let approve = post(first, &id, "approve", json!({})).user(&token).send();
        let deny = post(second, &id, "deny", json!({"reason": "no"})).user(&token).send();
        let (approved, denied) = tokio::join!(approve, deny);
        let state = match approved.status {
            200 => {
                denied.assert_conflict("invalid_state_transition", "active");
                "active"
            }
            _ => {
                approved.assert_conflict("invalid_state_transition", "revoked");
                assert_eq!(denied.status, 200, "{}", denied.text);
                "revoked"
            }
        };
        assert_eq!(world.state(&id).await, state);
        let ends = if state == "active" { "delegation.activated" } else { "delegation.revoked" };
        assert_eq!(world.moves_of(&id).await, ["delegation.created", ends]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_is_not_decided_again() {
    let world = World::new().await;
    let (yes, no) = (world.asked("bob", json!({})).await, world.asked("bob", json!({})).await);
    world.moves("bob", &yes, "approve", json!({})).await.with_status(200);
    let denied = world.moves("bob", &no, "deny", json!({"reason": "not now"})).await.with_status(200).json;
    assert_eq!((&denied["state"], &denied["revoke_reason"]), (&json!("revoked"), &json!("not now")));
    assert_eq!((&denied["revoked_at"], &denied["activated_at"]), (&json!(instant(START)), &json!(null)));
    for (id, state) in [(&yes, "active"), (&no, "revoked")] {
        for name in ["approve", "deny"] {
            world.moves("bob", id, name, json!({})).await.assert_conflict("invalid_state_transition", state);
            let admin = world.as_admin("POST", &format!("/delegate/{id}/{name}"), json!({})).await;
            admin.assert_conflict("invalid_state_transition", state);
        }
    }
    assert_eq!(world.shown(&no).await, denied);
    world
        .moves("bob", &no, "renew", json!({"expires_in": 9000}))
        .await
        .assert_conflict("invalid_state_transition", "revoked");
    world.moves("bob", &no, "revoke", json!({})).await.assert_conflict("invalid_state_transition", "revoked");
    // A delegation that its delegator created was never a request.
    let created = world.granted("bob", json!({})).await.id();
    world
        .moves("bob", &created, "approve", json!({}))
        .await
        .assert_conflict("invalid_state_transition", "active");
    world
        .moves("bob", &created, "deny", json!({}))
        .await
        .assert_conflict("invalid_state_transition", "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_lapses_at_its_instant_and_is_not_approved_afterwards() {
    let world = World::configured("[delegations]\nrequest_ttl = 120").await;
    let (late, just) =
        (world.asked("bob", json!({"expires_in": 50})).await, world.asked("bob", json!({})).await);
    let shown = world.shown(&late).await;
    assert_eq!((&shown["expires_at"], &shown["expires_in"]), (&json!(instant(START + 120)), &json!(50)));
    world.server.pass(119);
    world.moves("bob", &just, "approve", json!({})).await.with_status(200);
    world.server.pass(1);
    assert_eq!(world.state(&late).await, "expired");
    world
        .moves("bob", &late, "approve", json!({}))
        .await
        .assert_conflict("invalid_state_transition", "expired");
    world.moves("bob", &late, "deny", json!({})).await.assert_conflict("invalid_state_transition", "expired");
    world
        .moves("bob", &late, "revoke", json!({}))
        .await
        .assert_conflict("invalid_state_transition", "expired");
    world
        .moves("bob", &late, "renew", json!({"expires_in": 9000}))
        .await
        .assert_conflict("invalid_state_transition", "expired");
    assert_eq!(
        world.state(&just).await,
        "active",
        "an approval in time starts the lifetime of the delegation"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_wait_for_one_user() {
    let world = World::configured("[delegations]\nmax_pending_requests = 2").await;
    let ask = async |sub: &str| {
        let body = json!({"delegator": {"iss": IDP, "sub": sub}});
        world.as_agent(&world.user_proxy, "POST", "/delegate", body).await
    };
    let first = ask("bob").await.with_status(202).id();
    ask("bob").await.with_status(202);
    ask("bob").await.assert_problem(429, "rate_limited");
    ask("carol").await.with_status(202);
    world.moves("bob", &first, "deny", json!({})).await.with_status(200);
    ask("bob").await.with_status(202);
    ask("bob").await.assert_problem(429, "rate_limited");
    world.server.pass(3600);
    ask("bob").await.with_status(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_later_and_within_its_bounds() {
    let world = World::configured("[delegations]\nmax_ttl = 2000").await;
    let root = world.granted("bob", json!({"expires_in": 1000})).await.id();
    let child = world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({"expires_in": 300})).await;
    let child = child.with_status(201).id();
    let renew = async |sub: &str, id: &str, seconds: i64| {
        world.moves(sub, id, "renew", json!({"expires_in": seconds})).await
    };
    world.server.pass(100);
    renew("bob", &root, 900).await.assert_problem(400, "expiry_not_later");
    renew("bob", &root, 1).await.assert_problem(400, "expiry_not_later");
    let renewed = renew("bob", &root, 901).await.with_status(200).json;
    assert_eq!((&renewed["expires_at"], &renewed["id"]), (&json!(instant(START + 1001)), &json!(root)));
    assert_eq!(world.shown(&root).await, renewed);
    for bad in [json!({"expires_in": 0}), json!({"expires_in": -1}), json!({"expires_in": "1"}), json!({})] {
        let answer = world.moves("bob", &root, "renew", bad.clone()).await;
        assert!(answer.status == 400, "{bad}: {}", answer.text);
    }
    // The delegator of a subdelegation is the agent, not the user at the root.
    let path = format!("/delegate/{child}/renew");
    renew("bob", &child, 500).await.assert_problem(403, "insufficient_scope");
    let by_delegate = world.as_agent(&world.email_svc, "POST", &path, json!({"expires_in": 500})).await;
    by_delegate.assert_problem(403, "insufficient_scope");
    let by_stranger = world.as_agent(&world.stranger, "POST", &path, json!({"expires_in": 500})).await;
    by_stranger.assert_problem(404, "not_found");
    let by_giver = async |seconds: i64| {
        world.as_agent(&world.user_proxy, "POST", &path, json!({"expires_in": seconds})).await
    };
    by_giver(902).await.assert_shortened(START + 1001);
    by_giver(901).await.assert_problem(400, "expiry_not_later");
    by_giver(902).await.assert_problem(400, "expiry_not_later");
    let by_admin = world.as_admin("POST", &path, json!({"expires_in": 901})).await;
    by_admin.assert_problem(400, "expiry_not_later");
    let by_admin =
        world.as_admin("POST", &format!("/delegate/{root}/renew"), json!({"expires_in": 2000})).await;
    let by_admin = by_admin.with_status(200).json;
    assert_eq!(by_admin["expires_at"], instant(START + 2100));
    assert_eq!(by_admin["shortened"], json!(null));
    assert_eq!(world.shown(&child).await["expires_at"], instant(START + 1001), "nothing below is prolonged");
    world.server.pass(901);
    assert_eq!((world.state(&root).await, world.state(&child).await), ("active".into(), "expired".into()));
    by_giver(10).await.assert_conflict("invalid_state_transition", "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_or_has_ended_is_not_renewed() {
    let world = World::new().await;
    let id = world.asked("bob", json!({"expires_in": 100})).await;
    world
        .moves("bob", &id, "renew", json!({"expires_in": 5000}))
        .await
        .assert_conflict("invalid_state_transition", "requested");
    world.moves("bob", &id, "approve", json!({})).await.with_status(200);
    world.server.pass(100);
    world
        .moves("bob", &id, "renew", json!({"expires_in": 5000}))
        .await
        .assert_conflict("invalid_state_transition", "expired");
    let used = world.granted("bob", json!({"max_uses": 1})).await.id();
    world.first_hop_of("bob").send().await.with_status(200);
    world
        .moves("bob", &used, "renew", json!({"expires_in": 5000}))
        .await
        .assert_conflict("invalid_state_transition", "expired");
    // Below an expired delegation, nothing can be renewed.
    let parent = world.granted("carol", json!({"expires_in": 1000})).await.id();
    let child =
        world.passed_on(&world.user_proxy, (&parent, "email-svc"), json!({"expires_in": 10})).await.id();
    world.moves("carol", &parent, "revoke", json!({})).await.with_status(200);
    let path = format!("/delegate/{child}/renew");
    let answer = world.as_agent(&world.user_proxy, "POST", &path, json!({"expires_in": 20})).await;
    answer.assert_conflict("invalid_state_transition", "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_agent_is_not_renewed_past_the_longest_lifetime_of_such_agents() {
    let world = World::configured("[agents]\nmax_ttl = 1000").await;
    let key = crate::support::agent::Agent::new("any", crate::support::agent::Auth::None).key;
    let ephemeral = json!({"jwk": key.public_jwk(), "task_id": "t-1"});
    let body = json!({"ephemeral": ephemeral, "expires_in": 1001});
    world.as_user("bob", "POST", "/delegate", body).await.assert_shortened(START + 1000);
    let body = json!({"ephemeral": ephemeral, "expires_in": 400});
    let id = world.as_user("bob", "POST", "/delegate", body).await.with_status(201).id();
    world.server.pass(300);
    world.moves("bob", &id, "renew", json!({"expires_in": 701})).await.assert_shortened(START + 1000);
}

/// The callers that may revoke the middle of Alice's chain.
#[tokio::test(flavor = "multi_thread")]
async fn every_ancestor_the_delegate_itself_and_administrators_can_revoke() {
    for who in ["alice", "user-proxy", "email-svc", "admin"] {
        let world = World::new().await;
        let tokens = [world.first_hop().await, world.second_hop().await, world.third_hop().await];
        let tokens = tokens.map(|answer| answer.token().to_owned());
        world.moves("bob", "E", "revoke", json!({})).await.assert_problem(404, "not_found");
        let by_stranger = world.as_agent(&world.stranger, "POST", "/delegate/E/revoke", json!({})).await;
        by_stranger.assert_problem(404, "not_found");
        let body = json!({"reason": "enough of it"});
        let revoked = match who {
            "alice" => world.as_alice("POST", "/delegate/E/revoke", body).await,
            "user-proxy" => world.as_agent(&world.user_proxy, "POST", "/delegate/E/revoke", body).await,
            "email-svc" => world.as_agent(&world.email_svc, "POST", "/delegate/E/revoke", body).await,
            _ => world.as_admin("POST", "/delegate/E/revoke", body).await,
        };
        // Tokens of the second and third hop exist more than once: those that the helpers obtained count, too.
        let affected = revoked.json["affected"].clone();
        assert_eq!(
            revoked.json,
            json!({"id": "E", "state": "revoked", "affected": affected}),
            "{}",
            revoked.text
        );
        assert_eq!(affected, json!({"delegations": 2, "tokens": 3, "at_least": false}), "{who}");
        let alive = join_all(tokens.iter().map(|token| world.is_active(token))).await;
        assert_eq!(alive, [true, false, false], "{who}: descendants are inactive, ancestors are active");
        let statuses = join_all(tokens.iter().map(|token| world.status_of(token))).await;
        assert_eq!(statuses, [0, 1, 1], "{who}");
        let (above, itself, below) = (world.shown("D").await, world.shown("E").await, world.shown("F").await);
        assert_eq!((&above["state"], &above["ended_by"]), (&json!("active"), &json!(null)));
        assert_eq!((&itself["state"], &itself["ended_by"]), (&json!("revoked"), &json!(null)));
        assert_eq!(itself["revoke_reason"], "enough of it");
        assert_eq!((&below["state"], &below["ended_by"]), (&json!("revoked"), &json!("E")));
        assert_eq!(below["revoked_at"], json!(null));
        for again in ["alice", "carol"] {
            let answer = world.moves(again, "E", "revoke", json!({})).await;
            match again {
                "alice" => answer.assert_conflict("invalid_state_transition", "revoked"),
                _ => drop(answer.assert_problem(404, "not_found")),
            }
        }
        assert_eq!(world.moves_of("E").await, ["delegation.created", "delegation.revoked"], "{who}: once");
        // A delegation that an ancestor has revoked can still be revoked itself, and then stays revoked.
        let itself = world.as_alice("POST", "/delegate/F/revoke", json!({})).await.with_status(200);
        assert_eq!(itself.json["affected"], json!({"delegations": 0, "tokens": 0, "at_least": false}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegate_neither_sees_nor_revokes_the_ancestors_of_its_delegation() {
    let world = World::new().await;
    let low = world.agent("low").await;
    let child = world.passed_on(&world.email_svc, ("E", "low"), json!({})).await.with_status(201).id();
    for (method, path) in [("GET", "/delegate/E"), ("POST", "/delegate/E/revoke"), ("GET", "/delegate/D")] {
        world.as_agent(&low, method, path, json!({})).await.assert_problem(404, "not_found");
    }
    world.as_agent(&low, "GET", "/delegate/F", json!({})).await.assert_problem(404, "not_found");
    let shown = world.as_agent(&low, "GET", &format!("/delegate/{child}"), json!({})).await.with_status(200);
    assert_eq!(shown.json["path"], json!(["D", "E", child]));
    for by in [&world.user_proxy, &world.email_svc] {
        world.as_agent(by, "GET", &format!("/delegate/{child}"), json!({})).await.with_status(200);
    }
    let ended = world.as_agent(&low, "POST", &format!("/delegate/{child}/revoke"), json!({})).await;
    ended.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_revocations_at_once_on_two_servers_one_counts() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    for _ in 0..5 {
        let id = world.granted("bob", json!({})).await.id();
        let token = world.token_of("bob");
        let revoke = |server| post(server, &id, "revoke", json!({})).user(&token).send();
        let answers = join_all([&world.server, &twin, &world.server, &twin].map(revoke)).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
        for lost in answers.iter().filter(|answer| answer.status != 200) {
            lost.assert_conflict("invalid_state_transition", "revoked");
        }
        let expected = ["delegation.created", "delegation.activated", "delegation.revoked"];
        assert_eq!(world.moves_of(&id).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_can_withdraw_its_own_request() {
    let world = World::new().await;
    let id = world.asked("bob", json!({})).await;
    let path = format!("/delegate/{id}/revoke");
    let withdrawn = world.as_agent(&world.user_proxy, "POST", &path, json!({"reason": "done"})).await;
    withdrawn.with_status(200);
    world
        .moves("bob", &id, "approve", json!({}))
        .await
        .assert_conflict("invalid_state_transition", "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_to_itself_to_an_ancestor_or_to_an_unknown_agent_is_refused() {
    let world = World::new().await;
    let pass = async |from, parent: &str, to: &str| world.passed_on(from, (parent, to), json!({})).await;
    pass(&world.user_proxy, "D", "user-proxy").await.assert_problem(400, "delegation_cycle");
    pass(&world.email_svc, "E", "email-svc").await.assert_problem(400, "delegation_cycle");
    pass(&world.email_svc, "E", "user-proxy").await.assert_problem(400, "delegation_cycle");
    for to in ["unknown", "", "mail-server", "admin", "alice", "a b", "\u{7}", "ü", "../D"] {
        pass(&world.user_proxy, "D", to).await.assert_problem(400, "delegate_unknown");
        let by_user = world.as_user("bob", "POST", "/delegate", json!({"delegate": to})).await;
        by_user.assert_problem(400, "delegate_unknown");
    }
    let long = "a".repeat(5000);
    pass(&world.user_proxy, "D", &long).await.assert_problem(400, "delegate_unknown");
    world.server.disable("email-svc").await;
    pass(&world.user_proxy, "D", "email-svc").await.assert_problem(400, "delegate_disabled");
    let by_user = world.as_user("bob", "POST", "/delegate", json!({"delegate": "email-svc"})).await;
    by_user.assert_problem(400, "delegate_disabled");
    let asks = async |iss: &str, sub: &str| {
        let body = json!({"delegator": {"iss": iss, "sub": sub}});
        world.as_agent(&world.user_proxy, "POST", "/delegate", body).await
    };
    let own = world.server.app.issuer.clone();
    for (iss, sub) in
        [("https://unknown.example.com", "bob"), (own.as_str(), "email-svc"), (IDP, ""), ("", "")]
    {
        asks(iss, sub).await.assert_problem(400, "delegator_unknown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_disabled_meanwhile_gets_no_approval() {
    let world = World::new().await;
    let id = world.asked("bob", json!({})).await;
    world.server.disable("user-proxy").await;
    world.moves("bob", &id, "approve", json!({})).await.assert_problem(400, "delegate_disabled");
    world.server.enable("user-proxy").await;
    world.moves("bob", &id, "approve", json!({})).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_below_needs_something_active_above() {
    let world = World::new().await;
    let below =
        async |parent: &str| world.passed_on(&world.user_proxy, (parent, "email-svc"), json!({})).await;
    let id = world.asked("bob", json!({"expires_in": 100})).await;
    below(&id).await.assert_conflict("parent_not_active", "requested");
    world.moves("bob", &id, "approve", json!({})).await.with_status(200);
    let child = below(&id).await.with_status(201).id();
    world.server.pass(99);
    let last = below(&id).await.with_status(201);
    assert_eq!(last.json["expires_at"], instant(START + 100), "as long as what is above");
    world.server.pass(1);
    below(&id).await.assert_conflict("parent_not_active", "expired");
    assert_eq!(world.state(&child).await, "expired");
    let id = world.granted("bob", json!({"max_uses": 1})).await.id();
    world.first_hop_of("bob").send().await.with_status(200);
    below(&id).await.assert_conflict("parent_not_active", "expired");
    let id = world.granted("bob", json!({})).await.id();
    let child = below(&id).await.with_status(201).id();
    world.moves("bob", &id, "revoke", json!({})).await.with_status(200);
    below(&id).await.assert_conflict("parent_not_active", "revoked");
    let path = (child.as_str(), "stranger");
    let grandchild = world.passed_on(&world.email_svc, path, json!({})).await;
    grandchild.assert_conflict("parent_not_active", "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_revoked_while_children_are_made_leaves_none_alive() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let management_token = world.management_token(&world.user_proxy).await;
    for _ in 0..3 {
        let parent = world.granted("bob", json!({})).await.id();
        let make = |n: usize| {
            let server = if n.is_multiple_of(2) { &world.server } else { &twin };
            let body = json!({"parent": parent, "delegate": "email-svc"});
            Api::post(server, "/delegate", body).client(&world.user_proxy, &management_token).send()
        };
        let token = world.token_of("bob");
        let revoke = post(&twin, &parent, "revoke", json!({})).user(&token).send();
        let (made, revoked) = tokio::join!(join_all((0..16).map(make)), revoke);
        revoked.with_status(200);
        for answer in made {
            match answer.status {
                201 => assert_eq!(world.state(&answer.id()).await, "revoked"),
                _ => answer.assert_conflict("parent_not_active", "revoked"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_count_all_or_nothing_and_the_last_one_ends_the_tokens() {
    let world = World::new().await;
    let id = world.granted("bob", json!({"max_uses": 6})).await.id();
    let below = world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({})).await.id();
    let first = world.first_hop_of("bob").send().await.with_status(200);
    let second =
        world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    let report = async |agent, id: &str, count: usize| {
        world.as_agent(agent, "POST", &format!("/delegate/{id}/steps"), steps(count)).await
    };
    let said = |answer: Answer| {
        let mut said = answer.with_status(200).json;
        let members = said.as_object_mut().unwrap();
        assert!(members.remove("session_id").is_some_and(|id| id.is_string()));
        members.remove("recorded");
        said
    };
    for bad in [0, 101] {
        let answer = report(&world.user_proxy, &id, bad).await;
        answer.assert_problem(400, "malformed_request");
    }
    let counted = said(report(&world.user_proxy, &id, 2).await);
    assert_eq!(counted, json!({"id": id, "state": "active", "uses": 4, "uses_left": 2}));
    let too_many = report(&world.user_proxy, &id, 3).await;
    too_many.assert_conflict("command_limit", "active");
    assert_eq!(world.shown(&id).await["uses"], 4, "nothing was counted");
    assert!(world.is_active(first.token()).await && world.is_active(second.token()).await);
    let counted = said(report(&world.email_svc, &below, 1).await);
    assert_eq!(
        counted,
        json!({"id": below, "state": "active", "uses": 2, "uses_left": 1}),
        "it counts here, without a limit of its own, and above"
    );
    let counted = said(report(&world.email_svc, &below, 1).await);
    assert_eq!(counted, json!({"id": below, "state": "expired", "uses": 3, "uses_left": 0}));
    for token in [first.token(), second.token()] {
        assert!(!world.is_active(token).await, "a step that takes the last use revokes the tokens");
        assert_eq!(world.status_of(token).await, 1);
    }
    report(&world.user_proxy, &id, 1).await.assert_conflict("command_limit", "expired");
    world.first_hop_of("bob").send().await.assert_refused(400, "invalid_request", "command_limit");
    let shown = world.shown(&below).await;
    assert_eq!((&shown["state"], &shown["ended_by"]), (&json!("expired"), &json!(id)));
    let expired: Vec<_> = world.events_about(&id).await;
    let expired: Vec<_> = expired.iter().filter(|event| event["action"] == "delegation.expired").collect();
    assert_eq!(expired.len(), 1);
    assert_eq!((&expired[0]["reason"], &expired[0]["code"]), (&json!("command_limit"), &json!("0x3004")));
    assert_eq!(expired[0]["actor"]["client_id"], "email-svc");
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_reported_by_the_delegate_alone_while_it_may_act() {
    let world = World::new().await;
    let id = world.granted("bob", json!({"max_uses": 9})).await.id();
    let below = world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({})).await.id();
    let path = format!("/delegate/{below}/steps");
    let one = || steps(1);
    world.as_user("bob", "POST", &path, one()).await.assert_problem(403, "insufficient_scope");
    world.as_admin("POST", &path, one()).await.assert_problem(403, "insufficient_scope");
    world.as_agent(&world.user_proxy, "POST", &path, one()).await.assert_problem(403, "insufficient_scope");
    world.as_agent(&world.stranger, "POST", &path, one()).await.assert_problem(404, "not_found");
    world.as_alice("POST", &path, one()).await.assert_problem(404, "not_found");
    world.as_agent(&world.email_svc, "POST", &path, one()).await.with_status(200);
    world.server.disable("user-proxy").await;
    let above_out = world.as_agent(&world.email_svc, "POST", &path, one()).await;
    assert_eq!((above_out.reason(), above_out.status / 100), ("actor_disabled", 4), "{}", above_out.text);
    world.server.enable("user-proxy").await;
    world.moves("bob", &id, "revoke", json!({})).await.with_status(200);
    let revoked = world.as_agent(&world.email_svc, "POST", &path, one()).await;
    revoked.assert_conflict("delegation_revoked", "revoked");
    assert_eq!(world.shown(&id).await["uses"], 1, "what was refused was not counted");
    let waiting = world.asked("bob", json!({})).await;
    let path = format!("/delegate/{waiting}/steps");
    let waiting = world.as_agent(&world.user_proxy, "POST", &path, one()).await;
    waiting.assert_conflict("delegation_requested", "requested");
    let free = world.granted("bob", json!({"expires_in": 10})).await.id();
    let path = format!("/delegate/{free}/steps");
    let counted = world.as_agent(&world.user_proxy, "POST", &path, steps(100)).await;
    assert_eq!(
        counted.with_status(200).json["uses_left"],
        json!(null),
        "without a limit there is nothing to run out"
    );
    world.server.pass(10);
    let expired = world.as_agent(&world.user_proxy, "POST", &path, one()).await;
    expired.assert_conflict("delegation_expired", "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_takes_the_last_use_leaves_what_it_gave_until_that_is_revoked() {
    let world = World::new().await;
    let id = world.granted("bob", json!({"max_uses": 2})).await.id();
    let first = world.first_hop_of("bob").send().await.with_status(200);
    let last = world.first_hop_of("bob").send().await.with_status(200);
    let shown = world.shown(&id).await;
    assert_eq!(
        (&shown["state"], &shown["uses"], &shown["uses_left"]),
        (&json!("expired"), &json!(2), &json!(0))
    );
    for token in [first.token(), last.token()] {
        assert!(world.is_active(token).await, "it was paid for");
        assert_eq!(world.status_of(token).await, 0);
    }
    world.first_hop_of("bob").send().await.assert_refused(400, "invalid_request", "command_limit");
    let again = world.user_proxy.exchange(&world.server, last.token(), ACCESS_TOKEN).send().await;
    again.assert_refused(400, "invalid_request", "command_limit");
    let revoked = world.moves("bob", &id, "revoke", json!({})).await.with_status(200);
    assert_eq!(
        revoked.json["affected"]["tokens"], 2,
        "what still lived is what it reached: {}",
        revoked.text
    );
    for token in [first.token(), last.token()] {
        assert!(!world.is_active(token).await);
        assert_eq!(world.status_of(token).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_reports_and_exchanges_on_two_servers_against_twenty_uses_are_exactly_twenty() {
    // All requests need the same row; on a slow machine, none of them times out.
    let patient = "[ledger]\ntimeout = 30";
    let world = World::configured(patient).await;
    let twin = world.server.twin_configured(patient).await;
    let id = world.granted("bob", json!({"max_uses": 20})).await.id();
    let below = world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({"max_uses": 12})).await.id();
    let user = world.token_of("bob");
    let first = world.first_hop_of("bob").send().await.with_status(200);
    let (proxy, mail) =
        (world.management_token(&world.user_proxy).await, world.management_token(&world.email_svc).await);
    // The first verification of a secret is slow, and only a limited number of requests may wait for it.
    assert_eq!(twin.introspect(&world.email_svc, "anything").await.status, 200);
    let requests = (0..64).map(async |n: usize| {
        let server = if n.is_multiple_of(2) { &world.server } else { &twin };
        let two = steps(2);
        let (answer, uses) = match n % 4 {
            0 => (post(server, &id, "steps", two).client(&world.user_proxy, &proxy).send().await, 2),
            1 => (post(server, &below, "steps", steps(1)).client(&world.email_svc, &mail).send().await, 1),
            2 => (world.user_proxy.exchange(server, &user, JWT).param("audience", MAIL).send().await, 1),
            _ => (world.email_svc.exchange(server, first.token(), ACCESS_TOKEN).send().await, 1),
        };
        let by_below = n % 4 == 1 || n % 4 == 3;
        match answer.status {
            200 => (uses, by_below),
            _ => {
                assert_eq!(answer.reason(), "command_limit", "{}", answer.text);
                (0, by_below)
            }
        }
    });
    let counted = join_all(requests).await;
    let all: i64 = counted.iter().map(|(uses, _)| uses).sum::<i64>() + 1;
    let by_below: i64 = counted.iter().filter(|(_, below)| *below).map(|(uses, _)| uses).sum();
    let (root, child) = (world.shown(&id).await, world.shown(&below).await);
    assert_eq!((&root["uses"], &child["uses"]), (&json!(all), &json!(by_below)), "answers and counts agree");
    // A report of two uses can find one left, and a later request of one use takes it.
    assert_eq!(all, 20);
    assert!(by_below <= 12);
    assert_eq!((&root["state"], &root["uses_left"]), (&json!("expired"), &json!(0)));
    let ends = world.moves_of(&id).await.iter().filter(|name| *name == "delegation.expired").count();
    assert_eq!(ends, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_recorded_once_and_with_its_cause_however_it_is_noticed() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let lapsed = world.asked("bob", json!({})).await;
    let created = world.granted("bob", json!({"expires_in": 50})).await.id();
    let child =
        world.passed_on(&world.user_proxy, (&created, "email-svc"), json!({"expires_in": 20})).await.id();
    let revoked = world.granted("bob", json!({"expires_in": 50})).await.id();
    world.moves("bob", &revoked, "revoke", json!({})).await.with_status(200);
    let used = world.granted("carol", json!({"expires_in": 50, "max_uses": 1})).await.id();
    world.first_hop_of("carol").send().await.with_status(200);
    let renewed = world.granted("bob", json!({"expires_in": 50})).await.id();
    world.moves("bob", &renewed, "renew", json!({"expires_in": 9000})).await.with_status(200);
    let sweep = async |app| expiry::run_once(app, world.server.clock.now()).await.unwrap();
    assert_eq!(sweep(&world.server.app).await, 0, "nothing has ended by time yet");
    world.server.pass(19);
    assert_eq!(sweep(&world.server.app).await, 0);
    world.server.pass(1);
    assert_eq!(sweep(&world.server.app).await, 1);
    world.server.pass(3600);
    let (here, there) = tokio::join!(sweep(&world.server.app), sweep(&twin.app));
    assert_eq!(sweep(&world.server.app).await, 0);
    let ends = async |id: &str| {
        let mut events = world.events_about(id).await;
        events.retain(|event| event["action"] == "delegation.expired");
        events
    };
    for (id, was_lapsed) in [(&lapsed, true), (&created, false), (&child, false)] {
        let ended = ends(id).await;
        assert_eq!(ended.len(), 1);
        let event = &ended[0];
        assert_eq!((&event["code"], &event["reason"]), (&json!("0x3004"), &json!("delegation_expired")));
        assert_eq!(
            (&event["actor"]["type"], &event["detail"]["lapsed"]),
            (&json!("server"), &json!(was_lapsed))
        );
        assert_eq!(event["subject"], json!({"iss": IDP, "sub": "bob"}));
        assert_eq!(event["delegation_path"], world.shown(id).await["path"]);
    }
    // Alice's declared delegations have expired as well: D at 3600, E at 600, F at 300.
    assert_eq!(here + there, 2 + 3);
    assert_eq!(ends(&used).await.len(), 1, "its last use was its end");
    assert_eq!((ends(&revoked).await.len(), ends(&renewed).await.len()), (0, 0));
    assert_eq!(world.state(&renewed).await, "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transition_is_an_event_with_its_code_its_path_and_its_actor() {
    let world = World::new().await;
    let id = world.asked("bob", json!({"max_uses": 5, "reason": "to help"})).await;
    world.moves("bob", &id, "approve", json!({"scopes": ["mail.read"]})).await.with_status(200);
    let child = world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({})).await.id();
    world.moves("bob", &id, "renew", json!({"expires_in": 7200})).await.with_status(200);
    let path = format!("/delegate/{child}/steps");
    world.as_agent(&world.email_svc, "POST", &path, steps(2)).await.with_status(200);
    world
        .as_admin("POST", &format!("/delegate/{child}/revoke"), json!({"reason": "odd"}))
        .await
        .with_status(200);
    world.moves("bob", &id, "revoke", json!({"reason": "enough"})).await.with_status(200);
    let (events, below) = (world.events_about(&id).await, world.events_about(&child).await);
    let user = json!({"type": "user", "iss": IDP, "sub": "bob"});
    let agent = |agent: &crate::support::agent::Agent| json!({"type": "client", "client_id": agent.id, "jkt": agent.jkt()});
    let (proxy, mail) = (agent(&world.user_proxy), agent(&world.email_svc));
    let expected = [
        ("delegation.created", json!("0x3001"), &proxy),
        ("delegation.activated", json!("0x3002"), &user),
        ("delegation.renewed", json!(null), &user),
        ("delegation.revoked", json!("0x3003"), &user),
    ];
    assert_eq!(events.len(), expected.len());
    for (event, (action, code, actor)) in events.iter().zip(&expected) {
        assert_eq!((&event["action"], &event["code"], &event["actor"]), (&json!(action), code, *actor));
        assert_eq!(
            (&event["outcome"], &event["delegation_path"]),
            (&json!("success"), &json!([id])),
            "{event}"
        );
        assert_eq!(event["subject"], json!({"iss": IDP, "sub": "bob"}));
        assert!(event["request_id"].is_string() && event["ip"].is_string(), "{event}");
    }
    assert_eq!(events[0]["texts"]["reason"], "to help");
    let shown = world.shown(&id).await;
    for name in [
        "delegator",
        "delegate",
        "scopes",
        "audiences",
        "authorization_details",
        "capability_ceiling",
        "ceremony_required_for",
        "max_uses",
        "max_depth",
    ] {
        assert_eq!(
            events[1]["detail"]["terms"].get(name),
            Some(&shown[name]),
            "what was granted is in the log: {name}"
        );
        assert_eq!(below[1]["detail"]["terms"].get(name), world.shown(&child).await.get(name), "{name}");
    }
    assert_eq!(events[1]["detail"]["terms"]["expires_at"], events[2]["detail"]["from"]);
    assert_eq!(events[1]["detail"]["terms"]["scopes"], json!(["mail.read"]));
    assert_eq!(events[2]["detail"]["to"], instant(START + 7200));
    assert_eq!(events[3]["texts"]["reason"], "enough");
    let admin = agent(&world.admin);
    let expected = [
        ("delegation.created", &proxy),
        ("delegation.activated", &proxy),
        ("delegation.step", &mail),
        ("delegation.step", &mail),
        ("delegation.revoked", &admin),
    ];
    assert_eq!(below.len(), expected.len());
    for (event, (action, actor)) in below.iter().zip(expected) {
        assert_eq!((&event["action"], &event["actor"]), (&json!(action), actor));
        assert_eq!(event["delegation_path"], json!([id, child]), "{event}");
        let chain: Vec<_> = event["act_chain"].as_array().unwrap().iter().map(|link| &link["sub"]).collect();
        assert_eq!(chain, ["user-proxy", "email-svc"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_moves_are_events_that_lead_to_the_delegation() {
    let world = World::new().await;
    let id = world.asked("bob", limited()).await;
    let child_of = world.granted("bob", json!({"scopes": ["mail.read"]})).await.id();
    world.moves("bob", &id, "approve", json!({"max_uses": 6})).await.assert_too_wide("max_uses");
    world
        .moves("bob", &id, "renew", json!({"expires_in": 9000}))
        .await
        .assert_conflict("invalid_state_transition", "requested");
    let wider =
        world.passed_on(&world.user_proxy, (&child_of, "email-svc"), json!({"scopes": ["both"]})).await;
    wider.assert_too_wide("scopes");
    let mut refused = world.server.events().await;
    refused.retain(|event| event["outcome"] == "refused");
    let expected = [
        (
            &id,
            "delegation.approval_refused",
            "exceeds_parent",
            json!({"type": "user", "iss": IDP, "sub": "bob"}),
        ),
        (
            &id,
            "delegation.renewal_refused",
            "invalid_state_transition",
            json!({"type": "user", "iss": IDP, "sub": "bob"}),
        ),
        (
            &child_of,
            "delegation.creation_refused",
            "exceeds_parent",
            json!({"type": "client", "client_id": "user-proxy", "jkt": world.user_proxy.jkt()}),
        ),
    ];
    assert_eq!(refused.len(), expected.len());
    for (event, (id, action, reason, actor)) in refused.iter().zip(expected) {
        assert_eq!((&event["outcome"], &event["reason"]), (&json!("refused"), &json!(reason)));
        assert_eq!((&event["actor"], &event["action"]), (&actor, &json!(action)));
        assert_eq!(event["delegation_id"], **id, "{event}");
        assert_eq!(event["delegation_path"], json!([id]), "{event}");
        assert_eq!(event["code"], json!(null));
    }
    // For a delegation of another user, the log says what was tried, and no more than the response.
    world.moves("alice", &id, "revoke", json!({})).await.assert_problem(404, "not_found");
    let last = world.server.last_event().await;
    assert_eq!(
        (&last["action"], &last["reason"]),
        (&json!("delegation.revocation_refused"), &json!("not_found"))
    );
    assert_eq!(last["actor"]["sub"], "alice");
    assert_eq!(last["target"], json!(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_events_never_contain_tokens_or_keys() {
    let world = World::new().await;
    let mut secret: BTreeSet<String> = BTreeSet::new();
    let user = world.token_of("bob");
    let management_token = world.management_token(&world.user_proxy).await;
    let id = world.asked("bob", json!({"max_uses": 3})).await;
    // Arbitrary text in the place of an id.
    for text in [&user, &management_token] {
        for name in ["approve", "deny", "revoke"] {
            let answer = post(&world.server, text, name, json!({})).user(&user).send().await;
            answer.assert_problem(404, "not_found");
        }
        let body = json!({"parent": text, "delegate": "email-svc"});
        let answer = Api::post(&world.server, "/delegate", body)
            .client(&world.user_proxy, &management_token)
            .send()
            .await;
        answer.assert_problem(404, "not_found");
    }
    world.moves("bob", &id, "approve", json!({})).await.with_status(200);
    let token = world.first_hop_of("bob").send().await.with_status(200).token().to_owned();
    let key = crate::support::agent::Agent::new("any", crate::support::agent::Auth::None).key;
    let body = json!({"ephemeral": {"jwk": key.public_jwk(), "task_id": "t-1"}});
    world.as_user("bob", "POST", "/delegate", body).await.with_status(201);
    world.moves("bob", &id, "revoke", json!({})).await.with_status(200);
    for token in [&user, &management_token, &token] {
        secret.insert(token.clone());
        // Neither complete nor in part.
        secret.extend(token.split('.').map(str::to_owned));
    }
    for key in [&key, &world.user_proxy.key, &world.admin.key, &world.idp] {
        let jwk = key.public_jwk();
        secret.extend(["x", "y"].map(|name| jwk[name].as_str().unwrap().to_owned()));
    }
    secret.insert("email-svc-secret-0123456789".into());
    let mut sql = world.server.sql().await;
    let documents: Vec<String> =
        sqlx::query_scalar("SELECT document FROM audit_event").fetch_all(&mut sql).await.unwrap();
    assert!(documents.len() > 10);
    for (document, secret) in
        documents.iter().flat_map(|document| secret.iter().map(move |one| (document, one)))
    {
        assert!(!document.contains(secret.as_str()), "{secret} in {document}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_of_one_server_applies_at_the_other_from_the_next_request_on() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let exchange = async || {
        let user = world.token_of("bob");
        world.user_proxy.exchange(&twin, &user, JWT).param("audience", MAIL).send().await
    };
    let decide = async |id: &str, name: &str, body: Value| {
        post(&world.server, id, name, body).user(&world.token_of("bob")).send().await.with_status(200)
    };
    exchange().await.assert_refused(400, "invalid_request", "delegation_required");
    let id = world.asked("bob", json!({"expires_in": 60})).await;
    exchange().await.assert_refused(400, "invalid_request", "delegation_requested");
    decide(&id, "approve", json!({})).await;
    exchange().await.with_status(200);
    decide(&id, "renew", json!({"expires_in": 600})).await;
    world.server.pass(60);
    let token = exchange().await.with_status(200);
    assert_eq!(token.json["expires_in"], 540, "the later end is the one that counts");
    decide(&id, "revoke", json!({})).await;
    exchange().await.assert_refused(400, "invalid_request", "delegation_revoked");
    // A second delegation is found at once, too.
    world.granted("bob", json!({"scopes": ["mail.read"]})).await.with_status(201);
    assert_eq!(exchange().await.with_status(200).json["scope"], "mail.read");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_delegations_the_one_that_gives_what_is_asked_for_is_used() {
    let world = World::new().await;
    let mut ended = Vec::new();
    for _ in 0..20 {
        ended.push(world.granted("bob", json!({"expires_in": 7200})).await.id());
    }
    for id in &ended {
        world.moves("bob", id, "revoke", json!({})).await.with_status(200);
    }
    for _ in 0..3 {
        world.asked("bob", json!({})).await;
    }
    let all = world.granted("bob", json!({"expires_in": 3000})).await.id();
    let read = world.granted("bob", json!({"scopes": ["mail.read"], "expires_in": 1000})).await.id();
    let send = world.granted("bob", json!({"scopes": ["mail.send"], "expires_in": 900})).await.id();
    let exchange = async |scope: &str| world.first_hop_of("bob").param("scope", scope).send().await;
    let first = exchange("mail.read mail.send").await.with_status(200);
    assert_eq!(first.claims()["dlg"], json!(all), "the others give less");
    world.moves("bob", &all, "revoke", json!({})).await.with_status(200);
    assert_eq!(exchange("mail.read").await.with_status(200).claims()["dlg"], json!(read));
    assert_eq!(exchange("mail.send").await.with_status(200).claims()["dlg"], json!(send));
    let both = exchange("mail.read mail.send").await;
    assert_eq!(both.status, 400, "no two of them are added up: {}", both.text);
}

// RFC 8693 §4.4
#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_that_a_may_act_claim_makes_and_its_children_live_at_most_the_configured_maximum() {
    let world = World::configured("[delegations]\ndefault_ttl = 100\nmax_ttl = 200").await;
    let issuer = &world.server.app.issuer;
    let carol = world.user_token_with(|claims| {
        (claims["sub"], claims["exp"]) = (json!("carol"), json!(START + 3000));
        claims["may_act"] = json!({"iss": issuer, "sub": "user-proxy"});
    });
    let exchange =
        async || world.user_proxy.exchange(&world.server, &carol, JWT).param("audience", MAIL).send().await;
    let id = exchange().await.with_status(200).claims()["dlg"].as_str().unwrap().to_owned();
    assert_eq!(world.shown(&id).await["expires_at"], json!(instant(START + 200)));
    world.server.pass(50);
    let child = world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({})).await.with_status(201);
    assert_eq!(child.json["expires_at"], json!(instant(START + 200)));
    // The configured maximum is lower now.
    let stricter = world.server.twin_configured("[delegations]\ndefault_ttl = 60\nmax_ttl = 60").await;
    let token = world.management_token(&world.user_proxy).await;
    let body = json!({"parent": id, "delegate": "stranger"});
    let child = Api::post(&stricter, "/delegate", body).client(&world.user_proxy, &token).send().await;
    assert_eq!(child.with_status(201).json["expires_at"], json!(instant(START + 110)));
    world.server.pass(151);
    exchange().await.assert_refused(400, "invalid_request", "delegation_expired");
}

// RFC 8693 §4.4
#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_of_a_may_act_claim_that_ended_before_its_token_is_not_made_again() {
    let world = World::configured("[delegations]\ndefault_ttl = 100\nmax_ttl = 200").await;
    let token = |sub: &str| {
        world.user_token_with(|claims| {
            (claims["sub"], claims["exp"]) = (json!(sub), json!(START + 3000));
            claims["may_act"] = json!({"iss": world.server.app.issuer, "sub": "user-proxy"});
        })
    };
    let (carol, dave) = (token("carol"), token("dave"));
    let exchange = async |token: &str| {
        world.user_proxy.exchange(&world.server, token, JWT).param("audience", MAIL).send().await
    };
    let id = async |token: &str| exchange(token).await.with_status(200).claims()["dlg"].clone();
    let (expired, revoked) = (id(&carol).await, id(&dave).await);
    world.server.revoke(revoked.as_str().unwrap()).await;
    world.server.pass(2_000);
    let now = world.server.clock.now();
    expiry::run_once(&world.server.app, now).await.unwrap();
    sweep::run_once(&world.server.app, now).await.unwrap();
    exchange(&carol).await.assert_refused(400, "invalid_request", "delegation_expired");
    exchange(&dave).await.assert_refused(400, "invalid_request", "delegation_revoked");
    // The rows are deleted after their tokens have expired.
    world.server.pass(1_100);
    sweep::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM delegation WHERE id IN ($1, $2)")
        .bind(expired.as_str())
        .bind(revoked.as_str())
        .fetch_one(&mut world.server.sql().await)
        .await
        .unwrap();
    assert_eq!(left, 0);
}
