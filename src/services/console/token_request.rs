//! The request that redeems the code of a sign-in (RFC 6749 §4.1.3, OpenID Connect Core 1.0 §3.1.3.1).

use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;

use crate::app::App;
use crate::domain::client::AuthMethod;
use crate::domain::issuer::Issuer;
use crate::domain::sign_in::{SignIn, redirect_uri};
use crate::platform::fault::Fault;
use crate::platform::outbound::{PostRequest, PostResponse};
use actchain_protocol::oauth_client::{self, EndpointAuth};
use actchain_protocol::{client_assertion, json, random, token_answer};

/// An authorization code with its PKCE verifier.
#[derive(Clone, Copy)]
pub(super) struct CodeToRedeem<'a> {
    pub(super) code: &'a str,
    pub(super) verifier: &'a str,
}

/// Why a code gave no ID token.
pub(super) enum TokenRequestError {
    /// The issuer refused; with its error code or what is wrong with its answer.
    Refused(String),
    /// There is no complete answer.
    Unavailable(Fault),
    /// This server could not ask.
    Failed(Fault),
}

/// Redeems a code for an ID token. Other tokens of the answer are not read.
pub(super) async fn redeem(
    app: &App,
    issuer: &Issuer,
    code: CodeToRedeem<'_>,
    now: OffsetDateTime,
) -> Result<SecretString, TokenRequestError> {
    let failed = TokenRequestError::Failed;
    let sign_in = issuer.sign_in.as_ref().ok_or_else(|| failed(Fault::new("an issuer without sign-ins")))?;
    let credential = credential(app, issuer, sign_in, now).map_err(failed)?;
    let secret = credential.expose_secret();
    let auth = match sign_in.settings.auth {
        AuthMethod::ClientSecretBasic => EndpointAuth::Basic(secret),
        AuthMethod::ClientSecretPost => EndpointAuth::Post(secret),
        AuthMethod::PrivateKeyJwt => EndpointAuth::Assertion(secret),
        AuthMethod::None => EndpointAuth::None,
    };
    let redirect_uri = redirect_uri(&app.issuer, &issuer.iss);
    let mut params = vec![
        ("grant_type", "authorization_code"),
        ("code", code.code),
        ("redirect_uri", redirect_uri.as_str()),
        ("code_verifier", code.verifier),
    ];
    let authorization = auth.apply(&sign_in.settings.client_id, &mut params);
    let post = PostRequest {
        content_type: "application/x-www-form-urlencoded",
        accept: "application/json",
        authorization: authorization.as_ref().map(|value| value.as_str()),
        body: &oauth_client::form(&params),
    };
    let posted = app.vault.outbound.post(&sign_in.endpoints.token_endpoint, post).await;
    id_token(&posted.map_err(TokenRequestError::Unavailable)?)
}

fn id_token(posted: &PostResponse) -> Result<SecretString, TokenRequestError> {
    if let Some(why) = &posted.incomplete {
        return Err(TokenRequestError::Unavailable(Fault::new(why.clone())));
    }
    if posted.status != 200 {
        let code = token_answer::refusal(posted.status, &posted.body);
        return Err(match (posted.status, code) {
            (400..500, Some(code)) => TokenRequestError::Refused(code),
            (status, _) => TokenRequestError::Unavailable(Fault::new(format!("status {status}"))),
        });
    }
    let answer = json::parse_object(&posted.body).ok_or_else(|| no("no_json"))?;
    let token =
        answer.get("id_token").and_then(serde_json::Value::as_str).ok_or_else(|| no("no_id_token"))?;
    Ok(SecretString::from(token))
}

fn no(what: &str) -> TokenRequestError {
    TokenRequestError::Refused(what.to_owned())
}

/// This server's secret, or an assertion signed by this server; empty for a public client.
fn credential(
    app: &App,
    issuer: &Issuer,
    sign_in: &SignIn,
    now: OffsetDateTime,
) -> Result<SecretString, Fault> {
    match sign_in.settings.auth {
        AuthMethod::None => Ok(SecretString::default()),
        AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost => {
            sign_in.secret(&issuer.iss, &app.seal)
        }
        AuthMethod::PrivateKeyJwt => {
            let jti = random::id(now)?.to_string();
            // No issuer of tokens has the name of an issuer with tenants.
            let audience = match issuer.tenants {
                None => issuer.iss.as_str(),
                Some(_) => sign_in.endpoints.token_endpoint.as_str(),
            };
            let claims = client_assertion::claims(&sign_in.settings.client_id, audience, &jti, now);
            Ok(app.keyring().active.sign(client_assertion::TYP, &claims)?.into())
        }
    }
}
