//! Refresh tokens of agents (RFC 6749 §6, RFC 8693 §2.2.1, RFC 9449 §5): where they are issued, what they give, and to whom.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, Agent, JWT};
use crate::support::ends::new_key;
use crate::support::life::with;
use crate::support::offline::{Night, refresh_token, refreshing};
use crate::support::world::{CALENDAR, IDP, MAIL, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_under_offline_access_answers_a_refresh_token_and_no_other_exchange_does() {
    let night = Night::new().await;
    let world = &night.world;
    let first = night.first().await;
    let token = refresh_token(&first);
    assert_eq!(token.len(), 46, "256 bits as base64url, and a prefix");
    let own = world.hop(&world.user_proxy, first.token()).await.with_status(200);
    assert_eq!(own.json.get("refresh_token"), None, "the holder of a token has its refresh token");
    let alice = world.first_hop().await;
    assert_eq!(alice.json.get("refresh_token"), None, "no offline access");
    let claimed = world.user_token_with(|claims| {
        claims["sub"] = json!("carol");
        claims["may_act"] = json!({"sub": "user-proxy", "iss": world.server.app.issuer});
    });
    let claimed = world.hop_from_user(&world.user_proxy, &claimed).await.with_status(200);
    assert_eq!(claimed.json.get("refresh_token"), None, "a claim gives no offline access");
    let dump = world.server.dump().await;
    assert!(!dump.contains(&token[3..]), "the token is not stored");
    assert!(dump.contains("refresh_token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_the_grant_type_or_without_a_key_gets_no_refresh_token() {
    let night = Night::new().await;
    let world = &night.world;
    let stranger = json!({"delegate": "stranger", "offline_access": true});
    world.as_user("bob", "POST", "/delegate", stranger).await.with_status(201);
    let plain = world.hop_from_user(&world.stranger, &world.token_of("bob")).await.with_status(200);
    assert_eq!(plain.json.get("refresh_token"), None);
    let token = night.token().await;
    let refused = refreshing(&world.stranger, &world.server, &token).send().await;
    refused.assert_refused(400, "unauthorized_client", "grant_not_allowed");
    let yaml = format!(
        "clients:\n  - {{id: stranger, kind: agent, auth: client_secret_post, secret: stranger-secret-0123456789, \
         dpop: optional, scopes: [mail.read], audiences: [\"{MAIL}\"], grant_types: [token-exchange, refresh_token]}}"
    );
    world.server.apply(&yaml).await.unwrap();
    let bob = world.token_of("bob");
    let bearer = world
        .stranger
        .exchange(&world.server, &bob, JWT)
        .param("audience", MAIL)
        .without("dpop")
        .send()
        .await;
    assert_eq!(bearer.with_status(200).json.get("refresh_token"), None, "nothing binds it");
    let bound = world.hop_from_user(&world.stranger, &bob).await.with_status(200);
    let token = refresh_token(&bound);
    let unproven = refreshing(&world.stranger, &world.server, &token).without("dpop").send().await;
    unproven.assert_refused(400, "invalid_dpop_proof", "dpop_proof_missing");
    refreshing(&world.stranger, &world.server, &token).send().await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refreshed_token_has_the_subject_the_chain_and_the_session_and_is_counted_and_recorded() {
    let night = Night::new().await;
    let world = &night.world;
    let second = night.second().await;
    let token = refresh_token(&second);
    let before = world.shown(&night.root).await["uses"].clone();
    world.server.pass(86_400);
    let answer = refreshing(&world.email_svc, &world.server, &token).send().await.with_status(200);
    let members: BTreeSet<&str> = answer.json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        members,
        BTreeSet::from(["access_token", "delegation_id", "expires_in", "scope", "token_type"]),
        "RFC 6749 §5.1, and the refresh token is not rotated"
    );
    assert_eq!(
        (&answer.json["token_type"], answer.header("cache-control")),
        (&json!("DPoP"), Some("no-store"))
    );
    let (new, old) = (answer.claims(), second.claims());
    for claim in [
        "iss",
        "idp",
        "sub",
        "client_id",
        "aud",
        "scope",
        "act",
        "dlg",
        "txn",
        "sid",
        "cnf",
        "auth_time",
        "acr",
        "amr",
    ] {
        assert_eq!(new[claim], old[claim], "{claim}");
    }
    assert_eq!(new["sub"], "bob");
    assert_eq!(new["act"]["act"]["sub"], "user-proxy");
    assert_eq!(
        new["exp"].as_i64().unwrap() - world.server.now(),
        600,
        "the target's lifetime, without a subject token's"
    );
    assert!(world.is_active(answer.token()).await);
    let uses = world.shown(&night.root).await["uses"].clone();
    assert_eq!(uses.as_i64().unwrap(), before.as_i64().unwrap() + 1, "the ancestor counts, too");
    let events = world.server.events().await;
    let event = events.iter().rfind(|event| event["action"] == "oauth.token.refreshed").unwrap();
    assert_eq!(event["outcome"], "success");
    assert_eq!(event["subject"], json!({"iss": IDP, "sub": "bob"}));
    let chain: Vec<&Value> = event["act_chain"].as_array().unwrap().iter().map(|link| &link["sub"]).collect();
    assert_eq!(chain, ["user-proxy", "email-svc"]);
    assert_eq!(event["delegation_path"], json!([night.root, night.child]));
    for member in ["txn", "session_id", "delegation_id", "scope", "audience"] {
        let exchanged = events.iter().rfind(|event| event["action"] == "oauth.token.exchanged").unwrap();
        assert_eq!(event[member], exchanged[member], "{member}");
        assert_eq!(event["parent_jti"], exchanged["detail"]["refresh_token"]);
    }
    assert!(!event.to_string().contains(&token[3..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn next_hops_from_refreshed_tokens_work_as_from_any_token() {
    let night = Night::new().await;
    let world = &night.world;
    let refreshed = night.refresh(&night.token().await).param("audience", MAIL).send().await.with_status(200);
    let next = world.hop(&world.email_svc, refreshed.token()).await.with_status(200);
    assert_eq!(next.claims()["act"]["act"]["sub"], "user-proxy");
    assert_eq!(next.claims()["txn"], refreshed.claims()["txn"]);
    let below = refresh_token(&next);
    let again = refreshing(&world.email_svc, &world.server, &below).send().await.with_status(200);
    assert!(world.is_active(again.token()).await);
    let own = world.hop(&world.user_proxy, refreshed.token()).await.with_status(200);
    assert!(world.is_active(own.token()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_narrower_or_refused_and_never_wider() {
    let limits = json!({"scopes": ["mail.read", "mail.send"], "audiences": [MAIL], "offline_access": true});
    let night = Night::with("", limits).await;
    let world = &night.world;
    let token = night.token().await;
    let narrow = night.refresh(&token).param("scope", "mail.read").param("resource", MAIL).send().await;
    assert_eq!(narrow.with_status(200).json["scope"], "mail.read");
    let all = night.refresh(&token).send().await.with_status(200);
    assert_eq!(all.json["scope"], "mail.read mail.send", "the refresh token keeps the whole grant");
    let ask = async |name: &str, value: &str| night.refresh(&token).param(name, value).send().await;
    ask("scope", "both").await.assert_refused(400, "invalid_scope", "scope_exceeds_grant");
    ask("scope", "mail.read both").await.assert_refused(400, "invalid_scope", "scope_exceeds_grant");
    ask("scope", "a  b").await.assert_refused(400, "invalid_scope", "scope_malformed");
    ask("audience", "https://unknown.example.com").await.assert_refused(
        400,
        "invalid_target",
        "resource_refused",
    );
    ask("resource", "not a uri").await.assert_refused(400, "invalid_target", "resource_malformed");
    ask("capability_ceiling", "unknown").await.with_status(400);
    // What the subject token did not allow, the refresh token does not allow.
    let narrow = world.user_token_with(|claims| {
        claims["sub"] = json!("bob");
        claims["scope"] = json!("mail.read");
    });
    let narrow = refresh_token(&world.hop_from_user(&world.user_proxy, &narrow).await.with_status(200));
    assert_ne!(narrow, token);
    let wide = night.refresh(&narrow).param("scope", "mail.send").send().await;
    wide.assert_refused(400, "invalid_scope", "scope_exceeds_grant");
    night.refresh(&narrow).param("scope", "mail.read").send().await.with_status(200);
    // The registration of the client counts as it is now.
    let client = format!(
        "clients:\n  - {{id: user-proxy, kind: agent, name: User proxy, auth: private_key_jwt, jwks: {{keys: [{}]}}, \
         scopes: [mail.read], audiences: [\"{MAIL}\"], grant_types: [client_credentials, token-exchange, refresh_token]}}",
        world.user_proxy.key.public_jwk()
    );
    world.server.apply(&client).await.unwrap();
    assert_eq!(night.refresh(&token).send().await.with_status(200).json["scope"], "mail.read");
    let removed = night.refresh(&token).param("audience", CALENDAR).send().await;
    removed.assert_refused(400, "invalid_target", "resource_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refresh_token_exists_for_each_delegation_key_and_grant() {
    let night = Night::new().await;
    let world = &night.world;
    let token = night.token().await;
    let twin = world.server.twin().await;
    let bob = world.token_of("bob");
    let same = join_all((0..8).map(|number| {
        let server = if number % 2 == 0 { &world.server } else { &twin };
        world.user_proxy.exchange(server, &bob, JWT).param("audience", MAIL).send()
    }))
    .await;
    for answer in &same {
        assert_eq!(refresh_token(answer), token);
    }
    let count = async || -> i64 {
        let mut sql = world.server.sql().await;
        let counted = sqlx::query_scalar("SELECT count(*) FROM refresh_token WHERE ended_at IS NULL");
        counted.fetch_one(&mut sql).await.unwrap()
    };
    assert_eq!(count().await, 1);
    // Another grant has another refresh token; of too many, the one that was not used for the longest time ends.
    for number in 0..16 {
        world.server.pass(1);
        let narrow = world.user_token_with(|claims| {
            claims["sub"] = json!("bob");
            claims["scope"] = json!(format!("mail.read other-{number}"));
        });
        assert_ne!(refresh_token(&world.hop_from_user(&world.user_proxy, &narrow).await), token);
    }
    assert_eq!(count().await, 16);
    assert_eq!(night.outcome(&token).await, "invalid_grant refresh_token_invalid");
    assert_eq!(world.server.last_event().await["detail"]["cause"], "ended");
    let again = night.token().await;
    assert_ne!(again, token);
    assert_eq!(night.outcome(&again).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_of_use_only_to_its_client_under_its_key() {
    let night = Night::new().await;
    let world = &night.world;
    let token = night.token().await;
    let refused = |answer: &crate::support::Answer| {
        answer.assert_refused(400, "invalid_grant", "refresh_token_invalid");
        answer.text.clone()
    };
    let other = refused(&refreshing(&world.email_svc, &world.server, &token).send().await);
    let event = world.server.last_event().await;
    assert_eq!(
        (&event["action"], &event["detail"]["cause"]),
        (&json!("oauth.token.refused"), &json!("of_another_client"))
    );
    assert_eq!(event.get("subject"), None, "another client's attempt says nothing of the user");
    let key = new_key();
    let proof = Agent { key: key.clone(), ..world.user_proxy.clone() }.proof(&world.server);
    let thief = night.refresh(&token).set_header("dpop", proof);
    let thief = refused(&thief.send().await);
    let event = world.server.last_event().await;
    assert_eq!((&event["detail"]["cause"], &event["subject"]["sub"]), (&json!("other_key"), &json!("bob")));
    let unknown = refused(&night.refresh(&format!("rt_{}", "A".repeat(43))).send().await);
    assert_eq!(world.server.last_event().await["detail"]["cause"], "unknown");
    assert_eq!((&other, &thief), (&unknown, &unknown), "the answers do not differ");
    let unproven = night.refresh(&token).without("dpop").send().await;
    unproven.assert_refused(400, "invalid_dpop_proof", "dpop_proof_missing");
    let replayed = night.refresh(&token);
    let assertion = world.user_proxy.assertion(&world.server);
    replayed.clone().send().await.with_status(200);
    let replayed = replayed.set("client_assertion", &assertion).send().await;
    replayed.assert_refused(400, "invalid_dpop_proof", "dpop_proof_replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_with_what_is_wrong() {
    let night = Night::new().await;
    let token = night.token().await;
    let without = night.refresh(&token).without("refresh_token").send().await;
    without.assert_refused(400, "invalid_request", "");
    night.refresh("").send().await.assert_refused(400, "invalid_request", "");
    night.refresh(&token).param("refresh_token", &token).send().await.assert_refused(
        400,
        "invalid_request",
        "",
    );
    night
        .refresh(&token)
        .param("scope", "mail.read")
        .param("scope", "mail.read")
        .send()
        .await
        .with_status(400);
    for malformed in
        ["rt_", "x", "rt_é", &token[3..], &token[..45], &format!("{token}A"), &"a".repeat(30_000)]
    {
        let refused = night.refresh(malformed).send().await;
        refused.assert_refused(400, "invalid_grant", "refresh_token_invalid");
    }
    let access = night.first().await;
    let refused = night.refresh(access.token()).send().await;
    refused.assert_refused(400, "invalid_grant", "refresh_token_invalid");
    // A refresh token is no subject token.
    let kind = "urn:ietf:params:oauth:token-type:refresh_token";
    let subject = night.world.user_proxy.exchange(&night.world.server, &token, kind).send().await;
    subject.assert_refused(400, "invalid_request", "");
    let subject = night.world.user_proxy.exchange(&night.world.server, &token, ACCESS_TOKEN).send().await;
    assert_eq!((subject.status, subject.error()), (400, "invalid_request"));
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_by_refresh_tokens_are_exact_at_once_on_two_servers() {
    let night = Night::with("", json!({"offline_access": true, "max_uses": 6})).await;
    let world = &night.world;
    let token = night.token().await;
    let twin = world.server.twin().await;
    let answers = join_all((0..12).map(|number| {
        let server = if number % 2 == 0 { &world.server } else { &twin };
        refreshing(&world.user_proxy, server, &token).send()
    }))
    .await;
    let granted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(granted, 5, "one use was the exchange");
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.assert_refused(400, "invalid_grant", "command_limit");
    }
    assert_eq!(world.shown(&night.root).await["uses"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_needs_a_confirmation_needs_it_at_a_refresh() {
    let terms = json!({"offline_access": true, "ceremony_required_for": ["mail.send"]});
    let night = Night::with("", terms).await;
    let world = &night.world;
    let bob = world.token_of("bob");
    let exchange = world
        .user_proxy
        .exchange(&world.server, &bob, JWT)
        .param("audience", MAIL)
        .param("scope", "mail.read");
    let token = refresh_token(&exchange.send().await.with_status(200));
    let ask = || night.refresh(&token).param("audience", MAIL).param("scope", "mail.send");
    let asked = ask().send().await;
    asked.assert_refused(400, "insufficient_user_authentication", "ceremony_required");
    let path =
        format!("/delegate/{}/ceremonies/{}/approve", night.root, asked.json["ceremony"].as_str().unwrap());
    world.as_user("bob", "POST", &path, json!({})).await.with_status(200);
    ask().send().await.with_status(200);
    ask().send().await.assert_refused(400, "insufficient_user_authentication", "ceremony_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standing_grant_allows_offline_access_only_where_it_says_so() {
    let world = World::new().await;
    let limits = json!({
        "client_id": "user-proxy", "scopes": ["mail.read"], "audiences": [MAIL]
    });
    let asked = json!({
        "delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL], "offline_access": true
    });
    let ask = async || world.as_agent(&world.user_proxy, "POST", "/delegate", asked.clone()).await;
    let plain =
        world.as_user("bob", "POST", "/api/v1/standing-grants", limits.clone()).await.with_status(201);
    assert_eq!(plain.json["offline_access"], false);
    let waits = ask().await.with_status(202);
    assert_eq!(
        waits.json["standing_grant_exceeded"],
        json!({"standing_grant_id": plain.id(), "limit": "offline_access"})
    );
    let lasting = with(limits, json!({"offline_access": true}));
    let lasting = world.as_user("bob", "POST", "/api/v1/standing-grants", lasting).await.with_status(201);
    assert_eq!(lasting.json["offline_access"], true);
    let active = ask().await.with_status(201);
    assert_eq!(
        (&active.json["standing_grant_id"], &active.json["offline_access"]),
        (&json!(lasting.id()), &json!(true))
    );
    let token = refresh_token(&world.first_hop_of("bob").send().await.with_status(200));
    let refresh = || refreshing(&world.user_proxy, &world.server, &token);
    refresh().send().await.with_status(200);
    let path = format!("/api/v1/standing-grants/{}/revoke", lasting.id());
    world.as_user("bob", "POST", &path, json!({})).await.with_status(200);
    refresh().send().await.assert_refused(400, "invalid_grant", "delegation_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_access_is_asked_for_approved_and_inherited() {
    let world = World::new().await;
    let asked = world.asked("bob", json!({"offline_access": true})).await;
    assert_eq!(world.shown(&asked).await["offline_access"], true);
    let approved = world.moves("bob", &asked, "approve", json!({"offline_access": false})).await;
    assert_eq!(approved.with_status(200).json["offline_access"], false, "removed while approving");
    let answer = world.first_hop_of("bob").send().await.with_status(200);
    assert_eq!(answer.json.get("refresh_token"), None);
    let below =
        world.passed_on(&world.user_proxy, (&asked, "email-svc"), json!({"offline_access": true})).await;
    below.assert_too_wide("offline_access");
    let plain = world.asked("bob", json!({})).await;
    let wider = world.moves("bob", &plain, "approve", json!({"offline_access": true})).await;
    wider.assert_too_wide("offline_access");
    let kept = world.asked("bob", json!({"offline_access": true, "reason": "at night"})).await;
    let kept = world.moves("bob", &kept, "approve", json!({})).await.with_status(200);
    assert_eq!(kept.json["offline_access"], true);
    // A child has it only if it asks for it.
    let plain =
        world.passed_on(&world.user_proxy, (&kept.id(), "email-svc"), json!({})).await.with_status(201);
    assert_eq!(plain.json["offline_access"], false);
    for wrong in [json!("true"), json!(1), json!({})] {
        let body = with(json!({"delegator": {"iss": IDP, "sub": "bob"}}), json!({"offline_access": wrong}));
        world.as_agent(&world.user_proxy, "POST", "/delegate", body).await.with_status(400);
    }
    let created: Vec<Value> = world.events_about(&kept.id()).await;
    assert_eq!(created[0]["detail"]["terms"]["offline_access"], true, "{created:?}");
}
