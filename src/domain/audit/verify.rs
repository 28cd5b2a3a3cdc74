//! Verifying the log: every document's place and form, the tree over all of them, and what checkpoints say of it.

use std::collections::VecDeque;

use serde::Serialize;

use crate::protocol::canonical_json::{self, Canonical};
use crate::protocol::merkle::{self, Frontier, Hash, TileRoot, Tiled};
use crate::protocol::signed_note::Checkpoint;

/// The first thing that is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The `seq` at which it shows; for a wrong root, the size of the tree.
    pub seq: u64,
    /// What is wrong.
    pub why: Why,
}

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// No document has this `seq`.
    Gap,
    /// The document is not canonical JSON.
    Document,
    /// The document says another `seq` than its place.
    Order,
    /// The leaf that is stored for the document is not its hash.
    Leaf,
    /// The documents up to here do not give the root of the head, or that of a tile.
    Root,
    /// The documents up to here do not give the root of a checkpoint.
    Checkpoint,
    /// A checkpoint is signed by no key that is believed, or a signature under it is bad.
    Signature,
    /// A checkpoint or the head speaks of more documents than there are.
    Truncated,
    /// There is more than the head or a checkpoint speaks of.
    Surplus,
    /// The proof of an event does not lead to the root of the checkpoint.
    Proof,
    /// A stored checkpoint is not a signed note over a size and a root.
    Unreadable,
    /// The file that was shown for archived events is not the one that the log's key has signed.
    Archive,
}

/// What can be said of a document without those before it.
#[derive(Debug, Clone, Copy)]
pub struct Judged {
    canonical: Option<Canonical>,
    leaf: Hash,
}

impl Judged {
    /// The place that the document says it has.
    pub fn seq(&self) -> Option<u64> {
        self.canonical.and_then(|canonical| canonical.seq)
    }
}

/// Reads and hashes a document.
pub fn judge(document: &[u8]) -> Judged {
    let canonical = std::str::from_utf8(document).ok().and_then(canonical_json::check);
    Judged { canonical, leaf: merkle::leaf(document) }
}

/// The most threads that judge together, and the fewest documents that are worth another one.
const MOST_HANDS: usize = 8;
const FEW: usize = 256;

/// Judges many documents, on all cores: nearly everything that verification costs is done here.
pub fn judge_all(documents: &[&[u8]]) -> Vec<Judged> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let hands = cores.min(MOST_HANDS).min(documents.len() / FEW).max(1);
    let share = documents.len().div_ceil(hands).max(1);
    let judge_share = |share: &[&[u8]]| share.iter().map(|document| judge(document)).collect::<Vec<_>>();
    let mut shares = documents.chunks(share);
    let own = shares.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = shares.map(|share| (share, scope.spawn(move || judge_share(share)))).collect();
        let mut judged = judge_share(own);
        for (share, other) in others {
            judged.extend(other.join().unwrap_or_else(|_| judge_share(share)));
        }
        judged
    })
}

/// Walks over a log once, in order, with the memory of one document.
#[derive(Debug, Default)]
pub struct Walk {
    tree: Tiled,
    /// Those that lie ahead, smallest first.
    checkpoints: VecDeque<(u64, Hash)>,
    /// Roots of tiles that were made full since somebody looked.
    tiles: Vec<TileRoot>,
}

impl Walk {
    /// A walk from the first document on that compares with checkpoints whose signatures have been verified.
    pub fn with(checkpoints: &[Checkpoint]) -> Result<Self, Broken> {
        Self::from(&Frontier::default(), checkpoints)
    }

    /// A walk that goes on behind an edge that is believed. What checkpoints say of less is not looked at.
    pub fn from(edge: &Frontier, checkpoints: &[Checkpoint]) -> Result<Self, Broken> {
        let ahead = checkpoints.iter().filter(|one| one.size >= edge.size());
        let mut list: Vec<(u64, Hash)> = ahead.map(|one| (one.size, one.root)).collect();
        list.sort_unstable();
        list.dedup();
        let mut walk = Self { tree: Tiled::of(edge), checkpoints: list.into(), tiles: Vec::new() };
        walk.compare()?;
        Ok(walk)
    }

    /// The next document, under the `seq` by which it is stored; gives its leaf.
    pub fn step(&mut self, stored_seq: u64, document: &str) -> Result<Hash, Broken> {
        self.take(stored_seq, &judge(document.as_bytes()))
    }

    /// The same for one that was judged before.
    pub fn take(&mut self, stored_seq: u64, judged: &Judged) -> Result<Hash, Broken> {
        let seq = self.tree.size();
        let broken = |why| Err(Broken { seq, why });
        if stored_seq != seq {
            return broken(if stored_seq > seq { Why::Gap } else { Why::Order });
        }
        let Some(canonical) = judged.canonical else { return broken(Why::Document) };
        if canonical.seq != Some(seq) {
            return broken(Why::Order);
        }
        self.step_over(judged.leaf)?;
        Ok(judged.leaf)
    }

    /// The next document, of which there is nothing but its leaf.
    pub fn step_over(&mut self, leaf: Hash) -> Result<(), Broken> {
        let tiles = &mut self.tiles;
        self.tree.push(leaf, |root| tiles.push(root));
        self.compare()
    }

    /// The roots of the tiles that became full since this was asked last.
    pub fn full_tiles(&mut self) -> Vec<TileRoot> {
        std::mem::take(&mut self.tiles)
    }

    /// How many documents hold so far.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The edge of the tree over them.
    pub fn edge(&self) -> Frontier {
        self.tree.edge()
    }

    fn compare(&mut self) -> Result<(), Broken> {
        let seq = self.tree.size();
        while let Some((_, root)) = self.checkpoints.pop_front_if(|(size, _)| *size <= seq) {
            if root != self.tree.edge().root() {
                return Err(Broken { seq, why: Why::Checkpoint });
            }
        }
        Ok(())
    }

    /// The end of the log: nothing that a checkpoint speaks of may be missing.
    pub fn end(self) -> Result<Frontier, Broken> {
        let seq = self.tree.size();
        match self.checkpoints.back() {
            Some((size, _)) if *size > seq => Err(Broken { seq, why: Why::Truncated }),
            _ => Ok(self.tree.edge()),
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

    fn walk(documents: &[String], checkpoints: &[Checkpoint]) -> Result<Frontier, Broken> {
        let mut walk = Walk::with(checkpoints)?;
        for document in documents {
            let value: Value = serde_json::from_str(document).unwrap_or_default();
            walk.step(value["seq"].as_u64().unwrap_or_default(), document)?;
        }
        walk.end()
    }

    fn checkpoint(documents: &[String]) -> Checkpoint {
        let tree = walk(documents, &[]).unwrap();
        Checkpoint { origin: "o".into(), size: tree.size(), root: tree.root() }
    }

    #[test]
    fn a_log_that_nobody_touched_verifies() {
        let documents = log(9);
        let kept = [checkpoint(&documents), checkpoint(&documents[..4]), checkpoint(&[])];
        assert!(walk(&documents, &kept).is_ok());
    }

    #[test]
    fn five_ways_to_tamper_are_each_named() {
        let documents = log(9);
        let kept = [checkpoint(&documents)];
        let tampered = |change: fn(&mut Vec<String>)| {
            let mut copy = documents.clone();
            change(&mut copy);
            walk(&copy, &kept).unwrap_err()
        };
        assert_eq!(tampered(|copy| copy[3] = copy[3].replace(":\"a\"", ":\"b\"")).why, Why::Checkpoint);
        assert_eq!(tampered(|copy| drop(copy.remove(3))), Broken { seq: 3, why: Why::Gap });
        assert_eq!(tampered(|copy| copy.swap(2, 3)), Broken { seq: 2, why: Why::Gap });
        assert_eq!(tampered(|copy| copy.truncate(5)), Broken { seq: 5, why: Why::Truncated });
        assert_eq!(tampered(|copy| copy.clear()), Broken { seq: 0, why: Why::Truncated });
        assert_eq!(
            tampered(|copy| copy[1] = copy[1].replace("\"a\"", "\"\\u0061\"")),
            Broken { seq: 1, why: Why::Document }
        );
    }

    #[test]
    fn a_walk_goes_on_behind_an_edge_and_looks_at_nothing_before_it() {
        let documents = log(700);
        let (all, some) = (checkpoint(&documents), checkpoint(&documents[..300]));
        let edge = walk(&documents[..300], &[]).unwrap();
        let wrong = Checkpoint { size: 7, root: [0; 32], ..all.clone() };
        let mut later = Walk::from(&edge, &[some, all, wrong]).unwrap();
        for (seq, document) in documents.iter().enumerate().skip(300) {
            later.step(seq as u64, document).unwrap();
        }
        assert_eq!(later.full_tiles().len(), 1, "the one from 256 on");
        assert_eq!(later.end().unwrap(), walk(&documents, &[]).unwrap());
        let other = Checkpoint { origin: "o".into(), size: 300, root: [1; 32] };
        assert_eq!(Walk::from(&edge, &[other]).unwrap_err(), Broken { seq: 300, why: Why::Checkpoint });
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
            let mut verification = Walk::with(&kept).unwrap();
            let steps = copy.iter().enumerate().try_for_each(|(seq, text)| verification.step(seq as u64, text).map(drop));
            prop_assert!(steps.is_err());
        }
    }
}
