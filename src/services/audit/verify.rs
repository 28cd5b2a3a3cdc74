//! Verifies the log in the database: documents, leaves, tiles, and checkpoints with all signatures. Reads one
//! snapshot and changes nothing.

use sqlx::PgConnection;

use super::checkpoint::{size_of, verifier_key};
use super::report::{ProgressCallback, Report, TrustAnchors};
use super::verify_archived::{Archived, archived};
use crate::domain::audit::copy_reader::{self, Chunk, DocumentSource};
use crate::domain::audit::verify::{IntegrityError, IntegrityErrorKind, LogVerifier, VerifyError};
use crate::domain::audit::{index, partitions, store, tree};
use crate::domain::key::{self, KeyPurpose, StoredKey};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::merkle::Frontier;
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};

/// Verifies the log in the database, in one snapshot.
pub async fn verify_database(connection: &mut PgConnection, anchors: &TrustAnchors) -> Result<Report, Fault> {
    verify_database_shown(connection, anchors, &mut |_, _| {}).await
}

/// [`verify_database`] with a progress callback.
pub async fn verify_database_shown(
    connection: &mut PgConnection,
    anchors: &TrustAnchors,
    progress: ProgressCallback<'_>,
) -> Result<Report, Fault> {
    sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *connection).await?;
    // A long log takes longer than the statement timeout of requests.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *connection).await?;
    let report = verify_snapshot(connection, anchors, progress).await;
    sqlx::query("ROLLBACK").execute(connection).await?;
    report
}

async fn verify_snapshot(
    connection: &mut PgConnection,
    anchors: &TrustAnchors,
    progress: ProgressCallback<'_>,
) -> Result<Report, Fault> {
    let head = store::head(connection).await?;
    let keys = key::store::list(connection).await?;
    let stored = store::checkpoints(connection).await?;
    let mut checkpoints = Vec::new();
    if let Some(integrity_error) = unreadable(&stored, anchors, &keys) {
        return Report::of(Err(integrity_error.into()), 0);
    }
    let notes = stored.iter().map(|(_, note)| note).filter(|note| !is_of_trusted_issuer(note, anchors));
    for note in notes.chain(&anchors.notes).chain(&anchors.from) {
        match open(note, anchors, &keys) {
            Some(checkpoint) => checkpoints.push(checkpoint),
            None => {
                let seq = size_of(note).unwrap_or(head.size());
                return Ok(Report::invalid(seq, IntegrityErrorKind::Signature, checkpoints.len()));
            }
        }
    }
    let count = checkpoints.len();
    // A checkpoint is found by the size in its row; a checkpoint of another size in that row is an error.
    if let Some((size, _)) = stored.iter().find(|(size, note)| size_of(note) != Some(*size)) {
        return Ok(Report::invalid(*size, IntegrityErrorKind::Checkpoint, count));
    }
    // An attacker who rewrites the log can also remove or replace the signatures.
    if !anchors.keys.is_empty() && count == 0 {
        let (seq, _) = stored.first().ok_or_else(|| {
            Fault::new("there is no checkpoint, so nothing that the kept key has signed vouches for the log")
        })?;
        return Ok(Report::invalid(*seq, IntegrityErrorKind::Signature, count));
    }
    let cosigned = match cosigned(connection, &stored).await {
        Ok(notes) => notes,
        Err(error) => return Report::of(Err(error), count),
    };
    let trusted = match &anchors.from {
        None => Frontier::default(),
        Some(note) => match trusted(connection, open(note, anchors, &keys).as_ref(), &head).await {
            Ok(frontier) => frontier,
            Err(error) => return Report::of(Err(error), count),
        },
    };
    let from = trusted.size();
    let trusted_keys = |note: &str| trusted_keys(note, anchors, &keys);
    let archived = match archived(connection, anchors, trusted_keys, from).await {
        Ok(archived) => archived,
        Err(error) => return Ok(Report { from, ..Report::of(Err(error), count)? }),
    };
    let hashes_only = archived.hashes_only();
    let verifier = match LogVerifier::resume(&trusted, &[&checkpoints[..], &archived.roots[..]].concat()) {
        Ok(verifier) => verifier,
        Err(error) => return Ok(Report { from, ..Report::of(Err(error.into()), count)? }),
    };
    let surplus = surplus(connection, &head).await?;
    let result = verify_all(connection, verifier, archived, &head, progress).await;
    // Integrity errors of earlier events are reported first.
    let result = match surplus {
        Some(surplus) => result.and(Err(surplus.into())),
        None => result,
    };
    let report = Report { from, hashes_only, ..Report::of(result, count)? }.compared_with(&checkpoints);
    let compared = cosigned.iter().filter(|note| !is_of_trusted_issuer(note, anchors));
    Ok(report.witnessed_in(compared.chain(&anchors.notes), anchors))
}

/// With anchored keys, checkpoints of other signers are ignored: a log whose issuer was renamed has such checkpoints.
fn is_of_trusted_issuer(note: &str, anchors: &TrustAnchors) -> bool {
    !anchors.keys.is_empty() && !signed_note::names_signer(note, &anchors.keys)
}

/// The first stored checkpoint that cannot be read, or that is ignored as another signer's although no key of the log
/// has signed it.
fn unreadable(
    stored: &[(u64, String)],
    anchors: &TrustAnchors,
    keys: &[StoredKey],
) -> Option<IntegrityError> {
    stored.iter().find_map(|(size, note)| {
        let read = signed_note::parts(note).and_then(|(text, _)| Checkpoint::parse(&text));
        let kind = match read {
            None => IntegrityErrorKind::Unreadable,
            Some(_)
                if is_of_trusted_issuer(note, anchors)
                    && open(note, &TrustAnchors::default(), keys).is_none() =>
            {
                IntegrityErrorKind::Signature
            }
            Some(_) => return None,
        };
        Some(IntegrityError { seq: *size, kind })
    })
}

/// The tree frontier at the trusted checkpoint, if the checkpoint's root matches.
async fn trusted(
    connection: &mut PgConnection,
    checkpoint: Option<&Checkpoint>,
    head: &Frontier,
) -> Result<Frontier, VerifyError> {
    let checkpoint = checkpoint.ok_or_else(|| Fault::new("no trusted key has signed the checkpoint"))?;
    if checkpoint.size > head.size() {
        return Err(IntegrityError { seq: head.size(), kind: IntegrityErrorKind::Truncated }.into());
    }
    let frontier = tree::frontier(connection, checkpoint.size).await?;
    if frontier.root() == checkpoint.root {
        return Ok(frontier);
    }
    Err(IntegrityError { seq: checkpoint.size, kind: IntegrityErrorKind::Checkpoint }.into())
}

/// The stored checkpoints with the signature lines of their witnesses.
///
/// # Errors
/// An integrity error at the first checkpoint with an invalid cosignature.
async fn cosigned(
    connection: &mut PgConnection,
    stored: &[(u64, String)],
) -> Result<Vec<String>, VerifyError> {
    let mut notes: Vec<String> = stored.iter().map(|(_, note)| note.clone()).collect();
    for (size, key, line) in store::cosignatures(connection, 0, u64::MAX).await? {
        // Checkpoints are sorted by size.
        let place = stored.binary_search_by_key(&size, |(of, _)| *of).ok();
        let note = place.and_then(|place| notes.get_mut(place));
        let is_valid = |note: &String| {
            let (text, signatures) =
                signed_note::parts(&format!("{}\n\n{line}", note.split("\n\n").next()?))?;
            let key = VerifierKey::parse(&key)?;
            signatures.first().filter(|one| one.is_by(&key, &text)).map(drop)
        };
        match note.filter(|note| is_valid(note).is_some()) {
            Some(note) => note.push_str(&line),
            None => return Err(IntegrityError { seq: size, kind: IntegrityErrorKind::Signature }.into()),
        }
    }
    Ok(notes)
}

/// Rows after the log's head, or before the first event that is not archived.
async fn surplus(connection: &mut PgConnection, head: &Frontier) -> Result<Option<IntegrityError>, Fault> {
    let first_available = partitions::first_available(connection).await?;
    let is_surplus = store::rows_outside(connection, first_available, head.size()).await? > 0
        || index::indexed(connection).await? > head.size()
        || !tree::is_regular(connection).await?;
    Ok(is_surplus.then_some(IntegrityError { seq: head.size(), kind: IntegrityErrorKind::Surplus }))
}

/// Verifies up to the head: stored leaves where events are archived, then documents. The next chunk is read while the
/// present chunk is hashed.
async fn verify_all(
    connection: &mut PgConnection,
    verifier: LogVerifier,
    archived: Archived,
    head: &Frontier,
    progress: ProgressCallback<'_>,
) -> Result<Frontier, VerifyError> {
    let size = head.size();
    let mut from = verifier.size();
    let mut runs = archived.runs.into_iter().peekable();
    let indexed = index::indexed(connection).await?;
    let (chunks, arriving) = tokio::sync::mpsc::channel::<Chunk>(1);
    let hashing = tokio::task::spawn_blocking(move || verify_chunks(verifier, arriving));
    while from < size {
        while runs.next_if(|run| run.to <= from).is_some() {}
        let end = runs.peek().map_or(size, |run| run.to);
        let to = ((from / copy_reader::CHUNK + 1) * copy_reader::CHUNK).min(end);
        let source = match runs.peek_mut().map(|run| run.lines.as_mut()) {
            None => DocumentSource::Database,
            Some(None) => DocumentSource::Leaves,
            Some(Some(lines)) => DocumentSource::File(lines.take(to - from)?),
        };
        let chunk = copy_reader::read(connection, from..to, source, indexed).await?;
        // The receiver stops at the first error.
        if chunks.send(chunk).await.is_err() {
            break;
        }
        progress(to, size);
        from = to;
    }
    drop(chunks);
    let verifier = hashing.await.context("hashing")??;
    let seq = verifier.size();
    if seq < size {
        return Err(IntegrityError { seq, kind: IntegrityErrorKind::Truncated }.into());
    }
    let tree = verifier.end()?;
    if tree == *head {
        Ok(tree)
    } else {
        Err(IntegrityError { seq: size, kind: IntegrityErrorKind::Root }.into())
    }
}

fn verify_chunks(
    mut verifier: LogVerifier,
    mut arriving: tokio::sync::mpsc::Receiver<Chunk>,
) -> Result<LogVerifier, VerifyError> {
    while let Some(chunk) = arriving.blocking_recv() {
        chunk.verify(&mut verifier)?;
    }
    Ok(verifier)
}

/// Verifies a note with the anchored keys or, without any, the keys in the database.
fn open(note: &str, anchors: &TrustAnchors, stored: &[StoredKey]) -> Option<Checkpoint> {
    signed_note::open(note, &trusted_keys(note, anchors, stored))
}

fn trusted_keys(note: &str, anchors: &TrustAnchors, stored: &[StoredKey]) -> Vec<VerifierKey> {
    if !anchors.keys.is_empty() {
        return anchors.keys.clone();
    }
    let name = note.lines().next().unwrap_or_default();
    let log = stored.iter().filter(|key| key.purpose == KeyPurpose::Checkpoint);
    log.filter_map(|key| verifier_key(key, name)).collect()
}
