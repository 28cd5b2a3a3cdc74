//! Writes the file of an archived partition, and the signed statement beside it.

use std::io::{BufWriter, Write as _};
use std::path::Path;

use futures_util::TryStreamExt as _;
use serde::Deserialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::file::{CheckpointLine, FrontierLine, GROUP, LeavesLine};
use super::file_reader::digest_of;
use crate::domain::audit::{store, tree};
use crate::platform::fault::{Context, Fault};
use crate::platform::private_file;
use actchain_protocol::merkle::{self, Frontier, Hash};

#[derive(Deserialize)]
struct Dated {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

/// The events of a partition, and the checkpoint that covers them.
#[derive(Clone, Copy)]
pub(super) struct ArchiveContent<'a> {
    pub(super) from: u64,
    /// The tree at the end of the partition.
    pub(super) frontier: &'a Frontier,
    /// All events have to be older than this.
    pub(super) before: OffsetDateTime,
    /// Number of indexed events of the log.
    pub(super) indexed: u64,
    pub(super) checkpoint_line: &'a CheckpointLine,
}

/// A file that was written.
pub(super) struct WrittenArchive {
    /// SHA-256 of the file.
    pub(super) digest: [u8; 32],
    /// The leaves of the last events, which are not indexed: no block has them.
    pub(super) unindexed: Vec<Hash>,
}

/// Writes a temporary file and syncs it to disk. `None` if an event is not old enough.
pub(super) async fn write(
    connection: &mut PgConnection,
    aside: &Path,
    content: ArchiveContent<'_>,
) -> Result<Option<WrittenArchive>, Fault> {
    let ArchiveContent { from, frontier, before, indexed, checkpoint_line } = content;
    let what = format!("writing {}", aside.display());
    let mut tree = tree::frontier(connection, from).await?;
    let mut out = BufWriter::new(private_file::create(aside).context(&what)?);
    let frontier_line = serde_json::to_string(&FrontierLine::behind(&tree)).context(&what)?;
    writeln!(out, "{frontier_line}").context(&what)?;
    let (mut leaves, mut unindexed) = (Vec::new(), Vec::new());
    let mut rows = Box::pin(store::documents(connection, from, frontier.size()));
    while let Some((seq, document)) = rows.try_next().await? {
        if u64::try_from(seq).ok() != Some(tree.size()) {
            return Err(Fault::new(format!("the log has no event {}", tree.size())));
        }
        let dated: Dated = serde_json::from_str(&document).context("reading an event")?;
        if dated.at >= before {
            return Ok(None);
        }
        let leaf = merkle::leaf(document.as_bytes());
        if tree.size() >= indexed {
            unindexed.push(leaf);
        }
        tree.push(leaf);
        leaves.push(leaf);
        writeln!(out, "{document}").context(&what)?;
        if tree.size() % GROUP == 0 || tree.size() == frontier.size() {
            let line = LeavesLine::of(&std::mem::take(&mut leaves), tree.size());
            writeln!(out, "{}", serde_json::to_string(&line).context(&what)?).context(&what)?;
        }
    }
    drop(rows);
    if tree != *frontier {
        return Err(Fault::new("the events are not those that their stored hashes say"));
    }
    writeln!(out, "{}", serde_json::to_string(checkpoint_line).context(&what)?).context(&what)?;
    let file = out.into_inner().map_err(|error| error.into_error()).context(&what)?;
    file.sync_all().context(&what)?;
    drop(file);
    Ok(Some(WrittenArchive { digest: digest_of(aside)?, unindexed }))
}

/// Renames the temporary file. An existing file must have the same content: an earlier attempt left it.
pub(super) fn put_in_place(aside: &Path, path: &Path) -> Result<(), Fault> {
    let what = format!("writing {}", path.display());
    if path.exists() && digest_of(path)? != digest_of(aside)? {
        std::fs::remove_file(aside).context(&what)?;
        return Err(Fault::new(format!("{} is there already, and is another file", path.display())));
    }
    rename(aside, path)
}

/// Writes the signed statement beside the archive, for verification without the database.
pub(super) fn write_beside(path: &Path, note: &str) -> Result<(), Fault> {
    let beside = path.with_added_extension("note");
    let aside = path.with_added_extension("note.part");
    let what = format!("writing {}", beside.display());
    let mut file = private_file::create(&aside).context(&what)?;
    file.write_all(note.as_bytes()).context(&what)?;
    file.sync_all().context(&what)?;
    drop(file);
    rename(&aside, &beside)
}

fn rename(aside: &Path, path: &Path) -> Result<(), Fault> {
    let what = format!("writing {}", path.display());
    std::fs::rename(aside, path).context(&what)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).context(&what)
}
