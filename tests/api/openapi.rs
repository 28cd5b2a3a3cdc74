//! Checks `openapi.yaml`: it lists exactly the server's routes, a real server gives every described response in the
//! described form, and every refusal reason is described.

mod audit;
mod audit_out;
mod refresh;
mod registrations;
mod standing_grants;
mod vault;

use std::collections::{BTreeMap, BTreeSet};

use actchain::domain::refusal::catalogue;
use actchain::http::operations;
use actchain_protocol::status_list::{Status, StatusList};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::agent::{ACCESS_TOKEN, Agent, Auth, JWT, Request};
use crate::support::contract::{Contract, decoded, form};
use crate::support::life::steps;
use crate::support::management::Api;
use crate::support::provider::{Asked, Provider, Wrong};
use crate::support::world::{CALENDAR, IDP, MAIL, World};
use crate::support::{Answer, START};

/// Responses that occur only if a revocation happens between two reads of one request.
const RACES: [(&str, &str, u16); 1] = [("POST", "/delegate/{id}/rotate-key", 409)];

#[test]
fn every_route_is_described_and_nothing_else() {
    let contract = Contract::read();
    let described: BTreeSet<(String, String)> =
        contract.operations().into_iter().map(|(method, path, _)| (path, method)).collect();
    let mut served: BTreeSet<(String, String)> =
        operations().map(|(path, method)| (path.to_owned(), method.to_owned())).collect();
    served.insert(("/.well-known/openid-configuration".into(), "GET".into()));
    assert_eq!(described, served);
}

#[test]
fn the_schemas_can_fail() {
    let contract = Contract::read();
    let fails = |name: &str, value: Value| {
        assert!(!contract.problems(&contract.schema(name), &value).is_empty(), "{name} takes {value}");
    };
    fails("TokenResponse", json!({"access_token": "x"}));
    fails("Introspection", json!({"active": false, "sub": "alice"}));
    fails(
        "OAuthError",
        json!({"error": "invalid_request", "error_description": "x", "reason": "ceremony_required"}),
    );
    fails(
        "RefusedProblem",
        json!({"type": "urn:actchain:problem:x", "title": "x", "status": 400, "reason": "x"}),
    );
    fails("Ceremony", json!({"id": "not a uuid"}));
    fails("Instant", json!("2026-01-01T00:00:00Z"));
    fails("PublicKey", json!({"kty": "EC", "d": "x"}));
    let schemas = contract.document["components"]["schemas"].as_object().unwrap();
    // Response schemas have no undescribed members.
    for name in [
        "Delegation",
        "Delegations",
        "Agents",
        "Impact",
        "PrincipalRevocation",
        "Revoked",
        "StepsReported",
        "Metadata",
    ] {
        assert_eq!(schemas[name]["additionalProperties"], false, "{name}");
    }
}

/// Rejects what generators of clients cannot read: schemas that are `true` or `false`, and constants that are lists or
/// objects.
fn assert_readable(at: &str, schema: &Value) {
    let Some(members) = schema.as_object() else { panic!("{at} is {schema}") };
    for (name, value) in members {
        let at = format!("{at}/{name}");
        match name.as_str() {
            "properties" | "patternProperties" | "dependentSchemas" => {
                let named = value.as_object().unwrap().iter();
                named.for_each(|(name, schema)| assert_readable(&format!("{at}/{name}"), schema));
            }
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                value.as_array().unwrap().iter().for_each(|schema| assert_readable(&at, schema));
            }
            "additionalProperties" if value.is_boolean() => {}
            "items"
            | "not"
            | "if"
            | "then"
            | "else"
            | "contains"
            | "propertyNames"
            | "contentSchema"
            | "additionalProperties" => assert_readable(&at, value),
            "const" => assert!(!value.is_array() && !value.is_object(), "{at} is {value}"),
            "enum" => {
                let scalars = value.as_array().unwrap().iter();
                scalars.for_each(|one| assert!(!one.is_array() && !one.is_object(), "{at} has {one}"));
            }
            _ => {}
        }
    }
}

/// Finds every schema in a part of the description that is not a schema itself.
fn schemas_in(at: &str, node: &Value) {
    for (name, value) in node.as_object().into_iter().flatten() {
        match name.as_str() {
            "schema" => assert_readable(&format!("{at}/{name}"), value),
            "example" | "examples" => {}
            _ => schemas_in(&format!("{at}/{name}"), value),
        }
    }
    node.as_array().into_iter().flatten().for_each(|value| schemas_in(at, value));
}

/// Tested with openapi-python-client, oapi-codegen, openapi-typescript and @hey-api/openapi-ts.
#[test]
fn generators_of_clients_can_read_the_description() {
    let contract = Contract::read();
    let schemas = contract.document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        assert_readable(name, schema);
    }
    schemas_in("paths", &contract.document["paths"]);
    let mut seen = BTreeSet::new();
    for (method, path, operation) in contract.operations() {
        let id = operation["operationId"].as_str().unwrap();
        let (first, rest) = id.split_at(1);
        // oapi-codegen (Go) uses this name for the type of the response.
        let answer = format!("{}{rest}Response", first.to_uppercase());
        assert!(!schemas.contains_key(&answer), "{method} {path}: {answer} is a schema");
        assert!(seen.insert(id.to_lowercase()) || path.starts_with("/.well-known/"), "{id} is there twice");
    }
}

/// The caller at the management API.
#[derive(Clone, Copy)]
enum Who<'a> {
    User(&'a str),
    Client(&'a Agent),
}

/// A world whose responses are checked against the description.
struct Held<'a> {
    world: &'a World,
    contract: &'a Contract,
}

impl Held<'_> {
    async fn send(&self, api: Api<'_>, method: &str, path: &str) -> Answer {
        let answer = api.send().await;
        self.contract.hold(method, path, &answer);
        answer
    }

    async fn authorized<'b>(&'b self, who: Who<'_>, method: &str, path: &str) -> Api<'b> {
        let api = Api::new(&self.world.server, method, path);
        match who {
            Who::User(sub) => api.user(&self.world.token_of(sub)),
            Who::Client(agent) => api.client(agent, &self.world.management_token(agent).await),
        }
    }

    /// A call that must be refused with this status and reason.
    async fn refused(
        &self,
        who: Who<'_>,
        (method, path): (&str, &str),
        body: Value,
        expected: (u16, &str),
    ) -> Answer {
        let mut api = self.authorized(who, method, path).await;
        if !body.is_null() {
            api = api.json(&body);
        }
        let answer = self.send(api, method, path).await;
        assert_eq!((answer.status, answer.reason()), expected, "{method} {path}: {}", answer.text);
        answer
    }

    /// A call that must succeed.
    async fn done(&self, who: Who<'_>, (method, path): (&str, &str), body: Value) -> Answer {
        self.done_under(who, (method, path), body, &[]).await
    }

    async fn done_under(
        &self,
        who: Who<'_>,
        (method, path): (&str, &str),
        body: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut api = self.authorized(who, method, path).await;
        if !body.is_null() {
            api = api.json(&body);
        }
        api = headers.iter().fold(api, |api, (name, value)| api.header(name, value));
        let answer = self.send(api, method, path).await;
        assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text);
        self.contract.hold_request(method, path, (!body.is_null()).then_some(&body));
        answer
    }

    /// A request at an OAuth endpoint that must end with this status and error.
    async fn oauth(&self, path: &str, request: Request<'_>, expected: (u16, &str)) -> Answer {
        let body = form(&request.params);
        let answer = request.send().await;
        self.contract.hold("POST", path, &answer);
        assert_eq!((answer.status, answer.error()), expected, "{path}: {}", answer.text);
        if answer.status == 200 {
            self.contract.hold_request("POST", path, Some(&body));
        }
        answer
    }

    async fn exchanged(&self, by: &Agent, sub: &str, scope: &str) -> Answer {
        let request = by.exchange(&self.world.server, &self.world.token_of(sub), JWT).param("audience", MAIL);
        self.oauth("/oauth/token", request.param("scope", scope), (200, "")).await
    }
}

fn id_of(answer: &Answer) -> String {
    answer.json["id"].as_str().unwrap_or_else(|| panic!("no id in {}", answer.text)).to_owned()
}

fn new_agent_key() -> Agent {
    Agent::new("unregistered", Auth::None)
}

const UNKNOWN: &str = "no-such-delegation";
const THUMBPRINT: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";

#[tokio::test(flavor = "multi_thread")]
async fn every_described_answer_occurs_and_fits() {
    let contract = Contract::read();
    let world = World::configured("[agents]\nmax_per_task = 1").await;
    // A client of a kind that may not use the management API, with a valid access token.
    let yaml = format!(
        "clients:\n  - {{id: service, kind: service, auth: client_secret_basic, secret: service-secret-0123456789,\n     \
         scopes: [actchain.delegate], audiences: [{:?}], grant_types: [client_credentials]}}\n",
        world.server.app.issuer
    );
    world.server.apply(&yaml).await.unwrap();
    let held = Held { world: &world, contract: &contract };
    documents(&held).await;
    token_endpoint(&held).await;
    refresh::refresh_tokens_are_issued_used_and_revoked(&held).await;
    a_delegation_is_created_renewed_and_revoked(&held).await;
    a_delegation_is_asked_for_and_decided(&held).await;
    bad_requests_for_delegations(&held).await;
    uses_are_reserved_and_counted(&held).await;
    an_agent_is_made_and_changes_its_key_and_ends(&held).await;
    relying_parties_learn_the_state_of_tokens(&held).await;
    strange_texts(&held).await;
    accounts_are_connected(&held).await;
    registrations::a_manifest_is_applied_and_exported(&held).await;
    registrations::what_is_registered_is_listed(&held).await;
    registrations::secrets_are_rotated_and_exchanges_checked(&held, &world.user_proxy).await;
    standing_grants::a_user_consents_once(&held).await;
    administration(&held).await;
    the_log_is_open(&held).await;
    audit::the_log_is_asked(&held).await;
    audit::events_are_archived(&contract).await;
    vault::credentials_are_kept_and_fetched(&contract).await;
    audit_out::the_log_goes_out(&held).await;
    every_operation_checks_its_caller(&held).await;
    every_caller_is_rate_limited(&contract).await;
    a_nonce_is_demanded(&contract).await;
    nothing_works_without_a_database(&held).await;
    let mut missing = contract.described();
    let races = RACES.map(|(method, path, status)| (method.to_owned(), path.to_owned(), status));
    missing.retain(|one| !contract.seen().contains(one) && !races.contains(one));
    assert!(missing.is_empty(), "described, but no test got them: {missing:#?}");
}

async fn get(held: &Held<'_>, path: &str) -> Answer {
    held.send(Api::get(&held.world.server, path), "GET", path).await
}

async fn documents(held: &Held<'_>) {
    for path in ["/oauth/jwks", "/health", "/ready", "/metrics", "/oauth/status-lists"] {
        assert_eq!(get(held, path).await.status, 200, "{path}");
    }
    for path in ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"] {
        let metadata = get(held, path).await;
        let jwk = &held.world.server.app.keyring().jwks["keys"][0];
        assert_eq!(metadata.json["introspection_signing_alg_values_supported"], json!([jwk["alg"]]));
    }
    let missing = Api::get(&held.world.server, "/nothing").send().await;
    let problem = held.contract.schema("Problem");
    assert_eq!(held.contract.problems(&problem, &missing.json), Vec::<String>::new());
}

async fn token_endpoint(held: &Held<'_>) {
    let world = held.world;
    let exchange =
        || world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
    let first = held.oauth("/oauth/token", exchange(), (200, "")).await;
    let second = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN);
    let second = held.oauth("/oauth/token", second, (200, "")).await;
    let third = world.followup_svc.exchange(&world.server, second.token(), ACCESS_TOKEN);
    held.oauth("/oauth/token", third, (200, "")).await;
    let details = r#"[{"type":"mailbox","actions":["read"]}]"#;
    held.oauth("/oauth/token", exchange().param("authorization_details", details), (200, "")).await;
    let bearer =
        world.stranger.request(&world.server).without("dpop").param("grant_type", "client_credentials");
    held.oauth("/oauth/token", bearer.param("audience", MAIL), (200, "")).await;
    let two = world.user_proxy.request(&world.server).param("grant_type", "client_credentials");
    let two = two.param("audience", MAIL).param("resource", CALENDAR).param("scope", "both");
    held.oauth("/oauth/token", two, (200, "")).await;
    let low = exchange().param("capability_ceiling", "observe");
    let low = held.oauth("/oauth/token", low, (200, "")).await;
    assert_eq!(low.claims()["capability_ceiling"], "observe");
    for (request, expected) in [
        (exchange().param("scope", "nothing"), (400, "invalid_scope")),
        (exchange().param("scope", "a  b"), (400, "invalid_scope")),
        (exchange().set("audience", "https://unknown.example.com"), (400, "invalid_target")),
        (exchange().set("subject_token", "x"), (400, "invalid_request")),
        (exchange().without("dpop"), (400, "invalid_dpop_proof")),
        (exchange().without("subject_token"), (400, "invalid_request")),
        (exchange().param("scope", "a").param("scope", "b"), (400, "invalid_request")),
        (exchange().param("authorization_details", "x"), (400, "invalid_authorization_details")),
        (exchange().param("capability_ceiling", "fly"), (400, "invalid_request")),
        (world.user_proxy.request(&world.server).param("grant_type", "x"), (400, "unsupported_grant_type")),
        (world.stranger.exchange(&world.server, &world.user_token(), JWT), (400, "invalid_request")),
        (Request::to(&world.server), (401, "invalid_client")),
    ] {
        held.oauth("/oauth/token", request, expected).await;
    }
}

async fn a_delegation_is_created_renewed_and_revoked(held: &Held<'_>) {
    let (alice, admin) = (Who::User("alice"), Who::Client(&held.world.admin));
    let body = json!({"delegate": "stranger", "scopes": ["mail.read"], "audiences": [MAIL], "max_uses": 5, "max_depth": 2,
                      "authorization_details": [{"type": "mailbox", "actions": ["read"]}], "expires_in": 600,
                      "capability_ceiling": "mutate", "reason": "to read\nher mail", "agent": {"type": "assistant"}});
    let key = [("idempotency-key", "first")];
    let created = held.done_under(alice, ("POST", "/delegate"), body.clone(), &key).await;
    assert_eq!((created.status, created.header("idempotent-replayed")), (201, None));
    let id = id_of(&created);
    let uri = format!("{}/delegate/{id}", held.world.server.app.issuer);
    assert_eq!(created.header("location"), Some(uri.as_str()));
    let again = held.done_under(alice, ("POST", "/delegate"), body, &key).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!((&again.json, again.header("location")), (&created.json, Some(uri.as_str())));

    let at = |call: &str| format!("/delegate/{id}{call}");
    let shown = held.done(alice, ("GET", &at("")), Value::Null).await;
    assert_eq!((&shown.json, shown.header("retry-after")), (&created.json, None));
    held.refused(Who::User("bob"), ("GET", &at("")), Value::Null, (404, "not_found")).await;
    held.refused(alice, ("GET", &at("?wait=31")), Value::Null, (400, "malformed_request")).await;
    held.refused(alice, ("GET", &at("?patience=1")), Value::Null, (400, "malformed_request")).await;

    let all = format!(
        "/delegate?state=active&delegator_iss={IDP}&delegator_sub=alice&delegate=stranger&from=2026-01-01T00:00:00Z\
         &to=2027-01-01T00:00:00Z&limit=1"
    );
    let page = held.done(alice, ("GET", &all), Value::Null).await;
    assert_eq!(page.json, json!({"items": [created.json], "next": null}));
    let first = held.done(admin, ("GET", "/delegate?limit=1"), Value::Null).await;
    let next = first.json["next"].as_str().unwrap();
    held.done(admin, ("GET", &format!("/delegate?limit=1&cursor={next}")), Value::Null).await;
    held.done(Who::Client(&held.world.email_svc), ("GET", "/delegate?parent=D&task_id=none"), Value::Null)
        .await;
    for wrong in
        ["limit=0", "limit=101", "cursor=x", "since=yesterday", "state=old", "page=2", "delegate=%00"]
    {
        let path = format!("/delegate?{wrong}");
        held.refused(alice, ("GET", &path), Value::Null, (400, "malformed_request")).await;
    }

    let renewed = held.done(alice, ("POST", &at("/renew")), json!({"expires_in": 900})).await;
    assert_ne!(renewed.json["expires_at"], created.json["expires_at"]);
    let shortened = held.done(alice, ("POST", &at("/renew")), json!({"expires_in": 400 * 86_400})).await;
    assert_eq!(shortened.json["shortened"], true);
    for (body, reason) in [(json!({"expires_in": 1}), "expiry_not_later"), (json!({}), "malformed_request")] {
        held.refused(alice, ("POST", &at("/renew")), body, (400, reason)).await;
    }
    let too_long = json!({"reason": "x".repeat(501)});
    held.refused(alice, ("POST", &at("/revoke")), too_long, (400, "malformed_request")).await;
    let revoked = held.done(alice, ("POST", &at("/revoke")), json!({"reason": "enough"})).await;
    assert_eq!(revoked.json["affected"], json!({"delegations": 1, "tokens": 0, "at_least": false}));
    for call in ["/revoke", "/deny", "/approve"] {
        let late =
            held.refused(alice, ("POST", &at(call)), Value::Null, (409, "invalid_state_transition")).await;
        assert_eq!(late.json["state"], "revoked");
    }
    held.refused(
        alice,
        ("POST", &at("/renew")),
        json!({"expires_in": 1200}),
        (409, "invalid_state_transition"),
    )
    .await;
    for (call, body) in [
        ("/approve", Value::Null),
        ("/deny", Value::Null),
        ("/revoke", Value::Null),
        ("/renew", json!({"expires_in": 60})),
    ] {
        let path = format!("/delegate/{UNKNOWN}{call}");
        held.refused(alice, ("POST", &path), body, (404, "not_found")).await;
    }
}

async fn a_delegation_is_asked_for_and_decided(held: &Held<'_>) {
    let (bob, proxy) = (Who::User("bob"), Who::Client(&held.world.user_proxy));
    let body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read", "mail.send"], "expires_in": 600});
    let asked = held.done(proxy, ("POST", "/delegate"), body.clone()).await;
    assert_eq!(asked.status, 202);
    let id = id_of(&asked);
    let at = |call: &str| format!("/delegate/{id}{call}");
    let ask = async || {
        let api = held.authorized(proxy, "GET", &at("")).await;
        let answer = held.send(api, "GET", &at("")).await;
        (answer.status, answer.header("retry-after").map(str::to_owned), answer.reason().to_owned())
    };
    let said = |status, wait: &str, reason: &str| (status, Some(wait.to_owned()), reason.to_owned());
    assert_eq!(ask().await, said(200, "5", ""));
    assert_eq!(ask().await, said(429, "10", "slow_down"));
    held.world.server.pass(10);
    assert_eq!(ask().await, said(200, "10", ""), "the longer wait stays, and is said");
    let waited = held.done(proxy, ("GET", &at("?wait=1")), Value::Null).await;
    assert_eq!((waited.json["state"].as_str(), waited.header("retry-after")), (Some("requested"), Some("5")));
    let seen = held.done(bob, ("GET", &at("?wait=0")), Value::Null).await;
    assert_eq!(seen.header("retry-after"), Some("5"));

    held.refused(proxy, ("POST", &at("/approve")), Value::Null, (403, "insufficient_scope")).await;
    held.refused(proxy, ("POST", &at("/deny")), Value::Null, (403, "insufficient_scope")).await;
    held.refused(bob, ("POST", &at("/steps")), steps(1), (403, "insufficient_scope")).await;
    let early = held.refused(proxy, ("POST", &at("/steps")), steps(1), (409, "delegation_requested")).await;
    assert_eq!(early.json["state"], "requested");
    for (body, pointer) in [(json!({"scopes": ["both"]}), "#/scopes")] {
        let wider = held.refused(bob, ("POST", &at("/approve")), body, (400, "exceeds_parent")).await;
        assert_eq!(wider.json["errors"][0]["pointer"], pointer);
    }
    let narrower = json!({"scopes": ["mail.read"], "audiences": [MAIL], "capability_ceiling": "observe", "max_uses": 1,
                          "ceremony_required_for": ["mail.send"], "max_depth": 1, "expires_in": 60,
                          "authorization_details": []});
    let approved = held.done(bob, ("POST", &at("/approve")), narrower).await;
    assert_eq!(approved.json["state"], "active");
    let nothing_to_decide =
        held.refused(bob, ("POST", &at("/deny")), Value::Null, (409, "invalid_state_transition")).await;
    assert_eq!(nothing_to_decide.json["state"], "active");

    let denied = id_of(&held.done(proxy, ("POST", "/delegate"), body).await);
    let no = json!({"reason": "no"});
    held.done(bob, ("POST", &format!("/delegate/{denied}/deny")), no).await;
    held.world.server.pass(61);
    let over = held.refused(proxy, ("POST", &at("/steps")), steps(1), (409, "delegation_expired")).await;
    assert_eq!(over.json["state"], "expired");
    held.refused(bob, ("POST", &at("/revoke")), Value::Null, (409, "invalid_state_transition")).await;
}

/// A body that the server refuses because of its form must also violate the description.
async fn bad_requests_for_delegations(held: &Held<'_>) {
    let (alice, email) = (Who::User("alice"), Who::Client(&held.world.email_svc));
    let jwk = new_agent_key().key.public_jwk();
    let mut private = jwk.clone();
    private["d"] = json!("AAAA");
    let malformed = [
        json!({"delegate": "stranger", "colour": "red"}),
        json!({"delegate": "stranger", "scopes": "mail.read"}),
        json!({"delegate": "stranger", "max_uses": 0}),
        json!({"delegate": "stranger", "max_depth": -1}),
        json!({"delegate": "stranger", "expires_in": "1h"}),
        json!({"delegate": "stranger", "ceremony_required_for": null}),
        json!({"delegate": "stranger", "reason": "x".repeat(501)}),
        json!({"delegate": "stranger", "reason": "a\tb"}),
        json!({"delegate": "stranger", "agent": {"type": ""}}),
        json!({"delegate": "stranger", "agent": {"model": "x".repeat(101)}}),
        json!({"delegate": "stranger", "agent": {"version": "1"}}),
        json!({"delegate": "stranger", "delegator": {"iss": IDP}}),
        json!({"delegate": "stranger", "delegator": {"iss": IDP, "sub": "alice"}, "parent": "D"}),
        json!({"delegate": "stranger", "ephemeral": {"jwk": jwk, "task_id": "t"}}),
        json!({"ephemeral": {"jwk": jwk}}),
        json!({"ephemeral": {"jwk": jwk, "task_id": "a/b"}}),
        json!({"ephemeral": {"jwk": private, "task_id": "t"}}),
        json!({"ephemeral": {"jwk": {"kty": "oct", "k": "AAAA"}, "task_id": "t"}}),
        json!({"delegate": "stranger", "scopes": (0..101).map(|n| format!("s{n}")).collect::<Vec<_>>()}),
        json!(["stranger"]),
    ];
    let schema = held.contract.schema("NewDelegation");
    for body in malformed {
        held.refused(alice, ("POST", "/delegate"), body.clone(), (400, "malformed_request")).await;
        assert!(!held.contract.problems(&schema, &body).is_empty(), "described: {body}");
    }
    for (body, reason) in [
        (json!({"delegate": "stranger", "scopes": ["a b"]}), "scope_malformed"),
        (json!({"delegate": "stranger", "audiences": ["a b"]}), "resource_malformed"),
        (json!({"delegate": "stranger", "authorization_details": {}}), "authorization_details_malformed"),
        (json!({"delegate": "a b"}), "delegate_unknown"),
    ] {
        held.refused(alice, ("POST", "/delegate"), body.clone(), (400, reason)).await;
        assert!(!held.contract.problems(&schema, &body).is_empty(), "described: {body}");
    }
    let created =
        held.done(alice, ("POST", "/delegate"), json!({"delegate": "user-proxy", "expires_in": 300})).await;
    let proxy = Who::Client(&held.world.user_proxy);
    let parent = id_of(&created);
    for (who, body, expected) in [
        (alice, json!({"delegate": "stranger", "capability_ceiling": "fly"}), (400, "capability_unknown")),
        (
            alice,
            json!({"delegate": "stranger", "audiences": ["https://nowhere.example"]}),
            (400, "resource_unknown"),
        ),
        (alice, json!({"delegate": "stranger", "scopes": ["mail.raed"]}), (400, "scope_unknown")),
        (
            alice,
            json!({"delegate": "stranger", "ceremony_required_for": ["mail.raed"]}),
            (400, "scope_unknown"),
        ),
        (
            alice,
            json!({"delegate": "stranger", "authorization_details": [{"type": "mialbox"}]}),
            (400, "authorization_details_type_unknown"),
        ),
        (alice, json!({"delegate": "unknown"}), (400, "delegate_unknown")),
        (
            alice,
            json!({"delegate": "stranger", "delegator": {"iss": IDP, "sub": "bob"}}),
            (403, "insufficient_scope"),
        ),
        (alice, json!({"delegate": "stranger", "parent": parent}), (403, "insufficient_scope")),
        (proxy, json!({"parent": parent, "delegate": "user-proxy"}), (400, "delegation_cycle")),
        (proxy, json!({"delegator": {"iss": "https://x.example", "sub": "a"}}), (400, "delegator_unknown")),
        (
            proxy,
            json!({"delegator": {"iss": IDP, "sub": "a"}, "delegate": "stranger"}),
            (403, "insufficient_scope"),
        ),
        (email, json!({"parent": parent, "delegate": "stranger"}), (404, "not_found")),
        (Who::Client(&held.world.admin), json!({"delegate": "stranger"}), (403, "insufficient_scope")),
    ] {
        held.refused(who, ("POST", "/delegate"), body, expected).await;
    }
    let below = json!({"parent": parent, "delegate": "stranger", "scopes": ["mail.read"]});
    let below = held.done(proxy, ("POST", "/delegate"), below).await;
    held.done(alice, ("POST", &format!("/delegate/{parent}/revoke")), Value::Null).await;
    let ended = held.done(alice, ("GET", &format!("/delegate/{}", id_of(&below))), Value::Null).await;
    assert_eq!((&ended.json["state"], &ended.json["ended_by"]), (&json!("revoked"), &json!(parent)));
    let late = json!({"parent": parent, "delegate": "stranger"});
    let late = held.refused(proxy, ("POST", "/delegate"), late, (409, "parent_not_active")).await;
    assert_eq!(late.json["state"], "revoked");
}

async fn uses_are_reserved_and_counted(held: &Held<'_>) {
    let (carol, proxy) = (Who::User("carol"), &held.world.user_proxy);
    let body = json!({"delegate": "user-proxy", "scopes": ["mail.read", "mail.send"], "audiences": [MAIL], "max_uses": 6,
                      "ceremony_required_for": ["mail.send", "execute"], "capability_ceiling": "mutate"});
    let created = held.done(carol, ("POST", "/delegate"), body).await;
    let id = id_of(&created);
    let at = |call: &str| format!("/delegate/{id}{call}");
    let send = |scope: &'static str| {
        let exchange = proxy.exchange(&held.world.server, &held.world.token_of("carol"), JWT);
        exchange.param("audience", MAIL).param("scope", scope)
    };
    let reserved = async || {
        let refused =
            held.oauth("/oauth/token", send("mail.send"), (400, "insufficient_user_authentication")).await;
        let waits = refused.reason() == "ceremony_required";
        assert_eq!(refused.json.get("delegation_id"), waits.then_some(&json!(id)), "{}", refused.text);
        (refused.reason().to_owned(), refused.json["ceremony"].as_str().map(str::to_owned))
    };
    let (reason, ceremony) = reserved().await;
    assert_eq!(reason, "ceremony_required");
    let ceremony = ceremony.unwrap();
    assert_eq!(reserved().await, ("ceremony_required".into(), Some(ceremony.clone())), "the same one");
    let approve = at(&format!("/ceremonies/{ceremony}/approve"));
    held.refused(Who::Client(proxy), ("POST", &approve), Value::Null, (403, "insufficient_scope")).await;
    held.refused(Who::User("bob"), ("POST", &approve), Value::Null, (404, "not_found")).await;
    held.done(carol, ("POST", &approve), Value::Null).await;
    let twice = held.refused(carol, ("POST", &approve), Value::Null, (409, "ceremony_decided")).await;
    assert_eq!(twice.json["state"], "approved");
    held.oauth("/oauth/token", send("mail.send"), (200, "")).await;
    held.world.server.pass(1);
    let (_, second) = reserved().await;
    let deny = at(&format!("/ceremonies/{}/deny", second.unwrap()));
    held.done(carol, ("POST", &deny), Value::Null).await;
    held.refused(carol, ("POST", &deny), Value::Null, (409, "ceremony_decided")).await;
    assert_eq!(reserved().await, ("ceremony_denied".into(), None));
    let listed = held.done(carol, ("GET", &at("/ceremonies")), Value::Null).await;
    let states: Vec<&Value> =
        listed.json["items"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["denied", "used"]);
    held.refused(carol, ("GET", &format!("/delegate/{UNKNOWN}/ceremonies")), Value::Null, (404, "not_found"))
        .await;
    let unknown = at(&format!("/ceremonies/{}/deny", Uuid::nil()));
    held.refused(carol, ("POST", &unknown), Value::Null, (404, "not_found")).await;

    let high = send("mail.read").param("capability_ceiling", "admin");
    held.oauth("/oauth/token", high, (400, "invalid_scope")).await;
    let token = held.exchanged(proxy, "carol", "mail.read").await;
    let request = held.world.mail_server.at(&held.world.server, "/oauth/introspect").without("dpop");
    let answer = held.oauth("/oauth/introspect", request.param("token", token.token()), (200, "")).await;
    assert_eq!(answer.json["capability_ceiling"], "mutate");

    let commands = at("/steps");
    let odd = json!({"steps": [{"tool": "a b", "outcome": "succeeded"}]});
    let alien = json!({"steps": [{"tool": "search", "outcome": "done"}]});
    for bad in [steps(0), steps(101), odd, alien, json!({"count": 1}), json!({})] {
        held.refused(Who::Client(proxy), ("POST", &commands), bad.clone(), (400, "malformed_request")).await;
        assert!(
            !held.contract.problems(&held.contract.schema("StepReport"), &bad).is_empty(),
            "described: {bad}"
        );
    }
    held.refused(
        Who::Client(proxy),
        ("POST", &format!("/delegate/{UNKNOWN}/steps")),
        steps(1),
        (404, "not_found"),
    )
    .await;
    let counted = held.done(Who::Client(proxy), ("POST", &commands), steps(3)).await;
    assert_eq!(
        counted.json,
        json!({"id": id, "state": "active", "uses": 5, "uses_left": 1, "session_id": "session-1", "recorded": 3})
    );
    held.refused(Who::Client(proxy), ("POST", &commands), steps(2), (409, "command_limit")).await;
    let last = held.done(Who::Client(proxy), ("POST", &commands), steps(1)).await;
    assert_eq!((&last.json["state"], &last.json["uses_left"]), (&json!("expired"), &json!(0)));
    let texts = ("DELETE", "/api/v1/sessions/session-1/texts");
    held.done(Who::User("bob"), texts, Value::Null).await;
    held.refused(Who::Client(proxy), texts, Value::Null, (403, "insufficient_scope")).await;
    let over = held.refused(Who::Client(proxy), ("POST", &commands), steps(1), (409, "command_limit")).await;
    assert_eq!(over.json["state"], "expired");
    let late = at(&format!("/ceremonies/{ceremony}/deny"));
    held.refused(carol, ("POST", &late), Value::Null, (409, "invalid_state_transition")).await;
}

async fn an_agent_is_made_and_changes_its_key_and_ends(held: &Held<'_>) {
    let carol = Who::User("carol");
    let old = new_agent_key();
    let jwk = old.key.public_jwk();
    let body =
        json!({"ephemeral": {"jwk": jwk, "task_id": "task-7"}, "scopes": ["mail.read"], "audiences": [MAIL]});
    let created = held.done(carol, ("POST", "/delegate"), body.clone()).await;
    held.refused(carol, ("POST", "/delegate"), body, (409, "task_agent_limit")).await;
    let id = id_of(&created);
    let agent_id = created.json["delegate"].as_str().unwrap().to_owned();
    assert_eq!(
        created.json["ephemeral"],
        json!({"client_id": agent_id, "task_id": "task-7", "jkt": old.jkt(), "pending_jkt": null})
    );
    let agent = Agent { id: agent_id.clone(), ..old };
    let page = held.done(carol, ("GET", "/delegate?task_id=task-7"), Value::Null).await;
    assert_eq!(page.json["items"][0]["id"], created.json["id"]);
    held.exchanged(&agent, "carol", "mail.read").await;

    let key = format!("/delegate/{id}/rotate-key");
    let new = Agent { id: agent_id.clone(), ..new_agent_key() };
    let change = json!({"jwk": new.key.public_jwk()});
    held.refused(carol, ("POST", &key), change.clone(), (403, "insufficient_scope")).await;
    let unknown = format!("/delegate/{UNKNOWN}/rotate-key");
    held.refused(Who::Client(&agent), ("POST", &unknown), change.clone(), (404, "not_found")).await;
    let same = json!({"jwk": agent.key.public_jwk()});
    held.refused(Who::Client(&agent), ("POST", &key), same, (400, "malformed_request")).await;
    held.refused(Who::Client(&agent), ("POST", &key), json!({"jwk": {}}), (400, "malformed_request")).await;
    let waiting = held.done(Who::Client(&agent), ("POST", &key), change).await;
    assert_eq!((waiting.status, &waiting.json["state"]), (202, &json!("requested")));
    assert_eq!(waiting.json["ephemeral"]["jkt"], Value::Null);
    assert_eq!(waiting.json["ephemeral"]["pending_jkt"], new.jkt());
    let approve = format!("/delegate/{id}/approve");
    let narrower = json!({"scopes": ["mail.read"]});
    held.refused(carol, ("POST", &approve), narrower, (400, "malformed_request")).await;
    let confirmed = held.done(carol, ("POST", &approve), Value::Null).await;
    assert_eq!(confirmed.json["ephemeral"]["jkt"], new.jkt());
    held.exchanged(&new, "carol", "mail.read").await;
    let replaced = json!({"jwk": agent.key.public_jwk()});
    held.refused(Who::Client(&new), ("POST", &key), replaced, (409, "key_not_reusable")).await;

    let agents = held.done(carol, ("GET", "/agents?limit=10"), Value::Null).await;
    let made = json!({"task_id": "task-7", "delegation_id": id, "owner": {"iss": IDP, "sub": "carol"}});
    assert_eq!(agents.json["items"][0]["ephemeral"], made, "{}", agents.text);
    let first = held.done(Who::Client(&held.world.admin), ("GET", "/agents?limit=1"), Value::Null).await;
    let next = format!("/agents?cursor={}", first.json["next"].as_str().unwrap());
    held.done(Who::Client(&held.world.admin), ("GET", &next), Value::Null).await;
    held.refused(Who::Client(&new), ("GET", "/agents"), Value::Null, (403, "insufficient_scope")).await;

    let task = "/api/v1/tasks/task-7/agents";
    held.refused(Who::User("bob"), ("DELETE", task), Value::Null, (404, "not_found")).await;
    let ended = held.done(carol, ("DELETE", task), Value::Null).await;
    assert_eq!((&ended.json["ended"], &ended.json["agents"]), (&json!(1), &json!([agent_id])));
    assert_eq!(ended.json["affected"]["delegations"], 1);
    held.refused(carol, ("DELETE", task), Value::Null, (404, "not_found")).await;
    for call in ["enable", "disable"] {
        let path = format!("/api/v1/clients/{agent_id}/{call}");
        held.refused(
            Who::Client(&held.world.admin),
            ("POST", &path),
            Value::Null,
            (409, "agent_deactivated"),
        )
        .await;
    }
}

async fn relying_parties_learn_the_state_of_tokens(held: &Held<'_>) {
    let world = held.world;
    let introspect = |by: &'static str, token: &str| {
        let agent = if by == "mail-server" { &world.mail_server } else { &world.stranger };
        agent.at(&world.server, "/oauth/introspect").without("dpop").param("token", token)
    };
    let token = world.third_hop().await;
    let active = introspect("mail-server", token.token()).param("token_type_hint", "access_token");
    let active = held.oauth("/oauth/introspect", active, (200, "")).await;
    assert_eq!(
        (&active.json["active"], &active.json["delegation"]["path"]),
        (&json!(true), &json!(["D", "E", "F"]))
    );
    for request in [introspect("mail-server", "x"), introspect("stranger", token.token())] {
        let inactive = held.oauth("/oauth/introspect", request, (200, "")).await;
        assert_eq!(inactive.text, r#"{"active":false}"#);
    }
    let accept = "application/token-introspection+jwt";
    let signed = introspect("mail-server", token.token()).header("accept", accept);
    let signed = held.oauth("/oauth/introspect", signed, (200, "")).await;
    assert_eq!(signed.header("content-type"), Some(accept));
    assert_eq!(decoded(&signed.text)[1]["token_introspection"], active.json);
    held.oauth("/oauth/introspect", introspect("mail-server", ""), (400, "invalid_request")).await;
    let twice = introspect("mail-server", "x").param("token", "y");
    held.oauth("/oauth/introspect", twice, (400, "invalid_request")).await;
    let replayed = world.user_proxy.at(&world.server, "/oauth/introspect").param("token", "x");
    held.oauth("/oauth/introspect", replayed.clone(), (200, "")).await;
    held.oauth("/oauth/introspect", replayed, (401, "invalid_client")).await;

    let revoke = |by, token: &str| Agent::at(by, &world.server, "/oauth/revoke").param("token", token);
    let other = revoke(&world.email_svc, token.token()).without("dpop");
    let other = held.oauth("/oauth/revoke", other, (400, "invalid_grant")).await;
    assert_eq!(other.reason(), "token_of_another_client");
    let wrong = revoke(&world.email_svc, "x").set_header("authorization", "Basic eDp5");
    held.oauth("/oauth/revoke", wrong, (401, "invalid_client")).await;
    let long = revoke(&world.email_svc, &"x".repeat(20_000)).set_header("authorization", "Basic eDp5");
    held.oauth("/oauth/revoke", long, (401, "invalid_client")).await;
    held.oauth("/oauth/revoke", revoke(&world.followup_svc, ""), (400, "invalid_request")).await;
    held.oauth("/oauth/revoke", revoke(&world.followup_svc, "x"), (200, "")).await;
    held.oauth("/oauth/revoke", revoke(&world.followup_svc, token.token()), (200, "")).await;

    let lists = get(held, "/oauth/status-lists").await;
    let reference = &token.claims()["status"]["status_list"];
    assert_eq!(lists.json["status_lists"], json!([reference["uri"]]));
    let path = "/oauth/status-lists/0";
    let list = get(held, path).await;
    assert_eq!(list.header("content-type"), Some("application/statuslist+jwt"));
    let claims = &decoded(&list.text)[1];
    assert_eq!(
        (&claims["sub"], claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()),
        (&reference["uri"], 300)
    );
    let statuses = StatusList::read(claims["status_list"]["lst"].as_str().unwrap()).unwrap();
    assert_eq!(statuses.get(reference["idx"].as_u64().unwrap()), Some(Status::Invalid));
    let etag = list.header("etag").unwrap();
    let same = Api::get(&world.server, path).header("if-none-match", etag);
    assert_eq!(held.send(same, "GET", path).await.status, 304);
    let other = Api::get(&world.server, path).header("if-none-match", "\"other\"");
    assert_eq!(held.send(other, "GET", path).await.status, 200);
    for (path, expected) in [
        ("/oauth/status-lists/0?time=1", (501, "not_supported")),
        ("/oauth/status-lists/1", (404, "not_found")),
        ("/oauth/status-lists/00", (404, "not_found")),
        ("/oauth/status-lists/x", (404, "not_found")),
    ] {
        let answer = get(held, path).await;
        assert_eq!((answer.status, answer.reason()), expected, "{path}");
    }
}

/// A text that no name can contain is refused with a reason, wherever it occurs, and never causes a fault.
async fn strange_texts(held: &Held<'_>) {
    let (alice, proxy) = (Who::User("alice"), Who::Client(&held.world.user_proxy));
    let admin = Who::Client(&held.world.admin);
    let issuer = &held.world.server.app.issuer;
    let missing = (404, "not_found");
    for id in ["%00", "%FF", "a%2Fb", "%F0%9F%98%80", &"x".repeat(300)] {
        held.refused(alice, ("GET", &format!("/delegate/{id}")), Value::Null, missing).await;
        held.refused(alice, ("POST", &format!("/delegate/{id}/deny")), Value::Null, missing).await;
        held.refused(alice, ("POST", &format!("/delegate/{id}/revoke")), Value::Null, missing).await;
        let ceremony = format!("/delegate/D/ceremonies/{id}/deny");
        held.refused(alice, ("POST", &ceremony), Value::Null, missing).await;
        held.refused(alice, ("DELETE", &format!("/api/v1/tasks/{id}/agents")), Value::Null, missing).await;
        held.refused(admin, ("POST", &format!("/api/v1/clients/{id}/disable")), Value::Null, missing).await;
        let key = format!("/api/v1/clients/{id}/keys/{THUMBPRINT}");
        held.refused(admin, ("DELETE", &key), Value::Null, missing).await;
        let key = format!("/api/v1/clients/user-proxy/keys/{id}");
        let unreadable = ["%00", "%FF"].contains(&id);
        let expected = if unreadable { missing } else { (400, "malformed_request") };
        held.refused(admin, ("DELETE", &key), Value::Null, expected).await;
    }
    let revoke_all = ("POST", "/api/v1/principals/revoke-all");
    let principal = json!({"iss": IDP, "sub": "", "reason": "left"});
    held.refused(admin, revoke_all, principal, (400, "delegator_unknown")).await;
    let ask = json!({"delegator": {"iss": IDP, "sub": ""}});
    held.refused(proxy, ("POST", "/delegate"), ask, (400, "delegator_unknown")).await;
    let malformed = (400, "malformed_request");
    let principal = json!({"iss": issuer, "sub": "a\0b", "reason": "left"});
    held.refused(admin, revoke_all, principal, malformed).await;
    let ask = json!({"delegator": {"iss": IDP, "sub": "a\0b"}});
    held.refused(proxy, ("POST", "/delegate"), ask, malformed).await;
    for (member, value) in [
        ("delegate", json!("a\0b")),
        ("parent", json!("a\0b")),
        ("authorization_details", json!([{"type": "a\0b"}])),
        ("scopes", json!(["a\0b"])),
        ("reason", json!("a\0b")),
        ("ephemeral", json!({"jwk": new_agent_key().key.public_jwk(), "task_id": "a\0b"})),
    ] {
        let mut body = json!({"delegate": "stranger"});
        body[member] = value;
        held.refused(alice, ("POST", "/delegate"), body, malformed).await;
    }
    for (member, value, reason) in [
        ("delegate", json!("a\u{1}b"), "delegate_unknown"),
        ("capability_ceiling", json!("a\u{1}b"), "capability_unknown"),
        ("scopes", json!(["a\u{1}b"]), "scope_malformed"),
        ("audiences", json!(["a\u{1}b"]), "resource_malformed"),
    ] {
        let mut body = json!({"delegate": "stranger"});
        body[member] = value;
        held.refused(alice, ("POST", "/delegate"), body, (400, reason)).await;
    }
    for cursor in ["9223372036854775807.a", "-9223372036854775808.a", "0.a"] {
        held.done(alice, ("GET", &format!("/delegate?cursor={cursor}")), Value::Null).await;
    }
}

async fn administration(held: &Held<'_>) {
    let admin = Who::Client(&held.world.admin);
    let issuer = held.world.server.app.issuer.clone();
    held.exchanged(&held.world.user_proxy, "alice", "mail.read").await;
    let impact = "/api/v1/principals/impact";
    let own = "/delegate/D/impact";
    for path in
        [format!("{impact}?iss={IDP}&sub=alice"), format!("{impact}?client_id=user-proxy"), own.to_owned()]
    {
        let found = held.done(admin, ("GET", &path), Value::Null).await;
        let affected = &found.json["affected"];
        assert!(affected["delegations"].as_i64().unwrap() >= 3, "{}", found.text);
        assert!(affected["audiences"].as_array().unwrap().contains(&json!(MAIL)), "{}", found.text);
    }
    held.done(Who::User("alice"), ("GET", own), Value::Null).await;
    held.refused(Who::User("bob"), ("GET", own), Value::Null, (404, "not_found")).await;
    let (foreign, unknown) = ("iss=https://x.example&sub=a", "client_id=unknown");
    for (whom, expected) in [
        ("", (400, "malformed_request")),
        ("iss=x", (400, "malformed_request")),
        ("client_id=a&delegation_id=b", (400, "malformed_request")),
        ("client_id=%00", (400, "malformed_request")),
        (foreign, (400, "delegator_unknown")),
        (unknown, (404, "not_found")),
    ] {
        let path = format!("/api/v1/principals/impact?{whom}");
        held.refused(admin, ("GET", &path), Value::Null, expected).await;
    }
    held.refused(
        Who::User("alice"),
        ("GET", "/api/v1/principals/impact?client_id=a"),
        Value::Null,
        (403, "insufficient_scope"),
    )
    .await;

    let disable = "/api/v1/clients/email-svc/disable";
    let disabled =
        held.done_under(admin, ("POST", disable), Value::Null, &[("idempotency-key", "off")]).await;
    assert_eq!((&disabled.json["state"], &disabled.json["changed"]), (&json!("disabled"), &json!(true)));
    assert!(disabled.json["affected"].is_object());
    let again = held.done_under(admin, ("POST", disable), Value::Null, &[("idempotency-key", "off")]).await;
    assert_eq!((&again.json, again.header("idempotent-replayed")), (&disabled.json, Some("true")));
    let body = json!({"delegate": "email-svc"});
    held.refused(Who::User("alice"), ("POST", "/delegate"), body, (400, "delegate_disabled")).await;
    // Below a disabled agent, commands are refused.
    let (alice, proxy) = (Who::User("alice"), Who::Client(&held.world.user_proxy));
    let top =
        id_of(&held.done(alice, ("POST", "/delegate"), json!({"delegate": "stranger", "max_uses": 9})).await);
    let stranger = Who::Client(&held.world.stranger);
    let below = json!({"parent": top, "delegate": "user-proxy"});
    let below = id_of(&held.done(stranger, ("POST", "/delegate"), below).await);
    held.done(admin, ("POST", "/api/v1/clients/stranger/disable"), Value::Null).await;
    let commands = format!("/delegate/{below}/steps");
    held.refused(proxy, ("POST", &commands), steps(1), (409, "actor_disabled")).await;
    held.done(admin, ("POST", "/api/v1/clients/stranger/enable"), Value::Null).await;
    held.done(proxy, ("POST", &commands), steps(1)).await;
    held.done(admin, ("POST", "/api/v1/clients/email-svc/enable"), Value::Null).await;
    let unchanged = held.done(admin, ("POST", "/api/v1/clients/email-svc/enable"), Value::Null).await;
    assert_eq!(unchanged.json, json!({"client_id": "email-svc", "state": "enabled", "changed": false}));

    held.done(admin, ("DELETE", &format!("/api/v1/clients/email-svc/keys/{THUMBPRINT}")), Value::Null).await;
    held.refused(
        admin,
        ("DELETE", "/api/v1/clients/email-svc/keys/x"),
        Value::Null,
        (400, "malformed_request"),
    )
    .await;
    for (method, call) in
        [("POST", "disable"), ("POST", "enable"), ("DELETE", &*format!("keys/{THUMBPRINT}"))]
    {
        let path = format!("/api/v1/clients/unknown/{call}");
        held.refused(admin, (method, &path), Value::Null, (404, "not_found")).await;
    }

    let revoke_all = ("POST", "/api/v1/principals/revoke-all");
    for (body, expected) in [
        (json!({"iss": IDP, "sub": "alice"}), (400, "malformed_request")),
        (json!({"iss": "https://x.example", "sub": "a", "reason": "left"}), (400, "delegator_unknown")),
        (json!({"iss": issuer, "sub": "unknown", "reason": "left"}), (404, "not_found")),
    ] {
        held.refused(admin, revoke_all, body, expected).await;
    }
    let left = json!({"iss": IDP, "sub": "alice", "reason": "left"});
    let key = [("idempotency-key", "the key of another request")];
    let revoked = held.done_under(admin, revoke_all, left, &key).await;
    assert!(revoked.json["affected"]["delegations"].as_i64().unwrap() >= 3, "{}", revoked.text);
    let over = held.refused(proxy, ("POST", &commands), steps(1), (409, "principal_revoked")).await;
    assert_eq!(over.json["state"], "revoked");

    let bodies = BTreeMap::from([
        ("/delegate", json!({"delegate": "stranger"})),
        ("/api/v1/apply", json!({"clients": []})),
        ("/delegate/{id}/renew", json!({"expires_in": 60})),
        ("/delegate/{id}/steps", steps(1)),
        ("/delegate/{id}/rotate-key", json!({"jwk": new_agent_key().key.public_jwk()})),
        ("/api/v1/connections", json!({"provider": "keys", "credential": {"key": "k"}})),
        ("/api/v1/providers/{id}", json!({"kind": "basic"})),
        ("/api/v1/audit-sinks/{id}", json!({"url": "http://127.0.0.1:9/"})),
        ("/api/v1/connections/{id}/rotate", json!({"credential": {"key": "k"}})),
        ("/api/v1/principals/revoke-all", json!({"iss": IDP, "sub": "bob", "reason": "left"})),
        ("/api/v1/connections", json!({"provider": "mail-account", "credential": {"access_token": "x"}})),
        ("/api/v1/connections/{id}/finish", json!({"code": "x"})),
        (
            "/api/v1/standing-grants",
            json!({"grantor": {"iss": IDP, "sub": "bob"}, "client_id": "x", "scopes": ["mail.read"], "audiences": [MAIL]}),
        ),
        ("/api/v1/standing-grants/{id}/renew", json!({"expires_in": 60})),
        ("/api/v1/standing-grants/{id}/revalidate", json!({"keys": [], "replaces": []})),
    ]);
    for (method, template, operation) in held.contract.operations() {
        if operation["responses"]["422"].is_null() {
            continue;
        }
        let path = filled(&template).replace(UNKNOWN, "D");
        let mut api = held.authorized(admin, &method, &path).await.key(key[0].1);
        if let Some(body) = bodies.get(template.as_str()) {
            api = api.json(body);
        }
        let reused = held.send(api, &method, &path).await;
        assert_eq!(
            (reused.status, reused.reason()),
            (422, "idempotency_key_reused"),
            "{method} {path}: {}",
            reused.text
        );
        let empty = held.authorized(admin, &method, &path).await.key("");
        let empty = held.send(empty, &method, &path).await;
        assert_eq!((empty.status, empty.reason()), (400, "malformed_request"), "{method} {path}");
    }
}

/// A path template with each parameter filled in.
fn filled(template: &str) -> String {
    let id = if template.starts_with("/delegate") { UNKNOWN } else { "unknown" };
    let ceremony = Uuid::nil().to_string();
    let values = [("{id}", id), ("{ceremony}", &ceremony), ("{jkt}", THUMBPRINT), ("{list}", "0")];
    let values = values.into_iter().chain([
        ("{connection}", UNKNOWN),
        ("{host}", "api.example.com"),
        ("{path}", "x"),
        ("{provider}", "x"),
        ("{level}", "0"),
        ("{tile}", "000.p"),
        ("{txn}", "nothing"),
    ]);
    values.fold(template.to_owned(), |path, (name, value)| path.replace(name, value))
}

/// The operations of the management API: those that require an access token.
fn at_the_management_api(contract: &Contract) -> Vec<(String, String)> {
    let operations = contract.operations().into_iter();
    let under_token = operations.filter(|(.., operation)| {
        let tag = ["Delegations", "Administration", "Vault", "Audit log"]
            .iter()
            .any(|tag| operation["tags"][0] == *tag);
        (tag || operation["operationId"] == "entryTile")
            && operation["operationId"] != "retrieveToken"
            && !operation["operationId"].as_str().unwrap().starts_with("proxy")
    });
    under_token.map(|(method, path, _)| (method, filled(&path))).collect()
}

const OAUTH: [&str; 3] = ["/oauth/token", "/oauth/introspect", "/oauth/revoke"];

/// The public endpoints of the transparency log.
async fn the_log_is_open(held: &Held<'_>) {
    let server = &held.world.server;
    let public = ["/audit/checkpoint", "/audit/proof/inclusion?seq=0", "/audit/proof/consistency?from=0"];
    for path in public {
        assert_eq!(get(held, path).await.status, 404, "no checkpoint yet: {path}");
    }
    crate::transparency::checkpoint(server).await;
    for path in public.into_iter().chain(["/audit/keys"]) {
        assert_eq!(get(held, path).await.status, 200, "{path}");
        held.contract.hold_request("GET", path, None);
    }
    for path in ["/audit/proof/inclusion?seq=x", "/audit/proof/consistency?from=x"] {
        assert_eq!(get(held, path).await.status, 400, "{path}");
    }
    // A tile number takes several segments, but the description has one parameter for them.
    let tile =
        held.send(Api::get(server, "/audit/tile/0/000.p/3"), "GET", "/audit/tile/{level}/{tile}").await;
    assert_eq!(tile.status, 200);
    let missing = held.send(Api::get(server, "/audit/tile/7/000"), "GET", "/audit/tile/{level}/{tile}").await;
    assert_eq!(missing.status, 404);
    let token = held.world.management_token(&held.world.admin).await;
    for (path, status) in [("/audit/tile/entries/000.p/1", 200), ("/audit/tile/entries/999", 404)] {
        let api = Api::get(server, path).client(&held.world.admin, &token);
        assert_eq!(held.send(api, "GET", "/audit/tile/entries/{tile}").await.status, status);
    }
    let post = |body: &str| {
        let api = Api::new(server, "POST", "/audit/checkpoint/cosignatures").raw(body);
        api.header("content-type", "text/plain")
    };
    let path = "/audit/checkpoint/cosignatures";
    assert_eq!(held.send(post("x"), "POST", path).await.status, 400);
    assert_eq!(held.send(post(&"x".repeat(64 * 1024 + 1)), "POST", path).await.status, 413);
    crate::transparency::a_cosignature_is_taken(held.contract).await;
}

/// Connects an account of a third party in a browser.
async fn accounts_are_connected(held: &Held<'_>) {
    let (world, alice) = (held.world, Who::User("alice"));
    let provider = Provider::start().await;
    world.server.apply(&provider.manifest("mail-account", "scopes: [mail.read]")).await.unwrap();
    let connections = ("POST", "/api/v1/connections");
    let body = |more: Value| crate::support::life::with(json!({"provider": "mail-account"}), more);
    let begin = async |more: Value| {
        let begun = held.done(alice, connections, body(more)).await;
        assert_eq!(begun.status, 202, "{}", begun.text);
        let cookie = begun.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let back = provider.agree(begun.json["authorization_url"].as_str().unwrap()).await;
        let path = format!("{}?{}", back.path(), back.query().unwrap());
        (begun.json["connection"].as_str().unwrap().to_owned(), path, cookie)
    };
    let come_back = async |path: &str, cookie: Option<&str>| {
        let api = Api::get(&world.server, path);
        let api = cookie.iter().fold(api, |api, cookie| api.header("cookie", cookie));
        held.contract.hold_request("GET", path, None);
        held.send(api, "GET", path).await
    };
    let code_of =
        |page: &Answer| page.text.split("<code>").nth(1).unwrap().split("</code>").next().unwrap().to_owned();
    let (id, path, cookie) = begin(json!({"name": "mine", "scopes": ["mail.read"]})).await;
    assert_eq!(come_back(&path, Some(&cookie)).await.status, 200);
    assert_eq!(come_back(&path, Some(&cookie)).await.status, 410);
    assert_eq!(get(held, "/vault/callback/mail-account").await.status, 400);
    let (_, path, _) = begin(json!({})).await;
    assert_eq!(come_back(&path.replace("code=", "error="), None).await.status, 403);
    provider.once(Asked::Code, Wrong::json(400, json!({"error": "invalid_grant"})));
    let (_, path, cookie) = begin(json!({})).await;
    assert_eq!(come_back(&path, Some(&cookie)).await.status, 502);
    // In another browser, and finished at the management API.
    let finish = |id: &str| format!("/api/v1/connections/{id}/finish");
    let (made, path, _) = begin(json!({})).await;
    let code = code_of(&come_back(&path, None).await);
    held.refused(alice, ("POST", &finish(&made)), json!({"code": "x"}), (404, "not_found")).await;
    held.refused(alice, ("POST", &finish(&made)), json!({}), (400, "malformed_request")).await;
    let admin = Who::Client(&world.admin);
    let code = json!({"code": code});
    held.refused(admin, ("POST", &finish(&made)), code.clone(), (403, "insufficient_scope")).await;
    let key = [("idempotency-key", "finishing")];
    let done = held.done_under(alice, ("POST", &finish(&made)), code.clone(), &key).await;
    assert_eq!(done.status, 201, "{}", done.text);
    let reused =
        held.authorized(alice, "POST", &finish(&made)).await.json(&json!({"code": "y"})).key("finishing");
    assert_eq!(held.send(reused, "POST", &finish(&made)).await.status, 422);
    let (_, path, _) = begin(json!({"connection": id})).await;
    let code = json!({"code": code_of(&come_back(&path, None).await)});
    assert_eq!(held.done(alice, ("POST", &finish(&id)), code).await.status, 200);
    let (refused, path, _) = begin(json!({})).await;
    let code = json!({"code": code_of(&come_back(&path, None).await)});
    provider.once(Asked::Code, Wrong::json(400, json!({"error": "invalid_grant"})));
    held.refused(alice, ("POST", &finish(&refused)), code, (502, "provider_refused")).await;
    let (_, path, _) = begin(json!({"connection": id})).await;
    let code = json!({"code": code_of(&come_back(&path, None).await)});
    assert_eq!(
        world.as_alice("POST", &format!("/api/v1/connections/{id}/disconnect"), json!({})).await.status,
        200
    );
    held.refused(alice, ("POST", &finish(&id)), code, (409, "connection_disconnected")).await;
    // Requests that are refused before the authorization begins.
    for (more, expected) in [
        (json!({"connection": id}), (409, "connection_disconnected")),
        (json!({"connection": "nothing"}), (404, "not_found")),
        (json!({"scopes": ["mail.read", "admin"]}), (400, "scope_exceeds_grant")),
        (json!({"scopes": []}), (400, "scope_empty")),
        (json!({"provider": "nothing"}), (400, "provider_unknown")),
        (json!({"owner": {"iss": IDP, "sub": "bob"}}), (403, "insufficient_scope")),
    ] {
        held.refused(alice, connections, body(more), expected).await;
    }
    // A connection with a credential that the user brings.
    let brought = json!({"credential": {"access_token": "brought"}});
    let key = [("idempotency-key", "bringing")];
    assert_eq!(held.done_under(alice, connections, body(brought), &key).await.status, 201);
    let reused = held.authorized(alice, "POST", connections.1).await.json(&body(json!({}))).key("bringing");
    assert_eq!(held.send(reused, "POST", connections.1).await.status, 422);
}

async fn every_operation_checks_its_caller(held: &Held<'_>) {
    let (world, contract) = (held.world, held.contract);
    let user = world.token_of("dave");
    let large = "x".repeat(64 * 1024 + 1);
    let service = Agent::new("service", Auth::Basic("service-secret-0123456789".into()));
    let token = service.request(&world.server).param("grant_type", "client_credentials");
    let token = held.oauth("/oauth/token", token, (200, "")).await;
    for (method, path, _) in contract.operations() {
        let path = filled(&path);
        let other = Api::new(&world.server, "TRACE", &path);
        assert_eq!(held.send(other, "TRACE", &path).await.status, 405, "{path}");
        let full = Api::new(&world.server, &method, &path).header("x-full", &"x".repeat(33 * 1024));
        assert_eq!(held.send(full, &method, &path).await.status, 431, "{path}");
    }
    for (method, path) in at_the_management_api(contract) {
        let api = || Api::new(&world.server, &method, &path);
        for (api, expected) in [
            (api(), (401, "not_authenticated")),
            (api().user("x"), (401, "access_token_invalid")),
            (api().header("authorization", "Basic eDp5"), (401, "not_authenticated")),
            (api().user(token.token()), (401, "access_token_bound")),
            (api().header("authorization", &format!("DPoP {}", token.token())), (401, "dpop_proof_missing")),
            (api().user(&user).user(&user), (400, "malformed_request")),
            (api().user(&user).raw(&large), (413, "request_too_large")),
            (
                api().user(&user).raw("{}").header("content-type", "text/plain"),
                (415, "unsupported_media_type"),
            ),
            (api().client(&service, token.token()), (403, "insufficient_scope")),
        ] {
            let answer = held.send(api, &method, &path).await;
            assert_eq!((answer.status, answer.reason()), expected, "{method} {path}: {}", answer.text);
            let challenges = answer.headers.get_all("www-authenticate").iter().count();
            assert_eq!(challenges, if matches!(expected.0, 401 | 403) { 2 } else { 0 }, "{method} {path}");
        }
    }
    let bound = world.user_token_with(|claims| {
        claims["sub"] = json!("dave");
        claims["cnf"] = json!({"jkt": world.stranger.jkt()});
    });
    let api = || Api::get(&world.server, "/delegate");
    let stolen = held.send(api().user(&bound), "GET", "/delegate").await;
    assert_eq!((stolen.status, stolen.reason()), (401, "access_token_bound"));
    let other_key = held.send(api().client(&world.user_proxy, &bound), "GET", "/delegate").await;
    assert_eq!((other_key.status, other_key.reason()), (401, "access_token_bound"));
    assert_eq!(held.send(api().client(&world.stranger, &bound), "GET", "/delegate").await.status, 200);
    for path in OAUTH {
        let large = world.email_svc.at(&world.server, path).send_raw(large.clone().into_bytes()).await;
        contract.hold("POST", path, &large);
        assert_eq!((large.status, large.error()), (413, "invalid_request"), "{path}");
    }
}

/// Sends until a response is 429. Each request comes well within the second for which the previous request counts.
async fn until_throttled(send: impl AsyncFn() -> Answer) -> Answer {
    for _ in 0..200 {
        let answer = send().await;
        if answer.status == 429 {
            return answer;
        }
    }
    panic!("nothing was too much");
}

async fn every_caller_is_rate_limited(contract: &Contract) {
    let world = World::configured("[limits]\nrequests_per_second_per_client = 1").await;
    // Otherwise the response of a stream would never end.
    world.server.app.log_watcher.close();
    let user = world.token_of("dave");
    for (method, path) in at_the_management_api(contract) {
        let send = async || Api::new(&world.server, &method, &path).user(&user).send().await;
        let answer = until_throttled(send).await;
        contract.hold(&method, &path, &answer);
        assert_eq!(
            (answer.reason(), answer.header("retry-after")),
            ("rate_limited", Some("1")),
            "{method} {path}"
        );
    }
    for path in OAUTH {
        let send = async || world.email_svc.at(&world.server, path).param("token", "x").send().await;
        let answer = until_throttled(send).await;
        contract.hold("POST", path, &answer);
        assert_eq!(answer.error(), "temporarily_unavailable", "{path}");
    }
}

async fn a_nonce_is_demanded(contract: &Contract) {
    let world = World::configured("[dpop]\nnonce = true").await;
    let held = Held { world: &world, contract };
    let shown = held.done(Who::User("alice"), ("GET", "/delegate"), Value::Null).await;
    let nonce = shown.header("dpop-nonce").unwrap();
    let without = Api::get(&world.server, "/delegate").client(&world.admin, "x");
    let without = held.send(without, "GET", "/delegate").await;
    assert_eq!((without.status, without.reason()), (401, "nonce_required"));
    assert_eq!(without.header("dpop-nonce"), Some(nonce));
    for path in OAUTH {
        let request = world
            .email_svc
            .at(&world.server, path)
            .param("token", "x")
            .param("grant_type", "client_credentials");
        let answer = held.oauth(path, request, (400, "use_dpop_nonce")).await;
        assert_eq!(answer.header("dpop-nonce"), Some(nonce), "{path}");
    }
}

async fn nothing_works_without_a_database(held: &Held<'_>) {
    let (world, contract) = (held.world, held.contract);
    // Until then, the lists are still cached.
    world.server.pass(60);
    world.server.app.pool.close().await;
    let user = world.token_of("dave");
    for (method, path) in at_the_management_api(contract) {
        let failed = held.send(Api::new(&world.server, &method, &path).user(&user), &method, &path).await;
        assert_eq!((failed.status, failed.header("retry-after")), (503, Some("1")), "{method} {path}");
    }
    for path in OAUTH {
        let stranger = Agent::new("never-seen", Auth::Post("never-seen-secret-0123456789".into()));
        let request =
            stranger.at(&world.server, path).param("token", "x").param("grant_type", "client_credentials");
        held.oauth(path, request, (503, "temporarily_unavailable")).await;
    }
    let callback = format!("/vault/callback/x?code=x&state={}", "A".repeat(43));
    for path in ["/ready", "/oauth/status-lists", "/oauth/status-lists/0", &callback]
        .into_iter()
        .chain(["/audit/checkpoint", "/audit/keys", "/audit/tile/0/000"])
        .chain(["/audit/proof/inclusion?seq=0", "/audit/proof/consistency?from=0"])
    {
        assert_eq!(get(held, path).await.status, 503, "{path}");
    }
    assert_eq!((get(held, "/health").await.status, world.server.now() >= START), (200, true));
}

#[test]
fn every_reason_is_described_with_its_errors_and_statuses() {
    let contract = Contract::read();
    let described = &contract.document["components"]["schemas"]["Reason"];
    let listed: Vec<&str> =
        described["enum"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    let known: BTreeSet<&str> = catalogue::explained().map(|entry| entry.reason).collect();
    assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), known, "openapi.yaml and the catalogue");
    assert_eq!(listed.len(), known.len(), "openapi.yaml lists a reason twice");

    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut in_no_table = BTreeSet::new();
    for entry in catalogue::explained() {
        let error = entry.answers.at_oauth_endpoint().filter(|_| entry.answers.tells_reason);
        let status = entry.answers.at_resource().map(|code| code.status.to_string());
        let places: Vec<String> =
            error.map(|code| format!("`{}`", code.error)).into_iter().chain(status).collect();
        if places.is_empty() {
            in_no_table.insert(entry.reason.to_owned());
        }
        let of_refresh = catalogue::ends_refresh_token(entry.reason).then(|| "`invalid_grant`".to_owned());
        for place in places.into_iter().chain(of_refresh) {
            tables.entry(place).or_default().insert(entry.reason.to_owned());
        }
    }
    let described_tables = contract.reasons();
    for place in tables.keys().chain(described_tables.keys()) {
        let (found, right) = (described_tables.get(place), tables.get(place));
        assert_eq!(found, right, "the reasons of {place} in openapi.yaml and in the catalogue");
    }
    let text = described["description"].as_str().unwrap();
    let (_, rest) = text.split_once("In the audit log or the metrics only:").unwrap();
    let rest: BTreeSet<String> = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(rest, in_no_table, "openapi.yaml and the catalogue");
}
