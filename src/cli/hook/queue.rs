//! Reports that wait on disk for the server: one JSON document a line, in their order. A report is written before it is sent,
//! and removed after the server has it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::platform::fault::{Context as _, Fault};

/// A report that the server does not have yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct QueuedReport {
    /// Sent with the report, so that it counts once however often it is sent.
    pub(super) key: String,
    pub(super) delegation: String,
    pub(super) report: Value,
}

/// The queue, as long as this process has its lock.
pub(super) struct Queue {
    folder: PathBuf,
    _lock: File,
}

impl Queue {
    /// Waits until no other process has the queue.
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let what = || format!("opening the queue {}", folder.display());
        // The texts are for the account of the agent only.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).context(&what())?;
        let lock = OpenOptions::new().create(true).append(true).open(folder.join("lock")).context(&what())?;
        lock.lock().context(&what())?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    fn waiting(&self) -> PathBuf {
        self.folder.join("waiting.jsonl")
    }

    /// Adds a report; it is on disk when this returns.
    pub(super) fn add(&self, report: &QueuedReport) -> Result<(), Fault> {
        append(&self.waiting(), &serde_json::to_string(report).context("writing a report")?)
    }

    /// The reports in their order. A line that a process did not write to its end was never reported as kept.
    pub(super) fn list(&self) -> Result<Vec<QueuedReport>, Fault> {
        let bytes = match fs::read(self.waiting()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Fault::caused("reading the queue", error)),
        };
        let lines = bytes.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Removes the reports with these keys.
    pub(super) fn remove(&self, keys: &[&str]) -> Result<(), Fault> {
        let mut rest = self.list()?;
        rest.retain(|one| !keys.contains(&one.key.as_str()));
        self.replace(&rest)
    }

    fn replace(&self, reports: &[QueuedReport]) -> Result<(), Fault> {
        let new = self.folder.join("waiting.new");
        let mut text = String::new();
        for report in reports {
            text.push_str(&serde_json::to_string(report).context("writing a report")?);
            text.push('\n');
        }
        let mut file = File::create(&new).context("writing the queue")?;
        file.write_all(text.as_bytes()).context("writing the queue")?;
        file.sync_all().context("writing the queue")?;
        fs::rename(&new, self.waiting()).context("writing the queue")?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).context("writing the queue")
    }

    /// Keeps a report that the server refused for good, with its answer.
    pub(super) fn keep_refused(&self, report: &QueuedReport, why: &str) -> Result<(), Fault> {
        let line = serde_json::json!({"refused": why, "report": report});
        append(&self.folder.join("refused.jsonl"), &line.to_string())
    }
}

fn append(path: &Path, line: &str) -> Result<(), Fault> {
    let mut file =
        OpenOptions::new().create(true).read(true).append(true).open(path).context("writing the queue")?;
    // After a crash, the last line may have no end.
    let mut text = String::new();
    if !ends_with_line(&mut file)? {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
    file.write_all(text.as_bytes()).context("writing the queue")?;
    file.sync_all().context("writing the queue")?;
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|folder| folder.sync_all()).context("writing the queue")
}

fn ends_with_line(file: &mut File) -> Result<bool, Fault> {
    if file.metadata().context("reading the queue")?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1)).context("reading the queue")?;
    file.read_exact(&mut last).context("reading the queue")?;
    Ok(last == *b"\n")
}
