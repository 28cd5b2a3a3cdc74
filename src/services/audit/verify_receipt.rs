//! Verifies a receipt: the event is in the log, unchanged since the receipt was issued. Only signatures of trusted
//! keys count.

use serde::Serialize;
use sqlx::PgConnection;

use super::log_keys;
use super::transparency::{self, Consistency, Inclusion, hash};
use crate::domain::refusal::Error;
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::Outbound;
use actchain_protocol::merkle::{self, Hash};
use actchain_protocol::receipt::Receipt;
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};
use actchain_protocol::tlog_proof::Proof;

/// Why a receipt or proof is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofError {
    /// The log has another event at this `seq`.
    Leaf,
    /// The proof does not lead to the checkpoint's root.
    Inclusion,
    /// The checkpoint has no valid signature of a trusted key, or an invalid one.
    Signature,
    /// The log is not consistent with the known checkpoint.
    Consistency,
    /// The log has fewer events than the known checkpoint or the receipt.
    Truncated,
}

#[derive(Debug, Clone, Serialize)]
pub struct ProofResult {
    pub proven: bool,
    pub seq: u64,
    /// Tree size of the proof.
    pub size: Option<u64>,
    pub reason: Option<ProofError>,
    /// The proof file (c2sp.org/tlog-proof), if the proof is valid.
    #[serde(skip)]
    pub file: Option<String>,
}

impl ProofResult {
    fn failed(seq: u64, size: Option<u64>, reason: ProofError) -> Self {
        Self { proven: false, seq, size, reason: Some(reason), file: None }
    }
}

#[derive(Debug)]
pub enum ProofSource<'a> {
    /// A server, by its issuer URL.
    Server(&'a Outbound, &'a str),
    Database(&'a mut PgConnection),
}

impl ProofSource<'_> {
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

    /// The log's own keys, used where no key is supplied.
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
    serde_json::from_slice(&outbound.get_json(url).await?).context(&format!("reading {url}"))
}

fn unrefused<T>(result: Result<T, Error>, sentence: &str) -> Result<T, Fault> {
    result.map_err(|stop| match stop {
        Error::Failed(fault) => fault,
        Error::Refused(_) => Fault::new(sentence),
    })
}

/// Trusted keys and a checkpoint kept by the verifier. Without keys, the log's own keys are used; an attacker who
/// changed the log may have changed those too.
#[derive(Debug, Clone, Default)]
pub struct ReceiptTrustAnchors {
    pub keys: Vec<VerifierKey>,
    pub known_checkpoint: Option<String>,
}

/// Requests a proof from the log and verifies the receipt with it.
///
/// # Errors
/// A fault if the check is impossible: no response, or no checkpoint that covers the event yet.
pub async fn verify(
    receipt: &Receipt,
    mut from: ProofSource<'_>,
    anchors: &ReceiptTrustAnchors,
) -> Result<ProofResult, Fault> {
    let seq = receipt.seq;
    let proof = from.inclusion(seq).await?;
    let note =
        proof.checkpoint.as_deref().ok_or_else(|| Fault::new("the proof comes without a checkpoint"))?;
    let keys = match anchors.keys.as_slice() {
        [] => from.keys(note.lines().next().unwrap_or_default()).await?,
        keys => keys.to_vec(),
    };
    let Some(checkpoint) = signed_note::open(note, &keys) else {
        return Ok(ProofResult::failed(seq, Some(proof.size), ProofError::Signature));
    };
    let path = proof.path.iter().map(|one| hash(one)).collect::<Result<Vec<Hash>, _>>()?;
    let size = Some(checkpoint.size);
    // The proof is verified for the receipt's leaf; the log's leaf only shows whether the leaf or the proof is wrong.
    if !merkle::verify_inclusion(&receipt.leaf, seq, checkpoint.size, &path, &checkpoint.root) {
        let reason =
            if hash(&proof.leaf)? == receipt.leaf { ProofError::Inclusion } else { ProofError::Leaf };
        return Ok(ProofResult::failed(seq, size, reason));
    }
    if let Some(known_checkpoint) = &anchors.known_checkpoint {
        let Some(known_checkpoint) = signed_note::open(known_checkpoint, &keys) else {
            return Ok(ProofResult::failed(seq, size, ProofError::Signature));
        };
        if let Some(reason) = contradicts(&mut from, &known_checkpoint, &checkpoint).await? {
            return Ok(ProofResult::failed(seq, size, reason));
        }
    }
    let file = Proof { extra: None, index: seq, path, checkpoint: note.to_owned() }.text();
    Ok(ProofResult { proven: true, seq, size, reason: None, file: Some(file) })
}

async fn contradicts(
    from: &mut ProofSource<'_>,
    known_checkpoint: &Checkpoint,
    now: &Checkpoint,
) -> Result<Option<ProofError>, Fault> {
    if known_checkpoint.size > now.size {
        return Ok(Some(ProofError::Truncated));
    }
    let proof = from.consistency(known_checkpoint.size, now.size).await?;
    let path = proof.path.iter().map(|one| hash(one)).collect::<Result<Vec<Hash>, _>>()?;
    let is_consistent = known_checkpoint.origin == now.origin
        && merkle::verify_consistency(
            known_checkpoint.size,
            now.size,
            &path,
            &known_checkpoint.root,
            &now.root,
        );
    Ok((!is_consistent).then_some(ProofError::Consistency))
}

/// Verifies a proof file: the proof leads from the event's exact bytes to a checkpoint signed by one of the keys.
///
/// # Errors
/// A fault if the text is not a proof file.
pub fn check_file(file: &str, event: &[u8], keys: &[VerifierKey]) -> Result<ProofResult, Fault> {
    let proof = Proof::parse(file).ok_or_else(|| Fault::new("this is no proof file"))?;
    let Some(checkpoint) = signed_note::open(&proof.checkpoint, keys) else {
        return Ok(ProofResult::failed(proof.index, None, ProofError::Signature));
    };
    let leaf = merkle::leaf(event);
    let size = Some(checkpoint.size);
    if !merkle::verify_inclusion(&leaf, proof.index, checkpoint.size, &proof.path, &checkpoint.root) {
        return Ok(ProofResult::failed(proof.index, size, ProofError::Inclusion));
    }
    Ok(ProofResult { proven: true, seq: proof.index, size, reason: None, file: None })
}
