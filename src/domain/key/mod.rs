//! Our signing keys: next → active → retiring → removed.

pub mod store;

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::platform::fault::Fault;
use crate::platform::jose::{PublicKey, SealingKey, SigningAlg, SigningKey};

/// What a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Purpose {
    /// Access tokens; published in the JWKS.
    Token,
    /// Checkpoints of the log.
    Checkpoint,
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Published, does not sign yet.
    Next,
    Active,
    /// Published while tokens that it signed live.
    Retiring,
    Removed,
}

/// A key as it is stored.
#[derive(Debug, Clone)]
pub struct StoredKey {
    pub kid: String,
    /// What it signs.
    pub purpose: Purpose,
    /// With which algorithm.
    pub alg: SigningAlg,
    /// The public half with `alg`, `kid` and `use`.
    pub public_jwk: Value,
    /// The private half.
    pub sealed: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it began to sign.
    pub activated_at: Option<OffsetDateTime>,
    /// When it ceased to sign.
    pub retired_at: Option<OffsetDateTime>,
    /// When it left the JWKS.
    pub removed_at: Option<OffsetDateTime>,
}

impl StoredKey {
    /// Makes a key and seals it.
    pub fn generate(
        purpose: Purpose,
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

    /// Opens the private half.
    pub fn open(&self, seal: &SealingKey) -> Result<SigningKey, Fault> {
        let private = seal.open(&row_name(&self.kid), &self.sealed)?;
        SigningKey::from_private(self.alg, &private)
    }

    /// The same private half, sealed by the present master key.
    pub fn sealed_anew(&self, seal: &SealingKey) -> Result<String, Fault> {
        seal.seal(&row_name(&self.kid), &seal.open(&row_name(&self.kid), &self.sealed)?)
    }

    /// Where it stands.
    pub fn state(&self) -> KeyState {
        match (self.activated_at, self.retired_at, self.removed_at) {
            (_, _, Some(_)) => KeyState::Removed,
            (_, Some(_), None) => KeyState::Retiring,
            (Some(_), None, None) => KeyState::Active,
            (None, None, None) => KeyState::Next,
        }
    }
}

/// The name of the secret that decides where in a status list the next token has its place. It is stored, for it must not
/// change with the master key: two tokens would get the same place.
pub const PLACES: &str = "status_places";

/// The name of the secret that is the key of the MACs of rows. It is stored, so that rows stay authentic when the master key
/// is replaced.
pub const ROW_MAC: &str = "row_mac";

/// All secrets that servers share.
pub const SHARED_SECRETS: [&str; 2] = [PLACES, ROW_MAC];

/// Opens a secret that all servers share, of 32 bytes.
pub async fn shared_secret(
    connection: &mut PgConnection,
    seal: &SealingKey,
    name: &str,
) -> Result<Zeroizing<[u8; 32]>, Fault> {
    let sealed = store::find_secret(connection, name).await?;
    let sealed = sealed.ok_or_else(|| Fault::new(format!("the secret {name} is missing")))?;
    let secret = seal.open(&secret_row(name), &sealed)?;
    let bytes = <[u8; 32]>::try_from(secret.as_slice());
    bytes.map(Zeroizing::new).map_err(|_| Fault::new(format!("the secret {name} has not 32 bytes")))
}

/// The name under which a secret that all servers share is sealed.
pub fn secret_row(name: &str) -> String {
    format!("server_secret/{name}")
}

/// The name under which a key's private half is sealed.
fn row_name(kid: &str) -> String {
    format!("signing_key/{kid}")
}

/// The keys as a running server uses them.
#[derive(Debug)]
pub struct Keyring {
    /// Signs tokens.
    pub active: SigningKey,
    /// Verifies tokens, by `kid`: next, active and retiring.
    pub verifying: HashMap<String, PublicKey>,
    /// The JWK Set that is published.
    pub jwks: Value,
}

impl Keyring {
    /// Opens the token keys that are not removed.
    ///
    /// # Errors
    /// A fault if none is active, or the master key is another one than they were sealed under.
    pub fn open(keys: &[StoredKey], seal: &SealingKey) -> Result<Self, Fault> {
        let published: Vec<&StoredKey> = keys
            .iter()
            .filter(|key| key.purpose == Purpose::Token && key.state() != KeyState::Removed)
            .collect();
        let mut active = None;
        let mut verifying = HashMap::new();
        let mut list = Vec::new();
        for stored in published {
            // The public half comes out of the seal too: whoever can write to the database but does not have the master
            // key cannot plant a key of his own.
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
