//! Verifies the next events of the log after those that were verified before. A long log is verified in portions, each in
//! a snapshot of its own, so that no transaction is open for long.

use std::ops::RangeInclusive;

use sqlx::PgConnection;

use super::report::TrustAnchors;
use super::snapshot::LogSnapshot;
use super::verify::{cosigned, stated, surplus, trusted_keys};
use super::verify_archived::archived;
use super::verify_events::{EventsToVerify, verify_part};
use crate::domain::audit::log_checks::KnownRoot;
use crate::domain::audit::store;
use crate::domain::audit::verify::{Cores, IntegrityError, IntegrityErrorKind, LogVerifier, VerifyError};
use crate::domain::key::{self, StoredKey};
use crate::platform::fault::Fault;
use crate::platform::locks::Lock;
use actchain_protocol::merkle::Frontier;
use actchain_protocol::signed_note::{self, Checkpoint};

/// What is verified next.
#[derive(Debug)]
pub(super) struct NextPortion {
    /// The tree of the events that are verified.
    pub(super) verified: Frontier,
    /// Maximum number of events.
    pub(super) events: u64,
    /// Roots that the log must have, like those of its checkpoints.
    pub(super) known: Vec<KnownRoot>,
}

/// How far a portion led.
#[derive(Debug)]
pub(super) enum VerifiedPortion {
    /// Another server verifies at the moment.
    Elsewhere,
    Verified(VerifiedTree),
}

#[derive(Debug)]
pub(super) struct VerifiedTree {
    pub(super) tree: Frontier,
    /// Number of archived events in the portion: of those, only the stored hash was verified.
    pub(super) hashes_only: u64,
    /// Whether these are all events of the log.
    pub(super) is_whole: bool,
}

/// Verifies the next portion, on one core. After a fault, the connection is of no use.
pub(super) async fn verify_portion(
    connection: &mut PgConnection,
    next: NextPortion,
) -> Result<VerifiedPortion, VerifyError> {
    let snapshot = LogSnapshot::begin(connection, &mut []).await?;
    let is_alone = try_lock(*snapshot.first().await?).await?;
    let portion = match is_alone {
        true => verify_in(&snapshot, next).await.map(VerifiedPortion::Verified),
        false => Ok(VerifiedPortion::Elsewhere),
    };
    snapshot.end().await?;
    portion
}

/// Takes the lock of verifications until the end of the transaction, if no other server has it.
async fn try_lock(connection: &mut PgConnection) -> Result<bool, Fault> {
    let taken = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)");
    Ok(taken.bind(Lock::AuditVerification.number()).fetch_one(connection).await?)
}

async fn verify_in(snapshot: &LogSnapshot<'_>, next: NextPortion) -> Result<VerifiedTree, VerifyError> {
    let mut first = snapshot.first().await?;
    let connection: &mut PgConnection = &mut first;
    let head = store::head(connection).await?;
    let (from, size) = (next.verified.size(), head.size());
    if from > size {
        return Err(IntegrityError { seq: size, kind: IntegrityErrorKind::Truncated }.into());
    }
    let to = size.min(from.saturating_add(next.events));
    let is_whole = to == size;
    let keys = key::store::list(connection).await?;
    let anchors = TrustAnchors::default();
    let mut roots = checkpoints(connection, &keys, from..=if is_whole { u64::MAX } else { to }).await?;
    let known =
        next.known.iter().map(|one| Checkpoint { origin: String::new(), size: one.size, root: one.root });
    roots.extend(known);
    let trusted_keys = |note: &str| trusted_keys(note, &anchors, &keys);
    let archived = archived(connection, &anchors, trusted_keys, from..to).await?;
    roots.extend(archived.roots.iter().cloned());
    let hashes_only = archived.hashes_only(to);
    let mut verifier = LogVerifier::resume(&next.verified, &roots)?;
    let surplus = if is_whole { surplus(connection, &head).await? } else { None };
    drop(first);
    let events = EventsToVerify { archived, to, cores: Cores::One };
    let changed_personal = verify_part(snapshot, &mut verifier, events, &mut |_, _| {}).await?;
    let seq = verifier.size();
    if seq < to {
        return Err(IntegrityError { seq, kind: IntegrityErrorKind::Truncated }.into());
    }
    let tree = if is_whole { verifier.end()? } else { verifier.frontier() };
    if is_whole && tree != head {
        return Err(IntegrityError { seq, kind: IntegrityErrorKind::Root }.into());
    }
    // Of documents that are as recorded: what is beside them.
    if let Some(seq) = changed_personal {
        return Err(IntegrityError { seq, kind: IntegrityErrorKind::Personal }.into());
    }
    match surplus {
        Some(surplus) => Err(surplus.into()),
        None => Ok(VerifiedTree { tree, hashes_only, is_whole }),
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
