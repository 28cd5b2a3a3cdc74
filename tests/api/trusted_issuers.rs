//! Trusted issuers and their keys: fetched, remembered, asked for again, and everything a JWKS endpoint can do wrong.

use std::time::Duration;

use actchain::platform::jose::{SigningAlg, SigningKey};
use serde_json::json;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::Answer;
use crate::support::agent::JWT;
use crate::support::world::{IDP, MAIL, World};

fn set(keys: &[&SigningKey]) -> ResponseTemplate {
    let keys: Vec<_> = keys.iter().map(|key| key.public_jwk()).collect();
    ResponseTemplate::new(200).set_body_raw(json!({"keys": keys}).to_string(), "application/json")
}

/// A world whose identity provider publishes its keys at an address.
async fn world_with(publisher: &MockServer) -> World {
    let world = World::new().await;
    declare(&world, &publisher.uri()).await.unwrap();
    world
}

async fn declare(world: &World, url: &str) -> Result<(), String> {
    let yaml = format!(
        "issuers:\n  - {{iss: {IDP}, jwks_uri: \"{url}\", audiences: [actchain], algorithms: [ES256]}}"
    );
    world.server.apply(&yaml).await
}

async fn answer_is(publisher: &MockServer, response: ResponseTemplate) {
    publisher.reset().await;
    Mock::given(any()).respond_with(response).mount(publisher).await;
}

async fn ask(world: &World, key: &SigningKey) -> Answer {
    let token = key.sign("JWT", &world.user_claims()).unwrap();
    world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cj_14_keys_are_fetched_once_and_again_for_an_unknown_kid() {
    let publisher = MockServer::start().await;
    let world = world_with(&publisher).await;
    answer_is(&publisher, set(&[&world.idp])).await;
    assert_eq!(ask(&world, &world.idp).await.status, 200);
    assert_eq!(ask(&world, &world.idp).await.status, 200);
    assert_eq!(publisher.received_requests().await.unwrap().len(), 1);
    let (next, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    answer_is(&publisher, set(&[&world.idp, &next])).await;
    ask(&world, &next).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(publisher.received_requests().await.unwrap().len(), 0, "at most once a minute");
    world.server.pass(61);
    assert_eq!(ask(&world, &next).await.status, 200);
    assert_eq!(publisher.received_requests().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_publisher_is_down_its_keys_are_used_for_a_day() {
    let publisher = MockServer::start().await;
    let world = world_with(&publisher).await;
    answer_is(&publisher, set(&[&world.idp])).await;
    assert_eq!(ask(&world, &world.idp).await.status, 200);
    answer_is(&publisher, ResponseTemplate::new(500)).await;
    let again = format!(
        "delegations:\n  - {{id: LONG, delegator: {{iss: {IDP}, sub: alice}}, delegate: user-proxy, expires_in: 1000000}}"
    );
    world.server.apply(&again).await.unwrap();
    world.server.pass(23 * 3600);
    assert_eq!(ask(&world, &world.idp).await.status, 200, "stale, but served");
    world.server.pass(2 * 3600);
    ask(&world, &world.idp).await.assert_refused(503, "temporarily_unavailable", "issuer_unavailable");
    assert_eq!(world.server.last_event().await["reason"], "issuer_unavailable");
    answer_is(&publisher, set(&[&world.idp])).await;
    world.server.pass(6);
    assert_eq!(ask(&world, &world.idp).await.status, 200, "and back by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_publisher_answers_is_an_answer_within_limits() {
    let publisher = MockServer::start().await;
    let world = world_with(&publisher).await;
    let elsewhere = MockServer::start().await;
    answer_is(&elsewhere, set(&[&world.idp])).await;
    let huge = ResponseTemplate::new(200).set_body_raw(vec![b' '; 100 * 1024 * 1024], "application/json");
    let cases = [
        ("redirects", ResponseTemplate::new(302).insert_header("location", elsewhere.uri().as_str())),
        ("answers HTML", ResponseTemplate::new(200).set_body_raw("<html>", "text/html")),
        ("answers no JSON", ResponseTemplate::new(200).set_body_raw("nonsense", "application/json")),
        ("answers no set", ResponseTemplate::new(200).set_body_raw("[]", "application/json")),
        ("answers 100 MB", huge),
        ("answers 404", ResponseTemplate::new(404)),
        ("hangs", set(&[&world.idp]).set_delay(Duration::from_secs(60))),
    ];
    for (what, response) in cases {
        answer_is(&publisher, response).await;
        world.server.pass(61);
        let answer = ask(&world, &world.idp).await;
        assert_eq!((answer.status, answer.reason()), (503, "issuer_unavailable"), "{what}");
        assert!(answer.header("retry-after").is_some());
    }
    assert!(elsewhere.received_requests().await.unwrap().is_empty(), "redirects are not followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn jb_12_private_addresses_are_refused_when_declared() {
    let world = World::new().await;
    for url in [
        "http://10.0.0.1/jwks",
        "https://10.0.0.1/jwks",
        "https://[fc00::1]/",
        "http://example.com/jwks",
        "file:///etc/passwd",
    ] {
        assert!(declare(&world, url).await.unwrap_err().contains("jwks_uri"), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jb_10_an_issuers_token_signed_with_anothers_key_is_refused() {
    let world = World::new().await;
    let (other, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let yaml = format!(
        "issuers:\n  - {{iss: \"https://other.example.com\", jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [EdDSA]}}",
        other.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    ask(&world, &other).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    let mut claims = world.user_claims();
    claims["iss"] = json!("https://other.example.com");
    let token = other.sign("JWT", &claims).unwrap();
    let answer = world.user_proxy.exchange(&world.server, &token, JWT).send().await;
    answer.assert_refused(400, "invalid_request", "subject_token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_whose_keys_changed_is_believed_by_its_new_ones_only() {
    let world = World::new().await;
    let token = world.user_token();
    let ask =
        async || world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await;
    assert_eq!(ask().await.status, 200, "and now it is remembered");
    let (next, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let yaml = format!(
        "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256]}}",
        next.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    ask().await.assert_refused(400, "invalid_request", "subject_token_invalid");
}
