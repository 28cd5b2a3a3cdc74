//! Finds PostgreSQL's programs (version 15 or newer) on this machine, or says in one sentence what to do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::data_dir::Account;
use crate::error::Error;

const OLDEST: u32 = 15;

/// Folders that installers use outside `PATH`; `*` is a version number.
const USUAL_FOLDERS: [&str; 16] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/lib/postgresql*/bin",
    "/usr/lib64/postgresql-*/bin",
    "/usr/libexec/postgresql*",
    "/usr/local/pgsql/bin",
    "/usr/local/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/opt/homebrew/opt/postgresql/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/opt/local/lib/postgresql*/bin",
    "/Library/PostgreSQL/*/bin",
    "/opt/PostgreSQL/*/bin",
    "/usr/local/bin",
];

#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) folder: PathBuf,
    pub(crate) major: u32,
}

impl Programs {
    pub(crate) fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    pub(crate) fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }
}

/// The two settings that determine the search.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search<'a> {
    pub(crate) bin_dir: Option<&'a Path>,
    pub(crate) path: Option<&'a OsStr>,
}

impl Search<'_> {
    /// The first suitable installation. An existing cluster needs the version that made it.
    pub(crate) fn run(self, account: &Account, made_by: Option<u32>) -> Result<Programs, Error> {
        let mut unfit = Vec::new();
        for folder in self.folders(account) {
            let Some(found) = probe(&folder, account) else { continue };
            if found.major >= OLDEST && made_by.is_none_or(|major| major == found.major) {
                return Ok(found);
            }
            unfit.push(format!("{} in {}", found.major, found.folder.display()));
        }
        Err(Error::new(self.sentence(made_by, &unfit)))
    }

    fn folders<'a>(&'a self, account: &'a Account) -> Box<dyn Iterator<Item = PathBuf> + 'a> {
        if let Some(folder) = self.bin_dir {
            return Box::new(std::iter::once(folder.to_owned()));
        }
        let asked = std::iter::once_with(move || self.pg_config(account)).flatten();
        let usual = USUAL_FOLDERS.iter().flat_map(|pattern| expand(pattern));
        Box::new(self.path_folders().chain(asked).chain(usual))
    }

    /// Skips relative entries: root may start the server in a folder that every user can write to.
    fn path_folders(&self) -> impl Iterator<Item = PathBuf> {
        self.path.into_iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute())
    }

    fn pg_config(&self, account: &Account) -> Option<PathBuf> {
        let program =
            self.path_folders().map(|folder| folder.join("pg_config")).find(|file| file.is_file())?;
        let answer = account.command(&program, Path::new("/")).arg("--bindir").output().ok()?;
        let folder = String::from_utf8(answer.stdout).ok()?;
        Some(PathBuf::from(folder.trim_end()))
    }

    fn sentence(&self, made_by: Option<u32>, unfit: &[String]) -> String {
        let missing = match (made_by, self.bin_dir) {
            (Some(major), _) => {
                format!("PostgreSQL {major}, which made the database in the data directory, ")
            }
            (None, _) => format!("PostgreSQL {OLDEST} or newer "),
        };
        let place = match self.bin_dir {
            Some(folder) => format!("was not found in {}", folder.display()),
            None => "was not found on this machine".to_owned(),
        };
        let instead = match unfit {
            [] => String::new(),
            unfit => format!(" (only {})", unfit.join(", ")),
        };
        let package = made_by.map_or("postgresql".to_owned(), |major| format!("postgresql-{major}"));
        format!(
            "{missing}{place}{instead}: install it (package `{package}`), \
             or set ACTCHAIN_DATABASE_URL to a database that already exists"
        )
    }
}

/// Follows links: distributions link single programs and not the folder that those programs need.
fn probe(folder: &Path, account: &Account) -> Option<Programs> {
    let program = folder.join("postgres");
    let real = program.canonicalize().ok()?;
    let homes = [real.parent()?, folder];
    let folder =
        homes.into_iter().find(|home| home.join("postgres").is_file() && home.join("initdb").is_file())?;
    // Runs as the account that will run the cluster: a folder that only root can enter is of no use.
    let answer = account.command(&folder.join("postgres"), Path::new("/")).arg("--version").output().ok()?;
    let major = major_version(&String::from_utf8_lossy(&answer.stdout))?;
    Some(Programs { folder: folder.to_owned(), major })
}

/// Parses "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", and also "… 19devel".
pub(crate) fn major_version(text: &str) -> Option<u32> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The folders that match a pattern, the highest version first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![PathBuf::from(pattern)] };
    let Some((parent, prefix)) = before.rsplit_once('/') else { return Vec::new() };
    let mut versions: Vec<u32> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix(prefix)?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.into_iter().map(|version| PathBuf::from(format!("{before}{version}{after}"))).collect()
}
