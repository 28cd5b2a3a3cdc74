//! For operators: health, metrics, limits, discovery.

use actchain::domain::ledger::Entry;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::support::Answer;
use crate::support::agent::{JWT, basic};
use crate::support::locks::waiting;
use crate::support::world::{MAIL, World};

async fn get(world: &World, path: &str) -> Answer {
    Answer::read(reqwest::get(format!("{}{path}", world.server.base)).await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_ready_and_unknown_paths() {
    let world = World::new().await;
    assert_eq!((get(&world, "/health").await.status, get(&world, "/ready").await.status), (200, 200));
    let missing = get(&world, "/nothing").await;
    assert_eq!((missing.status, missing.header("content-type")), (404, Some("application/problem+json")));
    assert_eq!(
        missing.json,
        json!({"type": "about:blank", "title": "Not Found", "status": 404}),
        "RFC 9457 §3.1"
    );
    let head = reqwest::Client::new().head(format!("{}/health", world.server.base)).send().await.unwrap();
    assert_eq!(head.status().as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_another_version_is_refused_by_name() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    sqlx::query("INSERT INTO _sqlx_migrations SELECT 9999, '', now(), true, '', 0")
        .execute(&mut sql)
        .await
        .unwrap();
    let schema = actchain::platform::db::schema(&mut sql).await.unwrap();
    let newer = schema.require_current("the database").unwrap_err().to_string();
    assert!(newer.contains("9999") && newer.contains("newer"), "{newer}");
    assert_eq!(get(&world, "/ready").await.status, 503);
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version > 1").execute(&mut sql).await.unwrap();
    let schema = actchain::platform::db::schema(&mut sql).await.unwrap();
    let older = schema.require_current("the database").unwrap_err().to_string();
    assert!(older.contains("actchain migrate"), "{older}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_requests_refusals_batches_and_cryptography_without_naming_clients() {
    let world = World::new().await;
    world.first_hop().await;
    let scope = world
        .user_proxy
        .exchange(&world.server, &world.user_token(), JWT)
        .param("scope", "nothing")
        .send()
        .await;
    assert_eq!(scope.status, 400);
    let text = get(&world, "/metrics").await.text;
    for name in [
        "actchain_requests_total{route=\"/oauth/token\",status=\"ok\"}",
        "actchain_refusals_total{reason=\"scope_exceeds_grant\"}",
        "actchain_ledger_batch_size",
        "actchain_ledger_commit_seconds",
        "actchain_ledger_queue_depth",
        "actchain_crypto_seconds",
        "actchain_request_seconds",
    ] {
        assert!(text.contains(name), "{name}");
    }
    assert!(!text.contains("user-proxy") && !text.contains("alice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_has_exactly_this_issuer_at_every_well_known_path() {
    let world = World::configured("issuer = \"https://as.example.com/t1\"").await;
    let paths = [
        "/.well-known/oauth-authorization-server/t1",
        "/.well-known/openid-configuration/t1",
        "/t1/.well-known/openid-configuration",
    ];
    let documents = futures_util::future::join_all(paths.map(|path| get(&world, path))).await;
    assert!(documents.iter().all(|document| document.status == 200 && document.json == documents[0].json));
    let document = &documents[0].json;
    assert_eq!(document["issuer"], "https://as.example.com/t1");
    assert_eq!(document["token_endpoint"], "https://as.example.com/t1/oauth/token");
    assert_eq!(
        document["authorization_details_types_supported"],
        json!(["mailbox", "vault_connection"]),
        "RFC 9396 §10"
    );
    assert!(
        document.as_object().unwrap().values().all(|value| *value != Value::Array(Vec::new())),
        "RFC 8414 §3.2"
    );
    for listed in [
        "grant_types_supported",
        "token_endpoint_auth_methods_supported",
        "dpop_signing_alg_values_supported",
    ] {
        assert!(document[listed].is_array(), "RFC 8414 §2: {listed}");
    }
    assert_eq!(
        get(&world, "/.well-known/oauth-authorization-server").await.status,
        404,
        "not the root's document"
    );
    assert_eq!(get(&world, "/t1/oauth/jwks").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_above_its_rate_has_to_wait_and_no_other_client_does() {
    let world = World::configured("[limits]\nrequests_per_second_per_client = 1").await;
    let ask = async || {
        let request = world.email_svc.request(&world.server).param("grant_type", "client_credentials");
        request.param("audience", MAIL).send().await
    };
    let before = world.server.events().await.len();
    let answers = futures_util::future::join_all((0..6).map(|_| ask())).await;
    let rate_limited: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!rate_limited.is_empty());
    assert_eq!(
        (rate_limited[0].error(), rate_limited[0].header("retry-after")),
        ("temporarily_unavailable", Some("1"))
    );
    assert_eq!(rate_limited[0].header("cache-control"), Some("no-store"), "RFC 6585 §4");
    let granted = answers.len() - rate_limited.len();
    assert_eq!(world.server.events().await.len(), before + granted, "a limit does not fill the log");
    assert_eq!(world.first_hop().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_503_at_once() {
    let world = World::configured("[ledger]\nqueue = 1\nbatch = 1").await;
    let user = world.user_token();
    let requests =
        (0..40).map(|_| world.user_proxy.exchange(&world.server, &user, JWT).param("audience", MAIL).send());
    let answers = futures_util::future::join_all(requests).await;
    let turned_away = answers.iter().filter(|answer| answer.status == 503).collect::<Vec<_>>();
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.status == 503));
    assert!(
        !turned_away.is_empty() && turned_away.iter().all(|answer| answer.header("retry-after").is_some())
    );
    let issued =
        world.server.events().await.iter().filter(|event| event["action"] == "oauth.token.exchanged").count();
    assert_eq!(answers.len() - turned_away.len(), issued);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_503_before_anything_is_verified() {
    let world = World::configured("[ledger]\nqueue = 1\nbatch = 1").await;
    let (ledger, now) = (&world.server.app.ledger, world.server.clock.now());
    let mut sql = world.server.sql().await;
    let mut authority = sql.begin().await.unwrap();
    authority.execute("SELECT pg_advisory_xact_lock(7223459)").await.unwrap();
    let first = ledger.enqueue(Entry::at(now)).unwrap();
    waiting(&mut authority).await;
    let second = ledger.enqueue(Entry::at(now)).unwrap();
    let wrong = || {
        let exchange = world.email_svc.exchange(&world.server, "no token", JWT);
        exchange.without("authorization").header("authorization", basic("email-svc", "wrong"))
    };
    let answer = wrong().send().await;
    assert_eq!((answer.status, answer.error()), (503, "temporarily_unavailable"), "{}", answer.text);
    authority.rollback().await.unwrap();
    assert!(first.await.is_ok() && second.await.is_ok());
    assert_eq!(wrong().send().await.status, 401);
}
