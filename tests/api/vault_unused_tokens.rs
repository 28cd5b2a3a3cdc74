//! Tokens of exchanging providers that no connection has: revoked until that succeeds. Connections that nothing needs: forgotten.

use actchain::services::vault::rekey;
use serde_json::{Value, json};

use crate::support::provider::{Asked, Behaviour, Provider, Said, Wrong};
use crate::support::vault_broker::{Brokered, crm, manifest};

const BOTH: &[&str] = &["files.read", "files.write"];
/// Seconds until a token is replaced, and between two requests to revoke one.
const REPLACED: i64 = 3_540;
const PAUSE: i64 = 60;
const DAY: i64 = 86_400;

async fn left(broker: &Brokered) -> i64 {
    let mut sql = broker.vault.world.server.sql().await;
    sqlx::query_scalar("SELECT count(*) FROM unused_token").fetch_one(&mut sql).await.unwrap()
}

/// A broker at which the revocation of a replaced token was tried once. Returns the token.
async fn replaced(wrong: Wrong) -> (Brokered, String) {
    let broker = Brokered::new().await;
    let first = broker.fetch(BOTH).await.with_status(200);
    broker.provider.always(Asked::Revoke, wrong);
    broker.vault.world.server.pass(REPLACED);
    broker.fetch(BOTH).await.with_status(200);
    assert_eq!(left(&broker).await, 1, "it is stored before the agent is answered");
    broker.provider.asked(Asked::Revoke, 1).await;
    (broker, first.json["access_token"].as_str().unwrap().to_owned())
}

async fn later(broker: &Brokered, seconds: i64) -> usize {
    broker.vault.world.server.pass(seconds);
    broker.run_job().await;
    broker.provider.count(Asked::Revoke)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_revocation_of_a_replaced_token_is_repeated_until_it_succeeds() {
    let (broker, token) = replaced(Wrong::json(503, json!({}))).await;
    let server = &broker.vault.world.server;
    assert!(!server.dump().await.contains(&token), "it is sealed");
    assert_eq!(later(&broker, PAUSE - 1).await, 1, "not at once");
    assert_eq!(later(&broker, 1).await, 2);
    let rekeyed =
        rekey(&server.app.pool, &server.app.vault.keys, server.clock.now(), |_, _| {}).await.unwrap();
    assert!(rekeyed.sealed > 0);
    broker.provider.behaves();
    assert_eq!(later(&broker, PAUSE - 1).await, 2);
    assert_eq!(later(&broker, 1).await, 3);
    assert_eq!((broker.provider.revoked(), left(&broker).await), (vec![token], 0));
    assert_eq!(later(&broker, PAUSE).await, 3, "and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_says_when_a_revocation_is_repeated_and_it_ends_after_a_day() {
    let (broker, token) = replaced(Wrong::json(503, json!({}))).await;
    broker.provider.always(Asked::Revoke, Wrong::json(503, json!({})).with("retry-after", "600"));
    assert_eq!(later(&broker, PAUSE).await, 2);
    assert_eq!(later(&broker, 599).await, 2);
    assert_eq!(later(&broker, 1).await, 3);
    later(&broker, DAY).await;
    let of_token = broker.provider.revocation_requests().into_iter().filter(|one| *one == token);
    assert_eq!((of_token.count(), left(&broker).await), (4, 0), "for the last time");
    assert!(!broker.provider.revoked().contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_not_accepted_is_revoked_later_if_that_fails_at_once() {
    let broker = Brokered::new().await;
    broker.provider.becomes(|kind| kind.grants = Some("files.read admin".into()));
    broker.provider.once(Asked::Revoke, Wrong::json(500, json!({})));
    broker.fetch(&["files.read"]).await.assert_problem(403, "connection_scope_exceeded");
    assert_eq!((broker.provider.revoked().len(), left(&broker).await), (0, 1));
    assert_eq!(later(&broker, PAUSE).await, 2);
    assert_eq!(
        (broker.provider.revoked(), left(&broker).await),
        (vec![broker.provider.newest().unwrap()], 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_provider_issues_again_is_not_revoked() {
    let broker = Brokered::new().await;
    let same = |_| {
        Said::json(
            json!({"access_token": "the-same", "expires_in": 3_600, "token_type": "Bearer"}).to_string(),
        )
    };
    broker.provider.always(Asked::Exchange, Wrong::reworked(same));
    for _ in 0..2 {
        assert_eq!(broker.fetch(BOTH).await.with_status(200).json["access_token"], "the-same");
        broker.vault.world.server.pass(REPLACED);
    }
    assert_eq!((broker.provider.count(Asked::Exchange), left(&broker).await), (2, 0));
    broker.fetch(BOTH).await.with_status(200);
    broker.provider.behaves();
    broker.vault.world.server.pass(REPLACED);
    broker.fetch(BOTH).await.with_status(200);
    broker.provider.asked(Asked::Revoke, 1).await;
    assert_eq!(
        broker.provider.revocation_requests(),
        ["the-same"],
        "only once another token has replaced it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_token_is_not_sent_to_another_address_of_the_provider() {
    let (broker, _) = replaced(Wrong::json(503, json!({}))).await;
    let elsewhere = Provider::of(Behaviour { refreshes: false, ..Behaviour::default() }).await;
    let moved = manifest(&broker.provider, "").replace(
        &format!("revocation_endpoint: \"{}", broker.provider.base),
        &format!("revocation_endpoint: \"{}", elsewhere.base),
    );
    broker.vault.world.server.apply(&moved).await.unwrap();
    assert_eq!(left(&broker).await, 0);
    broker.provider.behaves();
    assert_eq!(later(&broker, PAUSE).await, 1);
    assert_eq!(elsewhere.count(Asked::Revoke), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_takes_the_place_of_an_expired_one_whose_refresh_token_is_revoked() {
    let broker = Brokered::new().await;
    broker.provider.becomes(|kind| (kind.refreshes, kind.expires_in) = (true, None));
    let scopes: Vec<String> = (0..20).map(|n| format!("s{n}")).collect();
    let declared = manifest(&broker.provider, "").replace("files.read, files.write", &scopes.join(", "));
    broker.vault.world.server.apply(&declared).await.unwrap();
    for scope in &scopes[..16] {
        broker.fetch(&[scope]).await.with_status(200);
    }
    broker.fetch(&[&scopes[16]]).await.assert_problem(429, "rate_limited");
    // Without `expires_in`, a token is kept for a minute.
    broker.vault.world.server.pass(60);
    for scope in &scopes[16..] {
        broker.fetch(&[scope]).await.with_status(200);
    }
    assert_eq!(broker.listed().await.len(), 16, "no more rows than tokens");
    broker.provider.asked(Asked::Revoke, 4).await;
    let revoked = broker.provider.revocation_requests();
    assert!(revoked.iter().all(|token| token.starts_with("refresh-")), "{revoked:?}");
    // One that has lost its place is obtained again.
    broker.fetch(&[&scopes[0]]).await.with_status(200);
    assert_eq!(broker.listed().await.len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_listed_for_a_month_after_its_delegation_has_ended() {
    let broker = Brokered::new().await;
    broker.fetch(BOTH).await.with_status(200);
    broker.vault.world.server.revoke(&broker.delegations[0]).await;
    broker.run_job().await;
    let states = async || {
        let listed = broker.listed().await;
        listed.iter().map(|one| one["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((broker.provider.revoked().len(), states().await), (1, vec!["disconnected".to_owned()]));
    later(&broker, 30 * DAY - 1).await;
    assert_eq!(states().await.len(), 1);
    later(&broker, 1).await;
    assert!(states().await.is_empty());
    let actions =
        ["vault.connection.created", "vault.connection.disconnected", "vault.connection.credential_deleted"];
    for action in actions {
        assert_eq!(broker.events_of(action).await.len(), 1, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_disconnects_stays_disconnected_as_long_as_the_delegation_lasts() {
    let broker = Brokered::new().await;
    let world = &broker.vault.world;
    world.server.revoke(&broker.delegations[0]).await;
    broker.vault.delegated(crm(BOTH), json!({"expires_in": 40 * DAY})).await;
    let own = broker.fetch(BOTH).await.with_status(200);
    let path = format!("/api/v1/connections/{}/disconnect", own.json["connection"].as_str().unwrap());
    world.as_alice("POST", &path, json!({})).await.with_status(200);
    later(&broker, 31 * DAY).await;
    assert_eq!(broker.listed().await.len(), 1);
    broker.fetch(BOTH).await.assert_problem(409, "connection_disconnected");
    later(&broker, 38 * DAY).await;
    assert_eq!(broker.listed().await.len(), 1, "29 days after its end");
    later(&broker, DAY).await;
    assert_eq!(broker.listed().await, Vec::<Value>::new());
}
