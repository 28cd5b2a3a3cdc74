//! Checks that several kinds of manifest entries share.

use serde_json::Value;

use crate::domain::client;
use crate::platform::outbound::Outbound;
use crate::platform::yaml::{InvalidDeclaration, Place};
use actchain_protocol::jose::{BadJwk, PublicKey};

/// A lifetime of at least one second that fits the database column.
pub(super) fn check_ttl(place: &Place, member: &str, ttl: Option<u32>) -> Result<(), InvalidDeclaration> {
    match ttl {
        Some(0) => Err(place.fault(member, format!("{member} must not be 0"))),
        Some(ttl) if i32::try_from(ttl).is_err() => Err(place.fault(member, format!("{member} is too long"))),
        _ => Ok(()),
    }
}

/// Exactly one of `jwks`, which needs a usable key, and `jwks_uri`, which must be an allowed address.
pub(super) fn check_keys(
    place: &Place,
    jwks: Option<&Value>,
    jwks_uri: Option<&str>,
    outbound: &Outbound,
) -> Result<(), InvalidDeclaration> {
    match (jwks, jwks_uri) {
        (Some(_), Some(_)) => Err(place.fault("jwks_uri", "jwks and jwks_uri exclude each other")),
        (None, None) => Err(place.whole("jwks or jwks_uri is needed")),
        (Some(set), None) => check_set(set).map_err(|why| place.fault("jwks", why)),
        (None, Some(url)) if outbound.may_fetch(url) => Ok(()),
        (None, Some(_)) => {
            Err(place
                .fault("jwks_uri", "jwks_uri must be https, at a public address or one of outbound.allow"))
        }
    }
}

fn check_set(set: &Value) -> Result<(), String> {
    let Some(keys) = client::usable_keys(set) else { return Err("jwks is not a JWK Set".to_owned()) };
    let listed = set.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, key) in listed.iter().enumerate() {
        let read = key.as_object().map(PublicKey::from_jwk);
        if matches!(read, Some(Err(BadJwk::Private))) {
            return Err(format!(
                "keys[{index}] is a private or symmetric key: write the public key only, and use another key"
            ));
        }
        // RFC 7517 §4.5: keys of one set use distinct `kid` values.
        let (kid, kty) = (key.get("kid"), key.get("kty"));
        let same = |other: &Value| kid.is_some() && other.get("kid") == kid && other.get("kty") == kty;
        if let Some(first) = listed.iter().take(index).position(same) {
            return Err(format!("keys[{first}] and keys[{index}] have the same kid"));
        }
    }
    if keys.is_empty() {
        let why = "jwks has no usable public key (ES256, ES384, Ed25519, RSA of 2048 bits and more)";
        return Err(why.to_owned());
    }
    Ok(())
}
