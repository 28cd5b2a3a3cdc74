//! The cost of verification per event, in a file and in the database, compared with hashing the same bytes: wall time,
//! the best of three, all in one run.

use std::io::Write as _;
use std::time::Instant;

use actchain::domain::audit::append::append_events;
use actchain::domain::audit::filter::Filter;
use actchain::domain::audit::personal::PeopleMembers;
use actchain::domain::audit::{Actor, ChainLink, Event, EventKind, RequestOrigin, store};
use actchain::domain::capability::CapabilityLevels;
use actchain::domain::principal::Principal;
use actchain::platform::clock::Clock;
use actchain::platform::config::Config;
use actchain::platform::db;
use actchain::platform::seal::SealingKey;
use actchain::platform::secret::MasterKey;
use actchain::services::audit::export::{self, ExportFormat, ExportOptions};
use actchain::services::audit::{self, LogDatabase, TrustAnchors, VerifyScope, index};
use actchain::services::caller::Caller;
use actchain::services::keys;
use actchain::services::request_context::RequestContext;
use actchain_embedded_postgres::{Cluster, Durability};
use actchain_protocol::csv_export::ByteOrderMark;
use actchain_protocol::merkle;
use actchain_protocol::random;
use futures_util::TryStreamExt as _;
use sqlx::postgres::PgPool;
use sqlx::{Connection as _, PgConnection};

use crate::table::size;

const ISSUER: &str = "https://as.example.com";

pub async fn bench() {
    let events: u64 = size("BENCH_VERIFY", 200_000);
    let cluster = Cluster::throwaway(None, std::env::var_os("PATH"), Durability::Off).await.unwrap();
    let database = cluster.connect_options("postgres");
    db::migrate(&database, "the database").await.unwrap();
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    fill(&mut connection, events).await;
    let pool = PgPool::connect_with(database).await.unwrap();
    let (seal, now) = (SealingKey::of(&MasterKey::generate().unwrap()), Clock::System.now());
    keys::ensure(&pool, &seal, &Config::default().keys, now).await.unwrap();
    index::run_once(&pool).await.unwrap();
    let path = std::env::temp_dir().join(format!("actchain-bench-{}.jsonl", std::process::id()));
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let (config, capability_levels) = (Config::default(), CapabilityLevels::new(&[]).unwrap());
    let rows = keys::open_row_mac(&pool, &seal, now).await.unwrap();
    let ctx = RequestContext {
        caller: Caller::Operator,
        now,
        origin: RequestOrigin::default(),
        idempotency_key: None,
        issuer: ISSUER,
        config: &config,
        capability_levels: &capability_levels,
        pool: &pool,
        rows: &rows,
    };
    let wanted = ExportOptions {
        format: ExportFormat::Jsonl,
        people: PeopleMembers::Omitted,
        filter: Filter::default(),
        from: 0,
        size: None,
        mark: ByteOrderMark::Absent,
    };
    let mut export = export::begin(&ctx, &seal, wanted).await.unwrap();
    while let Some(piece) = export.next().await.unwrap() {
        file.write_all(piece.as_bytes()).unwrap();
    }
    drop(file);
    let documents: Vec<String> = store::documents(&mut connection, 0, u64::MAX)
        .map_ok(|(_, document)| document)
        .try_collect()
        .await
        .unwrap();
    let count = documents.len() as f64;
    let bytes: usize = documents.iter().map(String::len).sum();
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let mut others = Vec::new();
    for _ in 1..readers {
        others.push(PgConnection::connect_with(&pool.connect_options()).await.unwrap());
    }
    let mut least = [f64::MAX; 5];
    for _ in 0..3 {
        let started = Instant::now();
        let mut all = [0u8; 32];
        for document in &documents {
            for (sum, byte) in all.iter_mut().zip(merkle::leaf(document.as_bytes())) {
                *sum ^= byte;
            }
        }
        std::hint::black_box(all);
        least[0] = least[0].min(started.elapsed().as_nanos() as f64 / count);
        let started = Instant::now();
        assert!(audit::verify_export(&path, &TrustAnchors::default()).unwrap().valid);
        least[1] = least[1].min(started.elapsed().as_nanos() as f64 / count);
        let started = Instant::now();
        let report = audit::verify_database(&mut connection, &TrustAnchors::default()).await.unwrap();
        assert!(report.valid, "{report:?}");
        least[2] = least[2].min(started.elapsed().as_nanos() as f64 / count);
        for (place, scope) in [(3, VerifyScope::Log), (4, VerifyScope::LogAndIndex)] {
            let started = Instant::now();
            let database = LogDatabase { connection: &mut connection, others: &mut others, scope };
            let anchors = TrustAnchors::default();
            let report = audit::verify_database_shown(database, &anchors, &mut |_, _| {}).await.unwrap();
            assert!(report.valid, "{report:?}");
            least[place] = least[place].min(started.elapsed().as_nanos() as f64 / count);
        }
    }
    let _ = std::fs::remove_file(&path);
    let [floor, file, database, by_several, with_index] = least;
    println!("verification of {count} events of {} bytes", bytes / documents.len());
    println!("{:<28} {:>10} {:>12} {:>8}", "", "ns/event", "events/s", "× floor");
    for (what, nanos) in [
        ("hashing the same bytes", floor),
        ("a file", file),
        ("the database", database),
        (&format!("by {readers} connections"), by_several),
        ("with its index", with_index),
    ] {
        println!("{what:<28} {nanos:>10.0} {:>12.0} {:>8.2}", 1e9 / nanos, nanos / floor);
    }
    println!("{readers} connections take {:.2} of the time of one", by_several / database);
}

/// Fills the log with recorded exchanges of two-hop chains.
async fn fill(connection: &mut PgConnection, events: u64) {
    let now = Clock::System.now();
    let link = |sub: &str| ChainLink {
        who: Principal::new(ISSUER, sub),
        jkt: Some("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I".into()),
    };
    let actor = Actor::client("mail-bot", Some("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I".into()));
    let event = Event {
        subject: Some(Principal { iss: "https://idp.example.com".into(), sub: "alice".into() }),
        act_chain: vec![link("user-proxy"), link("mail-bot")],
        txn: Some(random::id(now).unwrap().to_string()),
        delegation_id: Some("D2".into()),
        delegation_path: vec!["D1".into(), "D2".into()],
        jti: Some(random::id(now).unwrap().to_string()),
        parent_jti: Some(random::id(now).unwrap().to_string()),
        scope: Some("mail.read mail.send".into()),
        audience: vec!["https://mail.example.com".into()],
        session_id: Some("session-1".into()),
        ..Event::new(
            now,
            EventKind::TokenExchanged {
                exp: 1_767_225_600,
                kid: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I".into(),
                introspected: None,
                refresh_token: None,
                exceptions: Vec::new(),
            },
            actor,
        )
    };
    let mut left = events;
    while left > 0 {
        let batch = left.min(2_000);
        let mut transaction = connection.begin().await.unwrap();
        append_events(&mut transaction, &vec![event.clone(); batch as usize]).await.unwrap();
        transaction.commit().await.unwrap();
        left -= batch;
    }
}
