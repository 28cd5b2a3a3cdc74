//! Talking to a provider as its client: refreshing, giving tokens back.

use secrecy::ExposeSecret as _;
use serde::Serializer as _;
use zeroize::Zeroizing;

use crate::domain::client::AuthMethod;
use crate::domain::provider::{Body, Oauth, Trusted};
use crate::domain::vault::Tokens;
use crate::platform::fault::{During, Fault};
use crate::platform::outbound::{Outbound, Post, Posted};
use crate::protocol::oauth_client::{self, Answer, Given};

/// What a token endpoint said.
#[derive(Debug)]
pub(super) enum Told {
    /// Tokens.
    Given(Given),
    /// The grant is not honoured any more.
    Condemned(String),
    /// We are refused, whatever we ask for.
    Refused(String),
    /// It may answer later.
    Unwell(String),
}

/// Errors that say that a grant is gone, however servers spell it.
const GONE: [&str; 4] = ["invalid_grant", "bad_refresh_token", "invalid_refresh_token", "token_revoked"];
/// Errors that pass.
const PASSING: [&str; 4] = ["temporarily_unavailable", "slow_down", "server_error", "ratelimited"];

/// Asks for another access token (RFC 6749 §6).
pub(super) async fn refresh(outbound: &Outbound, provider: &Trusted, tokens: &Tokens) -> Told {
    let Some(refresh_token) = &tokens.refresh_token else { return Told::Refused("no refresh token".into()) };
    let params = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose_secret())];
    ask(outbound, provider, &params).await
}

/// Asks the token endpoint.
pub(super) async fn ask(outbound: &Outbound, provider: &Trusted, params: &[(&str, &str)]) -> Told {
    let Some(oauth) = &provider.provider.settings.oauth else {
        return Told::Refused("the provider has no token endpoint".into());
    };
    let posted = match post(outbound, (provider, oauth), &oauth.token_endpoint, params).await {
        Ok(posted) => posted,
        Err(fault) => return Told::Unwell(fault.to_string()),
    };
    match oauth_client::read_answer(posted.status, &posted.body) {
        Answer::Given(given) => Told::Given(given),
        Answer::Refused(code) if GONE.contains(&code.as_str()) => Told::Condemned(code),
        Answer::Refused(code) if posted.status == 429 || PASSING.contains(&code.as_str()) => {
            Told::Unwell(code)
        }
        Answer::Refused(code) => Told::Refused(code),
        Answer::Unusable => Told::Unwell(format!("an answer with status {}", posted.status)),
    }
}

/// Gives a token back (RFC 7009); whether the provider took it, where it has an endpoint for that.
pub(super) async fn revoke(outbound: &Outbound, provider: &Trusted, tokens: &Tokens) -> Option<bool> {
    let oauth = provider.provider.settings.oauth.as_ref()?;
    let endpoint = oauth.revocation_endpoint.as_ref()?;
    let (token, hint) = match &tokens.refresh_token {
        Some(token) => (token, "refresh_token"),
        None => (&tokens.access_token, "access_token"),
    };
    let params = [("token", token.expose_secret()), ("token_type_hint", hint)];
    let posted = post(outbound, (provider, oauth), endpoint, &params).await;
    // Some say of a token that they do not know, or not any more, that it is invalid: then there is nothing to give back.
    let gone = |posted: &Posted| {
        let answer = oauth_client::read_answer(posted.status, &posted.body);
        matches!(answer, Answer::Refused(code) if code == "invalid_token" || GONE.contains(&code.as_str()))
    };
    Some(posted.is_ok_and(|posted| posted.status == 200 || gone(&posted)))
}

async fn post(
    outbound: &Outbound,
    (provider, oauth): (&Trusted, &Oauth),
    url: &str,
    params: &[(&str, &str)],
) -> Result<Posted, Fault> {
    let secret = provider.secret.as_ref().map(|secret| secret.expose_secret()).unwrap_or_default();
    let mut params = params.to_vec();
    let mut authorization = None;
    match oauth.auth {
        AuthMethod::ClientSecretPost => {
            params.extend([("client_id", oauth.client_id.as_str()), ("client_secret", secret)]);
        }
        AuthMethod::ClientSecretBasic => authorization = Some(oauth_client::basic(&oauth.client_id, secret)),
        AuthMethod::None | AuthMethod::PrivateKeyJwt => params.push(("client_id", &oauth.client_id)),
    }
    let (content_type, body) = match oauth.body {
        Body::Form => ("application/x-www-form-urlencoded", oauth_client::form(&params)),
        Body::Json => ("application/json", json(&params)?),
    };
    let authorization = authorization.as_ref().map(|value| value.as_str());
    outbound.post(url, Post { content_type, authorization, body: &body }).await
}

fn json(params: &[(&str, &str)]) -> Result<Zeroizing<String>, Fault> {
    let mut writer = serde_json::Serializer::new(Vec::with_capacity(64 * 1024));
    writer.collect_map(params.iter().copied()).during("writing a request")?;
    String::from_utf8(writer.into_inner()).map(Zeroizing::new).during("writing a request")
}
