//! Stored client secrets: Argon2id (RFC 9106) as PHC strings. Use a blocking thread to verify.

use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use secrecy::{ExposeSecret, SecretString};

use super::fault::{Context, Fault};
use actchain_protocol::random;

/// Hashes a secret. Costs about 20 ms and 19 MiB by design; call it off the async threads.
pub fn hash(secret: &SecretString) -> Result<String, Fault> {
    let hash = Argon2::default()
        .hash_password(secret.expose_secret().as_bytes())
        .map_err(|error| Fault::new(format!("hashing a secret: {error}")))?;
    Ok(hash.to_string())
}

/// The index of the hash that the secret matches. Always does the work of at least one verification: an unknown
/// client, which has no hash, takes as long as a known client with a wrong secret.
pub fn matching(secret: &SecretString, hashes: &[String]) -> Option<usize> {
    let secret = secret.expose_secret().as_bytes();
    if hashes.is_empty() {
        let _ = matches(secret, &DUMMY);
        return None;
    }
    let places = hashes.iter().enumerate();
    places.fold(None, |found, (place, hash)| if matches(secret, hash) { Some(place) } else { found })
}

/// Whether the secret matches any of the hashes.
pub fn verify(secret: &SecretString, hashes: &[String]) -> bool {
    matching(secret, hashes).is_some()
}

/// [`matching`] on a thread that may block.
pub async fn matching_blocking(secret: SecretString, hashes: Vec<String>) -> Result<Option<usize>, Fault> {
    tokio::task::spawn_blocking(move || matching(&secret, &hashes)).await.context("verifying a secret")
}

/// [`verify`] on a thread that may block.
pub async fn verify_blocking(secret: SecretString, hashes: Vec<String>) -> Result<bool, Fault> {
    matching_blocking(secret, hashes).await.map(|found| found.is_some())
}

fn matches(secret: &[u8], hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(secret, &hash).is_ok())
}

static DUMMY: LazyLock<String> = LazyLock::new(|| {
    random::token()
        .map_err(Fault::from)
        .and_then(|secret| hash(&SecretString::from(secret)))
        .unwrap_or_default()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_secret_matches_any_of_the_hashes() {
        let [old, new] = ["old", "new"].map(|text| hash(&SecretString::from(text)).unwrap());
        let hashes = [old, new];
        assert_eq!(matching(&SecretString::from("old"), &hashes), Some(0));
        assert_eq!(matching(&SecretString::from("new"), &hashes), Some(1));
        assert!(!verify(&SecretString::from("other"), &hashes));
        assert!(!verify(&SecretString::from("old"), &[]));
    }
}
