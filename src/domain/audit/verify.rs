//! Verifying the log: every document's place and form, the tree over all of them, and what checkpoints say of it.

use serde::Serialize;
use serde_json::Value;

use crate::platform::json;
use crate::protocol::canonical_json;
use crate::protocol::merkle::{self, Frontier, Hash};
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
    /// The documents up to here do not give the root of the head.
    Root,
    /// The documents up to here do not give the root of a checkpoint.
    Checkpoint,
    /// A checkpoint speaks of more documents than there are.
    Truncated,
    /// There are documents that the head does not speak of.
    Surplus,
}

/// Walks over a log once, in order, with the memory of one document.
#[derive(Debug, Default)]
pub struct Walk {
    tree: Frontier,
    checkpoints: Vec<(u64, Hash)>,
}

impl Walk {
    /// A walk that compares with checkpoints whose signatures have been verified.
    pub fn with(checkpoints: &[Checkpoint]) -> Result<Self, Broken> {
        let mut list: Vec<(u64, Hash)> = checkpoints.iter().map(|one| (one.size, one.root)).collect();
        list.sort_unstable();
        list.dedup();
        let walk = Self { tree: Frontier::default(), checkpoints: list };
        walk.compare()?;
        Ok(walk)
    }

    /// The next document, under the `seq` by which it is stored.
    pub fn step(&mut self, stored_seq: u64, document: &str) -> Result<(), Broken> {
        let seq = self.tree.size();
        let broken = |why| Err(Broken { seq, why });
        if stored_seq != seq {
            return broken(if stored_seq > seq { Why::Gap } else { Why::Order });
        }
        let Some(value) = json::parse(document.as_bytes()) else { return broken(Why::Document) };
        if canonical_json::to_string(&value).ok().as_deref() != Some(document) {
            return broken(Why::Document);
        }
        if value.get("seq").and_then(Value::as_u64) != Some(seq) {
            return broken(Why::Order);
        }
        self.tree.push(merkle::leaf(document.as_bytes()));
        self.compare()
    }

    /// How many documents hold so far.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    fn compare(&self) -> Result<(), Broken> {
        let seq = self.tree.size();
        let differs = |(size, root): &(u64, Hash)| *size == seq && *root != self.tree.root();
        match self.checkpoints.iter().any(differs) {
            true => Err(Broken { seq, why: Why::Checkpoint }),
            false => Ok(()),
        }
    }

    /// The end of the log: nothing that a checkpoint speaks of may be missing.
    pub fn end(self) -> Result<Frontier, Broken> {
        let seq = self.tree.size();
        match self.checkpoints.last() {
            Some((size, _)) if *size > seq => Err(Broken { seq, why: Why::Truncated }),
            _ => Ok(self.tree),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            let steps = copy.iter().enumerate().try_for_each(|(seq, text)| verification.step(seq as u64, text));
            prop_assert!(steps.is_err());
        }
    }
}
