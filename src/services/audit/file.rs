//! The form of files that verify offline: one document a line, at last what vouches for them; where they do not begin with the
//! first event, before them the edge of the tree that they go on from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::protocol::merkle::{Frontier, Hash};

/// The most documents that one line with hashes is about; lines end at multiples of it.
pub(super) const GROUP: u64 = 512;

/// Whether a line is an event: documents are canonical, so that none begins with the member of another line.
pub(super) fn is_document(line: &[u8]) -> bool {
    let others: [&[u8]; 3] = [b"{\"checkpoint\"", b"{\"from\"", b"{\"leaves\""];
    !others.iter().any(|other| line.starts_with(other))
}

/// The last line: a checkpoint, and the key that verifies it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointLine {
    pub checkpoint: String,
    pub key: String,
}

impl CheckpointLine {
    /// Reads the line; `None` if it is none.
    pub fn parse(line: &str) -> Option<Self> {
        // Documents begin otherwise, and there are many of them.
        line.starts_with("{\"checkpoint\"").then(|| serde_json::from_str(line).ok()).flatten()
    }
}

/// The first line of a file that does not begin with the first event: how many come before, and the tree over those.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontierLine {
    /// The `seq` of the first event.
    pub from: u64,
    /// Roots of the perfect subtrees over the events before, largest first, in base64.
    pub peaks: Vec<String>,
}

impl FrontierLine {
    /// What a file says that begins behind an edge.
    pub fn behind(frontier: &Frontier) -> Self {
        let peaks = frontier.peaks().iter().map(|peak| STANDARD.encode(peak)).collect();
        Self { from: frontier.size(), peaks }
    }

    /// Reads the line; `None` if it is none.
    pub fn parse(line: &str) -> Option<Self> {
        line.starts_with("{\"from\"").then(|| serde_json::from_str(line).ok()).flatten()
    }

    /// The edge; `None` if its hashes do not fit its size.
    pub fn frontier(&self) -> Option<Frontier> {
        let peak = |text: &String| STANDARD.decode(text).ok()?.try_into().ok();
        Frontier::from_parts(self.from, self.peaks.iter().map(peak).collect::<Option<_>>()?)
    }
}

/// A line behind at most [`GROUP`] documents: their leaves. Not needed to verify a file, and not believed: with it, the one
/// document that was changed can be named.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeavesLine {
    /// The hashes one after the other, in base64.
    leaves: String,
    /// The `seq` after the last document.
    pub(super) to: u64,
}

impl LeavesLine {
    pub(super) fn of(hashes: &[Hash], to: u64) -> Self {
        Self { leaves: STANDARD.encode(hashes.concat()), to }
    }

    /// Reads the line; `None` if it is none.
    pub(super) fn parse(line: &str) -> Option<Self> {
        line.starts_with("{\"leaves\"").then(|| serde_json::from_str(line).ok()).flatten()
    }

    pub(super) fn hashes(&self) -> Option<Vec<Hash>> {
        let bytes = STANDARD.decode(&self.leaves).ok()?;
        bytes.chunks(32).map(|hash| Hash::try_from(hash).ok()).collect()
    }
}

/// What an editor or a shell has made of a file on its way, which says nothing about the log.
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
