//! JWT client authentication (RFC 7523 §3 as updated by RFC 10070 §4). The audience must be one accepted audience only:
//! this server's issuer identifier, unless the server makes an exception for the client.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::dpop::replay_id;
use super::token_problem::TokenProblem;
use super::{jwt_key, jwt_time};
use crate::jose::{Alg, Jws, PublicKey};

/// How far in the future `exp` of an assertion may be.
const MAX_LIFE: Duration = Duration::minutes(5);
const MAX_JTI_BYTES: usize = 256;

/// The media type in the `typ` header (RFC 10070 §4).
pub const TYP: &str = "client-authentication+jwt";

/// The claims of an assertion of this server as a client of another server, valid for a minute. `jti` must not repeat.
pub fn claims(client_id: &str, audience: &str, jti: &str, now: OffsetDateTime) -> Value {
    let iat = now.unix_timestamp();
    json!({"iss": client_id, "sub": client_id, "aud": audience, "jti": jti, "iat": iat, "exp": iat + 60})
}

/// A well-formed assertion whose `iss` and `sub` agree and whose signature has **not** been checked.
#[derive(Debug)]
pub struct PresentedAssertion<'a> {
    /// The client that the assertion names in `iss` and `sub`.
    pub client_id: String,
    jws: Jws<'a>,
}

/// A verified assertion of a client.
#[derive(Debug, Clone)]
pub struct VerifiedAssertion {
    /// Replay-cache key for this assertion.
    pub replay_id: [u8; 16],
    /// Time after which the replay-cache entry may be deleted.
    pub expires_at: OffsetDateTime,
    /// Thumbprint of the key that signed the assertion.
    pub key: String,
    /// The accepted audience that the assertion names.
    pub audience: String,
}

/// Parses an assertion, so that the caller can find the keys of the client.
///
/// # Errors
/// [`TokenProblem::Malformed`], [`TokenProblem::Claims`] or [`TokenProblem::ClientMismatch`].
pub fn read(assertion: &str) -> Result<PresentedAssertion<'_>, TokenProblem> {
    let jws = Jws::parse(assertion).ok_or(TokenProblem::Malformed)?;
    let client_id = jws.text("sub").ok_or(TokenProblem::Claims)?.to_owned();
    if jws.text("iss") != Some(&client_id) {
        return Err(TokenProblem::ClientMismatch);
    }
    Ok(PresentedAssertion { client_id, jws })
}

impl PresentedAssertion<'_> {
    /// The `kid` of the header.
    pub fn kid(&self) -> Option<&str> {
        self.jws.header.kid.as_deref()
    }

    /// Checks audience, type, times and signature against the client's keys.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(
        &self,
        keys: &[PublicKey],
        accepted: &[&str],
        now: OffsetDateTime,
    ) -> Result<VerifiedAssertion, TokenProblem> {
        let audience = accepted.iter().find(|one| self.is_for(one)).ok_or(TokenProblem::Audience)?;
        if !self.is_of_right_type() {
            return Err(TokenProblem::WrongKind);
        }
        let validity = jwt_time::validity(&self.jws.claims).ok_or(TokenProblem::Claims)?;
        validity.check(now)?;
        if validity.expires_at > now + MAX_LIFE + jwt_time::SKEW {
            return Err(TokenProblem::LifetimeTooLong);
        }
        let jti = self.jws.text("jti").filter(|jti| !jti.is_empty() && jti.len() <= MAX_JTI_BYTES);
        let jti = jti.ok_or(TokenProblem::Claims)?;
        let key = jwt_key::signer(&self.jws, keys, &Alg::ALL)?;
        Ok(VerifiedAssertion {
            key: key.thumbprint().to_owned(),
            audience: (*audience).to_owned(),
            replay_id: replay_id(&[b"assertion", self.client_id.as_bytes(), jti.as_bytes()]),
            expires_at: validity.expires_at,
        })
    }

    /// `aud` is the audience as a string, or an array of only that (simple string comparison, RFC 3986 §6.2.1).
    fn is_for(&self, audience: &str) -> bool {
        match self.jws.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(list)) => list.len() == 1 && list.first().is_some_and(|one| one == audience),
            _ => false,
        }
    }

    /// `typ` is absent, `JWT` or the type of client assertions; never the type of another kind of token.
    fn is_of_right_type(&self) -> bool {
        let header = &self.jws.header;
        header.typ.is_none() || header.is_typed("jwt") || header.is_typed(TYP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::{SigningAlg, SigningKey};
    use crate::vectors;
    use serde_json::json;

    const ISSUER: &str = "https://as.example.com";

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    #[test]
    fn a_signed_assertion_verifies_for_its_issuer_and_time_alone() {
        for case in vectors::cases(include_str!("../vectors/client-assertions.json")) {
            let jwks = case["keys"].as_array().unwrap().iter();
            let keys: Vec<_> =
                jwks.map(|jwk| PublicKey::from_jwk(jwk.as_object().unwrap()).unwrap()).collect();
            let assertion = read(vectors::text(&case, "assertion")).unwrap();
            assert_eq!(assertion.client_id, case["client_id"]);
            let now = at(case["now"].as_i64().unwrap());
            let problem = assertion.verify(&keys, &[vectors::text(&case, "issuer")], now).err();
            assert_eq!(problem.map(TokenProblem::name), case["refused"].as_str(), "{}", case["name"]);
        }
    }

    fn accepted(typ: &str, change: impl FnOnce(&mut Value)) -> bool {
        let (key, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
        let mut claims = json!({"iss": "c", "sub": "c", "aud": ISSUER, "jti": "1", "iat": 1000, "exp": 1060});
        change(&mut claims);
        let token = key.sign(typ, &claims).unwrap();
        read(&token).is_ok_and(|read| read.verify(&[key.public().clone()], &[ISSUER], at(1000)).is_ok())
    }

    #[test]
    fn the_audience_is_the_issuer_alone() {
        assert!(accepted("JWT", |_| {}));
        assert!(accepted("JWT", |claims| claims["aud"] = json!([ISSUER])));
        for aud in [
            json!([ISSUER, "x"]),
            json!([ISSUER, ISSUER]),
            json!([]),
            json!("https://as.example.com/oauth/token"),
            json!("https://as.example.com/"),
            json!("https://AS.example.com"),
            json!(null),
        ] {
            assert!(!accepted("JWT", |claims| claims["aud"] = aud.clone()), "{aud}");
        }
    }

    #[test]
    fn an_assertion_needs_its_claims_and_a_short_lifetime() {
        for name in ["iss", "sub", "aud", "exp", "jti"] {
            assert!(!accepted("JWT", |claims| drop(claims.as_object_mut().unwrap().remove(name))), "{name}");
        }
        assert!(!accepted("JWT", |claims| claims["iss"] = json!("other")), "RFC 7523 §3");
        assert!(!accepted("JWT", |claims| claims["exp"] = json!(1000)));
        assert!(!accepted("JWT", |claims| claims["exp"] = json!(1000 + 3600)));
        assert!(!accepted("JWT", |claims| claims["nbf"] = json!(1011)));
        assert!(accepted("JWT", |claims| claims["nbf"] = json!(1010)), "FAPI 2.0 Security Profile §5.3.2.1");
        // RFC 7519 §2: a NumericDate may have a fraction or an exponent.
        assert!(accepted("JWT", |claims| claims["iat"] = json!(999.5)));
        assert!(accepted("JWT", |claims| claims["exp"] = json!(1.06e3)));
    }

    #[test]
    fn other_kinds_of_token_are_no_assertions() {
        assert!(accepted("client-authentication+jwt", |_| {}));
        for typ in ["at+jwt", "dpop+jwt", "statuslist+jwt", "token-introspection+jwt", "secevent+jwt"] {
            assert!(!accepted(typ, |_| {}), "{typ}");
        }
    }
}
