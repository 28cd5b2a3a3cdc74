//! Retrieval of a stored credential.

use std::sync::Arc;

use secrecy::ExposeSecret as _;
use serde::Serialize;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::agent_token;
use super::purpose::{RecordedPurpose, RetrievalPurpose};
use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::vault::Credential;
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::platform::fault::{Context, Fault};
use crate::services::access_token_auth::PresentedAccessToken;
use actchain_protocol::scope;
use actchain_protocol::token_exchange::VAULT_TOKEN;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryForm {
    Open,
    /// Encrypted to the agent's own key, so that no intermediary can read the credential.
    Sealed,
}

#[derive(Debug, Clone, Copy)]
pub struct RetrievalRequest<'a> {
    pub connection: &'a str,
    /// How the credential is wanted.
    pub form: DeliveryForm,
    /// SHA-256 of an access token that the provider's API has refused: if that is the present one, it is renewed.
    pub rejected: Option<[u8; 32]>,
}

#[derive(Debug)]
pub enum RetrievedCredential {
    /// A JSON document that every party on the connection can read, cleared after use.
    Open(Zeroizing<Vec<u8>>),
    Sealed(SealedCredential),
}

#[derive(Debug, Serialize)]
pub struct SealedCredential {
    /// A JWE to the agent's own key.
    pub sealed: String,
    pub connection: String,
}

/// The response document; it never contains a refresh token.
#[derive(Serialize)]
struct Taken<'a> {
    access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
    token_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    connection: &'a str,
}

/// Returns the credential of a connection.
///
/// # Errors
/// A refusal, recorded if the token's delegation is known.
pub async fn retrieve(
    app: &Arc<App>,
    presented: &PresentedAccessToken,
    asked: RetrievalRequest<'_>,
    now: OffsetDateTime,
) -> Result<RetrievedCredential, Error> {
    let mut context = agent_token::authenticate(app, presented, now).await?;
    context.recorded = RecordedPurpose::Retrieval { sealed: asked.form == DeliveryForm::Sealed };
    if asked.form == DeliveryForm::Sealed && !context.key.can_decrypt() {
        return Err(context.refuse(app, asked.connection, Refusal::KeyCannotDecrypt).await);
    }
    let opened = context.retrieve(app, asked.connection, RetrievalPurpose::Retrieve(asked.rejected)).await?;
    let document = document(&opened, None, context.now)?;
    match asked.form {
        DeliveryForm::Open => Ok(RetrievedCredential::Open(document)),
        DeliveryForm::Sealed => {
            let sealed = context.key.seal(&document)?;
            let connection = opened.connection.id.clone();
            Ok(RetrievedCredential::Sealed(SealedCredential { sealed, connection }))
        }
    }
}

/// The same as the answer of a token exchange (RFC 8693 §2.2.1).
pub(super) fn exchanged(opened: &OpenedConnection, now: OffsetDateTime) -> Result<Zeroizing<Vec<u8>>, Fault> {
    document(opened, Some(VAULT_TOKEN), now)
}

fn document(
    opened: &OpenedConnection,
    issued_token_type: Option<&'static str>,
    now: OffsetDateTime,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let connection = &opened.connection;
    let scheme = opened.provider.provider.settings.placement.scheme.as_str();
    let pair;
    let (access_token, token_type) = match &opened.credential {
        Credential::Oauth2(tokens) => (tokens.access_token.expose_secret(), presented_as(&tokens.token_type)),
        // RFC 8693 §2.2.1: `N_A` is the type of a credential that is not an OAuth access token.
        Credential::ApiKey { key } => (key.expose_secret(), if scheme.is_empty() { "N_A" } else { scheme }),
        Credential::Basic { username, password } => {
            pair = actchain_protocol::oauth_client::pair(username, password.expose_secret());
            (pair.as_str(), "Basic")
        }
    };
    let taken = Taken {
        access_token,
        issued_token_type,
        token_type,
        expires_in: connection.expires_in(now),
        scope: connection.scopes.as_ref().map(scope::join),
        connection: &connection.id,
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(opened.credential.room()));
    serde_json::to_writer(&mut *bytes, &taken).context("writing a credential")?;
    Ok(bytes)
}

/// The scheme to present an access token with (RFC 6750 §2.1). A provider's token type that is no scheme, such as
/// Slack's `bot`, becomes `Bearer`: agents that used it as a scheme would be refused.
fn presented_as(token_type: &str) -> &str {
    const SCHEMES: [&str; 5] = ["Bearer", "DPoP", "PoP", "MAC", "N_A"];
    SCHEMES.into_iter().find(|scheme| scheme.eq_ignore_ascii_case(token_type)).unwrap_or("Bearer")
}
