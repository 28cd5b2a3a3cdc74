//! Verifies an export or archive file, line by line, in constant memory. Needs only the file.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use super::file::{CheckpointLine, FrontierLine, LeavesLine, conversion, is_document};
use super::narrow::changed_document;
use super::verify::{ProgressCallback, Report, TrustAnchors, size_of};
use super::verify_selection;
use crate::domain::audit::verify::{
    IntegrityError, IntegrityErrorKind, LogVerifier, Verdict, check_documents,
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
                return Ok(Report::of(
                    Err(IntegrityError { seq: 0, kind: IntegrityErrorKind::Signature }),
                    0,
                ));
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
                return Ok(Report::of(
                    Err(IntegrityError { seq: frontier_line.from, kind: IntegrityErrorKind::Root }),
                    count,
                ));
            }
        },
    };
    let from = frontier.size();
    // The file must contain all events after the trusted checkpoint.
    if let Some(believed) = anchors.from.as_deref().and_then(size_of).filter(|believed| *believed < from) {
        return Ok(Report::of(Err(IntegrityError { seq: believed, kind: IntegrityErrorKind::Gap }), count));
    }
    let result = match LogVerifier::resume(&frontier, &checkpoints) {
        Err(integrity_error) => Err(integrity_error),
        Ok(verifier) => verify_lines(verifier, path, progress)?,
    };
    let result = match result {
        Err(IntegrityError { kind: IntegrityErrorKind::Checkpoint | IntegrityErrorKind::Root, .. }) => {
            let changed = changed_document(path, &frontier, &checkpoints)?;
            changed.map_or(result, |seq| Err(IntegrityError { seq, kind: IntegrityErrorKind::Leaf }))
        }
        other => other,
    };
    let covered = checkpoints.iter().map(|checkpoint| checkpoint.size).max().unwrap_or_default();
    let result = result.and_then(|tree| {
        if tree.size() > covered {
            Err(IntegrityError { seq: covered, kind: IntegrityErrorKind::Surplus })
        } else {
            Ok(tree)
        }
    });
    Ok(Report { from, ..Report::of(result, count) }.compared_with(&checkpoints))
}

/// Reports a conversion of the file in transit, such as another encoding, which is not a change of the log.
fn check_form(path: &Path) -> Result<(), Fault> {
    let what = format!("reading {}", path.display());
    let mut first = Vec::new();
    File::open(path).context(&what)?.take(4).read_to_end(&mut first).context(&what)?;
    let mut number = 0_u64;
    let mut converted = conversion(&first).map(str::to_owned);
    if converted.is_none() {
        each_bytes(path, |line, _| {
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

/// Calls `work` for every line, without its end. A damaged line may not be UTF-8; the replacement characters make its
/// hash differ, so the damage is found.
pub(super) fn each_line(
    path: &Path,
    mut work: impl FnMut(&str, u64) -> std::ops::ControlFlow<()>,
) -> Result<(), Fault> {
    each_bytes(path, |line, at| work(&String::from_utf8_lossy(line), at))
}

pub(super) fn each_bytes(
    path: &Path,
    mut work: impl FnMut(&[u8], u64) -> std::ops::ControlFlow<()>,
) -> Result<(), Fault> {
    let what = format!("reading {}", path.display());
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path).context(&what)?);
    let (mut line, mut at) = (Vec::new(), 0u64);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).context(&what)?;
        if read == 0 {
            return Ok(());
        }
        at += read as u64;
        if work(line.strip_suffix(b"\n").unwrap_or(&line), at).is_break() {
            return Ok(());
        }
    }
}

fn frame(path: &Path) -> Result<Frame, Fault> {
    let mut frame = Frame { frontier_line: None, checkpoint_lines: Vec::new() };
    let mut first = true;
    each_bytes(path, |line, _| {
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

/// Size of a piece that is verified at once, in bytes.
const PIECE: usize = 4 << 20;

/// Calls `work` for each piece of whole lines, without their ends.
fn each_piece(
    path: &Path,
    mut work: impl FnMut(&[&[u8]], u64) -> std::ops::ControlFlow<()>,
) -> Result<(), Fault> {
    let what = format!("reading {}", path.display());
    let mut file = File::open(path).context(&what)?;
    let (mut piece, mut at) = (Vec::with_capacity(2 * PIECE), 0u64);
    loop {
        let held = piece.len();
        let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece).context(&what)?;
        at += read as u64;
        // An incomplete last line is kept for the next piece.
        let whole = match memchr::memrchr(b'\n', &piece) {
            _ if read == 0 => held,
            Some(end) => end + 1,
            None => 0,
        };
        let (complete, rest) = piece.split_at(whole);
        let mut lines = Vec::new();
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', complete).chain((read == 0 && whole > 0).then_some(whole)) {
            lines.extend(complete.get(from..end));
            from = end + 1;
        }
        if work(&lines, at).is_break() || read == 0 {
            return Ok(());
        }
        piece = rest.to_vec();
        piece.reserve(PIECE);
    }
}

fn verify_lines(
    mut verifier: LogVerifier,
    path: &Path,
    progress: ProgressCallback<'_>,
) -> Result<Result<Frontier, IntegrityError>, Fault> {
    let size = std::fs::metadata(path).map_or(0, |data| data.len());
    let (mut first, mut verified) = (true, Ok(()));
    each_piece(path, |lines, at| {
        progress(at, size);
        for (line, verdict) in lines.iter().zip(check_documents(lines)) {
            verified = verify_line(&mut verifier, (line, &verdict), std::mem::take(&mut first));
            if verified.is_err() {
                return std::ops::ControlFlow::Break(());
            }
        }
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(verified.and_then(|()| verifier.end()))
}

fn verify_line(
    verifier: &mut LogVerifier,
    (line, verdict): (&[u8], &Verdict),
    first: bool,
) -> Result<(), IntegrityError> {
    if !is_document(line) {
        let text = String::from_utf8_lossy(line);
        if let Some(frontier_line) = FrontierLine::parse(&text) {
            // A resumed export: the frontier must equal the frontier of the events before.
            let goes_on = first || frontier_line.frontier().as_ref() == Some(&verifier.frontier());
            return if goes_on {
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
fn step(verifier: &mut LogVerifier, verdict: &Verdict) -> Result<(), IntegrityError> {
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
