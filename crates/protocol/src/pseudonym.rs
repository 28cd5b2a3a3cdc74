//! Names of persons in an audit log that can be made unreadable: a pseudonym commits to issuer and subject under a random
//! salt. With the salt, anyone can check whose pseudonym it is. Without the salt, a guess cannot be tested.

use crate::base64url;
use crate::digest::{hex, sha256};

/// What every pseudonym begins with.
pub const PREFIX: &str = "person-";

/// Separates these hashes from all other uses of SHA-256.
const DOMAIN: &[u8] = b"actchain pseudonym of a person\0";
/// A pseudonym has 192 bits: two persons with the same pseudonym cannot be made.
const BYTES: usize = 24;
/// Length of a pseudonym, in bytes.
const LENGTH: usize = PREFIX.len() + BYTES / 3 * 4;

/// The pseudonym of a person of a trusted issuer.
pub fn pseudonym(salt: &[u8; 32], iss: &str, sub: &str) -> String {
    // The length keeps `iss` and `sub` apart, whatever characters they have.
    let length = u64::try_from(iss.len()).unwrap_or(u64::MAX).to_be_bytes();
    let digest = sha256(&[DOMAIN, salt, &length, iss.as_bytes(), sub.as_bytes()]);
    let short: Vec<u8> = digest.into_iter().take(BYTES).collect();
    format!("{PREFIX}{}", base64url::encode(short))
}

/// Whether a text has the form of a pseudonym.
pub fn is_pseudonym(text: &str) -> bool {
    let in_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.len() == LENGTH && text.strip_prefix(PREFIX).is_some_and(|rest| rest.bytes().all(in_base64url))
}

/// The digest by which a document names the personal data that is kept beside it. The text contains a salt.
pub fn personal_sha256(text: &str) -> String {
    hex(&sha256(&[text.as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    fn salt(text: &str) -> [u8; 32] {
        base64url::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn pseudonyms_match_the_published_vector() {
        for case in vectors::cases(include_str!("../vectors/pseudonyms.json")) {
            let text = |name| vectors::text(&case, name);
            let found = pseudonym(&salt(text("salt")), text("iss"), text("sub"));
            assert_eq!(found, text("pseudonym"), "{}", text("name"));
            assert!(is_pseudonym(&found));
        }
    }

    #[test]
    fn issuer_and_subject_do_not_run_into_each_other() {
        let salt = [7; 32];
        assert_ne!(pseudonym(&salt, "https://a", "b"), pseudonym(&salt, "https://", "ab"));
        assert_ne!(pseudonym(&salt, "https://a", "b"), pseudonym(&[8; 32], "https://a", "b"));
    }

    #[test]
    fn other_texts_are_no_pseudonyms() {
        let right = pseudonym(&[0; 32], "i", "s");
        for text in [
            "",
            "person-",
            "alice",
            &right[..right.len() - 1],
            &format!("{right}A"),
            &right.replace("person", "persol"),
        ] {
            assert!(!is_pseudonym(text), "{text}");
        }
        assert!(!is_pseudonym(&format!("person-{}", "ü".repeat(16))));
    }
}
