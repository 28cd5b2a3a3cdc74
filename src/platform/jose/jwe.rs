//! Encrypts documents to public keys of other parties (RFC 7516, RFC 7518 §4.6).

use josekit::jwe::{self, ECDH_ES_A256KW, JweHeader};
use josekit::jwk::Jwk;

use super::{Alg, PublicKey};
use crate::platform::fault::{Context, Fault};

impl PublicKey {
    /// Encrypts a JSON document to this key: ECDH-ES+A256KW with A256GCM, in compact serialization.
    ///
    /// # Errors
    /// A fault for a key that is not on a curve; check [`PublicKey::can_decrypt`] first.
    pub fn seal(&self, document: &[u8]) -> Result<String, Fault> {
        let mut members = match self.to_jwk(Alg::ES256, self.thumbprint()) {
            serde_json::Value::Object(members) => members,
            _ => return Err(Fault::new("a key that is no object")),
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
