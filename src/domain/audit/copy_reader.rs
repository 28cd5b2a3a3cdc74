//! Reads the log for verification, chunk by chunk: events in the binary `COPY` format of PostgreSQL, with the
//! stored leaves and tile roots.

use std::collections::HashMap;
use std::ops::Range;

use futures_util::TryStreamExt as _;
use sqlx::PgConnection;

use super::tree;
use super::verify::{IntegrityError, IntegrityErrorKind, LogVerifier, VerifyError, check_documents};
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
    from: u64,
    to: u64,
    rows: Rows,
    /// The stored leaves of the indexed events.
    leaves: Vec<Hash>,
    /// The stored roots of tiles that end in this chunk, by level and number.
    tiles: HashMap<(u32, u64), Hash>,
    /// Number of events in the log whose hashes are stored.
    indexed: u64,
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

/// Reads the events of a range with their stored hashes; the first `indexed` events of the log have stored
/// leaves.
pub async fn read(
    connection: &mut PgConnection,
    range: Range<u64>,
    source: DocumentSource,
    indexed: u64,
) -> Result<Chunk, Fault> {
    let Range { start: from, end: to } = range;
    let leaves = tree::leaves_as_stored(connection, from, to.min(indexed)).await?;
    let tiles = tree::tiles_as_stored(connection, from, to).await?;
    let rows = match source {
        DocumentSource::Database => Rows::Copied(copy(connection, from, to).await?),
        DocumentSource::Leaves => Rows::Archived,
        DocumentSource::File(documents) => Rows::File(documents),
    };
    Ok(Chunk { from, to, rows, leaves, tiles, indexed })
}

/// Reads all rows with one `COPY`: the cost of the row protocol would be higher than the cost of hashing.
async fn copy(connection: &mut PgConnection, from: u64, to: u64) -> Result<Vec<u8>, Fault> {
    let statement = format!(
        "COPY (SELECT seq, document FROM audit_event WHERE seq >= {from} AND seq < {to} ORDER BY seq)
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
    /// Passes all events of the chunk to the verifier.
    pub fn verify(&self, verifier: &mut LogVerifier) -> Result<(), VerifyError> {
        match &self.rows {
            Rows::Archived => self.over_leaves(verifier)?,
            Rows::Copied(rows) => self.over_rows(verifier, rows)?,
            Rows::File(documents) => {
                let documents: Vec<&[u8]> = documents.iter().map(Vec::as_slice).collect();
                self.over_documents(verifier, (self.from..self.to).collect(), &documents)?;
            }
        }
        Ok(self.compare_tiles(verifier)?)
    }

    fn over_leaves(&self, verifier: &mut LogVerifier) -> Result<(), IntegrityError> {
        for leaf in &self.leaves {
            verifier.step_over(*leaf)?;
        }
        match verifier.size() == self.to {
            true => Ok(()),
            false => Err(IntegrityError { seq: verifier.size(), kind: IntegrityErrorKind::Gap }),
        }
    }

    fn over_rows(&self, verifier: &mut LogVerifier, rows: &[u8]) -> Result<(), VerifyError> {
        let damaged = || Fault::new("what PostgreSQL copied out cannot be read");
        let mut rest = rows.strip_prefix(SIGNATURE).and_then(|rest| rest.get(8..)).ok_or_else(damaged)?;
        let (mut seqs, mut documents) = (Vec::new(), Vec::new());
        while let Some((seq, document, behind)) = row(rest).ok_or_else(damaged)? {
            seqs.push(u64::try_from(seq).unwrap_or(u64::MAX));
            documents.push(document);
            rest = behind;
        }
        Ok(self.over_documents(verifier, seqs, &documents)?)
    }

    fn over_documents(
        &self,
        verifier: &mut LogVerifier,
        seqs: Vec<u64>,
        documents: &[&[u8]],
    ) -> Result<(), IntegrityError> {
        for (seq, verdict) in seqs.into_iter().zip(check_documents(documents)) {
            let leaf = verifier.accept(seq, &verdict)?;
            let seq = verifier.size() - 1;
            let stored = usize::try_from(seq - self.from).ok().and_then(|place| self.leaves.get(place));
            if stored.is_some_and(|stored| *stored != leaf) || (stored.is_none() && seq < self.indexed) {
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

type Row<'a> = Option<(i64, &'a [u8], &'a [u8])>;

/// The next row and the rest; `Some(None)` at the end of the copy, `None` for malformed bytes.
fn row(bytes: &[u8]) -> Option<Row<'_>> {
    let (columns, rest) = bytes.split_first_chunk::<2>()?;
    match i16::from_be_bytes(*columns) {
        -1 => Some(None),
        2 => {
            let (seq, rest) = field(rest)?;
            let (document, rest) = field(rest)?;
            Some(Some((i64::from_be_bytes(seq.try_into().ok()?), document, rest)))
        }
        _ => None,
    }
}

fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?)
}
