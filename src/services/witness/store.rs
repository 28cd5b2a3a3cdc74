//! The folder of a witness: its key, and one file for each log with the checkpoint that was cosigned last.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use secrecy::zeroize::Zeroizing;

use crate::platform::fault::{Context, Fault};
use crate::platform::{private_file, secret};
use actchain_protocol::base64url;
use actchain_protocol::digest::{hex, sha256};
use actchain_protocol::signed_note::{self, Checkpoint};

const KEY_FILE: &str = "witness.key";
const LOCK_FILE: &str = "witness.lock";
const CHECKPOINT_SUFFIX: &str = "checkpoint";
const REFUSED_SUFFIX: &str = "refused";

/// The key of a witness, with the name that belongs to it.
pub(super) struct WitnessKey {
    pub(super) name: String,
    pub(super) private: Zeroizing<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct WitnessStore {
    folder: PathBuf,
    last: HashMap<String, Checkpoint>,
    /// Keeps other processes away; the kernel releases it when this process ends.
    _lock: File,
}

impl WitnessStore {
    /// Creates the folder if it is absent, locks it, and reads all checkpoints.
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let what = format!("opening the witness in {}", folder.display());
        fs::create_dir_all(folder).context(&what)?;
        let lock = private_file::append(&folder.join(LOCK_FILE)).context(&what)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Fault::new(format!("{what}: another process uses it")));
            }
            Err(TryLockError::Error(error)) => return Err(error).context(&what),
        }
        // A name that a killed process has made must be durable before it is relied on.
        sync_folder(folder).context(&what)?;
        let mut last = HashMap::new();
        for entry in fs::read_dir(folder).context(&what)? {
            let path = entry.context(&what)?.path();
            if path.extension().is_none_or(|suffix| suffix != CHECKPOINT_SUFFIX) {
                continue;
            }
            let text = fs::read_to_string(&path).context(&format!("reading {}", path.display()))?;
            let checkpoint = signed_note::parts(&text).and_then(|(text, _)| Checkpoint::parse(&text));
            let checkpoint =
                checkpoint.filter(|one| path.ends_with(file_name(&one.origin, CHECKPOINT_SUFFIX)));
            let checkpoint =
                checkpoint.ok_or_else(|| Fault::new(format!("{} is no checkpoint", path.display())))?;
            last.insert(checkpoint.origin.clone(), checkpoint);
        }
        Ok(Self { folder: folder.to_owned(), last, _lock: lock })
    }

    /// The key of the witness; `None` before the first start.
    pub(super) fn key(&self) -> Result<Option<WitnessKey>, Fault> {
        let path = self.folder.join(KEY_FILE);
        if !path.try_exists().context(&format!("reading {}", path.display()))? {
            return Ok(None);
        }
        let text = secret::read_file(&path)?;
        let (name, private) = text.expose_secret().split_once(' ').unwrap_or_default();
        let private = base64url::decode(private).map(Zeroizing::new);
        let private =
            private.ok_or_else(|| Fault::new(format!("{} is no key of a witness", path.display())))?;
        Ok(Some(WitnessKey { name: name.to_owned(), private }))
    }

    pub(super) fn store_key(&self, key: &WitnessKey) -> Result<(), Fault> {
        let text = Zeroizing::new(format!("{} {}\n", key.name, base64url::encode(&key.private)));
        self.write(KEY_FILE, text.as_bytes())
    }

    /// The checkpoint of a log that was cosigned last.
    pub(super) fn last(&self, log: &str) -> Option<&Checkpoint> {
        self.last.get(log)
    }

    /// Stores the last checkpoint of a log durably, with the signature of the log.
    pub(super) fn replace(&mut self, checkpoint: Checkpoint, note: &str) -> Result<(), Fault> {
        self.write(&file_name(&checkpoint.origin, CHECKPOINT_SUFFIX), note.as_bytes())?;
        self.last.insert(checkpoint.origin.clone(), checkpoint);
        Ok(())
    }

    /// Keeps a signed checkpoint that contradicts the last one: both together show what the log did. The latest replaces
    /// an earlier one.
    pub(super) fn keep_refused(&self, log: &str, note: &str) -> Result<(), Fault> {
        self.write(&file_name(log, REFUSED_SUFFIX), note.as_bytes())
    }

    /// Writes a file that is complete under its name, or absent, even after a power failure.
    fn write(&self, name: &str, content: &[u8]) -> Result<(), Fault> {
        let what = format!("writing {name} in {}", self.folder.display());
        let draft = self.folder.join(format!("{name}.draft"));
        let mut file = private_file::create(&draft).context(&what)?;
        file.write_all(content).context(&what)?;
        file.sync_all().context(&what)?;
        fs::rename(&draft, self.folder.join(name)).context(&what)?;
        sync_folder(&self.folder).context(&what)
    }
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The name of a log can contain slashes, and can be long.
fn file_name(log: &str, suffix: &str) -> String {
    format!("{}.{suffix}", hex(&sha256(&[log.as_bytes()])))
}
