//! A throwaway cluster's folder, and the process that removes both however their maker ends.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::platform::fault::{Context, Fault};

/// Waits for the end of its standard input, which comes when the maker is gone. The cluster may be about to start
/// at that moment, or `initdb` still be writing: hence it looks until there is nothing left for three looks.
const SCRIPT: &str = r#"
read _
pidfile=$1/postgres/cluster/postmaster.pid
looks=0 quiet=0
while [ $quiet -lt 3 ] && [ $looks -lt 600 ]; do
    pid=$(head -n 1 "$pidfile" 2>&-)
    if [ -n "$pid" ] && { [ ! -e /proc/self ] || grep -q postgres "/proc/$pid/comm"; } && kill -QUIT "$pid"; then
        waits=0
        while [ -e "$pidfile" ] && [ $waits -lt 200 ]; do waits=$((waits + 1)); sleep 0.05; done
    fi
    rm -rf "$1"
    if [ -e "$1" ]; then quiet=0; else quiet=$((quiet + 1)); fi
    looks=$((looks + 1))
    sleep 0.02
done
"#;

#[derive(Debug)]
pub(super) struct Reaper {
    process: Child,
}

impl Reaper {
    /// Makes a fresh folder that only we, or those we hand parts of it to, can use.
    pub(super) fn with_folder(mode: u32) -> Result<(Self, PathBuf), Fault> {
        let folder = fresh_folder(mode)?;
        let process = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "actchain-throwaway"])
            .arg(&folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal must reach its maker only.
            .process_group(0)
            .spawn()
            .context("starting the watchdog of a throwaway database")?;
        Ok((Self { process }, folder))
    }

    /// Lets it do its work now, and waits until it is done.
    pub(super) async fn finish(mut self) -> Result<(), Fault> {
        drop(self.process.stdin.take());
        self.process.wait().await.context("removing a throwaway database")?;
        Ok(())
    }
}

fn fresh_folder(mode: u32) -> Result<PathBuf, Fault> {
    let parent = Path::new("/tmp").canonicalize().context("looking at /tmp")?;
    for n in 0..10_000 {
        let folder = parent.join(format!("actchain-throwaway-{}-{n}", std::process::id()));
        match DirBuilder::new().mode(mode).create(&folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            outcome => return outcome.map(|()| folder).context("making a folder for a throwaway database"),
        }
    }
    Err(Fault::new("/tmp is full of throwaway databases"))
}
