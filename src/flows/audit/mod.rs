//! Checkpoints, verification and export of the log. Verification and export only read.

pub mod archive;
pub mod ask;
mod checkpoint;
pub mod evidence;
pub mod export;
mod extract;
mod file;
pub mod follow;
pub mod index;
mod narrow;
pub mod prove;
pub mod transparency;
mod verify;
mod verify_archived;
mod verify_file;

pub use self::checkpoint::{checkpoint, checkpoint_if_due, log_keys, published_key};
pub use self::file::{Beginning, Voucher};
pub use self::verify::{Kept, Progress, Report, verify_database, verify_database_shown};
pub use self::verify_file::{verify_export, verify_export_shown};

/// The name of the log: our issuer without its scheme, and `/audit` (c2sp.org/tlog-checkpoint).
pub fn origin(issuer: &str) -> String {
    let bare = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    format!("{}/audit", bare.trim_end_matches('/'))
}
