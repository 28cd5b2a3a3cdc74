//! Proofs about a tree (RFC 9162 §2.1.3, §2.1.4): the subtrees that a proof needs, and verification.

use super::{Hash, node};

/// A perfect subtree: number `n` of those over 2^`level` leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subtree {
    /// Base-2 logarithm of its number of leaves.
    pub level: u32,
    /// Position among the subtrees of this level, from 0.
    pub n: u64,
}

/// The consecutive leaves `[from, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Index of the first leaf, from 0.
    pub from: u64,
    /// Index after the last leaf.
    pub to: u64,
}

impl Span {
    /// The perfect subtrees of the span, from left to right. For a span of a proof, or a span that begins at 0, they
    /// are the largest possible, and [`super::root_of`] returns the root.
    pub fn subtrees(self) -> Vec<Subtree> {
        let mut found = Vec::new();
        let mut from = self.from;
        while from < self.to {
            let fits = (self.to - from).ilog2();
            let level = if from == 0 { fits } else { fits.min(from.trailing_zeros()) };
            found.push(Subtree { level, n: from >> level });
            from += 1 << level;
        }
        found
    }
}

/// The largest power of two smaller than `n`, which is at least 2 (RFC 9162 §2.1.1).
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// PATH(index, D[size]) of RFC 9162 §2.1.3.1: the leaves under each hash of an inclusion proof, from the leaf up.
/// `None` if there is no such leaf.
pub fn inclusion_spans(index: u64, size: u64) -> Option<Vec<Span>> {
    if index >= size {
        return None;
    }
    let (mut from, mut to) = (0, size);
    let mut path = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(Span { from: middle, to });
            to = middle;
        } else {
            path.push(Span { from, to: middle });
            from = middle;
        }
    }
    path.reverse();
    Some(path)
}

/// PROOF(first, D[second]) of RFC 9162 §2.1.4.1; empty if there is nothing to prove. `None` if `first` is greater than
/// `second`.
pub fn consistency_spans(first: u64, second: u64) -> Option<Vec<Span>> {
    if first > second {
        return None;
    }
    if first == 0 || first == second {
        return Some(Vec::new());
    }
    let (mut from, mut to) = (0, second);
    let mut path = Vec::new();
    // Terminates: the span is halved until it ends where the first tree ends.
    while first != to {
        let middle = from + split(to - from);
        if first <= middle {
            path.push(Span { from: middle, to });
            to = middle;
        } else {
            path.push(Span { from, to: middle });
            from = middle;
        }
    }
    // The verifier has the root of the first tree, so the proof contains only a part of that tree, never all of it.
    if from > 0 {
        path.push(Span { from, to });
    }
    path.reverse();
    Some(path)
}

/// Verifies an inclusion proof (RFC 9162 §2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut first, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if first & 1 == 1 || first == last {
            hash = node(sibling, &hash);
            while first & 1 == 0 && first != 0 {
                (first, last) = (first >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, sibling);
        }
        (first, last) = (first >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Verifies a consistency proof: the first tree is a prefix of the second (RFC 9162 §2.1.4.2).
pub fn verify_consistency(
    first: u64,
    second: u64,
    path: &[Hash],
    first_root: &Hash,
    second_root: &Hash,
) -> bool {
    if first > second {
        return false;
    }
    // Every tree has two trivial prefixes: the empty tree and itself.
    if first == second {
        return path.is_empty() && first_root == second_root;
    }
    if first == 0 {
        return path.is_empty() && *first_root == super::Frontier::default().root();
    }
    let own = first.is_power_of_two().then_some(first_root);
    let mut path = own.into_iter().chain(path);
    let Some(begin) = path.next() else { return false };
    let (mut left, mut right) = (first - 1, second - 1);
    while left & 1 == 1 {
        (left, right) = (left >> 1, right >> 1);
    }
    let (mut old, mut new) = (*begin, *begin);
    for sibling in path {
        if right == 0 {
            return false;
        }
        if left & 1 == 1 || left == right {
            old = node(sibling, &old);
            new = node(sibling, &new);
            while left & 1 == 0 && left != 0 {
                (left, right) = (left >> 1, right >> 1);
            }
        } else {
            new = node(&new, sibling);
        }
        (left, right) = (left >> 1, right >> 1);
    }
    right == 0 && old == *first_root && new == *second_root
}

#[cfg(test)]
mod tests {
    use super::super::{Frontier, leaf, root_of};
    use super::*;
    use crate::digest::hex;
    use crate::vectors;
    use serde_json::{Value, json};

    fn tree(leaves: &[Hash]) -> Frontier {
        leaves.iter().fold(Frontier::default(), |mut tree, leaf| {
            tree.push(*leaf);
            tree
        })
    }

    /// The hash over a span, computed from its perfect subtrees.
    fn hash_of(leaves: &[Hash], span: Span) -> Hash {
        let peak = |one: &Subtree| {
            let from = (one.n << one.level) as usize;
            tree(&leaves[from..from + (1 << one.level)]).root()
        };
        root_of(&span.subtrees().iter().map(peak).collect::<Vec<_>>()).unwrap()
    }

    fn hashes(leaves: &[Hash], spans: &[Span]) -> Vec<Hash> {
        spans.iter().map(|span| hash_of(leaves, *span)).collect()
    }

    fn leaves(case: &Value) -> Vec<Hash> {
        case["entries"].as_array().unwrap().iter().map(|entry| leaf(&vectors::bytes(entry))).collect()
    }

    #[test]
    fn inclusion_proofs_match_the_known_vectors() {
        for case in vectors::cases(include_str!("../../vectors/merkle-inclusion-proofs.json")) {
            let leaves = leaves(&case);
            let (index, size) = (case["index"].as_u64().unwrap(), leaves.len() as u64);
            let proof = hashes(&leaves, &inclusion_spans(index, size).unwrap());
            assert_eq!(
                json!(proof.iter().map(|hash| hex(hash)).collect::<Vec<_>>()),
                case["path"],
                "{index} in {size}"
            );
            let root = tree(&leaves).root();
            assert_eq!(hex(&root), case["root"]);
            assert!(verify_inclusion(&leaves[index as usize], index, size, &proof, &root));
        }
    }

    #[test]
    fn consistency_proofs_match_the_known_vectors() {
        for case in vectors::cases(include_str!("../../vectors/merkle-consistency-proofs.json")) {
            let leaves = leaves(&case);
            let (first, size) = (case["first"].as_u64().unwrap(), leaves.len() as u64);
            let proof = hashes(&leaves, &consistency_spans(first, size).unwrap());
            assert_eq!(
                json!(proof.iter().map(|hash| hex(hash)).collect::<Vec<_>>()),
                case["path"],
                "from {first}"
            );
            let (old, root) = (tree(&leaves[..first as usize]).root(), tree(&leaves).root());
            assert_eq!(
                (json!(hex(&old)), json!(hex(&root))),
                (case["first_root"].clone(), case["root"].clone())
            );
            assert!(verify_consistency(first, size, &proof, &old, &root));
        }
    }

    /// Proofs with one hash changed, one left out, one added at either end, and without any hash.
    fn spoiled(proof: &[Hash]) -> Vec<Vec<Hash>> {
        let mut all = Vec::new();
        for place in 0..proof.len() {
            let mut changed = proof.to_vec();
            changed[place][7] ^= 4;
            all.push(changed);
            let mut shorter = proof.to_vec();
            shorter.remove(place);
            all.push(shorter);
        }
        for extra in [[0; 32], *proof.last().unwrap_or(&[1; 32])] {
            all.push([proof, &[extra]].concat());
            all.push([&[extra], proof].concat());
        }
        all
    }

    #[test]
    fn every_leaf_of_every_size_is_proven_and_no_altered_proof_verifies() {
        let leaves: Vec<Hash> = (0..64u64).map(|n| leaf(&n.to_be_bytes())).collect();
        for size in 1..=64 {
            let root = tree(&leaves[..size]).root();
            for index in 0..size {
                let (m, n) = (index as u64, size as u64);
                let proof = hashes(&leaves, &inclusion_spans(m, n).unwrap());
                assert!(verify_inclusion(&leaves[index], m, n, &proof, &root), "{m} in {n}");
                for other in spoiled(&proof) {
                    assert!(!verify_inclusion(&leaves[index], m, n, &other, &root), "{m} in {n}");
                }
                assert!(!verify_inclusion(&leaves[(index + 1) % 64], m, n, &proof, &root), "another leaf");
                assert!(!verify_inclusion(&leaves[index], n, n, &proof, &root), "after the end");
                assert!(!verify_inclusion(&leaves[index], m, n, &proof, &[3; 32]), "another root");
            }
            assert!(inclusion_spans(size as u64, size as u64).is_none());
        }
    }

    #[test]
    fn every_size_is_consistent_with_every_larger_size_and_no_altered_proof_verifies() {
        let leaves: Vec<Hash> = (0..64u64).map(|n| leaf(&n.to_be_bytes())).collect();
        for second in 0..=64 {
            let new = tree(&leaves[..second]).root();
            for first in 0..=second {
                let (m, n) = (first as u64, second as u64);
                let old = tree(&leaves[..first]).root();
                let proof = hashes(&leaves, &consistency_spans(m, n).unwrap());
                assert!(verify_consistency(m, n, &proof, &old, &new), "{m} to {n}");
                for other in spoiled(&proof) {
                    assert!(!verify_consistency(m, n, &other, &old, &new), "{m} to {n}: {}", other.len());
                }
                assert!(!verify_consistency(m, n, &proof, &[9; 32], &new));
                // An empty tree is a prefix of any tree, so its proof says nothing about the other root.
                assert!(m == 0 && n > 0 || !verify_consistency(m, n, &proof, &old, &[9; 32]));
            }
        }
    }

    #[test]
    fn an_empty_tree_and_an_equal_tree_have_an_empty_proof() {
        let one = tree(&[leaf(b"a")]).root();
        let nothing = Frontier::default().root();
        assert!(verify_consistency(0, 1, &[], &nothing, &one) && verify_consistency(1, 1, &[], &one, &one));
        assert!(!verify_consistency(0, 1, &[one], &nothing, &one), "a hash too many");
        assert!(!verify_consistency(0, 1, &[], &one, &one), "nothing has one root only");
        assert!(!verify_consistency(1, 1, &[], &one, &nothing));
        assert!(!verify_consistency(2, 1, &[], &one, &one), "backwards");
        assert!(consistency_spans(2, 1).is_none());
    }

    #[test]
    fn a_span_is_made_of_the_largest_subtrees() {
        let level = |from, to| Span { from, to }.subtrees().iter().map(|one| one.level).collect::<Vec<_>>();
        assert_eq!(level(0, 7), [2, 1, 0]);
        assert_eq!(level(8, 15), [2, 1, 0]);
        assert_eq!(level(0, 1 << 40), [40]);
        assert!(level(5, 5).is_empty());
    }
}
