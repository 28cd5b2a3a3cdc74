//! JWK Sets of other parties (RFC 7517 §5). Each key is parsed by itself, and unusable keys are listed with a reason.

use serde_json::Value;

use super::{Alg, BadJwk, PublicKey};
use crate::base64url;

/// The keys of a set, separated by whether they verify signatures.
#[derive(Debug, Clone, Default)]
pub struct JwkSet {
    /// Keys that verify signatures.
    pub keys: Vec<PublicKey>,
    /// Keys that verify no signatures, in the order of the set.
    pub unusable: Vec<UnusableKey>,
}

/// A key of a set that is ignored (RFC 7517 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableKey {
    /// `kid`, if the key has one.
    pub kid: Option<String>,
    /// Why the key verifies no signatures.
    pub problem: BadJwk,
    /// The same reason as text for a person, as specific as possible. Never contains text of the key.
    pub reason: String,
    /// Whether the key is for encryption, which is normal in many sets.
    pub encrypts: bool,
}

/// Why a key verifies no signatures, in words.
fn reason(jwk: &Value, problem: BadJwk) -> String {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let bits = text("n").and_then(|n| base64url::decode(n.trim_end_matches('='))).map(|n| n.len() * 8);
    match (problem, text("kty"), text("crv"), bits) {
        (BadJwk::Unsupported, Some("EC"), Some(curve), _) if !["P-256", "P-384"].contains(&curve) => {
            "its curve is not supported: use P-256 or P-384".to_owned()
        }
        (BadJwk::Unsupported, Some("OKP"), Some(curve), _) if curve != "Ed25519" => {
            "its curve is not supported: use Ed25519".to_owned()
        }
        (BadJwk::Unsupported, Some("RSA"), _, Some(bits)) if !(2_048..=4_096).contains(&bits) => {
            format!("it is an RSA key of {bits} bits: use 2048 to 4096")
        }
        (BadJwk::Unsupported, ..) if text("alg").is_some_and(|alg| Alg::parse(alg).is_none()) => {
            "its alg is not supported".to_owned()
        }
        _ => problem.to_string(),
    }
}

impl JwkSet {
    /// Parses a set; `None` if the value is not a set at all.
    pub fn read(set: &Value) -> Option<Self> {
        let list = set.as_object()?.get("keys")?.as_array()?;
        let mut read = Self::default();
        for jwk in list {
            match jwk.as_object().ok_or(BadJwk::Malformed).and_then(PublicKey::from_published) {
                Ok(key) => read.keys.push(key),
                Err(problem) => {
                    let kid = jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
                    let (reason, encrypts) =
                        (reason(jwk, problem), jwk.get("use").is_some_and(|name| name == "enc"));
                    read.unusable.push(UnusableKey { kid, problem, reason, encrypts });
                }
            }
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::{SigningAlg, SigningKey};
    use serde_json::json;

    fn number(jwk: &Value, name: &str) -> Vec<u8> {
        base64url::decode(jwk[name].as_str().unwrap()).unwrap()
    }

    fn with_zero(jwk: &Value, name: &str) -> Value {
        let mut jwk = jwk.clone();
        jwk[name] = json!(base64url::encode([&[0][..], &number(&jwk, name)].concat()));
        jwk
    }

    #[test]
    fn a_published_key_is_the_same_key_in_each_spelling_of_its_numbers() {
        let rsa = SigningKey::generate(SigningAlg::RS256).unwrap().0.public_jwk();
        let ec = SigningKey::generate(SigningAlg::ES256).unwrap().0.public_jwk();
        for (jwk, names) in [(&rsa, ["n", "e"]), (&ec, ["x", "y"])] {
            let same = PublicKey::from_jwk(jwk.as_object().unwrap()).unwrap();
            for name in names {
                let zero = with_zero(jwk, name);
                let read = PublicKey::from_published(zero.as_object().unwrap()).unwrap();
                assert_eq!(read.thumbprint(), same.thumbprint(), "{name}");
                assert!(
                    PublicKey::from_jwk(zero.as_object().unwrap()).is_err(),
                    "strict where a client sends it"
                );
                let mut padded = jwk.clone();
                padded[name] = json!(format!("{}=", jwk[name].as_str().unwrap()));
                assert!(PublicKey::from_published(padded.as_object().unwrap()).is_ok());
            }
        }
    }

    #[test]
    fn a_coordinate_that_lost_its_leading_zero_gets_it_back() {
        let short = (0..100_000).find_map(|_| {
            let jwk = SigningKey::generate(SigningAlg::ES256).unwrap().0.public_jwk();
            (number(&jwk, "x")[0] == 0).then_some(jwk)
        });
        let jwk = short.unwrap();
        let mut cut = jwk.clone();
        cut["x"] = json!(base64url::encode(&number(&jwk, "x")[1..]));
        let read = PublicKey::from_published(cut.as_object().unwrap()).unwrap();
        assert_eq!(read.thumbprint(), PublicKey::from_jwk(jwk.as_object().unwrap()).unwrap().thumbprint());
    }

    #[test]
    fn empty_members_are_left_out_and_unusable_keys_are_named() {
        let mut good = SigningKey::generate(SigningAlg::ES256).unwrap().0.public_jwk();
        good["use"] = json!(null);
        good["key_ops"] = json!(null);
        good["alg"] = json!("");
        let set = json!({"keys": [good, {"kty": "oct", "kid": "mac", "k": "AQ"}, {"kty": "EC", "kid": 7}, 5,
            {"kty": "RSA", "kid": "enc", "use": "enc", "n": "AQ", "e": "AQAB"}]});
        let read = JwkSet::read(&set).unwrap();
        assert_eq!(read.keys.len(), 1);
        let unusable: Vec<_> = read.unusable.iter().map(|key| (key.kid.as_deref(), key.problem)).collect();
        assert_eq!(
            unusable,
            [
                (Some("mac"), BadJwk::Private),
                (None, BadJwk::Malformed),
                (None, BadJwk::Malformed),
                (Some("enc"), BadJwk::Unsupported)
            ]
        );
        assert!(JwkSet::read(&json!([])).is_none() && JwkSet::read(&json!({"keys": {}})).is_none());
    }
}
