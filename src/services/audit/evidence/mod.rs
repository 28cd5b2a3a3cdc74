//! Evidence of who acted for a user, and with what authority: the events and their proofs, the signed checkpoint, the log's
//! keys, and reports computed from the events. It verifies offline.

mod collect;
mod download;
mod folder;
mod package;
mod verify;

pub use self::download::{EvidenceArchive, of_chain, of_event};
pub use self::folder::{EvidenceOptions, Written, gather};
pub use self::verify::{EvidenceReport, is_evidence, verify_evidence};
