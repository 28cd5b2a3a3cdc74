//! The key that an agent's tokens are bound to.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use actchain_protocol::digest::sha256;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use actchain_protocol::{base64url, random};
use pem::Pem;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::error::Error;

const LABEL: &str = "PRIVATE KEY";

/// A private key on P-256 or Ed25519. `Debug` shows the thumbprint only.
#[derive(Clone)]
pub struct Key {
    signing: SigningKey,
    /// The same key as PKCS#8 (RFC 5208), for PEM.
    private: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.thumbprint())
    }
}

impl Key {
    /// Generates a key on P-256, which signs with ES256.
    ///
    /// # Errors
    /// [`Error::Failure`] if the operating system gives no random bytes.
    pub fn generate() -> Result<Self, Error> {
        let (signing, private) = SigningKey::generate(SigningAlg::ES256)?;
        Ok(Self { signing, private })
    }

    /// Reads PKCS#8 in PEM (RFC 7468 §10), as [`Key::to_pem`] and `openssl genpkey` write it.
    ///
    /// # Errors
    /// [`Error::Usage`] if the text is not such a key on P-256 or Ed25519. The error contains nothing of the text.
    pub fn from_pem(text: &SecretString) -> Result<Self, Error> {
        const UNUSABLE: Error =
            Error::Usage("the key is not a private key on P-256 or Ed25519 in PKCS#8 and PEM");
        let document = pem::parse(text.expose_secret()).map_err(|_| UNUSABLE)?;
        if document.tag() != LABEL {
            return Err(UNUSABLE);
        }
        let private = Zeroizing::new(document.into_contents());
        let read = |alg| SigningKey::from_private(alg, &private).ok();
        let signing = read(SigningAlg::ES256).or_else(|| read(SigningAlg::Ed25519)).ok_or(UNUSABLE)?;
        Ok(Self { signing, private })
    }

    /// The private key as PKCS#8 in PEM.
    pub fn to_pem(&self) -> SecretString {
        SecretString::from(pem::encode(&Pem::new(LABEL, self.private.as_slice())))
    }

    /// Reads the key from a file, or generates one and writes it to the file, which only its owner can read.
    ///
    /// # Errors
    /// [`Error::KeyFile`] if the file can neither be read nor made. [`Error::Usage`] if it does not contain a key: the
    /// file is never overwritten.
    pub fn load_or_generate(path: &Path) -> Result<Self, Error> {
        let failed = |cause| Error::KeyFile { path: path.display().to_string(), cause };
        match std::fs::read_to_string(path) {
            Ok(text) => return Self::from_pem(&SecretString::from(text)),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            Err(_) => {}
        }
        let key = Self::generate()?;
        // Written under another name first: a process that was killed must not leave half a key.
        let draft = path.with_extension(format!("{}.new", random::token()?));
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&draft);
        let written = file.and_then(|mut file| {
            file.write_all(key.to_pem().expose_secret().as_bytes())?;
            file.sync_all()?;
            // Unlike a rename, a link does not replace a file that another process has made meanwhile.
            std::fs::hard_link(&draft, path)
        });
        // The draft may not exist; the error that matters is the one of the write.
        std::fs::remove_file(&draft).ok();
        match written {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let text = std::fs::read_to_string(path).map_err(failed)?;
                Self::from_pem(&SecretString::from(text))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The SHA-256 thumbprint (RFC 7638), by which a client's DPoP keys are registered, and which `cnf.jkt` has.
    pub fn thumbprint(&self) -> &str {
        self.signing.kid()
    }

    /// The public key as a JWK with `alg`, `kid` and `use`, for the registration of the client.
    pub fn public_jwk(&self) -> Value {
        self.signing.public_jwk()
    }

    pub(crate) fn sign(&self, typ: &str, claims: &Value) -> Result<SecretString, Error> {
        Ok(SecretString::from(self.signing.sign(typ, claims)?))
    }

    /// A proof with a new `jti` (RFC 9449 §4.2). Query and fragment of the URI are left out.
    pub(crate) fn proof(&self, request: &ProofOf<'_>, now: OffsetDateTime) -> Result<String, Error> {
        let uri = request.uri.split(['?', '#']).next().unwrap_or_default();
        let mut claims =
            json!({"jti": random::token()?, "htm": request.method, "htu": uri, "iat": now.unix_timestamp()});
        if let Value::Object(claims) = &mut claims {
            if let Some(token) = request.access_token {
                let digest = sha256(&[token.expose_secret().as_bytes()]);
                claims.insert("ath".into(), base64url::encode(digest).into());
            }
            if let Some(nonce) = request.nonce {
                claims.insert("nonce".into(), nonce.into());
            }
        }
        Ok(self.signing.sign_proof("dpop+jwt", &claims)?)
    }
}

/// The request that a proof is for.
pub(crate) struct ProofOf<'a> {
    pub(crate) method: &'a str,
    pub(crate) uri: &'a str,
    /// The access token in the request.
    pub(crate) access_token: Option<&'a SecretString>,
    /// The nonce of the server that receives the request.
    pub(crate) nonce: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_key_file_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let made = Key::load_or_generate(&path).unwrap();
        let again = Key::load_or_generate(&path).unwrap();
        assert_eq!(made.thumbprint(), again.thumbprint());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_file_that_is_not_a_key_is_neither_overwritten_nor_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        for text in ["", "CANARY", "-----BEGIN PRIVATE KEY-----\nQ0FOQVJZ\n-----END PRIVATE KEY-----\n"] {
            std::fs::write(&path, text).unwrap();
            let error = Key::load_or_generate(&path).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("CANARY"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn debug_output_has_no_private_key() {
        let key = Key::generate().unwrap();
        assert_eq!(format!("{key:?}"), format!("Key({})", key.thumbprint()));
        assert!(!format!("{:?}", key.to_pem()).contains("PRIVATE"));
    }
}
