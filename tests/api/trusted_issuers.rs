//! Trusted issuers and their keys: fetched, cached, refreshed, and every fault of a JWKS endpoint.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actchain_protocol::jose::{SigningAlg, SigningKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::Answer;
use crate::support::agent::JWT;
use crate::support::world::{IDP, MAIL, World};

fn set(keys: &[&SigningKey]) -> ResponseTemplate {
    let keys: Vec<_> = keys.iter().map(|key| key.public_jwk()).collect();
    ResponseTemplate::new(200).set_body_raw(json!({"keys": keys}).to_string(), "application/json")
}

/// A world whose identity provider publishes its keys at a URL.
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
async fn keys_are_fetched_once_and_again_for_an_unknown_kid() {
    let publisher = MockServer::start().await;
    let world = world_with(&publisher).await;
    answer_is(&publisher, set(&[&world.idp])).await;
    assert_eq!(ask(&world, &world.idp).await.status, 200);
    assert_eq!(ask(&world, &world.idp).await.status, 200);
    assert_eq!(publisher.received_requests().await.unwrap().len(), 1);
    let (next, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    answer_is(&publisher, set(&[&world.idp, &next])).await;
    ask(&world, &next).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(publisher.received_requests().await.unwrap().len(), 0, "at most once in ten seconds");
    world.server.pass(10);
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
async fn a_publisher_without_keys_makes_no_token_invalid() {
    let publisher = MockServer::start().await;
    let world = world_with(&publisher).await;
    answer_is(&publisher, set(&[])).await;
    ask(&world, &world.idp).await.assert_refused(503, "temporarily_unavailable", "issuer_unavailable");
    answer_is(&publisher, set(&[&world.idp])).await;
    world.server.pass(6);
    assert_eq!(ask(&world, &world.idp).await.status, 200);
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
async fn private_addresses_are_refused_when_declared() {
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
async fn an_issuers_token_signed_with_the_key_of_another_issuer_is_refused() {
    let world = World::new().await;
    let (other, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let yaml = format!(
        "issuers:\n  - {{iss: \"https://other.example.com\", jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [EdDSA], alias: other}}",
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

/// A publisher that answers once with a key set, and never again.
struct Hanging {
    url: String,
    /// Requests that wait for a response, and requests that were cancelled.
    waiting: Arc<AtomicUsize>,
    disconnected: Arc<AtomicUsize>,
}

impl Hanging {
    async fn after(set: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let hanging = Self { url, waiting: Arc::default(), disconnected: Arc::default() };
        let (waiting, disconnected) = (Arc::clone(&hanging.waiting), Arc::clone(&hanging.disconnected));
        tokio::spawn(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            request(&mut first).await;
            let length = set.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            first.write_all(format!("{head}{set}").as_bytes()).await.unwrap();
            drop(first);
            while let Ok((mut connection, _)) = listener.accept().await {
                request(&mut connection).await;
                waiting.fetch_add(1, Ordering::SeqCst);
                let _closed = connection.read_u8().await;
                disconnected.fetch_add(1, Ordering::SeqCst);
            }
        });
        hanging
    }
}

async fn request(connection: &mut TcpStream) -> Option<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(connection.read_u8().await.ok()?);
    }
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_an_unknown_key_does_not_delay_others_while_the_publisher_hangs() {
    let (stranger, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    // Current, and a little older: both are answered during the fetch.
    for age in [10, 700] {
        let world = World::new().await;
        let set = json!({"keys": [world.idp.public_jwk()]}).to_string();
        let publisher = Hanging::after(set).await;
        declare(&world, &publisher.url).await.unwrap();
        assert_eq!(ask(&world, &world.idp).await.status, 200);
        world.server.pass(age);
        let known = async {
            while publisher.waiting.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            ask(&world, &world.idp).await.status
        };
        let status = tokio::select! {
            biased;
            _ = ask(&world, &stranger) => panic!("the forged token was answered first"),
            status = known => status,
        };
        assert_eq!(status, 200, "{age}");
        assert_eq!(publisher.disconnected.load(Ordering::SeqCst), 0, "the publisher is still waited for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_under_the_name_of_an_old_one_is_found() {
    let publisher = MockServer::start().await;
    let world = world_with(&publisher).await;
    let (next, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let mut old = world.idp.public_jwk();
    old["kid"] = json!(next.kid());
    let body = json!({"keys": [old]}).to_string();
    answer_is(&publisher, ResponseTemplate::new(200).set_body_raw(body, "application/json")).await;
    ask(&world, &next).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(world.server.last_event().await["detail"]["cause"], "signature");
    answer_is(&publisher, set(&[&next])).await;
    ask(&world, &next).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(publisher.received_requests().await.unwrap().len(), 0, "fetched just now");
    world.server.pass(10);
    assert_eq!(ask(&world, &next).await.status, 200);
    assert_eq!(publisher.received_requests().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_key_cannot_be_fetched_is_neither_accepted_nor_called_invalid() {
    let publisher = MockServer::start().await;
    let world = world_with(&publisher).await;
    answer_is(&publisher, set(&[&world.idp])).await;
    assert_eq!(ask(&world, &world.idp).await.status, 200);
    let (next, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    answer_is(&publisher, ResponseTemplate::new(500)).await;
    world.server.pass(10);
    for _ in 0..2 {
        let answer = ask(&world, &next).await;
        answer.assert_refused(503, "temporarily_unavailable", "issuer_unavailable");
        assert!(answer.header("retry-after").is_some());
        assert_eq!(ask(&world, &world.idp).await.status, 200, "what is known stays known");
    }
    answer_is(&publisher, set(&[&world.idp, &next])).await;
    world.server.pass(5);
    assert_eq!(ask(&world, &next).await.status, 200);
}

/// Answers one request on each connection, and closes the connection at the second request.
async fn close_at_the_second_request(mut connection: TcpStream, body: Arc<Mutex<String>>) {
    if request(&mut connection).await.is_none() {
        return;
    }
    let body = body.lock().unwrap().clone();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let _second = connection.read_u8().await;
}

// RFC 9110 §9.2.2
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_is_closed_unanswered_costs_no_answer() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let published = |keys: &[&SigningKey]| {
        json!({"keys": keys.iter().map(|key| key.public_jwk()).collect::<Vec<Value>>()}).to_string()
    };
    let body = Arc::new(Mutex::new(published(&[&world.idp])));
    let served = Arc::clone(&body);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(close_at_the_second_request(connection, Arc::clone(&served)));
        }
    });
    declare(&world, &url).await.unwrap();
    assert_eq!(ask(&world, &world.idp).await.status, 200);
    let (next, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    *body.lock().unwrap() = published(&[&world.idp, &next]);
    world.server.pass(10);
    assert_eq!(ask(&world, &next).await.status, 200);
}

// RFC 9110 §8.3, §8.4; RFC 8259 §8.1
#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_read_under_each_media_type_and_common_content_coding() {
    let publisher = MockServer::start().await;
    let world = world_with(&publisher).await;
    let body = json!({"keys": [world.idp.public_jwk()]}).to_string();
    let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    coder.write_all(body.as_bytes()).unwrap();
    let coded = coder.finish().unwrap();
    let ok = || ResponseTemplate::new(200);
    let good = [
        ("as HTML", ok().set_body_raw(body.clone(), "text/html; charset=utf-8")),
        ("as a plain text", ok().set_body_raw(body.clone(), "text/plain")),
        ("as bytes", ok().set_body_raw(body.clone(), "application/octet-stream")),
        ("without a type", ok().set_body_raw(body.clone(), "")),
        ("with a byte order mark", ok().set_body_raw(format!("\u{feff}{body}"), "application/json")),
        (
            "gzip",
            ok().set_body_raw(coded.clone(), "application/json").insert_header("content-encoding", "gzip"),
        ),
    ];
    for (what, response) in good {
        answer_is(&publisher, response).await;
        declare(&world, &format!("{}/{}", publisher.uri(), what.replace(' ', "-"))).await.unwrap();
        let answer = ask(&world, &world.idp).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text);
        let request = publisher.received_requests().await.unwrap().remove(0);
        assert_eq!(request.headers.get("accept-encoding").unwrap(), "identity");
    }
    let other = ok().set_body_raw(coded, "application/json").insert_header("content-encoding", "br");
    answer_is(&publisher, other).await;
    declare(&world, &format!("{}/br", publisher.uri())).await.unwrap();
    ask(&world, &world.idp).await.assert_refused(503, "temporarily_unavailable", "issuer_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_number_with_a_leading_zero_is_the_same_number() {
    use actchain_protocol::base64url;
    let publisher = MockServer::start().await;
    let world = World::new().await;
    let yaml = format!(
        "issuers:\n  - {{iss: {IDP}, jwks_uri: \"{}\", audiences: [actchain], algorithms: [RS256]}}",
        publisher.uri()
    );
    world.server.apply(&yaml).await.unwrap();
    let (key, _) = SigningKey::generate(SigningAlg::RS256).unwrap();
    let mut jwk = key.public_jwk();
    let n = base64url::decode(jwk["n"].as_str().unwrap()).unwrap();
    jwk["n"] = json!(base64url::encode([&[0][..], &n].concat()));
    let body = json!({"keys": [jwk]}).to_string();
    answer_is(&publisher, ResponseTemplate::new(200).set_body_raw(body, "application/json")).await;
    assert_eq!(ask(&world, &key).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_with_keys_of_every_odd_kind_verifies_by_its_good_key_alone() {
    let publisher = MockServer::start().await;
    let world = World::new().await;
    let good = world.idp.public_jwk();
    let (other, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let with = |members: Value| {
        let mut jwk = good.clone();
        jwk.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        jwk
    };
    let without = |name: &str| {
        let mut jwk = good.clone();
        jwk.as_object_mut().unwrap().remove(name);
        jwk
    };
    let kid = good["kid"].clone();
    let number = |bytes: usize| actchain_protocol::base64url::encode(vec![0xf1; bytes]);
    let odd = [
        // Not for signatures, or not public.
        json!({"kty": "oct", "kid": kid, "k": "c2VjcmV0", "alg": "HS256"}),
        with(json!({"d": number(32)})),
        with(json!({"use": "enc"})),
        with(json!({"key_ops": ["encrypt"]})),
        // Of kinds that are not supported.
        json!({"kty": "EC", "kid": kid, "crv": "P-521", "x": number(66), "y": number(66)}),
        json!({"kty": "EC", "kid": kid, "crv": "secp256k1", "x": good["x"], "y": good["y"]}),
        json!({"kty": "OKP", "kid": kid, "crv": "X25519", "x": number(32)}),
        json!({"kty": "OKP", "kid": kid, "crv": "Ed448", "x": number(57)}),
        json!({"kty": "AKP", "kid": kid, "alg": "ML-DSA-44", "pub": number(1312)}),
        json!({"kty": "RSA", "kid": kid, "n": number(128), "e": "AQAB"}),
        json!({"kty": "RSA", "kid": kid, "n": number(2048), "e": "AQAB"}),
        json!({"kty": "RSA", "kid": kid, "n": number(256), "e": "AQ"}),
        with(json!({"alg": "ES256K"})),
        with(json!({"alg": "none"})),
        // Malformed.
        with(json!({"alg": "RS256"})),
        with(json!({"kty": "OKP"})),
        with(json!({"crv": "P-384"})),
        with(json!({"x": good["y"]})),
        with(json!({"x": number(31)})),
        with(json!({"x": 7})),
        with(json!({"kid": 7})),
        without("x"),
        without("kty"),
        json!({"kty": "RSA", "kid": kid}),
        json!({"x5c": ["MIIB"], "kid": kid}),
        json!({}),
        json!([]),
        json!(null),
        json!("key"),
        json!(5),
    ];
    let published = async |name: &str, keys: &[Value]| {
        let body = json!({"keys": keys}).to_string();
        answer_is(&publisher, ResponseTemplate::new(200).set_body_raw(body, "application/json")).await;
        // Sets are cached by their URL.
        declare(&world, &format!("{}/{name}", publisher.uri())).await.unwrap();
    };
    for (number, one) in odd.iter().enumerate() {
        published(&format!("alone/{number}"), std::slice::from_ref(one)).await;
        let answer = ask(&world, &world.idp).await;
        assert!([400, 503].contains(&answer.status), "{one}: {}", answer.text);
        published(&format!("beside/{number}"), &[one.clone(), good.clone()]).await;
        assert_eq!(ask(&world, &world.idp).await.status, 200, "{one}");
    }
    // All at once, and another good key of the same name before and after the key that signs.
    let mut twin = other.public_jwk();
    twin["kid"] = kid.clone();
    published("all", &[&odd[..], &[twin.clone(), good.clone(), twin], &odd[..]].concat()).await;
    ask(&world, &world.idp).await.with_status(200);
}
