//! Webhook signatures (standardwebhooks.com, version 1): they prove the sender, the time and the integrity of a
//! message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::digest::MacKey;
use crate::failure::Failure;
use crate::random;

/// The id of a message, the same in all attempts.
pub const ID: &str = "webhook-id";
/// Time of sending, in Unix seconds.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// One signature for each secret, separated by spaces.
pub const SIGNATURE: &str = "webhook-signature";

const PREFIX: &str = "whsec_";
/// Allowed sizes of a secret, in bytes.
const SIZES: std::ops::RangeInclusive<usize> = 24..=64;

/// A shared secret of sender and receiver.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Parses `whsec_` and base64 of 24 to 64 bytes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?);
        SIZES.contains(&bytes.len()).then_some(Self(bytes))
    }

    /// Generates a secret of 32 bytes.
    pub fn generate() -> Result<Self, Failure> {
        Ok(Self(Zeroizing::new(random::bytes::<32>()?.to_vec())))
    }

    /// The secret as it is shown to the receiver: `whsec_` and base64.
    pub fn text(&self) -> SecretString {
        SecretString::from(format!("{PREFIX}{}", STANDARD.encode(self.0.as_slice())))
    }

    fn sign(&self, message: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(MacKey::of(&self.0).mac(message)))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let (own, other) = (self.text(), other.text());
        subtle::ConstantTimeEq::ct_eq(own.expose_secret().as_bytes(), other.expose_secret().as_bytes()).into()
    }
}

/// The value of [`SIGNATURE`]: over `id.timestamp.body`, under every secret that is in force, the newest first.
pub fn signatures(secrets: &[Secret], id: &str, timestamp: i64, body: &str) -> String {
    let message = format!("{id}.{timestamp}.{body}");
    secrets.iter().map(|secret| secret.sign(message.as_bytes())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    /// The example of the specification's own libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_published_example_is_signed_as_published() {
        for case in vectors::cases(include_str!("../vectors/standard-webhooks.json")) {
            let text = |name| vectors::text(&case, name);
            let secret = Secret::parse(text("secret")).unwrap();
            let timestamp = case["timestamp"].as_i64().unwrap();
            assert_eq!(signatures(&[secret], text("id"), timestamp, text("body")), case["signature"]);
        }
    }

    #[test]
    fn both_secrets_sign_while_one_follows_the_other() {
        let (old, new) = (Secret::parse(SECRET).unwrap(), Secret::generate().unwrap());
        let alone = signatures(&[Secret::parse(SECRET).unwrap()], "a", 1, "x");
        let both = signatures(&[new, old], "a", 1, "x");
        assert_eq!(both.split(' ').count(), 2);
        assert_eq!(both.split(' ').nth(1), Some(alone.as_str()));
    }

    #[test]
    fn what_is_no_secret_is_not_taken_for_one() {
        for text in [
            "",
            "whsec_",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_AAAA",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!",
        ] {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
        let made = Secret::generate().unwrap();
        assert!(Secret::parse(made.text().expose_secret()) == Some(made));
        assert_eq!(format!("{:?}", Secret::parse(SECRET)), "Some(Secret(..))");
    }
}
