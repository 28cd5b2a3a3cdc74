//! An issuer for sign-ins whose every answer a test scripts, and the way of a browser to it and back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use actchain::domain::sign_in::path_name;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use actchain_testkit::answer::Answer;
use serde_json::{Value, json};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::browser::Browser;
use super::world::World;

pub const CLIENT: &str = "actchain-console";
pub const SECRET: &str = "console-secret-0123456789";

/// What the token endpoint answers.
#[derive(Clone)]
struct Scripted(Arc<Mutex<ResponseTemplate>>);

impl Respond for Scripted {
    fn respond(&self, _: &Request) -> ResponseTemplate {
        self.0.lock().unwrap().clone()
    }
}

/// An OpenID provider. Its users are `staff:…` in tokens of the server.
pub struct SignInIdp {
    pub server: MockServer,
    pub issuer: String,
    pub key: SigningKey,
    answer: Scripted,
}

/// A sign-in that a browser has begun, with the parameters that the issuer gets.
pub struct Flow {
    pub params: BTreeMap<String, String>,
    pub callback: String,
}

impl Flow {
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    /// The path to which the issuer sends the browser back.
    pub fn back(&self, more: &[(&str, &str)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("state", self.param("state")).extend_pairs(more);
        format!("{}?{}", self.callback, query.finish())
    }
}

pub fn answer(document: &Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(document.to_string(), "application/json")
}

impl SignInIdp {
    pub async fn start() -> Self {
        Self::at("").await
    }

    /// An issuer at a path of its host.
    pub async fn at(place: &str) -> Self {
        let server = MockServer::start().await;
        let (key, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
        let scripted = Scripted(Arc::new(Mutex::new(ResponseTemplate::new(500))));
        let issuer = format!("{}{place}", server.uri());
        let idp = Self { server, issuer, key, answer: scripted };
        idp.publish(json!({})).await;
        idp
    }

    /// Publishes the metadata with other members.
    pub async fn publish(&self, more: Value) {
        self.server.reset().await;
        let base = self.server.uri();
        let mut document = json!({
            "issuer": self.issuer, "jwks_uri": format!("{base}/jwks"),
            "authorization_endpoint": format!("{base}/authorize?tenant=1"), "token_endpoint": format!("{base}/token"),
            "end_session_endpoint": format!("{base}/end"), "id_token_signing_alg_values_supported": ["ES256"],
            "authorization_response_iss_parameter_supported": true,
        });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let at = self.issuer.strip_prefix(&base).unwrap().replace("{tenantid}", "common");
        let at = format!("{at}/.well-known/openid-configuration");
        Mock::given(path(at)).respond_with(answer(&document)).mount(&self.server).await;
        let keys = json!({"keys": [self.key.public_jwk()]});
        Mock::given(path("/jwks")).respond_with(answer(&keys)).mount(&self.server).await;
        Mock::given(path("/token")).respond_with(self.answer.clone()).mount(&self.server).await;
    }

    /// Serves nothing but the token endpoint.
    pub async fn hide_keys(&self) {
        self.server.reset().await;
        Mock::given(path("/token")).respond_with(self.answer.clone()).mount(&self.server).await;
    }

    pub fn yaml(&self, sign_in: &str) -> String {
        format!(
            "issuers:\n  - {{iss: \"{}\", discover: true, audiences: [actchain], alias: staff, sign_in: {{client_id: {CLIENT}, \
             client_secret: {SECRET}{sign_in}}}}}\n",
            self.issuer
        )
    }

    /// Declares the issuer with more members of `sign_in`.
    pub async fn declare(&self, world: &World, sign_in: &str) {
        world.server.apply(&self.yaml(sign_in)).await.unwrap();
    }

    /// The path of the sign-in at this issuer.
    pub fn entry(&self) -> String {
        format!("/console/sign-in/{}", path_name(&self.issuer))
    }

    pub fn logout_path(&self) -> String {
        format!("/console/backchannel-logout/{}", path_name(&self.issuer))
    }

    /// Begins a sign-in in a browser.
    pub async fn begin(&self, browser: &mut Browser<'_>, query: &str) -> Flow {
        let left = browser.get(&format!("{}{query}", self.entry())).await;
        assert_eq!(left.status, 303, "{}", left.text);
        let url = url::Url::parse(left.header("location").unwrap()).unwrap();
        let params = url.query_pairs().into_owned().collect();
        Flow { params, callback: format!("/console/callback/{}", path_name(&self.issuer)) }
    }

    pub fn claims(&self, world: &World, flow: &Flow, sub: &str) -> Value {
        let now = world.server.now();
        json!({"iss": self.issuer, "sub": sub, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": flow.param("nonce"),
               "auth_time": now - 60, "sid": format!("session-of-{sub}"), "email": format!("{sub}@example.com")})
    }

    pub fn answers(&self, template: ResponseTemplate) {
        *self.answer.0.lock().unwrap() = template;
    }

    pub fn answers_token(&self, token: &str) {
        self.answers(answer(
            &json!({"access_token": "at-0123456789", "token_type": "Bearer", "id_token": token}),
        ));
    }

    /// Answers the code of a sign-in with an ID token.
    pub fn answers_claims(&self, claims: &Value) {
        self.answers_token(&self.key.sign("JWT", claims).unwrap());
    }

    /// The browser comes back with a code.
    pub async fn come_back(&self, browser: &mut Browser<'_>, flow: &Flow) -> Answer {
        browser.get(&flow.back(&[("code", "code-0123456789"), ("iss", &self.issuer)])).await
    }

    /// A browser in which a person has signed in whose ID token has other claims.
    pub async fn signed_in<'a>(&self, world: &'a World, sub: &str, more: Value) -> Browser<'a> {
        let mut browser = Browser::new(&world.server);
        let flow = self.begin(&mut browser, "").await;
        let mut claims = self.claims(world, &flow, sub);
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.answers_claims(&claims);
        let back = self.come_back(&mut browser, &flow).await;
        assert_eq!((back.status, back.header("location")), (303, Some("/console")), "{}", back.text);
        browser
    }

    /// The claims of a logout token.
    pub fn logout_claims(&self, world: &World, jti: &str) -> Value {
        let now = world.server.now();
        json!({"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 120, "jti": jti,
               "events": {"http://schemas.openid.net/event/backchannel-logout": {}}})
    }
}
