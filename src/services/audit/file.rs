//! Format of files that verify offline: one document a line, checkpoints at the end. A file that does not begin with
//! the first event starts with the tree frontier before its events.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use actchain_protocol::merkle::{Frontier, Hash};

/// Maximum number of documents covered by one line of leaves; groups end at multiples of it.
pub(super) const GROUP: u64 = 512;

/// Whether a line is a document. Documents are canonical JSON, so none begins with the first member of another line.
pub(super) fn is_document(line: &[u8]) -> bool {
    let others: [&[u8]; 3] = [b"{\"checkpoint\"", b"{\"from\"", b"{\"leaves\""];
    !others.iter().any(|other| line.starts_with(other))
}

/// The last line: a checkpoint and the key that verifies it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointLine {
    pub checkpoint: String,
    pub key: String,
}

impl CheckpointLine {
    /// Parses the line; `None` for another kind of line.
    pub fn parse(line: &str) -> Option<Self> {
        // Most lines are documents; the prefix avoids parsing them.
        line.starts_with("{\"checkpoint\"").then(|| serde_json::from_str(line).ok()).flatten()
    }
}

/// The first line of a file that does not begin with the first event: the number of earlier events and the tree over
/// them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontierLine {
    /// The `seq` of the first event.
    pub from: u64,
    /// Roots of the perfect subtrees over the events before, largest first, in base64.
    pub peaks: Vec<String>,
}

impl FrontierLine {
    /// The line for a file that begins after the frontier.
    pub fn behind(frontier: &Frontier) -> Self {
        let peaks = frontier.peaks().iter().map(|peak| STANDARD.encode(peak)).collect();
        Self { from: frontier.size(), peaks }
    }

    /// Parses the line; `None` for another kind of line.
    pub fn parse(line: &str) -> Option<Self> {
        line.starts_with("{\"from\"").then(|| serde_json::from_str(line).ok()).flatten()
    }

    /// The frontier; `None` if the hashes do not match the size.
    pub fn frontier(&self) -> Option<Frontier> {
        let peak = |text: &String| STANDARD.decode(text).ok()?.try_into().ok();
        Frontier::from_parts(self.from, self.peaks.iter().map(peak).collect::<Option<_>>()?)
    }
}

/// The leaves of at most [`GROUP`] preceding documents. Verification neither needs nor trusts them; they help to name
/// the changed document.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeavesLine {
    /// The hashes, concatenated, in base64.
    leaves: String,
    /// The `seq` after the last document.
    pub(super) to: u64,
}

impl LeavesLine {
    pub(super) fn of(hashes: &[Hash], to: u64) -> Self {
        Self { leaves: STANDARD.encode(hashes.concat()), to }
    }

    /// Parses the line; `None` for another kind of line.
    pub(super) fn parse(line: &str) -> Option<Self> {
        line.starts_with("{\"leaves\"").then(|| serde_json::from_str(line).ok()).flatten()
    }

    pub(super) fn hashes(&self) -> Option<Vec<Hash>> {
        let bytes = STANDARD.decode(&self.leaves).ok()?;
        bytes.chunks(32).map(|hash| Hash::try_from(hash).ok()).collect()
    }
}

/// A conversion by an editor or shell, which says nothing about the log.
pub(super) fn conversion(first: &[u8]) -> Option<&'static str> {
    let marks: [(&[u8], &str); 5] = [
        (b"\xef\xbb\xbf", "it begins with a byte order mark"),
        (b"\xff\xfe", "it is UTF-16"),
        (b"\xfe\xff", "it is UTF-16"),
        (b"\x1f\x8b", "it is compressed with gzip"),
        (b"\x28\xb5\x2f\xfd", "it is compressed with zstd"),
    ];
    marks.into_iter().find(|(mark, _)| first.starts_with(mark)).map(|(_, what)| what)
}
