//! Verification of a file, line by line, with the memory of one: an export, or an archive. It needs nothing but the file.

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
use crate::protocol::merkle::Frontier;
use crate::protocol::signed_note::{self, Checkpoint, VerifierKey};

/// Verifies a file, twice over: once for what vouches for it, once for its documents.
///
/// # Errors
/// A fault if the file cannot be read or nothing vouches for it: then it could not be checked.
pub fn verify_export(path: &Path, anchors: &TrustAnchors) -> Result<Report, Fault> {
    verify_export_shown(path, anchors, &mut |_, _| {})
}

/// The same, and shows how far it is, in bytes.
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
    // All that comes after the checkpoint up to which everything is believed has to be there.
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

/// Names what was done to a file on its way, which is not to be taken for a change of the log.
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

/// What a file says besides documents.
struct Frame {
    frontier_line: Option<FrontierLine>,
    checkpoint_lines: Vec<CheckpointLine>,
}

/// Calls for every line, without its end. A damaged byte may not even be text; then the line is not what was written, which
/// is what we are to find.
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
        // Documents, of which there are many, are not looked into.
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

/// How many bytes are judged together.
const PIECE: usize = 4 << 20;

/// Calls for piece after piece of whole lines, without their ends.
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
        // What a line begins with here and ends with in the next piece waits for that.
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
            // Where an export was resumed: it has to go on from what came before.
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

/// Lines are in their order, unless one says otherwise.
fn step(verifier: &mut LogVerifier, verdict: &Verdict) -> Result<(), IntegrityError> {
    let seq = verifier.size();
    match verifier.accept(seq, verdict) {
        // It holds, but says another place: which one tells whether something is missing or was moved.
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
