//! Verification of a file, line by line, with the memory of one: an export, or an archive. It needs nothing but the file.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use super::extract;
use super::file::{Beginning, Leaves, Voucher, conversion, is_document};
use super::narrow::changed_document;
use super::verify::{Kept, Progress, Report, size_of};
use crate::domain::audit::verify::{Broken, Judged, Walk, Why, judge_all};
use crate::platform::fault::{During, Fault};
use crate::protocol::merkle::Frontier;
use crate::protocol::signed_note::{self, Checkpoint, VerifierKey};

/// Verifies a file, twice over: once for what vouches for it, once for its documents.
///
/// # Errors
/// A fault if the file cannot be read or nothing vouches for it: then it could not be checked.
pub fn verify_export(path: &Path, kept: &Kept) -> Result<Report, Fault> {
    verify_export_shown(path, kept, &mut |_, _| {})
}

/// The same, and shows how far it is, in bytes.
///
/// # Errors
/// As [`verify_export`].
pub fn verify_export_shown(path: &Path, kept: &Kept, progress: Progress<'_>) -> Result<Report, Fault> {
    let notes_kept = kept.notes.iter().chain(&kept.from);
    if kept.keys.is_empty() && notes_kept.clone().next().is_some() {
        return Err(Fault::new(
            "a checkpoint that was kept elsewhere needs the key that was kept with it (--key)",
        ));
    }
    check_form(path)?;
    if let Some(report) = extract::verify(path, kept)? {
        return Ok(report);
    }
    let Frame { beginning, vouchers } = frame(path)?;
    let mut notes: Vec<(String, Vec<VerifierKey>)> = Vec::new();
    for voucher in vouchers {
        let own = || VerifierKey::parse(&voucher.key).into_iter().collect();
        notes.push((voucher.checkpoint, if kept.keys.is_empty() { own() } else { kept.keys.clone() }));
    }
    notes.extend(notes_kept.map(|note| (note.clone(), kept.keys.clone())));
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    for (note, keys) in &notes {
        match signed_note::open(note, keys) {
            Some(checkpoint) => checkpoints.push(checkpoint),
            None => return Ok(Report::of(Err(Broken { seq: 0, why: Why::Signature }), 0)),
        }
    }
    if checkpoints.is_empty() {
        return Err(Fault::new("the file has no checkpoint, so nothing vouches for it"));
    }
    let count = checkpoints.len();
    let edge = match &beginning {
        None => Frontier::default(),
        Some(beginning) => match beginning.edge() {
            Some(edge) => edge,
            None => return Ok(Report::of(Err(Broken { seq: beginning.from, why: Why::Root }), count)),
        },
    };
    let from = edge.size();
    // All that comes after the checkpoint up to which everything is believed has to be there.
    if let Some(believed) = kept.from.as_deref().and_then(size_of).filter(|believed| *believed < from) {
        return Ok(Report::of(Err(Broken { seq: believed, why: Why::Gap }), count));
    }
    let result = match Walk::from(&edge, &checkpoints) {
        Err(broken) => Err(broken),
        Ok(walk) => walk_lines(walk, path, progress)?,
    };
    let result = match result {
        Err(Broken { why: Why::Checkpoint | Why::Root, .. }) => {
            let changed = changed_document(path, &edge, &checkpoints)?;
            changed.map_or(result, |seq| Err(Broken { seq, why: Why::Leaf }))
        }
        other => other,
    };
    let covered = checkpoints.iter().map(|checkpoint| checkpoint.size).max().unwrap_or_default();
    let result = result.and_then(|tree| {
        if tree.size() > covered { Err(Broken { seq: covered, why: Why::Surplus }) } else { Ok(tree) }
    });
    Ok(Report { from, ..Report::of(result, count) }.compared_with(&checkpoints))
}

/// Names what was done to a file on its way, which is not to be taken for a change of the log.
fn check_form(path: &Path) -> Result<(), Fault> {
    let what = format!("reading {}", path.display());
    let mut first = Vec::new();
    File::open(path).during(&what)?.take(4).read_to_end(&mut first).during(&what)?;
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
    beginning: Option<Beginning>,
    vouchers: Vec<Voucher>,
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
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path).during(&what)?);
    let (mut line, mut at) = (Vec::new(), 0u64);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).during(&what)?;
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
    let mut frame = Frame { beginning: None, vouchers: Vec::new() };
    let mut first = true;
    each_bytes(path, |line, _| {
        // Documents, of which there are many, are not looked into.
        let first = std::mem::take(&mut first);
        if first || line.starts_with(b"{\"checkpoint\"") {
            let line = String::from_utf8_lossy(line);
            frame.beginning = if first { Beginning::parse(&line) } else { frame.beginning.take() };
            frame.vouchers.extend(Voucher::parse(&line));
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
    let mut file = File::open(path).during(&what)?;
    let (mut piece, mut at) = (Vec::with_capacity(2 * PIECE), 0u64);
    loop {
        let held = piece.len();
        let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece).during(&what)?;
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

fn walk_lines(
    mut walk: Walk,
    path: &Path,
    progress: Progress<'_>,
) -> Result<Result<Frontier, Broken>, Fault> {
    let size = std::fs::metadata(path).map_or(0, |data| data.len());
    let (mut first, mut walked) = (true, Ok(()));
    each_piece(path, |lines, at| {
        progress(at, size);
        for (line, judged) in lines.iter().zip(judge_all(lines)) {
            walked = walk_line(&mut walk, (line, &judged), std::mem::take(&mut first));
            if walked.is_err() {
                return std::ops::ControlFlow::Break(());
            }
        }
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(walked.and_then(|()| walk.end()))
}

fn walk_line(walk: &mut Walk, (line, judged): (&[u8], &Judged), first: bool) -> Result<(), Broken> {
    if !is_document(line) {
        let text = String::from_utf8_lossy(line);
        if let Some(beginning) = Beginning::parse(&text) {
            // Where an export was resumed: it has to go on from what came before.
            let goes_on = first || beginning.edge().as_ref() == Some(&walk.edge());
            return if goes_on { Ok(()) } else { Err(Broken { seq: walk.size(), why: Why::Root }) };
        }
        if Voucher::parse(&text).is_some() || Leaves::parse(&text).is_some() {
            return Ok(());
        }
    }
    step(walk, judged)
}

/// Lines are in their order, unless one says otherwise.
fn step(walk: &mut Walk, judged: &Judged) -> Result<(), Broken> {
    let seq = walk.size();
    match walk.take(seq, judged) {
        // It holds, but says another place: which one tells whether something is missing or was moved.
        Err(Broken { why: Why::Order, .. }) => {
            let why = if judged.seq().is_some_and(|said| said > seq) { Why::Gap } else { Why::Order };
            Err(Broken { seq, why })
        }
        other => other.map(drop),
    }
}
