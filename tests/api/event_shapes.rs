//! The shapes of events: the descriptions have what the code says, and every action occurs in a real log.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use actchain::domain::audit::{Action, EventKind, EventOutcome};
use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::jobs::{self, expiry};
use actchain::services::erasure::{ErasureOutcome, erase};
use actchain::services::principals::{self, ClientKey};
use actchain::services::registrations::{Delegations, remove_issuer, remove_resource};
use actchain::services::restored::{ReviewScope, review_restored};
use actchain::services::sinks::{self, EnabledState};
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use time::Duration;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::audit_archive::{archive, old_world};
use crate::support::agent::{Agent, Auth, Request, basic};
use crate::support::browser::{Browser, form};
use crate::support::ends::new_key;
use crate::support::life::steps;
use crate::support::offline::{refresh_token, refreshing};
use crate::support::registrar::Trouble;
use crate::support::sign_in::SignInIdp;
use crate::support::vault_broker::Brokered;
use crate::support::vault_proxy_world::Vaulted;
use crate::support::vault_story::Story;
use crate::support::world::{IDP, MAIL, World};
use crate::{registrars, subdelegation, transparency, vault_connecting};

const DESCRIPTION: (&str, &str, &str) = (
    concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml"),
    "    # Written by `BLESS=1 cargo test --test api every_action_is_described`.\n",
    "    # End of what is written.\n",
);
const TABLE: (&str, &str, &str) = (
    concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/audit-log.md"),
    "| action | code | when | `detail` |\n",
    "\nSome requests are not recorded:",
);

/// The schema of each action: an object with `action` and, if the action has details, `detail`.
fn kinds() -> Vec<Value> {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|one| one.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<EventKind>();
    let mut schema = serde_json::to_value(schema).unwrap();
    let kinds = schema["oneOf"].as_array_mut().unwrap();
    for kind in kinds.iter_mut() {
        if let Some(detail) = kind["properties"].get_mut("detail") {
            tidy(detail);
        }
    }
    kinds.clone()
}

/// Objects have no undescribed members; names of values are lists; numbers have no formats of Rust.
fn tidy(schema: &mut Value) {
    let constants: Option<Vec<Value>> = schema["oneOf"]
        .as_array()
        .and_then(|branches| branches.iter().map(|branch| branch.get("const").cloned()).collect());
    let Some(members) = schema.as_object_mut() else { return };
    if let Some(constants) = constants {
        members.remove("oneOf");
        members.insert("type".into(), json!("string"));
        members.insert("enum".into(), json!(constants));
    }
    if members.get("format").is_some_and(|format| format != "uuid") {
        members.remove("format");
    }
    members.remove("default");
    members.remove("examples");
    if members.contains_key("properties") {
        members.insert("additionalProperties".into(), json!(false));
    }
    for (name, value) in members.iter_mut() {
        match name.as_str() {
            "properties" => value.as_object_mut().unwrap().values_mut().for_each(tidy),
            "oneOf" | "anyOf" => value.as_array_mut().unwrap().iter_mut().for_each(tidy),
            "items" => tidy(value),
            _ => {}
        }
    }
}

fn description() -> String {
    let mut text =
        "    EventAction:\n      type: string\n      description: An action of the audit log.\n      enum:\n"
            .to_owned();
    for action in Action::ALL {
        writeln!(text, "        - {}", action.name()).unwrap();
    }
    text.push_str("\n    EventKind:\n      description: The action of an event with its details. Other members are those of `AuditEvent`.\n      oneOf:\n");
    for (action, kind) in Action::ALL.iter().zip(kinds()) {
        let properties = &kind["properties"];
        assert_eq!(properties["action"]["const"], action.name());
        writeln!(text, "        - type: object\n          required: {}", kind["required"]).unwrap();
        writeln!(text, "          properties:\n            action: {{const: {}}}", action.name()).unwrap();
        let outcome = match action.outcome() {
            EventOutcome::Success => "success",
            EventOutcome::Refused => "refused",
        };
        writeln!(text, "            outcome: {{const: {outcome}}}").unwrap();
        match properties.get("detail") {
            Some(detail) => writeln!(text, "            detail: {detail}").unwrap(),
            None => writeln!(text, "            detail: {{not: {{}}}}").unwrap(),
        }
    }
    text.push('\n');
    text
}

/// The members of a detail, each once, in the order of the code.
fn members(detail: &Value) -> Vec<String> {
    let branches = detail["oneOf"].as_array().cloned().unwrap_or_else(|| vec![detail.clone()]);
    let mut names: Vec<String> = Vec::new();
    for branch in &branches {
        for (name, member) in branch["properties"].as_object().into_iter().flatten() {
            let below: Vec<String> = member["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            let below = if below.is_empty() { String::new() } else { format!(" ({})", below.join(", ")) };
            let meaning = member["description"].as_str().unwrap_or_default().replace('\n', " ");
            let meaning = meaning.trim_end_matches('.');
            let colon = if meaning.is_empty() { "" } else { ": " };
            let end = if meaning.is_empty() { "" } else { "." };
            let text = format!("`{name}`{below}{colon}{meaning}{end}");
            if !names.contains(&text) {
                names.push(text);
            }
        }
    }
    names
}

fn table() -> String {
    let mut text = format!("{}| --- | --- | --- | --- |\n", TABLE.1);
    for (action, kind) in Action::ALL.iter().zip(kinds()) {
        let code = action.code().map(|code| format!("`{code}` ")).unwrap_or_default();
        let members = members(&kind["properties"]["detail"]);
        let members = members.join("; ").replace(".;", ".");
        let members = if members.is_empty() { String::new() } else { format!("{members} ") };
        writeln!(text, "| `{}` | {code}| {} | {members}|", action.name(), action.when()).unwrap();
    }
    text
}

/// Compares what lies between two texts of a file with what the code says, or writes it.
fn compare((path, begin, end): (&str, &str, &str), expected: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    let (above, rest) = text.split_once(begin).unwrap();
    let (written, below) = rest.split_once(end).unwrap();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, format!("{above}{expected}{end}{below}")).unwrap();
    } else {
        let again = "write it again: BLESS=1 cargo test --test api every_action_is_described";
        assert_eq!(format!("{begin}{written}"), expected, "{path}: {again}");
    }
}

#[test]
fn every_action_is_described_as_the_code_has_it() {
    compare(DESCRIPTION, &format!("{}\n{}", DESCRIPTION.1, description()));
    compare(TABLE, &table());
}

#[test]
fn an_action_that_is_refused_has_the_outcome_refused() {
    let names: BTreeSet<&str> = Action::ALL.iter().map(|action| action.name()).collect();
    assert_eq!(names.len(), Action::ALL.len(), "two actions share a name");
    for action in Action::ALL {
        let refused = ["refused", ".failed", ".rejected"].iter().any(|end| action.name().ends_with(end));
        assert_eq!(action.outcome() == EventOutcome::Refused, refused, "{}", action.name());
    }
}

/// The actions in the log of a server. `events` checks the shape of each event.
async fn actions(world: &World) -> BTreeSet<String> {
    let events = world.server.events().await;
    for event in &events {
        let timed = ["oauth.token.", "vault.token.", "vault.proxy."];
        if timed.iter().any(|prefix| event["action"].as_str().unwrap().starts_with(prefix)) {
            assert!(event["took_us"].is_u64(), "{event}");
        }
    }
    events.iter().map(|event| event["action"].as_str().unwrap().to_owned()).collect()
}

async fn tokens(world: &World) {
    let first = world.first_hop().await;
    let second = world.second_hop().await;
    let wrong = |path| {
        let secret = basic("mail-server", "wrong-secret");
        Request::at(&world.server, path).header("authorization", secret).param("token", "x")
    };
    for path in ["/oauth/token", "/oauth/introspect", "/oauth/revoke"] {
        wrong(path).send().await.assert_refused(401, "invalid_client", "");
    }
    assert_eq!(world.server.revoke_token(&world.email_svc, first.token()).await.status, 400);
    assert_eq!(world.server.revoke_token(&world.email_svc, second.token()).await.status, 200);
    let granted = world.granted("olga", json!({"offline_access": true})).await.with_status(201);
    let offline = world.first_hop_of("olga").send().await.with_status(200);
    let refresh = refreshing(&world.user_proxy, &world.server, &refresh_token(&offline));
    refresh.send().await.with_status(200);
    world.server.revoke(&granted.id()).await;
    world.export("format=jsonl").await;
}

async fn delegations(world: &World) {
    let id = world.asked("bob", json!({"scopes": ["mail.read"], "reason": "to help"})).await;
    world.moves("bob", &id, "approve", json!({})).await.with_status(200);
    world.moves("bob", &id, "renew", json!({"expires_in": 80_000})).await.with_status(200);
    let used = format!("/delegate/{id}/steps");
    let step = json!({"tool": "search", "outcome": "succeeded", "input": "hello"});
    let step = json!({"session_id": "work", "steps": [step]});
    let step = world.as_agent(&world.user_proxy, "POST", &used, step).await.with_status(200).json;
    let texts = format!("/api/v1/sessions/{}/texts", step["session_id"].as_str().unwrap());
    world.as_user("bob", "DELETE", &texts, json!({})).await.with_status(200);
    world.moves("bob", &id, "revoke", json!({"reason": "enough"})).await.with_status(200);
    let id = subdelegation::reserved(world).await;
    for (decision, scope) in [("approve", "mail.send mail.read"), ("deny", "mail.send")] {
        let one = world.first_hop_of("bob").param("scope", scope).send().await;
        let one = subdelegation::ceremony(&one);
        subdelegation::decide(world, "bob", (&id, &one), decision).await.with_status(200);
    }
    world.granted("carol", json!({"expires_in": 60})).await.with_status(201);
    let made = world.made_by_alice("task-1").await;
    let another = json!({"jwk": new_key().public_jwk()});
    let rotate = format!("/delegate/{}/rotate-key", made.delegation);
    world.as_agent(&made.agent, "POST", &rotate, another).await.with_status(202);
    world.as_alice("DELETE", "/api/v1/tasks/task-1/agents", json!({})).await.with_status(200);
    let carol = json!({"iss": IDP, "sub": "carol-2", "reason": "left"});
    world.as_admin("POST", "/api/v1/principals/revoke-all", carol).await.with_status(200);
    let erased = erase(&world.server.operator(), &Principal::new(IDP, "carol-2")).await.unwrap();
    assert!(matches!(erased, ErasureOutcome::Erased(_)), "{erased:?}");
    let scope = ReviewScope::Within(Duration::days(1));
    review_restored(&world.server.operator(), scope, None).await.unwrap();
    for id in ["D", "E"] {
        world.as_admin("POST", &format!("/delegate/{id}/approve"), json!({})).await;
    }
    world.server.pass(61);
    expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
}

/// Every operation, with ids that name nothing.
async fn refusals(world: &World) {
    let uuid = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
    let thumbprint = world.stranger.jkt();
    let named = json!({"iss": "https://none.example", "sub": "x", "reason": "left"});
    for (method, path, body) in [
        ("POST", "/delegate".to_owned(), json!({"delegate": "none"})),
        ("POST", "/delegate/none/approve".into(), json!({})),
        ("POST", "/delegate/none/deny".into(), json!({})),
        ("POST", "/delegate/none/revoke".into(), json!({})),
        ("POST", "/delegate/none/renew".into(), json!({"expires_in": 9})),
        ("POST", "/delegate/none/steps".into(), steps(1)),
        ("POST", "/delegate/none/rotate-key".into(), json!({"jwk": new_key().public_jwk()})),
        ("POST", format!("/delegate/none/ceremonies/{uuid}/approve"), json!({})),
        ("POST", format!("/delegate/none/ceremonies/{uuid}/deny"), json!({})),
        ("POST", "/api/v1/principals/revoke-all".into(), named),
        ("POST", "/api/v1/clients/none/disable".into(), json!({})),
        ("POST", "/api/v1/clients/none/enable".into(), json!({})),
        ("POST", "/api/v1/clients/none/rotate-secret".into(), json!({})),
        ("POST", "/api/v1/apply".into(), json!({"colour": "red"})),
        ("DELETE", format!("/api/v1/clients/none/keys/{thumbprint}"), json!({})),
        ("DELETE", "/api/v1/tasks/none/agents".into(), json!({})),
        ("PUT", "/api/v1/providers/none".into(), json!({"client_id": "us"})),
        (
            "PUT",
            "/api/v1/audit-sinks/none".into(),
            json!({"url": "http://127.0.0.1:9/", "from_seq": 1_000_000}),
        ),
        ("DELETE", "/api/v1/audit-sinks/none".into(), json!({})),
        ("POST", "/api/v1/audit-sinks/none/dead-letters/replay".into(), json!({})),
        ("POST", "/api/v1/connections".into(), json!({"provider": "none"})),
        ("POST", "/api/v1/connections".into(), json!({"provider": "none", "credential": {"key": "k"}})),
        ("POST", "/api/v1/connections/none/rotate".into(), json!({"credential": {"key": "k"}})),
        ("POST", "/api/v1/connections/none/disconnect".into(), json!({})),
        ("POST", "/api/v1/connections/none/finish".into(), json!({"code": "0000-0000-0000"})),
    ] {
        let answer = world.as_admin(method, &path, body).await;
        assert!((400..500).contains(&answer.status), "{method} {path}: {}", answer.text);
    }
    let texts = "/api/v1/sessions/none/texts";
    let agent = world.as_agent(&world.user_proxy, "DELETE", texts, json!({})).await;
    agent.assert_problem(403, "insufficient_scope");
    let operator = world.server.operator();
    let key = ClientKey { client_id: "none", jkt: thumbprint };
    principals::restore_key(&operator, key).await.unwrap_err();
    for state in [EnabledState::Enabled, EnabledState::Disabled] {
        sinks::set_enabled(&operator, "none", state).await.unwrap_err();
    }
    sinks::rotate(&operator, &world.server.app.vault, "none").await.unwrap_err();
}

async fn administration(world: &World) {
    let server = &world.server;
    server.disable("stranger").await;
    server.enable("stranger").await;
    let path = format!("/api/v1/clients/followup-svc/keys/{}", world.followup_svc.jkt());
    world.as_admin("DELETE", &path, json!({})).await.with_status(200);
    let key = ClientKey { client_id: "followup-svc", jkt: world.followup_svc.jkt() };
    principals::restore_key(&server.operator(), key).await.unwrap();
    server.rotate_secret("email-svc", 0).await;
    let yaml = format!(
        "issuers:\n  - {{iss: https://other.example, jwks: {{keys: [{}]}}, audiences: [actchain],\n     subject: prefixed, alias: other}}\n\
         rules_off: [CE-007]\n\
         resources:\n  - {{id: https://other.example/api, scopes: [other.read]}}\n",
        world.idp.public_jwk()
    );
    server.apply(&yaml).await.unwrap();
    changed_metadata(world).await;
    published_keys(world).await;
    remove_resource(&server.operator(), "https://other.example/api").await.unwrap();
    remove_issuer(&server.operator(), "https://other.example", Delegations::Revoke).await.unwrap();
}

/// An issuer whose metadata names other keys after it was declared.
async fn changed_metadata(world: &World) {
    let provider = MockServer::start().await;
    let yaml = format!(
        "issuers:\n  - {{iss: \"{}\", discover: true, audiences: [actchain], alias: found}}\n",
        provider.uri()
    );
    for keys in ["first", "second"] {
        let document = json!({"issuer": provider.uri(), "jwks_uri": format!("{}/{keys}", provider.uri())});
        provider.reset().await;
        Mock::given(method("GET"))
            .respond_with(ResponseTemplate::new(200).set_body_json(document))
            .mount(&provider)
            .await;
        if keys == "first" {
            world.server.apply(&yaml).await.unwrap();
        }
    }
    jobs::discovery::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
}

/// A client with its keys at a URL.
async fn published_keys(world: &World) {
    let publisher = MockServer::start().await;
    let own = Agent { key: new_key(), ..Agent::new("published", Auth::Assertion) };
    let set = json!({"keys": [own.key.public_jwk()]});
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(200).set_body_json(set))
        .mount(&publisher)
        .await;
    let yaml = format!(
        "clients:\n  - {{id: published, kind: agent, auth: private_key_jwt, jwks_uri: \"{}\"}}\n",
        publisher.uri()
    );
    world.server.apply(&yaml).await.unwrap();
    own.at(&world.server, "/oauth/revoke").param("token", "x").send().await.with_status(200);
}

/// A sink that refuses every event, and the jobs and operations around it.
async fn deliveries(world: &World) {
    let receiver = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(500)).mount(&receiver).await;
    let (server, path) = (&world.server, "/api/v1/audit-sinks/siem");
    let declared = json!({"url": receiver.uri(), "filter": {"action": "client.enabled"}, "from_seq": 0});
    world.as_admin("PUT", path, declared).await.with_status(201);
    jobs::sinks::run_once(&server.app, server.clock.now()).await.unwrap();
    world.as_admin("POST", &format!("{path}/dead-letters/replay"), json!({})).await.with_status(200);
    for state in [EnabledState::Disabled, EnabledState::Enabled] {
        sinks::set_enabled(&server.operator(), "siem", state).await.unwrap();
    }
    sinks::rotate(&server.operator(), &server.app.vault, "siem").await.unwrap();
    world.as_admin("DELETE", path, json!({})).await.with_status(200);
}

/// A log whose first part was archived, with a sink that has not got all of that part.
async fn archives() -> World {
    let world = old_world().await;
    let declared = json!({"url": "http://127.0.0.1:9/", "from_seq": 2, "enabled": false});
    world.as_admin("PUT", "/api/v1/audit-sinks/late", declared).await.with_status(201);
    let folder = tempfile::tempdir().unwrap();
    archive(&world.server, folder.path()).await.unwrap();
    sinks::set_enabled(&world.server.operator(), "late", EnabledState::Enabled).await.unwrap();
    jobs::sinks::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    world
}

async fn witnesses() -> World {
    let known = transparency::witness("w.example.com");
    let world = World::configured(&format!("[audit]\nwitnesses = [{:?}]", known.1.text())).await;
    let note = transparency::checkpoint(&world.server).await;
    let text = note.split("\n\n").next().unwrap().to_owned() + "\n";
    let note = format!("{note}{}", transparency::cosign(&known, &text));
    transparency::post_note(&world.server, &note).await.with_status(200);
    world
}

/// Connections that are imported, renewed, broken, replaced and disconnected.
async fn credentials() -> World {
    let story = Story::new().await;
    story.fetched().await;
    story.pass(100);
    story.fetched().await;
    let token = story.token().await;
    story.vault.fetch(&token, "none").await.assert_problem(403, "connection_missing");
    story.provider.end_everything();
    story.pass(3_600);
    let token = story.token().await;
    story.vault.fetch(&token, &story.id).await.assert_problem(409, "connection_needs_reconnect");
    let path = format!("/api/v1/connections/{}", story.id);
    let body = json!({"credential": story.provider.issued_tokens().await});
    story.vault.world.as_alice("POST", &format!("{path}/rotate"), body).await.with_status(200);
    story.vault.world.as_alice("POST", &format!("{path}/disconnect"), json!({})).await.with_status(200);
    story.vault.world
}

/// A standing grant is used, exceeded, suspended, confirmed and revoked; another one expires.
async fn consents() -> World {
    let world = World::new().await;
    let grants = "/api/v1/standing-grants";
    let body = json!({"client_id": "email-svc", "keys": [world.email_svc.jkt()], "scopes": ["mail.read"], "audiences": [MAIL],
                      "expires_in": 600});
    let made = async || world.as_user("bob", "POST", grants, body.clone()).await.with_status(201).id();
    let (one, other) = (made().await, made().await);
    let path = format!("{grants}/{one}");
    for scope in ["mail.read", "mail.send"] {
        let ask = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": [scope], "audiences": [MAIL]});
        world.as_agent(&world.email_svc, "POST", "/delegate", ask).await;
    }
    world
        .as_user("bob", "POST", &format!("{path}/renew"), json!({"expires_in": 1200}))
        .await
        .with_status(200);
    let foreign = Agent { key: new_key(), ..world.email_svc.clone() };
    world.management_token(&foreign).await;
    let keys = json!({"keys": [world.email_svc.jkt()], "replaces": [world.email_svc.jkt()]});
    world.as_user("bob", "POST", &format!("{path}/revalidate"), keys.clone()).await.with_status(200);
    world.as_user("bob", "POST", &format!("{path}/revalidate"), keys).await.with_status(409);
    world.as_user("bob", "POST", &format!("{path}/revoke"), json!({})).await.with_status(200);
    world.as_user("bob", "POST", &format!("{path}/revoke"), json!({})).await.with_status(409);
    world
        .as_user("bob", "POST", &format!("{path}/renew"), json!({"expires_in": 9000}))
        .await
        .with_status(409);
    let mut wide = body.clone();
    wide["scopes"] = json!(["unknown"]);
    world.as_user("bob", "POST", grants, wide).await.with_status(400);
    world.server.pass(700);
    jobs::expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    let shown = world.as_user("bob", "GET", &format!("{grants}/{other}"), Value::Null).await;
    assert_eq!(shown.json["state"], "expired");
    world
}

/// A link is used; a session is ended from another one, which signs out; a person signs in at an issuer, and declines.
async fn console(world: &World) {
    let alice = Principal::new(IDP, "alice");
    let _other = Browser::of(&world.server, ConsoleRole::User, Some(&alice)).await;
    let mut browser = Browser::of(&world.server, ConsoleRole::User, Some(&alice)).await;
    let page = browser.get("/console/me").await;
    let page = browser.submit(&form(&page, "/end")).await;
    browser.submit(&form(&page, "/console/sign-out")).await;
    let idp = SignInIdp::start().await;
    idp.declare(world, "").await;
    idp.signed_in(world, "alice", json!({})).await;
    let flow = idp.begin(&mut browser, "").await;
    browser.get(&flow.back(&[("error", "access_denied"), ("iss", &idp.issuer)])).await;
}

async fn brokered() -> World {
    let broker = Brokered::new().await;
    broker.fetch(&["files.read"]).await.with_status(200);
    broker.vault.world
}

async fn registered() -> World {
    let (world, registrar) = registrars::declared().await;
    let made = world.made_by_alice("task-1").await;
    registrars::run(&world).await;
    registrars::end(&world, &made).await;
    registrars::run(&world).await;
    registrar.is(Trouble::Down);
    world.made_by_alice("task-2").await;
    for _ in 0..5 {
        registrars::run(&world).await;
        world.server.pass(60);
    }
    world
}

async fn proxied() -> World {
    let vault = Vaulted::configured("[vault]\nproxy_timeout = 1", "").await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    assert_eq!(vault.send(&token, ("GET", &vault.path(&connection, "/v1/x"))).await.status, 200);
    let elsewhere = format!("/vault/proxy/{connection}/other.example/x");
    assert_eq!(vault.send(&token, ("GET", &elsewhere)).await.status, 403);
    assert_eq!(vault.send(&token, ("GET", &vault.path(&connection, "/v1/garbage"))).await.status, 502);
    vault.events_of("vault.proxy.answered", 1).await;
    vault.events_of("vault.proxy.failed", 1).await;
    vault.world
}

async fn connected() -> World {
    let (world, provider) = vault_connecting::usual().await;
    let begun = vault_connecting::begin(&world, json!({})).await;
    assert_eq!(vault_connecting::dance(&provider, &begun).await.status, 200);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_occurs_in_its_described_shape() {
    let world = World::configured("[audit]\nsink_attempts = 1").await;
    tokens(&world).await;
    delegations(&world).await;
    refusals(&world).await;
    administration(&world).await;
    deliveries(&world).await;
    console(&world).await;
    let mut seen = actions(&world).await;
    for world in [
        consents().await,
        archives().await,
        witnesses().await,
        credentials().await,
        brokered().await,
        registered().await,
        proxied().await,
        connected().await,
    ] {
        seen.extend(actions(&world).await);
    }
    let known: BTreeSet<String> = Action::ALL.iter().map(|action| action.name().to_owned()).collect();
    assert_eq!(seen, known);
}
