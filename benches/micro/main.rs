//! The cost of the parts of one exchange: proof check, token verification, decision, and an append to the Merkle tree.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod second_hop;

use std::hint::black_box;

use self::second_hop::{ISSUER, SecondHop, now};
use actchain::domain::authority::decide;
use actchain_protocol::dpop::{self, Expected};
use actchain_protocol::jose::{Alg, Jws, SigningAlg, SigningKey};
use actchain_protocol::merkle::{Frontier, leaf};
use actchain_protocol::status_list::{SIZE, Status, StatusList};
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;
use time::Duration;

fn proof_and_token(criterion: &mut Criterion) {
    let (key, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let target = "https://as.example.com/oauth/token";
    let claims = json!({"jti": "1", "htm": "POST", "htu": target, "iat": now().unix_timestamp()});
    let proof = key.sign_proof("dpop+jwt", &claims).unwrap();
    let expected = Expected {
        method: "POST",
        target,
        window: Duration::seconds(60),
        skew: Duration::seconds(5),
        access_token: None,
    };
    criterion.bench_function("check a DPoP proof (ES256)", |bencher| {
        bencher.iter(|| dpop::verify(black_box(&proof), &expected, now()).unwrap());
    });
    let claims = json!({"iss": ISSUER, "sub": "alice", "scope": "mail.read"});
    criterion.bench_function("sign a token (ES256)", |bencher| {
        bencher.iter(|| key.sign("at+jwt", black_box(&claims)).unwrap());
    });
    let token = key.sign("at+jwt", &claims).unwrap();
    criterion.bench_function("verify a token (ES256)", |bencher| {
        bencher.iter(|| {
            assert!(Jws::parse(black_box(&token)).unwrap().verified_by(key.public(), &[Alg::ES256]))
        });
    });
}

fn decision(criterion: &mut Criterion) {
    let second_hop = SecondHop::new();
    criterion.bench_function("decide a second hop", |bencher| {
        bencher.iter(|| decide(black_box(&second_hop.input())).unwrap());
    });
}

fn merkle(criterion: &mut Criterion) {
    let document = "x".repeat(900);
    criterion.bench_function("append an event of 900 bytes to the tree", |bencher| {
        let mut tree = Frontier::default();
        bencher.iter(|| tree.push(leaf(black_box(document.as_bytes()))));
    });
}

/// A full status list, compressed: none revoked, one in a thousand, one in five (the slowest case), and half.
fn status_list(criterion: &mut Criterion) {
    for (name, every) in [("none", 0), ("1 in 1000", 1_000), ("1 in 5", 5), ("1 in 2", 2)] {
        let mut list = StatusList::new();
        let mut chance: u64 = 1;
        for index in 0..SIZE {
            // A linear congruential generator: the revoked tokens are spread at random.
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if every > 0 && (chance >> 33).is_multiple_of(every) {
                list.set(index, Status::Invalid);
            }
        }
        let bytes = list.compressed().unwrap().len();
        criterion.bench_function(
            &format!("compress a status list, {name} ended ({bytes} bytes)"),
            |bencher| {
                bencher.iter(|| black_box(&list).compressed());
            },
        );
    }
}

criterion_group!(parts, proof_and_token, decision, merkle, status_list);
criterion_main!(parts);
