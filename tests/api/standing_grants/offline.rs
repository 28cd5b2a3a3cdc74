//! Refresh tokens under standing grants: they wait with the grant, and end with a key that is not confirmed.

use serde_json::{Value, json};

use super::{GRANTS, changed, reading};
use crate::support::agent::{ACCESS_TOKEN, Agent, JWT};
use crate::support::ends::new_key;
use crate::support::offline::{refresh_token, refreshing};
use crate::support::world::{MAIL, World};

/// A grant of Bob for `email-svc` with offline access and these keys.
async fn lasting(world: &World, keys: &[&str]) -> Value {
    let body = changed(reading(), |body| {
        body["client_id"] = json!("email-svc");
        body["keys"] = json!(keys);
        body["offline_access"] = json!(true);
        body["max_ttl"] = json!(86_400);
        body["expires_in"] = json!(43_200);
    });
    world.consented(body).await
}

async fn requested(world: &World, agent: &Agent) -> String {
    let asked = world.requested(agent, |body| {
        body["offline_access"] = json!(true);
        body["expires_in"] = json!(86_400);
    });
    asked.await.with_status(201).id()
}

/// The answer of an exchange of Bob's token.
async fn exchanged(world: &World, agent: &Agent) -> crate::support::Answer {
    agent
        .exchange(&world.server, &world.token_of("bob"), JWT)
        .param("audience", MAIL)
        .send()
        .await
        .with_status(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_tokens_wait_with_the_grant_and_end_with_a_key_that_is_not_confirmed() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let stolen = world.email_svc.clone();
    let fresh = Agent { key: new_key(), ..stolen.clone() };
    let grant = lasting(&world, &[stolen.jkt(), fresh.jkt()]).await;
    let delegation = requested(&world, &stolen).await;
    let below = world.passed_on(&stolen, (&delegation, "user-proxy"), json!({"offline_access": true})).await;
    below.with_status(201);
    let (of_stolen, of_fresh) = (exchanged(&world, &stolen).await, exchanged(&world, &fresh).await);
    let next = async |first: &str| {
        let hop = world.user_proxy.exchange(&world.server, first, ACCESS_TOKEN).send().await.with_status(200);
        refresh_token(&hop)
    };
    let (after_stolen, after_fresh) = (next(of_stolen.token()).await, next(of_fresh.token()).await);
    let refresh_tokens = [
        (&stolen, refresh_token(&of_stolen)),
        (&world.user_proxy, after_stolen),
        (&fresh, refresh_token(&of_fresh)),
        (&world.user_proxy, after_fresh),
    ];
    for (agent, token) in &refresh_tokens {
        refreshing(agent, &world.server, token).send().await.with_status(200);
    }
    // A third key suspends; nothing is refreshed at any server.
    world.management_token(&Agent { key: new_key(), ..stolen.clone() }).await;
    for (agent, token) in &refresh_tokens {
        for server in [&world.server, &twin] {
            let refused = refreshing(agent, server, token).send().await;
            refused.assert_refused(400, "invalid_request", "delegation_requested");
        }
    }
    // The tokens of the exchanges are over and their rows purged, before the user confirms one key alone.
    world.server.pass(7_200);
    sqlx::query("DELETE FROM issued_token WHERE status_index >= 0")
        .execute(&mut world.server.sql().await)
        .await
        .unwrap();
    let alone = json!({"keys": [fresh.jkt()], "replaces": grant["keys"]});
    world.on_grant(&grant["id"], "revalidate", alone).await.with_status(200);
    // Last the key that is not confirmed: it suspends once more.
    for (index, (agent, token)) in refresh_tokens.iter().enumerate().rev() {
        for server in [&world.server, &twin] {
            let answer = refreshing(agent, server, token).send().await;
            match index {
                0 | 1 => answer.assert_refused(400, "invalid_grant", "token_revoked"),
                _ => drop(answer.with_status(200)),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_under_a_key_that_is_not_pinned_suspends() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let grant = lasting(&world, &[world.email_svc.jkt()]).await;
    requested(&world, &world.email_svc).await;
    let token = refresh_token(&exchanged(&world, &world.email_svc).await);
    let thief = Agent { key: new_key(), ..world.email_svc.clone() };
    refreshing(&thief, &twin, &token).send().await.assert_refused(
        400,
        "invalid_grant",
        "refresh_token_invalid",
    );
    let shown = world.grant(&grant["id"]).await;
    assert_eq!(
        (&shown["state"], &shown["suspension"]["seen_key"]),
        (&json!("suspended"), &json!(thief.jkt()))
    );
    let own = refreshing(&world.email_svc, &world.server, &token).send().await;
    own.assert_refused(400, "invalid_request", "delegation_requested");
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_tokens_end_with_the_grant() {
    for end in ["revoked", "expired"] {
        let world = World::new().await;
        let grant = lasting(&world, &[world.email_svc.jkt()]).await;
        requested(&world, &world.email_svc).await;
        let token = refresh_token(&exchanged(&world, &world.email_svc).await);
        let refresh = || refreshing(&world.email_svc, &world.server, &token);
        let active = refresh().send().await.with_status(200);
        assert!(world.is_active(active.token()).await);
        match end {
            "revoked" => drop(world.on_grant(&grant["id"], "revoke", json!({})).await.with_status(200)),
            _ => world.server.pass(43_200),
        }
        let answer = refresh().send().await;
        answer.assert_refused(400, "invalid_grant", &format!("delegation_{end}"));
        assert!(!world.is_active(active.token()).await, "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_active_after_a_revocation_among_refreshes_at_two_servers() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let grant = lasting(&world, &[world.email_svc.jkt()]).await;
    requested(&world, &world.email_svc).await;
    let token = refresh_token(&exchanged(&world, &world.email_svc).await);
    let refreshes = (0..60).map(|number| {
        let server = if number % 2 == 0 { &world.server } else { &twin };
        refreshing(&world.email_svc, server, &token).send()
    });
    let path = format!("{GRANTS}/{}/revoke", grant["id"].as_str().unwrap());
    let revocation = world.as_user("bob", "POST", &path, json!({}));
    let (answers, revoked) = futures_util::join!(futures_util::future::join_all(refreshes), revocation);
    revoked.with_status(200);
    for answer in answers.iter().filter(|answer| answer.status == 200) {
        assert!(!world.is_active(answer.token()).await);
        assert_eq!(world.status_of(answer.token()).await, 1);
    }
    for server in [&world.server, &twin] {
        let refused = refreshing(&world.email_svc, server, &token).send().await;
        refused.assert_refused(400, "invalid_grant", "delegation_revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_use_and_each_refusal_under_a_grant_is_an_event_with_its_id() {
    let world = World::new().await;
    let grant = lasting(&world, &[world.email_svc.jkt()]).await;
    requested(&world, &world.email_svc).await;
    let first = exchanged(&world, &world.email_svc).await;
    let token = refresh_token(&first);
    let refresh = || refreshing(&world.email_svc, &world.server, &token);
    refresh().send().await.with_status(200);
    world.on_grant(&grant["id"], "revoke", json!({})).await.with_status(200);
    refresh().send().await.assert_refused(400, "invalid_grant", "delegation_revoked");
    let events = world.grant_events(&grant["id"]).await;
    let mut actions = super::actions(&events);
    actions.sort_unstable();
    let expected = [
        "delegation.activated",
        "delegation.created",
        "oauth.token.exchanged",
        "oauth.token.refreshed",
        "oauth.token.refused",
        "standing_grant.created",
        "standing_grant.revoked",
        "standing_grant.used",
    ];
    assert_eq!(actions, expected, "{events:?}");
}
