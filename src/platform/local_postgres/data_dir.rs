//! Where a private cluster lives and whose processes run it: in the data directory if that account can get there.

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

use crate::platform::fault::{Context, Fault};

/// The cluster's superuser and the database made in it.
pub(super) const NAME: &str = "actchain";
/// Part of the socket's name only; nothing listens on the network.
pub(super) const PORT: u16 = 5432;

pub(super) const POINTER: &str = "postgres-is-at";
const ELSEWHERE: &str = "/var/lib/actchain";
/// What a socket address can hold.
const SOCKET_LIMIT: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The account PostgreSQL runs as. PostgreSQL refuses to run as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    fn unprivileged() -> Result<Self, Fault> {
        if !geteuid().is_root() {
            return Ok(Self { uid: geteuid().as_raw(), gid: getegid().as_raw() });
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).context("looking up an account for PostgreSQL")? {
                return Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
            }
        }
        Err(Fault::new(
            "PostgreSQL does not run as root and this machine has neither a `postgres` nor a `nobody` account: \
             run actchain as another user, or set ACTCHAIN_DATABASE_URL to a database that already exists",
        ))
    }

    /// The account a cluster's folder was made for; root serves whoever that was.
    fn owning(folder: &Path) -> Result<Option<Self>, Fault> {
        let found = match fs::symlink_metadata(folder) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fault::caused(format!("looking at {}", folder.display()), error)),
        };
        let me = geteuid();
        if !found.is_dir() {
            return Err(Fault::new(format!("{} is not a folder", folder.display())));
        }
        if !me.is_root() && found.uid() != me.as_raw() {
            let uid = found.uid();
            return Err(Fault::new(format!(
                "the database in {} belongs to the user with id {uid}: run actchain as that user or as root",
                folder.display()
            )));
        }
        // Still root's own: the process that made it was killed before it could hand it over.
        Ok((found.uid() != 0).then(|| Self { uid: found.uid(), gid: found.gid() }))
    }

    /// A program run as this account, with nothing from our environment that would change what it does.
    pub(super) fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.current_dir(folder).stdin(Stdio::null());
        if geteuid().is_root() {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Asks the kernel instead of reading mode bits, which say nothing of access lists and mount options.
    fn can_enter(&self, folder: &Path) -> bool {
        let outcome = self.command(Path::new("/bin/sh"), folder).args(["-c", ":"]).status();
        outcome.is_ok_and(|status| status.success())
    }
}

/// The folders and the account of one cluster.
#[derive(Debug)]
pub(super) struct DataDir {
    pub(super) data_dir: PathBuf,
    pub(super) home: PathBuf,
    pub(super) sockets: PathBuf,
    pub(super) account: Account,
}

impl DataDir {
    /// Finds the place of the cluster of a canonical data directory, or makes one.
    pub(super) fn settle(data_dir: &Path) -> Result<Self, Fault> {
        let (home, account) = match recorded(data_dir)? {
            Some(found) => found,
            None => make_home(data_dir)?,
        };
        let sockets = socket_folder(&home, &account)?;
        Ok(Self { data_dir: data_dir.to_owned(), home, sockets, account })
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.home.join("cluster")
    }

    pub(super) fn unfinished_cluster(&self) -> PathBuf {
        self.home.join("cluster.new")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Lies in the data directory itself: we open it, and would follow links set by the cluster's account.
    pub(super) fn start_log(&self) -> PathBuf {
        self.data_dir.join("postgres-start.log")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.cluster().join("postmaster.pid")
    }

    pub(super) fn socket_pid_file(&self) -> PathBuf {
        self.sockets.join(format!(".s.PGSQL.{PORT}.lock"))
    }

    /// Tells this cluster's processes from those of others in a process list.
    pub(super) fn title(&self) -> String {
        format!("actchain-{}", fingerprint(&self.home))
    }

    pub(super) fn made_by(&self) -> Option<u32> {
        fs::read_to_string(self.cluster().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    pub(super) fn connect_options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("localhost")
            .port(PORT)
            .socket(&self.sockets)
            .username(NAME)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
    }

    /// A folder outside the data directory is taken away with the cluster's end.
    pub(super) fn tidy(&self) {
        if self.sockets != self.home {
            // Not empty or already gone: somebody else's business.
            fs::remove_dir(&self.sockets).ok();
        }
    }
}

/// Whether a data directory has a cluster, or one that was begun.
pub(super) fn is_made(data_dir: &Path) -> Result<bool, Fault> {
    let there = |name: &str| {
        let path = data_dir.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(Fault::caused(format!("looking at {}", path.display()), error)),
        }
    };
    Ok(there(POINTER)? || there("postgres")?)
}

fn recorded(data_dir: &Path) -> Result<Option<(PathBuf, Account)>, Fault> {
    let inside = data_dir.join("postgres");
    match fs::read(data_dir.join(POINTER)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Account::owning(&inside)?.map(|account| (inside, account)))
        }
        Err(error) => Err(Fault::caused(format!("reading {POINTER} in {}", data_dir.display()), error)),
        Ok(bytes) => {
            let home = PathBuf::from(std::ffi::OsStr::from_bytes(&bytes));
            let account = Account::owning(&home)?;
            let account = account.ok_or_else(|| {
                Fault::new(format!(
                    "the database of {} is recorded to be at {}, where there is none: \
                     bring that folder back, or remove {POINTER} from the data directory to begin anew",
                    data_dir.display(),
                    home.display()
                ))
            })?;
            Ok(Some((home, account)))
        }
    }
}

fn make_home(data_dir: &Path) -> Result<(PathBuf, Account), Fault> {
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

/// The draft is always a new file, never a link that somebody else has put there for root to write through.
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

fn make_home_elsewhere(data_dir: &Path, account: &Account) -> Result<PathBuf, Fault> {
    let parent = Path::new(ELSEWHERE);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o711).create(parent).context("making /var/lib/actchain")?;
    let found = fs::symlink_metadata(parent).context("looking at /var/lib/actchain")?;
    if !found.is_dir() || found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(Fault::new(format!("{ELSEWHERE} must be a folder that only root can write to")));
    }
    // Whoever removed the data directory wants to begin anew, so a cluster that is there already is not ours.
    let homes = names(parent, &fingerprint(data_dir));
    let home = homes.into_iter().find(|home| !home.join("cluster").exists());
    let home = home.ok_or_else(|| Fault::new(format!("{ELSEWHERE} is full of abandoned databases")))?;
    private_folder(&home, account)?;
    Ok(home)
}

/// Trusting every local user (`trust`) is safe only because nobody else can get through this folder to the socket.
fn socket_folder(home: &Path, account: &Account) -> Result<PathBuf, Fault> {
    let name = format!("/.s.PGSQL.{PORT}");
    if home.as_os_str().len() + name.len() <= SOCKET_LIMIT {
        return Ok(home.to_owned());
    }
    // Anybody can make folders in /tmp; one that is not ours is passed over.
    let folders = names(Path::new("/tmp"), &format!("actchain-{}", fingerprint(home)));
    let folder = folders.into_iter().find(|folder| private_folder(folder, account).is_ok());
    folder.ok_or_else(|| Fault::new("found no place in /tmp for the database's socket"))
}

fn private_folder(folder: &Path, account: &Account) -> Result<(), Fault> {
    let what = format!("making {}", folder.display());
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(Fault::caused(what, error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).context(&what)?;
    let ours = found.uid() == account.uid || found.uid() == geteuid().as_raw();
    if !found.is_dir() || !ours || found.mode() & 0o077 != 0 {
        return Err(Fault::new(format!("{} is not a private folder of ours", folder.display())));
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
