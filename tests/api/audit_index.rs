//! The index of the log: everything that searches rely on is verified, and several connections find what one finds.

use actchain::domain::audit::event_count::{self, BlocksSince};
use actchain::domain::audit::field::{Field, term};
use actchain::domain::audit::filter::Filter;
use actchain::domain::audit::index_check::IndexError;
use actchain::domain::audit::newest_events::newest_events;
use actchain::domain::audit::search::{self, SearchRange};
use actchain::domain::audit::store;
use actchain::domain::audit::verify::{IntegrityError, IntegrityErrorKind};
use actchain::domain::audit::{Actor, Event, EventKind};
use actchain::services::audit::{self, LogDatabase, Report, TrustAnchors, VerifyScope, index};
use actchain::services::transaction::AuditedTransaction;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use time::Duration;

use crate::support::agent::JWT;
use crate::support::audit::{Dice, all_pages, auditor, cover, fill, read};
use crate::support::world::{MAIL, World};
use crate::transparency::{checkpoint, grow};

/// Verifies with as many connections.
async fn verify(world: &World, scope: VerifyScope, connections: usize) -> Report {
    let mut connection = world.server.sql().await;
    let mut others = Vec::new();
    for _ in 1..connections {
        others.push(world.server.sql().await);
    }
    let database = LogDatabase { connection: &mut connection, others: &mut others, scope };
    audit::verify_database_shown(database, &TrustAnchors::default(), &mut |_, _| {}).await.unwrap()
}

/// A log of four blocks, some events of which belong to no complete block.
async fn indexed_world() -> World {
    let world = World::new().await;
    for _ in 0..3 {
        world.second_hop().await;
    }
    grow(&world.server, 4_300).await;
    index::run_once(&world.server.app.pool).await.unwrap();
    checkpoint(&world.server).await;
    world
}

/// The term of the events that `grow` has written in a block.
const COMMON: &str =
    "(SELECT term FROM audit_posting WHERE block = 2 ORDER BY length(bitmap) DESC, term LIMIT 1)";

#[tokio::test(flavor = "multi_thread")]
async fn each_error_of_the_index_is_named_by_its_block_term_and_seq() {
    let world = indexed_world().await;
    let mut sql = world.server.sql().await;
    let tables = ["audit_event", "audit_partition", "audit_head", "audit_block", "audit_posting"];
    for table in tables {
        sql.execute(AssertSqlSafe(format!("CREATE TABLE kept_{table} AS TABLE {table}"))).await.unwrap();
    }
    let term: i64 =
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT {COMMON}"))).fetch_one(&mut sql).await.unwrap();
    let of_block = |statement: &str| statement.replace("COMMON", &term.to_string());
    use IntegrityErrorKind::{BlockTime, Partition, Posting};
    let cases: [(String, u64, IntegrityErrorKind, i64, Option<i64>); 12] = [
        // An event that no search for this term finds.
        (
            of_block("UPDATE audit_posting SET bitmap = set_byte(bitmap, 7, get_byte(bitmap, 7) & 247) WHERE block = 2 AND term = COMMON"),
            2_048 + 3,
            Posting,
            2,
            Some(term),
        ),
        (of_block("DELETE FROM audit_posting WHERE block = 2 AND term = COMMON"), 2_048, Posting, 2, Some(term)),
        // An event that has not the term.
        ("INSERT INTO audit_posting VALUES (77, 3, decode('0005', 'hex'))".into(), 3_072 + 5, Posting, 3, Some(77)),
        ("INSERT INTO audit_posting VALUES (77, 3, '')".into(), 3_072, Posting, 3, Some(77)),
        // Bytes that are no bitmap.
        (of_block("UPDATE audit_posting SET bitmap = bitmap || '\\x00' WHERE block = 2 AND term = COMMON"), 2_048, Posting, 2, Some(term)),
        // Postings of blocks that are not indexed.
        ("INSERT INTO audit_posting VALUES (77, 4, decode('0005', 'hex'))".into(), 4_096, Posting, 4, Some(77)),
        ("INSERT INTO audit_posting VALUES (77, -1, decode('0005', 'hex'))".into(), 0, Posting, -1, Some(77)),
        // A search in a period passes over the block.
        ("UPDATE audit_block SET first_at = first_at + interval '1 microsecond' WHERE block = 1".into(), 1_024, BlockTime, 1, None),
        ("UPDATE audit_block SET last_at = last_at - interval '1 hour' WHERE block = 1".into(), 1_024, BlockTime, 1, None),
        // A search begins at the first partition that is not archived.
        ("UPDATE audit_partition SET partition = 1".into(), 0, Partition, 0, None),
        ("UPDATE audit_head SET partition = 1".into(), 4_300, Partition, 4, None),
        ("INSERT INTO audit_partition (partition, first_seq, opened_at) VALUES (1, 1100, now()); UPDATE audit_head SET partition = 1".into(), 1_100, Partition, 1, None),
    ];
    let valid = verify(&world, VerifyScope::LogAndIndex, 1).await;
    assert!(valid.valid && valid.events == 4_300, "{valid:?}");
    for (statement, seq, kind, block, term) in cases {
        sqlx::raw_sql(AssertSqlSafe(statement.clone()))
            .execute(&mut sql)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
        let report = verify(&world, VerifyScope::LogAndIndex, 1).await;
        let error = IntegrityError { seq, kind };
        assert_eq!(report.index_error, Some(IndexError { error, block, term }), "{statement}");
        assert_eq!((report.valid, report.integrity_error), (false, Some(error)), "{statement}");
        assert_eq!(report, verify(&world, VerifyScope::LogAndIndex, 3).await, "{statement}");
        assert!(verify(&world, VerifyScope::Log, 2).await.valid, "{statement}: the log itself is valid");
        restore(&mut sql, &tables).await;
    }
    assert_eq!(verify(&world, VerifyScope::LogAndIndex, 1).await, valid);
}

async fn restore(sql: &mut PgConnection, tables: &[&str]) {
    for table in tables.iter().rev() {
        sql.execute(AssertSqlSafe(format!("DELETE FROM {table}"))).await.unwrap();
    }
    for table in tables {
        sql.execute(AssertSqlSafe(format!("INSERT INTO {table} SELECT * FROM kept_{table}"))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_errors_in_different_ranges_the_first_is_named_by_any_number_of_connections() {
    let world = World::new().await;
    // More ranges than are read at the same time.
    grow(&world.server, 22_000).await;
    checkpoint(&world.server).await;
    let mut sql = world.server.sql().await;
    // The later range is found first: it has one event. The earlier error is at the end of a full range.
    sql.execute("UPDATE audit_event SET document = '{}' WHERE seq IN (8191, 8192)").await.unwrap();
    sql.execute("DELETE FROM audit_event WHERE seq > 8192 AND seq < 12288").await.unwrap();
    for connections in [1, 2, 4, 7] {
        let report = verify(&world, VerifyScope::Log, connections).await;
        let first = IntegrityError { seq: 8_191, kind: IntegrityErrorKind::Order };
        assert_eq!(report.integrity_error, Some(first), "{connections} connections");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_read_the_log_as_it_was_when_verification_began() {
    let world = World::new().await;
    // Several blocks, so that each connection has some to read.
    grow(&world.server, 22_000).await;
    checkpoint(&world.server).await;
    let mut connection = world.server.sql().await;
    let mut others = [world.server.sql().await];
    let mut changer = world.server.sql().await;
    let mut changed = false;
    let database = LogDatabase { connection: &mut connection, others: &mut others, scope: VerifyScope::Log };
    let mut change = |_, _| {
        if !std::mem::replace(&mut changed, true) {
            let change = async {
                changer.execute("DELETE FROM audit_event WHERE seq >= 16384").await.unwrap();
            };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(change));
        }
    };
    let report = audit::verify_database_shown(database, &TrustAnchors::default(), &mut change).await.unwrap();
    assert!(report.valid && report.events == 22_000, "{report:?}");
    let later = verify(&world, VerifyScope::Log, 2).await;
    assert_eq!(
        later.integrity_error,
        Some(IntegrityError { seq: 16_384, kind: IntegrityErrorKind::Truncated })
    );
    assert_eq!(store::head(&mut changer).await.unwrap().size(), 22_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_by_the_index_are_those_of_the_documents_in_any_period() {
    let world = World::new().await;
    let mut dice = Dice(3);
    // Times of the second half overlap those of the first, and the last events are not indexed.
    fill(&world, &mut dice, 2_600).await;
    fill(&world, &mut dice, 1_800).await;
    assert_eq!(cover(&world).await, 4_096);
    let events = world.server.events().await;
    let mut sql = world.server.sql().await;
    let all = search::shared_search_range(&mut sql).await.unwrap();
    let now = world.server.clock.now();
    for seconds in [-100_000, -100, 700, 1_700, 9_000] {
        let from = now + Duration::seconds(seconds);
        let period = BlocksSince::read(&mut sql, from).await.unwrap();
        for (client, first_available) in [("agent-1", 0), ("agent-3", 1_500), ("unknown", 0)] {
            let filter = Filter {
                client: Some(client.to_owned()),
                outcome: Some("refused".to_owned()),
                ..Filter::default()
            };
            let in_period = Filter { from: Some(from), ..filter.clone() };
            let available = |event: &&serde_json::Value| event["seq"].as_u64() >= Some(first_available);
            let matching =
                events.iter().filter(available).filter(|event| in_period.matches(event, None)).count();
            let range = SearchRange { first_available, ..all.clone() };
            for most in [1, 50, 5_000] {
                let counted = event_count::count(&mut sql, &filter, &period, &range, most).await.unwrap();
                assert_eq!(counted, matching.min(most), "{client} from {seconds}, at most {most}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_event_of_each_client_is_found_wherever_it_is() {
    let world = World::new().await;
    let mut dice = Dice(5);
    let by = |client: &str| {
        Event::new(world.server.clock.now(), EventKind::ClientEnabled, Actor::client(client, None))
    };
    let record = async |client: &str| {
        AuditedTransaction::begin(&world.server.app.pool).await.unwrap().commit(&[by(client)]).await.unwrap();
    };
    record("early").await;
    record("archived").await;
    fill(&world, &mut dice, 3_000).await;
    record("early").await;
    fill(&world, &mut dice, 1_100).await;
    assert_eq!(cover(&world).await, 4_096);
    record("late").await;
    let events = world.server.events().await;
    let newest = |client: &str| {
        let own = events.iter().filter(|event| event["actor"]["client_id"] == client);
        own.filter_map(|event| event["seq"].as_u64()).max()
    };
    let clients = ["early", "late", "archived", "unknown", "agent-0", "agent-4"].map(str::to_owned);
    let mut sql = world.server.sql().await;
    let shared = search::shared_search_range(&mut sql).await.unwrap();
    let alone = search::search_range(&mut sql).await.unwrap();
    // The event of `archived` is before what is available.
    let first_available = newest("archived").unwrap() + 1;
    for range in [shared, alone].map(|range| SearchRange { first_available, ..range }) {
        let found = newest_events(&mut sql, &range, &clients).await.unwrap();
        for client in &clients {
            let wanted = newest(client).filter(|seq| *seq >= first_available);
            assert_eq!(found.get(client).map(|row| row.seq), wanted, "{client}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frequent_terms_that_never_meet_are_searched_in_parts() {
    const BLOCKS: i32 = 2_100;
    let world = World::new().await;
    let who = auditor(&world).await;
    world.server.revoke("D").await;
    let exchange = world.user_proxy.exchange(&world.server, &world.user_token(), JWT);
    exchange.param("audience", MAIL).send().await.with_status(400);
    let refused: Value = world.server.events().await.pop().unwrap();
    let mut sql = world.server.sql().await;
    let terms = [
        term(Field::Action, refused["action"].as_str().unwrap()),
        term(Field::Reason, refused["reason"].as_str().unwrap()),
    ];
    // Both terms in every block, at places that differ; in the first block at the place of the event.
    let seq = i16::try_from(refused["seq"].as_i64().unwrap()).unwrap();
    for (place, term) in (1_000i16..).zip(terms) {
        sqlx::query(
            "INSERT INTO audit_posting (term, block, bitmap)
             SELECT $1, n, CASE n WHEN 0 THEN int2send($2) ELSE int2send($3) END
             FROM generate_series(0, $4 - 1) n",
        )
        .bind(term)
        .bind(seq)
        .bind(place)
        .bind(BLOCKS)
        .execute(&mut sql)
        .await
        .unwrap();
    }
    sqlx::query(
        "INSERT INTO audit_block (block, leaves, first_at, last_at)
         VALUES ($1 - 1, decode(repeat('00', 32 * 1024), 'hex'), now(), now())",
    )
    .bind(BLOCKS)
    .execute(&mut sql)
    .await
    .unwrap();
    let resize = "UPDATE audit_head SET size = $1, peaks = decode(repeat('00', 32 * bit_count($1::bit(64))::int), 'hex')";
    sqlx::query(resize).bind(i64::from(BLOCKS) * 1_024).execute(&mut sql).await.unwrap();
    let path = format!(
        "/api/v1/audit-logs?action=oauth.token.refused&reason={}",
        refused["reason"].as_str().unwrap()
    );
    let first = read(&world, (&who.0, &who.1), &path).await;
    assert_eq!((&first.json["items"], first.json["next"].is_string()), (&json!([]), true), "{}", first.text);
    let found = all_pages(&world, (&who.0, &who.1), &path).await;
    assert_eq!(found.iter().map(|event| &event["seq"]).collect::<Vec<_>>(), [&refused["seq"]]);
}
