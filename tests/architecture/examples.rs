//! Each rule on code that breaks it, so that a rule that sees nothing is noticed.

use crate::code::{Code, example};
use crate::writes::{Rule, Writes};
use crate::{PROTOCOL, circles, debt, rules, signatures, writes};

const SERVER: (&str, &str) = ("actchain", "src/lib.rs");
const SPECIFICATIONS: (&str, &str) = (PROTOCOL, "crates/protocol/src/lib.rs");

const MODULES: (&str, &str) = (
    "src/lib.rs",
    "pub mod platform; pub mod domain; pub mod services; pub mod http; pub mod jobs; pub mod cli;",
);

/// The server and the specifications with these files; the other floors are empty.
fn with(files: &[(&str, &str)]) -> Code {
    let floors =
        ["platform", "domain", "services", "http", "jobs", "cli"].map(|name| format!("src/{name}.rs"));
    let empty = floors.iter().map(String::as_str).chain([SPECIFICATIONS.1]).map(|path| (path, ""));
    let all: Vec<(&str, &str)> = [MODULES].into_iter().chain(files.iter().copied()).chain(empty).collect();
    example(&[SERVER, SPECIFICATIONS], &all)
}

#[track_caller]
fn assert_found(found: &[String], expected: &[&str]) {
    assert_eq!(found, expected, "\n{}\n", found.join("\n"));
}

#[test]
fn upward_arrows_are_found_in_imports_paths_macros_and_attributes() {
    let code = with(&[
        ("src/http.rs", "pub fn answer() {} pub struct Answer;"),
        (
            "src/domain.rs",
            "use crate::{platform, http::{self as web, Answer}};
             use super::super::http as far;
             fn a() { crate::http::answer(); }
             fn b() { web::answer(); }
             fn c() { tracing::info!(a = crate::http::answer(), \"text\"); }
             fn d() { tokio::select! { _ = super::http::answer() => {} } }
             #[serde(with = \"crate::http::answer\")] struct E;
             #[cfg(test)] mod tests { use crate::http::answer; }
             pub(in crate::domain) fn f() { self::a(); }",
        ),
        ("src/platform.rs", "fn inward() { super::domain::a(); }"),
    ]);
    let upward = rules::upward(&code);
    let lines: Vec<&str> = upward.iter().map(|text| text.split(": ").next().unwrap()).collect();
    let domain = ["1", "1", "2", "3", "4", "5", "6", "7"].map(|line| format!("src/domain.rs:{line}"));
    let mut expected: Vec<&str> = domain.iter().map(String::as_str).collect();
    expected.insert(0, "src/platform.rs:1");
    assert_eq!(lines, expected, "\n{}\n", upward.join("\n"));
    assert_eq!(upward[0], "src/platform.rs:1: platform may not refer to domain: domain::a");
}

#[test]
fn dropped_errors_and_defaults_are_found_where_authority_is_decided() {
    let code = with(&[(
        "src/domain.rs",
        "fn a() { let _ = read().ok(); }
         impl Row { fn b(&self) -> u32 { self.limit.map(|limit| limit.unwrap_or_default()).unwrap_or(1) } }",
    )]);
    let found: Vec<String> = rules::defaults(&code, &["src/domain"])
        .into_iter()
        .map(|(name, call)| format!("{name} {call}"))
        .collect();
    assert_found(
        &found,
        &["domain::a src/domain.rs:1: ok", "domain::Row::b src/domain.rs:2: unwrap_or_default"],
    );
    assert!(rules::defaults(&code, &["src/services"]).is_empty());
}

#[test]
fn a_module_on_no_floor_is_found() {
    let code = example(&[SERVER], &[("src/lib.rs", "mod other;"), ("src/other.rs", "")]);
    assert_found(&rules::upward(&code), &["src/other.rs: other is on no floor"]);
}

#[test]
fn circles_are_found_through_re_exports_and_globs() {
    let code = with(&[
        ("src/domain.rs", "mod a; mod b; mod c; mod d; pub use b::B; pub use c::C;"),
        // The re-export counts for the file that defines `B`.
        ("src/domain/a.rs", "use super::B; pub struct A(B);"),
        ("src/domain/b.rs", "use super::c::*; pub struct B; fn b() { C::new(); }"),
        ("src/domain/c.rs", "pub struct C; impl C { pub fn new() { super::a::A::x(); } }"),
        ("src/domain/d.rs", "use super::{a, B}; fn d(a: &B) { a.b(); }"),
    ]);
    assert_found(
        &debt::compare("", "circle", &circles::findings(&code)),
        &[
            "circle src/domain/a.rs -> src/domain/b.rs 1: at most 0 may be there: \
             src/domain/a.rs:1 → src/domain/b.rs:1 → src/domain/c.rs:1 → src/domain/a.rs",
            "circle src/domain/b.rs -> src/domain/c.rs 1: at most 0 may be there: \
             src/domain/b.rs:1 → src/domain/c.rs:1 → src/domain/a.rs:1 → src/domain/b.rs",
            "circle src/domain/c.rs -> src/domain/a.rs 1: at most 0 may be there: \
             src/domain/c.rs:1 → src/domain/a.rs:1 → src/domain/b.rs:1 → src/domain/c.rs",
        ],
    );
}

#[test]
fn paths_lead_into_other_crates() {
    let crates = [SERVER, SPECIFICATIONS];
    let code = example(
        &crates,
        &[
            ("src/lib.rs", "use actchain_protocol::dpop; fn a(proof: dpop::Proof) {}"),
            ("crates/protocol/src/lib.rs", "pub mod dpop;"),
            ("crates/protocol/src/dpop.rs", "pub use crate::dpop::proof::Proof; mod proof;"),
            ("crates/protocol/src/dpop/proof.rs", "pub struct Proof;"),
        ],
    );
    let graph = circles::graph(&code);
    let targets: Vec<&String> = graph["src/lib.rs"].keys().collect();
    assert_eq!(targets, ["crates/protocol/src/dpop/proof.rs"]);
    assert_eq!(graph.len(), 1);
}

const RULE: Rule<'_> =
    Rule { stores: &["domain"], services: "services", exceptions: &[("services::allowed", "put", "")] };

fn writes_of(services: &str, others: &[(&str, &str)]) -> Writes {
    let store = "
        use sqlx::PgConnection;
        const SQL: &str = \"WITH a AS (SELECT) INSERT INTO t SELECT 1\";
        pub fn put(connection: &mut PgConnection) { sqlx::query(SQL); }
        pub fn outer(connection: &mut PgConnection) { put(connection); }
        pub fn find(connection: &mut PgConnection) { sqlx::query(\"SELECT 1 FROM t FOR UPDATE\"); }
        pub struct Pool;
        impl Pool { pub fn save(&self, one: u8) { sqlx::query(format!(\"update {t} set a = $1\")); } }";
    let services = format!("use crate::domain as store; use sqlx::*; {services}");
    let files = [&[("src/domain.rs", store), ("src/services.rs", &services)], others].concat();
    writes::check(&with(&files), &RULE)
}

#[test]
fn writes_without_an_audited_transaction_are_found() {
    let good = "
        fn with_event(mut work: AuditedTransaction) { store::outer(work.connection()); }
        fn bound(mut work: AuditedTransaction) { let connection = work.connection(); store::put(&mut *connection); }
        fn passes_on(connection: &mut PgConnection) { store::put(connection); }
        fn reads(pool: &PgPool) { store::find(&mut pool.acquire()); }
        fn takes(work: impl AsyncFnOnce(&mut PgConnection)) {
            let inner = async |connection: &mut PgConnection, x: u8| { work(connection).await };
            Tx::run(1, inner);
        }
        struct Tx;
        impl Tx { fn run(a: u8, change: impl AsyncFnOnce(&mut PgConnection)) { change(work.connection(), 1) } }
        fn gives() { takes(async |connection| store::put(connection).await); }
        fn allowed(pool: &PgPool) { store::put(&mut pool.acquire()); }";
    let found = writes_of(good, &[]);
    assert_found(&found.wrong, &[]);
    let writers: Vec<&str> = found.writers.keys().map(String::as_str).collect();
    assert_eq!(
        writers,
        ["domain::Pool::save", "domain::SQL", "domain::outer", "domain::put", "services::passes_on"]
    );
    assert!(found.used.contains(&("services::allowed".into(), "put".into())));
    for (bad, called) in [
        ("fn bad(pool: &PgPool) { store::put(&mut pool.acquire()); }", "domain::put"),
        ("fn bad(pool: &PgPool) { let mut work = pool.begin(); store::outer(&mut work); }", "domain::outer"),
        ("fn bad(app: &App) { app.read(async |connection| store::put(connection).await); }", "domain::put"),
        ("fn bad(app: &App) { app.read(store::put); }", "domain::put"),
        ("fn bad(pool: &PgPool) { tokio::try_join!(store::put(&mut pool.acquire())); }", "domain::put"),
        ("fn bad(pool: &PgPool) { use store::put as find; find(&mut pool.acquire()); }", "domain::put"),
        ("fn bad(pool: &store::Pool) { pool.save(1); }", "domain::Pool::save"),
        ("fn bad(pool: &PgPool) { sqlx::query(store::SQL); }", "domain::SQL"),
        (
            "fn bad(connection: &mut PgConnection) { app.read(|connection| store::put(connection)); }",
            "domain::put",
        ),
        (
            "fn bad(mut connection: PgConnection) { let connection = pool.begin(); store::put(connection); }",
            "domain::put",
        ),
        (
            "fn bad(a: AuditedTransaction) { let c = a.connection(); app.read(|c| store::put(c)); }",
            "domain::put",
        ),
    ] {
        let expected =
            format!("src/services.rs:1: services::bad writes by {called} outside of an AuditedTransaction");
        assert_found(&writes_of(bad, &[]).wrong, &[&expected]);
    }
    let hidden = "macro_rules! bad { () => { sqlx::query(\"DELETE FROM t\") } }";
    assert_found(
        &writes_of(hidden, &[]).wrong,
        &["src/services.rs: a statement that writes is outside of functions: DELETE FROM t"],
    );
    let statement = "fn bad() { sqlx::query(\"DELETE FROM t\"); }";
    assert_found(
        &writes_of(statement, &[]).wrong,
        &["src/services.rs:1: services::bad contains a statement that writes: DELETE FROM t"],
    );
}

#[test]
fn writes_above_the_services_are_found() {
    let job = "fn run(work: AuditedTransaction) { crate::domain::put(work.connection()); }";
    assert_found(
        &writes_of("", &[("src/jobs.rs", job)]).wrong,
        &["src/jobs.rs:1: jobs::run writes by domain::put, and is no service"],
    );
    let service = "pub fn put(connection: &mut PgConnection) { store::put(connection); }";
    let command = "fn run(pool: &PgPool) { crate::services::put(&mut pool.acquire()); }";
    assert_found(
        &writes_of(service, &[("src/cli.rs", command)]).wrong,
        &["src/cli.rs:1: cli::run writes by services::put outside of an AuditedTransaction"],
    );
}

#[test]
fn statements_that_write_are_distinguished_from_reads() {
    for write in [
        "INSERT INTO t VALUES (1)",
        "insert into t values (1)",
        "WITH a AS (SELECT 1) UPDATE t x SET y = 1",
        "DELETE\n FROM t",
        "SELECT 1; TRUNCATE TABLE t",
        "COPY t FROM STDIN",
        "CREATE TABLE t ()",
        "CREATE UNIQUE INDEX i ON t (a)",
        "DROP TABLE audit_event_{partition}",
        "ALTER TABLE t ADD c int",
        "MERGE INTO t USING u",
        "SELECT nextval('status_block')",
        "SELECT audit_open_partition($1, $2)",
    ] {
        assert!(writes::is_write(write), "{write}");
    }
    for read in [
        "SELECT 1 FROM t FOR UPDATE",
        "SELECT id FROM t ORDER BY id FOR NO KEY UPDATE",
        "COPY (SELECT seq FROM t) TO STDOUT",
        "SELECT updated_at, created_at FROM t",
        "create the database first",
        "Drop a connection, update the rest.",
        "DELETE",
    ] {
        assert!(!writes::is_write(read), "{read}");
    }
}

#[test]
fn signatures_are_counted() {
    let code = with(&[(
        "src/services.rs",
        "trait Own { fn own(&self, a: bool); }
         impl std::fmt::Display for X { fn fmt(&self, a: (u8, u8)) {} }
         fn a((x, y): (u8, u8), b: &(u8, u8), c: Option<(u8, u8)>, d: ()) { fn inner(a: (u8, u8)) {} let f = |e: (u8, u8)| (); }
         impl X { fn six(&self, a: u8, b: u8, c: u8, d: u8, e: u8) {} fn five(&self, a: u8, b: u8, c: u8, d: u8) {} }
         fn nested() -> impl Future<Output = Result<Result<u8, A>, B>> {}
         fn flat() -> Result<Vec<Result<u8, A>>, B> {}
         #[cfg(test)] mod tests { fn a(b: bool) {} }",
    )]);
    let counted = signatures::findings(&code);
    let numbers: Vec<String> =
        counted.iter().map(|(kind, counts)| format!("{kind} {}", counts.total())).collect();
    assert_eq!(numbers, ["tuple 4", "boolean 1", "parameters 1", "result 1"]);
}

#[test]
fn crates_outside_of_their_folders_are_found() {
    let code = with(&[
        ("src/domain.rs", "fn a() { actix_web::web::get(); } fn b() { tracing_actix_web::root(); }"),
        ("src/services.rs", "use {std::fs, reqwest::Client};"),
        ("src/http.rs", "mod a;"),
        ("src/http/a.rs", "use actix_web::web;"),
    ]);
    let mut found = rules::strays(&code);
    found.sort();
    assert_found(
        &found,
        &[
            "src/domain.rs:1: actix_web::web::get is used outside of its folder",
            "src/services.rs:1: reqwest::Client is used outside of its folder",
        ],
    );
}

#[test]
fn impure_protocol_is_found() {
    let code = with(&[(
        SPECIFICATIONS.1,
        "use std::{env, fmt};
         fn a() { std::fs::read(); }
         async fn b() {}
         fn c(clock: &Clock) { async {}; }
         fn d(pool: &sqlx::PgPool) { tokio::spawn(1); }",
    )]);
    let mut lines: Vec<String> =
        rules::impure(&code).iter().map(|text| text.split(": ").next().unwrap().into()).collect();
    lines.sort();
    assert_found(
        &lines,
        &["1", "2", "3", "4", "4", "5", "5"]
            .map(|line| format!("{}:{line}", SPECIFICATIONS.1))
            .each_ref()
            .map(String::as_str),
    );
}

#[test]
fn commands_that_print_by_themselves_are_found() {
    let code = with(&[(
        "src/cli.rs",
        "fn a() { std::println!(\"\"); println!(\"\"); }
         fn b() { std::io::stdout().lock(); }
         fn c(config: &Config) { config.issuer(); }
         fn d(context: &Context) { context.config.issuer(); }",
    )]);
    let lines: Vec<String> =
        rules::commands(&code).iter().map(|text| text.split(": ").next().unwrap().into()).collect();
    assert_found(&lines, &["src/cli.rs:1", "src/cli.rs:2", "src/cli.rs:3"]);
}

#[test]
fn lines_above_tests_are_counted() {
    let code = example(
        &[SERVER],
        &[("src/lib.rs", "//! Promise.\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n")],
    );
    assert_eq!(code.files[0].lines_above_tests, 3);
    assert!(code.files[0].starts_with_a_promise);
}

#[test]
fn two_types_of_one_name_are_found_in_one_crate() {
    let code = with(&[
        ("src/domain.rs", "pub struct State; struct Row; pub enum Error { A } pub type Token = u8;"),
        (
            "src/platform.rs",
            "pub(crate) enum State { A } struct Row; pub struct Error; pub use crate::domain::Token;",
        ),
        (SPECIFICATIONS.1, "pub trait Token {}"),
    ]);
    assert_found(&rules::namesakes(&code), &["State is in src/platform.rs and src/domain.rs"]);
}
