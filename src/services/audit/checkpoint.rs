//! Signed checkpoints of the log, and the keys that sign them.

use std::ops::Range;

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::origin;
use crate::domain::audit::{Action, store, tree};
use crate::domain::key::{self, KeyPurpose, KeyState, StoredKey};
use crate::platform::fault::Fault;
use crate::platform::seal::SealingKey;
use actchain_protocol::base64url;
use actchain_protocol::merkle::{self, Frontier};
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};

/// Maximum number of events after the newest checkpoint that are checked for being cosignatures only; more than the
/// cosignatures of one checkpoint.
const MAX_COSIGNATURE_EVENTS: u64 = 64;

/// How long a checkpoint is reused for exports.
const REUSE_PERIOD: time::Duration = time::Duration::MINUTE;

/// Signs statements about the log with keys from the database.
#[derive(Debug, Clone, Copy)]
pub struct LogSigner<'a> {
    /// Opens the stored keys.
    pub seal: &'a SealingKey,
    pub issuer: &'a str,
}

impl LogSigner<'_> {
    /// A signed checkpoint, with a signature line of each key; the primary key comes first.
    pub(super) fn sign_checkpoint(self, keys: &[StoredKey], tree: &Frontier) -> Result<String, Fault> {
        let checkpoint = Checkpoint { origin: origin(self.issuer), size: tree.size(), root: tree.root() };
        self.sign_text(keys, &checkpoint.text())
    }

    /// A signed note with a signature line of each key.
    pub(super) fn sign_text(self, keys: &[StoredKey], text: &str) -> Result<String, Fault> {
        let mut lines = String::new();
        for key in keys {
            let signature = key.open(self.seal)?.sign_raw(text.as_bytes())?;
            let verifier = verifier_key(key, &origin(self.issuer));
            let verifier = verifier.ok_or_else(|| Fault::new("a log key is unusable"))?;
            lines.push_str(&verifier.signature_line(&signature));
        }
        Ok(signed_note::note(text, &lines))
    }
}

/// Signs and stores a checkpoint over the present log. Returns the stored checkpoint of this size.
///
/// # Errors
/// A fault if the log is not consistent with the newest checkpoint; nothing is signed then.
pub async fn checkpoint(
    pool: &PgPool,
    seal: &SealingKey,
    issuer: &str,
    now: OffsetDateTime,
) -> Result<String, Fault> {
    checkpoint_on(&mut *pool.acquire().await?, LogSigner { seal, issuer }, now).await
}

/// The newest checkpoint if it covers at least `least` events and is younger than a minute; else a new one. Exports
/// cause at most one checkpoint a minute.
pub(super) async fn checkpoint_covering(
    pool: &PgPool,
    signer: LogSigner<'_>,
    least: u64,
    now: OffsetDateTime,
) -> Result<String, Fault> {
    let recent = store::checkpoint_since(&mut *pool.acquire().await?, now - REUSE_PERIOD, now).await?;
    match recent {
        Some((size, note)) if size >= least && is_of(&note, signer.issuer) => Ok(note),
        _ => checkpoint_on(&mut *pool.acquire().await?, signer, now).await,
    }
}

/// The same as a job. Signs nothing if only cosignatures were recorded since the newest checkpoint; otherwise each
/// cosignature would cause another checkpoint.
pub async fn checkpoint_if_due(
    pool: &PgPool,
    seal: &SealingKey,
    issuer: &str,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    let mut connection = pool.acquire().await?;
    let size = store::head(&mut connection).await?.size();
    if let Some((newest, _)) = store::newest_checkpoint(&mut connection).await?
        && has_only_cosignatures(&mut connection, newest..size).await?
    {
        return Ok(());
    }
    checkpoint_on(&mut connection, LogSigner { seal, issuer }, now).await.map(drop)
}

/// Whether a range has events, a few, and all are cosignatures of witnesses.
pub(super) async fn has_only_cosignatures(
    connection: &mut PgConnection,
    range: Range<u64>,
) -> Result<bool, Fault> {
    if range.is_empty() || range.end - range.start > MAX_COSIGNATURE_EVENTS {
        return Ok(false);
    }
    let since = store::documents_in(connection, range).await?;
    let is_cosignature = |document: &str| {
        let event: Option<Value> = serde_json::from_str(document).ok();
        event.as_ref().and_then(Action::of) == Some(Action::WitnessCosigned)
    };
    Ok(!since.is_empty() && since.iter().all(|(_, document)| is_cosignature(document)))
}

/// The origin of the newest checkpoint, if it is not that of this issuer.
pub async fn other_origin(connection: &mut PgConnection, issuer: &str) -> Result<Option<String>, Fault> {
    let newest = store::newest_checkpoint(connection).await?;
    let named = newest.and_then(|(_, note)| note.lines().next().map(str::to_owned));
    Ok(named.filter(|named| *named != origin(issuer)))
}

/// Whether a checkpoint has the origin of an issuer: issuers can be renamed.
fn is_of(note: &str, issuer: &str) -> bool {
    note.lines().next() == Some(&origin(issuer))
}

/// [`checkpoint`] on one connection.
pub(super) async fn checkpoint_on(
    connection: &mut PgConnection,
    signer: LogSigner<'_>,
    now: OffsetDateTime,
) -> Result<String, Fault> {
    // The head is read last: in the other order, a checkpoint made in between would appear to cover a longer log.
    let newest = store::newest_checkpoint(connection).await?;
    let head = store::head(connection).await?;
    if let Some((size, note)) = &newest {
        if *size == head.size() && is_of(note, signer.issuer) {
            return Ok(note.clone());
        }
        if *size > head.size() {
            return Err(Fault::new(format!(
                "the log has {} events, but a checkpoint vouches for {size}: it was truncated",
                head.size()
            )));
        }
        check_continues(connection, *size, note, &head).await?;
    }
    let keys = signing_keys(connection, newest.as_ref().map(|(_, note)| note.as_str())).await?;
    let note = signer.sign_checkpoint(&keys, &head)?;
    // The checkpoint is stored before it is returned; of two concurrent checkpoints the first is kept.
    if store::insert_checkpoint(connection, head.size(), &note, now).await? {
        return Ok(note);
    }
    let kept = store::find_checkpoint(connection, head.size()).await?;
    kept.ok_or_else(|| Fault::new("a checkpoint vanished"))
}

/// Refuses to sign a log that is not consistent with the last signed checkpoint.
async fn check_continues(
    connection: &mut PgConnection,
    size: u64,
    note: &str,
    head: &Frontier,
) -> Result<(), Fault> {
    let before = signed_note::parts(note).and_then(|(text, _)| Checkpoint::parse(&text));
    let before = before.ok_or_else(|| Fault::new("the newest checkpoint cannot be read"))?;
    let path = tree::consistency(connection, size, head.size()).await?;
    if merkle::verify_consistency(size, head.size(), &path, &before.root, &head.root()) {
        return Ok(());
    }
    Err(Fault::new(format!(
        "the log of {} events is not a continuation of the checkpoint over {size}: it was rewritten",
        head.size()
    )))
}

/// The active key and, in the first checkpoint after a rotation, the previous key, so that verifiers of the previous
/// key learn the new key.
async fn signing_keys(connection: &mut PgConnection, newest: Option<&str>) -> Result<Vec<StoredKey>, Fault> {
    let keys = key::store::list(connection).await?;
    let active =
        keys.iter().find(|key| key.purpose == KeyPurpose::Checkpoint && key.state() == KeyState::Active);
    let active = active.ok_or_else(|| Fault::new("no key to sign checkpoints with"))?.clone();
    let name = newest.and_then(|note| note.lines().next()).unwrap_or_default();
    let signed = |key: &&StoredKey| {
        let verifier = (key.purpose == KeyPurpose::Checkpoint).then(|| verifier_key(key, name)).flatten();
        verifier.zip(newest).is_some_and(|(verifier, note)| signed_note::names_signer(note, &[verifier]))
    };
    let last: Vec<StoredKey> = keys.iter().filter(signed).cloned().collect();
    if last.is_empty() || last.iter().any(|key| key.kid == active.kid) {
        return Ok(vec![active]);
    }
    Ok(std::iter::once(active).chain(last).collect())
}

/// The key that signs checkpoints now.
pub(super) async fn active_key(connection: &mut PgConnection) -> Result<StoredKey, Fault> {
    let keys = key::store::list(connection).await?;
    let active =
        keys.into_iter().find(|key| key.purpose == KeyPurpose::Checkpoint && key.state() == KeyState::Active);
    active.ok_or_else(|| Fault::new("no key to sign checkpoints with"))
}

/// The verifier key of the active checkpoint key, as published.
pub async fn published_key(connection: &mut PgConnection, issuer: &str) -> Result<String, Fault> {
    let key = verifier_key(&active_key(connection).await?, &origin(issuer));
    key.map(|key| key.text()).ok_or_else(|| Fault::new("the log key is unusable"))
}

/// The verifier key of a stored key, under the name of a log.
pub(super) fn verifier_key(key: &StoredKey, name: &str) -> Option<VerifierKey> {
    let public = base64url::decode(key.public_jwk.get("x")?.as_str()?)?;
    VerifierKey::new(name, public.try_into().ok()?)
}

/// The keys that may have signed checkpoints of a log of this name: the active key first, then older keys.
pub async fn log_keys(connection: &mut PgConnection, name: &str) -> Result<Vec<VerifierKey>, Fault> {
    let keys = key::store::list(connection).await?;
    let mut log: Vec<&StoredKey> = keys.iter().filter(|key| key.purpose == KeyPurpose::Checkpoint).collect();
    log.sort_by_key(|key| std::cmp::Reverse((key.state() == KeyState::Active, key.activated_at)));
    Ok(log.iter().filter_map(|key| verifier_key(key, name)).collect())
}

/// The size that a checkpoint states.
pub(super) fn size_of(note: &str) -> Option<u64> {
    note.lines().nth(1)?.parse().ok()
}

/// The verifier key of a stored checkpoint: that of its signer, which may be an old key under an old log name.
pub(super) async fn signer_of(connection: &mut PgConnection, note: &str) -> Result<VerifierKey, Fault> {
    let name = note.lines().next().unwrap_or_default();
    let keys = log_keys(connection, name).await?;
    let signer = keys.into_iter().find(|key| signed_note::names_signer(note, std::slice::from_ref(key)));
    signer.ok_or_else(|| Fault::new("no log key has signed this checkpoint"))
}
