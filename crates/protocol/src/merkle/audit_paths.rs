//! Audit paths of a list of hashes, all computed together (RFC 9162 §2.1.3).

use super::{Hash, node};

/// The tree over a list of hashes, level by level. A hash without a neighbour moves up unchanged, which gives the
/// shape of RFC 9162 for any number of hashes.
#[derive(Debug, Default)]
pub struct AuditPaths(Vec<Vec<Hash>>);

impl AuditPaths {
    /// Hashes all levels above these leaves, which takes about as many hashes as there are leaves.
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

    /// The audit path of the hash at `index`: the sibling at each level, from the leaf up.
    pub fn path(&self, index: usize) -> Vec<Hash> {
        let beside = |(level, hashes): (usize, &Vec<Hash>)| hashes.get((index >> level) ^ 1).copied();
        self.0.iter().enumerate().filter_map(beside).collect()
    }

    /// The root; `None` for an empty list.
    pub fn root(&self) -> Option<Hash> {
        self.0.last()?.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{Frontier, leaf, verify_inclusion};

    #[test]
    fn every_path_of_every_size_leads_to_the_root() {
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
