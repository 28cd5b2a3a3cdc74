//! `openapi.yaml` tells the truth: every route is in it and nothing else, and real answers fit its schemas.

use std::collections::BTreeSet;

use actchain::http::ROUTES;
use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{JWT, Request};
use crate::support::world::{MAIL, World};

fn description() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml");
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(&std::fs::read_to_string(path).unwrap(), options).unwrap()
}

/// A validator for one of the named schemas.
fn validator(description: &Value, name: &str) -> jsonschema::Validator {
    assert!(description["components"]["schemas"][name].is_object(), "{name} is described");
    let schemas = &description["components"]["schemas"];
    let schema = json!({"$ref": format!("#/components/schemas/{name}"), "components": {"schemas": schemas}});
    jsonschema::options().with_draft(jsonschema::Draft::Draft202012).build(&schema).unwrap()
}

#[track_caller]
fn assert_fits(description: &Value, name: &str, answer: &Value) {
    let problems: Vec<String> =
        validator(description, name).iter_errors(answer).map(|error| error.to_string()).collect();
    assert!(problems.is_empty(), "{name}: {problems:?} in {answer}");
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let description = description();
    let mut described: BTreeSet<(String, String)> = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        let methods = item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| ["get", "post", "put", "delete", "patch"].contains(&key.as_str()));
        described.extend(methods.map(|method| (path.clone(), method.to_uppercase())));
    }
    let mut served: BTreeSet<(String, String)> = ROUTES
        .iter()
        .flat_map(|(path, methods)| methods.iter().map(|method| ((*path).to_owned(), (*method).to_owned())))
        .collect();
    served.insert(("/.well-known/openid-configuration".into(), "GET".into()));
    assert_eq!(described, served);
}

#[tokio::test(flavor = "multi_thread")]
async fn real_answers_fit_their_schemas() {
    let description = description();
    let world = World::new().await;
    let exchange =
        || world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
    assert_fits(&description, "TokenResponse", &world.third_hop().await.json);
    let details =
        exchange().param("authorization_details", r#"[{"type":"mailbox","actions":["read"]}]"#).send().await;
    assert_fits(&description, "TokenResponse", &details.json);
    let own = world
        .user_proxy
        .request(&world.server)
        .param("grant_type", "client_credentials")
        .param("audience", MAIL);
    assert_fits(&description, "TokenResponse", &own.send().await.json);
    let refusals = [
        exchange().param("scope", "nothing").send().await,
        exchange().param("scope", "a  b").send().await,
        exchange().set("audience", "https://unknown.example.com").send().await,
        exchange().set("subject_token", "x").send().await,
        exchange().without("dpop").send().await,
        exchange().without("subject_token").send().await,
        exchange().param("scope", "a").param("scope", "b").send().await,
        exchange().param("authorization_details", "x").send().await,
        world.user_proxy.request(&world.server).param("grant_type", "x").send().await,
        world.stranger.exchange(&world.server, &world.user_token(), JWT).send().await,
        Request::to(&world.server).send().await,
    ];
    for refusal in refusals {
        assert_fits(&description, "OAuthError", &refusal.json);
        let documented =
            &description["paths"]["/oauth/token"]["post"]["responses"][refusal.status.to_string()];
        assert!(documented.is_object(), "{} is documented", refusal.status);
    }
    for (path, schema) in [
        ("/oauth/jwks", "Jwks"),
        ("/.well-known/oauth-authorization-server", "Metadata"),
        ("/.well-known/openid-configuration", "Metadata"),
        ("/health", "Health"),
        ("/ready", "Health"),
        ("/nothing", "Problem"),
    ] {
        let answer = Answer::read(reqwest::get(format!("{}{path}", world.server.base)).await.unwrap()).await;
        assert_fits(&description, schema, &answer.json);
    }
    assert!(
        !validator(&description, "TokenResponse").is_valid(&json!({"access_token": "x"})),
        "the schemas can fail"
    );
}
