//! The statement that a range of events was moved from the log into a file: a signed note (c2sp.org/signed-note) under
//! the log's key. Its second line is not a number, so no verifier takes it for a checkpoint
//! (c2sp.org/tlog-checkpoint).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::merkle::Hash;
use super::tlog_proof::decimal;
use crate::digest::hex;

const VERSION: &str = "archive/v1";

/// States that the events `[from, to)` of a log are in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveStatement {
    /// The name of the log, as in its checkpoints.
    pub origin: String,
    /// Number of the partition that had the events.
    pub partition: u64,
    /// The `seq` of the first event.
    pub from: u64,
    /// The `seq` after the last event.
    pub to: u64,
    /// The root of the tree of the first `from` events.
    pub from_root: Hash,
    /// The root of the tree of the first `to` events.
    pub root: Hash,
    /// SHA-256 of the whole file.
    pub sha256: Hash,
    /// The name of the file, without its folder.
    pub file: String,
}

impl ArchiveStatement {
    /// The text that is signed: eight lines.
    pub fn text(&self) -> String {
        let Self { origin, partition, from, to, file, .. } = self;
        let [from_root, root] = [self.from_root, self.root].map(|hash| STANDARD.encode(hash));
        let sha256 = hex(&self.sha256);
        format!(
            "{origin}\n{VERSION}\npartition {partition}\nevents {from} {to}\nfrom_root {from_root}\nroot {root}\n\
             sha256 {sha256}\nfile {file}\n"
        )
    }

    /// Parses the text of a note. Does not verify signatures.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let origin = lines.next().filter(|origin| !origin.is_empty())?.to_owned();
        lines.next().filter(|version| *version == VERSION)?;
        let mut member = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let partition = decimal(member("partition")?)?;
        let (from, to) = member("events")?.split_once(' ')?;
        let (from, to) = (decimal(from)?, decimal(to)?);
        let hash = |text: &str| -> Option<Hash> { STANDARD.decode(text).ok()?.try_into().ok() };
        let (from_root, root) = (hash(member("from_root")?)?, hash(member("root")?)?);
        let sha256 = digest(member("sha256")?)?;
        let file = member("file").filter(|name| is_file_name(name))?.to_owned();
        let whole = from <= to && lines.next().is_none();
        whole.then_some(Self { origin, partition, from, to, from_root, root, sha256, file })
    }
}

/// Whether the name leads to no other folder.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\'])
}

fn digest(text: &str) -> Option<Hash> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
        _ => None,
    });
    pairs.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signed_note::Checkpoint;

    fn statement() -> ArchiveStatement {
        ArchiveStatement {
            origin: "as.example.com/audit".into(),
            partition: 1,
            from: 1_500,
            to: 2_400,
            from_root: [1; 32],
            root: [2; 32],
            sha256: [0xa3; 32],
            file: "audit-000000001500-000000002400.jsonl".into(),
        }
    }

    #[test]
    fn a_statement_is_read_as_it_was_written_and_is_no_checkpoint() {
        let text = statement().text();
        assert_eq!(ArchiveStatement::parse(&text), Some(statement()));
        assert_eq!(Checkpoint::parse(&text), None);
        let checkpoint = Checkpoint { origin: "as.example.com/audit".into(), size: 7, root: [1; 32] };
        assert_eq!(ArchiveStatement::parse(&checkpoint.text()), None);
    }

    #[test]
    fn a_statement_of_another_form_is_not_read() {
        let text = statement().text();
        for (from, to) in [
            ("archive/v1", "archive/v2"),
            ("events 1500 2400", "events 2400 1500"),
            ("events 1500", "events 01500"),
            ("a3a3", "A3a3"),
            ("file audit", "file ../audit"),
            ("file audit", "file .audit"),
            ("partition 1", "partition -1"),
            ("\nroot", "\nstem"),
        ] {
            let other = text.replacen(from, to, 1);
            assert!(other != text && ArchiveStatement::parse(&other).is_none(), "{to}");
        }
        assert_eq!(ArchiveStatement::parse(&format!("{text}more\n")), None);
        assert_eq!(ArchiveStatement::parse(text.trim_end()), None);
    }
}
