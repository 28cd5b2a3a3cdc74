//! The instructions of the parts of an exchange that are the server's own code, compared with stored figures. They say
//! what a change costs on any machine, however busy. Signatures and the database are not in them.
//!
//! Each part runs in a process of its own under `valgrind --tool=callgrind`. Figures of another compiler or profile are
//! printed, and not compared. `BLESS=1` stores what was counted.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../micro/second_hop.rs"]
mod second_hop;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use self::second_hop::{ISSUER, MAIL, SecondHop, now};
use actchain::domain::audit::{Actor, ChainLink, Event, EventKind};
use actchain::domain::authority::decide;
use actchain::domain::person::LogNames;
use actchain::domain::principal::Principal;
use actchain_protocol::access_token::{Act, Audience, AuthenticationContext, Claims, Confirmation};
use actchain_protocol::base64url;
use actchain_protocol::jose::Jws;
use actchain_protocol::status_list::{Reference, StatusClaim};
use serde_json::{Value, json};
use uuid::Uuid;

/// Code that is counted each time it runs.
type Run = Box<dyn FnMut()>;

struct Part {
    name: &'static str,
    prepare: fn() -> Run,
}

const PARTS: [Part; 5] = [
    Part { name: "read a proof", prepare: read_a_proof },
    Part { name: "read a token", prepare: read_a_token },
    Part { name: "decide a second hop", prepare: decide_a_second_hop },
    Part { name: "write the claims", prepare: write_the_claims },
    Part { name: "write the event", prepare: write_the_event },
];

/// Runs that are counted together, so that no single one decides.
const RUNS: u64 = 100;
/// How much a count may differ from the stored one, in percent.
const TOLERANCE: f64 = 5.0;
const STORED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/stored.tsv");

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("part"), Some(name)) => {
            let part = PARTS.iter().find(|part| part.name == name).expect("a known part");
            let mut run = (part.prepare)();
            // What is prepared at the first use is not counted.
            run();
            counted(&mut run);
            ExitCode::SUCCESS
        }
        _ => compare(),
    }
}

/// Callgrind counts from the entry of this function to its exit.
#[inline(never)]
fn counted(run: &mut Run) {
    for _ in 0..RUNS {
        run();
    }
}

fn compare() -> ExitCode {
    let setting = setting();
    let stored = std::fs::read_to_string(STORED).unwrap_or_default();
    let mut lines = stored.lines();
    let of_setting = lines.next() == Some(&setting);
    let stored: BTreeMap<&str, u64> = lines
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, count)| (name, count.parse().unwrap()))
        .collect();
    let (mut now, mut all_within) = (format!("{setting}\n"), true);
    println!("{:<24}{:>12}{:>12}{:>9}", "instructions", "stored", "counted", "change");
    for Part { name, .. } in PARTS {
        let count = count(name);
        now.push_str(&format!("{name}\t{count}\n"));
        let change =
            stored.get(name).map_or(f64::INFINITY, |before| (count as f64 / *before as f64 - 1.0) * 100.0);
        let before = stored.get(name).map_or_else(|| "none".to_owned(), u64::to_string);
        all_within &= change.abs() <= TOLERANCE;
        println!("{name:<24}{before:>12}{count:>12}{change:>8.1}%");
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(STORED, now).expect("the figures are stored");
        println!("stored in {STORED}");
        return ExitCode::SUCCESS;
    }
    if !of_setting {
        println!("not compared: the stored figures are not of \"{setting}\"");
        return ExitCode::SUCCESS;
    }
    if !all_within {
        eprintln!(
            "a part costs {TOLERANCE} % more or less than stored; if that is right, store it: BLESS=1 make instructions"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What figures depend on: compiler, profile and target.
fn setting() -> String {
    let compiler = Command::new("rustc").arg("--version").output().expect("rustc runs");
    let compiler = String::from_utf8(compiler.stdout).expect("a version");
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    format!("{}, {profile}, {}", compiler.trim(), std::env::consts::ARCH)
}

/// Instructions of one run of a part.
fn count(name: &str) -> u64 {
    let own = std::env::current_exe().expect("this program");
    let counted = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=instructions::counted*",
        ])
        .arg(own)
        .args(["part", name])
        .output()
        .expect("valgrind runs");
    let report = String::from_utf8_lossy(&counted.stderr);
    let total =
        report.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, total)| total.trim());
    let total: u64 =
        total.and_then(|total| total.parse().ok()).unwrap_or_else(|| panic!("callgrind said: {report}"));
    assert!(counted.status.success() && total > 0, "nothing was counted: {report}");
    total / RUNS
}

fn read_a_proof() -> Run {
    let coordinate = thumbprint();
    let key = json!({"kty": "EC", "crv": "P-256", "x": coordinate, "y": coordinate});
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": key});
    let claims = json!({
        "jti": id(7),
        "htm": "POST",
        "htu": format!("{ISSUER}/oauth/token"),
        "iat": now().unix_timestamp(),
        "nonce": thumbprint(),
    });
    parsing(jws(&header, &claims))
}

fn read_a_token() -> Run {
    let header = json!({"typ": "at+jwt", "alg": "ES256", "kid": thumbprint()});
    parsing(jws(&header, &serde_json::to_value(claims()).unwrap()))
}

fn parsing(token: String) -> Run {
    Box::new(move || {
        black_box(Jws::parse(black_box(&token)).unwrap());
    })
}

/// A JWS with a signature that is not verified.
fn jws(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| base64url::encode(value.to_string().as_bytes());
    format!("{}.{}.{}", part(header), part(claims), base64url::encode([7_u8; 64]))
}

fn decide_a_second_hop() -> Run {
    let second_hop = SecondHop::new();
    Box::new(move || {
        black_box(decide(black_box(&second_hop.input())).unwrap());
    })
}

fn write_the_claims() -> Run {
    let claims = claims();
    Box::new(move || {
        black_box(serde_json::to_vec(black_box(&claims)).unwrap());
    })
}

fn write_the_event() -> Run {
    let (event, names) = (event(), LogNames::of_issuer(ISSUER));
    Box::new(move || {
        black_box(black_box(&event).unsequenced(&names).unwrap().with_seq(1_000_000));
    })
}

/// An id of the form that tokens and delegations have.
fn id(place: u128) -> String {
    Uuid::from_u128(0x0190_f6a2_7c1e_7b64_9d0a_2b5c_3f1e_8a00 + place).to_string()
}

fn thumbprint() -> String {
    "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I".to_owned()
}

/// The claims of the token of a second hop.
fn claims() -> Claims {
    let link = |sub: &str, act| Act {
        sub: sub.to_owned(),
        iss: ISSUER.to_owned(),
        cnf: Some(Confirmation { jkt: thumbprint() }),
        act,
    };
    Claims {
        iss: ISSUER.to_owned(),
        sub: "alice".to_owned(),
        idp: Some("https://idp.example.com".to_owned()),
        aud: Audience::One(MAIL.to_owned()),
        client_id: "email-svc".to_owned(),
        scope: "mail.read".to_owned(),
        iat: now().unix_timestamp(),
        exp: now().unix_timestamp() + 300,
        jti: id(1),
        cnf: Some(Confirmation { jkt: thumbprint() }),
        act: Some(link("email-svc", Some(Box::new(link("user-proxy", None))))),
        dlg: Some(id(2)),
        txn: id(3),
        sid: Some(id(4)),
        authorization_details: None,
        capability_ceiling: None,
        status: Some(StatusClaim {
            status_list: Reference { idx: 4_711, uri: format!("{ISSUER}/status-lists/1") },
        }),
        login: AuthenticationContext::default(),
    }
}

/// The event of that exchange. Its root is a client, because pseudonyms of users are read from the database.
fn event() -> Event {
    let kind = EventKind::TokenExchanged {
        exp: now().unix_timestamp() + 300,
        kid: thumbprint(),
        introspected: None,
        refresh_token: None,
        exceptions: Vec::new(),
    };
    let link = |sub: &str| ChainLink { who: Principal::new(ISSUER, sub), jkt: Some(thumbprint()) };
    Event {
        subject: Some(Principal::new(ISSUER, "user-proxy")),
        act_chain: vec![link("user-proxy"), link("email-svc")],
        txn: Some(id(3)),
        delegation_id: Some(id(2)),
        delegation_path: vec![id(5), id(2)],
        jti: Some(id(1)),
        parent_jti: Some(id(6)),
        scope: Some("mail.read".to_owned()),
        audience: vec![MAIL.to_owned()],
        session_id: Some(id(4)),
        ..Event::new(now(), kind, Actor::client("email-svc", Some(thumbprint())))
    }
}
