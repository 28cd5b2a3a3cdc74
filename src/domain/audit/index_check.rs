//! Compares the stored index with the index that follows from the documents.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Serialize;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use time::OffsetDateTime;

use super::index::{BLOCK, BlockBitmap, BlockIndex};
use super::verify::{IntegrityError, IntegrityErrorKind};
use crate::platform::fault::{Context, Fault};

/// Number of postings per read.
const FETCH: &str = "FETCH FORWARD 20000 FROM audit_postings";

/// The first error of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IndexError {
    #[serde(skip)]
    pub error: IntegrityError,
    pub block: i64,
    /// The term as it is stored; `None` if the error is not about a posting.
    pub term: Option<i64>,
}

/// What is stored about one block.
#[derive(Debug)]
pub struct StoredBlock {
    pub block: u64,
    /// Earliest and latest `at`; `None` if the block is not stored.
    pub times: Option<(OffsetDateTime, OffsetDateTime)>,
    /// The stored bitmap of each term.
    pub postings: BTreeMap<i64, Vec<u8>>,
}

impl StoredBlock {
    /// Compares with the index of the events from position `first` of the block on. Earlier events are archived, and
    /// no search reads them.
    ///
    /// # Errors
    /// The error with the lowest `seq`.
    pub fn compare(&self, first: u64, expected: &BlockIndex) -> Result<(), IndexError> {
        let covers = |(from, to): (OffsetDateTime, OffsetDateTime)| match first {
            0 => (from, to) == (expected.first_at, expected.last_at),
            _ => from <= expected.first_at && to >= expected.last_at,
        };
        if !self.times.is_some_and(covers) {
            return Err(self.error(IntegrityErrorKind::BlockTime, first, None));
        }
        let terms: BTreeSet<i64> = self.postings.keys().chain(expected.postings.keys()).copied().collect();
        let wrong = terms.into_iter().filter_map(|term| {
            let expected = expected.postings.get(&term).copied().unwrap_or_default();
            Some((first_wrong(self.postings.get(&term), first, expected)?, term))
        });
        match wrong.min() {
            None => Ok(()),
            Some((place, term)) => Err(self.error(IntegrityErrorKind::Posting, place, Some(term))),
        }
    }

    fn error(&self, kind: IntegrityErrorKind, place: u64, term: Option<i64>) -> IndexError {
        let error = IntegrityError { seq: self.block * BLOCK + place, kind };
        IndexError { error, block: i64::try_from(self.block).unwrap_or(i64::MAX), term }
    }
}

/// The first position, from `first` on, at which a stored bitmap is wrong.
fn first_wrong(stored: Option<&Vec<u8>>, first: u64, expected: BlockBitmap) -> Option<u64> {
    let bytes = stored.map(Vec::as_slice).unwrap_or_default();
    let bitmap = BlockBitmap::of_bytes(bytes);
    let is_damaged = bitmap.to_bytes() != bytes || (stored.is_some() && bytes.is_empty());
    bitmap.members_from(first).first_difference(expected).or(is_damaged.then_some(first))
}

/// The stored times of a block.
pub async fn times(
    connection: &mut PgConnection,
    block: u64,
) -> Result<Option<(OffsetDateTime, OffsetDateTime)>, Fault> {
    let times = sqlx::query_as("SELECT first_at, last_at FROM audit_block WHERE block = $1")
        .bind(i32::try_from(block).context("numbering a block")?)
        .fetch_optional(connection)
        .await?;
    Ok(times)
}

#[derive(Debug, sqlx::FromRow)]
struct Posting {
    block: i32,
    term: i64,
    bitmap: Vec<u8>,
}

/// Reads the postings block by block, within the caller's transaction.
#[derive(Debug)]
pub struct PostingCursor {
    read: VecDeque<Posting>,
    ended: bool,
}

impl PostingCursor {
    /// Begins with a block. Postings of earlier blocks wait for their deletion, because their events are archived.
    pub async fn open(connection: &mut PgConnection, first: u64) -> Result<Self, Fault> {
        let cursor = format!(
            "DECLARE audit_postings NO SCROLL CURSOR FOR
             SELECT block, term, bitmap FROM audit_posting WHERE block >= {first} OR block < 0 ORDER BY block < 0, block, term"
        );
        // Safe: the only variable part is an integer.
        connection.execute(AssertSqlSafe(cursor)).await?;
        Ok(Self { read: VecDeque::new(), ended: false })
    }

    async fn fill(&mut self, connection: &mut PgConnection) -> Result<(), Fault> {
        if self.read.is_empty() && !self.ended {
            let rows: Vec<Posting> = sqlx::query_as(FETCH).persistent(false).fetch_all(connection).await?;
            self.ended = rows.is_empty();
            self.read = rows.into();
        }
        Ok(())
    }

    /// The postings of the next block if it is this one.
    pub async fn take(
        &mut self,
        connection: &mut PgConnection,
        block: u64,
    ) -> Result<BTreeMap<i64, Vec<u8>>, Fault> {
        let mut postings = BTreeMap::new();
        loop {
            self.fill(connection).await?;
            let is_next = |posting: &mut Posting| u64::try_from(posting.block) == Ok(block);
            match self.read.pop_front_if(is_next) {
                Some(posting) => drop(postings.insert(posting.term, posting.bitmap)),
                None => return Ok(postings),
            }
        }
    }

    /// The error of a posting whose block was not taken: it is not indexed.
    pub async fn rest(&mut self, connection: &mut PgConnection) -> Result<Option<IndexError>, Fault> {
        self.fill(connection).await?;
        Ok(self.read.front().map(|posting| IndexError {
            error: IntegrityError {
                seq: u64::try_from(posting.block).unwrap_or_default() * BLOCK,
                kind: IntegrityErrorKind::Posting,
            },
            block: posting.block.into(),
            term: Some(posting.term),
        }))
    }
}
