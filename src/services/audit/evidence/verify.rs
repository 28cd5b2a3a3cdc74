//! Offline verification of evidence: events by their proofs, and reports by computing them again.

use std::path::Path;

use serde::Serialize;

use super::package::{CHECKPOINT, EVENTS, EvidenceHead, KEYS};
use crate::domain::audit::evidence::derive;
use crate::domain::audit::evidence_header::{EvidenceHeader, FORMAT};
use crate::domain::audit::search::EventRow;
use crate::platform::fault::{Context, Fault};
use crate::services::audit::checkpoint::size_of;
use crate::services::audit::verify_file::verify_export;
use crate::services::audit::{CheckpointLine, Report, TrustAnchors};
use actchain_protocol::signed_note::{self, VerifierKey};

/// Result of a verification of evidence.
#[derive(Debug, Serialize)]
pub struct EvidenceReport {
    /// Whether the events and all other files are valid.
    pub valid: bool,
    /// Whether only the keys in the folder were used.
    pub keys_of_folder: bool,
    pub about: EvidenceHeader,
    pub events: Report,
    /// Files that differ from the computed ones, or are missing.
    pub altered: Vec<&'static str>,
}

/// Whether the folder has an event file.
pub fn is_evidence(folder: &Path) -> bool {
    folder.join(EVENTS).is_file()
}

/// Verifies a folder with evidence.
///
/// # Errors
/// A fault if a check is impossible: no evidence, another format version, or no trusted key.
pub fn verify_evidence(folder: &Path, anchors: &TrustAnchors) -> Result<EvidenceReport, Fault> {
    let events = folder.join(EVENTS);
    let lines = read(&events)?;
    let about = about(&lines).ok_or_else(|| Fault::new(format!("{} is not evidence", events.display())))?;
    if about.format != FORMAT {
        return Err(Fault::new(format!(
            "the evidence was made by actchain {}, whose form this version does not read",
            about.actchain
        )));
    }
    let keys_of_folder = anchors.keys.is_empty();
    if keys_of_folder && !anchors.witnesses.is_empty() {
        return Err(Fault::new(
            "witnesses vouch for many logs: name the key of this one, which was kept outside the folder (--key)",
        ));
    }
    let kept = if keys_of_folder { keys(&read(&folder.join(KEYS))?)? } else { anchors.keys.clone() };
    let anchors = TrustAnchors { keys: kept, ..anchors.clone() };
    let report = verify_export(&events, &anchors)?;
    let found: Vec<EventRow> = lines.lines().filter_map(event).collect();
    let mut altered: Vec<&'static str> = Vec::new();
    for (name, text) in derive(&about, &found)? {
        if std::fs::read(folder.join(name)).ok().as_deref() != Some(text.as_bytes()) {
            altered.push(name);
        }
    }
    // Another version of actchain may compute reports with another text.
    if report.valid && !altered.is_empty() && about.actchain != env!("CARGO_PKG_VERSION") {
        return Err(Fault::new(format!(
            "the events are valid, but {} cannot be compared by this version: verify with actchain {}",
            altered.join(", "),
            about.actchain
        )));
    }
    let checkpoint = std::fs::read_to_string(folder.join(CHECKPOINT)).unwrap_or_default();
    let same = signed_note::open(&checkpoint, &anchors.keys).is_some()
        && size_of(&checkpoint) == Some(report.vouched)
        && lines.contains(&checkpoint_in_json(&checkpoint)?);
    if report.valid && !same {
        altered.push(CHECKPOINT);
    }
    // A reader of the folder takes these keys for those of the log: each of them must have signed the checkpoint.
    let listed = std::fs::read_to_string(folder.join(KEYS)).ok().and_then(|text| keys(&text).ok());
    let has_signed = |key: &VerifierKey| signed_note::open(&checkpoint, std::slice::from_ref(key)).is_some();
    let listed = listed.filter(|keys| keys.iter().all(has_signed)).unwrap_or_default();
    let mut named = lines.lines().filter_map(CheckpointLine::parse).map(|line| line.key);
    if report.valid && !named.all(|name| listed.iter().any(|key| key.text() == name)) {
        altered.push(KEYS);
    }
    if report.valid && !(about.is_answered_by(&found) && about.names_subject_of(&found)) {
        altered.push(EVENTS);
    }
    let valid = report.valid && altered.is_empty();
    let report = if same { report.witnessed_in(std::iter::once(&checkpoint), &anchors) } else { report };
    Ok(EvidenceReport { valid, keys_of_folder, about, events: report, altered })
}

/// The checkpoint's text as a JSON string without its end, because cosignatures may have been added later.
fn checkpoint_in_json(note: &str) -> Result<String, Fault> {
    let (text, _) = note.split_once("\n\n").unwrap_or_default();
    let quoted = serde_json::to_string(&format!("{text}\n\n")).context("reading a checkpoint")?;
    Ok(quoted.trim_end_matches('"').to_owned())
}

fn read(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path).context(&format!("reading {}", path.display()))
}

fn about(lines: &str) -> Option<EvidenceHeader> {
    let head: EvidenceHead = serde_json::from_str(lines.lines().next()?).ok()?;
    let evidence = head.extract.evidence;
    (head.extract.size == evidence.size && evidence.is_proven()).then_some(evidence)
}

fn keys(text: &str) -> Result<Vec<VerifierKey>, Fault> {
    let keys: Option<Vec<VerifierKey>> = text.lines().map(VerifierKey::parse).collect();
    keys.filter(|keys| !keys.is_empty()).ok_or_else(|| Fault::new(format!("{KEYS} has no keys of a log")))
}

/// Parses an event line that verification has accepted before.
fn event(line: &str) -> Option<EventRow> {
    let rest = line.strip_prefix("{\"event\":")?.strip_suffix('}')?;
    let (document, _) = rest.rsplit_once(",\"proof\":")?;
    let event: serde_json::Value = serde_json::from_str(document).ok()?;
    Some(EventRow { seq: event.get("seq")?.as_u64()?, document: document.to_owned(), event, personal: None })
}
