//! JWKs as other parties publish them, in canonical form.

use serde_json::{Map, Value};

use crate::base64url;

/// The same key with each number in canonical form (RFC 7518 §2, §6.2.1.2) and without empty members.
pub(super) fn canonical(jwk: &Map<String, Value>) -> Map<String, Value> {
    let present = |value: &Value| !value.is_null() && value.as_str().is_none_or(|text| !text.is_empty());
    let mut jwk: Map<String, Value> = jwk
        .iter()
        .filter(|(_, value)| present(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let numbers: &[(&str, Length)] = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => &[("n", Length::Shortest), ("e", Length::Shortest)],
        (Some("EC"), Some("P-256")) => &[("x", Length::Bytes(32)), ("y", Length::Bytes(32))],
        (Some("EC"), Some("P-384")) => &[("x", Length::Bytes(48)), ("y", Length::Bytes(48))],
        (Some("OKP"), _) => &[("x", Length::AsWritten)],
        _ => &[],
    };
    for (name, length) in numbers {
        let number = jwk.get(*name).and_then(Value::as_str).and_then(|text| length.respell(text));
        if let Some(number) = number {
            jwk.insert((*name).to_owned(), number.into());
        }
    }
    jwk
}

/// Number of bytes of a number in canonical form.
#[derive(Debug, Clone, Copy)]
enum Length {
    /// Without leading zero bytes.
    Shortest,
    /// Exactly this many, with leading zero bytes.
    Bytes(usize),
    /// Not a number: only padding is removed.
    AsWritten,
}

impl Length {
    fn respell(self, text: &str) -> Option<String> {
        let bytes = base64url::decode(text.trim_end_matches('='))?;
        let significant: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
        let bytes = match self {
            Self::AsWritten => bytes,
            Self::Shortest => significant,
            Self::Bytes(length) => {
                let zeros = length.checked_sub(significant.len())?;
                std::iter::repeat_n(0, zeros).chain(significant).collect()
            }
        };
        Some(base64url::encode(bytes))
    }
}
