//! New master and data keys while servers run: no interruption loses a secret, and no old key stays in use.

use actchain::domain::vault::rekey::left;
use actchain::platform::seal::SealingKey;
use actchain::platform::secret::MasterKey;
use actchain::services::keys;
use actchain::services::vault::rekey;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::support::Server;
use crate::support::interrupt::dropped_after;
use crate::support::management::Api;
use crate::support::vault::{VaultWorld, names};

async fn keys_in_use(server: &Server) -> Vec<String> {
    let found = sqlx::query_scalar(
        "SELECT data_key FROM connection WHERE sealed IS NOT NULL UNION SELECT data_key FROM provider ORDER BY 1",
    );
    found.fetch_all(&mut server.sql().await).await.unwrap()
}

/// Whether secrets are left under a retired key. A transaction that was dropped while it committed has one of these locks
/// until its end.
async fn has_secrets_left(server: &Server) -> bool {
    let mut sql = server.sql().await;
    let mut transaction = sql.begin().await.unwrap();
    let locks = "SELECT pg_advisory_xact_lock(7223458), pg_advisory_xact_lock(7223459)";
    sqlx::query(locks).execute(&mut *transaction).await.unwrap();
    left(&mut transaction).await.unwrap() > 0
}

async fn fetched(vault: &VaultWorld, server: &Server, (token, id): (&str, &str)) -> Value {
    let path = format!("/vault/connections/{id}/token");
    let answer = Api::post(server, &path, json!({})).client(&vault.world.email_svc, token).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json["access_token"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_secrets_are_sealed_again_while_agents_fetch_them() {
    let vault = VaultWorld::new().await;
    let server = &vault.world.server;
    let id = vault.api_key().await;
    for n in 0..250 {
        vault.connected("keys", json!({"key": format!("key-number-{n}")})).await;
    }
    let (_, [_, token]) = vault.granted(&id).await;
    let before = keys_in_use(server).await;
    let mut reports = Vec::new();
    let rekeying = rekey(&server.app.pool, &server.app.vault.keys, server.clock.now(), |sealed, left| {
        reports.push((sealed, left));
    });
    let fetching = async {
        let mut got = 0;
        for _ in 0..20 {
            server.app.vault.opened.invalidate_all();
            assert_eq!(fetched(&vault, server, (&token, &id)).await, "the-api-key-of-alice");
            got += 1;
        }
        got
    };
    let (done, got) = tokio::join!(rekeying, fetching);
    let done = done.unwrap();
    assert_eq!((done.sealed, done.resumed, done.wrapped, got), (254, false, 0, 20));
    assert!(reports.len() >= 2 && reports.windows(2).all(|pair| pair[0].1 >= pair[1].1), "{reports:?}");
    let after = keys_in_use(server).await;
    assert_eq!((before.len(), &after), (1, &vec![done.data_key.clone()]));
    assert_ne!(before, after);
    let twin = server.twin().await;
    assert_eq!(fetched(&vault, &twin, (&token, &id)).await, "the-api-key-of-alice");
    let events = server.events().await;
    let sealed: i64 = events
        .iter()
        .filter(|event| event["action"] == "vault.key_rotated" && event["detail"]["change"] == "resealed")
        .map(|event| event["detail"]["secrets"].as_i64().unwrap())
        .sum();
    assert_eq!(sealed, 254);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_interrupted_goes_on_with_the_key_that_it_began_with() {
    let vault = VaultWorld::new().await;
    let server = &vault.world.server;
    for n in 0..250 {
        vault.connected("keys", json!({"key": format!("key-number-{n}")})).await;
    }
    let id = vault.api_key().await;
    let (_, [_, token]) = vault.granted(&id).await;
    let mut interrupted: u32 = 0;
    let (first, begun) = loop {
        let begun = has_secrets_left(server).await;
        let mut reached = 0;
        let report = |sealed, _| reached = sealed;
        let rekeying = rekey(&server.app.pool, &server.app.vault.keys, server.clock.now(), report);
        // Dropped at one `await` after the other, as if the process had been killed there.
        match dropped_after(37 * interrupted + 1, rekeying).await {
            None => interrupted += 1,
            Some(done) => break (done.unwrap(), begun),
        }
        server.app.vault.opened.invalidate_all();
        assert_eq!(fetched(&vault, server, (&token, &id)).await, "the-api-key-of-alice");
    };
    assert_eq!(keys_in_use(server).await, std::slice::from_ref(&first.data_key));
    assert_eq!(fetched(&vault, server, (&token, &id)).await, "the-api-key-of-alice");
    assert!(interrupted > 1, "it was interrupted before its last step");
    assert_eq!(first.resumed, begun);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_master_key_takes_over_step_by_step() {
    let vault = VaultWorld::new().await;
    let server = &vault.world.server;
    let id = vault.api_key().await;
    let (_, [_, token]) = vault.granted(&id).await;
    let master = MasterKey::generate().unwrap();
    // The new key alone opens nothing; the error names both keys.
    let alone = SealingKey::of(&master);
    let now = server.clock.now();
    let complaint = keys::ensure(&server.app.pool, &alone, &server.app.config.keys, now).await.unwrap_err();
    let complaint = complaint.to_string();
    assert!(complaint.contains(&server.master.id()) && complaint.contains(&master.id()), "{complaint}");
    // With the previous key beside it, the new key works at once, beside servers that have only the previous key.
    let next = server.twin_under(&master).await;
    assert_eq!(fetched(&vault, &next, (&token, &id)).await, "the-api-key-of-alice");
    let places = async |server: &Server| {
        let mut places = Vec::new();
        for _ in 0..5 {
            let place = server.app.next_status_index().await.unwrap();
            places.push((place.list, place.idx));
        }
        places
    };
    let (one, other) = (places(server).await, places(&next).await);
    assert!(one.iter().all(|place| !other.contains(place)));
    let done = rekey(&next.app.pool, &next.app.vault.keys, now, |_, _| {}).await.unwrap();
    // Three signing keys, the data key and the two secrets that all servers share; then one more data key.
    assert_eq!((done.wrapped, done.sealed), (6, 4));
    // From now on the new key alone is sufficient.
    keys::ensure(&server.app.pool, &alone, &server.app.config.keys, now).await.unwrap();
    assert_eq!(keys::rewrap(&server.app.pool, &alone, now).await.unwrap(), 0);
    assert_eq!(fetched(&vault, &next, (&token, &id)).await, "the-api-key-of-alice");
    let verified = vault.world.hop_from_user(&vault.world.user_proxy, &vault.world.user_token()).await;
    assert_eq!(verified.status, 200, "the old server goes on until it is restarted: {}", verified.text);
    vault.delegated(names(&id), json!({})).await;
    let stale = SealingKey::of(&server.master);
    let complaint = keys::ensure(&server.app.pool, &stale, &server.app.config.keys, now).await.unwrap_err();
    assert!(complaint.to_string().contains(&master.id()), "{complaint}");
}
