//! Files that only their owner may read: they have names, addresses and rights of users in them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Readable and writable by the owner. A file that is already there keeps its mode.
const MODE: u32 = 0o600;

/// Creates a file, or empties the one that is there.
///
/// # Errors
/// As [`OpenOptions::open`].
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)
}

/// Opens a file to write behind its end, and creates it where it is absent.
///
/// # Errors
/// As [`OpenOptions::open`].
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}
