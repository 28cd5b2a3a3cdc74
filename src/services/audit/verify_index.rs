//! Verifies what searches rely on, in a valid log: the partitions, and the times and postings of every block. Leaves and
//! nodes are verified with the events.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::report::ProgressCallback;
use super::snapshot::LogSnapshot;
use crate::domain::audit::index::{self, BLOCK, BlockIndex};
use crate::domain::audit::index_check::{self, IndexError, PostingCursor, StoredBlock};
use crate::domain::audit::verify::{IntegrityError, IntegrityErrorKind};
use crate::domain::audit::{partitions, store};
use crate::platform::fault::{Context, Fault};

/// The first error of the index.
pub(super) async fn verify_index(
    snapshot: &LogSnapshot<'_>,
    progress: ProgressCallback<'_>,
) -> Result<Option<IndexError>, Fault> {
    let mut first = snapshot.first().await?;
    if let Some(seq) = partitions::first_misplaced(&mut first).await? {
        let error = IntegrityError { seq, kind: IntegrityErrorKind::Partition };
        let block = i64::try_from(seq / BLOCK).unwrap_or(i64::MAX);
        return Ok(Some(IndexError { error, block, term: None }));
    }
    // Events below are archived, and not searched.
    let first_block = partitions::first_available(&mut first).await? / BLOCK;
    let end = index::indexed(&mut first).await? / BLOCK;
    let cursor = PostingCursor::open(&mut first, first_block).await?;
    drop(first);
    let blocks = futures_util::stream::try_unfold((cursor, first_block), async |(mut cursor, block)| {
        if block >= end {
            let rest = cursor.rest(*snapshot.first().await?).await?;
            return Ok(rest.map(|error| (CursorItem::Surplus(error), (cursor, u64::MAX))));
        }
        let postings = cursor.take(*snapshot.first().await?, block).await?;
        Ok::<_, Fault>(Some((CursorItem::Block(block, postings), (cursor, block + 1))))
    });
    let checking = blocks
        .map(async |stored| match stored? {
            CursorItem::Surplus(error) => Ok::<_, Fault>((end, Some(error))),
            CursorItem::Block(block, postings) => Ok((block + 1, check(snapshot, block, postings).await?)),
        })
        .buffered(snapshot.connections() + 1);
    let mut checking = pin!(checking);
    while let Some((done, error)) = checking.try_next().await? {
        if error.is_some() {
            return Ok(error);
        }
        progress(done * BLOCK, end * BLOCK);
    }
    Ok(None)
}

/// What the cursor has read.
enum CursorItem {
    /// A block with its postings.
    Block(u64, BTreeMap<i64, Vec<u8>>),
    /// A posting of a block that is not indexed.
    Surplus(IndexError),
}

async fn check(
    snapshot: &LogSnapshot<'_>,
    block: u64,
    postings: BTreeMap<i64, Vec<u8>>,
) -> Result<Option<IndexError>, Fault> {
    let (documents, times) = {
        let mut reader = snapshot.reader(usize::try_from(block).unwrap_or_default()).await?;
        let documents = store::documents_in(&mut reader, block * BLOCK..(block + 1) * BLOCK).await?;
        (documents, index_check::times(&mut reader, block).await?)
    };
    let compared = tokio::task::spawn_blocking(move || {
        let first = documents.first().map_or(0, |(seq, _)| seq % BLOCK);
        let texts = documents.iter().map(|(_, document)| document.as_str());
        let expected = BlockIndex::of(usize::try_from(first).unwrap_or_default(), texts);
        StoredBlock { block, times, postings }.compare(first, &expected).err()
    });
    compared.await.context("comparing a block")
}
