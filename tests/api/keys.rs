//! The server's signing keys: published before they sign, and for as long as a token signed by them is valid.

use actchain::jobs::key_rotation;
use actchain::platform::seal::SealingKey;
use actchain::platform::secret::MasterKey;
use actchain::services::keys::{self, RotationPolicy};
use actchain_protocol::jose::{Alg, Jws, PublicKey, SigningAlg, SigningKey};
use serde_json::{Value, json};

use crate::support::agent::ACCESS_TOKEN;
use crate::support::world::World;
use crate::support::{Answer, Server};

async fn jwks(server: &Server) -> Vec<Value> {
    let answer = Answer::read(reqwest::get(format!("{}/oauth/jwks", server.base)).await.unwrap()).await;
    assert_eq!(answer.header("content-type"), Some("application/jwk-set+json"));
    answer.json["keys"].as_array().unwrap().clone()
}

fn kid(token: &str) -> String {
    Jws::parse(token).unwrap().header.kid.unwrap()
}

fn kids(keys: &[Value]) -> Vec<&str> {
    keys.iter().map(|key| key["kid"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relying_party_validates_a_token_by_the_published_keys() {
    for (name, alg) in [("ES256", Alg::ES256), ("Ed25519", Alg::EdDSA), ("RS256", Alg::RS256)] {
        let world = World::configured(&format!("[keys]\nalgorithm = \"{name}\"")).await;
        let answer = world.first_hop().await;
        let jws = Jws::parse(answer.token()).unwrap();
        let keys = jwks(&world.server).await;
        let key = keys.iter().find(|key| key["kid"] == kid(answer.token()).as_str()).unwrap();
        assert_eq!((&key["alg"], &key["use"]), (&Value::from(alg.name()), &Value::from("sig")));
        let key = PublicKey::from_jwk(key.as_object().unwrap()).unwrap();
        assert!(jws.verified_by(&key, &[alg]) && jws.header.is_typed("at+jwt"), "RFC 9068 §2.1: {name}");
        assert_eq!(key.thumbprint(), kid(answer.token()), "the kid is the thumbprint");
        world.second_hop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_keys_have_public_members_only_and_distinct_kids() {
    let world = World::new().await;
    let keys = jwks(&world.server).await;
    assert_eq!(keys.len(), 2, "the one that signs, and the next one");
    assert_ne!(keys[0]["kid"], keys[1]["kid"]);
    for key in &keys {
        let names: std::collections::BTreeSet<_> =
            key.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(Vec::from_iter(names), ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_signs_only_after_its_publication_and_stays_published_until_its_tokens_expire() {
    let world =
        World::configured("[keys]\nrotate_every = 7200\nprepublish = 3600\n[tokens]\nmax_ttl = 600").await;
    let twin = world.server.twin().await;
    let app = &world.server.app;
    let seal = SealingKey::of(&world.server.master);
    let early =
        keys::rotate(&app.pool, &seal, &app.config.keys, RotationPolicy::Patient, world.server.clock.now())
            .await;
    assert!(early.unwrap_err().to_string().contains("--force"));
    let published = jwks(&world.server).await;
    let old = world.first_hop().await;
    key_rotation::run_once(app, world.server.clock.now()).await.unwrap();
    assert_eq!(kid(world.first_hop().await.token()), kid(old.token()), "not due yet");
    world.server.pass(7_200);
    key_rotation::run_once(app, world.server.clock.now()).await.unwrap();
    world
        .server
        .apply(&format!(
            "delegations:\n  - {{id: D2, delegator: {{iss: {}, sub: alice}}, delegate: user-proxy, expires_in: 3600}}",
            crate::support::world::IDP
        ))
        .await
        .unwrap();
    let fresh = world.first_hop().await;
    assert_ne!(kid(fresh.token()), kid(old.token()));
    assert!(kids(&published).contains(&kid(fresh.token()).as_str()), "it was in the set before it signed");
    let own = world.user_proxy.exchange(&twin, fresh.token(), ACCESS_TOKEN).send().await;
    assert_eq!(own.status, 200, "another server reads the new key when it meets it: {}", own.text);
    let still = jwks(&world.server).await;
    assert!(kids(&still).contains(&kid(old.token()).as_str()), "the old one is still there");
    assert_eq!(still.len(), 3);
    // A token that the old key signed at the last moment keeps the key in the set.
    let mut sql = world.server.sql().await;
    let update = "UPDATE issued_token SET expires_at = $1 WHERE kid = $2";
    let late = world.server.clock.now() + time::Duration::seconds(300);
    sqlx::query(update).bind(late).bind(kid(old.token())).execute(&mut sql).await.unwrap();
    world.server.pass(299);
    key_rotation::run_once(app, world.server.clock.now()).await.unwrap();
    assert!(kids(&jwks(&world.server).await).contains(&kid(old.token()).as_str()));
    world.server.pass(1);
    key_rotation::run_once(app, world.server.clock.now()).await.unwrap();
    let after = jwks(&world.server).await;
    assert!(!kids(&after).contains(&kid(old.token()).as_str()), "removed with the last token");
    let stages: Vec<_> =
        world.server.events().await.into_iter().filter(|event| event["action"] == "key.changed").collect();
    assert!(stages.iter().any(|event| event["detail"]["stage"] == "removed"));
    assert!(stages.iter().all(|event| event["actor"] == json!({"type": "server"})), "{stages:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_by_an_operator_names_the_operator() {
    let world = World::new().await;
    let app = &world.server.app;
    let (seal, now) = (SealingKey::of(&world.server.master), world.server.clock.now());
    keys::rotate(&app.pool, &seal, &app.config.keys, RotationPolicy::Forced, now).await.unwrap();
    keys::rotate_log(&app.pool, &seal, now).await.unwrap();
    let events = world.server.events().await;
    let changes: Vec<_> = events.iter().filter(|event| event["action"] == "key.changed").collect();
    let (created, rotated) = changes.split_at(3);
    assert!(created.iter().all(|event| event["actor"] == json!({"type": "server"})), "{created:#?}");
    assert_eq!(rotated.len(), 5);
    assert!(rotated.iter().all(|event| event["actor"] == json!({"type": "operator"})), "{rotated:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_sealed_and_another_master_key_is_noticed_by_name() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    let sealed: Vec<String> =
        sqlx::query_scalar("SELECT sealed FROM signing_key").fetch_all(&mut sql).await.unwrap();
    assert!(sealed.iter().all(|one| one.split('.').count() == 5), "JWEs");
    let other = SealingKey::of(&MasterKey::generate().unwrap());
    let settings = &world.server.app.config.keys;
    let refused =
        keys::ensure(&world.server.app.pool, &other, settings, world.server.clock.now()).await.unwrap_err();
    assert!(refused.to_string().contains(&world.server.master.id()), "{refused}");
    sqlx::query("UPDATE signing_key SET sealed = (SELECT sealed FROM signing_key s WHERE s.kid <> signing_key.kid LIMIT 1)")
        .execute(&mut sql)
        .await
        .unwrap();
    let swapped = world.server.app.refresh_keyring().await.unwrap_err();
    assert!(swapped.to_string().contains("another row"), "{swapped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_that_is_planted_in_the_database_verifies_nothing() {
    let world = World::new().await;
    let token = world.first_hop().await;
    let planted = SigningKey::generate(SigningAlg::ES256).unwrap().0;
    let mut sql = world.server.sql().await;
    let before = jwks(&world.server).await;
    sqlx::query("UPDATE signing_key SET public_jwk = $1 WHERE purpose = 'token'")
        .bind(planted.public_jwk())
        .execute(&mut sql)
        .await
        .unwrap();
    let restarted = world.server.twin().await;
    assert_eq!(kids(&jwks(&restarted).await), kids(&before), "those of the sealed private keys");
    let own = async |token: &str| world.user_proxy.exchange(&restarted, token, ACCESS_TOKEN).send().await;
    let forged = planted.sign("at+jwt", &token.claims()).unwrap();
    own(&forged).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(own(token.token()).await.status, 200);
    // A second row needs a seal of its own.
    sqlx::query(
        "INSERT INTO signing_key (kid, purpose, alg, public_jwk, sealed, created_at, activated_at, retired_at)
         SELECT $1, purpose, alg, $2, sealed, created_at, activated_at, now() FROM signing_key
         WHERE purpose = 'token' AND activated_at IS NOT NULL",
    )
    .bind(planted.kid())
    .bind(planted.public_jwk())
    .execute(&mut sql)
    .await
    .unwrap();
    let refused = restarted.app.refresh_keyring().await.unwrap_err().to_string();
    assert!(refused.contains("another row"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_that_start_at_once_make_one_set_of_keys() {
    let world = World::new().await;
    let app = &world.server.app;
    let mut sql = world.server.sql().await;
    sqlx::query("DELETE FROM signing_key").execute(&mut sql).await.unwrap();
    let seal = SealingKey::of(&world.server.master);
    let ensure = || keys::ensure(&app.pool, &seal, &app.config.keys, world.server.clock.now());
    let (one, two) = tokio::join!(ensure(), ensure());
    one.and(two).unwrap();
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM signing_key").fetch_one(&mut sql).await.unwrap();
    assert_eq!(count, 3);
}
