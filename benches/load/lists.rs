//! Many clients: a manifest that declares them, and pages of the list of clients at the management API.

use std::fmt::Write as _;
use std::time::Instant;

use crate::generator::{Run, is_200};
use crate::stage::{MAIL, Stage};
use crate::table::{head, row, size};

const CONNECTIONS: usize = 4;
const PAGE: usize = 100;

pub async fn bench() {
    let (applied, clients) = (size("BENCH_APPLIED", 10_000), size("BENCH_CLIENTS", 100_000));
    let (requests, rounds) = (size("BENCH_ASKS", 400), size("BENCH_ROUNDS", 5));
    let stage = Stage::set().await;
    let token = stage.admin().await;
    let seconds = |yaml: &str| {
        let began = Instant::now();
        stage.apply(yaml);
        began.elapsed().as_secs_f64()
    };
    println!("actchain apply of {applied} clients, with the start of the command:");
    println!("  new        {:>6.2} s", seconds(&manifest(applied, "a")));
    println!("  unchanged  {:>6.2} s", seconds(&manifest(applied, "a")));
    println!("  changed    {:>6.2} s", seconds(&manifest(applied, "b")));
    add(&stage, applied, clients).await;

    let cursor = cursor(&stage, &token, clients / 2).await;
    let middle = format!("limit={PAGE}&cursor={cursor}");
    head(&format!(
        "\n{clients} clients, pages of {PAGE}, {CONNECTIONS} connections; medians of {rounds} rounds"
    ));
    for (what, query) in [
        ("the first page", format!("limit={PAGE}")),
        ("a page in the middle", middle),
        ("the beginning of an id", format!("limit={PAGE}&prefix=client-0777")),
        ("one kind", format!("limit={PAGE}&kind=agent")),
        ("a kind with one client", format!("limit={PAGE}&kind=auditor")),
        ("disabled: one of 1,000", format!("limit={PAGE}&enabled=false")),
        ("no client", format!("limit={PAGE}&prefix=zzz")),
    ] {
        let path = format!("/api/v1/clients?{query}");
        let mut runs: Vec<Run> = Vec::new();
        let some = |count| (0..count).map(|_| stage.under("GET", &path, &token)).collect::<Vec<_>>();
        // Warms pages and plans.
        stage.send(some(40), CONNECTIONS, is_200).await;
        for _ in 0..rounds {
            runs.push(stage.send(some(requests), CONNECTIONS, is_200).await);
        }
        row(what, &runs);
    }
    stage.strike().await;
}

/// Agents that authenticate by keys: a secret would cost a slow hash each, which is not measured here.
fn manifest(count: usize, name: &str) -> String {
    let mut yaml = "clients:\n".to_owned();
    for number in 0..count {
        let _ = writeln!(
            yaml,
            "  - {{id: client-{number:06}, kind: agent, name: \"{name} {number}\", auth: none, dpop_keys: [\"{number:042}0\"], \
             scopes: [mail.read], audiences: [\"{MAIL}\"], grant_types: [token-exchange]}}"
        );
    }
    yaml
}

/// Copies clients until there are so many. Of 1,000, one is disabled.
async fn add(stage: &Stage, from: usize, to: usize) {
    let mut sql = stage.sql().await;
    let columns: String = sqlx::query_scalar(
        "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns
         WHERE table_name = 'client' AND column_name NOT IN ('client_id', 'disabled_at', 'mac')",
    )
    .fetch_one(&mut sql)
    .await
    .unwrap();
    let copy = format!(
        "INSERT INTO client (client_id, disabled_at, {columns})
         SELECT 'client-' || lpad(n::text, 6, '0'), CASE WHEN n % 1000 = 0 THEN now() END, {columns}
         FROM client, generate_series($1::bigint, $2::bigint - 1) n WHERE client_id = 'client-000000'"
    );
    let [from, to] = [from, to].map(|number| i64::try_from(number).unwrap());
    sqlx::query(sqlx::AssertSqlSafe(copy)).bind(from).bind(to).execute(&mut sql).await.unwrap();
    stage.seal_rows().await;
    sqlx::query("VACUUM ANALYZE client").execute(&mut sql).await.unwrap();
}

/// The cursor of a page that begins after about `count` clients.
async fn cursor(stage: &Stage, token: &str, count: usize) -> String {
    let path = format!("/api/v1/clients?limit=1&prefix=client-{:05}", count / 10);
    let page = stage.answer(&path, token).await;
    page.json["next"].as_str().unwrap().to_owned()
}
