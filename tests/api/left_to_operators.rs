//! What is left to operators: changes by which a stolen token of an administrator would outlast its revocation, or send
//! credentials or names of users elsewhere. The routes for single objects have the same rules as a manifest.

use actchain_protocol::jose::{SigningAlg, SigningKey};
use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{Agent, Auth};
use crate::support::management::Api;
use crate::support::vault::{VaultWorld, names};
use crate::support::world::{IDP, World};

const APPLY: &str = "/api/v1/apply";

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.reason())
}

const LEFT: (u16, &str) = (403, "operator_only");

/// The provider of connected accounts, with some members instead of its own.
fn acme(more: Value) -> Value {
    let mut declared = json!({"token_endpoint": "http://127.0.0.1:9/token", "client_id": "actchain-at-acme",
                              "client_secret": "acme-client-secret-1", "scopes": ["files.read", "files.write"]});
    declared.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    declared
}

fn manifest_of(kind: &str, id: &str, declared: &Value) -> Value {
    let mut entry = declared.clone();
    entry["id"] = json!(id);
    json!({kind: [entry]})
}

async fn tokens(vault: &VaultWorld) -> String {
    let tokens = json!({"access_token": "access-1", "refresh_token": "refresh-1", "expires_in": 3600});
    vault.connected("acme", tokens).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_gives_no_provider_another_address() {
    let vault = VaultWorld::new().await;
    let world = &vault.world;
    let connection = tokens(&vault).await;
    for more in [
        json!({"token_endpoint": "http://127.0.0.1:9/other"}),
        json!({"revocation_endpoint": "https://thief.example.com/revoke"}),
        json!({"authorization_endpoint": "https://thief.example.com/authorize"}),
        json!({"issuer": "https://thief.example.com"}),
        json!({"hosts": ["thief.example.com"]}),
    ] {
        let declared = acme(more);
        let one = world.as_admin("PUT", "/api/v1/providers/acme", declared.clone()).await;
        assert_eq!(refused(&one), LEFT, "{declared}");
        let all = world.as_admin("POST", APPLY, manifest_of("providers", "acme", &declared)).await;
        assert_eq!(refused(&all), LEFT, "{declared}");
        assert!(all.json["detail"].as_str().unwrap().starts_with("manifest:1:"), "{}", all.text);
        let event = world.server.last_event().await;
        assert_eq!((&event["outcome"], &event["reason"]), (&json!("refused"), &json!("operator_only")));
    }
    let shown = world.as_alice("GET", &format!("/api/v1/connections/{connection}"), Value::Null).await;
    assert_eq!(shown.json["state"], "active");
    // What sends nothing elsewhere is an administrator's.
    let renamed = acme(json!({"name": "Acme", "scopes": ["files.read"]}));
    world.as_admin("PUT", "/api/v1/providers/acme", renamed).await.with_status(200);
    let new = json!({"kind": "api_key", "hosts": ["api.example.com"]});
    world.as_admin("PUT", "/api/v1/providers/new", new).await.with_status(201);
    let fewer = json!({"kind": "api_key"});
    world.as_admin("PUT", "/api/v1/providers/new", fewer).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_provider_that_an_operator_moves_are_deleted_and_sent_nowhere() {
    let vault = VaultWorld::new().await;
    let world = &vault.world;
    let connection = tokens(&vault).await;
    let (_, chain) = vault.granted(&connection).await;
    assert_eq!(vault.fetch(&chain[1], &connection).await.status, 200);
    let apply = async |more: Value| {
        world.server.apply(&manifest_of("providers", "acme", &acme(more)).to_string()).await.unwrap();
    };
    // The same origin keeps its tokens.
    apply(json!({"token_endpoint": "http://127.0.0.1:9/v2/token"})).await;
    assert_eq!(vault.fetch(&chain[1], &connection).await.status, 200);
    apply(json!({"token_endpoint": "http://127.0.0.1:10/token"})).await;
    let answer = vault.fetch(&chain[1], &connection).await;
    assert_eq!(refused(&answer), (409, "connection_needs_reconnect"), "{}", answer.text);
    let path = format!("/api/v1/connections/{connection}");
    let shown = world.as_alice("GET", &path, Value::Null).await.with_status(200);
    assert_eq!(
        (&shown.json["state"], &shown.json["has_refresh_token"]),
        (&json!("needs_reconnect"), &json!(false))
    );
    let events = vault.vault_events().await;
    let event = events.iter().find(|event| event["action"] == "vault.connection.needs_reconnect").unwrap();
    assert_eq!(
        (&event["target"], &event["detail"]["error"], &event["actor"]["type"]),
        (&json!(connection), &json!("provider_moved"), &json!("operator"))
    );
    // Another credential makes it active again.
    let body = json!({"credential": {"access_token": "access-2"}});
    world.as_alice("POST", &format!("{path}/rotate"), body).await.with_status(200);
    let chain = vault.chain(&names(&connection)).await;
    let fetched = vault.fetch(&chain[1], &connection).await.with_status(200);
    assert_eq!(fetched.json["access_token"], "access-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_sends_names_of_users_to_no_new_address() {
    let world = World::new().await;
    let sink = |url: &str, people: bool| json!({"url": url, "people": people, "enabled": false});
    let (here, there) = ("http://127.0.0.1:9/", "http://127.0.0.1:9/other");
    let put = async |id: &str, declared: &Value| {
        let one = world.as_admin("PUT", &format!("/api/v1/audit-sinks/{id}"), declared.clone()).await;
        let all = world.as_admin("POST", APPLY, manifest_of("sinks", id, declared)).await;
        assert_eq!(refused(&one) == LEFT, refused(&all) == LEFT, "{declared}: {} {}", one.text, all.text);
        refused(&one) == LEFT
    };
    assert!(put("people", &sink(here, true)).await, "a new sink");
    assert!(!put("events", &sink(here, false)).await);
    assert!(put("events", &sink(here, true)).await, "an existing sink");
    world.server.apply(&manifest_of("sinks", "people", &sink(here, true)).to_string()).await.unwrap();
    assert!(put("people", &sink(there, true)).await, "another address");
    assert!(!put("people", &json!({"url": here, "people": true, "enabled": true})).await);
    assert!(!put("people", &sink(there, false)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_ends_no_administrator_and_no_auditor() {
    let world = World::new().await;
    let auditor = Agent::new("auditor", Auth::Assertion);
    let yaml = format!(
        "clients:\n  - {{id: auditor, kind: auditor, auth: private_key_jwt, jwks: {{keys: [{}]}}, scopes: [actchain.audit], grant_types: [client_credentials]}}\n",
        auditor.key.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    let issuer = &world.server.app.issuer;
    for agent in [&world.admin, &auditor] {
        let (id, jkt) = (&agent.id, agent.jkt());
        let revoked = json!({"iss": issuer, "sub": id, "reason": "stolen"});
        for (method, path, body) in [
            ("POST", format!("/api/v1/clients/{id}/disable"), json!({})),
            ("POST", format!("/api/v1/clients/{id}/enable"), json!({})),
            ("DELETE", format!("/api/v1/clients/{id}/keys/{jkt}"), Value::Null),
            ("POST", "/api/v1/principals/revoke-all".to_owned(), revoked),
        ] {
            let answer = world.as_admin(method, &path, body).await;
            assert_eq!(refused(&answer), LEFT, "{method} {path}: {}", answer.text);
            let event = world.server.last_event().await;
            assert_eq!((&event["outcome"], &event["reason"]), (&json!("refused"), &json!("operator_only")));
        }
        world.management_token(agent).await;
    }
    world.server.disable("auditor").await;
    let path = "/api/v1/clients/auditor/enable";
    assert_eq!(refused(&world.as_admin("POST", path, json!({})).await), LEFT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_removed_from_a_client_is_declared_for_no_other_client() {
    let world = World::new().await;
    let (key, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let client = |id: &str, keys: &str| {
        format!(
            "clients:\n  - {{id: {id}, kind: agent, auth: private_key_jwt, {keys}, grant_types: [client_credentials]}}\n"
        )
    };
    let (jwk, jkt) = (key.public_jwk(), key.kid().to_owned());
    let by_jwks = format!("jwks: {{keys: [{jwk}]}}");
    let pinned = format!("jwks_uri: \"https://keys.example.com/\", dpop_keys: [{jkt}]");
    for id in ["first", "sharing"] {
        world.server.apply(&client(id, &by_jwks)).await.unwrap();
    }
    let remove = format!("/api/v1/clients/first/keys/{jkt}");
    world.as_admin("DELETE", &remove, Value::Null).await.with_status(200);
    for keys in [&by_jwks, &pinned] {
        let yaml = client("second", keys);
        let said = world.server.apply(&yaml).await.unwrap_err();
        assert!(said.contains("manifest") || said.contains(":2:"), "{said}");
        assert!(said.contains(&jkt) && said.contains("removed from the client first"), "{said}");
        let headers = [("content-type", "application/yaml")];
        let token = world.management_token(&world.admin).await;
        let call = Api::new(&world.server, "POST", APPLY).client(&world.admin, &token);
        let answer = call.header(headers[0].0, headers[0].1).raw(&yaml).send().await;
        assert_eq!(refused(&answer), (400, "malformed_request"), "{}", answer.text);
    }
    assert_eq!(world.as_admin("GET", "/api/v1/clients/second", Value::Null).await.status, 404);
    // A client that had the key before keeps it: only removing it there ends its use there.
    world.server.apply(&client("sharing", &by_jwks)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_decide_for_users_visibly_and_only_if_configured() {
    let request =
        json!({"delegator": {"iss": IDP, "sub": "alice"}, "scopes": ["mail.read"], "expires_in": 600});
    let open = World::new().await;
    let requested = async |world: &World| {
        world.as_agent(&world.user_proxy, "POST", "/delegate", request.clone()).await.with_status(202).id()
    };
    let id = requested(&open).await;
    open.as_admin("POST", &format!("/delegate/{id}/approve"), json!({})).await.with_status(200);
    let event = open.server.last_event().await;
    assert_eq!(event["action"], "delegation.activated");
    assert_eq!(event["actor"]["client_id"], "admin", "not the user, in whose name it was");
    assert_ne!(event["subject"]["sub"], "admin");

    let closed = World::configured("[delegations]\nadmins_decide = false").await;
    let id = requested(&closed).await;
    for (path, body) in [
        (format!("/delegate/{id}/approve"), json!({})),
        (format!("/delegate/{id}/deny"), json!({})),
        ("/delegate/D/renew".to_owned(), json!({"expires_in": 7200})),
    ] {
        let answer = closed.as_admin("POST", &path, body).await;
        assert_eq!(refused(&answer), (403, "insufficient_scope"), "{path}: {}", answer.text);
    }
    closed.as_alice("POST", &format!("/delegate/{id}/approve"), json!({})).await.with_status(200);
    // Ending what a user has delegated stays possible.
    closed.as_admin("POST", &format!("/delegate/{id}/revoke"), json!({})).await.with_status(200);
}
