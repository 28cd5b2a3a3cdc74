//! A private PostgreSQL cluster in the data directory of a program, reached through a private Unix socket only. The first
//! process that opens the cluster starts it, the last one that leaves stops it. After any crash the cluster is restarted
//! automatically.
//!
//! The programs of PostgreSQL are found on the machine; nothing is downloaded. See the README for the guarantees.

mod backup;
mod data_dir;
mod discover;
mod error;
mod lock;
mod postmaster;
mod reaper;

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use sqlx::postgres::PgConnectOptions;

pub use self::error::Error;
pub use self::postmaster::Durability;

use self::data_dir::DataDir;
use self::discover::Search;
use self::error::Context;
use self::lock::Held;
use self::postmaster::Postmaster;
use self::reaper::Reaper;

/// Location of the cluster, and where to find PostgreSQL's programs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server's data directory; made if it is missing.
    pub data_dir: PathBuf,
    /// The folder with `postgres` and `initdb`. If set, no other folder is searched.
    pub bin_dir: Option<PathBuf>,
    /// The value of `PATH`, searched for PostgreSQL's programs before the usual folders.
    pub path: Option<OsString>,
}

/// In which role a process uses the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostgresUser {
    /// The server of the data directory; a second one is refused.
    Server,
    /// A command. Any number of commands may run, with or without the server.
    Command,
}

/// A running private cluster, in use by this process until [`Cluster::close`] or drop.
#[derive(Debug)]
pub struct Cluster {
    postmaster: Postmaster,
    users: Option<Held>,
    watchdog: Option<Reaper>,
    /// The lock of the only server. Declared last, because fields are dropped in order and this lock is released last.
    _server: Option<Held>,
}

impl Cluster {
    /// Opens the cluster of a data directory; makes and starts it if necessary.
    pub async fn open(settings: Settings, role: PostgresUser) -> Result<Self, Error> {
        let data_dir = data_folder(&settings.data_dir)?;
        let server = match role {
            PostgresUser::Server => Some(lock::server(&data_dir)?),
            PostgresUser::Command => None,
        };
        let search = Search { bin_dir: settings.bin_dir.as_deref(), path: settings.path.as_deref() };
        let mut cluster = Self::join(&data_dir, search, Durability::On).await?;
        cluster._server = server;
        Ok(cluster)
    }

    /// Whether a data directory has a cluster, complete or not.
    pub fn is_made(data_dir: &Path) -> Result<bool, Error> {
        data_dir::is_made(data_dir)
    }

    /// A separate cluster for a test, a benchmark or a demonstration. It is removed when the process that made it
    /// ends, even if that process is killed. `bin_dir` and `path` are those of [`Settings`].
    pub async fn throwaway(
        bin_dir: Option<PathBuf>,
        path: Option<OsString>,
        durability: Durability,
    ) -> Result<Self, Error> {
        let (watchdog, data_dir) = Reaper::with_folder(data_folder_mode())?;
        let search = Search { bin_dir: bin_dir.as_deref(), path: path.as_deref() };
        let mut cluster = Self::join(&data_dir, search, durability).await?;
        cluster.watchdog = Some(watchdog);
        Ok(cluster)
    }

    async fn join(data_dir: &Path, search: Search<'_>, durability: Durability) -> Result<Self, Error> {
        let deciding = lock::start(data_dir).await?;
        let place = DataDir::settle(data_dir)?;
        let programs = search.run(&place.account, place.made_by())?;
        let users = lock::users(data_dir, &deciding)?;
        let postmaster = Postmaster::new(place, programs, durability);
        postmaster.run(&deciding).await?;
        Ok(Self { postmaster, users: Some(users), watchdog: None, _server: None })
    }

    /// Options for a connection to one of the cluster's databases; the database made with the cluster is called
    /// `actchain`.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        self.postmaster.place.connect_options(database)
    }

    /// The folder of the cluster, if it is outside the data directory.
    pub fn elsewhere(&self) -> Option<&Path> {
        let place = &self.postmaster.place;
        (!place.home.starts_with(&place.data_dir)).then_some(place.home.as_path())
    }

    /// Restarts the cluster if it was killed. Reads only small files while the cluster runs.
    pub async fn ensure_running(&self) -> Result<(), Error> {
        if self.postmaster.pid().is_some() {
            return Ok(());
        }
        let deciding = lock::start(&self.postmaster.place.data_dir).await?;
        self.postmaster.run(&deciding).await
    }

    /// The process id of the postmaster, if it runs.
    pub fn postmaster_pid(&self) -> Option<u32> {
        u32::try_from(self.postmaster.pid()?.as_raw()).ok()
    }

    /// Leaves the cluster, and stops it unless other processes use it.
    pub async fn close(mut self) -> Result<(), Error> {
        if let Some(watchdog) = self.watchdog.take() {
            self.users = None;
            return watchdog.finish().await;
        }
        let deciding = lock::start(&self.postmaster.place.data_dir).await?;
        let Some(users) = self.users.take() else { return Ok(()) };
        if lock::leave(users, &deciding)? {
            self.postmaster.stop(&deciding).await?;
        }
        Ok(())
    }

    /// Leaves the cluster without waiting for its end. A process that opens the cluster meanwhile waits until it has
    /// stopped and starts it again.
    fn leave_now(&mut self) -> Result<(), Error> {
        let Some(users) = self.users.take().filter(|_| self.watchdog.is_none()) else { return Ok(()) };
        let Some(deciding) = lock::start_now(&self.postmaster.place.data_dir)? else { return Ok(()) };
        if lock::leave(users, &deciding)? {
            self.postmaster.stop_soon(&deciding);
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.leave_now() {
            tracing::warn!(fault = error.chain(), "the database was left running");
        }
    }
}

/// If the server runs as root, the account of PostgreSQL must be able to pass through the folder; it can neither list
/// nor read it.
fn data_folder_mode() -> u32 {
    if geteuid().is_root() { 0o711 } else { 0o700 }
}

/// Makes a data directory if it is missing. Returns its canonical path.
pub fn data_folder(wanted: &Path) -> Result<PathBuf, Error> {
    let what = format!("making the data directory {}", wanted.display());
    DirBuilder::new().recursive(true).mode(data_folder_mode()).create(wanted).context(&what)?;
    wanted.canonicalize().context(&what)
}

#[cfg(test)]
mod tests;
