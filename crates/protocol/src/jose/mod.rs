//! Signatures and encryption: the only importer of jsonwebtoken, josekit, p256 and curve25519-dalek.

mod alg;
#[cfg(feature = "jwe")]
mod jwe;
mod jwk;
mod jwk_set;
mod jws;
mod published_jwk;
mod signer;

pub use alg::Alg;
#[cfg(feature = "jwe")]
pub use jwe::{Decrypted, DirectKey};
pub use jwk::{BadJwk, PublicKey};
pub use jwk_set::{JwkSet, UnusableKey};
pub use jws::{Header, Jws, MAX_TOKEN_BYTES, begins_as_jws};
pub use signer::{SigningAlg, SigningKey, verify_ed25519};
