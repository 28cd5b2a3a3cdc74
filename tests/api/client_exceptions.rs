//! Exceptions of single clients: another audience of assertions, bearer tokens. Each use is in its event. What must be
//! bound to a key stays bound.

use actchain::services::apply::Mode;
use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, Agent, Auth, JWT};
use crate::support::management::Api;
use crate::support::world::{CALENDAR, IDP, MAIL, World};

const GATEWAY_SECRET: &str = "gateway-secret-0123456789";

/// A declaration of `user-proxy` with more members.
fn user_proxy(world: &World, more: &str) -> String {
    format!(
        "clients:\n  - {{id: user-proxy, kind: agent, name: User proxy, auth: private_key_jwt, jwks: {{keys: [{}]}},
     scopes: [mail.read, mail.send, calendar.read, both], audiences: [\"{MAIL}\", \"{CALENDAR}\"],
     authorization_details_types: [mailbox], grant_types: [client_credentials, token-exchange]{more}}}\n",
        world.user_proxy.key.public_jwk()
    )
}

fn gateway(more: &str) -> String {
    format!(
        "clients:\n  - {{id: gateway, kind: agent, auth: client_secret_basic, secret: {GATEWAY_SECRET}, scopes: [mail.read, calendar.read],
     audiences: [\"{MAIL}\", \"{CALENDAR}\"], grant_types: [client_credentials, token-exchange]{more}}}\n"
    )
}

/// A world with a client of bearer tokens to which Alice has delegated.
async fn with_gateway() -> (World, Agent) {
    let world = World::new().await;
    world.server.apply(&gateway(", token_type: bearer")).await.unwrap();
    let body =
        json!({"delegate": "gateway", "scopes": ["mail.read"], "audiences": [MAIL], "expires_in": 600});
    world.as_alice("POST", "/delegate", body).await.with_status(201);
    (world, Agent::new("gateway", Auth::Basic(GATEWAY_SECRET.into())))
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.reason())
}

async fn counted(world: &World, exception: &str) -> bool {
    let metrics = Api::get(&world.server, "/metrics").send().await.text;
    metrics.contains(&format!("actchain_client_exceptions_total{{exception=\"{exception}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_for_the_token_endpoint_is_accepted_of_a_client_that_has_this_exception_alone() {
    let world = World::new().await;
    let base = world.server.app.issuer.clone();
    let token_endpoint = format!("{base}/oauth/token");
    let send = async |aud: Value| {
        let mut claims = world.user_proxy.assertion_claims(&world.server);
        claims["aud"] = aud;
        let assertion = world.user_proxy.key.sign("JWT", &claims).unwrap();
        let send = async || {
            let request = world.user_proxy.request(&world.server).param("grant_type", "client_credentials");
            request.param("audience", MAIL).set("client_assertion", &assertion).send().await
        };
        (send().await, send().await)
    };
    let (first, _) = send(json!(token_endpoint)).await;
    assert_eq!(first.status, 401, "the default: {}", first.text);
    world.server.apply(&user_proxy(&world, ", assertion_audience: token_endpoint")).await.unwrap();
    for aud in [json!(token_endpoint), json!([token_endpoint])] {
        let (first, again) = send(aud.clone()).await;
        first.with_status(200);
        assert_eq!(again.status, 401, "a replay: {aud}");
        let events = world.server.events().await;
        let issued = events.iter().rfind(|event| event["action"] == "oauth.token.issued").unwrap();
        assert_eq!(issued["detail"]["exceptions"], json!(["assertion_audience"]), "{aud}");
    }
    assert!(counted(&world, "assertion_audience").await);
    let (first, _) = send(json!(base)).await;
    first.with_status(200);
    let events = world.server.events().await;
    let issued = events.iter().rfind(|event| event["action"] == "oauth.token.issued").unwrap();
    assert_eq!(issued["detail"].get("exceptions"), None, "the issuer is no exception");
    for aud in [
        json!([base, token_endpoint]),
        json!(format!("{base}/oauth/introspect")),
        json!(format!("{token_endpoint}/")),
        json!("https://thief.example.com/oauth/token"),
        json!([]),
    ] {
        assert_eq!(send(aud.clone()).await.0.status, 401, "{aud}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_bearer_tokens_gets_them_with_and_without_a_proof() {
    let (world, gateway) = with_gateway().await;
    let own =
        || gateway.request(&world.server).param("grant_type", "client_credentials").param("audience", MAIL);
    let exchange = || gateway.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
    for request in [own(), own().without("dpop"), exchange(), exchange().without("dpop")] {
        let issued = request.send().await.with_status(200);
        assert_eq!(issued.json["token_type"], "Bearer");
        let claims = issued.claims();
        assert_eq!((claims.get("cnf"), claims["act"].get("cnf")), (None, None), "{claims}");
        assert!(world.is_active(issued.token()).await);
        let event = world.server.last_event().await;
        assert_eq!(event["detail"]["exceptions"], json!(["token_type"]), "{event}");
    }
    assert!(counted(&world, "token_type").await);
    // A bad proof is refused, and a good one works once.
    let forged = own().set_header("dpop", "x").send().await;
    assert_eq!(refused(&forged), (400, "dpop_proof_malformed"));
    let once = own();
    once.clone().send().await.with_status(200);
    assert_eq!(refused(&once.send().await), (400, "dpop_proof_replayed"));
    // An agent behind the gateway has bound tokens again.
    let first = exchange().without("dpop").send().await.with_status(200);
    let dlg = first.claims()["dlg"].as_str().unwrap().to_owned();
    // The gateway itself cannot create it: the management API needs a bound token.
    let child =
        format!("delegations:\n  - {{id: G, parent: {dlg}, delegate: followup-svc, expires_in: 60}}\n");
    world.server.apply(&child).await.unwrap();
    let next = world.followup_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
    let next = next.with_status(200);
    assert_eq!(next.json["token_type"], "DPoP");
    assert_eq!(next.claims()["act"]["act"]["sub"], "gateway");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_bound_to_a_key_is_refused_for_a_client_of_bearer_tokens() {
    let (world, gateway_agent) = with_gateway().await;
    let request = || gateway_agent.request(&world.server).param("grant_type", "client_credentials");
    let two = request().param("audience", MAIL).param("audience", CALENDAR).send().await;
    assert_eq!(refused(&two), (400, "dpop_required_for_multiple_audiences"));
    // A token of an issuer that is bound to a key does not become an unbound one.
    let bound = world.user_token_with(|claims| claims["cnf"] = json!({"jkt": gateway_agent.jkt()}));
    let answer = gateway_agent.exchange(&world.server, &bound, JWT).param("audience", MAIL).send().await;
    assert_eq!(refused(&answer), (400, "dpop_proof_missing"), "{}", answer.text);
    // Nor does an own token from before the exception.
    world.server.apply(&gateway("")).await.unwrap();
    let own = gateway_agent.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
    let own = own.send().await.with_status(200);
    assert_eq!(own.json["token_type"], "DPoP");
    world.server.apply(&gateway(", token_type: bearer")).await.unwrap();
    let narrowed = gateway_agent.exchange(&world.server, own.token(), ACCESS_TOKEN).send().await;
    assert_eq!(refused(&narrowed), (400, "dpop_proof_missing"), "{}", narrowed.text);
    // The management API and the vault accept no bearer token of this server.
    let issuer = &world.server.app.issuer;
    let token = request().param("audience", issuer).send().await.with_status(200);
    assert_eq!(token.json["token_type"], "Bearer");
    let request = json!({"delegator": {"iss": IDP, "sub": "alice"}});
    for (path, body) in [("/delegate", request), ("/vault/connections/x/token", json!({}))] {
        let call = || Api::post(&world.server, path, body.clone());
        let answer = call().header("authorization", &format!("Bearer {}", token.token())).send().await;
        assert!([401, 403].contains(&answer.status), "{path}: {}", answer.text);
        let answer = call().client(&gateway_agent, token.token()).send().await;
        assert!([401, 403].contains(&answer.status), "{path}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exceptions_are_declared_by_operators_and_taken_back_by_administrators() {
    let world = World::new().await;
    let apply = async |yaml: &str| {
        let token = world.management_token(&world.admin).await;
        let call = Api::new(&world.server, "POST", "/api/v1/apply").client(&world.admin, &token);
        call.header("content-type", "application/yaml").raw(yaml).send().await
    };
    let exceptions = [
        user_proxy(&world, ", assertion_audience: token_endpoint"),
        user_proxy(&world, ", dpop: optional"),
        gateway(", token_type: bearer"),
    ];
    for yaml in &exceptions {
        assert_eq!(refused(&apply(yaml).await), (403, "operator_only"), "{yaml}");
        world.server.apply(yaml).await.unwrap();
        apply(yaml).await.with_status(200);
    }
    let path = "/api/v1/clients/gateway";
    let shown = world.as_admin("GET", path, Value::Null).await.with_status(200);
    assert_eq!(
        (&shown.json["token_type"], &shown.json["assertion_audience"]),
        (&json!("bearer"), &json!("issuer"))
    );
    apply(&gateway("")).await.with_status(200);
    assert_eq!(world.as_admin("GET", path, Value::Null).await.json["token_type"], "dpop");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_that_could_not_be_used_or_would_open_administration_is_refused() {
    let world = World::new().await;
    let jkt = world.followup_svc.jkt();
    let keys = format!("jwks: {{keys: [{}]}}", world.user_proxy.key.public_jwk());
    for (members, member) in [
        (format!("kind: admin, auth: private_key_jwt, {keys}, token_type: bearer"), "token_type"),
        (format!("kind: auditor, auth: private_key_jwt, {keys}, token_type: bearer"), "token_type"),
        (format!("kind: agent, auth: none, dpop_keys: [{jkt}], token_type: bearer"), "token_type"),
        (
            format!("kind: agent, auth: client_secret_basic, dpop_keys: [{jkt}], token_type: bearer"),
            "token_type",
        ),
        (
            "kind: agent, auth: client_secret_basic, assertion_audience: token_endpoint".into(),
            "assertion_audience",
        ),
    ] {
        let yaml = format!("clients:\n  - {{id: new, {members}}}\n");
        let said = world.plan(&yaml, Mode::DryRun).await.err().map(|error| error.to_string()).unwrap();
        assert!(said.contains(member), "{yaml}: {said}");
    }
}
