//! What introspection (RFC 7662) reads from the database and what it remembers: many requests share one read, and neither
//! a damaged row of one of them nor a remembered signature changes an answer.

use actchain::domain::token::status_reader::StatusQuestion;
use actchain::platform::seal::SealingKey;
use actchain::services::keys::{self, RotationPolicy};
use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

use crate::support::locks::waiting;
use crate::support::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_fails_only_the_question_about_it() {
    let world = World::new().await;
    let good = world.first_hop().await.claims();
    world.granted("bob", json!({})).await.with_status(201);
    let damaged = world.first_hop_of("bob").send().await.with_status(200).claims();
    let mut sql = world.server.sql().await;
    sqlx::query("UPDATE delegation SET max_depth = 9 WHERE id = $1")
        .bind(damaged["dlg"].as_str().unwrap())
        .execute(&mut sql)
        .await
        .unwrap();
    let read = |claims: &serde_json::Value| {
        let jti: Uuid = claims["jti"].as_str().unwrap().parse().unwrap();
        world.server.app.statuses.read(StatusQuestion { client_id: None, jti: Some(jti) })
    };
    // The first read waits, so the second question shares a read with the first or with the third.
    let mut lock = sql.begin().await.unwrap();
    lock.execute("LOCK TABLE registry IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let release = async {
        waiting(&mut lock).await;
        lock.rollback().await.unwrap();
    };
    let (first, second, third, ()) = tokio::join!(read(&good), read(&damaged), read(&good), release);
    assert!(second.unwrap_err().to_string().contains("MAC"));
    for answer in [first, third] {
        let token = answer.unwrap().token.unwrap();
        assert_eq!(token.check(world.server.clock.now()), Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_nothing_that_is_stored_has_an_answer() {
    let world = World::new().await;
    let question = |client_id: &str| StatusQuestion {
        client_id: Some(client_id.to_owned()),
        jti: Some(Uuid::from_u128(7)),
    };
    let statuses = &world.server.app.statuses;
    let (known, unknown) =
        tokio::join!(statuses.read(question("mail-server")), statuses.read(question("unknown")));
    let (known, unknown) = (known.unwrap(), unknown.unwrap());
    assert!(known.client_version.is_some() && known.token.is_none());
    assert_eq!((unknown.client_version, unknown.token), (None, None));
    assert_eq!(unknown.registry_version, world.server.app.registry().version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_while_a_proof_is_used_up_is_inactive() {
    let world = World::new().await;
    let token = world.first_hop().await;
    let mut sql = world.server.sql().await;
    let mut authority = sql.begin().await.unwrap();
    authority.execute("SELECT pg_advisory_xact_lock(7223459)").await.unwrap();
    let revoke = async {
        waiting(&mut authority).await;
        let revoke = sqlx::query("UPDATE issued_token SET revoked_at = now() WHERE jti::text = $1");
        revoke.bind(token.claims()["jti"].as_str().unwrap()).execute(&mut *authority).await.unwrap();
        authority.commit().await.unwrap();
    };
    let proven = world.mail_server.at(&world.server, "/oauth/introspect").param("token", token.token());
    let (answer, ()) = tokio::join!(proven.send(), revoke);
    assert_eq!(answer.with_status(200).json, json!({"active": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_introspected_before_ends_with_its_key() {
    let world = World::new().await;
    let app = &world.server.app;
    let token = world.first_hop().await;
    let active = async || world.introspect(&world.mail_server, token.token()).await.json["active"].clone();
    assert_eq!((active().await, active().await), (json!(true), json!(true)));
    let seal = SealingKey::of(&world.server.master);
    keys::rotate(&app.pool, &seal, &app.config.keys, RotationPolicy::Forced, world.server.clock.now())
        .await
        .unwrap();
    app.refresh_keyring().await.unwrap();
    assert_eq!(active().await, json!(true), "the retired key still verifies");
    let mut sql = world.server.sql().await;
    sql.execute("DELETE FROM signing_key WHERE purpose = 'token' AND retired_at IS NOT NULL").await.unwrap();
    app.refresh_keyring().await.unwrap();
    assert_eq!(active().await, json!(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_introspected_before_ends_at_its_time() {
    let world = World::new().await;
    let token = world.first_hop().await;
    let active = async || world.introspect(&world.mail_server, token.token()).await.json["active"].clone();
    assert_eq!(active().await, json!(true));
    world.server.pass(token.claims()["exp"].as_i64().unwrap() - token.claims()["iat"].as_i64().unwrap());
    assert_eq!(active().await, json!(false));
}
