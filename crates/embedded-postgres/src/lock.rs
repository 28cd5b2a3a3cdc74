//! Locks for starting, stopping and using a cluster. The kernel releases them when a process ends, even if it is
//! killed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::time::Instant;

use crate::error::{Context, Error};

/// Longer than another process needs to make and start a cluster.
const START_LOCK_LIMIT: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(10);

/// The start lock: no other process can start or stop the cluster while this value exists.
#[derive(Debug)]
pub(crate) struct StartLock(File);

impl StartLock {
    /// A child that gets this as its standard input keeps the lock until it ends, even if this process is killed.
    pub(crate) fn lend(&self) -> Result<Stdio, Error> {
        self.0.try_clone().map(Stdio::from).context("sharing start.lock")
    }
}

/// A lock that is kept until this value is dropped. Drop unlocks explicitly: a child that is being started has a copy
/// of the file for a moment, so closing the file would not always release the lock.
#[derive(Debug)]
pub(crate) struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        // If unlocking fails, the file is closed right after.
        self.0.unlock().ok();
    }
}

/// Waits for the start lock, up to [`START_LOCK_LIMIT`].
pub(crate) async fn start(data_dir: &Path) -> Result<StartLock, Error> {
    let file = open(data_dir, "start.lock")?;
    let deadline = Instant::now() + START_LOCK_LIMIT;
    while !got(file.try_lock(), "start.lock")? {
        if Instant::now() > deadline {
            return Err(Error::new(format!(
                "another process has been starting or stopping the database in {} for too long",
                data_dir.display()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(StartLock(file))
}

/// The lock of the only server on a data directory; fails if another server has it.
pub(crate) fn server(data_dir: &Path) -> Result<Held, Error> {
    let mut file = open(data_dir, "server.lock")?;
    if !got(file.try_lock(), "server.lock")? {
        return Err(Error::new(format!(
            "another actchain server (process {}) is already running on the data directory {}",
            holder(&mut file),
            data_dir.display()
        )));
    }
    file.set_len(0).context("writing server.lock")?;
    file.write_all(std::process::id().to_string().as_bytes()).context("writing server.lock")?;
    Ok(Held(file))
}

fn holder(file: &mut File) -> String {
    let mut pid = String::new();
    match file.read_to_string(&mut pid) {
        Ok(length) if length > 0 => pid,
        _ => "unknown".to_owned(),
    }
}

/// Marks this process as a user of the cluster.
pub(crate) fn users(data_dir: &Path, _deciding: &StartLock) -> Result<Held, Error> {
    let file = open(data_dir, "users.lock")?;
    if !got(file.try_lock_shared(), "users.lock")? {
        return Err(Error::new(format!("another process has locked users.lock in {}", data_dir.display())));
    }
    Ok(Held(file))
}

/// Stops being a user of the cluster; `true` if no other user remains. New users wait for `start.lock`.
pub(crate) fn leave(users: Held, _deciding: &StartLock) -> Result<bool, Error> {
    users.0.unlock().context("unlocking users.lock")?;
    got(users.0.try_lock(), "users.lock")
}

/// The start lock, if it is free.
pub(crate) fn start_now(data_dir: &Path) -> Result<Option<StartLock>, Error> {
    let file = open(data_dir, "start.lock")?;
    Ok(got(file.try_lock(), "start.lock")?.then_some(StartLock(file)))
}

fn got(outcome: Result<(), TryLockError>, name: &str) -> Result<bool, Error> {
    match outcome {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(Error::caused(format!("locking {name}"), error)),
    }
}

fn open(data_dir: &Path, name: &str) -> Result<File, Error> {
    let path = data_dir.join(name);
    let what = format!("opening {}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(&path)
        .context(&what)?;
    if geteuid().is_root() {
        // If root runs a command, the owner of the data directory must still be able to open the lock file.
        let owner = std::fs::metadata(data_dir).context(&what)?;
        fchown(&file, Some(owner.uid()), Some(owner.gid())).context(&what)?;
    }
    Ok(file)
}
