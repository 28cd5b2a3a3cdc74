//! Clients that authenticate at this server's endpoints.

pub mod changes;
mod exception;
mod mac;
pub mod published_keys;
pub mod store;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

pub use self::exception::{AssertionAudience, ClientException, TokenBinding};
use super::name;
use super::principal::Principal;
use actchain_protocol::jose::{JwkSet, PublicKey};
use actchain_protocol::pseudonym::is_pseudonym;

/// What a client is. The kind decides which tokens and delegations the client can get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ClientKind {
    /// Acts for users; the only kind that receives delegations.
    Agent,
    /// Acts for itself, never for users.
    Service,
    /// Validates this server's tokens.
    ResourceServer,
    /// Administers this server.
    Admin,
    /// Reads the whole audit log, and nothing else.
    Auditor,
}

impl ClientKind {
    /// Whether clients of this kind administer the server, or read the whole log.
    pub fn administers(self) -> bool {
        matches!(self, Self::Admin | Self::Auditor)
    }
}

/// How a client authenticates (RFC 7591 §2, `token_endpoint_auth_method`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum AuthMethod {
    /// The secret is in the `Authorization` header.
    ClientSecretBasic,
    /// The secret is in the body.
    ClientSecretPost,
    /// A JWT signed with the client's key (RFC 7523).
    PrivateKeyJwt,
    /// A registered DPoP key alone.
    None,
}

impl AuthMethod {
    pub fn uses_secret(self) -> bool {
        matches!(self, Self::ClientSecretBasic | Self::ClientSecretPost)
    }
}

/// A grant type that a client may use.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[strum(serialize_all = "snake_case")]
pub enum GrantType {
    /// A token for the client itself (RFC 6749 §4.4).
    #[serde(rename = "client_credentials")]
    ClientCredentials,
    /// A token for acting on behalf of another party (RFC 8693).
    #[strum(serialize = "token-exchange")]
    #[serde(rename = "token-exchange", alias = "urn:ietf:params:oauth:grant-type:token-exchange")]
    TokenExchange,
    /// A token without a token of the subject, by a refresh token of an exchange (RFC 6749 §6).
    #[serde(rename = "refresh_token")]
    RefreshToken,
}

impl GrantType {
    /// The short name, as stored and shown.
    pub fn name(self) -> &'static str {
        self.into()
    }

    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }
}

/// Whether every token of a client is bound to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DpopPolicy {
    /// Requests without a proof are refused (RFC 9449 §5.2).
    #[default]
    Required,
    /// A proof binds the token; without one it is a bearer token.
    Optional,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSecret {
    /// Argon2id as a PHC string.
    pub hash: String,
    /// Accepted until this time; `None`: until it is replaced.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone)]
pub struct Client {
    /// The client id, which is also its `sub` and its `sub` in `act`.
    pub client_id: String,
    /// Increases with every change.
    pub version: i64,
    pub kind: ClientKind,
    pub name: String,
    pub auth: AuthMethod,
    /// At most two at a time.
    pub secrets: Vec<StoredSecret>,
    /// Argon2id hash of the secret that the manifest declared last. A manifest that still declares that secret does not
    /// replace a rotated one.
    pub declared_secret: Option<String>,
    /// The JWK Set as registered.
    pub jwks: Option<Value>,
    /// The usable keys of the JWK Set.
    pub keys: Vec<PublicKey>,
    /// The URL of the JWK Set, if the set is not inline.
    pub jwks_uri: Option<String>,
    /// The maximum scopes of its tokens.
    pub scopes: BTreeSet<String>,
    /// The maximum targets of its tokens.
    pub audiences: BTreeSet<String>,
    /// The maximum `authorization_details` types of its tokens (RFC 9396 §10).
    pub detail_types: BTreeSet<String>,
    pub grant_types: BTreeSet<GrantType>,
    /// Whether DPoP proofs are required.
    pub dpop: DpopPolicy,
    pub token_type: TokenBinding,
    pub assertion_audience: AssertionAudience,
    /// Thumbprints of the keys that are registered for DPoP proofs.
    pub dpop_keys: BTreeSet<String>,
    /// Whether only keys in `dpop_keys` may sign proofs.
    pub dpop_restricted: bool,
    /// Thumbprints of removed keys. They are refused, even if registered again, until an operator restores them.
    pub removed_keys: BTreeSet<String>,
    /// Principals of trusted issuers whose tokens authenticate this client as an actor.
    pub actor_subjects: Vec<Principal>,
    /// Maximum lifetime of its tokens, in seconds.
    pub max_token_ttl: Option<u32>,
    pub disabled_at: Option<OffsetDateTime>,
    /// The purpose of an ephemeral agent; `None` for other clients.
    pub ephemeral: Option<Ephemeral>,
}

/// Delegation and task of an ephemeral agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ephemeral {
    pub delegation_id: String,
    pub task_id: String,
    pub owner: Principal,
    pub deactivated_at: Option<OffsetDateTime>,
}

impl Client {
    /// The secrets that are accepted at `now`.
    pub fn live_secrets(&self, now: OffsetDateTime) -> impl Iterator<Item = &StoredSecret> {
        self.secrets.iter().filter(move |secret| secret.expires_at.is_none_or(|end| now < end))
    }

    /// The hashes of the secrets that are accepted at `now`.
    pub fn live_secret_hashes(&self, now: OffsetDateTime) -> Vec<String> {
        self.live_secrets(now).map(|secret| secret.hash.clone()).collect()
    }

    /// Whether the client is disabled, or its ephemeral agent deactivated.
    pub fn is_inactive(&self) -> bool {
        self.disabled_at.is_some()
            || self.ephemeral.as_ref().is_some_and(|agent| agent.deactivated_at.is_some())
    }

    /// Whether the client may authenticate by this method: the registered one, or, for an ephemeral agent, which has
    /// only a key, also `private_key_jwt`.
    pub fn may_authenticate_by(&self, method: AuthMethod) -> bool {
        method == self.auth || (self.ephemeral.is_some() && method == AuthMethod::PrivateKeyJwt)
    }

    /// Whether the client may use this key for proofs. A removed key is refused even if it is registered.
    pub fn may_use_key(&self, jkt: &str) -> bool {
        !self.removed_keys.contains(jkt)
            && (self.dpop_keys.contains(jkt) || (self.auth != AuthMethod::None && !self.dpop_restricted))
    }

    /// Whether an assertion by this key, inline or fetched from `jwks_uri`, authenticates the client.
    pub fn may_assert_by(&self, jkt: &str) -> bool {
        !self.removed_keys.contains(jkt)
    }

    /// The exceptions that the client may use.
    pub fn exceptions(&self) -> BTreeSet<ClientException> {
        let audience = self.assertion_audience == AssertionAudience::TokenEndpoint;
        let bearer = self.token_type == TokenBinding::Bearer;
        let optional = self.dpop == DpopPolicy::Optional;
        let all = [
            audience.then_some(ClientException::AssertionAudience),
            bearer.then_some(ClientException::TokenType),
            optional.then_some(ClientException::Dpop),
        ];
        all.into_iter().flatten().collect()
    }

    /// Whether the client cannot get a token without a proof of a key.
    pub fn always_proves_a_key(&self) -> bool {
        self.dpop == DpopPolicy::Required && self.token_type == TokenBinding::Dpop
    }

    /// The key that a token of the client is bound to, of the key that the client has proven.
    pub fn bound_key(&self, proven: Option<String>) -> Option<String> {
        proven.filter(|_| self.token_type == TokenBinding::Dpop)
    }

    /// The exception that the client uses with a token for this key, or without a key.
    pub fn exception_of_token(&self, jkt: Option<&str>) -> Option<ClientException> {
        match (self.token_type, jkt) {
            (TokenBinding::Bearer, _) => Some(ClientException::TokenType),
            (TokenBinding::Dpop, None) => Some(ClientException::Dpop),
            (TokenBinding::Dpop, Some(_)) => None,
        }
    }

    /// Thumbprints of all registered or pinned keys, usable or removed.
    pub fn declared_keys(&self) -> BTreeSet<String> {
        let registered = self.keys.iter().map(|key| key.thumbprint().to_owned());
        registered.chain(self.dpop_keys.iter().cloned()).collect()
    }
}

/// Whether a text can be a client id: at most 128 characters that need no escaping in URLs and header fields.
/// URL-shaped ids are allowed too, for clients that have such an id elsewhere.
pub fn is_client_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/@".contains(&byte))
}

/// Whether a new client may have this id.
pub fn is_new_id(text: &str) -> bool {
    is_client_id(text) && name::is_addressable(text) && !is_pseudonym(text)
}

/// The JWK Set without the keys of this thumbprint.
pub fn without_key(jwks: &Value, jkt: &str) -> Value {
    let is_it = |key: &Value| {
        let read = key.as_object().and_then(|members| PublicKey::from_published(members).ok());
        read.is_some_and(|key| key.thumbprint() == jkt)
    };
    let mut jwks = jwks.clone();
    if let Some(keys) = jwks.get_mut("keys").and_then(Value::as_array_mut) {
        keys.retain(|key| !is_it(key));
    }
    jwks
}

/// The usable keys of a JWK Set; `None` if the value is no JWK Set. Keys of unknown types are skipped (RFC 7517 §5).
pub fn usable_keys(jwks: &Value) -> Option<Vec<PublicKey>> {
    JwkSet::read(jwks).map(|set| set.keys)
}
