//! Verifies the log in the database: documents, leaves, tiles, and checkpoints with all signatures. Reads one
//! snapshot and changes nothing.

use std::ops::RangeInclusive;

use sqlx::PgConnection;

use super::checkpoint::{size_of, verifier_key};
use super::report::{ProgressCallback, Report, TrustAnchors};
use super::snapshot::LogSnapshot;
use super::verify_archived::archived;
use super::verify_events::verify_events;
use super::verify_index::verify_index;
use crate::domain::audit::verify::{IntegrityError, IntegrityErrorKind, LogVerifier, VerifyError};
use crate::domain::audit::{index, partitions, store, tree};
use crate::domain::key::{self, KeyPurpose, StoredKey};
use crate::platform::fault::Fault;
use actchain_protocol::merkle::Frontier;
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};

/// The database to verify.
#[derive(Debug)]
pub struct LogDatabase<'a> {
    pub connection: &'a mut PgConnection,
    /// More connections to the same database, which read at the same time.
    pub others: &'a mut [PgConnection],
    pub scope: VerifyScope,
}

/// What of a database is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyScope {
    Log,
    /// Also everything that searches rely on: the index and the partitions.
    LogAndIndex,
}

/// Verifies the log in the database, in one snapshot.
pub async fn verify_database(connection: &mut PgConnection, anchors: &TrustAnchors) -> Result<Report, Fault> {
    let database = LogDatabase { connection, others: &mut [], scope: VerifyScope::Log };
    verify_database_shown(database, anchors, &mut |_, _| {}).await
}

/// [`verify_database`] by several connections and with a progress callback. The result is the same.
pub async fn verify_database_shown(
    database: LogDatabase<'_>,
    anchors: &TrustAnchors,
    progress: ProgressCallback<'_>,
) -> Result<Report, Fault> {
    let LogDatabase { connection, others, scope } = database;
    let snapshot = LogSnapshot::begin(connection, others).await?;
    let report = verify_snapshot(&snapshot, anchors, progress).await;
    let report = match report {
        Ok(report) if report.valid && scope == VerifyScope::LogAndIndex => {
            verify_index(&snapshot, progress).await.map(|error| report.with_index(error))
        }
        other => other,
    };
    snapshot.end().await?;
    report
}

async fn verify_snapshot(
    snapshot: &LogSnapshot<'_>,
    anchors: &TrustAnchors,
    progress: ProgressCallback<'_>,
) -> Result<Report, Fault> {
    let mut first = snapshot.first().await?;
    let connection: &mut PgConnection = &mut first;
    let head = store::head(connection).await?;
    let keys = key::store::list(connection).await?;
    let stored = store::checkpoints(connection, 0..=u64::MAX).await?;
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
    let cosigned = match cosigned(connection, &stored, 0..=u64::MAX).await {
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
    let archived = match archived(connection, anchors, trusted_keys, from..u64::MAX).await {
        Ok(archived) => archived,
        Err(error) => return Ok(Report { from, ..Report::of(Err(error), count)? }),
    };
    let hashes_only = archived.hashes_only(u64::MAX);
    let verifier = match LogVerifier::resume(&trusted, &[&checkpoints[..], &archived.roots[..]].concat()) {
        Ok(verifier) => verifier,
        Err(error) => return Ok(Report { from, ..Report::of(Err(error.into()), count)? }),
    };
    let surplus = surplus(connection, &head).await?;
    drop(first);
    progress(from, head.size());
    let result = verify_events(snapshot, verifier, archived, &head, progress).await;
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
        let kind = match stated(note) {
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

/// What a note states. Its signatures are not verified.
pub(super) fn stated(note: &str) -> Option<Checkpoint> {
    signed_note::parts(note).and_then(|(text, _)| Checkpoint::parse(&text))
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

/// The stored checkpoints of a range of sizes with the signature lines of their witnesses.
///
/// # Errors
/// An integrity error at the first checkpoint with an invalid cosignature.
pub(super) async fn cosigned(
    connection: &mut PgConnection,
    stored: &[(u64, String)],
    sizes: RangeInclusive<u64>,
) -> Result<Vec<String>, VerifyError> {
    let mut notes: Vec<String> = stored.iter().map(|(_, note)| note.clone()).collect();
    for (size, key, line) in store::cosignatures(connection, sizes).await? {
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
pub(super) async fn surplus(
    connection: &mut PgConnection,
    head: &Frontier,
) -> Result<Option<IntegrityError>, Fault> {
    let first_available = partitions::first_available(connection).await?;
    let is_surplus = store::rows_outside(connection, first_available, head.size()).await? > 0
        || !store::archived_leaves(connection, first_available..u64::MAX).await?.is_empty()
        || index::indexed(connection).await? > head.size()
        || !tree::is_regular(connection).await?;
    Ok(is_surplus.then_some(IntegrityError { seq: head.size(), kind: IntegrityErrorKind::Surplus }))
}

/// Verifies a note with the anchored keys or, without any, the keys in the database.
fn open(note: &str, anchors: &TrustAnchors, stored: &[StoredKey]) -> Option<Checkpoint> {
    signed_note::open(note, &trusted_keys(note, anchors, stored))
}

pub(super) fn trusted_keys(note: &str, anchors: &TrustAnchors, stored: &[StoredKey]) -> Vec<VerifierKey> {
    if !anchors.keys.is_empty() {
        return anchors.keys.clone();
    }
    let name = note.lines().next().unwrap_or_default();
    let log = stored.iter().filter(|key| key.purpose == KeyPurpose::Checkpoint);
    log.filter_map(|key| verifier_key(key, name)).collect()
}
