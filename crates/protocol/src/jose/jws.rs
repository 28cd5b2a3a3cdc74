//! Compact JWS with a JSON payload (RFC 7515 §3.1, RFC 7519). Parsing is strict and comes before any use of the
//! content.

use serde_json::{Map, Value};

use super::{Alg, PublicKey};
use crate::{base64url, json};

/// Longest token that is parsed, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The members of a JOSE header (RFC 7515 §4.1) that this server reads.
#[derive(Debug, Clone)]
pub struct Header {
    /// The algorithm as written; it may be unsupported.
    pub alg: String,
    /// The media type of the token.
    pub typ: Option<String>,
    /// The id of the signing key: only a hint.
    pub kid: Option<String>,
    /// The key in the header, if any; only DPoP proofs may use it.
    pub jwk: Option<Map<String, Value>>,
}

/// A well-formed JWS whose signature has **not** been checked.
#[derive(Debug, Clone)]
pub struct Jws<'a> {
    /// Unauthenticated until [`Jws::verified_by`] returns true.
    pub header: Header,
    /// The payload, unauthenticated until [`Jws::verified_by`] returns true.
    pub claims: Map<String, Value>,
    signing_input: &'a str,
    signature: &'a str,
}

impl<'a> Jws<'a> {
    /// Parses the compact serialization. `None` for wrong characters, for a number of dots other than two, and for a
    /// token that is too long. Also for a header or payload that is not one JSON object with unique names, and for a
    /// header member of the wrong type. `crit` and `b64` are refused because no extension is supported (RFC 7515
    /// §4.1.11, RFC 7797 §7).
    pub fn parse(token: &'a str) -> Option<Self> {
        Self::parse_within(token, MAX_TOKEN_BYTES)
    }

    /// As [`Jws::parse`], for documents that may be longer than tokens, such as status lists.
    pub fn parse_within(token: &'a str, max_bytes: usize) -> Option<Self> {
        if token.len() > max_bytes {
            return None;
        }
        let (signing_input, signature) = token.rsplit_once('.')?;
        let (header, payload) = signing_input.split_once('.')?;
        if payload.contains('.') {
            return None;
        }
        let header = json::parse_object(&base64url::decode(header)?)?;
        let claims = json::parse_object(&base64url::decode(payload)?)?;
        base64url::decode(signature)?;
        Some(Self { header: Header::read(&header)?, claims, signing_input, signature })
    }

    /// Verifies the signature with this key. The algorithm must be in `allowed` and fit the key.
    pub fn verified_by(&self, key: &PublicKey, allowed: &[Alg]) -> bool {
        let Some(alg) = Alg::parse(&self.header.alg) else { return false };
        if !allowed.contains(&alg) || !key.allows(alg) || !self.has_length_for(alg) {
            return false;
        }
        let input = self.signing_input.as_bytes();
        jsonwebtoken::crypto::verify(self.signature, input, key.decoding(), alg.backend()).unwrap_or(false)
    }

    /// The signed part. Unlike the whole token, it has only one spelling: ECDSA signatures are malleable.
    pub fn signing_input(&self) -> &'a str {
        self.signing_input
    }

    /// The claim, if it is a string.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str)
    }

    fn has_length_for(&self, alg: Alg) -> bool {
        alg.signature_bytes().is_none_or(|bytes| self.signature.len() == (bytes * 4).div_ceil(3))
    }
}

/// Whether a text begins with the header of a JWS, whatever follows. An encrypted token has `enc` in its header.
pub fn begins_as_jws(token: &str) -> bool {
    let first = token.trim_start().split('.').next().and_then(base64url::decode);
    let header = first.and_then(|bytes| json::parse_object(&bytes));
    header.is_some_and(|header| header.contains_key("alg") && !header.contains_key("enc"))
}

impl Header {
    fn read(header: &Map<String, Value>) -> Option<Self> {
        if header.contains_key("crit") || header.contains_key("b64") {
            return None;
        }
        let text = |name: &str| match header.get(name) {
            None => Some(None),
            Some(value) => value.as_str().map(|text| Some(text.to_owned())),
        };
        let jwk = match header.get("jwk") {
            None => None,
            Some(value) => Some(value.as_object()?.clone()),
        };
        Some(Self { alg: text("alg")??, typ: text("typ")?, kid: text("kid")?, jwk })
    }

    /// Whether `typ` is this media type, with or without the `application/` prefix, ignoring case (RFC 7515 §4.1.9,
    /// RFC 9068 §4).
    pub fn is_typed(&self, expected: &str) -> bool {
        self.typ.as_deref().is_some_and(|typ| {
            let typ = typ.to_ascii_lowercase();
            typ.strip_prefix("application/").unwrap_or(&typ) == expected
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::LazyLock;

    /// RFC 8037 appendix A.4.
    const SIGNED_TEXT: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    /// A DPoP proof under the key of RFC 8037 appendix A.1.
    static PROOF: LazyLock<String> = LazyLock::new(|| {
        let proofs = vectors::cases(include_str!("../../vectors/dpop-proofs.json"));
        let own = proofs.iter().find(|case| case["jkt"] == tk1().thumbprint()).unwrap();
        vectors::text(own, "proof").to_owned()
    });

    fn tk1() -> PublicKey {
        let jwk = json!({"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        PublicKey::from_jwk(jwk.as_object().unwrap()).unwrap()
    }

    #[test]
    fn an_ed25519_signature_verifies_and_a_flipped_bit_does_not() {
        let jws = Jws::parse(&PROOF).unwrap();
        assert!(jws.verified_by(&tk1(), &[Alg::EdDSA]));
        assert!(!jws.verified_by(&tk1(), &[Alg::ES256]), "an algorithm that is not allowed");
        let flipped = PROOF.replace(".Qu2m", ".Qu3m");
        assert!(!Jws::parse(&flipped).unwrap().verified_by(&tk1(), &[Alg::EdDSA]));
    }

    #[test]
    fn only_compact_json_objects_are_read() {
        assert!(Jws::parse(SIGNED_TEXT).is_none(), "the payload is not JSON");
        let part = |text: &str| base64url::encode(text);
        let token = |header: &str, claims: &str| format!("{}.{}.AAAA", part(header), part(claims));
        assert!(Jws::parse(&token(r#"{"alg":"ES256"}"#, "{}")).is_some());
        for (header, claims) in [
            ("[]", "{}"),
            (r#""x""#, "{}"),
            (r#"{"alg":"ES256"}"#, "[]"),
            (r#"{}"#, "{}"),
            (r#"{"alg":1}"#, "{}"),
            (r#"{"alg":"none","alg":"EdDSA"}"#, "{}"),
            (r#"{"alg":"ES256","crit":[]}"#, "{}"),
            (r#"{"alg":"ES256","crit":["alg"]}"#, "{}"),
            (r#"{"alg":"ES256","crit":"b64"}"#, "{}"),
            (r#"{"alg":"ES256","b64":true}"#, "{}"),
            (r#"{"alg":"ES256","jwk":"x"}"#, "{}"),
            (r#"{"alg":"ES256"}"#, r#"{"sub":"a","sub":"b"}"#),
        ] {
            assert!(Jws::parse(&token(header, claims)).is_none(), "{header} {claims}");
        }
        for text in ["", ".", "..", "a.b", "a.b.c.d", r#"{"payload":""}"#, "YQ.YQ.YQ, YQ.YQ.YQ"] {
            assert!(Jws::parse(text).is_none(), "{text}");
        }
        let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let token = format!("{}.{}.AAAA", part(r#"{"alg":"ES256"}"#), base64url::encode(utf16));
        assert!(Jws::parse(&token).is_none(), "RFC 8725 §3.7");
    }

    #[test]
    fn a_der_signature_is_refused() {
        let (key, _) = super::super::SigningKey::generate(super::super::SigningAlg::ES256).unwrap();
        let token = key.sign("at+jwt", &json!({"sub": "a"})).unwrap();
        let (input, signature) = token.rsplit_once('.').unwrap();
        let raw = base64url::decode(signature).unwrap();
        let number = |bytes: &[u8]| [&[0x02, 33, 0][..], bytes].concat();
        let body = [number(&raw[..32]), number(&raw[32..])].concat();
        let der = [&[0x30, u8::try_from(body.len()).unwrap()][..], &body].concat();
        for (signature, good) in
            [(raw.clone(), true), (der, false), (raw[..63].to_vec(), false), (Vec::new(), false)]
        {
            let token = format!("{input}.{}", base64url::encode(signature));
            let jws = Jws::parse(&token).unwrap();
            assert_eq!(jws.verified_by(key.public(), &Alg::ALL), good);
        }
    }

    #[test]
    fn a_mac_under_the_public_key_is_refused() {
        let header = base64url::encode(json!({"alg": "HS256", "typ": "at+jwt"}).to_string());
        let input = format!("{header}.{}", base64url::encode("{}"));
        let public = base64url::decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let mac = crate::digest::MacKey::new(&public.try_into().unwrap()).mac(input.as_bytes());
        let token = format!("{input}.{}", base64url::encode(mac));
        assert!(!Jws::parse(&token).unwrap().verified_by(&tk1(), &Alg::ALL));
    }

    #[test]
    fn types_compare_as_media_types() {
        let typed = |typ: &str| Header { alg: "ES256".into(), typ: Some(typ.into()), kid: None, jwk: None };
        assert!(typed("at+jwt").is_typed("at+jwt"));
        assert!(typed("application/at+JWT").is_typed("at+jwt"));
        assert!(!typed("JWT").is_typed("at+jwt") && !typed("text/at+jwt").is_typed("at+jwt"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let _ = Jws::parse(&text);
        }

        #[test]
        fn any_changed_character_is_noticed(at in 0..PROOF.len(), to in "[A-Za-z0-9_-]") {
            let mut changed = PROOF.clone();
            changed.replace_range(at..=at, &to);
            let same = changed == *PROOF;
            let verified = Jws::parse(&changed).is_some_and(|jws| jws.verified_by(&tk1(), &[Alg::EdDSA]));
            prop_assert_eq!(verified, same);
        }
    }
}
