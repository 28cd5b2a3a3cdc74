//! What ends a refresh token and all that was made with it: RFC 7009, the delegation, the client, the key, idleness, a
//! restored backup. Each on two servers, without waiting for a job.

use actchain::domain::principal::Principal;
use actchain::services::erasure::{ErasureOutcome, erase};
use actchain::services::principals;
use actchain::services::restored::{ReviewScope, review_restored};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::agent::ACCESS_TOKEN;
use crate::support::ends::Outage;
use crate::support::offline::{Night, refresh_token, refreshing};
use crate::support::world::{IDP, MAIL};

/// Asserts that a refresh token gives nothing at both servers.
async fn assert_refused(night: &Night, token: &str, error: &str, reason: &str) {
    let twin = night.world.server.twin().await;
    for server in [&night.world.server, &twin] {
        let answer = refreshing(&night.world.user_proxy, server, token).send().await;
        answer.assert_refused(400, error, reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_refresh_token_ends_all_that_came_of_it_at_once() {
    let night = Night::new().await;
    let world = &night.world;
    let exchanged = night.first().await;
    let token = refresh_token(&exchanged);
    let refreshed = night.refresh(&token).param("audience", MAIL).send().await.with_status(200);
    let own = world.hop(&world.user_proxy, refreshed.token()).await.with_status(200);
    let next = world.hop(&world.email_svc, refreshed.token()).await.with_status(200);
    let below = refresh_token(&next);
    let last = refreshing(&world.email_svc, &world.server, &below).send().await.with_status(200);
    let revoke = world.user_proxy.at(&world.server, "/oauth/revoke").param("token_type_hint", "access_token");
    let answer = revoke.param("token", &token).send().await;
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (200, ""),
        "a wrong hint does not matter (RFC 7009 §2.1)"
    );
    for (what, one) in
        [("refreshed", &refreshed), ("own", &own), ("next hop", &next), ("refreshed next hop", &last)]
    {
        assert!(!world.is_active(one.token()).await, "{what}");
        assert_eq!(world.status_of(one.token()).await, 1, "{what}");
    }
    assert!(world.is_active(exchanged.token()).await, "the token of the exchange did not come of it");
    assert_refused(&night, &token, "invalid_grant", "token_revoked").await;
    let answer = refreshing(&world.email_svc, &world.server, &below).send().await;
    answer.assert_refused(400, "invalid_grant", "token_revoked");
    let events = world.server.events().await;
    let revoked: Vec<&Value> =
        events.iter().filter(|event| event["action"] == "oauth.token.revoked").collect();
    let [event] = revoked[..] else { panic!("{revoked:?}") };
    assert_eq!(event["delegation_path"], json!([night.root]));
    assert_eq!((&event["subject"]["sub"], &event["txn"]), (&json!("bob"), &exchanged.claims()["txn"]));
    let again = world.server.revoke_token(&world.user_proxy, &token).await;
    assert_eq!((again.status, world.server.events().await.len()), (200, events.len()), "revoked already");
    // The next exchange gives another one.
    let new = night.token().await;
    assert_ne!(new, token);
    assert_eq!(night.outcome(&new).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_client_revokes_and_introspects_a_refresh_token() {
    let night = Night::new().await;
    let world = &night.world;
    let token = night.token().await;
    let refused = world.server.revoke_token(&world.email_svc, &token).await;
    refused.assert_refused(400, "invalid_grant", "token_of_another_client");
    assert_eq!(world.server.last_event().await["action"], "oauth.token.revocation_refused");
    let inactive = json!({"active": false});
    for other in [&world.email_svc, &world.mail_server, &world.admin] {
        assert_eq!(world.introspect(other, &token).await.with_status(200).json, inactive);
    }
    let own = world.introspect(&world.user_proxy, &token).await.with_status(200).json;
    assert_eq!(
        (&own["active"], &own["client_id"], &own["sub"]),
        (&json!(true), &json!("user-proxy"), &json!("bob"))
    );
    assert_eq!(own["cnf"]["jkt"], world.user_proxy.jkt());
    assert_eq!(own["delegation"], json!({"id": night.root, "state": "active", "path": [night.root]}));
    assert_eq!(own["exp"].as_i64().unwrap() - world.server.now(), 30 * 86_400, "without a use until then");
    assert_eq!(own["scope"], "both calendar.read mail.read mail.send");
    let unknown = format!("rt_{}", "A".repeat(43));
    assert_eq!(world.introspect(&world.user_proxy, &unknown).await.json, inactive);
    world.server.revoke_token(&world.user_proxy, &token).await.with_status(200);
    assert_eq!(world.introspect(&world.user_proxy, &token).await.json, inactive);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_the_token_from_which_it_came_ends_a_refresh_token() {
    let night = Night::new().await;
    let world = &night.world;
    let first = night.first().await;
    let second =
        world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    let token = refresh_token(&second);
    world.server.revoke_token(&world.user_proxy, first.token()).await.with_status(200);
    // Also after the row of the revoked token is purged.
    let purge = "DELETE FROM issued_token WHERE status_index >= 0";
    sqlx::query(purge).execute(&mut world.server.sql().await).await.unwrap();
    let answer = refreshing(&world.email_svc, &world.server, &token).send().await;
    answer.assert_refused(400, "invalid_grant", "token_revoked");
    // The refresh token of the first hop did not come of that token.
    assert_eq!(night.outcome(&refresh_token(&first)).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_ends_with_its_delegation_and_with_every_ancestor() {
    let night = Night::new().await;
    let world = &night.world;
    let second = night.second().await;
    let token = refresh_token(&second);
    let refreshed = refreshing(&world.email_svc, &world.server, &token).send().await.with_status(200);
    world.server.revoke(&night.root).await;
    assert!(!world.is_active(refreshed.token()).await);
    let twin = world.server.twin().await;
    for server in [&world.server, &twin] {
        let answer = refreshing(&world.email_svc, server, &token).send().await;
        answer.assert_refused(400, "invalid_grant", "delegation_revoked");
        assert_eq!(server.introspect(&world.email_svc, &token).await.json, json!({"active": false}));
    }
    let event = world.server.last_event().await;
    assert_eq!(
        (&event["action"], &event["delegation_id"]),
        (&json!("oauth.token.refused"), &json!(night.child))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_valid_until_the_delegation_expires_and_longer_if_it_is_renewed() {
    let night = Night::with("", json!({"offline_access": true, "expires_in": 7_200})).await;
    let world = &night.world;
    let token = night.token().await;
    world.server.pass(7_100);
    let short = night.refresh(&token).param("audience", MAIL).send().await.with_status(200);
    assert_eq!(short.json["expires_in"], 100, "never longer than the delegation");
    let renewed = world.moves("bob", &night.root, "renew", json!({"expires_in": 7_200})).await;
    renewed.with_status(200);
    world.server.pass(7_100);
    assert_eq!(night.outcome(&token).await, "ok");
    world.server.pass(101);
    assert_refused(&night, &token, "invalid_grant", "delegation_expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_refresh_token_ends_and_each_use_extends_it() {
    let night = Night::configured("[offline]\nmax_idle = \"7d\"").await;
    let world = &night.world;
    let token = night.token().await;
    for _ in 0..3 {
        world.server.pass(7 * 86_400 - 1);
        assert_eq!(night.outcome(&token).await, "ok");
    }
    world.server.pass(7 * 86_400);
    assert_eq!(night.outcome(&token).await, "invalid_grant refresh_token_invalid");
    assert_eq!(world.server.last_event().await["detail"]["cause"], "idle");
    assert_eq!(world.introspect(&world.user_proxy, &token).await.json, json!({"active": false}));
    let new = night.token().await;
    assert_ne!(new, token, "an ended token does not come back");
    assert_eq!(night.outcome(&new).await, "ok");
    assert_eq!(night.outcome(&token).await, "invalid_grant refresh_token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_all_of_the_user_or_of_the_client_ends_it() {
    for (iss, sub) in [(Some(IDP), "bob"), (None, "user-proxy")] {
        let night = Night::new().await;
        let world = &night.world;
        let token = night.token().await;
        let refreshed = night.refresh(&token).param("audience", MAIL).send().await.with_status(200);
        let body = json!({"iss": iss.unwrap_or(&world.server.app.issuer), "sub": sub, "reason": "left"});
        world.as_admin("POST", "/api/v1/principals/revoke-all", body).await.with_status(200);
        assert!(!world.is_active(refreshed.token()).await, "{sub}");
        assert_refused(&night, &token, "invalid_grant", "principal_revoked").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_client_and_a_disabled_earlier_actor_are_refused_until_they_are_enabled() {
    let night = Night::new().await;
    let world = &night.world;
    let token = refresh_token(&night.second().await);
    // The tokens of the exchange are expired and purged.
    world.server.pass(86_400);
    sqlx::query("DELETE FROM issued_token WHERE status_index >= 0")
        .execute(&mut world.server.sql().await)
        .await
        .unwrap();
    let refreshed = refreshing(&world.email_svc, &world.server, &token).send().await.with_status(200);
    world.server.disable("user-proxy").await;
    assert!(!world.is_active(refreshed.token()).await, "an earlier actor is disabled");
    assert_eq!(world.status_of(refreshed.token()).await, 2);
    let answer = refreshing(&world.email_svc, &world.server, &token).send().await;
    answer.assert_refused(400, "invalid_request", "actor_disabled");
    world.server.enable("user-proxy").await;
    assert!(world.is_active(refreshed.token()).await);
    refreshing(&world.email_svc, &world.server, &token).send().await.with_status(200);
    world.server.disable("email-svc").await;
    let answer = refreshing(&world.email_svc, &world.server, &token).send().await;
    assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_of_the_client_or_of_an_earlier_actor_ends_it() {
    for (removed, holder) in [("user-proxy", "user-proxy"), ("user-proxy", "email-svc")] {
        let night = Night::new().await;
        let world = &night.world;
        let agent = if holder == "user-proxy" { &world.user_proxy } else { &world.email_svc };
        let answer = if holder == "user-proxy" { night.first().await } else { night.second().await };
        let token = refresh_token(&answer);
        world.server.pass(86_400);
        sqlx::query("DELETE FROM issued_token WHERE status_index >= 0")
            .execute(&mut world.server.sql().await)
            .await
            .unwrap();
        let refreshed =
            refreshing(agent, &world.server, &token).param("audience", MAIL).send().await.with_status(200);
        let key = principals::ClientKey { client_id: removed, jkt: world.user_proxy.jkt() };
        principals::remove_key(&world.server.operator(), key).await.unwrap();
        assert!(!world.is_active(refreshed.token()).await, "{holder}");
        assert_eq!(world.status_of(refreshed.token()).await, 1, "{holder}");
        if holder == "email-svc" {
            let answer = refreshing(agent, &world.server, &token).send().await;
            answer.assert_refused(400, "invalid_grant", "key_removed");
        } else {
            let answer = refreshing(agent, &world.server, &token).send().await;
            assert!(matches!(answer.status, 400 | 401), "{}", answer.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_restoration_of_a_backup_refresh_tokens_are_revoked() {
    let night = Night::new().await;
    let world = &night.world;
    let token = night.token().await;
    review_restored(&world.server.operator(), ReviewScope::All, None).await.unwrap();
    assert_refused(&night, &token, "invalid_grant", "token_revoked").await;
    let waiting = world.first_hop_of("bob").send().await;
    assert_eq!(waiting.reason(), "delegation_requested");
    world.as_admin("POST", &format!("/delegate/{}/approve", night.root), json!({})).await.with_status(200);
    assert_refused(&night, &token, "invalid_grant", "token_revoked").await;
    let new = night.token().await;
    assert_ne!(new, token);
    assert_eq!(night.outcome(&new).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshes_that_race_with_the_revocation_leave_no_active_token() {
    let night = Night::new().await;
    let world = &night.world;
    let twin = world.server.twin().await;
    let token = night.token().await;
    let refreshes = (0..20).map(|number| {
        let server = if number % 2 == 0 { &world.server } else { &twin };
        refreshing(&world.user_proxy, server, &token).param("audience", MAIL).send()
    });
    let (answers, revoked) = tokio::join!(join_all(refreshes), twin.revoke_token(&world.user_proxy, &token));
    revoked.with_status(200);
    for answer in answers {
        match answer.status {
            200 => assert!(!world.is_active(answer.token()).await),
            _ => answer.assert_refused(400, "invalid_grant", "token_revoked"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_nothing_is_refreshed_and_after_a_restart_all_works() {
    let night = Night::new().await;
    let world = &night.world;
    let token = night.token().await;
    let outage = Outage::of(&world.server).await;
    let answer = night.refresh(&token).send().await;
    assert_eq!((answer.status, answer.error()), (503, "temporarily_unavailable"));
    outage.end().await;
    let restarted = world.server.twin().await;
    refreshing(&world.user_proxy, &restarted, &token).send().await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_no_server_wrote_gives_nothing() {
    let night = Night::new().await;
    let world = &night.world;
    let token = night.token().await;
    let changes = [
        "UPDATE refresh_token SET jkt = 'k'",
        "UPDATE refresh_token SET client_id = 'email-svc'",
        "UPDATE refresh_token SET subject_sub = 'alice'",
        "UPDATE refresh_token SET granted = jsonb_set(granted, '{act,sub}', '\"other\"')",
        "UPDATE refresh_token SET delegation_id = 'D'",
        "UPDATE refresh_token SET txn = gen_random_uuid()",
    ];
    for change in changes {
        let mut sql = world.server.sql().await;
        sqlx::query("CREATE TABLE kept AS SELECT * FROM refresh_token").execute(&mut sql).await.unwrap();
        sqlx::query(change).execute(&mut sql).await.unwrap();
        let answer = night.refresh(&token).send().await;
        assert_eq!((answer.status, answer.error()), (503, "temporarily_unavailable"), "{change}");
        sqlx::raw_sql(
            "DELETE FROM refresh_token; INSERT INTO refresh_token SELECT * FROM kept; DROP TABLE kept",
        )
        .execute(&mut sql)
        .await
        .unwrap();
    }
    assert_eq!(night.outcome(&token).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_refresh_tokens_are_purged_with_their_rows() {
    let night = Night::with("", json!({"offline_access": true, "expires_in": 7_200})).await;
    let world = &night.world;
    let token = refresh_token(&night.second().await);
    refreshing(&world.email_svc, &world.server, &token).send().await.with_status(200);
    let count = async || {
        let counts = "SELECT (SELECT count(*) FROM refresh_token), (SELECT count(*) FROM issued_token WHERE status_index < 0)";
        let (tokens, rows): (i64, i64) =
            sqlx::query_as(counts).fetch_one(&mut world.server.sql().await).await.unwrap();
        (tokens, rows)
    };
    // Two refresh tokens and one earlier actor.
    assert_eq!(count().await, (2, 3));
    actchain::jobs::sweep::run_once(&world.server.app, world.server.app.clock.now()).await.unwrap();
    assert_eq!(count().await, (2, 3));
    world.server.pass(2 * 86_400);
    actchain::jobs::sweep::run_once(&world.server.app, world.server.app.clock.now()).await.unwrap();
    assert_eq!(count().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_leaves_no_refresh_token() {
    let night = Night::new().await;
    let world = &night.world;
    let token = night.token().await;
    let bob = Principal::new(IDP, "bob");
    assert!(matches!(erase(&world.server.operator(), &bob).await.unwrap(), ErasureOutcome::InUse(_)));
    world.server.revoke(&night.root).await;
    // The token of the exchange expires.
    world.server.pass(86_400);
    assert!(matches!(erase(&world.server.operator(), &bob).await.unwrap(), ErasureOutcome::Erased(_)));
    let counts = "SELECT (SELECT count(*) FROM refresh_token) + (SELECT count(*) FROM issued_token WHERE status_index < 0)";
    let left: i64 = sqlx::query_scalar(counts).fetch_one(&mut world.server.sql().await).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!(night.outcome(&token).await, "invalid_grant refresh_token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_shows_what_came_of_which_exchange() {
    let night = Night::new().await;
    let world = &night.world;
    let exchanged = night.first().await;
    let refreshed =
        night.refresh(&refresh_token(&exchanged)).param("audience", MAIL).send().await.with_status(200);
    let txn = refreshed.claims()["txn"].as_str().unwrap().to_owned();
    let chain = world
        .as_admin("GET", &format!("/api/v1/audit-logs/chains/{txn}"), Value::Null)
        .await
        .with_status(200);
    let hops = chain.json["hops"].as_array().unwrap();
    let of = |action: &str| hops.iter().find(|hop| hop["action"] == action).unwrap();
    assert_eq!(of("oauth.token.refreshed")["parent"], of("oauth.token.exchanged")["seq"], "{}", chain.text);
    assert_eq!(of("oauth.token.refreshed")["kind"], "exchange");
    let id = of("oauth.token.refreshed")["parent_jti"].as_str().unwrap();
    let found =
        world.as_admin("GET", &format!("/api/v1/audit-logs?jti={id}"), Value::Null).await.with_status(200);
    assert_eq!(found.json["items"].as_array().unwrap().len(), 2, "{}", found.text);
}

/// A refresh token that another has replaced is kept as long as a later hop's refresh token came of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_refresh_token_is_still_revoked_with_those_of_later_hops() {
    let night = Night::new().await;
    let (email_svc, server) = (&night.world.email_svc, &night.world.server);
    let replaced = night.token().await;
    let refreshed = night.refresh(&replaced).param("audience", MAIL).send().await.with_status(200);
    let hop = email_svc.exchange(server, refreshed.token(), ACCESS_TOKEN).send().await.with_status(200);
    let later = refresh_token(&hop);
    let refresh = || refreshing(email_svc, server, &later).send();
    server.pass(29 * 86_400);
    refresh().await.with_status(200);
    server.pass(2 * 86_400);
    assert_ne!(night.token().await, replaced, "it was not used for 31 days");
    server.pass(86_400);
    actchain::jobs::sweep::run_once(&server.app, server.app.clock.now()).await.unwrap();
    refresh().await.with_status(200);
    let revoked = night.world.user_proxy.at(server, "/oauth/revoke").param("token", &replaced);
    revoked.send().await.with_status(200);
    refresh().await.assert_refused(400, "invalid_grant", "token_revoked");
}
