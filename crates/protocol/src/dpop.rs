//! Checks a DPoP proof in the order of RFC 9449 §4.3. Keeps no state: the ledger detects a replayed `jti`.

use time::{Duration, OffsetDateTime};

use super::{jwt_time, target_uri};
use crate::jose::{Alg, Jws, PublicKey};
use crate::{base64url, digest};

/// Longest accepted `jti`, in bytes.
const MAX_JTI_BYTES: usize = 256;

/// The request that the proof must match, and the allowed clock difference.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// Compared with `htm` exactly, upper and lower case included.
    pub method: &'a str,
    /// The normalised target URI, made from the configured issuer and never from `Host`.
    pub target: &'a str,
    /// Maximum age of a proof.
    pub window: Duration,
    /// How far `iat` may be in the future.
    pub skew: Duration,
    /// The access token that is sent with the proof, at a protected resource.
    pub access_token: Option<&'a str>,
}

/// A proof that passed every check that needs no stored state.
#[derive(Debug, Clone)]
pub struct VerifiedProof {
    /// Thumbprint of the key that signed the proof.
    pub jkt: String,
    /// The key itself, from the header of the proof.
    pub key: PublicKey,
    /// Replay-cache key for this proof: a digest of key, target and `jti`.
    pub replay_id: [u8; 16],
    /// Time after which the proof is refused as too old, so that the replay-cache entry may be deleted.
    pub expires_at: OffsetDateTime,
    /// The `nonce` claim, which the caller checks.
    pub nonce: Option<String>,
}

/// The step of RFC 9449 §4.3 that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadProof {
    /// Steps 2 to 5 and 7: not one well-formed JWT of the right type, with a usable public key and all claims.
    Malformed,
    /// Step 6: the signature does not fit the key in the header.
    Signature,
    /// Steps 8 and 9: made for another request.
    Target,
    /// Step 11: made too long ago, or in the future.
    Time,
    /// Step 12: made for another access token.
    AccessToken,
}

/// Checks a proof. The comments name the steps of RFC 9449 §4.3.
pub fn verify(proof: &str, expected: &Expected<'_>, now: OffsetDateTime) -> Result<VerifiedProof, BadProof> {
    // (2) one well-formed JWT; the code that reads headers checks (1), a single header field
    let jws = Jws::parse(proof).ok_or(BadProof::Malformed)?;
    // (3) all required claims, with the right types
    let text = |name: &str| jws.text(name).ok_or(BadProof::Malformed);
    let (jti, htm, htu) = (text("jti")?, text("htm")?, text("htu")?);
    let made_at = jws.claims.get("iat").and_then(jwt_time::numeric_date).ok_or(BadProof::Malformed)?;
    let nonce = optional_text(&jws, "nonce")?;
    if jti.is_empty() || jti.len() > MAX_JTI_BYTES {
        return Err(BadProof::Malformed);
    }
    // (4) `typ` is `dpop+jwt`
    if jws.header.typ.as_deref() != Some("dpop+jwt") {
        return Err(BadProof::Malformed);
    }
    // (5) an accepted asymmetric algorithm, (7) a key without private members
    Alg::parse(&jws.header.alg).ok_or(BadProof::Malformed)?;
    let jwk = jws.header.jwk.as_ref().ok_or(BadProof::Malformed)?;
    let key = PublicKey::from_jwk(jwk).map_err(|_| BadProof::Malformed)?;
    // (8), (9) made for this request; checked before the signature, because it is cheaper
    if htm != expected.method || target_uri::normalise(htu).as_deref() != Some(expected.target) {
        return Err(BadProof::Target);
    }
    // (11) made within the accepted time window
    let oldest = now - expected.window;
    if made_at < oldest || made_at > now + expected.skew {
        return Err(BadProof::Time);
    }
    // (12) made for this access token
    if let Some(token) = expected.access_token {
        let ath = base64url::encode(digest::sha256(&[token.as_bytes()]));
        if jws.text("ath") != Some(ath.as_str()) {
            return Err(BadProof::AccessToken);
        }
    }
    // (6) signed by the key in its header
    if !jws.verified_by(&key, &Alg::ALL) {
        return Err(BadProof::Signature);
    }
    let jkt = key.thumbprint().to_owned();
    Ok(VerifiedProof {
        replay_id: replay_id(&[b"dpop", jkt.as_bytes(), expected.target.as_bytes(), jti.as_bytes()]),
        expires_at: made_at + expected.window + expected.skew,
        jkt,
        key,
        nonce,
    })
}

/// Replay-cache key: a truncated SHA-256 of the parts. Each part is preceded by its length, so that different lists of
/// parts give different input.
pub fn replay_id(parts: &[&[u8]]) -> [u8; 16] {
    let lengths: Vec<[u8; 8]> = parts.iter().map(|part| (part.len() as u64).to_be_bytes()).collect();
    let framed: Vec<&[u8]> =
        lengths.iter().zip(parts).flat_map(|(length, part)| [length.as_slice(), *part]).collect();
    let digest = digest::sha256(&framed);
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().zip(digest) {
        *to = from;
    }
    short
}

fn optional_text(jws: &Jws<'_>, name: &str) -> Result<Option<String>, BadProof> {
    match jws.claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(|text| Some(text.to_owned())).ok_or(BadProof::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::{SigningAlg, SigningKey};
    use crate::vectors;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const TARGET: &str = "https://as.example.com/oauth/token";

    fn expected<'a>(method: &'a str, target: &'a str) -> Expected<'a> {
        let (window, skew) = (Duration::seconds(60), Duration::seconds(10));
        Expected { method, target, window, skew, access_token: None }
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    #[test]
    fn the_proofs_of_the_rfc_verify() {
        let names = [
            ("signature", BadProof::Signature),
            ("target", BadProof::Target),
            ("time", BadProof::Time),
            ("access_token", BadProof::AccessToken),
        ];
        for case in vectors::cases(include_str!("../vectors/dpop-proofs.json")) {
            let text = |name| vectors::text(&case, name);
            let expected = Expected {
                access_token: case["access_token"].as_str(),
                ..expected(text("method"), text("uri"))
            };
            let verified = verify(text("proof"), &expected, at(case["now"].as_i64().unwrap()));
            match case["refused"].as_str() {
                None => assert_eq!(verified.unwrap().jkt, case["jkt"], "{}", case["name"]),
                Some(refused) => {
                    let problem = names.into_iter().find(|(name, _)| *name == refused).unwrap().1;
                    assert_eq!(verified.unwrap_err(), problem, "{}", case["name"]);
                }
            }
        }
    }

    #[test]
    fn proofs_are_accepted_at_the_edges_of_the_window_and_not_outside() {
        let proof = signed(SigningAlg::ES256, |_| {});
        let check = |now| verify(&proof, &expected("POST", TARGET), at(now)).err();
        assert_eq!(check(1000 + 60), None);
        assert_eq!(check(1000 + 61), Some(BadProof::Time));
        assert_eq!(check(1000 - 10), None);
        assert_eq!(check(1000 - 11), Some(BadProof::Time));
    }

    #[test]
    fn iat_is_a_numeric_date_with_a_fraction_or_an_exponent() {
        for iat in [json!(1000.25), json!(1e3), json!(1009.75), json!(940.5)] {
            assert_eq!(
                refusal(&signed(SigningAlg::ES256, |claims| claims["iat"] = iat.clone())),
                None,
                "{iat}"
            );
        }
        for iat in [json!(1010.5), json!(939.75)] {
            let proof = signed(SigningAlg::ES256, |claims| claims["iat"] = iat.clone());
            assert_eq!(refusal(&proof), Some(BadProof::Time), "{iat}");
        }
        let proof = signed(SigningAlg::ES256, |claims| claims["iat"] = json!(1e300));
        assert_eq!(refusal(&proof), Some(BadProof::Malformed));
    }

    fn signed(alg: SigningAlg, change: impl FnOnce(&mut Value)) -> String {
        let (key, _) = SigningKey::generate(alg).unwrap();
        let mut claims = json!({"jti": "1", "htm": "POST", "htu": TARGET, "iat": 1000});
        change(&mut claims);
        key.sign_proof("dpop+jwt", &claims).unwrap()
    }

    fn refusal(proof: &str) -> Option<BadProof> {
        verify(proof, &expected("POST", TARGET), at(1000)).err()
    }

    #[test]
    fn every_claim_is_required_in_its_type() {
        for alg in [SigningAlg::ES256, SigningAlg::Ed25519, SigningAlg::RS256] {
            assert_eq!(refusal(&signed(alg, |_| {})), None, "{alg:?}");
        }
        let es256 = |change: fn(&mut Value)| refusal(&signed(SigningAlg::ES256, change));
        for change in [
            (|claims: &mut Value| drop(claims.as_object_mut().unwrap().remove("jti"))) as fn(&mut Value),
            |claims| drop(claims.as_object_mut().unwrap().remove("htm")),
            |claims| drop(claims.as_object_mut().unwrap().remove("htu")),
            |claims| drop(claims.as_object_mut().unwrap().remove("iat")),
            |claims| claims["iat"] = json!("1000"),
            |claims| claims["jti"] = json!(7),
            |claims| claims["jti"] = json!("x".repeat(257)),
            |claims| claims["nonce"] = json!(7),
        ] {
            assert_eq!(es256(change), Some(BadProof::Malformed));
        }
        assert_eq!(es256(|claims| claims["htm"] = json!("post")), Some(BadProof::Target), "RFC 9449 §4.3");
        assert_eq!(
            es256(|claims| claims["htu"] = json!("https://evil.example/")),
            Some(BadProof::Target),
            "RFC 9449 §4.3"
        );
        assert_eq!(es256(|claims| claims["htu"] = json!(format!("{TARGET}?x=1"))), None, "RFC 9449 §4.3");
    }

    #[test]
    fn type_and_algorithm_of_a_proof_are_fixed() {
        let (key, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
        let claims = json!({"jti": "1", "htm": "POST", "htu": TARGET, "iat": 1000});
        for typ in ["JWT", "at+jwt", "DPOP+JWT"] {
            assert_eq!(refusal(&key.sign_proof(typ, &claims).unwrap()), Some(BadProof::Malformed), "{typ}");
        }
        let good = key.sign_proof("dpop+jwt", &claims).unwrap();
        let rest = good.split_once('.').unwrap().1;
        for alg in ["none", "nOnE", "HS256", "es256"] {
            let header =
                base64url::encode(json!({"typ": "dpop+jwt", "alg": alg, "jwk": {"kty": "EC"}}).to_string());
            assert_eq!(refusal(&format!("{header}.{rest}")), Some(BadProof::Malformed), "{alg}");
        }
    }

    #[test]
    fn spent_ids_depend_on_key_target_and_jti_alone() {
        let proof = signed(SigningAlg::ES256, |_| {});
        let first = verify(&proof, &expected("POST", TARGET), at(1000)).unwrap();
        let later = verify(&proof, &expected("POST", TARGET), at(1030)).unwrap();
        assert_eq!(first.replay_id, later.replay_id);
        assert_ne!(replay_id(&[b"ab", b"c"]), replay_id(&[b"a", b"bc"]));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            prop_assert!(refusal(&text).is_some());
        }
    }
}
