//! ArchivedRuns events in the verification of the database. Events may be missing only where a statement signed by the
//! log's key says which file contains them. Where the file is available, the events are verified.

use std::io::BufRead as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sqlx::PgConnection;

use super::file::is_document;
use super::file_reader::digest_of;
use super::report::TrustAnchors;
use crate::domain::audit::partitions::{self, Partition};
use crate::domain::audit::verify::{IntegrityError, IntegrityErrorKind, VerifyError};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::archive_statement::ArchiveStatement;
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};

/// A range of archived events.
pub(super) struct ArchivedRun {
    /// `seq` of the first event after the trusted checkpoint.
    pub(super) from: u64,
    /// The `seq` after the last event.
    pub(super) to: u64,
    /// The lines of the archive file, if available.
    pub(super) lines: Option<Lines>,
}

/// ArchivedRuns events according to the signed statements.
#[derive(Default)]
pub(super) struct ArchivedRuns {
    /// In order, without gaps.
    pub(super) runs: Vec<ArchivedRun>,
    /// The roots at both ends of each range; the tree must have them, like the roots of checkpoints.
    pub(super) roots: Vec<Checkpoint>,
}

impl ArchivedRuns {
    /// Number of events before `to` of which only the leaf hash is available.
    pub(super) fn hashes_only(&self, to: u64) -> u64 {
        let runs = self.runs.iter().filter(|run| run.lines.is_none());
        runs.map(|run| run.to.min(to).saturating_sub(run.from)).sum()
    }
}

/// Reads the statements for all events of a range that are not in the database.
pub(super) async fn archived(
    connection: &mut PgConnection,
    anchors: &TrustAnchors,
    keys: impl Fn(&str) -> Vec<VerifierKey>,
    range: Range<u64>,
) -> Result<ArchivedRuns, VerifyError> {
    let partitions = partitions::list(connection).await?;
    let first_available = partitions::first_available(connection).await?;
    let from = range.start;
    let (mut archived, mut end) = (ArchivedRuns::default(), from);
    while end < first_available.min(range.end) {
        let run = stated(&partitions, &keys, end)?;
        let roots = [(run.from, run.from_root), (run.to, run.root)];
        let root = |(size, root)| Checkpoint { origin: run.origin.clone(), size, root };
        archived.roots.extend(roots.map(root));
        let lines = match shown(anchors, &run)? {
            Shown::Nothing => None,
            Shown::Other => {
                return Err(IntegrityError { seq: run.from, kind: IntegrityErrorKind::Archive }.into());
            }
            Shown::File(path) => Some(Lines::open(&path, end - run.from)?),
        };
        archived.runs.push(ArchivedRun { from: end, to: run.to, lines });
        end = run.to;
    }
    // Statements must not cover events that the database has.
    match end > first_available.max(from) {
        true => Err(IntegrityError { seq: first_available, kind: IntegrityErrorKind::Surplus }.into()),
        false => Ok(archived),
    }
}

/// The statement that covers an event.
fn stated(
    partitions: &[Partition],
    keys: impl Fn(&str) -> Vec<VerifierKey>,
    seq: u64,
) -> Result<ArchiveStatement, IntegrityError> {
    let integrity_error = |kind| IntegrityError { seq, kind };
    let mut unsigned = false;
    for partition in partitions.iter().filter(|partition| partition.archived_at.is_some()) {
        let Some(note) = &partition.statement else { continue };
        let text = signed_note::parts(note).map(|(text, _)| text);
        let Some(statement) = text.as_deref().and_then(ArchiveStatement::parse) else {
            unsigned = true;
            continue;
        };
        let own = u64::try_from(partition.partition) == Ok(statement.partition);
        if !own || !(statement.from..statement.to).contains(&seq) {
            continue;
        }
        // Of the statement alone that is wanted: an archive can have many.
        if signed_note::open_text(note, &keys(note)).is_some() {
            return Ok(statement);
        }
        unsigned = true;
    }
    Err(integrity_error(if unsigned { IntegrityErrorKind::Signature } else { IntegrityErrorKind::Gap }))
}

enum Shown {
    Nothing,
    /// A file of that name with other content.
    Other,
    File(PathBuf),
}

fn shown(anchors: &TrustAnchors, statement: &ArchiveStatement) -> Result<Shown, Fault> {
    let Some(path) = anchors.archives.as_ref().map(|folder| folder.join(&statement.file)) else {
        return Ok(Shown::Nothing);
    };
    match path.try_exists().context(&format!("reading {}", path.display()))? {
        false => Ok(Shown::Nothing),
        true if digest_of(&path)? == statement.sha256 => Ok(Shown::File(path)),
        true => Ok(Shown::Other),
    }
}

/// The documents of an archive file, in order.
pub(super) struct Lines {
    reader: std::io::BufReader<std::fs::File>,
    what: String,
}

impl Lines {
    fn open(path: &Path, passed_over: u64) -> Result<Self, Fault> {
        let what = format!("reading {}", path.display());
        let file = std::fs::File::open(path).context(&what)?;
        let mut lines = Self { reader: std::io::BufReader::with_capacity(1 << 18, file), what };
        for _ in 0..passed_over {
            lines.next()?;
        }
        Ok(lines)
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            let mut line = Vec::new();
            if self.reader.read_until(b'\n', &mut line).context(&self.what)? == 0 {
                return Ok(None);
            }
            line.pop_if(|last| *last == b'\n');
            if is_document(&line) {
                return Ok(Some(line));
            }
        }
    }

    /// The next documents, at most `count`.
    pub(super) fn take(&mut self, count: u64) -> Result<Vec<Vec<u8>>, Fault> {
        let mut documents = Vec::new();
        for _ in 0..count {
            match self.next()? {
                Some(document) => documents.push(document),
                None => break,
            }
        }
        Ok(documents)
    }
}
