//! Offline verification of a filtered export: every event is in the log of a checkpoint. A file cannot prove that the
//! filter omitted no event.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::file::CheckpointLine;
use super::report::{Report, TrustAnchors};
use crate::domain::audit::verify::{IntegrityError, IntegrityErrorKind, VerifyError};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::canonical_json;
use actchain_protocol::digest::hex;
use actchain_protocol::json;
use actchain_protocol::merkle::{self, Hash};
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};

/// The first line of a filtered export.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    extract: Extract,
}

#[derive(Debug, Deserialize)]
struct Extract {
    size: u64,
}

/// Verifies a filtered export; `None` for another kind of file. Consecutive exports can be concatenated, each with
/// its header; only the last one needs a checkpoint line.
pub(super) fn verify(path: &Path, anchors: &TrustAnchors) -> Result<Option<Report>, Fault> {
    let open = || {
        let file = std::fs::File::open(path).context(&format!("reading {}", path.display()))?;
        let lines = BufReader::new(file).split(b'\n');
        Ok::<_, Fault>(lines.map(|line| line.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())))
    };
    let first = open()?.next().transpose().context("reading the export")?.unwrap_or_default();
    if serde_json::from_str::<Head>(&first).is_err() {
        return Ok(None);
    }
    let (mut checkpoints, mut notes) = (Vec::new(), Vec::new());
    for line in open()? {
        let line = line.context("reading the export")?;
        let Some(checkpoint_line) = CheckpointLine::parse(&line) else { continue };
        let keys = match anchors.keys.is_empty() {
            true => VerifierKey::parse(&checkpoint_line.key).into_iter().collect(),
            false => anchors.keys.clone(),
        };
        match signed_note::open(&checkpoint_line.checkpoint, &keys) {
            Some(checkpoint) => {
                checkpoints.push(checkpoint);
                notes.push(checkpoint_line.checkpoint);
            }
            None => return Ok(Some(Report::invalid(0, IntegrityErrorKind::Signature, 0))),
        }
    }
    let mut anchor_sizes = Vec::new();
    for note in anchors.notes.iter().chain(&anchors.from) {
        match signed_note::open(note, &anchors.keys) {
            Some(checkpoint) => {
                anchor_sizes.push(checkpoint.size);
                checkpoints.push(checkpoint);
            }
            None => return Ok(Some(Report::invalid(0, IntegrityErrorKind::Signature, 0))),
        }
    }
    if checkpoints.is_empty() {
        return Err(Fault::new("the export has no checkpoint, so nothing vouches for it"));
    }
    // Two checkpoints of one size with different roots: the log was shown in two versions.
    for (one, other) in checkpoints.iter().flat_map(|one| checkpoints.iter().map(move |other| (one, other))) {
        if one.size == other.size && one.root != other.root {
            return Ok(Some(Report::invalid(one.size, IntegrityErrorKind::Checkpoint, checkpoints.len())));
        }
    }
    let mut verifier =
        SelectionVerifier { checkpoints: &checkpoints, size: 0, sizes: BTreeSet::new(), next: 0, events: 0 };
    for line in open()? {
        match verifier.line(&line.context("reading the export")?) {
            Ok(()) => {}
            Err(VerifyError::Integrity(IntegrityError { seq, kind })) => {
                return Ok(Some(Report::invalid(seq, kind, checkpoints.len())));
            }
            Err(VerifyError::Failed(fault)) => return Err(fault),
        }
    }
    // The proofs lead to one root; a filtered export cannot show the root of another size.
    if let Some(size) = anchor_sizes.iter().find(|size| !verifier.sizes.contains(size)) {
        return Err(Fault::new(format!(
            "the export has proofs for {} events, so that a checkpoint over {size} cannot be compared: export with --size {size}",
            verifier.size
        )));
    }
    let root = checkpoints.iter().find(|one| one.size == verifier.size).map(|one| one.root);
    let report = Report {
        valid: true,
        from: 0,
        events: verifier.events,
        hashes_only: 0,
        vouched: verifier.size,
        witnessed: None,
        root: root.map(|root| hex(&root)),
        checkpoints: checkpoints.len(),
        integrity_error: None,
        index_error: None,
    };
    // A checkpoint of another size says nothing of these events: it was not compared with their proofs.
    let cosigned: BTreeSet<u64> =
        notes.iter().chain(&anchors.notes).filter_map(|note| anchors.witnesses.cosigned_size(note)).collect();
    let witnessed = verifier.sizes.first().filter(|_| verifier.sizes.is_subset(&cosigned)).copied();
    Ok(Some(Report { witnessed, ..report }))
}

struct SelectionVerifier<'a> {
    checkpoints: &'a [Checkpoint],
    /// Size of the tree of the proofs.
    size: u64,
    /// Sizes of all trees with proofs.
    sizes: BTreeSet<u64>,
    /// Minimum `seq` of the next event; after an error, the `seq` of the error.
    next: u64,
    events: u64,
}

impl SelectionVerifier<'_> {
    fn line(&mut self, line: &str) -> Result<(), VerifyError> {
        if line.is_empty() || CheckpointLine::parse(line).is_some() {
            return Ok(());
        }
        if let Ok(head) = serde_json::from_str::<Head>(line) {
            self.size = head.extract.size;
            self.sizes.insert(self.size);
            return match self.checkpoints.iter().any(|one| one.size == self.size) {
                true => Ok(()),
                false => {
                    let why = "the export has no checkpoint of its size, so nothing vouches for it";
                    Err(Fault::new(why).into())
                }
            };
        }
        self.event(line).map_err(|kind| IntegrityError { seq: self.next, kind }.into())
    }

    fn event(&mut self, line: &str) -> Result<(), IntegrityErrorKind> {
        let cut = line.strip_prefix("{\"event\":").and_then(|rest| rest.strip_suffix('}'));
        let (document, proof) =
            cut.and_then(|rest| rest.rsplit_once(",\"proof\":")).ok_or(IntegrityErrorKind::Document)?;
        let value = json::parse_own(document.as_bytes()).ok_or(IntegrityErrorKind::Document)?;
        if canonical_json::to_string(&value).ok().as_deref() != Some(document) {
            return Err(IntegrityErrorKind::Document);
        }
        let seq = value.get("seq").and_then(Value::as_u64).ok_or(IntegrityErrorKind::Order)?;
        if seq < self.next {
            return Err(IntegrityErrorKind::Order);
        }
        self.next = seq;
        let hash = |text: &String| -> Option<Hash> { STANDARD.decode(text).ok()?.try_into().ok() };
        let proof: Vec<String> = serde_json::from_str(proof).map_err(|_| IntegrityErrorKind::Proof)?;
        let path = proof.iter().map(hash).collect::<Option<Vec<_>>>().ok_or(IntegrityErrorKind::Proof)?;
        let checkpoint = self
            .checkpoints
            .iter()
            .find(|one| one.size == self.size)
            .ok_or(IntegrityErrorKind::Checkpoint)?;
        let leaf = merkle::leaf(document.as_bytes());
        if !merkle::verify_inclusion(&leaf, seq, self.size, &path, &checkpoint.root) {
            return Err(IntegrityErrorKind::Proof);
        }
        self.next = seq + 1;
        self.events += 1;
        Ok(())
    }
}
