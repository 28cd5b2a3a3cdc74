//! Checkpoints, verification and export of the log. Verification and export only read.

pub mod ask;
mod checkpoint;
mod export;
pub mod follow;
pub mod index;
pub mod prove;
pub mod transparency;
mod verify;

pub use self::checkpoint::{checkpoint, log_keys, published_key};
pub use self::export::export;
pub use self::verify::{Kept, Report, verify_database, verify_export};

/// The name of the log: our issuer without its scheme, and `/audit` (c2sp.org/tlog-checkpoint).
pub fn origin(issuer: &str) -> String {
    let bare = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    format!("{}/audit", bare.trim_end_matches('/'))
}
