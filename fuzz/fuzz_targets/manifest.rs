//! Manifests: parsed, or refused with a message that contains no value of them.
#![no_main]

use actchain::services::apply::read_all;
use libfuzzer_sys::fuzz_target;

const CANARY: &str = "canary-0123456789-canary";

fuzz_target!(|text: &str| {
    let _ = read_all(&[("fuzz.yaml".to_owned(), text.to_owned())]);
    let with_a_secret =
        format!("clients:\n  - {{id: a, kind: agent, auth: client_secret_basic, secret: {CANARY}}}\n{text}");
    if let Err(fault) = read_all(&[("fuzz.yaml".to_owned(), with_a_secret)]) {
        assert!(!fault.to_string().contains(CANARY), "a secret in a message");
    }
});
