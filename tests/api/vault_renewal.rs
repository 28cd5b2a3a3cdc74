//! When access tokens are renewed: not earlier than the provider wants, early enough for short lifetimes, once for a
//! burst, and at once after the provider's API has rejected a token.

use actchain_protocol::base64url;
use actchain_protocol::digest::sha256;
use futures_util::future::join_all;
use serde_json::json;

use crate::support::Answer;
use crate::support::agent::fresh_jti;
use crate::support::management::Api;
use crate::support::provider::{Asked, Behaviour, Wrong};
use crate::support::vault::names;
use crate::support::vault_story::Story;

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_wait_for_the_providers_retry_after_and_pass_it_to_agents() {
    for status in [429, 503, 400] {
        let story = Story::new().await;
        let twin = story.vault.world.server.twin().await;
        let path = format!("/vault/connections/{}/token", story.id);
        let wrong = Wrong::json(status, json!({"error": "slow_down"})).with("retry-after", "30");
        story.provider.once(Asked::Refresh, wrong);
        story.pass(70);
        // The current token is valid for another 30 s.
        assert_eq!(story.fetched().await, story.imported["access_token"]);
        assert_eq!(story.provider.count(Asked::Refresh), 1, "{status}");
        story.pass(29);
        assert_eq!(story.fetched().await, story.imported["access_token"]);
        assert_eq!(story.provider.count(Asked::Refresh), 1, "{status}");
        story.pass(1);
        assert_eq!(story.fetched().await, story.provider.newest().unwrap(), "{status}");

        let wrong = Wrong::json(status, json!({})).with("retry-after", "30");
        story.provider.once(Asked::Refresh, wrong);
        story.pass(3_600);
        for (server, seconds) in [(&story.vault.world.server, 0), (&twin, 10)] {
            story.pass(seconds);
            let token = story.token().await;
            let call = Api::post(server, &path, json!({})).client(&story.vault.world.email_svc, &token);
            let waits = call.send().await;
            waits.assert_problem(503, "provider_unavailable");
            let rest = (30 - seconds).to_string();
            assert_eq!(waits.header("retry-after"), Some(rest.as_str()), "{status}");
        }
        assert_eq!(story.provider.count(Asked::Refresh), 3, "{status}");
        story.pass(20);
        assert_eq!(story.fetched().await, story.provider.newest().unwrap(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_asked_too_often_is_not_asked_again_at_once() {
    let story = Story::new().await;
    story.provider.always(Asked::Refresh, Wrong::json(429, json!({"error": "ratelimited"})));
    story.pass(100);
    story.fetch().await.assert_problem(503, "provider_unavailable");
    assert_eq!(story.provider.count(Asked::Refresh), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_sent_again_only_after_the_providers_retry_after() {
    let story = Story::new().await;
    let server = &story.vault.world.server;
    story.provider.once(Asked::Revoke, Wrong::json(429, json!({})).with("retry-after", "300"));
    let path = format!("/api/v1/connections/{}/disconnect", story.id);
    assert_eq!(story.vault.world.as_alice("POST", &path, json!({})).await.json["provider_revoked"], false);
    for (seconds, count) in [(299, 1), (1, 2)] {
        story.pass(seconds);
        actchain::jobs::vault::run_once(&server.app, server.clock.now()).await.unwrap();
        assert_eq!(story.provider.count(Asked::Revoke), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_a_lifetime_within_the_leeway_is_renewed_near_half_of_its_lifetime() {
    let story = Story::with(Behaviour { expires_in: Some(30), ..Behaviour::default() }, "").await;
    story.pass(100);
    let first = story.fetched().await;
    story.pass(11);
    assert_eq!(story.fetched().await, first);
    assert_eq!(story.provider.count(Asked::Refresh), 1);
    story.pass(1);
    assert_ne!(story.fetched().await, first);
    assert_eq!(story.provider.count(Asked::Refresh), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_requests_makes_one_renewal_even_if_the_new_token_expires_at_once() {
    let story = Story::with(Behaviour { expires_in: Some(1), ..Behaviour::default() }, "").await;
    let path = format!("/vault/connections/{}/token", story.id);
    let twin = story.vault.world.server.twin().await;
    let (late, gate) = Wrong::held();
    story.provider.always(Asked::Refresh, late);
    story.pass(100);
    let token = story.token().await;
    let calls = (0..200).map(|n| {
        let server = if n % 2 == 0 { &story.vault.world.server } else { &twin };
        Api::post(server, &path, json!({})).client(&story.vault.world.email_svc, &token).send()
    });
    // The other requests come during the first renewal.
    let opening = async {
        story.provider.asked(Asked::Refresh, 1).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(join_all(calls), opening);
    let newest = story.provider.newest().unwrap();
    for answer in &answers {
        assert_eq!((answer.status, &answer.json["access_token"]), (200, &json!(newest)), "{}", answer.text);
    }
    assert_eq!(story.provider.count(Asked::Refresh), 1);
}

/// A request to the provider's API through the proxy.
async fn called(story: &Story) -> Answer {
    let world = &story.vault.world;
    let details = names(&story.id);
    let [_, token] = story.vault.chain(&details).await;
    let authority = story.provider.base.strip_prefix("http://").unwrap();
    let path = format!("/vault/proxy/{}/{authority}/api/files", story.id);
    let claims = json!({"jti": fresh_jti(), "htm": "GET", "iat": world.server.now(),
                        "htu": format!("{}{path}", world.server.app.issuer),
                        "ath": base64url::encode(sha256(&[token.as_bytes()]))});
    let proof = world.email_svc.key.sign_proof("dpop+jwt", &claims).unwrap();
    let request = reqwest::Client::new().get(format!("{}{path}", world.server.base));
    let request = request.header("authorization", format!("DPoP {token}")).header("dpop", proof);
    Answer::read(request.send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_api_refuses_through_the_proxy_is_renewed_by_the_next_fetch() {
    let story = Story::new().await;
    let twin = story.vault.world.server.twin().await;
    let imported = story.fetched().await;
    // The other server has cached the token, too.
    let path = format!("/vault/connections/{}/token", story.id);
    let at_twin = async || {
        let token = story.token().await;
        let call = Api::post(&twin, &path, json!({})).client(&story.vault.world.email_svc, &token);
        call.send().await.json["access_token"].as_str().unwrap().to_owned()
    };
    assert_eq!(at_twin().await, imported);
    assert_eq!(called(&story).await.status, 200);
    story.provider.forget(&imported);
    assert_eq!(called(&story).await.status, 401, "it is passed on as it is");
    let renewed = at_twin().await;
    assert_eq!(Some(&renewed), story.provider.newest().as_ref());
    assert_eq!(story.fetched().await, renewed);
    assert_eq!(called(&story).await.status, 200);
    assert_eq!(story.provider.count(Asked::Refresh), 1);
    let mut events = story.vault.vault_events().await;
    events.retain(|event| event["action"] == "vault.connection.refreshed");
    assert_eq!(events[0]["detail"]["rejected"], true);

    // A token that was just renewed is not renewed again after a rejection: no storm of renewals.
    story.provider.forget(&renewed);
    for _ in 0..3 {
        assert_eq!(called(&story).await.status, 401);
    }
    assert_eq!(story.fetched().await, renewed);
    assert_eq!(story.provider.count(Asked::Refresh), 1);
    story.pass(60);
    assert_eq!(called(&story).await.status, 401);
    assert_eq!(called(&story).await.status, 200);
    assert_eq!(story.provider.count(Asked::Refresh), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reports_a_token_that_the_api_refuses_and_gets_another_one() {
    let story = Story::new().await;
    let imported = story.fetched().await;
    story.provider.forget(&imported);
    let path = format!("/vault/connections/{}/token", story.id);
    let server = &story.vault.world.server;
    let report = async |access_token: &str| {
        let digest = base64url::encode(sha256(&[access_token.as_bytes()]));
        let token = story.token().await;
        let call = Api::post(server, &path, json!({"rejected_sha256": digest}));
        call.client(&story.vault.world.email_svc, &token).send().await
    };
    // A report of another token changes nothing.
    assert_eq!(report("another").await.json["access_token"], imported);
    assert_eq!(story.provider.count(Asked::Refresh), 0);
    let renewed = report(&imported).await;
    assert_eq!(renewed.status, 200, "{}", renewed.text);
    assert_eq!(renewed.json["access_token"], story.provider.newest().unwrap());
    // Several agents report the same old token: one renewal.
    assert_eq!(report(&imported).await.json["access_token"], renewed.json["access_token"]);
    assert_eq!(story.provider.count(Asked::Refresh), 1);
    for bad in [json!("x"), json!("=="), json!(7), json!(base64url::encode([0; 31]))] {
        let token = story.token().await;
        let call = Api::post(server, &path, json!({"rejected_sha256": bad}));
        let refused = call.client(&story.vault.world.email_svc, &token).send().await;
        refused.assert_problem(400, "malformed_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_during_a_renewal_loses_no_refresh_token() {
    let story = Story::new().await;
    let (late, gate) = Wrong::held();
    story.provider.once(Asked::Refresh, late);
    story.pass(100);
    let token = story.token().await;
    let reporting = async {
        story.provider.asked(Asked::Refresh, 1).await;
        let mut sql = story.vault.world.server.sql().await;
        let version = "SELECT version FROM connection WHERE id = $1";
        let version: i64 = sqlx::query_scalar(version).bind(&story.id).fetch_one(&mut sql).await.unwrap();
        let now = story.vault.world.server.clock.now();
        let marked = actchain::domain::vault::store::mark_rejected(&mut sql, &story.id, version, now).await;
        assert!(!marked.unwrap(), "the token is renewed already");
        gate.open();
    };
    let (fetched, ()) = tokio::join!(story.vault.fetch(&token, &story.id), reporting);
    assert_eq!(
        (fetched.status, &fetched.json["access_token"]),
        (200, &json!(story.provider.newest().unwrap()))
    );
    assert_eq!((story.provider.count(Asked::Refresh), &story.shown().await["state"]), (1, &json!("active")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_token_that_cannot_be_renewed_now_is_answered_to_its_end() {
    let story = Story::new().await;
    let imported = story.fetched().await;
    story.provider.forget(&imported);
    assert_eq!(called(&story).await.status, 401);
    story.provider.always(Asked::Refresh, Wrong::json(503, json!({})).with("retry-after", "10"));
    assert_eq!(story.fetched().await, imported);
    assert_eq!(story.shown().await["state"], "active");
    story.provider.behaves();
    story.pass(10);
    assert_eq!(story.fetched().await, story.provider.newest().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_without_a_refresh_token_is_not_touched_by_a_rejection() {
    let story = Story::new().await;
    let credential = json!({"access_token": "at-1", "expires_in": 1000});
    let path = format!("/api/v1/connections/{}/rotate", story.id);
    let rotated = story.vault.world.as_alice("POST", &path, json!({"credential": credential})).await;
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    assert_eq!(called(&story).await.status, 401);
    assert_eq!(story.fetched().await, "at-1");
    assert_eq!(story.shown().await["state"], "active");
}
