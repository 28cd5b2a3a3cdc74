//! Verification of a file, line by line, with the memory of one: an export, or an archive. It needs nothing but the file.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use super::extract;
use super::file::{Beginning, Voucher};
use super::verify::{Kept, Progress, Report};
use crate::domain::audit::verify::{Broken, Walk, Why};
use crate::platform::fault::{During, Fault};
use crate::protocol::canonical_json;
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
    let result = match Walk::from(&edge, &checkpoints) {
        Err(broken) => Err(broken),
        Ok(walk) => walk_lines(walk, path, progress)?,
    };
    let covered = checkpoints.iter().map(|checkpoint| checkpoint.size).max().unwrap_or_default();
    let result = result.and_then(|tree| {
        if tree.size() > covered { Err(Broken { seq: covered, why: Why::Surplus }) } else { Ok(tree) }
    });
    Ok(Report { from, ..Report::of(result, count) })
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

fn each_bytes(
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

fn walk_lines(
    mut walk: Walk,
    path: &Path,
    progress: Progress<'_>,
) -> Result<Result<Frontier, Broken>, Fault> {
    let whole = std::fs::metadata(path).map_or(0, |data| data.len());
    let (mut first, mut lines, mut broken) = (true, 0u64, None);
    each_line(path, |line, at| {
        lines += 1;
        if lines.is_multiple_of(4_096) {
            progress(at, whole);
        }
        if std::mem::take(&mut first) && Beginning::parse(line).is_some() || Voucher::parse(line).is_some() {
            return std::ops::ControlFlow::Continue(());
        }
        broken = match Beginning::parse(line) {
            // Where an export was resumed: it has to go on from what came before.
            Some(beginning) if beginning.edge().as_ref() == Some(&walk.edge()) => None,
            Some(_) => Some(Broken { seq: walk.size(), why: Why::Root }),
            None => step(&mut walk, line).err(),
        };
        match broken {
            None => std::ops::ControlFlow::Continue(()),
            Some(_) => std::ops::ControlFlow::Break(()),
        }
    })?;
    Ok(match broken {
        Some(broken) => Err(broken),
        None => walk.end(),
    })
}

/// Lines are in their order, unless one says otherwise.
fn step(walk: &mut Walk, line: &str) -> Result<(), Broken> {
    let seq = walk.size();
    match walk.step(seq, line) {
        // It holds, but says another place: which one tells whether something is missing or was moved.
        Err(Broken { why: Why::Order, .. }) => {
            let said = canonical_json::check(line).and_then(|canonical| canonical.seq);
            let why = if said.is_some_and(|said| said > seq) { Why::Gap } else { Why::Order };
            Err(Broken { seq, why })
        }
        other => other.map(drop),
    }
}
