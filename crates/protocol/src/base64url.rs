//! Base64url without padding (RFC 7515 §2). Decoding accepts only the canonical spelling: no padding, no other
//! characters, no non-zero trailing bits.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The canonical spelling, without padding.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes the canonical spelling; `None` for anything else.
pub fn decode(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    #[test]
    fn only_one_encoding_of_a_value_decodes() {
        for case in vectors::cases(include_str!("../vectors/base64url.json")) {
            let bytes = case["bytes"].is_string().then(|| vectors::bytes(&case["bytes"]));
            assert_eq!(decode(vectors::text(&case, "text")), bytes, "{case}");
        }
    }
}
