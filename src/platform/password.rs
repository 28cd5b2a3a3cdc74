//! Client secrets at rest: Argon2id (RFC 9106) as PHC strings, verified off the async threads.

use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use secrecy::{ExposeSecret, SecretString};

use super::fault::{During, Fault};
use super::random;

/// Hashes a secret. Costs about 20 ms and 19 MiB by design; call it off the async threads.
pub fn hash(secret: &SecretString) -> Result<String, Fault> {
    let hash = Argon2::default()
        .hash_password(secret.expose_secret().as_bytes())
        .map_err(|error| Fault::new(format!("hashing a secret: {error}")))?;
    Ok(hash.to_string())
}

/// Whether the secret belongs to any of the hashes. Always does the work of at least one verification, so that
/// an unknown client, which has no hash, takes as long as a known one with a wrong secret.
pub fn verify(secret: &SecretString, hashes: &[String]) -> bool {
    let secret = secret.expose_secret().as_bytes();
    if hashes.is_empty() {
        let _ = matches(secret, &DUMMY);
        return false;
    }
    hashes.iter().fold(false, |found, hash| matches(secret, hash) | found)
}

/// [`verify`] on a thread that may block.
pub async fn verify_blocking(secret: SecretString, hashes: Vec<String>) -> Result<bool, Fault> {
    tokio::task::spawn_blocking(move || verify(&secret, &hashes)).await.during("verifying a secret")
}

fn matches(secret: &[u8], hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(secret, &hash).is_ok())
}

static DUMMY: LazyLock<String> = LazyLock::new(|| {
    random::token().and_then(|secret| hash(&SecretString::from(secret))).unwrap_or_default()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_secret_matches_any_of_the_hashes() {
        let [old, new] = ["old", "new"].map(|text| hash(&SecretString::from(text)).unwrap());
        let hashes = [old, new];
        assert!(verify(&SecretString::from("old"), &hashes));
        assert!(verify(&SecretString::from("new"), &hashes));
        assert!(!verify(&SecretString::from("other"), &hashes));
        assert!(!verify(&SecretString::from("old"), &[]));
    }
}
