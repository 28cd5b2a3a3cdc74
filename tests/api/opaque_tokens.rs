//! Access tokens of other issuers that are introspected there (RFC 7662, RFC 9701).

use std::time::Duration;

use actchain::platform::secret::MasterKey;
use actchain::services::apply::export;
use actchain::services::vault::rekey;
use actchain_protocol::base64url;
use actchain_protocol::jose::{Alg, Jws, PublicKey, SigningAlg, SigningKey};
use futures_util::future::join_all;
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::management::Api;
use crate::support::world::{IDP, MAIL, World};

const SECRET: &str = "a-secret-at-the-issuer-0123456789";
const OTHER: &str = "https://other.example.com";
const TOKEN: &str = "an-opaque-token-0123456789";

/// A world whose identity provider has an introspection endpoint.
struct OpaqueWorld {
    world: World,
    endpoint: MockServer,
}

impl OpaqueWorld {
    /// With these members of `introspection`.
    async fn with(members: &str) -> Self {
        let opaque = Self { world: World::new().await, endpoint: MockServer::start().await };
        let members = format!("client_id: us, client_secret: {SECRET}{members}");
        opaque.declare(&members).await.unwrap();
        opaque
    }

    async fn new() -> Self {
        Self::with("").await
    }

    async fn declare(&self, members: &str) -> Result<(), String> {
        self.world.server.apply(&self.manifest(members)).await
    }

    fn manifest(&self, members: &str) -> String {
        format!(
            "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256], may_act: authorize,\n     \
             introspection: {{endpoint: \"{}/introspect\", {members}}}}}\n",
            self.world.idp.public_jwk(),
            self.endpoint.uri()
        )
    }

    /// The answer about a token of Alice.
    fn active(&self) -> Value {
        let now = self.world.server.now();
        json!({"active": true, "sub": "alice", "aud": "actchain", "iat": now, "exp": now + 3600, "jti": "at-1",
               "token_type": "Bearer", "client_id": "app", "username": "Alice", "scope": "mail.read mail.send openid"})
    }

    /// The same with other members; null removes one.
    fn active_with(&self, members: Value) -> Value {
        let mut answer = self.active();
        for (name, value) in members.as_object().unwrap() {
            answer[name] = value.clone();
        }
        answer.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        answer
    }

    async fn answers(&self, answer: &Value) {
        self.responds(ResponseTemplate::new(200).set_body_json(answer)).await;
    }

    async fn responds(&self, response: ResponseTemplate) {
        self.endpoint.reset().await;
        Mock::given(any()).respond_with(response).mount(&self.endpoint).await;
    }

    async fn exchange(&self, token: &str) -> Answer {
        let request = self.world.user_proxy.exchange(&self.world.server, token, ACCESS_TOKEN);
        request.param("audience", MAIL).send().await
    }

    async fn asked(&self) -> usize {
        self.endpoint.received_requests().await.unwrap().len()
    }

    async fn cause(&self) -> Value {
        self.world.server.last_event().await["detail"]["cause"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_token_is_exchanged_as_its_issuer_answers() {
    let opaque = OpaqueWorld::new().await;
    opaque.answers(&opaque.active()).await;
    let claims = opaque.exchange(TOKEN).await.with_status(200).claims();
    assert_eq!(
        (&claims["sub"], &claims["idp"], &claims["scope"]),
        (&json!("alice"), &json!(IDP), &json!("mail.read mail.send"))
    );
    let event = opaque.world.server.last_event().await;
    assert_eq!((&event["detail"]["introspected"], &event["parent_jti"]), (&json!(true), &json!("at-1")));
    let asked = opaque.endpoint.received_requests().await.unwrap();
    let form: Vec<_> = url::form_urlencoded::parse(&asked[0].body).into_owned().collect();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(form, [pair("token", TOKEN), pair("token_type_hint", "access_token")]);
    let basic = actchain_protocol::oauth_client::basic("us", SECRET);
    assert_eq!(asked[0].headers["authorization"], basic.as_str());
    assert_eq!(asked[0].headers["accept"], "application/json");
    // The scopes of the token bound what is granted.
    opaque.answers(&opaque.active_with(json!({"scope": "mail.read"}))).await;
    let request = opaque.world.user_proxy.exchange(&opaque.world.server, "another", ACCESS_TOKEN);
    let answer = request.param("audience", MAIL).param("scope", "mail.send").send().await;
    answer.assert_refused(400, "invalid_scope", "scope_exceeds_grant");
    // A signed token is still verified by its signature.
    let request = opaque.world.user_proxy.exchange(&opaque.world.server, &opaque.world.user_token(), JWT);
    request.param("audience", MAIL).send().await.with_status(200);
    assert_eq!(opaque.world.server.last_event().await["detail"].get("introspected"), None);
    assert!(!opaque.world.server.dump().await.contains(TOKEN), "the token is stored nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_token_costs_one_introspection_in_each_life_of_the_cache() {
    let opaque = OpaqueWorld::with(", cache: 20").await;
    opaque.answers(&opaque.active()).await;
    let answers = join_all((0..20).map(|_| opaque.exchange(TOKEN))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(opaque.asked().await, 1);
    opaque.world.server.pass(19);
    opaque.exchange(TOKEN).await.with_status(200);
    assert_eq!(opaque.asked().await, 1);
    opaque.world.server.pass(1);
    let answers = join_all((0..20).map(|_| opaque.exchange(TOKEN))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(opaque.asked().await, 2);
    opaque.exchange("another").await.with_status(200);
    assert_eq!(opaque.asked().await, 3);
    // A token is not remembered after its end.
    let end = opaque.world.server.now() + 10;
    opaque.answers(&opaque.active_with(json!({"exp": end}))).await;
    assert!(opaque.exchange("short").await.with_status(200).claims()["exp"].as_i64().unwrap() <= end);
    opaque.world.server.pass(10);
    opaque.exchange("short").await.assert_refused(400, "invalid_request", "subject_token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_ended_at_its_issuer_is_refused_after_the_life_of_the_cache() {
    let opaque = OpaqueWorld::new().await;
    opaque.answers(&opaque.active()).await;
    opaque.exchange(TOKEN).await.with_status(200);
    opaque.answers(&json!({"active": false})).await;
    opaque.world.server.pass(29);
    opaque.exchange(TOKEN).await.with_status(200);
    opaque.world.server.pass(1);
    opaque.exchange(TOKEN).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(opaque.cause().await, "inactive");
    opaque.world.server.pass(4);
    opaque.exchange(TOKEN).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(opaque.asked().await, 1, "a refusal is remembered for five seconds");
    opaque.world.server.pass(1);
    opaque.exchange(TOKEN).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(opaque.asked().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_active_and_not_for_this_server_is_refused() {
    let opaque = OpaqueWorld::new().await;
    let now = opaque.world.server.now();
    for (number, (members, cause)) in [
        (json!({"sub": null}), "claims"),
        (json!({"sub": 7}), "claims"),
        (json!({"iss": OTHER}), "issuer_unknown"),
        (json!({"aud": "another"}), "audience"),
        (json!({"aud": null}), "claims"),
        (json!({"aud": []}), "claims"),
        (json!({"exp": null}), "claims"),
        (json!({"exp": now}), "expired"),
        (json!({"nbf": now + 60}), "not_yet_valid"),
        (json!({"cnf": {"x5t#S256": "x"}}), "binding"),
        (json!({"token_type": "DPoP"}), "binding"),
        (json!({"token_type": "Refresh"}), "wrong_kind"),
        (json!({"token_use": "refresh_token"}), "wrong_kind"),
        (json!({"may_act": "someone"}), "claims"),
    ]
    .into_iter()
    .enumerate()
    {
        opaque.answers(&opaque.active_with(members.clone())).await;
        let answer = opaque.exchange(&format!("token-{number}")).await;
        answer.assert_refused(400, "invalid_request", "subject_token_invalid");
        assert_eq!(opaque.cause().await, cause, "{members}");
    }
    opaque.answers(&opaque.active_with(json!({"act": {"sub": "helpdesk"}}))).await;
    opaque.exchange("with-actor").await.assert_refused(400, "invalid_request", "actor_of_other_issuer");
    let jkt = opaque.world.user_proxy.jkt();
    opaque.answers(&opaque.active_with(json!({"token_type": "DPoP", "cnf": {"jkt": jkt}}))).await;
    opaque.exchange("bound").await.with_status(200);
    opaque.answers(&opaque.active_with(json!({"cnf": {"jkt": "another"}}))).await;
    opaque.exchange("bound-to-another").await.assert_refused(400, "invalid_request", "subject_key_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_an_audience_is_accepted_only_where_that_is_declared() {
    let opaque = OpaqueWorld::with(", audience: optional").await;
    opaque.answers(&opaque.active_with(json!({"aud": null}))).await;
    opaque.exchange(TOKEN).await.with_status(200);
    opaque.answers(&opaque.active_with(json!({"aud": "another"}))).await;
    opaque.exchange("another").await.assert_refused(400, "invalid_request", "subject_token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_believed_makes_no_token_valid_or_invalid() {
    let opaque = OpaqueWorld::new().await;
    let elsewhere = MockServer::start().await;
    let json_of = |members: Value| ResponseTemplate::new(200).set_body_json(opaque.active_with(members));
    let raw = |text: &str| ResponseTemplate::new(200).set_body_raw(text, "application/json");
    let location = elsewhere.uri();
    let mut padded = opaque.active().to_string().into_bytes();
    padded.resize(50 * 1024 * 1024, b' ');
    for (number, (what, response)) in [
        ("active as text", json_of(json!({"active": "true"}))),
        ("active as number", json_of(json!({"active": 1}))),
        ("no active", json_of(json!({"active": null}))),
        ("a list", raw("[{\"active\": true}]")),
        ("active twice", raw("{\"active\": false, \"active\": true}")),
        ("HTML", raw("<html>")),
        ("50 MB", ResponseTemplate::new(200).set_body_raw(padded, "application/json")),
        ("a long answer", json_of(json!({"groups": "g".repeat(20_000)}))),
        ("a redirect", ResponseTemplate::new(307).insert_header("location", location.as_str())),
        ("a server error", ResponseTemplate::new(500).set_body_json(opaque.active())),
        ("a wrong secret", ResponseTemplate::new(401).set_body_json(json!({"error": "invalid_client"}))),
        ("no answer", json_of(json!({})).set_delay(Duration::from_secs(60))),
    ]
    .into_iter()
    .enumerate()
    {
        opaque.responds(response).await;
        let answer = opaque.exchange(&format!("token-{number}")).await;
        assert_eq!((answer.status, answer.reason()), (503, "issuer_unavailable"), "{what}");
        assert!(answer.header("retry-after").is_some());
    }
    assert!(elsewhere.received_requests().await.unwrap().is_empty(), "redirects are not followed");
    opaque.answers(&opaque.active()).await;
    assert_eq!(opaque.exchange("token-0").await.status, 503, "a failure is remembered for five seconds");
    opaque.world.server.pass(5);
    opaque.exchange("token-0").await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_is_asked_once_by_all_who_wait() {
    let opaque = OpaqueWorld::new().await;
    opaque.responds(ResponseTemplate::new(503)).await;
    let answers = join_all((0..10).map(|_| opaque.exchange(TOKEN))).await;
    assert!(answers.iter().all(|answer| answer.reason() == "issuer_unavailable"));
    assert_eq!(opaque.asked().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_answers_have_to_be_signed_only_a_current_one_of_the_issuer_for_this_server_counts() {
    let opaque = OpaqueWorld::with(", signed: true").await;
    let now = opaque.world.server.now();
    let typ = "token-introspection+jwt";
    let claims = json!({"iss": IDP, "aud": "us", "iat": now, "token_introspection": opaque.active()});
    let body =
        |text: String| ResponseTemplate::new(200).set_body_raw(text, "application/token-introspection+jwt");
    let idp = &opaque.world.idp;
    opaque.responds(body(idp.sign(typ, &claims).unwrap())).await;
    opaque.exchange(TOKEN).await.with_status(200);
    let asked = opaque.endpoint.received_requests().await.unwrap();
    assert_eq!(asked[0].headers["accept"], "application/token-introspection+jwt");
    let with = |name: &str, value: Value| {
        let mut changed = claims.clone();
        changed[name] = value;
        idp.sign(typ, &changed).unwrap()
    };
    let (stranger, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let (edwards, _) = SigningKey::generate(SigningAlg::Ed25519).unwrap();
    let part = |value: Value| base64url::encode(value.to_string());
    let unsigned = format!("{}.{}.", part(json!({"alg": "none", "typ": typ})), part(claims.clone()));
    for (number, (what, text)) in [
        ("not signed", opaque.active().to_string()),
        ("alg none", unsigned),
        ("for another client", with("aud", json!("another"))),
        ("of another issuer", with("iss", json!(OTHER))),
        ("a minute old", with("iat", json!(now - 61))),
        ("without a time", with("iat", Value::Null)),
        ("active as text", with("token_introspection", opaque.active_with(json!({"active": "true"})))),
        ("another type", idp.sign("JWT", &claims).unwrap()),
        ("another key", stranger.sign(typ, &claims).unwrap()),
        ("another algorithm", edwards.sign(typ, &claims).unwrap()),
    ]
    .into_iter()
    .enumerate()
    {
        opaque.responds(body(text)).await;
        let answer = opaque.exchange(&format!("token-{number}")).await;
        assert_eq!((answer.status, answer.reason()), (503, "issuer_unavailable"), "{what}");
    }
    opaque.responds(body(with("token_introspection", json!({"active": false})))).await;
    opaque.exchange("inactive").await.assert_refused(400, "invalid_request", "subject_token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_sent_to_its_own_issuer_and_to_no_other() {
    let opaque = OpaqueWorld::new().await;
    let (world, server) = (&opaque.world, &opaque.world.server);
    let second = MockServer::start().await;
    let (key, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let now = server.now();
    let ask = async |token: &str, issuer: Option<&str>| {
        let mut request = world.user_proxy.exchange(server, token, ACCESS_TOKEN).param("audience", MAIL);
        if let Some(issuer) = issuer {
            request = request.param("subject_issuer", issuer);
        }
        request.send().await
    };
    opaque.answers(&opaque.active()).await;
    let own = world.first_hop().await;
    // A token of this server with a mistake, and one that names an issuer without introspection.
    for token in [format!("{} ", own.token()), format!("{}x", own.token()), own.token().replace('.', "..")] {
        let answer = ask(&token, None).await;
        answer.assert_refused(400, "invalid_request", "subject_token_invalid");
    }
    let of = |iss: &str| key.sign("at+jwt", &json!({"iss": iss, "sub": "alice", "exp": now + 60})).unwrap();
    ask(&of("https://unknown.example.com"), None).await.assert_refused(
        400,
        "invalid_request",
        "subject_token_invalid",
    );
    assert_eq!(opaque.asked().await, 0);

    let yaml = format!(
        "issuers:\n  - {{iss: \"{OTHER}\", alias: other, audiences: [actchain], introspection: {{endpoint: \"{}\", client_id: us, client_secret: {SECRET}}}}}",
        second.uri()
    );
    server.apply(&yaml).await.unwrap();
    let asked = async || {
        let others = second.received_requests().await.unwrap().len();
        (opaque.asked().await, others)
    };
    let malformed = |answer: Answer, part: &str| {
        answer.assert_refused(400, "invalid_request", "");
        assert!(answer.text.contains(part), "{}", answer.text);
    };
    malformed(ask(TOKEN, None).await, "subject_issuer is needed");
    malformed(ask(TOKEN, Some("https://unknown.example.com")).await, "names no issuer that introspects");
    malformed(ask(own.token(), Some(IDP)).await, "for tokens of other issuers");
    let named = world.user_proxy.exchange(server, &world.user_token(), JWT).param("subject_issuer", IDP);
    malformed(named.send().await, "needs the token type access_token");
    ask(&of(OTHER), Some(IDP)).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(asked().await, (0, 0));
    ask(TOKEN, Some(IDP)).await.with_status(200);
    assert_eq!(asked().await, (1, 0));
    let answer = ResponseTemplate::new(200).set_body_json(json!({"active": false}));
    Mock::given(any()).respond_with(answer).mount(&second).await;
    ask(TOKEN, Some(OTHER)).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(asked().await, (1, 1), "what one issuer said is not what another says");
    ask(&of(OTHER), None).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(asked().await, (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_api_accepts_no_opaque_token_and_asks_no_issuer() {
    let opaque = OpaqueWorld::new().await;
    opaque.answers(&opaque.active()).await;
    Api::get(&opaque.world.server, "/delegate/D").user(TOKEN).send().await.with_status(401);
    assert_eq!(opaque.asked().await, 0, "strangers cannot make this server send requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_can_ask_whether_an_opaque_token_would_be_exchanged() {
    let opaque = OpaqueWorld::new().await;
    opaque.answers(&opaque.active()).await;
    let question = |issuer: &str| {
        json!({"subject_token": TOKEN, "subject_token_type": "access_token", "subject_issuer": issuer,
               "client_id": "user-proxy", "audiences": [MAIL]})
    };
    let check = async |issuer| {
        opaque.world.as_admin("POST", "/api/v1/check", question(issuer)).await.with_status(200)
    };
    let granted = check(IDP).await;
    assert_eq!(
        (&granted.json["granted"], &granted.json["subject"]),
        (&json!(true), &json!({"iss": IDP, "sub": "alice"}))
    );
    assert_eq!(check(OTHER).await.json["granted"], json!(false));
    assert_eq!(opaque.asked().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_by_may_act_of_an_opaque_token_is_recorded_once_and_stays_revoked() {
    let opaque = OpaqueWorld::new().await;
    let server = &opaque.world.server;
    let party = json!({"iss": server.app.issuer, "client_id": "email-svc"});
    opaque.answers(&opaque.active_with(json!({"sub": "carol", "may_act": party}))).await;
    let ask = async || {
        let request = opaque.world.email_svc.exchange(server, TOKEN, ACCESS_TOKEN);
        request.param("audience", MAIL).send().await
    };
    let dlg = ask().await.with_status(200).claims()["dlg"].as_str().unwrap().to_owned();
    server.pass(31);
    assert_eq!(ask().await.with_status(200).claims()["dlg"], json!(dlg));
    assert_eq!(opaque.asked().await, 2);
    server.revoke(&dlg).await;
    server.pass(31);
    ask().await.assert_refused(400, "invalid_request", "delegation_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_delegation_by_may_act_does_not_return_with_another_type_of_the_same_token() {
    for types in [[JWT, ACCESS_TOKEN], [ACCESS_TOKEN, JWT]] {
        let opaque = OpaqueWorld::new().await;
        let server = &opaque.world.server;
        let party = json!({"iss": server.app.issuer, "client_id": "email-svc"});
        let token = opaque.world.user_token_with(|claims| {
            (claims["sub"], claims["may_act"]) = (json!("carol"), party.clone());
        });
        opaque.answers(&opaque.active_with(json!({"sub": "carol", "may_act": party}))).await;
        let ask = async |kind: &str| {
            let request = opaque.world.email_svc.exchange(server, &token, kind);
            request.param("audience", MAIL).send().await
        };
        let dlg = ask(types[0]).await.with_status(200).claims()["dlg"].as_str().unwrap().to_owned();
        server.revoke(&dlg).await;
        ask(types[1]).await.assert_refused(400, "invalid_request", "delegation_revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn this_server_can_authenticate_at_the_endpoint_without_a_secret() {
    let opaque = OpaqueWorld::new().await;
    opaque.declare("client_id: us, auth: private_key_jwt").await.unwrap();
    opaque.answers(&opaque.active()).await;
    opaque.exchange(TOKEN).await.with_status(200);
    let asked = opaque.endpoint.received_requests().await.unwrap();
    let form: std::collections::BTreeMap<String, String> =
        url::form_urlencoded::parse(&asked[0].body).into_owned().collect();
    assert_eq!(form["client_id"], "us");
    assert_eq!(form["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    assert!(!asked[0].headers.contains_key("authorization"));
    let jws = Jws::parse(&form["client_assertion"]).unwrap();
    assert!(jws.header.is_typed("client-authentication+jwt"));
    let now = opaque.world.server.now();
    let claims = |name: &str| jws.claims[name].clone();
    assert_eq!((claims("iss"), claims("sub"), claims("aud")), (json!("us"), json!("us"), json!(IDP)));
    assert_eq!((claims("iat"), claims("exp")), (json!(now), json!(now + 60)));
    let keyring = opaque.world.server.app.keyring();
    let published = keyring.jwks["keys"].as_array().unwrap().iter().filter_map(Value::as_object);
    let keys: Vec<PublicKey> = published.map(|jwk| PublicKey::from_jwk(jwk).unwrap()).collect();
    assert!(keys.iter().any(|key| jws.verified_by(key, &Alg::ALL)));
    // An assertion is no token of this server.
    let answer =
        opaque.world.user_proxy.exchange(&opaque.world.server, &form["client_assertion"], ACCESS_TOKEN);
    answer.send().await.assert_refused(400, "invalid_request", "subject_token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_at_an_issuer_is_sealed_and_stays_while_nothing_else_changes() {
    let opaque = OpaqueWorld::new().await;
    let server = &opaque.world.server;
    opaque.answers(&opaque.active()).await;
    let registry = server.app.registry().version;
    opaque.declare("client_id: us").await.unwrap();
    opaque.declare(&format!("client_id: us, client_secret: {SECRET}")).await.unwrap();
    let exported = export(&server.operator()).await.unwrap().to_yaml().unwrap();
    assert!(
        exported.contains("client_id: us")
            && exported.contains("# not exported: the client_secret of the introspection")
    );
    server.apply(&exported).await.unwrap();
    assert_eq!(server.app.registry().version, registry, "nothing has changed");
    for text in [exported, server.dump().await] {
        assert!(!text.contains(SECRET));
    }
    for (members, part) in [
        ("client_id: another", "needs a client_secret"),
        ("client_id: us, cache: 10", "needs a client_secret"),
        ("client_id: us, client_secret: x, auth: none", "auth: none"),
        ("client_id: us, client_secret: x, auth: private_key_jwt", "has no client secret"),
        ("client_id: us, client_secret: x, cache: 61", "at most 60"),
        ("client_id: us, client_secret: x, client_secret_file: /dev/null", "exclude each other"),
        ("client_id: '', client_secret: x", "client_id"),
    ] {
        let why = opaque.declare(members).await.unwrap_err();
        assert!(why.contains(part), "{members}: {why}");
    }
    let yaml = opaque
        .manifest("client_id: us, client_secret: x")
        .replace(&opaque.endpoint.uri(), "https://10.0.0.1");
    assert!(server.apply(&yaml).await.unwrap_err().contains("outbound.allow"));
    // Another secret is used at once, and under another master key.
    opaque
        .declare("client_id: us, client_secret: another-secret-0123456789, auth: client_secret_post")
        .await
        .unwrap();
    let master = MasterKey::generate().unwrap();
    let twin = server.twin_under(&master).await;
    rekey(&twin.app.pool, &twin.app.vault.keys, twin.clock.now(), |_, _| ()).await.unwrap();
    let alone = server.twin_under_only(&master).await;
    for server in [server, &twin, &alone] {
        let request = opaque.world.user_proxy.exchange(server, TOKEN, ACCESS_TOKEN).param("audience", MAIL);
        request.send().await.with_status(200);
        let asked = opaque.endpoint.received_requests().await.unwrap();
        let body = String::from_utf8(asked.last().unwrap().body.clone()).unwrap();
        assert!(body.contains("client_id=us&client_secret=another-secret-0123456789"), "{body}");
    }
    assert_eq!(opaque.asked().await, 3);
}
