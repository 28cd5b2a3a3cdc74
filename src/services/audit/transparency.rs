//! Public endpoints of the log: newest checkpoint, proofs and tiles. Proofs cover only events of the newest
//! checkpoint, and are verified before they are returned.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sqlx::PgConnection;

use super::cosignatures::with_witnesses;
use super::{log_keys, origin};
use crate::domain::audit::{store, tree};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::merkle::{self, Hash};
use actchain_protocol::signed_note::{self, Checkpoint};
use actchain_protocol::tlog_proof::Proof;
use actchain_protocol::tlog_tiles::{self, Content, Tile};

/// An inclusion proof in a response; hashes in base64.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct Inclusion {
    pub seq: u64,
    /// Size of the tree, in events.
    pub size: u64,
    pub leaf: String,
    pub path: Vec<String>,
    pub root: String,
    /// The checkpoint of this size with all its signatures, if stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
}

impl Inclusion {
    /// The proof as a `.tlog-proof` file; `None` without a checkpoint.
    ///
    /// # Errors
    /// A fault if a hash cannot be read.
    pub fn proof_file(&self) -> Result<Option<String>, Fault> {
        let Some(checkpoint) = self.checkpoint.clone() else { return Ok(None) };
        let path = self.path.iter().map(|text| hash(text)).collect::<Result<_, _>>()?;
        Ok(Some(Proof { extra: None, index: self.seq, path, checkpoint }.text()))
    }

    /// Whether the document is the event of this proof under its root.
    pub fn proves(&self, document: &str) -> bool {
        self.proves_leaf(&merkle::leaf(document.as_bytes()))
    }

    fn proves_leaf(&self, leaf: &Hash) -> bool {
        let path: Result<Vec<Hash>, Fault> = self.path.iter().map(|text| hash(text)).collect();
        let (Ok(root), Ok(path)) = (hash(&self.root), path) else { return false };
        merkle::verify_inclusion(leaf, self.seq, self.size, &path, &root)
    }
}

/// A consistency proof in a response; hashes in base64.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct Consistency {
    /// The size of the earlier tree.
    pub from: u64,
    /// The size of the later tree.
    pub to: u64,
    /// The proof of RFC 9162 §2.1.4.
    pub path: Vec<String>,
    /// The root of the earlier tree.
    pub from_root: String,
    pub to_root: String,
}

/// The newest checkpoint with all its signature lines; `None` before the first.
pub async fn newest_checkpoint(connection: &mut PgConnection) -> Result<Option<(u64, String)>, Fault> {
    let Some((size, note)) = store::newest_checkpoint(connection).await? else { return Ok(None) };
    let note = with_witnesses(connection, size, note).await?;
    Ok(Some((size, note)))
}

/// The checkpoint of a size with all its signature lines.
async fn checkpoint_at(connection: &mut PgConnection, size: u64) -> Result<Option<String>, Fault> {
    match store::find_checkpoint(connection, size).await? {
        Some(note) => Ok(Some(with_witnesses(connection, size, note).await?)),
        None => Ok(None),
    }
}

/// Parses a stored checkpoint. The signature is not verified: only this server writes that table.
fn said(note: &str) -> Result<Checkpoint, Fault> {
    let parts = signed_note::parts(note).and_then(|(text, _)| Checkpoint::parse(&text));
    parts.ok_or_else(|| Fault::new("a stored checkpoint cannot be read"))
}

/// The tree size of a proof: as requested, or that of the newest checkpoint. Refuses a larger size, and fails if the
/// tree's root is not the checkpoint's.
async fn covered(connection: &mut PgConnection, requested: Option<u64>) -> Result<u64, Error> {
    let (size, note) = store::newest_checkpoint(connection).await?.ok_or(Refusal::NotFound)?;
    let requested = requested.unwrap_or(size);
    if requested > size {
        return Err(Refusal::NotFound.into());
    }
    if tree::frontier(connection, size).await?.root() != said(&note)?.root {
        return Err(Fault::new(format!(
            "the log does not give the root of the checkpoint over {size} events"
        ))
        .into());
    }
    Ok(requested)
}

/// The inclusion proof of an event (RFC 9162 §2.1.3).
///
/// # Errors
/// A fault if the log does not prove the event.
pub async fn inclusion(
    connection: &mut PgConnection,
    seq: u64,
    size: Option<u64>,
) -> Result<Inclusion, Error> {
    let size = covered(connection, size).await?;
    let made = unchecked_inclusion(connection, seq, size).await?;
    match made.proves_leaf(&hash(&made.leaf)?) {
        true => Ok(made),
        false => Err(unproven(seq, made.size).into()),
    }
}

/// That an event is not what the log has at its place.
pub(super) fn unproven(seq: u64, size: u64) -> Fault {
    Fault::new(format!("the log does not prove event {seq} in {size}"))
}

/// What the log has as the proof of an event under the newest checkpoint: it may prove nothing.
pub(super) async fn newest_inclusion(connection: &mut PgConnection, seq: u64) -> Result<Inclusion, Error> {
    let (size, _) = store::newest_checkpoint(connection).await?.ok_or(Refusal::NotFound)?;
    unchecked_inclusion(connection, seq, size).await
}

async fn unchecked_inclusion(connection: &mut PgConnection, seq: u64, size: u64) -> Result<Inclusion, Error> {
    if seq >= size {
        return Err(Refusal::NotFound.into());
    }
    let (leaf, path, root) = tree::proven(connection, seq, size).await?;
    let checkpoint = checkpoint_at(connection, size).await?;
    let vouched = match &checkpoint {
        Some(note) => said(note)?.root,
        None => root,
    };
    Ok(Inclusion { seq, size, leaf: text(&leaf), path: texts(&path), root: text(&vouched), checkpoint })
}

/// The consistency proof between two tree sizes (RFC 9162 §2.1.4).
pub async fn consistency(
    connection: &mut PgConnection,
    from: u64,
    to: Option<u64>,
) -> Result<Consistency, Error> {
    let to = covered(connection, to).await?;
    if from > to {
        return Err(Refusal::NotFound.into());
    }
    let path = tree::consistency(connection, from, to).await?;
    let (old, new) = (root_at(connection, from).await?, root_at(connection, to).await?);
    if !merkle::verify_consistency(from, to, &path, &old, &new) {
        return Err(
            Fault::new(format!("the log of {from} events is not the beginning of that of {to}")).into()
        );
    }
    Ok(Consistency { from, to, path: texts(&path), from_root: text(&old), to_root: text(&new) })
}

/// The root of the checkpoint of a size, or else the computed root of the tree.
async fn root_at(connection: &mut PgConnection, size: u64) -> Result<Hash, Fault> {
    match store::find_checkpoint(connection, size).await? {
        Some(note) => Ok(said(&note)?.root),
        None => Ok(tree::frontier(connection, size).await?.root()),
    }
}

fn text(hash: &Hash) -> String {
    STANDARD.encode(hash)
}

fn texts(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(text).collect()
}

/// The bytes of a tile, if the newest checkpoint covers the whole tile.
pub async fn tile(connection: &mut PgConnection, tile: Tile) -> Result<Vec<u8>, Error> {
    let (size, _) = store::newest_checkpoint(connection).await?.ok_or(Refusal::NotFound)?;
    if tile.needs().is_none_or(|needs| needs > size) {
        return Err(Refusal::NotFound.into());
    }
    match tile.content {
        Content::Hashes(level) => {
            let found = tree::tile(connection, level, tile.n, tile.width).await?;
            found.ok_or_else(|| Refusal::NotFound.into())
        }
        Content::Entries => entries(connection, tile).await,
    }
}

/// The documents, each with a length prefix. Archived documents are not available.
async fn entries(connection: &mut PgConnection, tile: Tile) -> Result<Vec<u8>, Error> {
    use futures_util::TryStreamExt as _;
    let first = tile.n * tlog_tiles::WIDTH;
    let documents: Vec<(i64, String)> =
        store::documents(connection, first, first + u64::from(tile.width)).try_collect().await?;
    if documents.len() < usize::from(tile.width) {
        return Err(Refusal::NotFound.into());
    }
    let entries = documents.iter().map(|(_, document)| tlog_tiles::entry(document.as_bytes()));
    let entries = entries.collect::<Option<Vec<_>>>();
    Ok(entries.ok_or_else(|| Fault::new("an event that is too long for a tile"))?.concat())
}

/// The keys that verify checkpoints, the active key first, in the format of verifiers.
pub async fn published_keys(connection: &mut PgConnection, issuer: &str) -> Result<String, Fault> {
    let keys = log_keys(connection, &origin(issuer)).await?;
    Ok(keys.iter().map(|key| format!("{}\n", key.text())).collect())
}

/// Decodes a hash of a response.
pub fn hash(text: &str) -> Result<Hash, Fault> {
    let bytes = STANDARD.decode(text).context("reading a hash")?;
    bytes.try_into().map_err(|_| Fault::new("a hash of another length"))
}
