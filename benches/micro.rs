//! The cost of the parts of one exchange: proof check, token verification, decision, and an append to the Merkle tree.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;

use actchain::domain::authority::{DecisionInput, decide};
use actchain::domain::capability::CapabilityLevels;
use actchain::domain::client::{
    AssertionAudience, AuthMethod, Client, ClientKind, DpopPolicy, GrantType, TokenBinding,
};
use actchain::domain::delegation::{
    Delegation, DelegationLimits, DelegationPath, DelegationRecord, Provenance,
};
use actchain::domain::limit::Limit;
use actchain::domain::principal::Principal;
use actchain::domain::registry::Registry;
use actchain::domain::resource::Resource;
use actchain::domain::subject::{TokenSource, VerifiedSubject};
use actchain::platform::clock::from_seconds;
use actchain_protocol::access_token::{Act, AuthenticationContext, Confirmation};
use actchain_protocol::dpop::{self, Expected};
use actchain_protocol::jose::{Alg, Jws, SigningAlg, SigningKey};
use actchain_protocol::jwt_time::Validity;
use actchain_protocol::merkle::{Frontier, leaf};
use actchain_protocol::status_list::{SIZE, Status, StatusList};
use actchain_protocol::token_exchange::RequestedAccess;
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;
use time::{Duration, OffsetDateTime};

const ISSUER: &str = "https://as.example.com";
const MAIL: &str = "https://mail.example.com";

fn now() -> OffsetDateTime {
    from_seconds(1_767_225_600).unwrap()
}

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

fn client() -> Client {
    Client {
        client_id: "email-svc".into(),
        version: 1,
        kind: ClientKind::Agent,
        name: "E-mail".into(),
        auth: AuthMethod::PrivateKeyJwt,
        secrets: Vec::new(),
        declared_secret: None,
        jwks: None,
        keys: Vec::new(),
        jwks_uri: None,
        scopes: BTreeSet::from(["mail.read".into(), "mail.send".into()]),
        audiences: BTreeSet::from([MAIL.into()]),
        detail_types: BTreeSet::new(),
        grant_types: BTreeSet::from([GrantType::TokenExchange]),
        dpop: DpopPolicy::Required,
        token_type: TokenBinding::Dpop,
        assertion_audience: AssertionAudience::Issuer,
        dpop_keys: BTreeSet::new(),
        dpop_restricted: false,
        removed_keys: BTreeSet::new(),
        actor_subjects: Vec::new(),
        max_token_ttl: None,
        disabled_at: None,
        ephemeral: None,
    }
}

fn delegation(id: &str, path: &[&str], delegate: &str) -> Delegation {
    let alice = Principal::new("https://idp.example.com", "alice");
    Delegation {
        id: id.into(),
        path: path.iter().map(|id| (*id).to_owned()).collect(),
        parent: path.iter().rev().nth(1).map(|id| (*id).to_owned()),
        root: alice.clone(),
        delegator: alice,
        delegate: delegate.into(),
        terms: DelegationLimits {
            scopes: Limit::only(["mail.read"]),
            max_depth: Some(3),
            ..DelegationLimits::unrestricted()
        },
        requested_by: None,
        requested_ttl: None,
        reason: None,
        agent: None,
        origin: Provenance::Declared,
        requested_at: now(),
        facts: DelegationRecord {
            activated_at: Some(now()),
            expires_at: now() + Duration::hours(1),
            revoked_at: None,
            principal_revoked_at: None,
            key_rotating: false,
            suspended_at: None,
            standing_grant_suspended_at: None,
            max_uses: None,
            uses: 0,
            used_up_at: None,
            exhausted_at: None,
        },
        revoke_reason: None,
        pending_jwk: None,
        standing_grant_id: None,
    }
}

fn decision(criterion: &mut Criterion) {
    let resource = Resource {
        id: MAIL.into(),
        scopes: BTreeSet::from(["mail.read".into(), "mail.send".into()]),
        detail_types: BTreeSet::new(),
        token_ttl: Some(300),
    };
    let registry =
        Registry { resources: BTreeMap::from([(MAIL.to_owned(), resource)]), ..Registry::default() };
    let subject = VerifiedSubject {
        subject: Principal::new("https://idp.example.com", "alice"),
        source: TokenSource::Local { jti: "j".into(), txn: "t".into(), dlg: Some("D".into()) },
        act: Some(Act {
            sub: "user-proxy".into(),
            iss: ISSUER.into(),
            cnf: Some(Confirmation { jkt: "k".into() }),
            act: None,
        }),
        jkt: Some("k".into()),
        scopes: Limit::only(["mail.read", "mail.send"]),
        audiences: Limit::only([MAIL]),
        details: None,
        capability: None,
        validity: Validity {
            expires_at: now() + Duration::minutes(5),
            not_before: None,
            issued_at: Some(now()),
        },
        sid: None,
        login: AuthenticationContext::default(),
    };
    let (client, wanted) = (client(), RequestedAccess::default());
    let capability_levels = CapabilityLevels::new(&["observe".into(), "admin".into()]).unwrap();
    let paths = [DelegationPath(vec![
        delegation("D", &["D"], "user-proxy"),
        delegation("E", &["D", "E"], "email-svc"),
    ])];
    criterion.bench_function("decide a second hop", |bencher| {
        bencher.iter(|| {
            decide(black_box(&DecisionInput {
                now: now(),
                issuer: ISSUER,
                client: &client,
                jkt: Some("k2"),
                subject: &subject,
                actor_expires_at: None,
                paths: &paths,
                named: None,
                registry: &registry,
                wanted: &wanted,
                capability_levels: &capability_levels,
                max_ttl: Duration::minutes(15),
                max_delegation_ttl: Duration::hours(1),
                max_depth: 5,
            }))
            .unwrap()
        });
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
