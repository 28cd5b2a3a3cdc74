//! Audit queries: pages of events and of chains, in a short log and in a long log, by the same server in one run.

use std::time::Instant;

use crate::generator::{Run, is_200};
use crate::seed::settle;
use crate::stage::{IDP, MAIL, Stage};
use crate::table::size;

const CONNECTIONS: usize = 4;
const SHORT: i64 = 10_000;

/// The queries. Some terms are rare, some are frequent, and two are often close together but never in the same event.
const QUESTIONS: [(&str, &str); 12] = [
    ("newest", "?limit=50"),
    ("oldest", "?limit=50&order=oldest"),
    ("one of 1,000 agents", "?limit=50&actor=agent-77"),
    ("one of 100,000 users", "?limit=50&subject_sub=user-4242"),
    ("one request", "?limit=50&request_id=request-7777"),
    ("1 % of all, and everything", "?limit=50&action=oauth.token.refused&ip=127.0.0.1"),
    ("two that never meet", "?limit=50&action=vault.token.retrieved&reason=delegation_revoked"),
    ("nothing", "?limit=50&client_id=unknown"),
    ("a minute in the middle", "?limit=50&from=2026-01-01T00:01:00Z&to=2026-01-01T00:02:00Z"),
    ("chains, newest", "/chains?limit=20"),
    ("chains of one agent", "/chains?limit=20&actor=agent-77"),
    ("chains of one user", "/chains?limit=20&subject_sub=user-4242"),
];

pub async fn bench() {
    let (long, requests) = (size("BENCH_LOG", 10_000_000), size("BENCH_ASKS", 400));
    let stage = Stage::set().await;
    let token = stage.auditor().await;
    println!(
        "{requests} a row, {CONNECTIONS} connections; every answer waits for the commit that spends its proof\n"
    );
    let mut short = Vec::new();
    fill(&stage, SHORT).await;
    for (_, path) in QUESTIONS {
        short.push(ask(&stage, &token, path, requests).await);
    }
    let began = Instant::now();
    fill(&stage, long).await;
    println!(
        "{long} events written in bulk and covered by the index in {:.0} s",
        began.elapsed().as_secs_f64()
    );
    println!("{}\n", sizes(&stage).await);
    println!(
        "{:<30} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7} {:>10} {:>8}",
        "", "p50 short", "p99 short", "p50 long", "p99 long", "× p99", "failed", "server µs", "PG µs"
    );
    for ((name, path), short) in QUESTIONS.into_iter().zip(short) {
        let run = ask(&stage, &token, path, requests).await;
        println!(
            "{name:<30} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>7.2} {:>7} {:>10.0} {:>8.0}",
            short.percentile(50.0),
            short.percentile(99.0),
            run.percentile(50.0),
            run.percentile(99.0),
            run.percentile(99.0) / short.percentile(99.0),
            short.failed + run.failed,
            run.server_cpu,
            run.postgres_cpu
        );
    }
    stage.strike().await;
}

async fn ask(stage: &Stage, token: &str, path: &str, requests: i64) -> Run {
    let path = format!("/api/v1/audit-logs{path}");
    let some = |count| (0..count).map(|_| stage.under("GET", &path, token)).collect::<Vec<_>>();
    // Warms pages and plans.
    stage.send(some(40), CONNECTIONS, is_200).await;
    stage.send(some(requests), CONNECTIONS, is_200).await
}

/// Fills the log up to `until` events: chains of three hops, of 100,000 users and 1,000 agents; 0.1 s of log time for
/// every hundred events. Returns when the server has indexed all of them.
pub async fn fill(stage: &Stage, until: i64) {
    let mut sql = stage.sql().await;
    sqlx::query("SET synchronous_commit = off").execute(&mut sql).await.unwrap();
    let (first,): (i64,) = sqlx::query_as("SELECT size FROM audit_head").fetch_one(&mut sql).await.unwrap();
    for from in (first..until).step_by(500_000) {
        sqlx::query(EVENTS)
            .bind(from)
            .bind((from + 500_000).min(until))
            .bind(IDP)
            .bind(MAIL)
            .execute(&mut sql)
            .await
            .unwrap();
    }
    stage.covered().await;
    settle(&mut sql).await;
}

/// The stored frontier does not belong to these events, because nothing is verified here; only its number of hashes is
/// right.
const EVENTS: &str = r#"
    WITH added AS (
        INSERT INTO audit_event (seq, document, partition)
        SELECT n, format(
            '{"act_chain":[{"iss":"http://127.0.0.1","jkt":"%s","sub":"agent-%s"}],"action":"%s","actor":{"client_id":"agent-%s",'
            '"jkt":"%s","type":"client"},"at":"%s","audience":["%s"],"delegation_id":"x-%s","delegation_path":["D-%s","x-%s"],'
            '"detail":{"exp":1767226000,"kid":"%s"},"id":"%s","ip":"127.0.0.1","jti":"%s","outcome":"%s","parent_jti":"%s",%s'
            '"request_id":"request-%s","scope":"mail.read","seq":%s,"session_id":"s-%s","subject":{"iss":"%s","sub":"user-%s"},'
            '"txn":"%s","user_agent":"bench/1"}',
            left(md5(agent::text) || md5(agent::text), 43), agent,
            CASE kind WHEN 7 THEN 'oauth.token.refused' WHEN 8 THEN 'vault.token.retrieved' ELSE 'oauth.token.exchanged' END,
            agent, left(md5(agent::text) || md5(agent::text), 43),
            to_char(timestamptz '2026-01-01 00:00:00Z' + n * interval '1 millisecond', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            $4, sub, sub, sub, left(md5('kid') || md5('kid'), 43), md5('id' || n)::uuid, md5('jti' || n)::uuid,
            CASE kind WHEN 7 THEN 'refused' ELSE 'success' END, md5('jti' || n - 1)::uuid,
            CASE kind WHEN 7 THEN '"reason":"delegation_revoked",' ELSE '' END, n, n, sub, $3, sub, md5('txn' || n / 3)::uuid),
            (SELECT partition FROM audit_head)
        FROM (SELECT n, n % 100 AS kind, (n * 7919) % 1000 AS agent, (n / 3 * 104729) % 100000 AS sub
              FROM generate_series($1, $2 - 1) n) x
    )
    UPDATE audit_head SET size = $2, peaks = decode(repeat('00', 32 * bit_count($2::bit(64))::int), 'hex')
"#;

/// The disk space that the log uses.
async fn sizes(stage: &Stage) -> String {
    let mut sql = stage.sql().await;
    let (events, index, hashes): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits
                 WHERE inhparent = 'audit_event'::regclass),
                pg_total_relation_size('audit_posting'), pg_total_relation_size('audit_block')",
    )
    .fetch_one(&mut sql)
    .await
    .unwrap();
    let mb = |bytes: i64| bytes / 1_000_000;
    format!("on disk: events {} MB, index {} MB, hashes {} MB", mb(events), mb(index), mb(hashes))
}
