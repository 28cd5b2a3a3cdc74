//! A self-contained proof (c2sp.org/tlog-proof): the index of an event, its inclusion proof, and a checkpoint.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::merkle::Hash;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// No tree has more levels.
const MOST_HASHES: usize = 64;

/// The content of a `.tlog-proof` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Additional data of the proof's maker; ignored here.
    pub extra: Option<Vec<u8>>,
    /// Index of the event in the log, from 0.
    pub index: u64,
    /// The inclusion proof, from the leaf up.
    pub path: Vec<Hash>,
    /// The signed checkpoint, unchanged.
    pub checkpoint: String,
}

impl Proof {
    /// The proof as a file.
    pub fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        if let Some(extra) = &self.extra {
            text.push_str(&format!("extra {}\n", STANDARD.encode(extra)));
        }
        text.push_str(&format!("index {}\n", self.index));
        for hash in &self.path {
            text.push_str(&format!("{}\n", STANDARD.encode(hash)));
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Parses a proof file. Verifies neither the path nor the checkpoint.
    pub fn parse(text: &str) -> Option<Self> {
        // The checkpoint contains an empty line too; the first one ends the head.
        let (head, checkpoint) = text.split_once("\n\n")?;
        let mut lines = head.split('\n').peekable();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let extra = match lines.next_if(|line| line.starts_with("extra ")) {
            None => None,
            Some(line) => Some(STANDARD.decode(line.strip_prefix("extra ")?).ok()?),
        };
        let index = decimal(lines.next()?.strip_prefix("index ")?)?;
        let path: Vec<Hash> =
            lines.map(|line| STANDARD.decode(line).ok()?.try_into().ok()).collect::<Option<_>>()?;
        (path.len() <= MOST_HASHES).then(|| Self { extra, index, path, checkpoint: checkpoint.to_owned() })
    }
}

/// Parses a number without leading zeros or signs.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{hex, sha256};
    use crate::merkle::{leaf, verify_inclusion};
    use crate::signed_note::{VerifierKey, open};
    use crate::vectors;
    use serde_json::Value;
    use std::sync::LazyLock;

    fn published() -> Value {
        vectors::cases(include_str!("../vectors/tlog-proofs.json")).remove(0)
    }

    static PROOF_FILE: LazyLock<String> = LazyLock::new(|| vectors::text(&published(), "proof").to_owned());

    #[test]
    fn a_proof_file_is_read_and_written_and_verifies() {
        let case = published();
        assert_eq!(hex(&sha256(&[PROOF_FILE.as_bytes()])), case["sha256"]);
        let proof = Proof::parse(&PROOF_FILE).unwrap();
        assert_eq!((proof.index, proof.path.len()), (case["index"].as_u64().unwrap(), 3));
        assert_eq!(proof.text(), *PROOF_FILE);
        let key = VerifierKey::parse(vectors::text(&case, "verifier_key"));
        let checkpoint = open(&proof.checkpoint, &[key.unwrap()]).unwrap();
        assert_eq!(checkpoint.size, case["size"].as_u64().unwrap());
        let leaf = leaf(&vectors::bytes(&case["entry"]));
        assert!(verify_inclusion(&leaf, proof.index, checkpoint.size, &proof.path, &checkpoint.root));
    }

    #[test]
    fn extra_data_is_kept_and_other_texts_are_no_proofs() {
        let with = PROOF_FILE.replace("index 3", "extra AAEC\nindex 3");
        let proof = Proof::parse(&with).unwrap();
        assert_eq!(proof.extra.as_deref(), Some(&[0, 1, 2][..]));
        assert_eq!(proof.text(), with);
        for (from, to) in [
            ("@v1", "@v2"),
            ("index 3", "index 03"),
            ("index 3", "index +3"),
            ("index 3", "index"),
            ("index 3", "index 3\nextra AAEC"),
            ("ApjR", "Apj"),
            ("index 3\n", "index 3\nAAAA\n"),
            ("\n\n", "\n"),
        ] {
            assert_eq!(Proof::parse(&PROOF_FILE.replace(from, to)), None, "{from} as {to}");
        }
        let long = format!("index 3\n{}", "ApjRIpBtz8EIkstTpzmS/FufST6kybrbJ7eRtBJ6f+c=\n".repeat(65));
        assert_eq!(Proof::parse(&PROOF_FILE.replace("index 3\n", &long)), None, "higher than any tree");
    }
}
