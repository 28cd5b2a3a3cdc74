//! Issuers whose keys are discovered: what `apply` accepts, and what happens when the metadata changes later.

use actchain::jobs;
use actchain_protocol::jose::SigningKey;
use serde_json::{Value, json};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::Answer;
use crate::support::agent::JWT;
use crate::support::world::{MAIL, World};

const OPENID: &str = "/.well-known/openid-configuration";
const HOUR: i64 = 3_600;

fn answer(document: &Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(document.to_string(), "application/json")
}

/// An identity provider with one key, which publishes its keys at `/jwks`.
struct Provider {
    server: MockServer,
    issuer: String,
    well_known: String,
}

impl Provider {
    async fn with_path(path: &str) -> Self {
        let server = MockServer::start().await;
        let issuer = format!("{}{path}", server.uri());
        Self { server, issuer, well_known: format!("{}{OPENID}", path.trim_end_matches('/')) }
    }

    fn document(&self) -> Value {
        json!({"issuer": self.issuer, "jwks_uri": format!("{}/jwks", self.server.uri()),
               "id_token_signing_alg_values_supported": ["HS256", "ES256", "RS256"]})
    }

    async fn serve(&self, at: &str, response: ResponseTemplate, key: &SigningKey) {
        self.server.reset().await;
        Mock::given(path(at)).respond_with(response).mount(&self.server).await;
        let set = answer(&json!({"keys": [key.public_jwk()]}));
        Mock::given(path("/jwks")).respond_with(set).mount(&self.server).await;
    }

    async fn publish(&self, document: &Value, key: &SigningKey) {
        self.serve(&self.well_known, answer(document), key).await;
    }

    fn yaml(&self, members: &str) -> String {
        format!(
            "issuers:\n  - {{iss: \"{0}\", discover: true, audiences: [actchain], alias: found{members}}}\n\
             delegations:\n  - {{id: FOUND, delegator: {{iss: \"{0}\", sub: alice}}, delegate: user-proxy, expires_in: 1000000}}\n",
            self.issuer
        )
    }

    async fn declare(&self, world: &World, members: &str) -> Result<(), String> {
        world.server.apply(&self.yaml(members)).await
    }

    async fn exchange(&self, world: &World) -> Answer {
        let mut claims = world.user_claims();
        claims["iss"] = json!(self.issuer);
        let token = world.idp.sign("JWT", &claims).unwrap();
        world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await
    }
}

async fn watched(world: &World) -> usize {
    jobs::discovery::run_once(&world.server.app, world.server.clock.now()).await.unwrap()
}

/// The details of the events about changed metadata.
async fn reports(world: &World) -> Vec<Value> {
    let events = world.server.events().await.into_iter();
    let about = events.filter(|event| event["action"] == "admin.issuer_metadata_changed");
    about.map(|event| event["detail"].clone()).collect()
}

// RFC 8414 §3.1, OpenID Connect Discovery §4.1
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_discovered_below_its_host_and_below_its_path() {
    let world = World::new().await;
    for (issuer, places) in [
        ("", ["/.well-known/oauth-authorization-server", OPENID]),
        (
            "/realms/x",
            [
                "/.well-known/oauth-authorization-server/realms/x",
                "/realms/x/.well-known/openid-configuration",
            ],
        ),
        (
            "/application/o/x/",
            [
                "/.well-known/oauth-authorization-server/application/o/x",
                "/application/o/x/.well-known/openid-configuration",
            ],
        ),
    ] {
        for place in places {
            let world = World::new().await;
            let provider = Provider::with_path(issuer).await;
            provider.serve(place, answer(&provider.document()), &world.idp).await;
            provider.declare(&world, "").await.unwrap_or_else(|fault| panic!("{place}: {fault}"));
            let token = provider.exchange(&world).await.with_status(200);
            assert_eq!(token.claims()["idp"], json!(provider.issuer));
        }
    }
    let provider = Provider::with_path("").await;
    provider.publish(&provider.document(), &world.idp).await;
    for (members, word) in [
        (", jwks_uri: \"http://127.0.0.1:1/jwks\"", "exclude each other"),
        (", algorithms: [PS256]", "none of the declared algorithms"),
    ] {
        let refused = provider.declare(&world, members).await.unwrap_err();
        assert!(refused.contains("issuers[0].discover") && refused.contains(word), "{members}: {refused}");
    }
    let without = "issuers:\n  - {iss: \"https://idp2.example\", audiences: [actchain], discover: false}";
    assert!(world.server.apply(without).await.unwrap_err().contains("discover: true"));
    for iss in
        ["https://10.0.0.1/", "http://idp2.example", "https://idp2.example/?tenant=a", "accounts.example"]
    {
        let yaml =
            format!("issuers:\n  - {{iss: \"{iss}\", discover: true, audiences: [actchain], alias: x}}");
        let refused = world.server.apply(&yaml).await.unwrap_err();
        assert!(refused.contains("issuers[0].iss"), "{iss}: {refused}");
    }
}

// RFC 8414 §3.3
#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_cannot_be_relied_on_is_refused_at_its_place_and_not_repeated() {
    let world = World::new().await;
    let provider = Provider::with_path("").await;
    let elsewhere = MockServer::start().await;
    Mock::given(path(OPENID)).respond_with(answer(&provider.document())).mount(&elsewhere).await;
    let changed = |name: &str, value: Value| {
        let mut document = provider.document();
        document[name] = value;
        answer(&document)
    };
    let redirect = format!("{}{OPENID}", elsewhere.uri());
    let huge =
        format!("{{\"issuer\":\"{}\",\"canary\":\"{}\"}}", provider.issuer, "x".repeat(50 * 1024 * 1024));
    for (what, response) in [
        ("redirects", ResponseTemplate::new(302).insert_header("location", redirect.as_str())),
        ("is of another issuer", changed("issuer", json!("https://canary.example"))),
        ("has another final slash", changed("issuer", json!(format!("{}/", provider.issuer)))),
        ("has a null issuer", changed("issuer", json!(null))),
        ("is too large", ResponseTemplate::new(200).set_body_raw(huge, "application/json")),
        ("is HTML", ResponseTemplate::new(200).set_body_raw("<html>canary", "text/html")),
        ("is a list", ResponseTemplate::new(200).set_body_raw("[\"canary\"]", "application/json")),
        ("has no keys", changed("jwks_uri", json!(null))),
        ("has keys in a private network", changed("jwks_uri", json!("https://10.0.0.1/canary"))),
        ("has keys over http", changed("jwks_uri", json!("http://canary.example/jwks"))),
        ("has keys in a file", changed("jwks_uri", json!("file:///etc/canary"))),
        ("does not exist", ResponseTemplate::new(404).set_body_raw("canary", "text/plain")),
    ] {
        provider.serve(OPENID, response, &world.idp).await;
        let refused = provider.declare(&world, "").await.unwrap_err();
        assert!(
            refused.starts_with("test.yaml:2:") && refused.contains("issuers[0].discover"),
            "{what}: {refused}"
        );
        assert!(refused.contains(OPENID), "{what}: {refused}");
        assert!(!refused.contains("canary") && refused.len() < 1_000, "{what}: {refused}");
    }
    assert!(elsewhere.received_requests().await.unwrap().is_empty(), "redirects are not followed");
    provider.publish(&provider.document(), &world.idp).await;
    provider.declare(&world, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_changes_is_an_event_and_changes_nothing_until_it_is_applied() {
    let world = World::new().await;
    let provider = Provider::with_path("").await;
    provider.publish(&provider.document(), &world.idp).await;
    provider.declare(&world, ", algorithms: [ES256, RS256]").await.unwrap();
    assert_eq!((watched(&world).await, watched(&world).await), (1, 0), "once an hour");
    assert_eq!(reports(&world).await, Vec::<Value>::new());

    // The keys of another party at the published URL do not become keys of the issuer.
    let mut moved = provider.document();
    moved["jwks_uri"] = json!(format!("{}/other-keys", provider.server.uri()));
    moved["id_token_signing_alg_values_supported"] = json!(["ES256", "PS256"]);
    provider.publish(&moved, &world.idp).await;
    world.server.pass(HOUR);
    assert_eq!(watched(&world).await, 1);
    let said = json!({"changed": ["jwks_uri", "algorithms"], "algorithms": ["RS256"]});
    assert_eq!(reports(&world).await, [said]);
    assert_eq!(world.server.last_event().await["target"], json!(provider.issuer));
    provider.exchange(&world).await.with_status(200);

    // Metadata that comes and goes every hour is reported once a day.
    for hour in 0..23 {
        let document = if hour % 2 == 0 { provider.document() } else { moved.clone() };
        provider.publish(&document, &world.idp).await;
        world.server.pass(HOUR);
        assert_eq!(watched(&world).await, 1);
        assert_eq!(reports(&world).await.len(), 1, "after {hour} hours");
    }
    provider.publish(&moved, &world.idp).await;
    world.server.pass(HOUR);
    watched(&world).await;
    assert_eq!(reports(&world).await.len(), 2, "and again after a day");

    // Another kind of difference is reported at once.
    let mut lying = provider.document();
    lying["issuer"] = json!("https://attacker.example");
    provider.publish(&lying, &world.idp).await;
    world.server.pass(HOUR);
    watched(&world).await;
    assert_eq!(reports(&world).await.pop().unwrap(), json!({"changed": ["issuer"]}));
    provider.exchange(&world).await.with_status(200);

    provider.publish(&moved, &world.idp).await;
    provider.declare(&world, ", algorithms: [ES256, RS256]").await.unwrap();
    provider.exchange(&world).await.assert_refused(503, "temporarily_unavailable", "issuer_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_is_unavailable_is_read_again_later_and_prevents_no_other_change() {
    let world = World::new().await;
    let provider = Provider::with_path("").await;
    provider.publish(&provider.document(), &world.idp).await;
    provider.declare(&world, "").await.unwrap();
    provider.serve(OPENID, ResponseTemplate::new(500), &world.idp).await;
    assert_eq!(watched(&world).await, 1);
    for minutes in [2, 4, 8] {
        world.server.pass(minutes * 60 - 1);
        assert_eq!(watched(&world).await, 0, "{minutes} minutes");
        world.server.pass(1);
        assert_eq!(watched(&world).await, 1, "{minutes} minutes");
    }
    assert_eq!(reports(&world).await, Vec::<Value>::new());
    provider.exchange(&world).await.with_status(200);
    let more =
        format!("{}resources:\n  - {{id: \"https://more.example\", scopes: [more]}}", provider.yaml(""));
    world.server.apply(&more).await.unwrap();
    provider.exchange(&world).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_causes_no_discovery_and_an_export_changes_nothing() {
    let world = World::new().await;
    let provider = Provider::with_path("").await;
    provider.publish(&provider.document(), &world.idp).await;
    provider.declare(&world, "").await.unwrap();
    let shown = world.as_admin("GET", "/api/v1/issuers", Value::Null).await.with_status(200);
    let items = shown.json["items"].as_array().unwrap();
    let issuer = items.iter().find(|one| one["iss"] == json!(provider.issuer)).unwrap();
    assert_eq!(issuer["discover"], json!(true));
    assert_eq!(issuer["discovered_jwks_uri"], json!(format!("{}/jwks", provider.server.uri())));
    assert_eq!(issuer["discovered_algorithms"], json!(["ES256", "RS256"]));

    let exported = world.as_admin("GET", "/api/v1/manifest", Value::Null).await.with_status(200);
    let manifest = exported.json.clone();
    let issuers = manifest["issuers"].as_array().unwrap();
    let issuer = issuers.iter().find(|one| one["iss"] == json!(provider.issuer)).unwrap();
    assert_eq!(issuer["discover"], json!(true));
    assert!(issuer.get("discovered_jwks_uri").is_none() && issuer.get("jwks_uri").is_none(), "{issuer}");
    provider.server.reset().await;
    let applied =
        world.as_admin("POST", "/api/v1/apply", json!({"issuers": [issuer]})).await.with_status(200);
    assert_eq!(applied.json["plan"][0]["change"], "unchanged", "{}", applied.text);
    let mut other = issuer.clone();
    other["iss"] = json!(format!("{}/other", provider.server.uri()));
    let refused = world.as_admin("POST", "/api/v1/apply", json!({"issuers": [other]})).await;
    assert_eq!(refused.reason(), "operator_only", "{}", refused.text);
    assert!(provider.server.received_requests().await.unwrap().is_empty());
}
