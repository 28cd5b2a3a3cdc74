//! A tree that is extended tile by tile. The roots of full tiles (c2sp.org/tlog-tiles) are by-products and cost
//! nothing.

use super::{Frontier, Hash};

/// Hashes in a full tile. The root of a full tile is one hash of the next level.
const WIDTH: u64 = 256;
const STRIDE: u32 = 8;

/// The root of a full tile, which is a leaf of the level above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileRoot {
    /// The level of the tile, 1 for a tile above leaves.
    pub level: u32,
    /// Position in that level.
    pub n: u64,
    /// The Merkle tree hash of the leaves below the tile.
    pub hash: Hash,
}

/// The right edge of a tree, split into tiles.
#[derive(Debug, Clone, Default)]
pub struct TileBuilder {
    size: u64,
    levels: Vec<Frontier>,
}

impl TileBuilder {
    /// Continues from an edge.
    pub fn of(frontier: &Frontier) -> Self {
        let mut peaks = frontier.peaks();
        let mut levels = Vec::new();
        // The largest peaks are those of the highest level.
        let highest = frontier.size().checked_ilog2().map_or(0, |log| log / STRIDE);
        for level in (0..=highest).rev() {
            let members = (frontier.size() >> (level * STRIDE)) % WIDTH;
            let count = usize::try_from(members.count_ones()).unwrap_or_default().min(peaks.len());
            let (own, rest) = peaks.split_at(count);
            levels.push(Frontier::from_parts(members, own.to_vec()).unwrap_or_default());
            peaks = rest;
        }
        levels.reverse();
        Self { size: frontier.size(), levels }
    }

    /// Number of leaves that were appended.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf. Calls `full` with the root of every tile that becomes full.
    pub fn push(&mut self, leaf: Hash, mut full: impl FnMut(TileRoot)) {
        self.size += 1;
        let mut hash = leaf;
        let mut above = 0;
        for tile in &mut self.levels {
            tile.push(hash);
            if tile.size() < WIDTH {
                return;
            }
            hash = std::mem::take(tile).root();
            above += 1;
            full(TileRoot { level: above, n: (self.size >> (above * STRIDE)) - 1, hash });
        }
        let mut tile = Frontier::default();
        tile.push(hash);
        self.levels.push(tile);
    }

    /// The edge of the whole tree.
    pub fn frontier(&self) -> Frontier {
        let peaks = self.levels.iter().rev().flat_map(|tile| tile.peaks().iter().copied()).collect();
        Frontier::from_parts(self.size, peaks).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::leaf;
    use super::*;

    #[test]
    fn a_tree_of_tiles_is_the_same_tree_from_every_starting_size() {
        let mut plain = Frontier::default();
        let mut tiled = TileBuilder::default();
        let mut roots = Vec::new();
        let mut second = Frontier::default();
        for n in 0..70_000u64 {
            let leaf = leaf(&n.to_be_bytes());
            if [0, 1, 255, 256, 257, 65_535, 65_536, 66_000].contains(&n) {
                tiled = TileBuilder::of(&plain);
            }
            plain.push(leaf);
            tiled.push(leaf, |root| roots.push(root));
            second.push(leaf);
            if n % 251 == 0 || n % 256 > 253 || n % 256 < 3 {
                assert_eq!(tiled.frontier(), plain, "{n}");
            }
            if n % 256 == 255 {
                let found = roots.iter().find(|root| (root.level, root.n) == (1, n / 256));
                assert_eq!(found.map(|root| root.hash), Some(second.root()), "{n}");
                second = Frontier::default();
            }
        }
        let upper = roots.iter().find(|root| root.level == 2).unwrap();
        assert_eq!((upper.n, Some(&upper.hash)), (0, plain.peaks().first()));
        assert_eq!((roots.len(), tiled.size()), (274, 70_000));
    }
}
