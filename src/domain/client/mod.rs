//! Clients: whoever authenticates at our endpoints.

pub mod changes;
mod mac;
pub mod store;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::name;
use super::principal::Principal;
use crate::platform::jose::{JwkSet, PublicKey};

/// Kind of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schemars(rename = "ClientKind")]
pub enum Kind {
    /// Acts for users; the only kind that receives delegations.
    Agent,
    /// Acts for itself.
    Service,
    /// Validates this server's tokens.
    ResourceServer,
    /// Administers this server.
    Admin,
    /// Reads the whole audit log, and nothing else.
    Auditor,
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
    /// Whether the method needs a secret.
    pub fn uses_secret(self) -> bool {
        matches!(self, Self::ClientSecretBasic | Self::ClientSecretPost)
    }
}

/// A grant type that a client may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Grant {
    /// RFC 6749 §4.4.
    #[serde(rename = "client_credentials")]
    ClientCredentials,
    /// RFC 8693.
    #[serde(rename = "token-exchange", alias = "urn:ietf:params:oauth:grant-type:token-exchange")]
    TokenExchange,
}

impl Grant {
    /// The short name, as stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::TokenExchange => "token-exchange",
        }
    }

    /// Reads a stored name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::ClientCredentials, Self::TokenExchange].into_iter().find(|grant| grant.name() == name)
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

/// A secret at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSecret {
    /// Argon2id as a PHC string.
    pub hash: String,
    /// Until when it is accepted; absent means until it is replaced.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone)]
pub struct Client {
    /// Its id, which is also its `sub` and its name in `act`.
    pub client_id: String,
    /// Grows with every change.
    pub version: i64,
    pub kind: Kind,
    pub name: String,
    /// How it authenticates.
    pub auth: AuthMethod,
    /// At most two at a time.
    pub secrets: Vec<StoredSecret>,
    /// Argon2id hash of the secret that the manifest declared last. A manifest that still declares that secret does not
    /// replace a rotated one.
    pub declared_secret: Option<String>,
    /// Its JWK Set as registered.
    pub jwks: Option<Value>,
    /// The keys of that set that can be used.
    pub keys: Vec<PublicKey>,
    /// Where its JWK Set is, if not inline.
    pub jwks_uri: Option<String>,
    /// Scopes it may ever get.
    pub scopes: BTreeSet<String>,
    /// Targets it may ever get tokens for.
    pub audiences: BTreeSet<String>,
    /// `authorization_details` types it may ever get (RFC 9396 §10).
    pub detail_types: BTreeSet<String>,
    /// Grants it may use.
    pub grant_types: BTreeSet<Grant>,
    /// Whether proofs are required.
    pub dpop: DpopPolicy,
    /// Thumbprints of the keys it may use for proofs.
    pub dpop_keys: BTreeSet<String>,
    /// Whether it may use no others.
    pub dpop_restricted: bool,
    /// Thumbprints of removed keys. Refused, even where a key is registered again, until an operator restores it.
    pub removed_keys: BTreeSet<String>,
    /// Workloads whose tokens prove this client as an actor.
    pub actor_subjects: Vec<Principal>,
    /// The longest life of its tokens, in seconds.
    pub max_token_ttl: Option<u32>,
    /// When it was disabled.
    pub disabled_at: Option<OffsetDateTime>,
    /// What it was made for, where it is an agent of one delegation.
    pub ephemeral: Option<Ephemeral>,
}

/// What an agent was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ephemeral {
    /// The delegation.
    pub delegation_id: String,
    pub task_id: String,
    pub owner: Principal,
    /// When it ended.
    pub deactivated_at: Option<OffsetDateTime>,
}

impl Client {
    /// The secrets that are accepted now.
    pub fn live_secrets(&self, now: OffsetDateTime) -> impl Iterator<Item = &StoredSecret> {
        self.secrets.iter().filter(move |secret| secret.expires_at.is_none_or(|end| now < end))
    }

    /// The hashes of the secrets that are accepted now.
    pub fn live_secret_hashes(&self, now: OffsetDateTime) -> Vec<String> {
        self.live_secrets(now).map(|secret| secret.hash.clone()).collect()
    }

    /// Whether it was disabled or has ended.
    pub fn is_inactive(&self) -> bool {
        self.disabled_at.is_some()
            || self.ephemeral.as_ref().is_some_and(|agent| agent.deactivated_at.is_some())
    }

    /// Whether it may authenticate by a method: the registered one, or, for an agent that was made for one delegation
    /// and has nothing but a key, either way of proving that.
    pub fn may_authenticate_by(&self, method: AuthMethod) -> bool {
        method == self.auth || (self.ephemeral.is_some() && method == AuthMethod::PrivateKeyJwt)
    }

    /// Whether the client may use this key for proofs. A removed key is refused before anything that is registered counts.
    pub fn may_use_key(&self, jkt: &str) -> bool {
        !self.removed_keys.contains(jkt)
            && (self.dpop_keys.contains(jkt) || (self.auth != AuthMethod::None && !self.dpop_restricted))
    }

    /// Whether an assertion by this key, inline or fetched from `jwks_uri`, authenticates the client.
    pub fn may_assert_by(&self, jkt: &str) -> bool {
        !self.removed_keys.contains(jkt)
    }

    /// Thumbprints of all keys that are registered or pinned, usable or removed.
    pub fn declared_keys(&self) -> BTreeSet<String> {
        let registered = self.keys.iter().map(|key| key.thumbprint().to_owned());
        registered.chain(self.dpop_keys.iter().cloned()).collect()
    }
}

/// Whether the text can be a client id: characters that need no escaping anywhere (standards CB-04), at most 128.
/// URL-shaped ids are allowed too, for clients that are known by one elsewhere.
pub fn is_client_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/@".contains(&byte))
}

/// Names that the audit log gives to actors that are not clients.
const RESERVED_IDS: [&str; 4] = ["server", "user", "operator", "witness"];

/// Whether a new client can have this id.
pub fn is_new_id(text: &str) -> bool {
    is_client_id(text) && name::is_addressable(text) && !RESERVED_IDS.contains(&text)
}

/// A JWK Set without the keys of this thumbprint.
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

/// The usable keys of a JWK Set; `None` if it is not one. Keys of unknown kinds are passed over (RFC 7517 §5).
pub fn usable_keys(jwks: &Value) -> Option<Vec<PublicKey>> {
    JwkSet::read(jwks).map(|set| set.keys)
}
