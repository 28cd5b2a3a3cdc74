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
    use proptest::prelude::*;

    /// The leaves of the published examples.
    pub(super) const LEAVES: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];

    #[test]
    fn roots_of_the_published_leaves_match() {
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Frontier::default();
        assert_eq!(hex(&tree.root()), roots[0]);
        for (entry, root) in LEAVES.iter().zip(&roots[1..]) {
            tree.push(leaf(entry));
            assert_eq!(hex(&tree.root()), *root);
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
