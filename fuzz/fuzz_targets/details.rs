//! `authorization_details` (RFC 9396): the meet of two is within both, and everything is within itself.
#![no_main]

use actchain_protocol::authorization_details::Details;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str)| {
    let Some(one) = Details::parse(texts.0) else { return };
    assert!(one.within(&one));
    let written = serde_json::to_string(&one).expect("details are written");
    assert!(Details::parse(&written).is_some_and(|again| again.within(&one) && one.within(&again)));
    let Some(other) = Details::parse(texts.1) else { return };
    let both = one.intersect(&other);
    assert!(both.within(&one) && both.within(&other), "narrowing never widens");
});
