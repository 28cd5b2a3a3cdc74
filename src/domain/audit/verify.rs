//! Verifies the log: the `seq` and form of every document, the tree of all documents, and the checkpoints.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::platform::fault::Fault;
use actchain_protocol::canonical_json::{self, Canonical};
use actchain_protocol::merkle::{self, Frontier, Hash, TileBuilder, TileRoot};
use actchain_protocol::signed_note::Checkpoint;

/// The first error in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrityError {
    /// The `seq` of the error; for a wrong root, the size of the tree.
    pub seq: u64,
    pub kind: IntegrityErrorKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntegrityErrorKind {
    /// No document has this `seq`.
    Gap,
    /// The document is not canonical JSON.
    Document,
    /// The document has a different `seq` than its row.
    Order,
    /// The stored leaf is not the hash of the document.
    Leaf,
    /// The documents up to here do not produce the root of the head or of a tile.
    Root,
    /// The documents up to here do not produce the root of a checkpoint.
    Checkpoint,
    /// A checkpoint has no signature of a trusted key, or has an invalid signature.
    Signature,
    /// A checkpoint or the head states more documents than there are.
    Truncated,
    /// There are more documents than the head or a checkpoint states.
    Surplus,
    /// The inclusion proof of an event does not lead to the root of the checkpoint.
    Proof,
    /// A stored checkpoint is not a signed note with a size and a root.
    Unreadable,
    /// The archive file is not the file in the signed statement of the log.
    Archive,
    /// An event is in another partition than its `seq` says, or the partitions are not consecutive.
    Partition,
    /// The times of a block are not those of its events.
    BlockTime,
    /// A posting lacks an event that has its term, or has another event.
    Posting,
    /// The personal data beside the document is not what the document names by its digest.
    Personal,
}

impl IntegrityErrorKind {
    /// What a person reads about the error.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Gap => "The event is missing.",
            Self::Document => "The document of the event is not canonical JSON.",
            Self::Order => "The document has another number than its row.",
            Self::Leaf => "The document of the event was changed: it does not have the stored hash.",
            Self::Root => "The events up to here do not give the stored root.",
            Self::Checkpoint => "The events up to here do not give the root of a checkpoint.",
            Self::Signature => {
                "A checkpoint over this many events has a signature that is missing or not valid."
            }
            Self::Truncated => "Events are missing from here to the end.",
            Self::Surplus => "There are more events than the log states.",
            Self::Proof => "The proof of the event does not lead to the root of the checkpoint.",
            Self::Unreadable => "A checkpoint over this many events cannot be read.",
            Self::Archive => "The archive file is not the file that the log names.",
            Self::Partition => "The event is in a partition of other events.",
            Self::BlockTime => "The stored times of a block are not those of its events.",
            Self::Posting => "The index does not have the event, or has it where it does not belong.",
            Self::Personal => "The personal data beside the event is not what its document names.",
        }
    }
}

/// Why a verification ended before the end of the log.
#[derive(Debug)]
pub enum VerifyError {
    /// The first error of the log.
    Integrity(IntegrityError),
    /// The log could not be read.
    Failed(Fault),
}

impl From<IntegrityError> for VerifyError {
    fn from(error: IntegrityError) -> Self {
        Self::Integrity(error)
    }
}

impl From<Fault> for VerifyError {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

/// Result of checking one document without the earlier documents.
#[derive(Debug, Clone, Copy)]
pub struct DocumentCheck {
    canonical: Option<Canonical>,
    leaf: Hash,
}

impl DocumentCheck {
    /// The `seq` in the document.
    pub fn seq(&self) -> Option<u64> {
        self.canonical.and_then(|canonical| canonical.seq)
    }
}

/// Parses and hashes a document.
pub fn check_document(document: &[u8]) -> DocumentCheck {
    let canonical = std::str::from_utf8(document).ok().and_then(canonical_json::check);
    DocumentCheck { canonical, leaf: merkle::leaf(document) }
}

/// Number of cores that a verification uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    All,
    /// For a server that has other work.
    One,
}

/// Checks documents; this is nearly all the cost of verification.
pub fn check_documents(documents: &[&[u8]], cores: Cores) -> Vec<DocumentCheck> {
    on_cores(cores, documents, |document| check_document(document))
}

/// Maximum number of threads, and minimum number of items per thread.
const MAX_THREADS: usize = 8;
const MIN_ITEMS_PER_THREAD: usize = 256;

/// Does the same work with each item, and returns the results in the order of the items.
pub fn on_cores<T: Sync, R: Send>(cores: Cores, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = match cores {
        Cores::All => std::thread::available_parallelism().map_or(1, usize::from),
        Cores::One => 1,
    };
    let threads = cores.min(MAX_THREADS).min(items.len() / MIN_ITEMS_PER_THREAD).max(1);
    let share = items.len().div_ceil(threads).max(1);
    let work = &work;
    let do_share = move |share: &[T]| share.iter().map(work).collect::<Vec<R>>();
    let mut shares = items.chunks(share);
    let own = shares.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = shares.map(|share| (share, scope.spawn(move || do_share(share)))).collect();
        let mut results = do_share(own);
        for (share, other) in others {
            results.extend(other.join().unwrap_or_else(|_| do_share(share)));
        }
        results
    })
}

/// Verifies a log in one pass, in order.
#[derive(Debug, Default)]
pub struct LogVerifier {
    tree: TileBuilder,
    /// Checkpoints that were not reached yet, smallest first.
    checkpoints: VecDeque<(u64, Hash)>,
    /// Roots of the tiles that became full since the last call of [`LogVerifier::full_tiles`].
    tiles: Vec<TileRoot>,
}

impl LogVerifier {
    /// Starts at the first document. The caller must have verified the signatures of the checkpoints.
    pub fn new(checkpoints: &[Checkpoint]) -> Result<Self, IntegrityError> {
        Self::resume(&Frontier::default(), checkpoints)
    }

    /// Continues after a trusted frontier. Ignores checkpoints that are smaller.
    pub fn resume(frontier: &Frontier, checkpoints: &[Checkpoint]) -> Result<Self, IntegrityError> {
        let ahead = checkpoints.iter().filter(|one| one.size >= frontier.size());
        let mut list: Vec<(u64, Hash)> = ahead.map(|one| (one.size, one.root)).collect();
        list.sort_unstable();
        list.dedup();
        let mut verifier =
            Self { tree: TileBuilder::of(frontier), checkpoints: list.into(), tiles: Vec::new() };
        verifier.compare()?;
        Ok(verifier)
    }

    /// Verifies the next document, stored under `stored_seq`; returns its leaf.
    pub fn step(&mut self, stored_seq: u64, document: &str) -> Result<Hash, IntegrityError> {
        self.accept(stored_seq, &check_document(document.as_bytes()))
    }

    /// Like [`LogVerifier::step`], for a document that was checked before.
    pub fn accept(&mut self, stored_seq: u64, verdict: &DocumentCheck) -> Result<Hash, IntegrityError> {
        let seq = self.tree.size();
        let integrity_error = |kind| Err(IntegrityError { seq, kind });
        if stored_seq != seq {
            return integrity_error(if stored_seq > seq {
                IntegrityErrorKind::Gap
            } else {
                IntegrityErrorKind::Order
            });
        }
        let Some(canonical) = verdict.canonical else { return integrity_error(IntegrityErrorKind::Document) };
        if canonical.seq != Some(seq) {
            return integrity_error(IntegrityErrorKind::Order);
        }
        self.step_over(verdict.leaf)?;
        Ok(verdict.leaf)
    }

    /// Adds the next event, of which only the leaf exists.
    pub fn step_over(&mut self, leaf: Hash) -> Result<(), IntegrityError> {
        let tiles = &mut self.tiles;
        self.tree.push(leaf, |root| tiles.push(root));
        self.compare()
    }

    /// Roots of the tiles that became full since the last call.
    pub fn full_tiles(&mut self) -> Vec<TileRoot> {
        std::mem::take(&mut self.tiles)
    }

    /// Number of verified documents.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The frontier of the tree of the verified documents.
    pub fn frontier(&self) -> Frontier {
        self.tree.frontier()
    }

    fn compare(&mut self) -> Result<(), IntegrityError> {
        let seq = self.tree.size();
        while let Some((_, root)) = self.checkpoints.pop_front_if(|(size, _)| *size <= seq) {
            if root != self.tree.frontier().root() {
                return Err(IntegrityError { seq, kind: IntegrityErrorKind::Checkpoint });
            }
        }
        Ok(())
    }

    /// Ends the verification. Fails if a checkpoint covers more documents than there were.
    pub fn end(self) -> Result<Frontier, IntegrityError> {
        let seq = self.tree.size();
        match self.checkpoints.back() {
            Some((size, _)) if *size > seq => {
                Err(IntegrityError { seq, kind: IntegrityErrorKind::Truncated })
            }
            _ => Ok(self.tree.frontier()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn log(size: u64) -> Vec<String> {
        (0..size).map(|seq| format!("{{\"action\":\"a\",\"seq\":{seq}}}")).collect()
    }

    fn verify(documents: &[String], checkpoints: &[Checkpoint]) -> Result<Frontier, IntegrityError> {
        let mut verifier = LogVerifier::new(checkpoints)?;
        for document in documents {
            let value: Value = serde_json::from_str(document).unwrap_or_default();
            verifier.step(value["seq"].as_u64().unwrap_or_default(), document)?;
        }
        verifier.end()
    }

    fn checkpoint(documents: &[String]) -> Checkpoint {
        let tree = verify(documents, &[]).unwrap();
        Checkpoint { origin: "o".into(), size: tree.size(), root: tree.root() }
    }

    #[test]
    fn an_unchanged_log_verifies() {
        let documents = log(9);
        let kept = [checkpoint(&documents), checkpoint(&documents[..4]), checkpoint(&[])];
        assert!(verify(&documents, &kept).is_ok());
    }

    #[test]
    fn five_ways_to_tamper_are_each_named() {
        let documents = log(9);
        let kept = [checkpoint(&documents)];
        let tampered = |change: fn(&mut Vec<String>)| {
            let mut copy = documents.clone();
            change(&mut copy);
            verify(&copy, &kept).unwrap_err()
        };
        assert_eq!(
            tampered(|copy| copy[3] = copy[3].replace(":\"a\"", ":\"b\"")).kind,
            IntegrityErrorKind::Checkpoint
        );
        assert_eq!(
            tampered(|copy| drop(copy.remove(3))),
            IntegrityError { seq: 3, kind: IntegrityErrorKind::Gap }
        );
        assert_eq!(
            tampered(|copy| copy.swap(2, 3)),
            IntegrityError { seq: 2, kind: IntegrityErrorKind::Gap }
        );
        assert_eq!(
            tampered(|copy| copy.truncate(5)),
            IntegrityError { seq: 5, kind: IntegrityErrorKind::Truncated }
        );
        assert_eq!(
            tampered(|copy| copy.clear()),
            IntegrityError { seq: 0, kind: IntegrityErrorKind::Truncated }
        );
        assert_eq!(
            tampered(|copy| copy[1] = copy[1].replace("\"a\"", "\"\\u0061\"")),
            IntegrityError { seq: 1, kind: IntegrityErrorKind::Document }
        );
    }

    #[test]
    fn a_verification_continues_after_an_edge_and_reads_nothing_before_it() {
        let documents = log(700);
        let (all, some) = (checkpoint(&documents), checkpoint(&documents[..300]));
        let frontier = verify(&documents[..300], &[]).unwrap();
        let wrong = Checkpoint { size: 7, root: [0; 32], ..all.clone() };
        let mut later = LogVerifier::resume(&frontier, &[some, all, wrong]).unwrap();
        for (seq, document) in documents.iter().enumerate().skip(300) {
            later.step(seq as u64, document).unwrap();
        }
        assert_eq!(later.full_tiles().len(), 1, "the one from 256 on");
        assert_eq!(later.end().unwrap(), verify(&documents, &[]).unwrap());
        let other = Checkpoint { origin: "o".into(), size: 300, root: [1; 32] };
        assert_eq!(
            LogVerifier::resume(&frontier, &[other]).unwrap_err(),
            IntegrityError { seq: 300, kind: IntegrityErrorKind::Checkpoint }
        );
    }

    proptest! {
        #[test]
        fn any_flipped_byte_breaks_the_log(size in 1u64..8, at in any::<proptest::sample::Index>(), bit in 0u8..7) {
            let documents = log(size);
            let kept = [checkpoint(&documents)];
            let which = at.index(documents.len());
            let mut bytes = documents[which].clone().into_bytes();
            let place = at.index(bytes.len());
            bytes[place] ^= 1 << bit;
            let mut copy = documents.clone();
            copy[which] = String::from_utf8(bytes).unwrap();
            let mut verification = LogVerifier::new(&kept).unwrap();
            let steps = copy.iter().enumerate().try_for_each(|(seq, text)| verification.step(seq as u64, text).map(drop));
            prop_assert!(steps.is_err());
        }
    }
}
