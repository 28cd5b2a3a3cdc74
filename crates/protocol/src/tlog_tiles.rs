//! The paths of the parts of a log (c2sp.org/tlog-tiles): tiles of 256 hashes, and tiles of their entries.

/// Number of hashes or entries in a full tile.
pub const WIDTH: u64 = 256;
/// The highest level that paths may name (c2sp.org/tlog-tiles). A tree of 2^64 leaves needs far fewer levels.
const MOST_LEVEL: u8 = 63;

/// What a tile is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Roots of subtrees over 256^level leaves, 32 bytes each.
    Hashes(u8),
    /// The entries themselves, each after its length in two bytes.
    Entries,
}

/// A tile: number `n` of its level, with its first `width` members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// What the members of the tile are.
    pub content: Content,
    /// Position in its level, from 0.
    pub n: u64,
    /// Number of members, 1 to 256.
    pub width: u16,
}

impl Tile {
    /// The path below the log's prefix: `tile/<L>/<N>[.p/<W>]`.
    pub fn path(&self) -> String {
        let level = match self.content {
            Content::Hashes(level) => level.to_string(),
            Content::Entries => "entries".to_owned(),
        };
        let partial = if self.is_full() { String::new() } else { format!(".p/{}", self.width) };
        format!("tile/{level}/{}{partial}", groups(self.n))
    }

    /// Parses only what [`Tile::path`] writes.
    pub fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let content = match level {
            "entries" => Content::Entries,
            level => Content::Hashes(level.parse().ok().filter(|level| *level <= MOST_LEVEL)?),
        };
        let (place, width) = match rest.split_once(".p/") {
            Some((place, width)) => (place, width.parse().ok().filter(|width| (1..256).contains(width))?),
            None => (rest, 256),
        };
        let mut n = 0u64;
        for group in place.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            n = n.checked_mul(1_000)?.checked_add(digits.parse().ok().filter(|_| digits.len() == 3)?)?;
        }
        let tile = Self { content, n, width };
        // Each tile has only one valid path: no leading zeros, signs, or groups without an `x`.
        (tile.path() == path).then_some(tile)
    }

    /// Whether the tile has all 256 members. Full tiles never change.
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == WIDTH
    }

    /// The number of events that the log must have before this tile is complete; `None` if the number exceeds 64 bits.
    pub fn needs(&self) -> Option<u64> {
        let members = self.n.checked_mul(WIDTH)?.checked_add(self.width.into())?;
        match self.content {
            Content::Entries | Content::Hashes(0) => Some(members),
            Content::Hashes(level) => members.checked_mul(1u64.checked_shl(8 * u32::from(level))?),
        }
    }

    /// The number of full tiles of a level in a log of this size, and the number of members in the partial tile.
    pub fn count(level: u8, size: u64) -> (u64, u64) {
        let members = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
        (members / WIDTH, members % WIDTH)
    }
}

/// 1234067 is `x001/x234/067`.
fn groups(mut n: u64) -> String {
    let mut text = format!("{:03}", n % 1_000);
    n /= 1_000;
    while n > 0 {
        text = format!("x{:03}/{text}", n % 1_000);
        n /= 1_000;
    }
    text
}

/// An entry in the encoding of entry tiles; `None` if it is longer than 65535 bytes.
pub fn entry(document: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(document.len()).ok()?;
    Some([&length.to_be_bytes(), document].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;
    use proptest::prelude::*;
    use serde_json::Value;

    fn cases() -> Vec<Value> {
        vectors::cases(include_str!("../vectors/tlog-tile-paths.json"))
    }

    #[test]
    fn tile_paths_are_in_groups_of_three_digits() {
        for case in cases() {
            let Some(tile) = case["tile"].as_object() else { continue };
            let content = match tile["level"].as_u64() {
                Some(level) => Content::Hashes(level.try_into().unwrap()),
                None => Content::Entries,
            };
            let width = tile["width"].as_u64().unwrap().try_into().unwrap();
            let tile = Tile { content, n: tile["n"].as_u64().unwrap(), width };
            assert_eq!(tile.path(), case["path"]);
            assert_eq!(Tile::parse(vectors::text(&case, "path")), Some(tile));
        }
    }

    #[test]
    fn other_spellings_of_a_tile_path_are_refused() {
        for case in cases().iter().filter(|case| case["tile"].is_null()) {
            assert_eq!(Tile::parse(vectors::text(case, "path")), None, "{case}");
        }
    }

    #[test]
    fn a_log_of_70000_entries_has_these_tiles() {
        assert_eq!(Tile::count(0, 70_000), (273, 112));
        assert_eq!(Tile::count(1, 70_000), (1, 17));
        assert_eq!(Tile::count(2, 70_000), (0, 1));
        assert_eq!(Tile::count(3, 70_000), (0, 0));
        assert_eq!(Tile::count(40, u64::MAX), (0, 0));
        let last = Tile { content: Content::Hashes(2), n: 0, width: 1 };
        assert_eq!(last.needs(), Some(65_536));
        let none = Tile { content: Content::Hashes(63), n: 0, width: 1 };
        assert_eq!(none.needs(), None);
        let most = Tile { content: Content::Hashes(7), n: 1, width: 1 };
        assert_eq!(most.needs(), None, "more than 2^64");
    }

    #[test]
    fn entries_follow_their_length() {
        assert_eq!(entry(b"{}"), Some(vec![0, 2, b'{', b'}']));
        assert!(entry(&vec![b' '; 65_535]).is_some() && entry(&vec![b' '; 65_536]).is_none());
    }

    proptest! {
        #[test]
        fn every_tile_is_read_as_it_is_written(level in 0u8..=63, n in any::<u64>(), width in 1u16..=256) {
            let tile = Tile { content: Content::Hashes(level), n, width };
            prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
        }
    }
}
