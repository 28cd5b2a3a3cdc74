//! Secrets that are not printed and are cleared from memory, and the master key that protects all stored secrets.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use subtle::ConstantTimeEq;

use super::fault::{Context, Fault};
use actchain_protocol::digest::{MacKey, prefix, sha256};
use actchain_protocol::{base64url, random};

/// Compares two byte strings in a time that depends only on their lengths.
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

/// Reads a secret from a file, without the line break at its end.
pub fn read_file(path: &Path) -> Result<SecretString, Fault> {
    let text = std::fs::read_to_string(path).context(&format!("reading {}", path.display()))?;
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
}

/// 256 bits from which the keys for sealing, nonces and cached secrets are derived.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MasterKey({})", self.id())
    }
}

impl MasterKey {
    pub fn generate() -> Result<Self, Fault> {
        Ok(Self(Zeroizing::new(random::bytes()?)))
    }

    /// Parses the key as operators write it: 32 bytes in base64url, surrounding white space ignored.
    pub fn parse(text: &SecretString) -> Result<Self, Fault> {
        let text = text.expose_secret().trim();
        let refuse = |why: &str| {
            Err(Fault::new(format!("the master key {why}: it must be 32 bytes in base64url (43 characters)")))
        };
        if text.is_empty() {
            return refuse("is empty");
        }
        if text.contains(['+', '/', '=']) {
            return refuse("is base64, not base64url: turn + into -, / into _, and leave = out");
        }
        let Some(decoded) = base64url::decode(text).map(Zeroizing::new) else {
            return refuse("is not base64url");
        };
        match <[u8; 32]>::try_from(decoded.as_slice()) {
            Ok(bytes) => Ok(Self(Zeroizing::new(bytes))),
            Err(_) => refuse(&format!("has {} bytes", decoded.len())),
        }
    }

    /// The key as operators write it.
    pub fn to_text(&self) -> SecretString {
        SecretString::from(base64url::encode(self.0.as_slice()))
    }

    /// Identifies the key without revealing any of it.
    pub fn id(&self) -> String {
        let digest = sha256(&[b"actchain master key id", self.0.as_slice()]);
        base64url::encode(prefix::<9>(&digest))
    }

    /// Derives a key for one purpose; keys of different purposes are unrelated.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(MacKey::new(&self.0).mac(purpose.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_survives_writing_and_reading_and_does_not_print() {
        let key = MasterKey::generate().unwrap();
        let text = key.to_text();
        let read = MasterKey::parse(&SecretString::from(format!(" {}\n", text.expose_secret()))).unwrap();
        assert_eq!(read.id(), key.id());
        assert!(!format!("{key:?}").contains(text.expose_secret()));
        assert_ne!(key.derive("a"), key.derive("b"));
    }

    #[test]
    fn a_master_key_that_cannot_be_one_is_refused_without_being_shown() {
        let long = "CANARY".repeat(20);
        for (text, reason) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("AAAA", "has 3 bytes"),
            (&long, "has 90 bytes"),
            ("CANARY+AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "is base64"),
            ("CANARYAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "is base64"),
            ("CANARY topsecret", "is not base64url"),
        ] {
            let complaint = MasterKey::parse(&SecretString::from(text)).unwrap_err().to_string();
            assert!(complaint.contains(reason) && !complaint.contains("CANARY"), "{complaint}");
        }
    }
}
