//! Ephemeral agents at registrars: registered by RFC 7591, deleted by RFC 7592, through an outbox.

use actchain::jobs::{expiry, registrars};
use actchain::services::vault::rekey;
use serde_json::{Value, json};

use crate::support::ends::{Made, Maker, new_key};
use crate::support::http;
use crate::support::management::Api;
use crate::support::registrar::{RegistrarDouble, Trouble};
use crate::support::world::{IDP, World};

const TOKEN: &str = "initial-access-token-0123456789";

fn manifest(id: &str, registrar: &RegistrarDouble, more: &str) -> String {
    format!(
        "registrars:\n  - {{id: {id}, kind: rfc7591, initial_access_token: {TOKEN}, \
         registration_endpoint: \"{}/clients-registrations/openid-connect\"{more}}}\n",
        registrar.base
    )
}

/// A world with a registrar.
pub async fn declared() -> (World, RegistrarDouble) {
    configured("").await
}

async fn configured(config: &str) -> (World, RegistrarDouble) {
    let (world, registrar) = (World::configured(config).await, RegistrarDouble::start(TOKEN).await);
    world.server.apply(&manifest("idp", &registrar, "")).await.unwrap();
    (world, registrar)
}

pub async fn run(world: &World) -> usize {
    registrars::run_once(&world.server.app).await.unwrap()
}

/// Ends a delegation, and deactivates its agent.
pub async fn end(world: &World, made: &Made) {
    world.server.revoke(&made.delegation).await;
    expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
}

async fn events(world: &World, action: &str) -> Vec<Value> {
    let mut events = world.server.events().await;
    events.retain(|event| event["action"] == action);
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_registered_by_its_key_until_its_delegation_ends() {
    let (world, registrar) = declared().await;
    let made = world.made_by_alice("task-1").await;
    assert_eq!((run(&world).await, run(&world).await), (1, 0));
    let [client] = registrar.clients().try_into().unwrap();
    assert_eq!(
        (&client["software_id"], &client["client_name"]),
        (&json!(made.agent.id), &json!(made.agent.id))
    );
    assert_eq!(client["token_endpoint_auth_method"], "private_key_jwt");
    assert_eq!(client["grant_types"], json!(["client_credentials"]));
    let key = &client["jwks"]["keys"][0];
    assert_eq!((&key["x"], key.get("d")), (&made.agent.key.public_jwk()["x"], None));
    assert_eq!((&key["use"], &key["kid"], key.get("alg")), (&json!("sig"), &json!(made.agent.jkt()), None));
    let [event] = events(&world, "registrar.registered").await.try_into().unwrap();
    assert_eq!((&event["target"], &event["delegation_id"]), (&json!(made.agent.id), &json!(made.delegation)));
    assert_eq!(
        event["detail"],
        json!({"registrar": "idp", "registered_as": "client-1", "deletable": true, "answer_lost": false})
    );
    let dump = world.server.dump().await;
    assert!(registrar.secrets().iter().all(|secret| !dump.contains(secret)) && !dump.contains(TOKEN));
    end(&world, &made).await;
    assert_eq!((run(&world).await, run(&world).await), (1, 0));
    assert!(registrar.clients().is_empty());
    let [event] = events(&world, "registrar.deleted").await.try_into().unwrap();
    assert_eq!(
        event["detail"],
        json!({"registrar": "idp", "registered_as": "client-1", "deleted": true, "answer_lost": false})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_waits_for_approval_is_registered_once_it_is_approved() {
    let (world, registrar) = declared().await;
    let ask = async |task: &str| {
        let key = new_key();
        let more =
            json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "expires_in": 300});
        let asked = world.make(&Maker::Agent(&world.user_proxy), &key, (task, more)).await;
        assert_eq!(asked.status, 202, "{}", asked.text);
        Made::of(&asked, key)
    };
    let (approved, denied, lapsed) = (ask("task-1").await, ask("task-2").await, ask("task-3").await);
    assert_eq!(run(&world).await, 0);
    for (made, decision) in [(&approved, "approve"), (&denied, "deny")] {
        let path = format!("/delegate/{}/{decision}", made.delegation);
        world.as_user("bob", "POST", &path, json!({})).await.with_status(200);
    }
    expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    run(&world).await;
    assert_eq!(registrar.registered(), [approved.agent.id.as_str()]);
    // Both end by time; only one has anything to delete.
    world.server.pass(1_000_000);
    expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    run(&world).await;
    assert!(registrar.clients().is_empty());
    assert_eq!(registrar.requests(), 2, "nothing is sent about {} and {}", denied.agent.id, lapsed.agent.id);
    assert_eq!(events(&world, "registrar.deleted").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrar_that_is_down_for_a_day_loses_nothing_and_delays_no_other() {
    let (world, down) = configured("[agents]\nmax_ttl = 200000\n").await;
    let well = RegistrarDouble::start(TOKEN).await;
    world.server.apply(&manifest("other", &well, "")).await.unwrap();
    down.is(Trouble::Down);
    let mut ids = Vec::new();
    let mut last = None;
    for task in ["task-1", "task-2"] {
        let key = new_key();
        let more = (task, json!({"expires_in": 200_000}));
        let made = Made::of(&world.make(&Maker::User("alice"), &key, more).await.with_status(201), key);
        ids.push(made.agent.id.clone());
        last = Some(made);
        world.server.pass(1);
    }
    assert_eq!(run(&world).await, 2);
    assert_eq!((well.registered(), down.registered()), (ids.clone(), vec![]));
    for _ in 0..200 {
        world.server.pass(432);
        run(&world).await;
    }
    let failed = events(&world, "registrar.delayed").await;
    assert_eq!(failed.len(), 2, "once for each agent");
    assert_eq!(failed[0]["detail"]["operation"], "register");
    assert_eq!(
        (&failed[0]["detail"]["attempts"], failed[0]["detail"]["error"].is_string()),
        (&json!(5), true)
    );
    let metrics = http().get(format!("{}/metrics", world.server.base)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("actchain_registrar_backlog{registrar=\"idp\"}"), "{metrics}");
    // One request in a run.
    assert!(down.requests() <= 201, "{}", down.requests());
    down.is(Trouble::None);
    world.server.pass(600);
    assert_eq!(run(&world).await, 2);
    assert_eq!(down.registered(), ids);
    // A registrar that is down delays no deletion at another.
    down.is(Trouble::Down);
    end(&world, &last.unwrap()).await;
    assert_eq!(run(&world).await, 1);
    assert_eq!((down.clients().len(), well.clients().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_registered_in_their_order_when_a_registrar_is_back() {
    let (world, registrar) = declared().await;
    registrar.is(Trouble::Refuses);
    let mut ids = Vec::new();
    for task in ["task-1", "task-2", "task-3"] {
        ids.push(world.made_by_alice(task).await.agent.id);
        world.server.pass(1);
    }
    assert_eq!(run(&world).await, 0);
    registrar.is(Trouble::None);
    world.server.pass(2);
    assert_eq!(run(&world).await, 3);
    assert_eq!(registrar.registered(), ids);
    assert!(
        events(&world, "registrar.registered").await.iter().all(|one| one["detail"]["answer_lost"] == false)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_reported_and_the_known_registration_is_deleted() {
    let (world, registrar) = declared().await;
    registrar.is(Trouble::LosesAnswers);
    let made = world.made_by_alice("task-1").await;
    assert_eq!(run(&world).await, 0);
    registrar.is(Trouble::None);
    world.server.pass(2);
    assert_eq!(run(&world).await, 1);
    assert_eq!(
        registrar.registered(),
        [made.agent.id.clone(), made.agent.id.clone()],
        "under one software_id"
    );
    let [event] = events(&world, "registrar.registered").await.try_into().unwrap();
    assert_eq!(
        (&event["detail"]["registered_as"], &event["detail"]["answer_lost"]),
        (&json!("client-2"), &json!(true))
    );
    // A lost answer to a deletion does no harm: the registrar no longer knows the client.
    end(&world, &made).await;
    registrar.is(Trouble::LosesAnswers);
    assert_eq!(run(&world).await, 0);
    registrar.is(Trouble::None);
    world.server.pass(2);
    assert_eq!(run(&world).await, 1);
    assert_eq!(events(&world, "registrar.deleted").await[0]["detail"]["deleted"], true);
    // An agent that ended before the answer was known.
    registrar.forget();
    registrar.is(Trouble::LosesAnswers);
    let other = world.made_by_alice("task-2").await;
    run(&world).await;
    end(&world, &other).await;
    world.server.pass(2);
    run(&world).await;
    let event = events(&world, "registrar.deleted").await.pop().unwrap();
    assert_eq!(
        event["detail"],
        json!({"registrar": "idp", "registered_as": null, "deleted": false, "answer_lost": true})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_while_it_registered_is_taken_over() {
    let (world, registrar) = declared().await;
    let made = world.made_by_alice("task-1").await;
    // As a killed server leaves it: the request was sent, and the lease is over.
    sqlx::query("UPDATE agent_registration SET sent_at = $1, lease = gen_random_uuid(), lease_until = clock_timestamp() + interval '1 hour'")
        .bind(world.server.clock.now())
        .execute(&mut world.server.sql().await)
        .await
        .unwrap();
    assert_eq!(run(&world).await, 0, "another server may be at work");
    sqlx::query("UPDATE agent_registration SET lease_until = clock_timestamp() - interval '1 second'")
        .execute(&mut world.server.sql().await)
        .await
        .unwrap();
    let twin = world.server.twin().await;
    let (one, other) = tokio::join!(registrars::run_once(&world.server.app), registrars::run_once(&twin.app));
    assert_eq!(one.unwrap() + other.unwrap(), 1, "one of two servers");
    assert_eq!(registrar.registered(), [made.agent.id]);
    assert_eq!(events(&world, "registrar.registered").await[0]["detail"]["answer_lost"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_cannot_be_deleted_is_reported() {
    let (world, registrar) = declared().await;
    registrar.is(Trouble::Unmanaged);
    let made = world.made_by_alice("task-1").await;
    run(&world).await;
    assert_eq!(events(&world, "registrar.registered").await[0]["detail"]["deletable"], false);
    end(&world, &made).await;
    assert_eq!((run(&world).await, run(&world).await), (1, 0));
    let [event] = events(&world, "registrar.deleted").await.try_into().unwrap();
    assert_eq!(
        (&event["detail"]["deleted"], &event["detail"]["registered_as"]),
        (&json!(false), &json!("client-1"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keycloak_is_declared_by_its_realm_and_gives_a_token_for_client_credentials() {
    let (world, registrar) =
        (World::new().await, RegistrarDouble::start("a-token-of-a-service-account").await);
    let yaml = format!(
        "registrars:\n  - {{id: keycloak, kind: keycloak, issuer: \"{}\", client_id: actchain, \
         client_secret: registrar-secret-0123456789}}\n",
        registrar.base
    );
    world.server.apply(&yaml).await.unwrap();
    let made = world.made_by_alice("task-1").await;
    assert_eq!(run(&world).await, 1);
    assert_eq!(registrar.registered(), [made.agent.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_keys_of_the_vault_seal_the_tokens_of_registrars() {
    let (world, registrar) = declared().await;
    let made = world.made_by_alice("task-1").await;
    run(&world).await;
    let app = &world.server.app;
    let rekeyed = rekey(&app.pool, &app.vault.keys, app.clock.now(), |_, _| {}).await.unwrap();
    assert_eq!(rekeyed.sealed, 2, "the initial access token and the registration access token");
    end(&world, &made).await;
    assert_eq!((run(&world).await, registrar.clients().len()), (1, 0));
    world.made_by_alice("task-2").await;
    assert_eq!(run(&world).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_declare_where_agents_are_registered() {
    let (world, registrar) = declared().await;
    for id in ["idp", "other"] {
        let body = manifest(id, &registrar, ", enabled: false");
        let admin = world.management_token(&world.admin).await;
        let request = Api::new(&world.server, "POST", "/api/v1/apply").client(&world.admin, &admin);
        let refused = request.header("content-type", "application/yaml").raw(&body).send().await;
        assert_eq!((refused.status, refused.reason()), (403, "operator_only"), "{id}: {}", refused.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrar_is_declared_exported_and_switched_off() {
    let (world, registrar) = declared().await;
    let changes = async || events(&world, "admin.registrar_changed").await.len();
    assert_eq!(changes().await, 1);
    // The export has no secret, and applying it changes nothing.
    let exported = world.as_admin("GET", "/api/v1/manifest", json!({})).await;
    assert!(
        exported.text.contains("registrars:") || exported.text.contains("\"registrars\""),
        "{}",
        exported.text
    );
    assert!(!exported.text.contains(TOKEN));
    let without = manifest("idp", &registrar, "").replace(&format!("initial_access_token: {TOKEN}, "), "");
    world.server.apply(&without).await.unwrap();
    assert_eq!(changes().await, 1, "the stored secret stays");
    world.server.apply(&manifest("idp", &registrar, ", enabled: false")).await.unwrap();
    world.made_by_alice("task-1").await;
    assert_eq!((run(&world).await, changes().await), (0, 2));
    for (yaml, why) in [
        (
            "{id: a/b, kind: rfc7591, registration_endpoint: \"https://a.example.com/\"}",
            "id may have letters",
        ),
        ("{id: a, kind: rfc7591}", "registration_endpoint is needed"),
        ("{id: a, kind: keycloak}", "issuer is needed"),
        ("{id: a, kind: rfc7591, registration_endpoint: \"http://a.example.com/\"}", "must be https"),
        ("{id: a, kind: rfc7591, registration_endpoint: \"https://10.0.0.1/\"}", "must be https"),
        (
            "{id: a, kind: rfc7591, registration_endpoint: \"https://a.example.com/\", client_id: x}",
            "token_endpoint is needed",
        ),
        (
            "{id: a, kind: keycloak, issuer: \"https://a.example.com\", client_id: x}",
            "client_secret is needed",
        ),
        (
            "{id: a, kind: keycloak, issuer: \"https://a.example.com\", client_secret: x}",
            "client_secret belongs to a client_id",
        ),
        (
            "{id: a, kind: keycloak, issuer: \"https://a.example.com\", client_secret: x, initial_access_token: y}",
            "exclude each other",
        ),
    ] {
        let refused = world.server.apply(&format!("registrars:\n  - {yaml}\n")).await.unwrap_err();
        assert!(refused.contains(why), "{yaml}: {refused}");
    }
}
