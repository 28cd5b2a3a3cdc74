//! Checking a receipt: that an event is in the log, as it was when the receipt was given. Nothing that is said is believed
//! but what a key vouches for.

use serde::Serialize;
use sqlx::PgConnection;

use super::log_keys;
use super::transparency::{self, Consistency, Inclusion, hash};
use crate::domain::refusal::Stop;
use crate::platform::fault::{During, Fault};
use crate::platform::outbound::Outbound;
use crate::protocol::merkle::{self, Hash};
use crate::protocol::receipt::Receipt;
use crate::protocol::signed_note::{self, Checkpoint, VerifierKey};
use crate::protocol::tlog_proof::Proof;

/// Why a claim does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Disproof {
    /// At this place the log has another event.
    Leaf,
    /// The proof does not lead to the checkpoint's root.
    Inclusion,
    /// No key that is believed has signed the checkpoint, or one that is has not signed this.
    Signature,
    /// The log is not the continuation of the checkpoint that was kept.
    Consistency,
    /// The log has fewer events than the checkpoint that was kept, or the receipt, says.
    Truncated,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Proven {
    /// Whether it holds.
    pub proven: bool,
    /// The event's place.
    pub seq: u64,
    /// The size of the tree in which it was proven.
    pub size: Option<u64>,
    /// Why not.
    pub why: Option<Disproof>,
    /// The proof as a file (c2sp.org/tlog-proof), where it holds.
    #[serde(skip)]
    pub file: Option<String>,
}

impl Proven {
    fn not(seq: u64, size: Option<u64>, why: Disproof) -> Self {
        Self { proven: false, seq, size, why: Some(why), file: None }
    }
}

/// Where proofs come from.
#[derive(Debug)]
pub enum From<'a> {
    /// A server, by its issuer's URL.
    Server(&'a Outbound, &'a str),
    /// The database.
    Database(&'a mut PgConnection),
}

impl From<'_> {
    async fn inclusion(&mut self, seq: u64) -> Result<Inclusion, Fault> {
        match self {
            Self::Server(outbound, base) => {
                fetch(outbound, &format!("{base}/audit/proof/inclusion?seq={seq}")).await
            }
            Self::Database(connection) => unrefused(
                transparency::inclusion(connection, seq, None).await,
                "no checkpoint covers this event yet",
            ),
        }
    }

    async fn consistency(&mut self, from: u64, to: u64) -> Result<Consistency, Fault> {
        match self {
            Self::Server(outbound, base) => {
                fetch(outbound, &format!("{base}/audit/proof/consistency?from={from}&to={to}")).await
            }
            Self::Database(connection) => {
                unrefused(transparency::consistency(connection, from, Some(to)).await, "no such checkpoint")
            }
        }
    }

    /// The keys that it says are its own, where nobody brings any.
    async fn keys(&mut self, origin: &str) -> Result<Vec<VerifierKey>, Fault> {
        match self {
            Self::Server(outbound, base) => {
                let text = outbound.get_text(&format!("{base}/audit/keys"), "text/plain").await?;
                Ok(text.lines().filter_map(VerifierKey::parse).collect())
            }
            Self::Database(connection) => log_keys(connection, origin).await,
        }
    }
}

async fn fetch<T: serde::de::DeserializeOwned>(outbound: &Outbound, url: &str) -> Result<T, Fault> {
    serde_json::from_slice(&outbound.get_json(url).await?).during(&format!("reading {url}"))
}

fn unrefused<T>(result: Result<T, Stop>, sentence: &str) -> Result<T, Fault> {
    result.map_err(|stop| match stop {
        Stop::Failed(fault) => fault,
        Stop::Refused(_) => Fault::new(sentence),
    })
}

/// What is believed: keys, and a checkpoint that was kept. Without keys those of the log itself are, which whoever has
/// changed the log may have changed, too.
#[derive(Debug, Clone, Default)]
pub struct Believed {
    /// Keys.
    pub keys: Vec<VerifierKey>,
    /// A signed note.
    pub kept: Option<String>,
}

/// Has the log prove what a receipt says.
///
/// # Errors
/// A fault where it could not be checked: no answer, or no checkpoint that covers the event yet.
pub async fn prove(receipt: &Receipt, mut from: From<'_>, believed: &Believed) -> Result<Proven, Fault> {
    let seq = receipt.seq;
    let proof = from.inclusion(seq).await?;
    let note =
        proof.checkpoint.as_deref().ok_or_else(|| Fault::new("the proof comes without a checkpoint"))?;
    let keys = match believed.keys.as_slice() {
        [] => from.keys(note.lines().next().unwrap_or_default()).await?,
        keys => keys.to_vec(),
    };
    let Some(checkpoint) = signed_note::open(note, &keys) else {
        return Ok(Proven::not(seq, Some(proof.size), Disproof::Signature));
    };
    let path = proof.path.iter().map(|one| hash(one)).collect::<Result<Vec<Hash>, _>>()?;
    let size = Some(checkpoint.size);
    // The leaf is the receipt's; what the log says it is only tells which of the two is wrong.
    if !merkle::verify_inclusion(&receipt.leaf, seq, checkpoint.size, &path, &checkpoint.root) {
        let why = if hash(&proof.leaf)? == receipt.leaf { Disproof::Inclusion } else { Disproof::Leaf };
        return Ok(Proven::not(seq, size, why));
    }
    if let Some(kept) = &believed.kept {
        let Some(kept) = signed_note::open(kept, &keys) else {
            return Ok(Proven::not(seq, size, Disproof::Signature));
        };
        if let Some(why) = contradicts(&mut from, &kept, &checkpoint).await? {
            return Ok(Proven::not(seq, size, why));
        }
    }
    let file = Proof { extra: None, index: seq, path, checkpoint: note.to_owned() }.text();
    Ok(Proven { proven: true, seq, size, why: None, file: Some(file) })
}

async fn contradicts(
    from: &mut From<'_>,
    kept: &Checkpoint,
    now: &Checkpoint,
) -> Result<Option<Disproof>, Fault> {
    if kept.size > now.size {
        return Ok(Some(Disproof::Truncated));
    }
    let proof = from.consistency(kept.size, now.size).await?;
    let path = proof.path.iter().map(|one| hash(one)).collect::<Result<Vec<Hash>, _>>()?;
    let holds = kept.origin == now.origin
        && merkle::verify_consistency(kept.size, now.size, &path, &kept.root, &now.root);
    Ok((!holds).then_some(Disproof::Consistency))
}

/// Checks a proof file by itself: that it leads from this event, byte by byte, to a checkpoint that one of the keys has
/// signed.
///
/// # Errors
/// A fault if it is no proof file.
pub fn check_file(file: &str, event: &[u8], keys: &[VerifierKey]) -> Result<Proven, Fault> {
    let proof = Proof::parse(file).ok_or_else(|| Fault::new("this is no proof file"))?;
    let Some(checkpoint) = signed_note::open(&proof.checkpoint, keys) else {
        return Ok(Proven::not(proof.index, None, Disproof::Signature));
    };
    let leaf = merkle::leaf(event);
    let size = Some(checkpoint.size);
    if !merkle::verify_inclusion(&leaf, proof.index, checkpoint.size, &proof.path, &checkpoint.root) {
        return Ok(Proven::not(proof.index, size, Disproof::Inclusion));
    }
    Ok(Proven { proven: true, seq: proof.index, size, why: None, file: None })
}
