//! Registrars: identity providers at which ephemeral agents are registered as clients, as long as they exist.

pub mod store;

use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::data_key::{DataKeys, Sealed};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::base64url;
use actchain_protocol::canonical_json;
use actchain_protocol::client_registration::ClientConfiguration;
use actchain_protocol::digest::sha256;

/// How clients are registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegistrarKind {
    /// A server with dynamic client registration (RFC 7591, RFC 7592).
    Rfc7591,
    /// A realm of Keycloak, whose endpoints follow from its issuer identifier.
    Keycloak,
}

/// All declared settings, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrarSettings {
    pub kind: RegistrarKind,
    pub issuer: Option<String>,
    pub registration_endpoint: String,
    /// Where this server gets access tokens by its `client_id`, to register clients.
    pub token_endpoint: Option<String>,
    /// This server's client there; without one, the secret is an initial access token.
    pub client_id: Option<String>,
    /// Whether new agents are registered.
    pub enabled: bool,
}

#[derive(Debug, Clone)]
pub struct Registrar {
    pub id: String,
    pub settings: RegistrarSettings,
    /// The initial access token or client secret, or nothing, sealed together with the settings.
    pub sealed: Sealed,
    pub updated_at: OffsetDateTime,
}

impl Registrar {
    /// Opens the seal, which also authenticates the settings. `None` if there is no secret.
    pub async fn secret(
        &self,
        keys: &DataKeys,
        connection: &mut PgConnection,
    ) -> Result<Option<SecretString>, Fault> {
        let secret = keys.open(connection, &aad(&self.id, &self.settings)?, &self.sealed).await?;
        let text = std::str::from_utf8(&secret).context("reading the secret of a registrar")?;
        Ok((!text.is_empty()).then(|| SecretString::from(text)))
    }
}

/// The additional authenticated data of the secret: the settings, so that a write to the database alone cannot send it to
/// another address.
pub fn aad(id: &str, settings: &RegistrarSettings) -> Result<String, Fault> {
    let settings = serde_json::to_value(settings).context("writing a registrar")?;
    let digest = sha256(&[canonical_json::to_string(&settings)?.as_bytes()]);
    Ok(format!("registrar/{id}/{}", base64url::encode(digest)))
}

/// The additional authenticated data of the access token of a registered agent.
pub fn registration_aad(id: &str) -> String {
    format!("registration/{id}")
}

/// What is to be done for an agent at a registrar.
#[derive(Debug, Clone)]
pub struct AgentRegistration {
    pub id: String,
    pub agent: String,
    pub delegation_id: String,
    /// Whether an earlier request may have registered the agent, too.
    pub is_repeated: bool,
    pub registered_as: Option<String>,
    pub sealed: Option<Sealed>,
    /// Whether the agent is deactivated.
    pub has_ended: bool,
    pub attempts: u32,
}

/// The failed attempt that is recorded as an event.
pub const REPORTED_ATTEMPT: u32 = 5;

/// Pause after a number of failed attempts: doubled from two seconds to ten minutes.
pub fn pause(attempts: u32) -> Duration {
    Duration::seconds(1_i64 << attempts.clamp(1, 10)).min(Duration::minutes(10))
}

#[derive(Serialize, Deserialize)]
struct StoredConfiguration {
    uri: String,
    access_token: String,
}

/// The client configuration endpoint with its access token, as it is sealed.
pub fn to_bytes(configuration: &ClientConfiguration) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let stored = StoredConfiguration {
        uri: configuration.uri.clone(),
        access_token: configuration.access_token.expose_secret().to_owned(),
    };
    serde_json::to_vec(&stored).map(Zeroizing::new).context("writing a registration")
}

pub fn from_bytes(bytes: &[u8]) -> Result<ClientConfiguration, Fault> {
    let stored: StoredConfiguration =
        serde_json::from_slice(bytes).map_err(|_| Fault::new("a registration is malformed"))?;
    Ok(ClientConfiguration { uri: stored.uri, access_token: stored.access_token.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rarer_up_to_every_ten_minutes() {
        let seconds = [1, 2, 3, 9, 10, 1_000].map(|attempts| pause(attempts).whole_seconds());
        assert_eq!(seconds, [2, 4, 8, 512, 600, 600]);
    }
}
