//! The Merkle tree of RFC 6962 §2.1 (RFC 9162 §2.1.1), extended at its right edge.

mod audit_paths;
mod proof;
mod tile_builder;

pub use self::audit_paths::AuditPaths;
pub use self::proof::{
    Span, Subtree, consistency_spans, inclusion_spans, verify_consistency, verify_inclusion,
};
pub use self::tile_builder::{TileBuilder, TileRoot};
use crate::digest::sha256;

/// The hash of a leaf or node.
pub type Hash = [u8; 32];

/// The hash of an entry as a leaf (RFC 6962 §2.1): domain-separated from nodes by a zero byte.
pub fn leaf(entry: &[u8]) -> Hash {
    sha256(&[&[0], entry])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// The right edge of a tree: the roots of its perfect subtrees, largest first. Sufficient for appending leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// Restores an edge from storage; `None` if the number of hashes does not match the size.
    pub fn from_parts(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (size.count_ones() as usize == peaks.len()).then_some(Self { size, peaks })
    }

    /// Number of leaves that were appended.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the perfect subtrees, largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Appends a leaf. Each trailing 1 bit of the size is a subtree for which the new hash is the right half.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The Merkle tree hash of all leaves; of no leaves, SHA-256 of nothing (RFC 6962 §2.1).
    pub fn root(&self) -> Hash {
        root_of(&self.peaks).unwrap_or_else(|| sha256(&[]))
    }
}

/// The root over adjacent perfect subtrees, largest first; `None` for an empty list.
pub fn root_of(peaks: &[Hash]) -> Option<Hash> {
    let (last, others) = peaks.split_last()?;
    Some(others.iter().rfold(*last, |right, left| node(left, &right)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::hex;
    use crate::vectors;
    use proptest::prelude::*;

    #[test]
    fn roots_of_the_published_leaves_match() {
        for case in vectors::cases(include_str!("../../vectors/merkle-roots.json")) {
            let mut tree = Frontier::default();
            for entry in case["entries"].as_array().unwrap() {
                tree.push(leaf(&vectors::bytes(entry)));
            }
            assert_eq!(hex(&tree.root()), case["root"]);
        }
    }

    /// MTH of RFC 9162 §2.1.1, as the RFC defines it.
    fn root_by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => sha256(&[]),
            [only] => *only,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node(&root_by_definition(&leaves[..split]), &root_by_definition(&leaves[split..]))
            }
        }
    }

    proptest! {
        #[test]
        fn the_edge_gives_the_root_of_the_definition(size in 0usize..200) {
            let leaves: Vec<Hash> = (0..size).map(|n| leaf(&n.to_be_bytes())).collect();
            let mut tree = Frontier::default();
            for leaf in &leaves {
                tree.push(*leaf);
            }
            prop_assert_eq!(tree.root(), root_by_definition(&leaves));
            let stored = Frontier::from_parts(tree.size(), tree.peaks().to_vec());
            prop_assert_eq!(stored, Some(tree));
        }
    }
}
