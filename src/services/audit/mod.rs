//! Checkpoints, verification and export of the log. Verification and export only read.

pub mod archive;
mod archive_file;
pub mod archived;
pub mod chain_count;
pub mod chains;
mod checkpoint;
pub mod cosignatures;
pub mod decisions;
pub mod evidence;
pub mod export;
mod file;
mod file_reader;
pub mod follow;
pub mod health;
pub mod hourly_counts;
pub mod index;
mod log_evaluation;
pub mod log_names;
pub mod log_state;
mod narrow;
pub mod query;
pub mod registration;
mod report;
pub mod session_export;
mod session_sarif;
pub mod sessions;
mod snapshot;
mod trace_keys;
pub mod transparency;
pub mod verification;
mod verify;
mod verify_archived;
mod verify_events;
mod verify_file;
mod verify_index;
mod verify_portion;
pub mod verify_receipt;
mod verify_selection;

pub use self::checkpoint::{LogSigner, checkpoint, checkpoint_if_due, log_keys, other_origin, published_key};
pub use self::file::{CheckpointLine, FrontierLine};
pub use self::report::{ProgressCallback, Report, TrustAnchors};
pub use self::verify::{LogDatabase, VerifyScope, verify_database, verify_database_shown};
pub use self::verify_file::{verify_export, verify_export_shown};

/// The log's origin: the issuer without its scheme, and `/audit` (c2sp.org/tlog-checkpoint).
pub fn origin(issuer: &str) -> String {
    let bare = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    format!("{}/audit", bare.trim_end_matches('/'))
}
