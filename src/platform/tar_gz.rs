//! A folder of texts as one tar file, compressed with gzip.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tempfile::TempDir;
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

/// The most that an archive unpacks to, in bytes: a small file can expand to any size.
const MAX_UNPACKED: u64 = 1 << 30;

/// The most files that an archive unpacks to.
const MAX_FILES: usize = 100;

/// The one folder of an archive, unpacked to a temporary place that is deleted with this value.
#[derive(Debug)]
pub struct UnpackedFolder {
    pub folder: PathBuf,
    _place: TempDir,
}

/// Unpacks an archive of one folder with files. The archive is not trusted: nothing else is created than files in that folder.
pub fn unpack(path: &Path) -> Result<UnpackedFolder, Fault> {
    let shown = path.display();
    let packed = File::open(path).context(&format!("reading {shown}"))?;
    let place = tempfile::tempdir().context("making a temporary folder")?;
    let mut archive = tar::Archive::new(GzDecoder::new(packed).take(MAX_UNPACKED));
    let mut folder = None;
    for (number, entry) in archive.entries().context(&format!("unpacking {shown}"))?.enumerate() {
        if number == MAX_FILES {
            return Err(Fault::new(format!("{shown} has more than {MAX_FILES} files")));
        }
        let mut entry = entry.context(&format!("unpacking {shown}"))?;
        let named = entry.path().context(&format!("unpacking {shown}"))?.into_owned();
        let (Some((inside, name)), true) = (folder_and_name(&named), entry.header().entry_type().is_file())
        else {
            return Err(Fault::new(format!(
                "{shown} has more than files in one folder: {}",
                named.display()
            )));
        };
        let into = folder.get_or_insert_with(|| place.path().join(inside));
        if *into != place.path().join(inside) {
            return Err(Fault::new(format!(
                "{shown} has more than files in one folder: {}",
                named.display()
            )));
        }
        std::fs::create_dir_all(&*into).context("making a temporary folder")?;
        let mut file = File::create_new(into.join(name)).context(&format!("unpacking {shown}"))?;
        std::io::copy(&mut entry, &mut file).context(&format!("unpacking {shown}"))?;
    }
    let folder = folder.ok_or_else(|| Fault::new(format!("{shown} has no files")))?;
    Ok(UnpackedFolder { folder, _place: place })
}

fn folder_and_name(path: &Path) -> Option<(&Path, &Path)> {
    let mut parts = path.components();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Component::Normal(folder)), Some(Component::Normal(name)), None) => {
            Some((Path::new(folder), Path::new(name)))
        }
        _ => None,
    }
}
