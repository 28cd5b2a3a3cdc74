//! Verifies the next events of the log after those that were verified before. A long log is verified in portions, each in
//! a snapshot of its own, so that no transaction is open for long. The result is that of one pass over the last
//! snapshot, because events do not change.

use std::ops::RangeInclusive;

use sqlx::PgConnection;

use super::report::TrustAnchors;
use super::snapshot::LogSnapshot;
use super::verify::{cosigned, stated, surplus, trusted_keys};
use super::verify_archived::archived;
use super::verify_events::{EventsToVerify, verify_part};
use crate::domain::audit::store;
use crate::domain::audit::verify::{Cores, IntegrityError, IntegrityErrorKind, LogVerifier, VerifyError};
use crate::domain::key::{self, StoredKey};
use actchain_protocol::merkle::Frontier;
use actchain_protocol::signed_note::{self, Checkpoint};

/// Number of events in a portion.
const PORTION: u64 = 16_384;

/// How far a portion led.
#[derive(Debug)]
pub(super) enum VerifiedPortion {
    /// There are more events.
    Partial(Frontier),
    /// All events are verified.
    Whole(Frontier),
}

/// Verifies the next portion, on one core.
pub(super) async fn verify_portion(
    connection: &mut PgConnection,
    verified: &Frontier,
) -> Result<VerifiedPortion, VerifyError> {
    let snapshot = LogSnapshot::begin(connection, &mut []).await?;
    let portion = verify_in(&snapshot, verified).await;
    snapshot.end().await?;
    portion
}

async fn verify_in(snapshot: &LogSnapshot<'_>, verified: &Frontier) -> Result<VerifiedPortion, VerifyError> {
    let mut first = snapshot.first().await?;
    let connection: &mut PgConnection = &mut first;
    let head = store::head(connection).await?;
    let (from, size) = (verified.size(), head.size());
    if from > size {
        return Err(IntegrityError { seq: size, kind: IntegrityErrorKind::Truncated }.into());
    }
    let to = size.min(from.saturating_add(PORTION));
    let is_last = to == size;
    let keys = key::store::list(connection).await?;
    let anchors = TrustAnchors::default();
    let checkpoints = checkpoints(connection, &keys, from..=if is_last { u64::MAX } else { to }).await?;
    let archived = archived(connection, &anchors, |note| trusted_keys(note, &anchors, &keys), from).await?;
    let mut verifier = LogVerifier::resume(verified, &[&checkpoints[..], &archived.roots[..]].concat())?;
    let surplus = if is_last { surplus(connection, &head).await? } else { None };
    drop(first);
    let events = EventsToVerify { archived, to, cores: Cores::One };
    let changed_personal = verify_part(snapshot, &mut verifier, events, &mut |_, _| {}).await?;
    let seq = verifier.size();
    if seq < to {
        return Err(IntegrityError { seq, kind: IntegrityErrorKind::Truncated }.into());
    }
    if let Some(seq) = changed_personal {
        return Err(IntegrityError { seq, kind: IntegrityErrorKind::Personal }.into());
    }
    if !is_last {
        return Ok(VerifiedPortion::Partial(verifier.frontier()));
    }
    let tree = verifier.end()?;
    match surplus {
        _ if tree != head => Err(IntegrityError { seq, kind: IntegrityErrorKind::Root }.into()),
        Some(surplus) => Err(surplus.into()),
        None => Ok(VerifiedPortion::Whole(tree)),
    }
}

/// The stored checkpoints of a range of sizes, with all their signatures verified.
async fn checkpoints(
    connection: &mut PgConnection,
    keys: &[StoredKey],
    sizes: RangeInclusive<u64>,
) -> Result<Vec<Checkpoint>, VerifyError> {
    let stored = store::checkpoints(connection, sizes.clone()).await?;
    let opened = stored.iter().map(|(size, note)| {
        let kind = match stated(note) {
            None => IntegrityErrorKind::Unreadable,
            Some(stated) if stated.size != *size => IntegrityErrorKind::Checkpoint,
            Some(_) => IntegrityErrorKind::Signature,
        };
        let opened = signed_note::open(note, &trusted_keys(note, &TrustAnchors::default(), keys));
        opened.filter(|one| one.size == *size).ok_or(IntegrityError { seq: *size, kind })
    });
    let opened = opened.collect::<Result<Vec<_>, _>>()?;
    cosigned(connection, &stored, sizes).await?;
    Ok(opened)
}
