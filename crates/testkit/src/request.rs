//! Forms for the OAuth endpoints.

use crate::agent::{Agent, Auth, EXCHANGE, basic};
use crate::answer::Answer;
use crate::api::Api;
use crate::endpoint::Endpoint;

impl Agent {
    /// A token request with credentials and a proof.
    pub fn request<'a>(&self, server: &'a dyn Endpoint) -> Request<'a> {
        self.at(server, "/oauth/token")
    }

    /// A request with credentials and a proof to one of the OAuth endpoints.
    pub fn at<'a>(&self, server: &'a dyn Endpoint, path: &'static str) -> Request<'a> {
        let proof = self.key.sign_proof("dpop+jwt", &self.proof_claims_at(server, path)).unwrap();
        let request = Request::at(server, path).header("dpop", proof);
        match &self.auth {
            Auth::Basic(secret) => request.header("authorization", basic(&self.id, secret)),
            Auth::Post(secret) => request.param("client_id", &self.id).param("client_secret", secret),
            Auth::Assertion => request
                .param("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
                .param("client_assertion", &self.assertion(server)),
            Auth::None => request.param("client_id", &self.id),
        }
    }

    /// An exchange of a subject token.
    pub fn exchange<'a>(&self, server: &'a dyn Endpoint, token: &str, kind: &str) -> Request<'a> {
        self.request(server)
            .param("grant_type", EXCHANGE)
            .param("subject_token", token)
            .param("subject_token_type", kind)
    }
}

/// A form for one of the OAuth endpoints before it is sent.
#[derive(Clone)]
pub struct Request<'a> {
    server: &'a dyn Endpoint,
    path: &'static str,
    pub params: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
}

impl<'a> Request<'a> {
    /// A token request without credentials and proof.
    pub fn to(server: &'a dyn Endpoint) -> Self {
        Self::at(server, "/oauth/token")
    }

    /// Like [`Self::to`], for another endpoint.
    pub fn at(server: &'a dyn Endpoint, path: &'static str) -> Self {
        Self { server, path, params: Vec::new(), headers: Vec::new() }
    }

    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.params.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.params.retain(|(param, _)| param != name);
        self.headers.retain(|(header, _)| header != name);
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn set(self, name: &str, value: &str) -> Self {
        self.without(name).param(name, value)
    }

    pub fn set_header(self, name: &str, value: impl Into<String>) -> Self {
        self.without(name).header(name, value)
    }

    pub fn body(&self) -> String {
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.params).finish()
    }

    /// The same request with any body.
    fn call(&self, body: Vec<u8>) -> Api<'a> {
        let call = Api::new(self.server, "POST", self.path);
        let call = call.header("content-type", "application/x-www-form-urlencoded").body(body);
        self.headers.iter().fold(call, |call, (name, value)| call.header(name, value))
    }

    pub async fn send(self) -> Answer {
        let body = self.body();
        self.send_raw(body.into_bytes()).await
    }

    pub async fn send_raw(self, body: Vec<u8>) -> Answer {
        self.call(body).send().await
    }

    /// As [`Api::send_to`].
    pub async fn send_to(&self, base: &str) -> Result<Answer, reqwest::Error> {
        self.call(self.body().into_bytes()).send_to(base).await
    }

    /// The request as HTTP/1.1, as [`Api::bytes`] writes it.
    pub fn bytes(&self) -> Vec<u8> {
        self.call(self.body().into_bytes()).bytes()
    }
}
