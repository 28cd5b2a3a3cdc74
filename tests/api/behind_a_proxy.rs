//! A server behind proxies: whose address is recorded and limited, which ids are taken over, and that neither host nor
//! scheme of a request means anything.

use serde_json::Value;

use crate::support::Answer;
use crate::support::agent::{JWT, Request, basic};
use crate::support::management::Api;
use crate::support::world::World;

const TRUSTED: &str = "[http]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n";
const CLIENT: &str = "198.51.100.7";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The event and the answer of an exchange with these header fields.
async fn exchange(world: &World, fields: &[(&str, &str)]) -> (Value, Answer) {
    let token = world.user_token();
    let request = world.user_proxy.exchange(&world.server, &token, JWT);
    let answer =
        fields.iter().fold(request, |request, (name, value)| request.header(name, *value)).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    (world.server.last_event().await, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_proxies_name_address_request_and_trace_of_the_client() {
    let world = World::configured(TRUSTED).await;
    let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
    for (name, value) in [
        ("x-forwarded-for", format!("192.0.2.66, {CLIENT}, 10.1.1.1")),
        ("forwarded", format!("for=192.0.2.66, for=\"{CLIENT}:4711\";proto=https, for=10.1.1.1")),
    ] {
        let fields = [(name, value.as_str()), ("x-request-id", "edge-1.a"), ("traceparent", &traceparent)];
        let (event, answer) = exchange(&world, &fields).await;
        assert_eq!(event["ip"], CLIENT, "{name}");
        assert_eq!((&event["request_id"], &event["trace_id"]), (&"edge-1.a".into(), &TRACE_ID.into()));
        assert_eq!(answer.header("x-request-id"), Some("edge-1.a"));
    }
    let forged = [("x-forwarded-for", CLIENT), ("forwarded", "for=192.0.2.66")];
    assert_eq!(exchange(&world, &forged).await.0["ip"], "127.0.0.1", "the fields contradict each other");
    let (event, answer) = exchange(&world, &[("x-request-id", "a b\"}"), ("traceparent", "00-1-2-3")]).await;
    assert_eq!(event["request_id"].as_str(), answer.header("x-request-id"));
    assert_eq!(event["request_id"].as_str().unwrap().len(), 36, "an id of the server");
    assert_eq!(event.get("trace_id"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_no_trusted_proxy_names_nothing() {
    let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
    for config in ["", "[http]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n"] {
        let world = World::configured(config).await;
        let (event, answer) = exchange(
            &world,
            &[
                ("x-forwarded-for", CLIENT),
                ("forwarded", "for=198.51.100.7"),
                ("x-real-ip", CLIENT),
                ("x-request-id", "forged"),
                ("traceparent", &traceparent),
            ],
        )
        .await;
        assert_eq!((&event["ip"], event.get("trace_id")), (&"127.0.0.1".into(), None));
        assert_ne!(event["request_id"], "forged");
        assert_eq!(event["request_id"].as_str(), answer.header("x-request-id"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_behind_a_proxy_are_limited_for_the_address_of_the_client() {
    let limited = "[limits]\nfailed_auth_per_minute = 2\n";
    let guesses = async |world: &World, clients: [&str; 5]| {
        let mut statuses = Vec::new();
        for (n, client) in clients.into_iter().enumerate() {
            let secret = basic("email-svc", &format!("guess-{n}"));
            let guess = Request::to(&world.server).header("authorization", secret);
            statuses.push(guess.header("x-forwarded-for", client).send().await.status);
        }
        statuses
    };
    let world = World::configured(&format!("{TRUSTED}{limited}")).await;
    let (one, other) = (CLIENT, "198.51.100.8");
    assert_eq!(guesses(&world, [one, one, one, other, other]).await, [401, 401, 429, 401, 401]);
    let forged = ["192.0.2.1, 198.51.100.9", "192.0.2.2, 198.51.100.9", "192.0.2.3, 198.51.100.9", "x", "y"];
    assert_eq!(
        guesses(&world, forged).await,
        [401, 401, 429, 401, 401],
        "what the client sent does not count"
    );
    let world = World::configured(limited).await;
    let each = ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5"];
    assert_eq!(guesses(&world, each).await, [401, 401, 429, 429, 429], "the peer is no proxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_host_nor_scheme_of_a_request_changes_a_document_or_a_proof() {
    let world = World::configured(TRUSTED).await;
    let forged = [
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "444"),
        ("x-forwarded-prefix", "/evil"),
        ("forwarded", "for=198.51.100.7;host=evil.example;proto=https"),
    ];
    for path in ["/.well-known/oauth-authorization-server", "/oauth/jwks", "/audit/checkpoint"] {
        let plain = Api::get(&world.server, path).send().await;
        let call =
            forged.iter().fold(Api::get(&world.server, path), |call, (name, value)| call.header(name, value));
        let answer = call.send().await;
        assert_eq!((answer.status, &answer.text), (plain.status, &plain.text), "{path}");
        assert!(!format!("{:?}", answer.headers).contains("evil"), "{path}");
    }
    let (event, answer) = exchange(&world, &forged).await;
    assert_eq!(event["ip"], CLIENT);
    assert_eq!(answer.claims()["iss"], world.server.app.issuer);
}
