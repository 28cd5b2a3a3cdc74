//! Reads the log for verification, chunk by chunk: events in the binary `COPY` format of PostgreSQL, with the
//! stored leaves and tile roots.

use std::collections::HashMap;
use std::ops::Range;

use futures_util::TryStreamExt as _;
use sqlx::PgConnection;

use super::tree;
use super::verify::{DocumentCheck, IntegrityError, IntegrityErrorKind, LogVerifier, check_documents};
use crate::platform::fault::Fault;
use actchain_protocol::merkle::Hash;

/// Number of events per chunk.
pub const CHUNK: u64 = 4_096;
/// Signature of a binary copy; eight bytes of flags follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const STRIDE: u32 = 8;

/// Consecutive events with the stored hashes.
#[derive(Debug)]
pub struct Chunk {
    rows: Rows,
    stored: StoredHashes,
}

#[derive(Debug)]
enum Rows {
    /// No documents: the events were archived.
    Archived,
    /// Binary `COPY` output of the database.
    Copied(Vec<u8>),
    /// Documents from the archive file.
    File(Vec<Vec<u8>>),
}

/// What the database has about a range of events, besides the documents.
#[derive(Debug)]
struct StoredHashes {
    from: u64,
    to: u64,
    /// The leaves, up to the first missing one.
    leaves: Vec<Hash>,
    /// Events below this `seq` must have a stored leaf.
    complete: u64,
    /// The roots of tiles that end in this range, by level and number.
    tiles: HashMap<(u32, u64), Hash>,
    /// Number of events in the log whose tiles are stored.
    indexed: u64,
}

/// A chunk whose documents were parsed and hashed, each by itself.
#[derive(Debug)]
pub struct CheckedChunk {
    /// `None` for archived events without their file.
    documents: Option<Vec<(u64, DocumentCheck)>>,
    /// The first event whose personal data is not what its document names.
    changed_personal: Option<u64>,
    stored: StoredHashes,
}

/// The source of the documents of a chunk.
#[derive(Debug)]
pub enum DocumentSource {
    Database,
    /// The events were archived: only their leaves are stored.
    Leaves,
    /// The events were archived; these are the documents of the archive file, from the first event of the
    /// chunk.
    File(Vec<Vec<u8>>),
}

/// Reads the events of a range with their stored hashes; the first `indexed` events of the log are indexed.
pub async fn read(
    connection: &mut PgConnection,
    range: Range<u64>,
    source: DocumentSource,
    indexed: u64,
) -> Result<Chunk, Fault> {
    let Range { start: from, end: to } = range;
    let leaves = tree::leaves_as_stored(connection, from, to).await?;
    let tiles = tree::tiles_as_stored(connection, from, to).await?;
    let (rows, complete) = match source {
        DocumentSource::Database => (Rows::Copied(copy(connection, from, to).await?), indexed),
        DocumentSource::Leaves => (Rows::Archived, to),
        DocumentSource::File(documents) => (Rows::File(documents), to),
    };
    Ok(Chunk { rows, stored: StoredHashes { from, to, leaves, complete, tiles, indexed } })
}

/// Reads all rows with one `COPY`: the cost of the row protocol would be higher than the cost of hashing.
async fn copy(connection: &mut PgConnection, from: u64, to: u64) -> Result<Vec<u8>, Fault> {
    let statement = format!(
        "COPY (SELECT seq, document, encode(sha256(convert_to(personal, 'UTF8')), 'hex') FROM audit_event WHERE seq >= {from} AND seq < {to} ORDER BY seq)
         TO STDOUT (FORMAT binary)"
    );
    let mut stream = connection.copy_out_raw(&statement).await?;
    let mut rows = Vec::new();
    while let Some(part) = stream.try_next().await? {
        rows.extend_from_slice(&part);
    }
    Ok(rows)
}

impl Chunk {
    /// Parses and hashes the documents: nearly all the cost of verification, and independent of other chunks.
    ///
    /// # Errors
    /// A fault if the copied rows cannot be read.
    pub fn check(self) -> Result<CheckedChunk, Fault> {
        let (documents, changed_personal) = match &self.rows {
            Rows::Archived => (None, None),
            Rows::Copied(rows) => {
                let (documents, changed_personal) = check_rows(rows)?;
                (Some(documents), changed_personal)
            }
            Rows::File(documents) => {
                let documents: Vec<&[u8]> = documents.iter().map(Vec::as_slice).collect();
                let seqs = self.stored.from..self.stored.to;
                (Some(seqs.zip(check_documents(&documents)).collect()), None)
            }
        };
        Ok(CheckedChunk { documents, changed_personal, stored: self.stored })
    }
}

/// The documents, and the first event whose personal data is not what its document names.
type CheckedRows = (Vec<(u64, DocumentCheck)>, Option<u64>);

fn check_rows(rows: &[u8]) -> Result<CheckedRows, Fault> {
    let damaged = || Fault::new("what PostgreSQL copied out cannot be read");
    let mut rest = rows.strip_prefix(SIGNATURE).and_then(|rest| rest.get(8..)).ok_or_else(damaged)?;
    let (mut seqs, mut documents, mut changed_personal) = (Vec::new(), Vec::new(), None);
    while let Some((CopiedRow { seq, document, personal_sha256 }, behind)) = row(rest).ok_or_else(damaged)? {
        let seq = u64::try_from(seq).unwrap_or(u64::MAX);
        if personal_sha256.is_some_and(|digest| !names_personal(document, digest)) {
            changed_personal.get_or_insert(seq);
        }
        seqs.push(seq);
        documents.push(document);
        rest = behind;
    }
    Ok((seqs.into_iter().zip(check_documents(&documents)).collect(), changed_personal))
}

/// Whether a document names this digest of the personal data beside it. In a canonical document the text
/// `"personal_sha256":"` occurs as a member only: quotes in strings have an escape.
fn names_personal(document: &[u8], digest: &[u8]) -> bool {
    let member = [b"\"personal_sha256\":\"", digest, b"\""].concat();
    memchr::memmem::find(document, &member).is_some()
}

impl CheckedChunk {
    /// The first event whose personal data is not what its document names.
    pub fn changed_personal(&self) -> Option<u64> {
        self.changed_personal
    }

    /// Passes all events of the chunk to the verifier, which has verified the events before.
    pub fn verify(self, verifier: &mut LogVerifier) -> Result<(), IntegrityError> {
        match self.documents {
            None => self.stored.over_leaves(verifier)?,
            Some(documents) => self.stored.over_documents(verifier, documents)?,
        }
        self.stored.compare_tiles(verifier)
    }
}

impl StoredHashes {
    fn over_leaves(&self, verifier: &mut LogVerifier) -> Result<(), IntegrityError> {
        for leaf in &self.leaves {
            verifier.step_over(*leaf)?;
        }
        match verifier.size() == self.to {
            true => Ok(()),
            false => Err(IntegrityError { seq: verifier.size(), kind: IntegrityErrorKind::Gap }),
        }
    }

    fn over_documents(
        &self,
        verifier: &mut LogVerifier,
        documents: Vec<(u64, DocumentCheck)>,
    ) -> Result<(), IntegrityError> {
        for (seq, verdict) in documents {
            let leaf = verifier.accept(seq, &verdict)?;
            let seq = verifier.size() - 1;
            let stored = usize::try_from(seq - self.from).ok().and_then(|place| self.leaves.get(place));
            if stored.is_some_and(|stored| *stored != leaf) || (stored.is_none() && seq < self.complete) {
                return Err(IntegrityError { seq, kind: IntegrityErrorKind::Leaf });
            }
        }
        Ok(())
    }

    fn compare_tiles(&self, verifier: &mut LogVerifier) -> Result<(), IntegrityError> {
        for root in verifier.full_tiles() {
            let end = (root.n + 1) << (root.level * STRIDE);
            if end <= self.indexed && self.tiles.get(&(root.level, root.n)) != Some(&root.hash) {
                return Err(IntegrityError { seq: end, kind: IntegrityErrorKind::Root });
            }
        }
        Ok(())
    }
}

struct CopiedRow<'a> {
    seq: i64,
    document: &'a [u8],
    /// Of the personal data beside the document, in hexadecimal.
    personal_sha256: Option<&'a [u8]>,
}

/// The next row and the rest; `Some(None)` at the end of the copy, `None` for malformed bytes.
fn row(bytes: &[u8]) -> Option<Option<(CopiedRow<'_>, &[u8])>> {
    let (columns, rest) = bytes.split_first_chunk::<2>()?;
    match i16::from_be_bytes(*columns) {
        -1 => Some(None),
        3 => {
            let (seq, rest) = field(rest)?;
            let (document, rest) = field(rest)?;
            let (personal_sha256, rest) = field(rest)?;
            let seq = i64::from_be_bytes(seq?.try_into().ok()?);
            Some(Some((CopiedRow { seq, document: document?, personal_sha256 }, rest)))
        }
        _ => None,
    }
}

/// A column, which may be `NULL`, and the rest.
fn field(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    match i32::from_be_bytes(*length) {
        -1 => Some((None, rest)),
        length => {
            let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((Some(value), rest))
        }
    }
}
