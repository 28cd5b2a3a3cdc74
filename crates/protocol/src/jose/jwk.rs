//! Public keys as JWKs (RFC 7517, RFC 7518 §6, RFC 8037 §2) and their thumbprints (RFC 7638).

use curve25519_dalek::edwards::CompressedEdwardsY;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value, json};

use super::Alg;
use super::published_jwk::canonical;
use crate::{base64url, digest};

/// Members of private or symmetric keys only (RFC 7518 §6.2.2, §6.3.2, §6.4.1; RFC 8037 §2).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The reason that a JWK cannot verify signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadJwk {
    /// The JWK contains private or symmetric key material.
    #[error("the key contains private or symmetric key material")]
    Private,
    /// The type, curve, size or purpose of the key is not supported for verification.
    #[error("the key's type, curve, size or use is not supported")]
    Unsupported,
    /// A member is missing, has the wrong type or length, or is not in its canonical spelling.
    #[error("the key is malformed")]
    Malformed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    P256 { x: String, y: String },
    P384 { x: String, y: String },
    Ed25519 { x: String },
    Rsa { n: String, e: String },
}

/// A public key that verifies signatures; it is checked when it is parsed.
#[derive(Clone)]
pub struct PublicKey {
    material: Material,
    decoding: DecodingKey,
    alg: Option<Alg>,
    kid: Option<String>,
    issuer: Option<String>,
    thumbprint: String,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.thumbprint)
    }
}

impl PublicKey {
    /// Parses a JWK. Unknown members are ignored (RFC 7517 §4).
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<Self, BadJwk> {
        if SECRET_MEMBERS.iter().any(|name| jwk.contains_key(*name)) {
            return Err(BadJwk::Private);
        }
        let material = match text(jwk, "kty")? {
            "EC" => elliptic(jwk)?,
            "OKP" => octet_pair(jwk)?,
            "RSA" => rsa(jwk)?,
            "oct" => return Err(BadJwk::Private),
            _ => return Err(BadJwk::Unsupported),
        };
        if !may_verify(jwk) {
            return Err(BadJwk::Unsupported);
        }
        let alg = match jwk.get("alg") {
            None => None,
            Some(name) => Some(name.as_str().and_then(Alg::parse).ok_or(BadJwk::Unsupported)?),
        };
        let kid = match jwk.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str().ok_or(BadJwk::Malformed)?.to_owned()),
        };
        // What is no text names no issuer, and is not the same as no name.
        let issuer = jwk.get("issuer").map(|issuer| issuer.as_str().unwrap_or_default().to_owned());
        let decoding = material.decoding_key().ok_or(BadJwk::Malformed)?;
        let thumbprint = base64url::encode(digest::sha256(&[material.canonical().as_bytes()]));
        let key = Self { material, decoding, alg, kid, issuer, thumbprint };
        match alg {
            Some(alg) if !key.material.suits(alg) => Err(BadJwk::Malformed),
            _ => Ok(key),
        }
    }

    /// Parses a JWK as other parties publish it. Accepts numbers with or without leading zeros, padded base64url, and
    /// members that are `null` or empty instead of absent. The key and its thumbprint are the same as in canonical
    /// form. Keys in requests of clients are parsed by [`PublicKey::from_jwk`] only.
    pub fn from_published(jwk: &Map<String, Value>) -> Result<Self, BadJwk> {
        Self::from_jwk(&canonical(jwk))
    }

    /// The SHA-256 thumbprint in base64url (RFC 7638 §3), as in `cnf.jkt`.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// The `kid` of the JWK, if any.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The issuer that signs with this key, if the JWK names one: in the sets of Microsoft Entra, which have keys for many
    /// tenants. It can have a placeholder for the tenant.
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Whether this key may verify signatures of this algorithm: one key, one algorithm (RFC 8725 §3.1).
    pub fn allows(&self, alg: Alg) -> bool {
        self.material.suits(alg) && self.alg.is_none_or(|own| own.same_as(alg))
    }

    /// The JWK for a JWK Set: `kty` and public key material, with `alg`, `kid` and `use`.
    pub fn to_jwk(&self, alg: Alg, kid: &str) -> Value {
        let mut jwk = self.to_signing_jwk(kid);
        if let Value::Object(members) = &mut jwk {
            members.insert("alg".into(), alg.name().into());
        }
        jwk
    }

    /// The same for a key with which any of its algorithms may be used: without `alg`.
    pub fn to_signing_jwk(&self, kid: &str) -> Value {
        let mut jwk = match &self.material {
            Material::P256 { x, y } => json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}),
            Material::P384 { x, y } => json!({"kty": "EC", "crv": "P-384", "x": x, "y": y}),
            Material::Ed25519 { x } => json!({"kty": "OKP", "crv": "Ed25519", "x": x}),
            Material::Rsa { n, e } => json!({"kty": "RSA", "n": n, "e": e}),
        };
        if let Value::Object(members) = &mut jwk {
            members.insert("kid".into(), kid.into());
            members.insert("use".into(), "sig".into());
        }
        jwk
    }

    /// Whether a document can be encrypted to this key.
    pub fn can_decrypt(&self) -> bool {
        matches!(self.material, Material::P256 { .. } | Material::P384 { .. })
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }
}

impl Material {
    /// The hash input of RFC 7638 §3.3: required members only, in code point order, without white space. The values
    /// are base64url and curve names, so they need no escaping.
    fn canonical(&self) -> String {
        match self {
            Self::P256 { x, y } => format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#),
            Self::P384 { x, y } => format!(r#"{{"crv":"P-384","kty":"EC","x":"{x}","y":"{y}"}}"#),
            Self::Ed25519 { x } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#),
            Self::Rsa { n, e } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
        }
    }

    fn suits(&self, alg: Alg) -> bool {
        match self {
            Self::P256 { .. } => alg == Alg::ES256,
            Self::P384 { .. } => alg == Alg::ES384,
            Self::Ed25519 { .. } => matches!(alg, Alg::EdDSA | Alg::Ed25519),
            Self::Rsa { .. } => matches!(alg, Alg::RS256 | Alg::PS256),
        }
    }

    fn decoding_key(&self) -> Option<DecodingKey> {
        match self {
            Self::P256 { x, y } | Self::P384 { x, y } => DecodingKey::from_ec_components(x, y),
            Self::Ed25519 { x } => DecodingKey::from_ed_components(x),
            Self::Rsa { n, e } => DecodingKey::from_rsa_components(n, e),
        }
        .ok()
    }
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<&'a str, BadJwk> {
    jwk.get(name).and_then(Value::as_str).ok_or(BadJwk::Malformed)
}

/// A coordinate of exactly `bytes` bytes (RFC 7518 §6.2.1.2).
fn coordinate(jwk: &Map<String, Value>, name: &str, bytes: usize) -> Result<String, BadJwk> {
    let text = text(jwk, name)?;
    match base64url::decode(text) {
        Some(decoded) if decoded.len() == bytes => Ok(text.to_owned()),
        _ => Err(BadJwk::Malformed),
    }
}

fn elliptic(jwk: &Map<String, Value>) -> Result<Material, BadJwk> {
    match text(jwk, "crv")? {
        "P-256" => {
            let (x, y) = (coordinate(jwk, "x", 32)?, coordinate(jwk, "y", 32)?);
            if !on_p256(&x, &y) {
                return Err(BadJwk::Malformed);
            }
            Ok(Material::P256 { x, y })
        }
        // A point that is not on P-384 is refused during verification: no signature is valid under it.
        "P-384" => Ok(Material::P384 { x: coordinate(jwk, "x", 48)?, y: coordinate(jwk, "y", 48)? }),
        _ => Err(BadJwk::Unsupported),
    }
}

/// RFC 8725 §3.4: a point that is not on the curve is refused.
fn on_p256(x: &str, y: &str) -> bool {
    let (Some(x), Some(y)) = (base64url::decode(x), base64url::decode(y)) else { return false };
    let sec1: Vec<u8> = std::iter::once(4).chain(x).chain(y).collect();
    p256::PublicKey::from_sec1_bytes(&sec1).is_ok()
}

fn octet_pair(jwk: &Map<String, Value>) -> Result<Material, BadJwk> {
    match text(jwk, "crv")? {
        "Ed25519" => {
            let x = coordinate(jwk, "x", 32)?;
            if !is_sound_ed25519(&x) {
                return Err(BadJwk::Malformed);
            }
            Ok(Material::Ed25519 { x })
        }
        _ => Err(BadJwk::Unsupported),
    }
}

/// Checks that a point on the curve is in canonical encoding (RFC 8032 §5.1.3) and not of small order. Under a point
/// of small order, a signature can be made without the private key.
fn is_sound_ed25519(x: &str) -> bool {
    let encoded = base64url::decode(x).and_then(|bytes| CompressedEdwardsY::from_slice(&bytes).ok());
    let Some((encoded, point)) = encoded.and_then(|encoded| Some((encoded, encoded.decompress()?))) else {
        return false;
    };
    !point.is_small_order() && point.compress() == encoded
}

/// RSA of 2048 to 4096 bits (RFC 7518 §3.3). The upper bound limits the computation that a client can cause. Only the
/// shortest encoding is accepted, else one key would have many thumbprints (RFC 7638 §7).
fn rsa(jwk: &Map<String, Value>) -> Result<Material, BadJwk> {
    let (n, e) = (text(jwk, "n")?, text(jwk, "e")?);
    let modulus = base64url::decode(n).ok_or(BadJwk::Malformed)?;
    let exponent = base64url::decode(e).ok_or(BadJwk::Malformed)?;
    let minimal = |bytes: &[u8]| bytes.first().is_some_and(|first| *first != 0);
    if !minimal(&modulus) || !minimal(&exponent) {
        return Err(BadJwk::Malformed);
    }
    let odd = exponent.last().is_some_and(|last| last % 2 == 1);
    let sane_exponent = odd && exponent.len() <= 4 && exponent != [1];
    if !(256..=512).contains(&modulus.len()) || !sane_exponent {
        return Err(BadJwk::Unsupported);
    }
    Ok(Material::Rsa { n: n.to_owned(), e: e.to_owned() })
}

/// `use` and `key_ops`, if present, must allow verification (RFC 7517 §4.2, §4.3).
fn may_verify(jwk: &Map<String, Value>) -> bool {
    let used = jwk.get("use").is_none_or(|used| used == "sig");
    let operations = jwk.get("key_ops").is_none_or(|operations| {
        operations.as_array().is_some_and(|list| list.iter().any(|operation| operation == "verify"))
    });
    used && operations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    fn read(value: Value) -> Result<PublicKey, BadJwk> {
        PublicKey::from_jwk(value.as_object().unwrap())
    }

    fn tk2() -> Value {
        json!({"kty":"EC","crv":"P-256","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
               "y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"})
    }

    /// The modulus of RFC 7638 §3.1.
    fn rsa_n() -> Value {
        let cases = vectors::cases(include_str!("../../vectors/jwk-thumbprints.json"));
        cases.iter().find_map(|case| case["jwk"].get("n").cloned()).unwrap()
    }

    #[test]
    fn thumbprints_match_the_published_vectors() {
        for case in vectors::cases(include_str!("../../vectors/jwk-thumbprints.json")) {
            let key = read(case["jwk"].clone()).unwrap();
            assert_eq!(key.thumbprint(), case["thumbprint"], "{}", case["name"]);
        }
    }

    #[test]
    fn private_and_symmetric_keys_are_refused() {
        for name in SECRET_MEMBERS {
            let mut jwk = tk2();
            jwk[name] = json!("AQ");
            assert_eq!(read(jwk).unwrap_err(), BadJwk::Private, "{name}");
        }
        assert_eq!(read(json!({"kty":"oct"})).unwrap_err(), BadJwk::Private);
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let mut jwk = tk2();
        jwk["y"] = jwk["x"].clone();
        assert_eq!(read(jwk).unwrap_err(), BadJwk::Malformed);
    }

    #[test]
    fn ed25519_points_of_small_order_and_of_odd_encodings_are_refused() {
        for case in vectors::cases(include_str!("../../vectors/ed25519-points-refused.json")) {
            assert_eq!(read(case["jwk"].clone()).unwrap_err(), BadJwk::Malformed, "{}", case["name"]);
        }
    }

    #[test]
    fn only_canonical_sizes_and_encodings_are_read() {
        let mut short = tk2();
        short["x"] = json!(base64url::encode([7; 31]));
        assert_eq!(read(short).unwrap_err(), BadJwk::Malformed);
        assert!(read(json!({"kty":"RSA","n":rsa_n(),"e":"AAEAAQ"})).is_err());
        assert!(read(json!({"kty":"RSA","n":base64url::encode([200; 128]),"e":"AQAB"})).is_err());
        assert!(read(json!({"kty":"RSA","n":base64url::encode([200; 513]),"e":"AQAB"})).is_err());
    }

    #[test]
    fn keys_that_never_sign_are_refused() {
        assert!(read(json!({"kty":"OKP","crv":"X25519","x":base64url::encode([1; 32])})).is_err());
        let mut encryption = tk2();
        encryption["use"] = json!("enc");
        assert_eq!(read(encryption).unwrap_err(), BadJwk::Unsupported);
    }

    #[test]
    fn one_key_verifies_one_algorithm() {
        let rsa = read(json!({"kty":"RSA","n":rsa_n(),"e":"AQAB","alg":"RS256"})).unwrap();
        assert!(rsa.allows(Alg::RS256) && !rsa.allows(Alg::PS256) && !rsa.allows(Alg::ES256));
        let mut mismatched = tk2();
        mismatched["alg"] = json!("RS256");
        assert!(read(mismatched).is_err());
    }
}
