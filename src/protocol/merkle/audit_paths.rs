//! Paths out of a list of hashes, all of them at once (RFC 9162 §2.1.3).

use super::{Hash, node};

/// The tree over some hashes, level by level. One without a neighbour goes up as it is, so that the shape is that of the
/// tree of RFC 9162 for any number.
#[derive(Debug, Default)]
pub struct AuditPaths(Vec<Vec<Hash>>);

impl AuditPaths {
    pub fn over(hashes: Vec<Hash>) -> Self {
        let mut levels = vec![hashes];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below.chunks(2).map(|pair| match pair {
                [left, right] => node(left, right),
                [alone, ..] => *alone,
                [] => Hash::default(),
            });
            levels.push(above.collect());
        }
        Self(levels)
    }

    /// The hashes beside the way up from one of them.
    pub fn path(&self, index: usize) -> Vec<Hash> {
        let beside = |(level, hashes): (usize, &Vec<Hash>)| hashes.get((index >> level) ^ 1).copied();
        self.0.iter().enumerate().filter_map(beside).collect()
    }

    /// The root; `None` over nothing.
    pub fn root(&self) -> Option<Hash> {
        self.0.last()?.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::merkle::{Frontier, leaf, verify_inclusion};

    #[test]
    fn mt_03_every_path_of_every_size_leads_to_the_root() {
        for size in 1_u64..=64 {
            let leaves: Vec<Hash> = (0..size).map(|n| leaf(&n.to_be_bytes())).collect();
            let mut tree = Frontier::default();
            leaves.iter().for_each(|leaf| tree.push(*leaf));
            let levels = AuditPaths::over(leaves.clone());
            assert_eq!(levels.root(), Some(tree.root()));
            for (index, leaf) in (0_u64..).zip(&leaves) {
                let path = levels.path(usize::try_from(index).unwrap());
                assert!(verify_inclusion(leaf, index, size, &path, &tree.root()), "{index} of {size}");
            }
        }
    }
}
