//! Signing keys of this server: next → active → retiring → removed.

mod server_secret;
pub mod store;

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

pub use self::server_secret::{PLACES, ROW_MAC, SHARED_SECRETS, secret_row, shared_secret};
use crate::platform::fault::Fault;
use crate::platform::seal::SealingKey;
use actchain_protocol::jose::{PublicKey, SigningAlg, SigningKey};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum KeyPurpose {
    /// Access tokens; published in the JWKS.
    Token,
    /// Checkpoints of the transparency log.
    Checkpoint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Published, does not sign yet.
    Next,
    Active,
    /// Published while tokens that it signed are valid.
    Retiring,
    Removed,
}

#[derive(Debug, Clone)]
pub struct StoredKey {
    pub kid: String,
    pub purpose: KeyPurpose,
    pub alg: SigningAlg,
    /// The public JWK with `alg`, `kid` and `use`.
    pub public_jwk: Value,
    /// The private JWK, sealed under the master key.
    pub sealed: String,
    pub created_at: OffsetDateTime,
    pub activated_at: Option<OffsetDateTime>,
    pub retired_at: Option<OffsetDateTime>,
    /// When it was removed from the JWKS.
    pub removed_at: Option<OffsetDateTime>,
}

impl StoredKey {
    /// Generates a key and seals its private JWK.
    pub fn generate(
        purpose: KeyPurpose,
        alg: SigningAlg,
        seal: &SealingKey,
        now: OffsetDateTime,
    ) -> Result<Self, Fault> {
        let (key, private) = SigningKey::generate(alg)?;
        let kid = key.kid().to_owned();
        Ok(Self {
            sealed: seal.seal(&row_name(&kid), &private)?,
            public_jwk: key.public_jwk(),
            kid,
            purpose,
            alg,
            created_at: now,
            activated_at: None,
            retired_at: None,
            removed_at: None,
        })
    }

    pub fn open(&self, seal: &SealingKey) -> Result<SigningKey, Fault> {
        let private = seal.open(&row_name(&self.kid), &self.sealed)?;
        Ok(SigningKey::from_private(self.alg, &private)?)
    }

    /// Seals the same private key under the present master key.
    pub fn resealed(&self, seal: &SealingKey) -> Result<String, Fault> {
        seal.seal(&row_name(&self.kid), &seal.open(&row_name(&self.kid), &self.sealed)?)
    }

    pub fn state(&self) -> KeyState {
        match (self.activated_at, self.retired_at, self.removed_at) {
            (_, _, Some(_)) => KeyState::Removed,
            (_, Some(_), None) => KeyState::Retiring,
            (Some(_), None, None) => KeyState::Active,
            (None, None, None) => KeyState::Next,
        }
    }
}

/// The additional authenticated data of a private key.
fn row_name(kid: &str) -> String {
    format!("signing_key/{kid}")
}

/// The opened keys of a running server.
#[derive(Debug)]
pub struct Keyring {
    pub active: SigningKey,
    /// Keys that verify tokens, by `kid`: next, active and retiring.
    pub verifying: HashMap<String, PublicKey>,
    /// The published JWK Set.
    pub jwks: Value,
}

impl Keyring {
    /// Opens the token keys that are not removed.
    ///
    /// # Errors
    /// A fault if no key is active, or the keys were sealed under another master key.
    pub fn open(keys: &[StoredKey], seal: &SealingKey) -> Result<Self, Fault> {
        let published: Vec<&StoredKey> = keys
            .iter()
            .filter(|key| key.purpose == KeyPurpose::Token && key.state() != KeyState::Removed)
            .collect();
        let mut active = None;
        let mut verifying = HashMap::new();
        let mut list = Vec::new();
        for stored in published {
            // The public key also comes from the seal: a writer with access to the database but without the master
            // key cannot add a key.
            let key = stored.open(seal)?;
            verifying.insert(key.kid().to_owned(), key.public().clone());
            list.push(key.public_jwk());
            if stored.state() == KeyState::Active {
                active = Some(key);
            }
        }
        let active = active.ok_or_else(|| Fault::new("no signing key is active"))?;
        Ok(Self { active, verifying, jwks: serde_json::json!({"keys": list}) })
    }
}
