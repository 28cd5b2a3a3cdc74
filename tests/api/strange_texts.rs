//! Strings that PostgreSQL does not store: the NUL character, and invalid UTF-8. Every route refuses them, in every
//! place, and they never cause a fault.

use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, JWT, fresh_jti};
use crate::support::contract::Contract;
use crate::support::management::Api;
use crate::support::world::World;

/// Paths with one parameter replaced by such a text; the other parameters are unknown names.
fn paths(template: &str) -> Vec<String> {
    let is_parameter = |segment: &str| segment.starts_with('{');
    let places = template.split('/').enumerate().filter(|(_, segment)| is_parameter(segment));
    let with = |place: usize, text: &str| {
        let one = |(at, segment): (usize, &str)| match (is_parameter(segment), at == place) {
            (true, true) => text.to_owned(),
            (true, false) => "x".to_owned(),
            (false, _) => segment.to_owned(),
        };
        template.split('/').enumerate().map(one).collect::<Vec<_>>().join("/")
    };
    places.flat_map(|(place, _)| ["%00", "a%00b", "%FF"].map(|text| with(place, text))).collect()
}

/// Bodies with such a text as each member, at each depth, and as a name.
fn bodies(properties: &Value) -> Vec<Value> {
    let names = properties.as_object().into_iter().flatten().map(|(name, _)| name.clone());
    let shapes = |name: String| {
        [
            json!({&name: "a\0b"}),
            json!({&name: ["\0"]}),
            json!({&name: {"a": "a\0b"}}),
            json!({&name: [{"a\0b": 1}]}),
        ]
    };
    let mut bodies: Vec<Value> = names.flat_map(shapes).collect();
    bodies.push(json!({"a\0b": 1}));
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_them_in_paths_queries_and_bodies() {
    let world = World::new().await;
    let contract = Contract::read();
    let token = world.management_token(&world.admin).await;
    let send = async |method: &str, path: &str, body: Option<&Value>| {
        let mut api = Api::new(&world.server, method, path).client(&world.admin, &token);
        if let Some(body) = body {
            api = api.json(body);
        }
        let answer = api.send().await;
        // A grant that is not offered is 501, with or without such a text.
        let refused = (400..500).contains(&answer.status) || answer.status == 501;
        assert!(refused, "{method} {path} {body:?}: {} {}", answer.status, answer.text);
    };
    let mut tried = 0;
    for (method, template, operation) in contract.operations() {
        for path in paths(&template) {
            send(&method, &path, None).await;
            tried += 1;
        }
        let path = template.split('/').map(|one| if one.starts_with('{') { "x" } else { one });
        let path = path.collect::<Vec<_>>().join("/");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = contract.resolved(parameter);
            if parameter["in"] == "query" {
                let name = parameter["name"].as_str().unwrap();
                for text in ["%00", "a%00b", "%FF"] {
                    send(&method, &format!("{path}?{name}={text}"), None).await;
                    tried += 1;
                }
            }
        }
        let content = contract.resolved(&operation["requestBody"])["content"]["application/json"].clone();
        if content.is_object() {
            let schema = contract.resolved(&content["schema"]);
            for body in bodies(&schema["properties"]) {
                send(&method, &path, Some(&body)).await;
                tried += 1;
            }
        }
    }
    assert!(tried > 300, "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_proofs_with_them_are_no_good() {
    let world = World::new().await;
    let good = world.first_hop().await;
    for (name, value) in [
        ("sub", json!("a\0b")),
        ("sid", json!("\0")),
        ("jti", json!("\0")),
        ("acr", json!("\0")),
        ("may_act", json!({"sub": "user-proxy\0"})),
        ("x", json!([{"\0": 1}])),
    ] {
        let token = world.user_token_with(|claims| claims[name] = value.clone());
        let answer = world.user_proxy.exchange(&world.server, &token, JWT).send().await;
        answer.assert_refused(400, "invalid_request", "subject_token_invalid");
        let answer = Api::get(&world.server, "/delegate").user(&token).send().await;
        assert_eq!(
            (answer.status, answer.reason()),
            (401, "access_token_invalid"),
            "{name}: {}",
            answer.text
        );
    }
    let exchange = || world.email_svc.exchange(&world.server, good.token(), ACCESS_TOKEN);
    let mut claims = world.email_svc.proof_claims(&world.server);
    claims["jti"] = json!(format!("{}\0", fresh_jti()));
    let proof = world.email_svc.key.sign_proof("dpop+jwt", &claims).unwrap();
    let answer = exchange().set_header("dpop", proof).send().await;
    assert_eq!((answer.status, answer.error()), (400, "invalid_dpop_proof"));
    let mut claims = world.user_proxy.assertion_claims(&world.server);
    claims["jti"] = json!("\0");
    let assertion = world.user_proxy.key.sign("JWT", &claims).unwrap();
    let answer = world.user_proxy.request(&world.server).set("client_assertion", &assertion).send().await;
    assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
    for (name, value) in [
        ("scope", "a\0b"),
        ("audience", "a\0b"),
        ("resource", "https://mail.example.com/\0"),
        ("capability_ceiling", "\0"),
        ("authorization_details", "[{\"type\":\"a\\u0000b\"}]"),
        ("authorization_details", "[{\"type\":\"mailbox\",\"actions\":[\"\\ud800\"]}]"),
        ("x\0", "y"),
    ] {
        let answer = exchange().param(name, value).send().await;
        assert_eq!(answer.status, 400, "{name}={value:?}: {}", answer.text);
    }
    assert_eq!(exchange().send().await.status, 200);
}
