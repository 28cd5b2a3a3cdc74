//! Signatures and sealing: the only importer of jsonwebtoken, josekit, p256 and curve25519-dalek.

mod alg;
mod jwe;
mod jwk;
mod jwk_set;
mod jws;
mod seal;
mod signer;

pub use alg::Alg;
pub use jwk::{BadJwk, PublicKey};
pub use jwk_set::{JwkSet, UnusableKey};
pub use jws::{Header, Jws, MAX_TOKEN_BYTES};
pub use seal::SealingKey;
pub use signer::{SigningAlg, SigningKey, verify_ed25519};
