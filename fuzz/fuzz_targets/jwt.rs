//! Tokens of clients, users and strangers: whatever is presented, it is read or refused.
#![no_main]

use actchain::platform::clock::from_seconds;
use actchain_protocol::jose::Jws;
use actchain_protocol::trusted_issuer_jwt::ClaimPolicy;
use actchain_protocol::{access_token, client_assertion, trusted_issuer_jwt, jwt_time};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|token: &str| {
    let Some(jws) = Jws::parse(token) else { return };
    let now = from_seconds(1_767_225_600).expect("an instant");
    let _ = trusted_issuer_jwt::read(&jws.claims, &ClaimPolicy::default(), now);
    let _ = client_assertion::read(token);
    let _ = access_token::audience(&jws.claims);
    if let Some(validity) = jwt_time::validity(&jws.claims) {
        assert!(!validity.is_valid_at(validity.expires_at), "nothing is valid after its end");
    }
    if let Some(claims) = access_token::read_claims(&jws.claims) {
        let written = serde_json::to_value(&claims).expect("claims are written");
        let members = written.as_object().expect("claims are an object");
        assert!(access_token::read_claims(members).is_some(), "what was read is read again");
    }
});
