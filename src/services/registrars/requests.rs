//! Requests to a registrar (RFC 7591, RFC 7592).

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::domain::registrar::Registrar;
use crate::platform::outbound::{Outbound, PostRequest};
use actchain_protocol::client_registration::{
    self, ClientConfiguration, RegisteredClient, Registration, is_deleted,
};
use actchain_protocol::oauth_client;
use actchain_protocol::token_answer::{self, Extent, TokenResponse};

/// Why a request has no result.
#[derive(Debug)]
pub(super) enum RequestProblem {
    /// The registrar refused: nothing was registered.
    Refused(String),
    /// There is no answer, or none that says what happened.
    OutcomeUnknown(String),
}

impl RequestProblem {
    fn of_status(what: &str, status: u16, body: &[u8]) -> Self {
        let code = token_answer::refusal(status, body).unwrap_or_default();
        let why = format!("{what}: status {status} {code}").trim_end().to_owned();
        match status {
            // A server error can follow the registration.
            500.. => Self::OutcomeUnknown(why),
            _ => Self::Refused(why),
        }
    }
}

/// The value of `Authorization` for requests to register: the initial access token, or one for this server's client.
pub(super) async fn authorization(
    outbound: &Outbound,
    registrar: &Registrar,
    secret: Option<&SecretString>,
) -> Result<Option<Zeroizing<String>>, RequestProblem> {
    let Some(secret) = secret else { return Ok(None) };
    let settings = &registrar.settings;
    let (Some(client_id), Some(token_endpoint)) = (&settings.client_id, &settings.token_endpoint) else {
        return Ok(Some(Zeroizing::new(format!("Bearer {}", secret.expose_secret()))));
    };
    let basic = oauth_client::basic(client_id, secret.expose_secret());
    let request = PostRequest {
        content_type: "application/x-www-form-urlencoded",
        accept: "application/json",
        authorization: Some(&basic),
        body: "grant_type=client_credentials",
    };
    let answer = outbound.post(token_endpoint, request).await;
    // No request to register was sent yet.
    let answer = answer.map_err(|fault| RequestProblem::Refused(fault.to_string()))?;
    match token_answer::read(answer.status, &answer.body, Extent::Whole) {
        TokenResponse::Tokens(tokens) => {
            let token = tokens.access_token.ok_or_else(|| no_token("no access token"))?;
            Ok(Some(Zeroizing::new(format!("Bearer {}", token.expose_secret()))))
        }
        TokenResponse::Refused(code) => Err(no_token(&code)),
        TokenResponse::Empty | TokenResponse::Unusable => Err(no_token(&format!("status {}", answer.status))),
    }
}

fn no_token(why: &str) -> RequestProblem {
    RequestProblem::Refused(format!("token endpoint: {why}"))
}

pub(super) async fn register(
    outbound: &Outbound,
    registrar: &Registrar,
    authorization: Option<&str>,
    agent: Registration<'_>,
) -> Result<RegisteredClient, RequestProblem> {
    let endpoint = &registrar.settings.registration_endpoint;
    let body = agent.metadata().to_string();
    let request = PostRequest {
        content_type: "application/json",
        accept: "application/json",
        authorization,
        body: &body,
    };
    let answer = outbound.post(endpoint, request).await;
    let answer = answer.map_err(|fault| RequestProblem::OutcomeUnknown(fault.to_string()))?;
    let registered = client_registration::read(endpoint, answer.status, &answer.body);
    registered.ok_or_else(|| match answer.status {
        200..=299 => RequestProblem::OutcomeUnknown("registration endpoint: an unusable answer".to_owned()),
        status => RequestProblem::of_status("registration endpoint", status, &answer.body),
    })
}

/// Deletes a client; also if it is deleted already.
pub(super) async fn delete(
    outbound: &Outbound,
    configuration: &ClientConfiguration,
) -> Result<(), RequestProblem> {
    let authorization = Zeroizing::new(format!("Bearer {}", configuration.access_token.expose_secret()));
    let status = outbound.delete(&configuration.uri, &authorization).await;
    match status.map_err(|fault| RequestProblem::OutcomeUnknown(fault.to_string()))? {
        status if is_deleted(status) => Ok(()),
        status => Err(RequestProblem::of_status("client configuration endpoint", status, b"")),
    }
}
