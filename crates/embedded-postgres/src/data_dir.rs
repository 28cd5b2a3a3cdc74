//! The folders of a private cluster and the account that runs its processes. The cluster is in the data directory if
//! that account can enter it.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::digest;
use nix::unistd::{User, getegid, geteuid};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::error::{Context, Error};

/// Name of the cluster's superuser and of the database made with the cluster.
pub(crate) const NAME: &str = "actchain";
/// Part of the socket's file name only: the cluster does not listen on the network.
pub(crate) const PORT: u16 = 5432;

pub(crate) const POINTER: &str = "postgres-is-at";
const ELSEWHERE: &str = "/var/lib/actchain";
/// Longest path, in bytes, that fits into a Unix socket address.
const SOCKET_LIMIT: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The account PostgreSQL runs as. PostgreSQL refuses to run as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    fn unprivileged() -> Result<Self, Error> {
        if !geteuid().is_root() {
            return Ok(Self { uid: geteuid().as_raw(), gid: getegid().as_raw() });
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).context("finding an account for PostgreSQL")? {
                return Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
            }
        }
        Err(Error::new(
            "PostgreSQL does not run as root and this machine has neither a `postgres` nor a `nobody` account: \
             run actchain as another user, or set ACTCHAIN_DATABASE_URL to a database that already exists",
        ))
    }

    /// The account that owns a cluster's folder; `None` if root owns the folder or the folder does not exist. A
    /// process of root may use any account's cluster.
    fn owning(folder: &Path) -> Result<Option<Self>, Error> {
        let found = match fs::symlink_metadata(folder) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::caused(format!("examining {}", folder.display()), error)),
        };
        let me = geteuid();
        if !found.is_dir() {
            return Err(Error::new(format!("{} is not a folder", folder.display())));
        }
        if !me.is_root() && found.uid() != me.as_raw() {
            let uid = found.uid();
            return Err(Error::new(format!(
                "the database in {} belongs to the user with id {uid}: run actchain as that user or as root",
                folder.display()
            )));
        }
        // Root still owns the folder: the process that made it was killed before it changed the owner.
        Ok((found.uid() != 0).then(|| Self { uid: found.uid(), gid: found.gid() }))
    }

    /// A command that runs as this account, without variables of this process that would change what the program does.
    pub(crate) fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.current_dir(folder).stdin(Stdio::null());
        if geteuid().is_root() {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Lets the kernel decide: mode bits do not show access lists and mount options.
    fn can_enter(&self, folder: &Path) -> bool {
        let outcome = self.command(Path::new("/bin/sh"), folder).args(["-c", ":"]).status();
        outcome.is_ok_and(|status| status.success())
    }
}

/// The folders and the account of one cluster.
#[derive(Debug)]
pub(crate) struct DataDir {
    pub(crate) data_dir: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) sockets: PathBuf,
    pub(crate) account: Account,
}

impl DataDir {
    /// Finds the folders of the cluster of a canonical data directory, or makes them.
    pub(crate) fn settle(data_dir: &Path) -> Result<Self, Error> {
        let (home, account) = match recorded(data_dir)? {
            Some(found) => found,
            None => make_home(data_dir)?,
        };
        let sockets = socket_folder(&home, &account)?;
        Ok(Self { data_dir: data_dir.to_owned(), home, sockets, account })
    }

    pub(crate) fn cluster(&self) -> PathBuf {
        self.home.join("cluster")
    }

    pub(crate) fn unfinished_cluster(&self) -> PathBuf {
        self.home.join("cluster.new")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.home.join("log")
    }

    /// In the data directory itself: this process opens the file, and would follow links set by the cluster's account.
    pub(crate) fn start_log(&self) -> PathBuf {
        self.data_dir.join("postgres-start.log")
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.cluster().join("postmaster.pid")
    }

    pub(crate) fn socket_pid_file(&self) -> PathBuf {
        self.sockets.join(format!(".s.PGSQL.{PORT}.lock"))
    }

    /// Tells the processes of this cluster from those of other clusters in a process list.
    pub(crate) fn title(&self) -> String {
        format!("actchain-{}", fingerprint(&self.home))
    }

    pub(crate) fn made_by(&self) -> Option<u32> {
        fs::read_to_string(self.cluster().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    pub(crate) fn connect_options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("localhost")
            .port(PORT)
            .socket(&self.sockets)
            .username(NAME)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
    }

    /// Removes the folder of the socket when the cluster stops, if that folder is outside the data directory.
    pub(crate) fn tidy(&self) {
        if self.sockets != self.home {
            // The folder may be in use or already removed: both are fine.
            fs::remove_dir(&self.sockets).ok();
        }
    }
}

/// Whether a data directory has a cluster, complete or not.
pub(crate) fn is_made(data_dir: &Path) -> Result<bool, Error> {
    let there = |name: &str| {
        let path = data_dir.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(Error::caused(format!("examining {}", path.display()), error)),
        }
    };
    Ok(there(POINTER)? || there("postgres")?)
}

fn recorded(data_dir: &Path) -> Result<Option<(PathBuf, Account)>, Error> {
    let inside = data_dir.join("postgres");
    match fs::read(data_dir.join(POINTER)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Account::owning(&inside)?.map(|account| (inside, account)))
        }
        Err(error) => Err(Error::caused(format!("reading {POINTER} in {}", data_dir.display()), error)),
        Ok(bytes) => {
            let home = PathBuf::from(std::ffi::OsStr::from_bytes(&bytes));
            let account = Account::owning(&home)?;
            let account = account.ok_or_else(|| {
                Error::new(format!(
                    "the database of {} is recorded to be at {}, where there is none: \
                     bring that folder back, or remove {POINTER} from the data directory to start with an \
                     empty database",
                    data_dir.display(),
                    home.display()
                ))
            })?;
            Ok(Some((home, account)))
        }
    }
}

fn make_home(data_dir: &Path) -> Result<(PathBuf, Account), Error> {
    let account = Account::unprivileged()?;
    if account.can_enter(data_dir) {
        let home = data_dir.join("postgres");
        private_folder(&home, &account)?;
        return Ok((home, account));
    }
    let home = make_home_elsewhere(data_dir, &account)?;
    record(data_dir, &home).context("recording where the database is")?;
    Ok((home, account))
}

/// Always creates the draft as a new file: a link that another user has put there must not make root write elsewhere.
fn record(data_dir: &Path, home: &Path) -> io::Result<()> {
    let draft = data_dir.join(format!("{POINTER}.new"));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(&draft)?;
    file.write_all(home.as_os_str().as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, data_dir.join(POINTER))
}

fn make_home_elsewhere(data_dir: &Path, account: &Account) -> Result<PathBuf, Error> {
    let parent = Path::new(ELSEWHERE);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o711).create(parent).context("making /var/lib/actchain")?;
    let found = fs::symlink_metadata(parent).context("examining /var/lib/actchain")?;
    if !found.is_dir() || found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(Error::new(format!("{ELSEWHERE} must be a folder that only root can write to")));
    }
    // The data directory was removed and made again, so an existing cluster under this fingerprint is not its own.
    let homes = names(parent, &fingerprint(data_dir));
    let home = homes.into_iter().find(|home| !home.join("cluster").exists());
    let home = home.ok_or_else(|| Error::new(format!("{ELSEWHERE} is full of abandoned databases")))?;
    private_folder(&home, account)?;
    Ok(home)
}

/// `trust`, which accepts every local user, is safe only because other users cannot reach the socket through this
/// folder.
fn socket_folder(home: &Path, account: &Account) -> Result<PathBuf, Error> {
    let name = format!("/.s.PGSQL.{PORT}");
    if home.as_os_str().len() + name.len() <= SOCKET_LIMIT {
        return Ok(home.to_owned());
    }
    // Any user can make folders in /tmp; folders of other accounts are skipped.
    let folders = names(Path::new("/tmp"), &format!("actchain-{}", fingerprint(home)));
    let folder = folders.into_iter().find(|folder| private_folder(folder, account).is_ok());
    folder.ok_or_else(|| Error::new("found no place in /tmp for the database's socket"))
}

fn private_folder(folder: &Path, account: &Account) -> Result<(), Error> {
    let what = format!("making {}", folder.display());
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(Error::caused(what, error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).context(&what)?;
    let ours = found.uid() == account.uid || found.uid() == geteuid().as_raw();
    if !found.is_dir() || !ours || found.mode() & 0o077 != 0 {
        return Err(Error::new(format!("{} is not a private folder of ours", folder.display())));
    }
    if found.uid() != account.uid {
        lchown(folder, Some(account.uid), Some(account.gid)).context(&what)?;
    }
    Ok(())
}

fn names(parent: &Path, name: &str) -> Vec<PathBuf> {
    let more = (1..100).map(|n| parent.join(format!("{name}-{n}")));
    std::iter::once(parent.join(name)).chain(more).collect()
}

fn fingerprint(path: &Path) -> String {
    let hash = digest::digest(&digest::SHA256, path.as_os_str().as_bytes());
    hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
