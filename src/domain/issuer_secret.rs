//! Client secrets of this server at issuers. A seal authenticates what decides where a secret is sent: a writer with access
//! to the database alone cannot send it to another address.

use secrecy::SecretString;
use serde_json::Value;

use crate::platform::fault::{Context, Fault};
use crate::platform::seal::SealingKey;
use actchain_protocol::digest::sha256;
use actchain_protocol::{base64url, canonical_json};

/// The additional authenticated data of a secret that is bound to settings.
pub fn row(iss: &str, bound: &Value) -> Result<String, Fault> {
    let digest = sha256(&[canonical_json::to_string(bound)?.as_bytes()]);
    Ok(format!("issuer/{iss}/{}", base64url::encode(digest)))
}

/// Opens a secret.
///
/// # Errors
/// A fault if there is no secret, or if it was sealed for another row.
pub fn open(key: &SealingKey, row: &str, sealed: Option<&str>) -> Result<SecretString, Fault> {
    let sealed = sealed.ok_or_else(|| Fault::new("the secret is missing"))?;
    let secret = key.open(row, sealed)?;
    let text = std::str::from_utf8(&secret).context("reading the secret of an issuer")?;
    Ok(SecretString::from(text))
}
