//! Checks the three rules at the top of `src/lib.rs`, and conventions that the compiler cannot check:
//!
//! 1. Arrows point down: a floor refers to itself and to the floors that [`FLOORS`] names for it.
//! 2. No circles between files.
//! 3. Every write is a service and ends in an event: a function that writes is called with the connection of an
//!    `AuditedTransaction`, also in a closure (`calls.rs`). [`UNAUDITED`] has the exceptions.
//! 4. No tuple parameters, no boolean parameters, at most five parameters, no `Result<Result<…>>`.
//! 5. A file says what it promises, and has at most [`MOST_LINES`] lines above its tests.
//! 6. A crate of [`OWNERS`] is used in its folder only. What an RFC says is pure.
//! 7. Commands print in one place.
//! 8. What decides about authority drops no error and takes no default, but for [`DEFAULTS`].
//! 9. A type that other modules can use has a name of its own in its crate.
//!
//! The code is read with `syn`, and paths are followed through imports and re-exports (`code.rs`, `visitor.rs`). Types are
//! not known: a method is found by its name. Code under `#[cfg(test)]` is left out. What breaks rules 2 and 4 today is in
//! `debt.txt`, which only shrinks.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod calls;
mod circles;
mod code;
mod debt;
mod examples;
mod references;
mod rules;
mod signatures;
mod syntax;
mod visitor;
mod writes;

/// The crates by name, with their first file. The others follow from `mod`.
const ROOTS: [(&str, &str); 6] = [
    (CLIENT, "crates/client/src/lib.rs"),
    (POSTGRES, "crates/embedded-postgres/src/lib.rs"),
    (PROTOCOL, "crates/protocol/src/lib.rs"),
    (TESTKIT, "crates/testkit/src/lib.rs"),
    ("actchain", "src/lib.rs"),
    ("main", "src/main.rs"),
];

/// From the bottom up: what a floor may refer to besides itself. Modules of `actchain` without the name of the crate. Entry
/// points do not refer to each other, except the command line, which starts the other two.
const FLOORS: [(&str, &[&str]); 12] = [
    (POSTGRES, &[]),
    (PROTOCOL, &[]),
    (CLIENT, &[PROTOCOL]),
    (TESTKIT, &[PROTOCOL]),
    ("platform", &[POSTGRES, PROTOCOL]),
    ("domain", &["platform", PROTOCOL]),
    ("app", &["platform", PROTOCOL, "domain"]),
    ("services", &["platform", PROTOCOL, "domain", "app"]),
    ("http", &["platform", PROTOCOL, "domain", "app", "services"]),
    ("jobs", &["platform", PROTOCOL, "domain", "app", "services"]),
    ("cli", &[POSTGRES, CLIENT, "platform", PROTOCOL, "domain", "app", "services", "http", "jobs"]),
    ("main", &["cli"]),
];

const PROTOCOL: &str = "actchain_protocol";
const CLIENT: &str = "actchain_client";
const TESTKIT: &str = "actchain_testkit";
const POSTGRES: &str = "actchain_embedded_postgres";

/// The floors of stores, and the floor of services, which alone may call what writes.
const STORES: [&str; 3] = ["domain", "platform", POSTGRES];
const SERVICES: &str = "services";

/// Functions that write without an `AuditedTransaction`: what they write by (`SQL` is a statement of their own), and why.
#[rustfmt::skip]
const UNAUDITED: &[(&str, &str, &str)] = &[
    ("services::console::session::open", "mark_seen", "when a session was last used; no authority depends on a later time alone"),
    ("services::console::sign_in::begin", "insert", "a sign-in that has begun gives nothing; its end is an event"),
    ("services::console::callback::process", "take", "a sign-in is used once; its end is an event"),
    ("services::console::logout::log_out", "put_logout remove_logout", "a token that is used once; the sessions that it ends are events"),
    ("services::transaction::AuditedTransaction::commit", "raise_epoch append_events mark_logged", "the transaction itself"),
    ("domain::person::cache::PersonCache::assign_names", "put_persons", "names of persons, before the events that need them"),
    ("domain::ledger::batch::record", "insert load write issue_and_count put_anchors append_at put", "appends the events of its entries"),
    ("services::audit::archive::try_forget", "mark_archived append_events drop_partition put_leaves forget_leaves", "appends its event under the lock of the head"),
    ("services::audit::archive::archive_partition", "forget_postings", "index of events that were archived with an event"),
    ("services::audit::checkpoint::checkpoint_on", "insert_checkpoint", "signs the events and is none"),
    ("services::audit::archive::checkpoint_line_at", "insert_checkpoint", "signs the events and is none"),
    ("services::audit::verification::step", "replace", "the result of a check; no decision depends on it"),
    ("services::audit::log_state::keep_comparison", "replace", "that a person has compared a checkpoint; no decision depends on it"),
    ("services::audit::index::run_once", "index_next_block", "the index follows from the events"),
    ("services::audit::index::open_partition", "open", "where events are kept; none depends on it"),
    ("services::expiry::record", "mark_revoked_by_ancestor", "the log has the revocation of the ancestor"),
    ("services::standing_grants::expiry::record_expiries", "mark_revoked_with_principal", "the log has the revoke-all"),
    ("services::request_context::RequestContext::update_stored_result", "store_result", "a count, after the commit of the change"),
    ("services::register_server::register_server", "put", "where the server listens; gives no authority"),
    ("services::sinks::deliver::run", "mark_leased mark_released", "the lease of a sink"),
    ("services::sinks::deliver::DeliveryRun::advance", "mark_delivered", "the cursor of a sink"),
    ("services::sinks::deliver::DeliveryRun::replay", "remove_dead_letter put_dead_letter", "a second delivery, asked for with an event"),
    ("services::sinks::deliver::DeliveryRun::refused", "mark_failed", "when to deliver again"),
    ("services::sinks::deliver::DeliveryRun::dead_letter_silently", "store_dead_letter", "two failing sinks would cause events without end"),
    ("services::sinks::notifications::NotificationRun::collect", "put_pending mark_collected", "the cursor of a sink, and what waits by the log"),
    ("services::sinks::notifications::NotificationRun::notify", "mark_collected mark_notified", "the lease of a sink, and that nothing waits any more"),
    ("services::sinks::notifications::NotificationRun::accepted", "mark_notified mark_accepted", "that a message was sent"),
    ("services::sinks::notifications::NotificationRun::refused", "mark_postponed mark_failed", "when to send again"),
    ("services::sinks::notifications::NotificationRun::replay", "mark_collected put_pending remove_dead_letter", "a second message, asked for with an event"),
    ("services::sinks::notifications::run", "delete_idle", "recipients for whom nothing waits"),
    ("services::issuer_metadata::watch", "mark_begun", "the lease of a check"),
    ("services::issuer_metadata::mark_checked", "mark_checked", "when to read again"),
    ("services::registrars::deliver::run", "mark_leased", "the lease of a registration"),
    ("services::registrars::deliver::turn", "mark_failed", "when to call the registrar again; the fifth time is an event"),
    ("services::vault::refresh::fresh", "mark_leased mark_released", "the lease of a connection"),
    ("services::vault::refresh::attempt", "mark_extended", "the lease of a connection"),
    ("services::vault::refresh::rest", "mark_resting", "when to call the provider again"),
    ("services::vault::refresh::reject", "mark_rejected", "the next retrieval renews the credential"),
    ("services::vault::disconnect::revoke_at_provider", "mark_resting", "when to call the provider again"),
    ("services::vault::disconnect::forget_ended", "delete_ended", "what has ended; the log has its end"),
    ("services::vault::unused_tokens::keep_for_job", "keep", "tokens that were never of use, to be revoked"),
    ("services::vault::unused_tokens::revoke", "mark_unused_resting delete_unused", "when to call the provider again, and that it was called"),
    ("domain::status::store::next_block", "SQL", "a sequence; unused numbers mean nothing"),
    ("domain::ledger::baselines::learn", "learn_targets learn_depths", "what was usual before the events of its batch"),
    ("domain::ledger::sessions::assign", "continue_or_begin", "the session that the events of its batch name"),
    ("jobs::sweep::run_once", "forget delete_old delete_idle", "deletes what has expired"),
    ("platform::db::MIGRATIONS", "SQL", "tables, before there is a log"),
    ("actchain_embedded_postgres::postmaster::Postmaster::make_database", "SQL", "a database, before there is a log"),
    ("cli::backup::ROLE", "SQL", "a role, before there is a log"),
];

/// What decides about authority. There, no default takes the place of an error or of a missing value.
const DECIDING: [&str; 21] = [
    "src/domain/authority/",
    "src/domain/ceremony/",
    "src/domain/client/",
    "src/domain/delegation/",
    "src/domain/idempotency/",
    "src/domain/issuer/",
    "src/domain/ledger/",
    "src/domain/limit.rs",
    "src/domain/principal/",
    "src/domain/refresh_token/",
    "src/domain/registry/",
    "src/domain/row_mac.rs",
    "src/domain/status/",
    "src/domain/token/",
    "src/services/access_token_auth.rs",
    "src/services/client_authentication.rs",
    "src/services/introspect.rs",
    "src/services/revoke_token.rs",
    "src/services/status_lists.rs",
    "src/services/token_exchange/",
    "src/services/verify_token.rs",
];

/// Methods that drop an error, or replace it or a missing value by a default.
const DEFAULTING: [&str; 2] = ["ok", "unwrap_or_default"];

/// Functions that may call them, and why that gives no authority.
#[rustfmt::skip]
const DEFAULTS: &[(&str, &str)] = &[
    ("domain::authority::grant::grant", "a token without a delegation has an empty path"),
    ("domain::authority::may_act::unrecorded_delegation", "the number is within its bounds"),
    ("domain::client::GrantType::parse", "an unknown grant type allows nothing, and changes what the MAC covers"),
    ("domain::client::Client::try_from", "without usable keys, no assertion is verified"),
    ("domain::client::without_key", "a key that cannot be used is never accepted"),
    ("domain::delegation::Delegation::pending_jkt", "shown only"),
    ("domain::delegation::list::Cursor::parse", "the caller refuses the cursor"),
    ("domain::issuer::Issuer::with_keys", "without usable keys, no token is verified"),
    ("domain::ledger::snapshot::from_rows", "a place that is no number is a fault"),
    ("services::client_authentication::claimed_id", "an assertion that cannot be read names no client"),
    ("services::revoke_token::revoke", "the path in the event; the delegation may be deleted"),
    ("services::token_exchange::choose::granted", "cached paths that grant nothing are read again"),
    ("services::verify_token::from_own", "a token without details allows none"),
];

/// Functions whose writes a search by name has missed. Rule 3 has to see them.
const WRITERS: [&str; 10] = [
    "domain::client::changes::put_keys",
    "domain::client::changes::put_removed_keys",
    "domain::principal::store::put_revocation",
    "domain::idempotency::store::put_result",
    "domain::sink::store::put_dead_letter",
    "domain::audit::partitions::open",
    "domain::audit::partitions::drop_partition",
    "domain::audit::partitions::forget_postings",
    "domain::audit::index::index_next_block",
    "domain::ledger::sweep::forget",
];

/// Crates that only one folder may use.
const OWNERS: [(&str, &[&str]); 10] = [
    // The demo's provider is a third party: it shares no code with the server.
    ("actix_web", &["src/http/", "src/cli/demo/provider/", "crates/testkit/src/provider/"]),
    ("maud", &["src/http/console/"]),
    ("jsonwebtoken", &["crates/protocol/src/jose/"]),
    ("josekit", &["crates/protocol/src/jose/"]),
    ("p256", &["crates/protocol/src/jose/"]),
    ("curve25519_dalek", &["crates/protocol/src/jose/"]),
    ("reqwest", &["crates/client/", "crates/testkit/", "src/platform/outbound/", "src/cli/demo"]),
    ("lettre", &["src/platform/outbound/"]),
    ("clap", &["src/cli/", "src/main.rs"]),
    ("governor", &["src/domain/rate_limit.rs"]),
];

/// What the protocol does without, besides `async`.
const IMPURE: [&[&str]; 5] = [&["sqlx"], &["tokio"], &["std", "fs"], &["std", "env"], &["Clock"]];

/// Names of types that each file with a command or an error may have.
const IDIOMS: [&str; 3] = ["Args", "Command", "Error"];

/// The most lines of a file above its tests.
const MOST_LINES: usize = 400;
