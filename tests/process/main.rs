//! Tests of the program itself: processes that are started, killed and called, with the embedded default.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, unreachable_pub, reason = "tests read the clock and the environment")]

mod apply_commands;
mod audit_commands;
mod audit_evidence;
mod backup;
mod commands;
mod connection_commands;
mod crash;
mod data_directory;
mod delegation_commands;
mod demo;
mod embedded;
mod external;
mod grant_commands;
mod limits;
mod outbound_settings;
mod output;
mod principal_commands;
mod proxies;
mod refusals_in_the_log;
mod rule_commands;
mod schema;
mod session_commands;
mod sink_crash;
mod stage;
mod token_commands;
mod top;
mod top_terminal;
mod vault_crash;
mod witness;
