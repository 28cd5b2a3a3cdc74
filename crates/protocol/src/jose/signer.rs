//! Private keys that sign: generated here, stored by the caller as PKCS#8 or PKCS#1, and parsed once.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use jsonwebtoken::EncodingKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Alg, PublicKey};
use crate::base64url;
use crate::failure::{Context, Failure};

/// The algorithms that keys are generated for, fewer than [`Alg`] verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SigningAlg {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    ES256,
    /// Ed25519 as `EdDSA` in headers, the name that deployed verifiers support.
    Ed25519,
    /// For relying parties that support no other algorithm (RFC 9068 §2.1).
    RS256,
}

impl SigningAlg {
    /// The `alg` in headers and JWKs.
    pub fn alg(self) -> Alg {
        match self {
            Self::ES256 => Alg::ES256,
            Self::Ed25519 => Alg::EdDSA,
            Self::RS256 => Alg::RS256,
        }
    }

    /// The name in configuration and storage.
    pub fn name(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::Ed25519 => "Ed25519",
            Self::RS256 => "RS256",
        }
    }

    /// Parses the name in storage.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::ES256, Self::Ed25519, Self::RS256].into_iter().find(|alg| alg.name() == name)
    }
}

/// A private key that signs, identified by the thumbprint of its public key.
#[derive(Clone)]
pub struct SigningKey {
    alg: SigningAlg,
    private: Arc<PrivateKey>,
    public: PublicKey,
}

/// jsonwebtoken would parse and check the key again at every signature.
enum PrivateKey {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl PrivateKey {
    fn read(alg: SigningAlg, private: &[u8]) -> Result<Self, Failure> {
        let context = "reading a signing key";
        Ok(match alg {
            SigningAlg::ES256 => Self::Ecdsa(
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private).context(context)?,
            ),
            SigningAlg::Ed25519 => {
                Self::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(private).context(context)?)
            }
            SigningAlg::RS256 => Self::Rsa(RsaKeyPair::from_der(private).context(context)?),
        })
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let context = "signing a message";
        Ok(match self {
            Self::Ecdsa(pair) => pair.sign(&SystemRandom::new(), message).context(context)?.as_ref().to_vec(),
            Self::Ed25519(pair) => pair.try_sign(message).context(context)?.as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .context(context)?;
                signature
            }
        })
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.kid())
    }
}

impl SigningKey {
    /// Generates a key and returns its private form for sealing.
    pub fn generate(alg: SigningAlg) -> Result<(Self, Zeroizing<Vec<u8>>), Failure> {
        let private = Zeroizing::new(match alg {
            SigningAlg::ES256 => generate_p256()?,
            SigningAlg::Ed25519 => generate_ed25519()?,
            SigningAlg::RS256 => generate_rsa()?,
        });
        Ok((Self::from_private(alg, &private)?, private))
    }

    /// Reads the private form that [`SigningKey::generate`] returned.
    pub fn from_private(alg: SigningAlg, private: &[u8]) -> Result<Self, Failure> {
        let encoding = match alg {
            SigningAlg::ES256 => EncodingKey::from_ec_der(private),
            SigningAlg::Ed25519 => EncodingKey::from_ed_der(private),
            SigningAlg::RS256 => EncodingKey::from_rsa_der(private),
        };
        let public = jsonwebtoken::jwk::Jwk::from_encoding_key(&encoding, alg.alg().backend())
            .and_then(|jwk| Ok(serde_json::to_value(jwk)?))
            .context("reading a signing key")?;
        let members = public.as_object().ok_or_else(|| Failure::new("a signing key without members"))?;
        let public = PublicKey::from_jwk(members).context("reading a signing key")?;
        Ok(Self { alg, private: Arc::new(PrivateKey::read(alg, private)?), public })
    }

    /// The thumbprint of the public key, used as `kid`.
    pub fn kid(&self) -> &str {
        self.public.thumbprint()
    }

    /// The algorithm in the headers of what this key signs.
    pub fn alg(&self) -> Alg {
        self.alg.alg()
    }

    /// The key that verifies signatures of this one.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The public key as a JWK with `alg`, `kid` and `use`.
    pub fn public_jwk(&self) -> Value {
        self.public.to_jwk(self.alg(), self.kid())
    }

    /// Signs claims as a JWT with this `typ`, and with the key's thumbprint as `kid`.
    pub fn sign<C: Serialize>(&self, typ: &str, claims: &C) -> Result<String, Failure> {
        self.jws(&json!({"typ": typ, "alg": self.alg().name(), "kid": self.kid()}), claims)
    }

    /// Signs claims as a proof with its public key in the `jwk` header (RFC 9449 §4.2).
    pub fn sign_proof<C: Serialize>(&self, typ: &str, claims: &C) -> Result<String, Failure> {
        let mut jwk = self.public_jwk();
        if let Value::Object(members) = &mut jwk {
            members.retain(|name, _| !matches!(name.as_str(), "alg" | "kid" | "use"));
        }
        self.jws(&json!({"typ": typ, "alg": self.alg().name(), "jwk": jwk}), claims)
    }

    /// The compact serialization (RFC 7515 §3.1).
    fn jws<C: Serialize>(&self, header: &Value, claims: &C) -> Result<String, Failure> {
        let claims = serde_json::to_vec(claims).context("writing claims")?;
        let mut token = base64url::encode(header.to_string());
        token.push('.');
        token.push_str(&base64url::encode(claims));
        let signature = self.sign_raw(token.as_bytes())?;
        token.push('.');
        token.push_str(&base64url::encode(signature));
        Ok(token)
    }

    /// The raw signature of a message, for formats that are not JWTs.
    pub fn sign_raw(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        self.private.sign(message)
    }
}

/// Verifies a raw Ed25519 signature under a public key of 32 bytes.
pub fn verify_ed25519(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

fn generate_p256() -> Result<Vec<u8>, Failure> {
    use p256::elliptic_curve::Generate as _;
    use p256::pkcs8::EncodePrivateKey as _;
    let secret = p256::SecretKey::try_generate().context("making a P-256 key")?;
    Ok(secret.to_pkcs8_der().context("making a P-256 key")?.as_bytes().to_vec())
}

/// An RSA key of 2048 bits as PKCS#1 (RFC 8017 §A.1.2), which is the content of a PKCS#8 document.
fn generate_rsa() -> Result<Vec<u8>, Failure> {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use p256::pkcs8::PrivateKeyInfoRef;
    let pair = KeyPair::generate(KeySize::Rsa2048).context("making an RSA key")?;
    let document = pair.as_der().context("making an RSA key")?;
    let info = PrivateKeyInfoRef::try_from(document.as_ref()).context("making an RSA key")?;
    Ok(info.private_key.as_bytes().to_vec())
}

fn generate_ed25519() -> Result<Vec<u8>, Failure> {
    let failed = |_| Failure::new("making an Ed25519 key");
    let pair = Ed25519KeyPair::generate().map_err(failed)?;
    Ok(pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::Jws;
    use super::*;

    #[test]
    fn every_algorithm_signs_what_its_public_key_verifies() {
        for alg in [SigningAlg::ES256, SigningAlg::Ed25519, SigningAlg::RS256] {
            let (key, private) = SigningKey::generate(alg).unwrap();
            let again = SigningKey::from_private(alg, &private).unwrap();
            let token = again.sign("at+jwt", &json!({"sub": "alice"})).unwrap();
            let jws = Jws::parse(&token).unwrap();
            assert!(jws.verified_by(key.public(), &[alg.alg()]), "{alg:?}");
            assert_eq!(jws.header.kid.as_deref(), Some(key.kid()));
            let proof = key.sign_proof("dpop+jwt", &json!({"jti": "1"})).unwrap();
            let jws = Jws::parse(&proof).unwrap();
            let embedded = PublicKey::from_jwk(jws.header.jwk.as_ref().unwrap()).unwrap();
            assert_eq!(embedded.thumbprint(), key.kid());
            assert!(jws.verified_by(&embedded, &[alg.alg()]));
        }
    }

    #[test]
    fn the_public_jwk_has_no_private_member() {
        let (key, _) = SigningKey::generate(SigningAlg::RS256).unwrap();
        let jwk = key.public_jwk();
        for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            assert!(jwk.get(name).is_none());
        }
    }
}
