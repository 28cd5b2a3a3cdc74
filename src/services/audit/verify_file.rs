//! Verifies an export or archive file, line by line, in constant memory. Needs only the file.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::checkpoint::size_of;
use super::file::{CheckpointLine, FrontierLine, LeavesLine, conversion, is_document};
use super::file_reader::{each_line, each_piece};
use super::narrow::changed_document;
use super::report::{ProgressCallback, Report, TrustAnchors};
use super::verify_selection;
use crate::domain::audit::verify::{
    Cores, DocumentCheck, IntegrityError, IntegrityErrorKind, LogVerifier, VerifyError, check_documents,
};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::merkle::Frontier;
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};

/// Verifies a file in two passes: first checkpoints, then documents.
///
/// # Errors
/// A fault if the file cannot be read or has no usable checkpoint: then a check is impossible.
pub fn verify_export(path: &Path, anchors: &TrustAnchors) -> Result<Report, Fault> {
    verify_export_shown(path, anchors, &mut |_, _| {})
}

/// [`verify_export`] with a progress callback, in bytes.
///
/// # Errors
/// As [`verify_export`].
pub fn verify_export_shown(
    path: &Path,
    anchors: &TrustAnchors,
    progress: ProgressCallback<'_>,
) -> Result<Report, Fault> {
    let anchor_notes = anchors.notes.iter().chain(&anchors.from);
    if anchors.keys.is_empty() && anchor_notes.clone().next().is_some() {
        return Err(Fault::new(
            "a checkpoint that was kept elsewhere needs the key that was kept with it (--key)",
        ));
    }
    if anchors.keys.is_empty() && !anchors.witnesses.is_empty() {
        return Err(Fault::new(
            "witnesses vouch for many logs: name the key of this one, which was kept outside the file (--key)",
        ));
    }
    check_form(path)?;
    if let Some(report) = verify_selection::verify(path, anchors)? {
        return Ok(report);
    }
    let Frame { frontier_line, checkpoint_lines } = frame(path)?;
    let mut notes: Vec<(String, Vec<VerifierKey>)> = Vec::new();
    for checkpoint_line in checkpoint_lines {
        let own = || VerifierKey::parse(&checkpoint_line.key).into_iter().collect();
        notes.push((
            checkpoint_line.checkpoint,
            if anchors.keys.is_empty() { own() } else { anchors.keys.clone() },
        ));
    }
    notes.extend(anchor_notes.map(|note| (note.clone(), anchors.keys.clone())));
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    for (note, keys) in &notes {
        match signed_note::open(note, keys) {
            Some(checkpoint) => checkpoints.push(checkpoint),
            None => {
                return Ok(Report::invalid(0, IntegrityErrorKind::Signature, 0));
            }
        }
    }
    if checkpoints.is_empty() {
        return Err(Fault::new("the file has no checkpoint, so nothing vouches for it"));
    }
    let count = checkpoints.len();
    let frontier = match &frontier_line {
        None => Frontier::default(),
        Some(frontier_line) => match frontier_line.frontier() {
            Some(frontier) => frontier,
            None => {
                return Ok(Report::invalid(frontier_line.from, IntegrityErrorKind::Root, count));
            }
        },
    };
    let from = frontier.size();
    // The file must contain all events after the trusted checkpoint.
    if let Some(believed) = anchors.from.as_deref().and_then(size_of).filter(|believed| *believed < from) {
        return Ok(Report::invalid(believed, IntegrityErrorKind::Gap, count));
    }
    let result = match LogVerifier::resume(&frontier, &checkpoints) {
        Err(error) => Err(error.into()),
        Ok(verifier) => verify_lines(verifier, path, progress),
    };
    let result = match result {
        Err(VerifyError::Integrity(IntegrityError {
            kind: IntegrityErrorKind::Checkpoint | IntegrityErrorKind::Root,
            ..
        })) => {
            let changed = changed_document(path, &frontier, &checkpoints)?;
            changed.map_or(result, |seq| Err(IntegrityError { seq, kind: IntegrityErrorKind::Leaf }.into()))
        }
        other => other,
    };
    let covered = checkpoints.iter().map(|checkpoint| checkpoint.size).max().unwrap_or_default();
    let result = result.and_then(|tree| {
        if tree.size() > covered {
            Err(IntegrityError { seq: covered, kind: IntegrityErrorKind::Surplus }.into())
        } else {
            Ok(tree)
        }
    });
    let report = Report { from, ..Report::of(result, count)? }.compared_with(&checkpoints);
    Ok(report.witnessed_in(notes.iter().map(|(note, _)| note), anchors))
}

/// Reports a conversion of the file in transit, such as another encoding, which is not a change of the log.
fn check_form(path: &Path) -> Result<(), Fault> {
    let what = format!("reading {}", path.display());
    let mut first = Vec::new();
    File::open(path).context(&what)?.take(4).read_to_end(&mut first).context(&what)?;
    let mut number = 0_u64;
    let mut converted = conversion(&first).map(str::to_owned);
    if converted.is_none() {
        each_line(path, |line| {
            number += 1;
            if line.ends_with(b"\r") {
                converted = Some(format!("line {number} ends in CRLF"));
                return std::ops::ControlFlow::Break(());
            }
            std::ops::ControlFlow::Continue(())
        })?;
    }
    match converted {
        None => Ok(()),
        Some(how) => Err(Fault::new(format!(
            "{} was converted on its way, so that it cannot be checked: {how}. Verify the file as it was exported, byte by byte",
            path.display()
        ))),
    }
}

/// The lines of a file other than documents.
struct Frame {
    frontier_line: Option<FrontierLine>,
    checkpoint_lines: Vec<CheckpointLine>,
}

fn frame(path: &Path) -> Result<Frame, Fault> {
    let mut frame = Frame { frontier_line: None, checkpoint_lines: Vec::new() };
    let mut first = true;
    each_line(path, |line| {
        // Only lines that can be frame lines are parsed; most lines are documents.
        let first = std::mem::take(&mut first);
        if first || line.starts_with(b"{\"checkpoint\"") {
            let line = String::from_utf8_lossy(line);
            frame.frontier_line = if first { FrontierLine::parse(&line) } else { frame.frontier_line.take() };
            frame.checkpoint_lines.extend(CheckpointLine::parse(&line));
        }
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(frame)
}

fn verify_lines(
    mut verifier: LogVerifier,
    path: &Path,
    progress: ProgressCallback<'_>,
) -> Result<Frontier, VerifyError> {
    let size = std::fs::metadata(path).map_or(0, |data| data.len());
    let mut verified = Ok(());
    each_piece(path, |lines, at| {
        progress(at, size);
        for (line, verdict) in lines.iter().zip(check_documents(lines, Cores::All)) {
            verified = verify_line(&mut verifier, line, &verdict);
            if verified.is_err() {
                return std::ops::ControlFlow::Break(());
            }
        }
        std::ops::ControlFlow::Continue(())
    })?;
    verified?;
    Ok(verifier.end()?)
}

fn verify_line(
    verifier: &mut LogVerifier,
    line: &[u8],
    verdict: &DocumentCheck,
) -> Result<(), IntegrityError> {
    if !is_document(line) {
        let text = String::from_utf8_lossy(line);
        if let Some(frontier_line) = FrontierLine::parse(&text) {
            // The first line, or a resumed export: the frontier must equal the frontier of the events before.
            return if frontier_line.frontier().as_ref() == Some(&verifier.frontier()) {
                Ok(())
            } else {
                Err(IntegrityError { seq: verifier.size(), kind: IntegrityErrorKind::Root })
            };
        }
        if CheckpointLine::parse(&text).is_some() || LeavesLine::parse(&text).is_some() {
            return Ok(());
        }
    }
    step(verifier, verdict)
}

/// Accepts a verdict at the next `seq`, unless the document states another `seq`.
fn step(verifier: &mut LogVerifier, verdict: &DocumentCheck) -> Result<(), IntegrityError> {
    let seq = verifier.size();
    match verifier.accept(seq, verdict) {
        // The document is valid but has another `seq`: a higher `seq` means missing events, a lower one a moved
        // event.
        Err(IntegrityError { kind: IntegrityErrorKind::Order, .. }) => {
            let kind = if verdict.seq().is_some_and(|said| said > seq) {
                IntegrityErrorKind::Gap
            } else {
                IntegrityErrorKind::Order
            };
            Err(IntegrityError { seq, kind })
        }
        other => other.map(drop),
    }
}
