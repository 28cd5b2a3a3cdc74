//! DPoP proofs: claims and header members of all kinds under a good signature. What passes is for this very request.
#![no_main]

use std::sync::LazyLock;

use actchain::platform::clock::from_seconds;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use actchain_protocol::dpop::{self, Expected};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use time::Duration;

static KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::generate(SigningAlg::Ed25519).expect("a key").0);

fuzz_target!(|data: &[u8]| {
    let now = from_seconds(1_767_225_600).expect("an instant");
    let expected = Expected {
        method: "POST",
        target: "https://as.example.com/oauth/token",
        access_token: None,
        window: Duration::seconds(300),
        skew: Duration::seconds(10),
    };
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(dpop::verify(text, &expected, now).is_err(), "a proof without the key is never valid");
    }
    let Ok(claims) = serde_json::from_slice::<Value>(data) else { return };
    let Ok(proof) = KEY.sign_proof("dpop+jwt", &claims) else { return };
    if let Ok(verified) = dpop::verify(&proof, &expected, now) {
        assert_eq!(verified.jkt, KEY.public().thumbprint());
        assert_eq!(claims["htm"], "POST");
        assert!(verified.expires_at > now - Duration::seconds(1));
    }
});
