//! Reads the log for verification, chunk by chunk: events with the stored leaves and tile roots.

use std::collections::HashMap;
use std::ops::Range;

use sqlx::PgConnection;

use super::copied_rows::{CopiedRow, CopiedRows};
use super::tree;
use super::verify::{
    Cores, DocumentCheck, IntegrityError, IntegrityErrorKind, LogVerifier, check_document, check_documents,
    on_cores,
};
use crate::platform::fault::Fault;
use actchain_protocol::digest::{hex, sha256};
use actchain_protocol::merkle::Hash;

/// Number of events per chunk.
pub const CHUNK: u64 = 4_096;
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
    Copied(CopiedRows),
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
        DocumentSource::Database => {
            (Rows::Copied(CopiedRows::with_personal(connection, from..to).await?), indexed)
        }
        DocumentSource::Leaves => (Rows::Archived, to),
        DocumentSource::File(documents) => (Rows::File(documents), to),
    };
    Ok(Chunk { rows, stored: StoredHashes { from, to, leaves, complete, tiles, indexed } })
}

impl Chunk {
    /// Parses and hashes the documents: nearly all the cost of verification, and independent of other chunks.
    ///
    /// # Errors
    /// A fault if the copied rows cannot be read.
    pub fn check(self, cores: Cores) -> Result<CheckedChunk, Fault> {
        let (documents, changed_personal) = match &self.rows {
            Rows::Archived => (None, None),
            Rows::Copied(rows) => {
                let (documents, changed_personal) = check_rows(rows, cores)?;
                (Some(documents), changed_personal)
            }
            Rows::File(documents) => {
                let documents: Vec<&[u8]> = documents.iter().map(Vec::as_slice).collect();
                let seqs = self.stored.from..self.stored.to;
                (Some(seqs.zip(check_documents(&documents, cores)).collect()), None)
            }
        };
        Ok(CheckedChunk { documents, changed_personal, stored: self.stored })
    }
}

/// The documents, and the first event whose personal data is not what its document names.
type CheckedRows = (Vec<(u64, DocumentCheck)>, Option<u64>);

fn check_rows(rows: &CopiedRows, cores: Cores) -> Result<CheckedRows, Fault> {
    let rows = rows.iter().collect::<Result<Vec<_>, _>>()?;
    let checked = on_cores(cores, &rows, |CopiedRow { document, personal, personal_sha256, .. }| {
        let digest = personal.map(|personal| hex(&sha256(&[personal])).into_bytes());
        let digest = digest.as_deref().or(*personal_sha256);
        (check_document(document), digest.is_none_or(|digest| names_personal(document, digest)))
    });
    let changed = rows.iter().zip(&checked).find(|(_, (_, fits))| !fits).map(|(row, _)| row.seq);
    let documents = rows.iter().zip(checked).map(|(row, (document, _))| (row.seq, document));
    Ok((documents.collect(), changed))
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
