//! The result of a verification, and what a verifier trusts and shows.

use std::path::PathBuf;

use serde::Serialize;

use crate::domain::audit::index_check::IndexError;
use crate::domain::audit::verify::{IntegrityError, IntegrityErrorKind, VerifyError};
use crate::domain::audit::witness::Witnesses;
use crate::platform::fault::Fault;
use actchain_protocol::digest::hex;
use actchain_protocol::merkle::Frontier;
use actchain_protocol::signed_note::{Checkpoint, VerifierKey};

/// Result of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub valid: bool,
    /// `seq` of the first verified event; earlier events are covered by the trusted checkpoint.
    pub from: u64,
    /// Number of valid events, counted from the first event of the log.
    pub events: u64,
    /// Number of events of which only the leaf was checked, because they are archived and their files were not
    /// available. If it is not 0, the command exits 2.
    pub hashes_only: u64,
    /// Root over all events, in hexadecimal; only where the log is valid.
    pub root: Option<String>,
    /// Number of checkpoints that were compared with the log.
    pub checkpoints: usize,
    /// Size of the largest compared checkpoint. No signature covers later events.
    pub vouched: u64,
    /// Size of the largest compared checkpoint that a quorum of the known witnesses has cosigned. If witnesses are known
    /// and there is none, the command exits 2.
    pub witnessed: Option<u64>,
    pub integrity_error: Option<IntegrityError>,
    /// The place in the index, if the integrity error is an error of the index.
    pub index_error: Option<IndexError>,
}

impl Report {
    /// The report of a verification from the first event on.
    ///
    /// # Errors
    /// The fault that prevented the verification.
    pub(super) fn of(result: Result<Frontier, VerifyError>, checkpoints: usize) -> Result<Self, Fault> {
        match result {
            Ok(tree) => Ok(Self {
                valid: true,
                from: 0,
                events: tree.size(),
                hashes_only: 0,
                root: Some(hex(&tree.root())),
                checkpoints,
                vouched: 0,
                witnessed: None,
                integrity_error: None,
                index_error: None,
            }),
            Err(VerifyError::Integrity(IntegrityError { seq, kind })) => {
                Ok(Self::invalid(seq, kind, checkpoints))
            }
            Err(VerifyError::Failed(fault)) => Err(fault),
        }
    }

    /// The report of an integrity error.
    pub(super) fn invalid(seq: u64, kind: IntegrityErrorKind, checkpoints: usize) -> Self {
        Self {
            valid: false,
            from: 0,
            events: seq,
            hashes_only: 0,
            root: None,
            checkpoints,
            vouched: 0,
            witnessed: None,
            integrity_error: Some(IntegrityError { seq, kind }),
            index_error: None,
        }
    }

    /// The report of a valid log after the check of its index.
    pub(super) fn with_index(self, error: Option<IndexError>) -> Self {
        match error {
            None => self,
            Some(error) => Self {
                from: self.from,
                index_error: Some(error),
                ..Self::invalid(error.error.seq, error.error.kind, self.checkpoints)
            },
        }
    }

    /// Sets the number of compared checkpoints; checkpoints smaller than `from` do not count.
    pub(super) fn compared_with(self, checkpoints: &[Checkpoint]) -> Self {
        let sizes: Vec<u64> =
            checkpoints.iter().map(|one| one.size).filter(|size| *size >= self.from).collect();
        Self { checkpoints: sizes.len(), vouched: sizes.into_iter().max().unwrap_or_default(), ..self }
    }

    /// Sets the size up to which witnesses vouch. The notes were compared with the log, which is valid.
    pub(super) fn witnessed_in<'a>(
        self,
        notes: impl Iterator<Item = &'a String>,
        anchors: &TrustAnchors,
    ) -> Self {
        let sizes = notes.filter_map(|note| anchors.witnesses.cosigned_size(note));
        let witnessed = sizes.filter(|size| self.valid && *size >= self.from).max();
        Self { witnessed: witnessed.max(self.witnessed), ..self }
    }
}

/// Trust anchors kept outside the database: keys and checkpoints.
#[derive(Debug, Clone, Default)]
pub struct TrustAnchors {
    /// Keys trusted to sign checkpoints; if empty, the keys in the database or file are used.
    pub keys: Vec<VerifierKey>,
    pub notes: Vec<String>,
    /// The checkpoint up to which all events are trusted.
    pub from: Option<String>,
    /// Folder with the archive files.
    pub archives: Option<PathBuf>,
    /// Witnesses that are trusted to have seen the log.
    pub witnesses: Witnesses,
}

/// Called with the number of verified events and the total.
pub type ProgressCallback<'a> = &'a mut (dyn FnMut(u64, u64) + Send);
