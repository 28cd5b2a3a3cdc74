//! The key of a set that signed a JWT: `kid` is a hint (RFC 7515 §4.1.4), and one key has one algorithm (RFC 8725
//! §3.1).

use super::token_problem::TokenProblem;
use crate::jose::{Alg, Jws, PublicKey};

/// The keys that may have signed a token with this `kid`. A key without `kid` may have signed any token.
pub fn candidates<'k>(keys: &'k [PublicKey], kid: Option<&str>) -> impl Iterator<Item = &'k PublicKey> {
    keys.iter().filter(move |key| kid.is_none() || key.kid().is_none() || key.kid() == kid)
}

/// The key that signed the token.
///
/// # Errors
/// [`TokenProblem::AlgorithmNotAllowed`], [`TokenProblem::KeyUnknown`] or [`TokenProblem::Signature`].
pub fn signer<'k>(
    jws: &Jws<'_>,
    keys: &'k [PublicKey],
    allowed: &[Alg],
) -> Result<&'k PublicKey, TokenProblem> {
    let alg = Alg::parse(&jws.header.alg).filter(|alg| allowed.contains(alg));
    let alg = alg.ok_or(TokenProblem::AlgorithmNotAllowed)?;
    let named: Vec<&PublicKey> = candidates(keys, jws.header.kid.as_deref()).collect();
    if named.is_empty() {
        return Err(TokenProblem::KeyUnknown);
    }
    if !named.iter().any(|key| key.allows(alg)) {
        return Err(TokenProblem::AlgorithmNotAllowed);
    }
    named.into_iter().find(|key| jws.verified_by(key, allowed)).ok_or(TokenProblem::Signature)
}
