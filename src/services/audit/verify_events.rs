//! Verifies all events of a snapshot: stored leaves where events are archived, then documents. Connections read and
//! check chunks of events side by side; the tree is built in order, so that the first error of the log is found first.

use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;

use super::report::ProgressCallback;
use super::snapshot::LogSnapshot;
use super::verify_archived::{ArchivedRun, ArchivedRuns};
use crate::domain::audit::copy_reader::{self, CheckedChunk, DocumentSource};
use crate::domain::audit::index;
use crate::domain::audit::verify::{Cores, IntegrityError, IntegrityErrorKind, LogVerifier, VerifyError};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::merkle::Frontier;

/// Verifies up to the head.
pub(super) async fn verify_events(
    snapshot: &LogSnapshot<'_>,
    mut verifier: LogVerifier,
    archived: ArchivedRuns,
    head: &Frontier,
    progress: ProgressCallback<'_>,
) -> Result<Frontier, VerifyError> {
    let part = EventsToVerify { archived, to: head.size(), cores: Cores::All };
    let changed_personal = verify_part(snapshot, &mut verifier, part, progress).await?;
    let seq = verifier.size();
    if seq < head.size() {
        return Err(IntegrityError { seq, kind: IntegrityErrorKind::Truncated }.into());
    }
    let tree = verifier.end()?;
    if tree != *head {
        return Err(IntegrityError { seq: head.size(), kind: IntegrityErrorKind::Root }.into());
    }
    // Of documents that are as recorded: what is beside them.
    match changed_personal {
        Some(seq) => Err(IntegrityError { seq, kind: IntegrityErrorKind::Personal }.into()),
        None => Ok(tree),
    }
}

/// The events after those that a verifier has verified.
pub(super) struct EventsToVerify {
    pub(super) archived: ArchivedRuns,
    /// The `seq` after the last one.
    pub(super) to: u64,
    pub(super) cores: Cores,
}

/// Verifies the documents of some events. Returns the first event whose personal data is not what its document names.
pub(super) async fn verify_part(
    snapshot: &LogSnapshot<'_>,
    verifier: &mut LogVerifier,
    events: EventsToVerify,
    progress: ProgressCallback<'_>,
) -> Result<Option<u64>, VerifyError> {
    let EventsToVerify { archived, to: size, cores } = events;
    let indexed = index::indexed(*snapshot.first().await?).await?;
    let parts = Parts { next: verifier.size(), size, runs: archived.runs.into_iter().peekable() };
    let ended = AtomicBool::new(false);
    let parts = parts.take_while(|_| !ended.load(Ordering::Relaxed));
    let reader = PartReader { snapshot, indexed, cores };
    let checking = futures_util::stream::iter(parts.enumerate())
        .map(async |(n, part)| reader.check(n, part?).await)
        // Not more chunks than connections: a reader that waits for a core costs more than it gains.
        .buffered(snapshot.connections());
    let mut checking = pin!(checking);
    let mut result = Ok(());
    let mut changed_personal = None;
    while let Some(checked) = checking.next().await {
        // After an error, the reads that have begun run to their end: a connection is of no use after half a `COPY`.
        if result.is_ok() {
            let changed = checked.as_ref().ok().and_then(|(_, chunk)| chunk.changed_personal());
            changed_personal = changed_personal.or(changed);
            result = verify(verifier, checked, |to| progress(to, size));
            ended.store(result.is_err(), Ordering::Relaxed);
        }
    }
    result.map(|()| changed_personal)
}

/// Verifies the next chunk, and calls `done` with the `seq` after it.
fn verify(
    verifier: &mut LogVerifier,
    checked: Result<(u64, CheckedChunk), Fault>,
    done: impl FnOnce(u64),
) -> Result<(), VerifyError> {
    let (to, chunk) = checked?;
    chunk.verify(verifier)?;
    done(to);
    Ok(())
}

struct PartReader<'a, 's> {
    snapshot: &'a LogSnapshot<'s>,
    /// Number of events of the log that are indexed.
    indexed: u64,
    cores: Cores,
}

impl PartReader<'_, '_> {
    /// Reads and checks the n-th part. Returns the `seq` after it, too.
    async fn check(&self, n: usize, part: Part) -> Result<(u64, CheckedChunk), Fault> {
        let (to, cores) = (part.range.end, self.cores);
        let chunk = {
            let mut reader = self.snapshot.reader(n).await?;
            copy_reader::read(&mut reader, part.range, part.source, self.indexed).await?
        };
        let checked = tokio::task::spawn_blocking(move || chunk.check(cores)).await.context("hashing")??;
        Ok((to, checked))
    }
}

/// Events that are read at once.
struct Part {
    range: Range<u64>,
    source: DocumentSource,
}

/// The parts of the log, in order. Lines of archive files are read as the parts are taken.
struct Parts {
    next: u64,
    size: u64,
    runs: std::iter::Peekable<std::vec::IntoIter<ArchivedRun>>,
}

impl Iterator for Parts {
    type Item = Result<Part, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let (from, size) = (self.next, self.size);
        if from >= size {
            return None;
        }
        while self.runs.next_if(|run| run.to <= from).is_some() {}
        let end = self.runs.peek().map_or(size, |run| run.to);
        let to = ((from / copy_reader::CHUNK + 1) * copy_reader::CHUNK).min(end).min(size);
        self.next = to;
        let source = match self.runs.peek_mut().map(|run| run.lines.as_mut()) {
            None => Ok(DocumentSource::Database),
            Some(None) => Ok(DocumentSource::Leaves),
            Some(Some(lines)) => lines.take(to - from).map(DocumentSource::File),
        };
        Some(source.map(|source| Part { range: from..to, source }))
    }
}
