//! Reads files of any size in constant memory: by lines, by pieces of whole lines, and for a digest.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::ControlFlow;
use std::path::Path;

use crate::platform::fault::{Context, Fault};
use actchain_protocol::digest::Sha256;

/// Calls `work` for every line, without its end, until it breaks.
pub(super) fn each_line(path: &Path, mut work: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), Fault> {
    let what = format!("reading {}", path.display());
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path).context(&what)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let is_end = reader.read_until(b'\n', &mut line).context(&what)? == 0;
        if is_end || work(line.strip_suffix(b"\n").unwrap_or(&line)).is_break() {
            return Ok(());
        }
    }
}

/// Size of a piece that is verified at once, in bytes.
const PIECE: usize = 4 << 20;

/// Calls `work` for each piece of whole lines, without their ends, with the number of bytes read, until it breaks.
pub(super) fn each_piece(
    path: &Path,
    mut work: impl FnMut(&[&[u8]], u64) -> ControlFlow<()>,
) -> Result<(), Fault> {
    let what = format!("reading {}", path.display());
    let mut file = File::open(path).context(&what)?;
    let (mut piece, mut at) = (Vec::with_capacity(2 * PIECE), 0u64);
    loop {
        let kept = piece.len();
        let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece).context(&what)?;
        at += read as u64;
        // An incomplete last line is kept for the next piece.
        let whole = match memchr::memrchr(b'\n', &piece) {
            _ if read == 0 => kept,
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

/// SHA-256 of all bytes of a file.
pub(super) fn digest_of(path: &Path) -> Result<[u8; 32], Fault> {
    let what = format!("reading {}", path.display());
    let mut file = File::open(path).context(&what)?;
    let mut digest = Sha256::default();
    std::io::copy(&mut file, &mut digest).context(&what)?;
    Ok(digest.finish())
}
