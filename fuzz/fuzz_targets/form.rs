//! The strict reader of form bodies: no bytes make it panic, and what it read is read again when it is written down.
#![no_main]

use actchain::http::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Some(read) = fuzzing::form(body) {
        assert_eq!(fuzzing::form(&fuzzing::write_form(&read)), Some(read));
    }
});
