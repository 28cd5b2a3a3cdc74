//! Which delegation an exchange uses: the delegation that the request names, or the narrowest delegation that allows
//! the exchange. Response, token and event name the delegation.

use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::life::{steps, with};
use crate::support::world::{CALENDAR, IDP, MAIL, World};

/// The delegation that response, token and event name; it must be the same in all three.
async fn rests_on(world: &World, answer: Answer) -> String {
    let answer = answer.with_status(200);
    let id = answer.json["delegation_id"].as_str().unwrap().to_owned();
    let claims = answer.claims();
    assert_eq!(claims["dlg"], json!(id), "{}", answer.text);
    let events = world.server.events().await;
    let event = events.iter().find(|event| event["jti"] == claims["jti"]).unwrap();
    assert_eq!(event["delegation_id"], json!(id));
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn many_unsuitable_delegations_do_not_hide_a_suitable_one() {
    let world = World::new().await;
    for _ in 0..17 {
        world.granted("bob", json!({"scopes": ["mail.read"], "expires_in": 3000})).await.with_status(201);
    }
    let wanted = world.granted("bob", json!({"scopes": ["mail.send"], "expires_in": 600})).await.id();
    let answer = world.first_hop_of("bob").param("scope", "mail.send").send().await;
    assert_eq!(rests_on(&world, answer).await, wanted);
    // Delegations that PostgreSQL cannot compare, or that need a confirmation, do not hide a suitable delegation.
    for n in 0..20 {
        let detail = json!([{"type": "mailbox", "actions": [format!("a{n}")]}]);
        world.granted("bob", json!({"authorization_details": detail})).await.with_status(201);
        let reserved = json!({"scopes": ["both"], "ceremony_required_for": ["both"]});
        world.granted("bob", reserved).await.with_status(201);
    }
    let detail = json!([{"type": "mailbox", "actions": ["read"]}]);
    let limits = json!({"authorization_details": detail, "expires_in": 1800, "max_uses": 1000});
    let wanted = world.granted("bob", limits).await.id();
    let request = world.first_hop_of("bob").param("authorization_details", &detail.to_string());
    assert_eq!(rests_on(&world, request.param("scope", "both").send().await).await, wanted);
    let free = world.granted("bob", json!({"scopes": ["mail.read", "mail.send", "both"]})).await.id();
    let answer = world.first_hop_of("bob").param("scope", "both").send().await;
    assert_eq!(rests_on(&world, answer).await, free);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_suitable_delegations_the_narrowest_is_used_in_each_dimension() {
    let world = World::new().await;
    // Each is narrower than all before it, in the order of the documentation.
    let narrower = [
        json!({"expires_in": 3000}),
        json!({"expires_in": 2000}),
        json!({"expires_in": 3000, "max_uses": 9}),
        json!({"expires_in": 3000, "max_uses": 8}),
        json!({"expires_in": 3000, "max_depth": 3}),
        json!({"expires_in": 3000, "max_depth": 2}),
        json!({"expires_in": 3000, "capability_ceiling": "admin"}),
        json!({"expires_in": 3000, "capability_ceiling": "mutate"}),
        json!({"expires_in": 3000, "authorization_details": [{"type": "mailbox"}]}),
        json!({"expires_in": 3000, "audiences": [MAIL, CALENDAR]}),
        json!({"expires_in": 3000, "audiences": [MAIL]}),
        json!({"expires_in": 3000, "scopes": ["mail.read", "mail.send", "both"]}),
        json!({"expires_in": 3000, "scopes": ["mail.read", "mail.send"]}),
        json!({"expires_in": 3000, "scopes": ["mail.read"], "audiences": [MAIL, CALENDAR]}),
        json!({"expires_in": 3000, "scopes": ["mail.read"], "audiences": [MAIL]}),
    ];
    for terms in narrower {
        let id = world.granted("bob", terms.clone()).await.with_status(201).id();
        let answer = world.first_hop_of("bob").param("scope", "mail.read").send().await;
        assert_eq!(rests_on(&world, answer).await, id, "{terms}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrower_delegation_is_used_at_once_on_every_server_and_its_revocation_revokes_its_tokens() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let hop = async |server| {
        let token = world.token_of("bob");
        world.user_proxy.exchange(server, &token, JWT).param("audience", MAIL).send().await
    };
    let wide = world.granted("bob", json!({"expires_in": 3000})).await.id();
    for server in [&world.server, &twin] {
        assert_eq!(rests_on(&world, hop(server).await).await, wide);
    }
    let narrow = world.granted("bob", json!({"scopes": ["mail.read"], "expires_in": 600})).await.id();
    for server in [&world.server, &twin] {
        assert_eq!(rests_on(&world, hop(server).await).await, narrow, "what a server remembers is old");
    }
    let revoked = world.moves("bob", &narrow, "revoke", json!({})).await.with_status(200);
    assert_eq!(revoked.json["affected"]["tokens"], 2);
    for server in [&world.server, &twin] {
        assert_eq!(rests_on(&world, hop(server).await).await, wide);
    }
    // The twin server also sees an approval and a renewal.
    let asked = world.asked("bob", json!({"scopes": ["mail.read"], "expires_in": 700})).await;
    assert_eq!(rests_on(&world, hop(&twin).await).await, wide, "nothing before it is approved");
    world.moves("bob", &asked, "approve", json!({})).await.with_status(200);
    assert_eq!(rests_on(&world, hop(&twin).await).await, asked);
    let other = world.granted("bob", json!({"scopes": ["mail.read"], "expires_in": 800})).await.id();
    assert_eq!(rests_on(&world, hop(&twin).await).await, asked);
    world.moves("bob", &asked, "renew", json!({"expires_in": 900})).await.with_status(200);
    assert_eq!(rests_on(&world, hop(&twin).await).await, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_can_name_the_delegation_that_it_uses() {
    let world = World::new().await;
    let narrow = world.granted("bob", json!({"scopes": ["mail.read"]})).await.id();
    let wide = world.granted("bob", json!({})).await.id();
    let named = |id: &str| world.first_hop_of("bob").param("delegation_id", id);
    let first = named(&wide).send().await;
    assert_eq!(rests_on(&world, named(&wide).send().await).await, wide);
    let wider = named(&narrow).param("scope", "mail.send").send().await;
    wider.assert_refused(400, "invalid_scope", "scope_exceeds_grant");
    // Below, and for the holder's own token.
    let below = world.passed_on(&world.user_proxy, (&wide, "email-svc"), json!({})).await.id();
    let narrower = json!({"scopes": ["mail.read"]});
    let other = world.passed_on(&world.user_proxy, (&wide, "email-svc"), narrower).await.id();
    let hop = |id: &str| {
        world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).param("delegation_id", id)
    };
    for id in [&below, &other] {
        assert_eq!(rests_on(&world, hop(id).send().await).await, *id);
    }
    let own = |id: &str| {
        world.user_proxy.exchange(&world.server, first.token(), ACCESS_TOKEN).param("delegation_id", id)
    };
    assert_eq!(rests_on(&world, own(&wide).send().await).await, wide);
    // A delegation that does not lead from the holder to the client is treated like an unknown delegation.
    let carols = world.granted("carol", json!({})).await.id();
    for request in [
        named(&carols),
        named("D"),
        named(&below),
        named("nothing"),
        hop(&wide),
        hop("E"),
        own(&narrow),
        own(&below),
    ] {
        request.send().await.assert_refused(400, "invalid_request", "delegation_required");
    }
    let malformed = named("a b").send().await;
    assert_eq!(malformed.json["error_description"], "delegation_id is not the id of a delegation");
    world.moves("bob", &wide, "revoke", json!({})).await.with_status(200);
    named(&wide).send().await.assert_refused(400, "invalid_request", "delegation_revoked");
    assert_eq!(
        rests_on(&world, named(&narrow).send().await).await,
        narrow,
        "another one is not in its place"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_may_act_claim_grants_nothing_to_a_request_that_names_a_delegation() {
    let world = World::new().await;
    let id = world.granted("carol", json!({"scopes": ["mail.read"]})).await.id();
    let token = world.user_token_with(|claims| {
        claims["sub"] = json!("carol");
        claims["scope"] = json!("mail.read mail.send");
        claims["may_act"] = json!({"iss": world.server.app.issuer, "sub": "user-proxy"});
    });
    let hop = || world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL);
    let by_claim = hop().param("scope", "mail.send").send().await;
    assert!(rests_on(&world, by_claim).await.starts_with("may-"));
    assert_eq!(rests_on(&world, hop().send().await).await, id, "a delegation comes before a claim");
    let named = hop().param("scope", "mail.send").param("delegation_id", &id).send().await;
    named.assert_refused(400, "invalid_scope", "scope_exceeds_grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_use_is_counted_with_and_without_a_limit_on_everything_above() {
    let world = World::new().await;
    let root = world.granted("bob", json!({})).await.id();
    let below = world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({"max_uses": 9})).await.id();
    let first = world.first_hop_of("bob").send().await.with_status(200);
    for _ in 0..2 {
        let hop = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
        assert_eq!(rests_on(&world, hop).await, below);
    }
    let path = format!("/delegate/{below}/steps");
    world.as_agent(&world.email_svc, "POST", &path, steps(4)).await.with_status(200);
    let uses = async |id: &str| {
        let shown = world.shown(id).await;
        (shown["uses"].clone(), shown["uses_left"].clone())
    };
    assert_eq!(uses(&root).await, (json!(7), json!(null)));
    assert_eq!(uses(&below).await, (json!(6), json!(3)));
    // A delegation from a `may_act` claim counts uses from the first use on.
    let token = world.user_token_with(|claims| {
        claims["sub"] = json!("dora");
        claims["scope"] = json!("mail.read");
        claims["may_act"] = json!({"iss": world.server.app.issuer, "sub": "user-proxy"});
    });
    let hop =
        async || world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await;
    let claimed = rests_on(&world, hop().await).await;
    assert_eq!(uses(&claimed).await, (json!(1), json!(null)));
    assert_eq!(rests_on(&world, hop().await).await, claimed);
    assert_eq!(uses(&claimed).await, (json!(2), json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_no_resource_declares_are_refused_with_a_pointer() {
    let world = World::new().await;
    let asked = world.asked("bob", json!({})).await;
    let details = json!([{"type": "mailbox"}, {"type": "mialbox"}]);
    for (limits, reason, pointer) in [
        (json!({"scopes": ["mail.send", "mail.raed"]}), "scope_unknown", "#/scopes/1"),
        (json!({"audiences": [MAIL, "https://mial.example.com"]}), "resource_unknown", "#/audiences/1"),
        (
            json!({"ceremony_required_for": ["admin", "mail.snd"]}),
            "scope_unknown",
            "#/ceremony_required_for/1",
        ),
        (
            json!({"authorization_details": details}),
            "authorization_details_type_unknown",
            "#/authorization_details/1/type",
        ),
    ] {
        world.granted("bob", limits.clone()).await.assert_undeclared(reason, pointer);
        let body = with(json!({"delegator": {"iss": IDP, "sub": "bob"}}), limits.clone());
        let by_agent = world.as_agent(&world.user_proxy, "POST", "/delegate", body).await;
        by_agent.assert_undeclared(reason, pointer);
        world.moves("bob", &asked, "approve", limits).await.assert_undeclared(reason, pointer);
    }
    assert_eq!(world.state(&asked).await, "requested");
    let known: Value =
        json!({"scopes": ["calendar.read", "mail.read"], "ceremony_required_for": ["admin", "both"]});
    world.granted("bob", known).await.with_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_whose_count_of_uses_is_missing_grants_nothing() {
    use sqlx::Executor as _;
    let world = World::new().await;
    assert_eq!(world.first_hop().await.status, 200);
    world.server.sql().await.execute("DELETE FROM delegation_usage WHERE delegation_id = 'D'").await.unwrap();
    let request = world.user_proxy.exchange(&world.server, &world.user_token(), crate::support::agent::JWT);
    let answer = request.param("audience", crate::support::world::MAIL).send().await;
    assert_eq!((answer.status, &answer.json["error"]), (503, &serde_json::json!("temporarily_unavailable")));
}
