//! The cost of the audit log per exchange: the same ledger entries with their events and without, in turns. Also the
//! cost of the index for the server and its database. Everything except the ledger is left out.

use actchain::domain::audit::{Actor, ChainLink, Event, EventKind, RequestOrigin};
use actchain::domain::finding::{CurrentRules, DeclaredRules};
use actchain::domain::ledger::{
    CommitOutcome, Entry, Guards, Ledger, OfflineUse, SingleUseId, TokenInsert, Write,
};
use actchain::domain::principal::Principal;
use actchain::domain::refusal::Refusal;
use actchain::domain::token::TokenRecord;
use actchain::platform::clock::{Clock, Stopwatch};
use actchain::platform::config::Config;
use actchain_protocol::random;
use actchain_testkit::endpoint::Endpoint as _;
use futures_util::StreamExt as _;
use time::Duration;

use crate::cpu;
use crate::generator::percentile;
use crate::stage::{IDP, MAIL, Stage};
use crate::table::size;

/// The number of entries that 16 connections keep waiting.
const WAITING: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Log {
    With,
    Without,
}

pub async fn bench() {
    let (entries, rounds) = (size("BENCH_ENTRIES", 20_000), size("BENCH_ROUNDS", 5));
    let stage = Stage::set().await;
    let rules = CurrentRules::new(0, DeclaredRules::default().active().unwrap());
    let (ledger, _ended) =
        Ledger::start(stage.database(), &Config::default().ledger, stage.rows().await, rules).unwrap();
    println!(
        "{entries} entries a round, {WAITING} waiting at a time; medians of {rounds} rounds by turns, CPU µs an entry\n"
    );
    println!("{:<34} {:>8} {:>8} {:>14}", "", "ledger", "PG", "server (index)");
    let mut all = [Vec::new(), Vec::new()];
    record(&stage, &ledger, (Log::With, 2_000)).await;
    for _ in 0..rounds {
        all[0].push(record(&stage, &ledger, (Log::Without, entries)).await);
        all[1].push(record(&stage, &ledger, (Log::With, entries)).await);
    }
    for (name, rounds) in ["without events", "with events and their index"].into_iter().zip(&all) {
        let median =
            |place: usize| percentile(&rounds.iter().map(|one| one[place]).collect::<Vec<_>>(), 50.0);
        println!("{name:<34} {:>8.1} {:>8.1} {:>14.1}", median(0), median(1), median(2));
    }
    stage.strike().await;
}

/// CPU time in µs per entry: of the ledger, of the database, and of the server, which only maintains the index.
async fn record(stage: &Stage, ledger: &Ledger, (log, count): (Log, usize)) -> [f64; 3] {
    let entries: Vec<Entry> = (0..count).map(|_| entry(stage, log)).collect();
    let pids = stage.pids();
    let before = [cpu::of(std::process::id()), cpu::of_family(pids.1), cpu::of(pids.0)];
    let recorded = futures_util::stream::iter(entries).map(|entry| ledger.record(entry));
    let outcomes: Vec<_> = recorded.buffer_unordered(WAITING).collect().await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(CommitOutcome::Committed(_)))));
    let own = cpu::of(std::process::id());
    stage.covered().await;
    let after = [own, cpu::of_family(pids.1), cpu::of(pids.0)];
    [0, 1, 2].map(|place| (after[place] - before[place]) / count as f64)
}

/// The ledger entry of an exchange at the second hop.
fn entry(stage: &Stage, log: Log) -> Entry {
    let now = Clock::System.now();
    let [jti, parent, txn] = [(); 3].map(|()| random::id(now).unwrap());
    let (subject, jkt) = (Principal::new(IDP, "alice"), "k".repeat(43));
    let link = |sub: &str| ChainLink { who: Principal::new(stage.issuer(), sub), jkt: Some(jkt.clone()) };
    let event = Event {
        subject: Some(subject.clone()),
        act_chain: vec![link("proxy"), link("by-secret")],
        txn: Some(txn.to_string()),
        delegation_id: Some("S".into()),
        delegation_path: vec!["D".into(), "S".into()],
        jti: Some(jti.to_string()),
        parent_jti: Some(parent.to_string()),
        scope: Some("mail.read".into()),
        audience: vec![MAIL.to_owned()],
        origin: RequestOrigin {
            request_id: Some(random::id(now).unwrap().to_string()),
            trace_id: None,
            ip: Some("127.0.0.1".parse().unwrap()),
            user_agent: Some("bench/1".into()),
            stopwatch: Some(Stopwatch::start()),
        },
        ..Event::new(
            now,
            EventKind::TokenExchanged {
                exp: now.unix_timestamp() + 300,
                kid: jkt.clone(),
                introspected: None,
                refresh_token: None,
                exceptions: Vec::new(),
            },
            Actor::client("by-secret", Some(jkt.clone())),
        )
    };
    let token = TokenRecord {
        jti,
        parent: None,
        actor: None,
        txn,
        client_id: "by-secret".into(),
        subject,
        delegation_id: Some("S".into()),
        jkt: Some(jkt.clone()),
        auth_key: None,
        status_index: 0,
        kid: jkt.clone(),
        scope: "mail.read".into(),
        audience: vec![MAIL.to_owned()],
        issued_at: now,
        expires_at: now + Duration::minutes(5),
    };
    let single_use_id = SingleUseId {
        id: random::bytes().unwrap(),
        expires_at: now + Duration::minutes(5),
        on_replay: Refusal::DpopProofReplayed,
        if_forgotten: Refusal::ProofTooOld,
    };
    let guards = Guards {
        earlier_actors: vec!["proxy".into(), "by-secret".into()],
        path: vec!["D".into(), "S".into()],
        ..Guards::default()
    };
    Entry {
        session: None,
        now,
        single_use_ids: vec![single_use_id],
        guards,
        write: Write::Token(Box::new(TokenInsert {
            token,
            create: None,
            ceremonies: Vec::new(),
            offline: OfflineUse::None,
        })),
        event: (log == Log::With).then_some(event),
    }
}
