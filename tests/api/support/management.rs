//! Calls of the management API (`/delegate`, `/agents`, `/api/v1`) as users, agents and administrators make them.

use actchain_protocol::base64url;
use actchain_protocol::digest::sha256;
use serde_json::{Value, json};

use super::agent::{Agent, fresh_jti};
use super::world::World;
use super::{Answer, Server};

/// A call before it is sent.
#[derive(Clone)]
pub struct Api<'a> {
    server: &'a Server,
    method: reqwest::Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl<'a> Api<'a> {
    pub fn new(server: &'a Server, method: &str, path: &str) -> Self {
        Self {
            server,
            method: method.parse().unwrap(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn get(server: &'a Server, path: &str) -> Self {
        Self::new(server, "GET", path)
    }

    pub fn post(server: &'a Server, path: &str, body: Value) -> Self {
        Self::new(server, "POST", path).json(&body)
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = Some(body.to_string().into_bytes());
        self.header("content-type", "application/json")
    }

    pub fn raw(mut self, body: &str) -> Self {
        self.body = Some(body.as_bytes().to_vec());
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an idempotency key.
    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// As a user, with a token of its own issuer.
    pub fn user(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// The claims of a valid proof for an access token.
    pub fn proof_claims(&self, token: &str) -> Value {
        let path = self.path.split('?').next().unwrap();
        json!({"jti": fresh_jti(), "htm": self.method.as_str(), "htu": format!("{}{path}", self.server.app.issuer),
               "iat": self.server.now(), "ath": base64url::encode(sha256(&[token.as_bytes()]))})
    }

    /// As a client of this server, with its access token and its key.
    pub fn client(self, agent: &Agent, token: &str) -> Self {
        let proof = agent.key.sign_proof("dpop+jwt", &self.proof_claims(token)).unwrap();
        self.header("authorization", &format!("DPoP {token}")).header("dpop", &proof)
    }

    /// The request without a body as text, for HTTP versions that no client library supports.
    pub fn text(&self, version: &str, more: &str) -> String {
        let fields: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{} {} {version}\r\nHost: x\r\n{fields}{more}\r\n", self.method, self.path)
    }

    pub async fn send(self) -> Answer {
        let mut request = super::http().request(self.method, format!("{}{}", self.server.base, self.path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(body) = self.body {
            request = request.body(body);
        }
        Answer::read(request.send().await.unwrap()).await
    }
}

impl World {
    /// An access token of a client for the management API.
    pub async fn management_token(&self, agent: &Agent) -> String {
        let answer = agent
            .request(&self.server)
            .param("grant_type", "client_credentials")
            .param("audience", &self.server.app.issuer)
            .send()
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.token().to_owned()
    }

    /// A token of another user of Alice's issuer.
    pub fn token_of(&self, sub: &str) -> String {
        self.user_token_with(|claims| claims["sub"] = json!(sub))
    }

    pub async fn as_alice(&self, method: &str, path: &str, body: Value) -> Answer {
        Api::new(&self.server, method, path).json(&body).user(&self.user_token()).send().await
    }

    pub async fn as_user(&self, sub: &str, method: &str, path: &str, body: Value) -> Answer {
        Api::new(&self.server, method, path).json(&body).user(&self.token_of(sub)).send().await
    }

    pub async fn as_agent(&self, agent: &Agent, method: &str, path: &str, body: Value) -> Answer {
        let token = self.management_token(agent).await;
        Api::new(&self.server, method, path).json(&body).client(agent, &token).send().await
    }

    pub async fn as_admin(&self, method: &str, path: &str, body: Value) -> Answer {
        self.as_agent(&self.admin, method, path, body).await
    }

    /// The export of the log, as an administrator.
    pub async fn export(&self, query: &str) -> Answer {
        let path = format!("/api/v1/audit-logs/export?{query}");
        let token = self.management_token(&self.admin).await;
        let answer = Api::get(&self.server, &path).client(&self.admin, &token).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer
    }

    /// Whether introspection by a resource server says that the token is active.
    pub async fn is_active(&self, token: &str) -> bool {
        let answer = self.introspect(&self.mail_server, token).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["active"].as_bool().unwrap()
    }

    pub async fn introspect(&self, by: &Agent, token: &str) -> Answer {
        by.at(&self.server, "/oauth/introspect").without("dpop").param("token", token).send().await
    }

    /// The status of a token in the status list: 0, 1 or 2.
    pub async fn status_of(&self, token: &str) -> u8 {
        let claims = super::claims_of(token);
        let reference = &claims["status"]["status_list"];
        let uri = reference["uri"].as_str().unwrap();
        let path = uri.strip_prefix(&self.server.app.issuer).unwrap();
        let answer = Api::get(&self.server, path).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let list = super::claims_of(&answer.text);
        assert_eq!(list["sub"], uri);
        let list =
            actchain_protocol::status_list::StatusList::read(list["status_list"]["lst"].as_str().unwrap());
        list.unwrap().get(reference["idx"].as_u64().unwrap()).unwrap() as u8
    }
}
