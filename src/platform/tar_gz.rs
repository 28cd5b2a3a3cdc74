//! A folder of texts as one tar file, compressed with gzip.

use flate2::Compression;
use flate2::write::GzEncoder;
use time::OffsetDateTime;

use super::fault::{Context, Fault};

/// Writes files into a folder of the archive, readable by their owner only.
pub fn tar_gz(folder: &str, files: &[(&str, String)], at: OffsetDateTime) -> Result<Vec<u8>, Fault> {
    write(folder, files, at).context("writing an archive")
}

fn write(folder: &str, files: &[(&str, String)], at: OffsetDateTime) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(at.unix_timestamp()).unwrap_or_default());
        archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()
}
