//! Files that only their owner may read: they contain names, addresses and rights of users.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Readable and writable by the owner. An existing file keeps its mode.
const MODE: u32 = 0o600;

/// Creates a file, or empties an existing one.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)
}

/// Opens a file for appending; creates the file if it is absent.
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}

/// The absolute path of a file or folder, as messages show it.
pub fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
