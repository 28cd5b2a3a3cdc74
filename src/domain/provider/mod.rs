//! Providers: who gives the credentials that the vault keeps, and how one talks to them.

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
use crate::platform::base64url;
use crate::platform::digest::sha256;
use crate::platform::fault::{Context, Fault};
use crate::protocol::canonical_json;

/// Kind of the credentials that a provider issues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ProviderKind")]
pub enum Kind {
    /// Tokens of an authorization server (RFC 6749).
    Oauth2,
    /// An API key.
    ApiKey,
    /// A user name and a password (RFC 7617).
    Basic,
}

/// Separator of scopes in requests to the provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ScopeSeparator")]
pub enum Separator {
    /// A space (RFC 6749 §3.3).
    #[default]
    Space,
    /// A comma.
    Comma,
}

/// Encoding of requests to the token endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RequestEncoding")]
pub enum RequestEncoding {
    /// `application/x-www-form-urlencoded` (RFC 6749 §4.1.3).
    #[default]
    Form,
    /// `application/json`.
    Json,
}

/// Token that is sent to the revocation endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevocationToken {
    /// The refresh token, where there is one: RFC 7009 §2.1 ends the whole grant with it.
    #[default]
    RefreshToken,
    /// The access token.
    AccessToken,
}

/// Its authorization server, and us as its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OauthSettings {
    /// Its identifier, where it has one; then `iss` of an authorization response is compared with it (RFC 9207).
    pub issuer: Option<String>,
    /// Whether it says so in every authorization response.
    pub authorization_response_iss_parameter_supported: bool,
    /// Where owners authorize us; without it, credentials are imported only.
    pub authorization_endpoint: Option<String>,
    /// Where tokens are.
    pub token_endpoint: String,
    /// Where tokens are given back (RFC 7009).
    pub revocation_endpoint: Option<String>,
    pub client_id: String,
    /// How we authenticate.
    pub auth: AuthMethod,
    /// What may be asked for.
    pub scopes: BTreeSet<String>,
    /// What is asked for besides, always.
    pub always_scopes: BTreeSet<String>,
    /// What stands between them.
    pub separator: Separator,
    /// How parameters are sent.
    pub body: RequestEncoding,
    /// What else is said to the authorization endpoint.
    pub authorization_params: BTreeMap<String, String>,
    /// Whether a refresh token is good once.
    pub rotates: bool,
    /// Which token is given back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revocation_token: RevocationToken,
    /// Error codes of the token endpoint that only the owner can cure, besides the usual ones; case does not matter.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reconnect_errors: BTreeSet<String>,
}

/// How the proxy puts a credential into a request, and where such requests may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialPlacement {
    /// The header field.
    pub header: String,
    /// What stands before the credential in it, such as `Bearer`; for an API key it may be nothing.
    pub scheme: String,
    /// Header fields of requests that are passed on besides the usual ones, in lower case.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_headers: BTreeSet<String>,
    /// Origins: a host name means https, others name their scheme and port.
    pub hosts: BTreeSet<String>,
    /// Methods; empty means any.
    pub methods: BTreeSet<String>,
    /// What paths begin with; empty means anything.
    pub paths: BTreeSet<String>,
}

/// Left out of what is stored, so that the digest of settings without it stays what it was.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Everything that was declared, but the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub name: String,
    /// What its credentials are.
    pub kind: Kind,
    /// Its authorization server, where it has one.
    pub oauth: Option<OauthSettings>,
    /// How its credentials are used.
    pub placement: CredentialPlacement,
}

/// A provider as it is stored.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Its name in declarations and requests.
    pub id: String,
    /// Grows with every change.
    pub version: i64,
    pub settings: Settings,
    /// The secret by which we are its client, or nothing, sealed together with the settings.
    pub sealed: Sealed,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
}

/// A provider whose settings are known to be those that were declared.
#[derive(Debug)]
pub struct OpenedProvider {
    pub provider: Provider,
    /// The secret by which we are its client.
    pub secret: Option<SecretString>,
}

impl Provider {
    /// Opens the seal, and with it makes sure of the settings.
    pub async fn open(self, keys: &DataKeys, connection: &mut PgConnection) -> Result<OpenedProvider, Fault> {
        let secret = keys.open(connection, &aad(&self.id, &self.settings)?, &self.sealed).await?;
        let text = std::str::from_utf8(&secret).context("reading the secret of a provider")?;
        let secret = (!text.is_empty()).then(|| SecretString::from(text));
        Ok(OpenedProvider { provider: self, secret })
    }
}

/// What its secret is sealed for: these very settings, so that whoever writes to the database alone cannot send our
/// secrets to another address.
pub fn aad(id: &str, settings: &Settings) -> Result<String, Fault> {
    let settings = serde_json::to_value(settings).context("writing a provider")?;
    let digest = sha256(&[canonical_json::to_string(&settings)?.as_bytes()]);
    Ok(format!("provider/{id}/{}", base64url::encode(digest)))
}

/// The origin that an entry of `hosts` stands for: a host name alone means https.
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

/// Whether a text is usable as a provider's name.
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && name::is_addressable(text)
}
