//! Renewal of providers' access tokens before their expiry: once for concurrent requests, without losing a token.

use actchain_protocol::base64url;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::management::Api;
use crate::support::provider::{Asked, Behaviour, Provider, SECRET, Wrong};
use crate::support::vault::{VaultWorld, names};
use crate::support::vault_story::Story;

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_is_renewed_within_the_leeway_and_not_before() {
    let story = Story::new().await;
    assert_eq!(story.fetched().await, story.imported["access_token"]);
    story.pass(39);
    assert_eq!(story.fetched().await, story.imported["access_token"], "61 seconds are left");
    assert_eq!(story.provider.count(Asked::Refresh), 0);
    story.pass(1);
    let renewed = story.fetched().await;
    assert_eq!(Some(&renewed), story.provider.newest().as_ref());
    assert!(story.provider.honours(&renewed));
    assert_eq!(story.fetched().await, renewed);
    assert_eq!(story.provider.count(Asked::Refresh), 1);
    let shown = story.shown().await;
    assert_eq!((&shown["state"], shown["refreshed_at"].is_string()), (&json!("active"), true));
    let events = story.vault.vault_events().await;
    let refreshed = events.iter().find(|event| event["action"] == "vault.connection.refreshed").unwrap();
    assert_eq!((&refreshed["target"], &refreshed["actor"]["type"]), (&json!(story.id), &json!("server")));
    // The rotated refresh token was stored: the next renewal uses it.
    story.pass(3_600);
    assert_ne!(story.fetched().await, renewed);
    assert_eq!(story.provider.count(Asked::Refresh), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_at_the_moment_of_expiry_on_two_servers_make_one_refresh() {
    let story = Story::new().await;
    let (late, gate) = Wrong::held();
    story.provider.always(Asked::Refresh, late);
    let twin = story.vault.world.server.twin().await;
    story.pass(100);
    let token = story.token().await;
    let path = format!("/vault/connections/{}/token", story.id);
    let calls = (0..2_000).map(|n| {
        let server = if n % 2 == 0 { &story.vault.world.server } else { &twin };
        Api::post(server, &path, json!({})).client(&story.vault.world.email_svc, &token).send()
    });
    // The other requests come during the first refresh.
    let opening = async {
        story.provider.asked(Asked::Refresh, 1).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(join_all(calls), opening);
    let newest = story.provider.newest().unwrap();
    for answer in &answers {
        assert_eq!((answer.status, &answer.json["access_token"]), (200, &json!(newest)), "{}", answer.text);
    }
    assert_eq!((story.provider.count(Asked::Refresh), story.provider.busiest()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_unwell_condemns_nothing() {
    let ill = [
        Wrong::json(500, json!({"error": "server_error"})),
        Wrong::json(503, json!({"error": "invalid_grant"})),
        Wrong::json(429, json!({"error": "slow_down"})),
        Wrong::json(400, json!({"error": "temporarily_unavailable"})),
        Wrong::json(401, json!({"error": "invalid_client"})),
        Wrong::json(400, json!({"message": "no"})),
        Wrong::says(302, "text/plain", ""),
    ];
    for wrong in ill {
        let story = Story::new().await;
        story.provider.always(Asked::Refresh, wrong.clone());
        // The access token is valid for another 30 s and is returned.
        story.pass(70);
        assert_eq!(story.fetched().await, story.imported["access_token"], "{wrong:?}");
        story.pass(30);
        let token = story.token().await;
        let refused = story.vault.fetch(&token, &story.id).await;
        refused.assert_problem(503, "provider_unavailable");
        assert_eq!(story.shown().await["state"], "active", "{wrong:?}");
        story.provider.behaves();
        // No retry within one second.
        story.vault.world.server.app.vault.unwell.invalidate(&story.id);
        assert_eq!(story.fetched().await, story.provider.newest().unwrap(), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_provider_fails_once_is_repeated_at_once() {
    let story = Story::new().await;
    story.provider.once(Asked::Refresh, Wrong::json(502, json!({})));
    story.pass(100);
    assert_eq!(story.fetched().await, story.provider.newest().unwrap());
    assert_eq!(story.provider.count(Asked::Refresh), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_grant_was_revoked_needs_reconnect_until_it_gets_another_credential() {
    let story = Story::new().await;
    story.provider.end_everything();
    story.pass(50);
    let token = story.token().await;
    story.vault.fetch(&token, &story.id).await.assert_problem(409, "connection_needs_reconnect");
    assert_eq!(story.shown().await["state"], "needs_reconnect");
    story.vault.fetch(&token, &story.id).await.assert_problem(409, "connection_needs_reconnect");
    assert_eq!(story.provider.count(Asked::Refresh), 1, "it is not asked again");
    let events = story.vault.vault_events().await;
    let broken: Vec<&Value> =
        events.iter().filter(|event| event["action"] == "vault.connection.needs_reconnect").collect();
    assert_eq!((broken.len(), &broken[0]["detail"]["error"]), (1, &json!("invalid_grant")));
    let rotation = json!({"credential": story.provider.issued_tokens().await});
    let path = format!("/api/v1/connections/{}/rotate", story.id);
    assert_eq!(story.vault.world.as_alice("POST", &path, rotation.clone()).await.json["state"], "active");
    assert_eq!(story.fetched().await, rotation["credential"]["access_token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_refresh_token_an_access_token_is_answered_until_it_expires() {
    let vault = VaultWorld::new().await;
    let id = vault.connected("acme", json!({"access_token": "at-1", "expires_in": 100})).await;
    vault.delegated(names(&id), json!({})).await;
    vault.world.server.pass(99);
    let [_, token] = vault.chain(&names(&id)).await;
    let last = vault.fetch(&token, &id).await;
    assert_eq!((&last.json["access_token"], &last.json["expires_in"]), (&json!("at-1"), &json!(1)));
    vault.world.server.pass(1);
    let [_, token] = vault.chain(&names(&id)).await;
    vault.fetch(&token, &id).await.assert_problem(409, "connection_needs_reconnect");
    let shown = vault.world.as_alice("GET", &format!("/api/v1/connections/{id}"), json!({})).await;
    assert_eq!(shown.json["state"], "needs_reconnect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_an_expired_cached_token_reads_the_credential_that_another_server_stored() {
    let vault = VaultWorld::new().await;
    let id = vault.connected("acme", json!({"access_token": "at-1", "expires_in": 100})).await;
    vault.delegated(names(&id), json!({})).await;
    let [_, token] = vault.chain(&names(&id)).await;
    assert_eq!(vault.fetch(&token, &id).await.json["access_token"], "at-1");
    let twin = vault.world.server.twin().await;
    vault.world.server.pass(100);
    let body = json!({"credential": {"access_token": "at-2"}});
    let call = Api::post(&twin, &format!("/api/v1/connections/{id}/rotate"), body);
    call.user(&vault.world.user_token()).send().await.with_status(200);
    let [_, token] = vault.chain(&names(&id)).await;
    let fetched = vault.fetch(&token, &id).await;
    assert_eq!((fetched.status, &fetched.json["access_token"]), (200, &json!("at-2")), "{}", fetched.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_rotated_during_a_refresh_stays() {
    let story = Story::new().await;
    let (late, gate) = Wrong::held();
    story.provider.once(Asked::Refresh, late);
    story.pass(100);
    let token = story.token().await;
    let fetching = story.vault.fetch(&token, &story.id);
    let rotating = async {
        story.provider.asked(Asked::Refresh, 1).await;
        let body = json!({"credential": {"access_token": "brought-meanwhile"}});
        let path = format!("/api/v1/connections/{}/rotate", story.id);
        assert_eq!(story.vault.world.as_alice("POST", &path, body).await.status, 200);
        gate.open();
    };
    let (fetched, ()) = tokio::join!(fetching, rotating);
    assert_eq!(fetched.status, 200, "{}", fetched.text);
    assert_eq!(fetched.json["access_token"], "brought-meanwhile");
    assert_eq!(story.fetched().await, "brought-meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_completes_although_the_requesting_agent_hung_up() {
    let story = Story::new().await;
    let (late, gate) = Wrong::held();
    story.provider.once(Asked::Refresh, late);
    story.pass(100);
    let token = story.token().await;
    tokio::select! {
        answer = story.vault.fetch(&token, &story.id) => panic!("answered although held back: {}", answer.text),
        () = story.provider.asked(Asked::Refresh, 1) => {}
    }
    gate.open();
    while !story
        .vault
        .vault_events()
        .await
        .iter()
        .any(|event| event["action"] == "vault.connection.refreshed")
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(story.fetched().await, story.provider.newest().unwrap());
    assert_eq!(story.provider.count(Asked::Refresh), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_its_server_did_not_return_ends_by_itself() {
    let story = Story::new().await;
    story.pass(100);
    let sql = "UPDATE connection SET lease = gen_random_uuid(), lease_until = now() + interval '1 second'";
    sqlx::query(sql).execute(&mut story.vault.world.server.sql().await).await.unwrap();
    assert_eq!(story.fetched().await, story.provider.newest().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inactive_chain_causes_no_refresh() {
    let story = Story::new().await;
    let token = story.token().await;
    story.pass(100);
    let world = &story.vault.world;
    assert_eq!(world.as_admin("POST", "/api/v1/clients/user-proxy/disable", json!({})).await.status, 200);
    story.vault.fetch(&token, &story.id).await.assert_problem(409, "actor_disabled");
    assert_eq!(story.provider.count(Asked::Refresh), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_used_up_makes_no_refresh() {
    let story = Story::new().await;
    let other = story.vault.connected("third", story.provider.issued_tokens().await).await;
    story.vault.delegated(names(&other), json!({"expires_in": 30_000, "max_uses": 2})).await;
    let [_, token] = story.vault.chain(&names(&other)).await;
    story.pass(100);
    story.vault.fetch(&token, &other).await.assert_problem(409, "command_limit");
    assert_eq!(story.provider.count(Asked::Refresh), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_allows_more_than_before_is_seen() {
    let story = Story::new().await;
    let limited = json!([{"type": "vault_connection", "identifier": story.id, "scopes": ["files.read"]}]);
    let [_, token] = story.vault.chain(&limited).await;
    assert_eq!(story.vault.fetch(&token, &story.id).await.status, 200);
    story.provider.becomes(|kind| kind.grants = Some("files.read files.write".into()));
    story.pass(100);
    let [_, token] = story.vault.chain(&limited).await;
    story.vault.fetch(&token, &story.id).await.assert_problem(403, "connection_scope_exceeded");
    assert_eq!(story.shown().await["scopes"], json!(["files.read", "files.write"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_is_reported_to_the_provider_at_once_or_later() {
    let story = Story::new().await;
    let path = format!("/api/v1/connections/{}/disconnect", story.id);
    story.provider.once(Asked::Revoke, Wrong::json(503, json!({})));
    let ended = story.vault.world.as_alice("POST", &path, json!({"reason": "enough"})).await;
    assert_eq!((ended.status, &ended.json["provider_revoked"]), (200, &json!(false)), "{}", ended.text);
    assert!(story.provider.revoked().is_empty());
    let server = &story.vault.world.server;
    let kept = async || -> bool {
        let kept =
            sqlx::query_scalar("SELECT sealed IS NOT NULL FROM connection WHERE id = $1").bind(&story.id);
        kept.fetch_one(&mut server.sql().await).await.unwrap()
    };
    assert!(kept().await, "the provider does not know yet");
    story.pass(61);
    actchain::jobs::vault::run_once(&server.app, server.clock.now()).await.unwrap();
    assert_eq!(story.provider.revoked(), [story.imported["refresh_token"].as_str().unwrap()]);
    assert!(!kept().await);
    let events = story.vault.vault_events().await;
    assert_eq!(events.last().unwrap()["detail"]["provider_revoked"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_repeated_before_the_provider_answers_says_that_nothing_is_revoked_there() {
    let story = Story::new().await;
    let (delayed, gate) = Wrong::held();
    story.provider.once(Asked::Revoke, delayed);
    let world = &story.vault.world;
    let token = world.user_token();
    let path = format!("/api/v1/connections/{}/disconnect", story.id);
    let disconnect =
        async || Api::post(&world.server, &path, json!({})).key("disconnect-once").user(&token).send().await;
    let repeat = async {
        story.provider.asked(Asked::Revoke, 1).await;
        let answer = disconnect().await;
        gate.open();
        answer
    };
    let (first, repeated) = tokio::join!(disconnect(), repeat);
    assert_eq!((repeated.status, repeated.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(repeated.json["provider_revoked"], false, "{}", repeated.text);
    assert_eq!((first.status, &first.json["provider_revoked"]), (200, &json!(true)), "{}", first.text);
    assert_eq!(disconnect().await.json, first.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_provider_is_in_the_database_unsealed() {
    let story = Story::new().await;
    for _ in 0..3 {
        story.pass(4_000);
        story.fetched().await;
    }
    let everything = story.vault.world.server.dump().await;
    let secrets = story.provider.secrets();
    assert!(secrets.len() >= 8, "{secrets:?}");
    for secret in secrets.iter().map(String::as_str).chain([SECRET]) {
        let encoded = base64url::encode(secret);
        assert!(!everything.contains(secret) && !everything.contains(&encoded), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_that_ends_during_a_refresh_yields_no_credential() {
    let story = Story::new().await;
    let (late, gate) = Wrong::held();
    story.provider.once(Asked::Refresh, late);
    story.pass(100);
    let token = story.token().await;
    let fetching = story.vault.fetch(&token, &story.id);
    let passing = async {
        story.provider.asked(Asked::Refresh, 1).await;
        story.pass(40_000);
        gate.open();
    };
    let (fetched, ()) = tokio::join!(fetching, passing);
    assert_ne!(fetched.status, 200, "{}", fetched.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_does_not_follow_its_provider_to_another_origin() {
    let story = Story::new().await;
    // The provider's settings are cached.
    story.fetched().await;
    let moved = Provider::of(Behaviour::default()).await;
    let manifest = moved.manifest("third", "scopes: [files.read]");
    story.vault.world.server.apply(&manifest).await.unwrap();
    story.pass(100);
    let token = story.token().await;
    let answer = story.vault.fetch(&token, &story.id).await;
    assert_eq!((answer.status, answer.reason()), (409, "connection_needs_reconnect"), "{}", answer.text);
    assert_eq!((story.provider.count(Asked::Refresh), moved.count(Asked::Refresh)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_arrives_after_the_disconnect_is_revoked() {
    let story = Story::new().await;
    let (late, gate) = Wrong::held();
    story.provider.once(Asked::Refresh, late);
    // The provider revokes single tokens, not the whole grant.
    story.provider.once(Asked::Revoke, Wrong::json(200, json!({})));
    story.pass(100);
    let token = story.token().await;
    let fetching = story.vault.fetch(&token, &story.id);
    let ending = async {
        story.provider.asked(Asked::Refresh, 1).await;
        let path = format!("/api/v1/connections/{}/disconnect", story.id);
        assert_eq!(story.vault.world.as_alice("POST", &path, json!({})).await.status, 200);
        gate.open();
    };
    let (fetched, ()) = tokio::join!(fetching, ending);
    assert_eq!(fetched.status, 409, "{}", fetched.text);
    let newest = story.provider.newest().unwrap();
    assert!(!story.provider.honours(&newest), "no agent has it, and no later request revokes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_that_cannot_be_reported_does_not_stop_the_report_of_another() {
    let story = Story::new().await;
    let server = &story.vault.world.server;
    let other = story.vault.connected("third", story.provider.issued_tokens().await).await;
    story.provider.once(Asked::Revoke, Wrong::json(503, json!({})));
    story.provider.once(Asked::Revoke, Wrong::json(503, json!({})));
    for id in [&story.id, &other] {
        let path = format!("/api/v1/connections/{id}/disconnect");
        assert_eq!(story.vault.world.as_alice("POST", &path, json!({})).await.status, 200);
        story.pass(1);
    }
    let sql = "UPDATE connection SET owner_sub = 'mallory' WHERE id = $1";
    sqlx::query(sql).bind(&story.id).execute(&mut server.sql().await).await.unwrap();
    story.pass(90_000);
    actchain::jobs::vault::run_once(&server.app, server.clock.now()).await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM connection WHERE sealed IS NOT NULL")
        .fetch_one(&mut server.sql().await)
        .await
        .unwrap();
    assert_eq!(kept, 0, "forgotten in any case after a day");
}
