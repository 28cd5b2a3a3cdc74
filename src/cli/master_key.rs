//! The master key: configured, or in the data directory of the embedded default.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use crate::platform::config::Config;
use crate::platform::fault::{Context, Fault};
use crate::platform::private_file::shown;
use crate::platform::secret::MasterKey;
use actchain_embedded_postgres::Cluster;

/// Names the place of the master key in messages.
pub(super) fn key_file(config: &Config) -> String {
    match (&config.master_key, &config.master_key_file) {
        (Some(_), _) => "the value of master_key".to_owned(),
        (None, Some(path)) => shown(path),
        (None, None) => shown(&config.own_master_key_file()),
    }
}

/// The configured master key, or the key in the data directory of the embedded default.
pub(super) fn master_key(config: &Config) -> Result<MasterKey, Fault> {
    if let Some(text) = &config.master_key {
        return MasterKey::parse(text);
    }
    if let Some(path) = &config.master_key_file {
        return read_key(path);
    }
    if config.database_url.is_some() {
        return Err(Fault::new(
            "an external database needs a master key: set ACTCHAIN_MASTER_KEY_FILE (or ACTCHAIN_MASTER_KEY) to 32 \
             random bytes in base64url",
        ));
    }
    read_key(&config.own_master_key_file())
}

/// Creates or checks the master key of the embedded default before anything else is written. Key and database are
/// created together, and a database without its key is never taken for a new database.
pub(super) fn settle_own_key(config: &Config) -> Result<(), Fault> {
    if config.master_key.is_some() || config.master_key_file.is_some() {
        return Ok(());
    }
    let path = config.own_master_key_file();
    let there = path.try_exists().context(&format!("checking for the master key {}", path.display()))?;
    match (there, Cluster::is_made(&config.data_dir)?) {
        (true, _) => read_key(&path).map(drop),
        (false, true) => Err(Fault::new(format!(
            "no master key at {}, but there is a database beside it that cannot be used without its key: restore the key \
             from its backup, or name the file with ACTCHAIN_MASTER_KEY_FILE",
            shown(&path)
        ))),
        (false, false) => {
            actchain_embedded_postgres::data_folder(&config.data_dir)?;
            write_key(&path)
        }
    }
}

pub(super) fn read_key(path: &Path) -> Result<MasterKey, Fault> {
    let what = format!("reading the master key from {}", path.display());
    let mode = std::fs::metadata(path).context(&what)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(Fault::new(format!(
            "every user of this machine can get at the master key {} (mode {:04o}): run `chmod 600 {0}`, and replace the \
             key if others may have read it",
            path.display(),
            mode & 0o7777
        )));
    }
    let text = std::fs::read_to_string(path).context(&what)?;
    MasterKey::parse(&SecretString::from(text)).context(&what)
}

/// Writes a temporary file and links it into place, so that no process reads half a key. If two processes create a key
/// at the same time, both use the first.
fn write_key(path: &Path) -> Result<(), Fault> {
    let what = format!("writing the master key to {}", path.display());
    let aside = path.with_extension(format!("key.{}", std::process::id()));
    let key = MasterKey::generate()?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .context(&what)?;
    file.write_all(key.to_text().expose_secret().as_bytes()).context(&what)?;
    file.sync_all().context(&what)?;
    let linked = std::fs::hard_link(&aside, path);
    std::fs::remove_file(&aside).context(&what)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error).context(&what),
        _ => Ok(()),
    }
}
