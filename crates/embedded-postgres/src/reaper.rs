//! The folder of a throwaway cluster, and a process that removes cluster and folder, however the process that made
//! them ends.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::process::{Child, Command};

use crate::error::{Context, Error};

/// Waits for the end of its standard input, which comes when the process that made the cluster ends. The cluster may
/// be about to start then, or `initdb` may still be writing. The script therefore repeats until three checks in a row
/// find nothing.
const SCRIPT: &str = r#"
read _
pidfile=$1/postgres/cluster/postmaster.pid
checks=0 quiet=0
while [ $quiet -lt 3 ] && [ $checks -lt 600 ]; do
    pid=$(head -n 1 "$pidfile" 2>&-)
    if [ -n "$pid" ] && { [ ! -e /proc/self ] || grep -q postgres "/proc/$pid/comm"; } && kill -QUIT "$pid"; then
        waits=0
        while [ -e "$pidfile" ] && [ $waits -lt 200 ]; do waits=$((waits + 1)); sleep 0.05; done
    fi
    rm -rf "$1"
    if [ -e "$1" ]; then quiet=0; else quiet=$((quiet + 1)); fi
    checks=$((checks + 1))
    sleep 0.02
done
"#;

#[derive(Debug)]
pub(crate) struct Reaper {
    process: Child,
}

impl Reaper {
    /// Makes a new folder that only this account, or accounts that get parts of it, can use.
    pub(crate) fn with_folder(mode: u32) -> Result<(Self, PathBuf), Error> {
        let folder = fresh_folder(mode)?;
        let process = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "actchain-throwaway"])
            .arg(&folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal must not reach the reaper.
            .process_group(0)
            .spawn()
            .context("starting the watchdog of a throwaway database")?;
        Ok((Self { process }, folder))
    }

    /// Starts the removal, and waits until it is complete.
    pub(crate) async fn finish(mut self) -> Result<(), Error> {
        drop(self.process.stdin.take());
        self.process.wait().await.context("removing a throwaway database")?;
        Ok(())
    }
}

/// Longest path of the folder for temporary files.
const LONGEST_PARENT: usize = 30;

/// Each number is used once: the reaper of an earlier cluster can still be removing the folder of that name.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The folder for temporary files, if its path leaves room for a socket, and if the account of the database can enter it.
pub(crate) fn parent() -> Result<PathBuf, Error> {
    let usual = std::env::temp_dir().canonicalize().context("resolving the folder for temporary files")?;
    let is_open = |folder: &Path| folder.metadata().is_ok_and(|found| found.mode() & 0o001 != 0);
    if usual.as_os_str().len() <= LONGEST_PARENT && usual.ancestors().all(is_open) {
        return Ok(usual);
    }
    Path::new("/tmp").canonicalize().context("resolving /tmp")
}

fn fresh_folder(mode: u32) -> Result<PathBuf, Error> {
    let parent = parent()?;
    for _ in 0..10_000 {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("actchain-throwaway-{}-{n}", std::process::id()));
        match DirBuilder::new().mode(mode).create(&folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            outcome => return outcome.map(|()| folder).context("making a folder for a throwaway database"),
        }
    }
    Err(Error::new(format!("{} is full of throwaway databases", parent.display())))
}
