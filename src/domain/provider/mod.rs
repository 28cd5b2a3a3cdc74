//! Providers: the services whose credentials the vault keeps, and the settings for requests to them.

pub mod store;

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;
use url::Url;

use super::client::AuthMethod;
use super::data_key::{DataKeys, Sealed};
use super::name;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::base64url;
use actchain_protocol::canonical_json;
use actchain_protocol::digest::sha256;

/// Kind of the credentials that a provider issues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// Tokens of an authorization server (RFC 6749).
    Oauth2,
    /// One API key for each connection.
    ApiKey,
    /// A user name and a password (RFC 7617).
    Basic,
    /// Access tokens that an authorization server issues in exchange for a token of the chain. Owners connect nothing.
    TokenExchange,
}

/// Grant with which a token of the chain is exchanged at the provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExchangeGrant {
    /// The token of the chain is the subject token (RFC 8693 §2.1).
    #[default]
    TokenExchange,
    /// The token of the chain is the assertion (RFC 7523 §2.1).
    JwtBearer,
}

/// How a token of the chain is exchanged at the provider's token endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeSettings {
    pub grant: ExchangeGrant,
    /// The only audience of the token that is sent: the provider's name for itself.
    pub subject_token_audience: String,
    /// `audience` in the request (RFC 8693 §2.1).
    pub audience: Option<String>,
    /// `resource` in the request (RFC 8707 §2).
    pub resource: Option<String>,
}

/// Separator of scopes in requests to the provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ScopeSeparator")]
pub enum Separator {
    /// A space (RFC 6749 §3.3).
    #[default]
    Space,
    /// A comma without a space.
    Comma,
}

impl Separator {
    /// The value of `scope` in a request.
    pub fn join(self, scopes: &BTreeSet<String>) -> String {
        let separator = match self {
            Self::Space => " ",
            Self::Comma => ",",
        };
        scopes.iter().map(String::as_str).collect::<Vec<_>>().join(separator)
    }
}

/// Encoding of requests to the token endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RequestEncoding")]
pub enum RequestEncoding {
    /// `application/x-www-form-urlencoded` (RFC 6749 §4.1.3).
    #[default]
    Form,
    /// `application/json`, for providers that read no forms.
    Json,
}

/// Token that is sent to the revocation endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevocationToken {
    /// The refresh token, where there is one: RFC 7009 §2.1 ends the whole grant with it.
    #[default]
    RefreshToken,
    /// The access token, even where there is a refresh token.
    AccessToken,
}

/// The provider's authorization server, and this server's registration as its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OauthSettings {
    /// Issuer identifier, if the provider has one; `iss` of an authorization response is compared with it (RFC 9207).
    pub issuer: Option<String>,
    /// Whether every authorization response has the parameter `iss`.
    pub authorization_response_iss_parameter_supported: bool,
    /// Without it, credentials can only be imported.
    pub authorization_endpoint: Option<String>,
    pub token_endpoint: String,
    /// Revocation endpoint (RFC 7009).
    pub revocation_endpoint: Option<String>,
    pub client_id: String,
    pub auth: AuthMethod,
    /// Scopes that a connection may request.
    pub scopes: BTreeSet<String>,
    /// Scopes that every authorization request has in addition.
    pub always_scopes: BTreeSet<String>,
    pub separator: Separator,
    pub body: RequestEncoding,
    /// Additional parameters of authorization requests.
    pub authorization_params: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub revocation_token: RevocationToken,
    /// Error codes of the token endpoint after which the owner has to connect again, in addition to the usual ones;
    /// case does not matter.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reconnect_errors: BTreeSet<String>,
    /// Only for [`ProviderKind::TokenExchange`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub exchange: Option<ExchangeSettings>,
}

/// How the proxy puts a credential into a request, and where such requests may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialPlacement {
    /// The header field that carries the credential.
    pub header: String,
    /// The text before the credential in the header field, such as `Bearer`; may be empty for an API key.
    pub scheme: String,
    /// Header fields that the proxy forwards in addition to the usual ones, in lower case.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_headers: BTreeSet<String>,
    /// Allowed origins: a host name means https, other entries have scheme and port.
    pub hosts: BTreeSet<String>,
    /// Allowed methods; empty means any.
    pub methods: BTreeSet<String>,
    /// Allowed path prefixes; empty means any path.
    pub paths: BTreeSet<String>,
}

/// Omits default values from the stored settings, so that the digest of settings without them does not change.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// All declared settings, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSettings {
    pub name: String,
    pub kind: ProviderKind,
    /// The authorization server, if the provider has one.
    pub oauth: Option<OauthSettings>,
    pub placement: CredentialPlacement,
}

impl ProviderSettings {
    /// The origins that get tokens of connections from this server itself.
    pub fn token_origins(&self) -> BTreeSet<String> {
        let oauth = self.oauth.iter();
        let urls = oauth.flat_map(|oauth| [Some(&oauth.token_endpoint), oauth.revocation_endpoint.as_ref()]);
        let origin = |url: &String| {
            Url::parse(url).map_or_else(|_| url.clone(), |url| url.origin().ascii_serialization())
        };
        urls.flatten().map(origin).collect()
    }

    /// The audience of the tokens that are exchanged at the provider; `None` if none are.
    pub fn subject_token_audience(&self) -> Option<&str> {
        let exchange = self.oauth.as_ref()?.exchange.as_ref()?;
        Some(&exchange.subject_token_audience)
    }
}

#[derive(Debug, Clone)]
pub struct Provider {
    pub id: String,
    /// Increases with every change.
    pub version: i64,
    pub settings: ProviderSettings,
    /// This server's client secret at the provider, or nothing, sealed together with the settings.
    pub sealed: Sealed,
    pub updated_at: OffsetDateTime,
}

/// A provider whose settings are authenticated by its seal.
#[derive(Debug)]
pub struct OpenedProvider {
    pub provider: Provider,
    /// This server's client secret at the provider.
    pub secret: Option<SecretString>,
}

impl Provider {
    /// Opens the seal, which also authenticates the settings.
    pub async fn open(self, keys: &DataKeys, connection: &mut PgConnection) -> Result<OpenedProvider, Fault> {
        let secret = keys.open(connection, &aad(&self.id, &self.settings)?, &self.sealed).await?;
        let text = std::str::from_utf8(&secret).context("reading the secret of a provider")?;
        let secret = (!text.is_empty()).then(|| SecretString::from(text));
        Ok(OpenedProvider { provider: self, secret })
    }
}

/// The additional authenticated data of the secret: the settings themselves. A writer with access to the database
/// alone cannot send secrets to another address.
pub fn aad(id: &str, settings: &ProviderSettings) -> Result<String, Fault> {
    let settings = serde_json::to_value(settings).context("writing a provider")?;
    let digest = sha256(&[canonical_json::to_string(&settings)?.as_bytes()]);
    Ok(format!("provider/{id}/{}", base64url::encode(digest)))
}

/// The origin that an entry of `hosts` denotes: a host name alone means https.
pub fn origin(host: &str) -> Option<String> {
    let url =
        if host.contains("://") { Url::parse(host) } else { Url::parse(&format!("https://{host}")) }.ok()?;
    let plain = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && !host.ends_with('/')
        && ["https", "http"].contains(&url.scheme());
    plain.then(|| url.origin().ascii_serialization())
}

/// Whether a text can be a provider id.
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && name::is_addressable(text)
}
