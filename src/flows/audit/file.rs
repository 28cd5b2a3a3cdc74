//! The form of files that verify offline: one document a line, at last what vouches for them; where they do not begin with the
//! first event, before them the edge of the tree that they go on from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::protocol::merkle::Frontier;

/// Whether a line is an event: documents are canonical, so that none begins with the member of another line.
pub(super) fn is_document(line: &[u8]) -> bool {
    let others: [&[u8]; 3] = [b"{\"checkpoint\"", b"{\"from\"", b"{\"leaves\""];
    !others.iter().any(|other| line.starts_with(other))
}

/// The last line: a checkpoint, and the key that verifies it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voucher {
    /// A signed note.
    pub checkpoint: String,
    /// As `name+id+key`.
    pub key: String,
}

impl Voucher {
    /// Reads the line; `None` if it is none.
    pub fn parse(line: &str) -> Option<Self> {
        // Documents begin otherwise, and there are many of them.
        line.starts_with("{\"checkpoint\"").then(|| serde_json::from_str(line).ok()).flatten()
    }
}

/// The first line of a file that does not begin with the first event: how many come before, and the tree over those.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beginning {
    /// The `seq` of the first event.
    pub from: u64,
    /// Roots of the perfect subtrees over the events before, largest first, in base64.
    pub peaks: Vec<String>,
}

impl Beginning {
    /// What a file says that begins behind an edge.
    pub fn behind(edge: &Frontier) -> Self {
        let peaks = edge.peaks().iter().map(|peak| STANDARD.encode(peak)).collect();
        Self { from: edge.size(), peaks }
    }

    /// Reads the line; `None` if it is none.
    pub fn parse(line: &str) -> Option<Self> {
        line.starts_with("{\"from\"").then(|| serde_json::from_str(line).ok()).flatten()
    }

    /// The edge; `None` if its hashes do not fit its size.
    pub fn edge(&self) -> Option<Frontier> {
        let peak = |text: &String| STANDARD.decode(text).ok()?.try_into().ok();
        Frontier::from_parts(self.from, self.peaks.iter().map(peak).collect::<Option<_>>()?)
    }
}
