//! Finds the changed document in a file after its root failed to match a checkpoint. The leaves in the file are
//! trusted only if they give the root of a checkpoint.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;

use super::file::{LeavesLine, is_document};
use super::file_reader::each_line;
use crate::platform::fault::Fault;
use actchain_protocol::merkle::{self, Frontier, Hash};
use actchain_protocol::signed_note::Checkpoint;

/// Maximum number of documents that wait for their leaves; in a complete file, half as many do.
const WAITING: usize = 1_024;

/// The `seq` of the first document that differs from its leaf in the file, if the leaves match a checkpoint.
pub(super) fn changed_document(
    path: &Path,
    frontier: &Frontier,
    checkpoints: &[Checkpoint],
) -> Result<Option<u64>, Fault> {
    let mut comparison = LeafComparison {
        stated: frontier.clone(),
        waiting: VecDeque::new(),
        checkpoints,
        mismatch: None,
        proven: false,
    };
    each_line(path, |line| {
        if is_document(line) {
            comparison.waiting.push_back(merkle::leaf(line));
            if comparison.waiting.len() > WAITING {
                comparison.pass(None);
            }
        } else if let Some(leaves) = LeavesLine::parse(&String::from_utf8_lossy(line)) {
            comparison.compare(&leaves);
        }
        if comparison.proven { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    while !comparison.proven && !comparison.waiting.is_empty() {
        comparison.pass(None);
    }
    Ok(comparison.mismatch.filter(|_| comparison.proven))
}

struct LeafComparison<'a> {
    /// The tree over the leaves in the file, or of the documents where the file has no leaves.
    stated: Frontier,
    /// The leaves of the documents after that tree.
    waiting: VecDeque<Hash>,
    checkpoints: &'a [Checkpoint],
    mismatch: Option<u64>,
    /// Whether a checkpoint after the mismatch has the root of the stated tree.
    proven: bool,
}

impl LeafComparison<'_> {
    fn compare(&mut self, leaves: &LeavesLine) {
        let Some(hashes) = leaves.hashes() else { return };
        let first = leaves.to.saturating_sub(hashes.len() as u64);
        while !self.proven && !self.waiting.is_empty() && self.stated.size() < leaves.to {
            let place = self.stated.size().checked_sub(first).and_then(|place| usize::try_from(place).ok());
            self.pass(place.and_then(|place| hashes.get(place)).copied());
        }
    }

    /// Accepts the next document with its leaf in the file.
    fn pass(&mut self, stated: Option<Hash>) {
        let Some(leaf) = self.waiting.pop_front() else { return };
        let seq = self.stated.size();
        if stated.is_some_and(|stated| stated != leaf) {
            self.mismatch = self.mismatch.or(Some(seq));
        }
        self.stated.push(stated.unwrap_or(leaf));
        let size = self.stated.size();
        let mut here = self.checkpoints.iter().filter(|one| one.size == size);
        self.proven = self.mismatch.is_some() && here.any(|one| one.root == self.stated.root());
    }
}
