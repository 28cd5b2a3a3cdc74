//! Encryption (RFC 7516) in compact serialization: to public keys of other parties, and under keys of this party.

use josekit::jwe::{self, Dir, ECDH_ES_A256KW, JweHeader};
use josekit::jwk::Jwk;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{Alg, PublicKey};
use crate::failure::{Context, Failure};

impl PublicKey {
    /// Encrypts a JSON document to this key: ECDH-ES+A256KW (RFC 7518 §4.6) with A256GCM.
    ///
    /// # Errors
    /// A failure for a key that is not on a curve; check [`PublicKey::can_decrypt`] first.
    pub fn seal(&self, document: &[u8]) -> Result<String, Failure> {
        let mut members = match self.to_jwk(Alg::ES256, self.thumbprint()) {
            Value::Object(members) => members,
            _ => return Err(Failure::new("a key that is no object")),
        };
        // These members say that the key signs; here it decrypts.
        members.remove("use");
        members.remove("alg");
        let jwk = Jwk::from_map(members).context("reading a key")?;
        let cipher = ECDH_ES_A256KW.encrypter_from_jwk(&jwk).context("sealing to a key")?;
        let mut header = JweHeader::new();
        header.set_content_encryption("A256GCM");
        header.set_content_type("json");
        header.set_key_id(self.thumbprint());
        jwe::serialize_compact(document, &header, &cipher).context("sealing to a key")
    }
}

/// A symmetric key that encrypts content itself: `dir` (RFC 7518 §4.5) with A256GCM. Cleared from memory on drop.
#[derive(Clone)]
pub struct DirectKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for DirectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirectKey(..)")
    }
}

impl DirectKey {
    /// The bytes must be uniformly random, or derived from such a key.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// Encrypts a secret. The members go into the protected header, which is readable, and authenticated by the cipher.
    pub fn encrypt(&self, members: Map<String, Value>, secret: &[u8]) -> Result<String, Failure> {
        let mut header = JweHeader::new();
        header.set_content_encryption("A256GCM");
        for (name, value) in members {
            header.set_claim(&name, Some(value)).context("sealing")?;
        }
        let cipher = Dir.encrypter_from_bytes(self.0.as_slice()).context("sealing")?;
        jwe::serialize_compact(secret, &header, &cipher).context("sealing")
    }

    /// Decrypts a secret and returns it with the protected header. `None` if either was altered, if another key
    /// encrypted it, or if the text is not a JWE.
    pub fn decrypt(&self, sealed: &str) -> Option<Decrypted> {
        let cipher = Dir.decrypter_from_bytes(self.0.as_slice()).ok()?;
        let (secret, header) = jwe::deserialize_compact(sealed, &cipher).ok()?;
        Some(Decrypted { header: header.into_map(), secret: Zeroizing::new(secret) })
    }
}

/// An authentic header with the secret it belongs to.
pub struct Decrypted {
    /// All members of the protected header, `alg` and `enc` among them.
    pub header: Map<String, Value>,
    /// Cleared from memory on drop.
    pub secret: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Decrypted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decrypted({:?})", self.header)
    }
}
