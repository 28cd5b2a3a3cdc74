//! A witness of other logs (c2sp.org/tlog-witness): cosigns a checkpoint that continues what it cosigned before, and
//! never two histories of one log. It uses no database.

mod store;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use time::OffsetDateTime;

use self::store::{WitnessKey, WitnessStore};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::base64url;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use actchain_protocol::signed_note::{self, SignerKind, VerifierKey};
use actchain_protocol::tlog_witness::{self, AddCheckpoint, SignedCheckpoint, WitnessRefusal};

/// A witness with its key, the logs that it watches, and what it cosigned.
#[derive(Debug)]
pub struct Witness {
    key: SigningKey,
    verifier: VerifierKey,
    /// Trusted keys by the name of the log.
    logs: BTreeMap<String, Vec<VerifierKey>>,
    /// Locked from the check of a checkpoint until it is stored.
    store: Mutex<WitnessStore>,
}

/// Why there is no cosignature.
#[derive(Debug)]
pub enum WitnessError {
    Refused(WitnessRefusal),
    Fault(Fault),
}

impl Witness {
    /// Opens the folder of a witness. A folder without a key gets one under `name`.
    ///
    /// # Errors
    /// A fault if another process uses the folder, if `name` is not the name of the stored key, or if a stored
    /// checkpoint cannot be read: a witness that forgets what it cosigned would cosign another history.
    pub fn open(folder: &Path, name: Option<&str>, logs: Vec<VerifierKey>) -> Result<Self, Fault> {
        let store = WitnessStore::open(folder)?;
        let stored = match store.key()? {
            Some(stored) => stored,
            None => new_key(folder, name, &store)?,
        };
        if let Some(name) = name.filter(|name| *name != stored.name) {
            let folder = folder.display();
            return Err(Fault::new(format!("the witness in {folder} is {} and not {name}", stored.name)));
        }
        let key = SigningKey::from_private(SigningAlg::Ed25519, &stored.private)?;
        let verifier = verifier_key(&key, &stored.name)?;
        let mut by_name: BTreeMap<String, Vec<VerifierKey>> = BTreeMap::new();
        for log in logs {
            if log.kind() != SignerKind::Log {
                return Err(Fault::new(format!("{} is no key of a log", log.text())));
            }
            by_name.entry(log.name().to_owned()).or_default().push(log);
        }
        Ok(Self { key, verifier, logs: by_name, store: Mutex::new(store) })
    }

    /// The key that verifies the cosignatures.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The signature line for a request, after the checkpoint is stored.
    pub fn add_checkpoint(&self, body: &str, now: OffsetDateTime) -> Result<String, WitnessError> {
        let request = AddCheckpoint::parse(body).ok_or(WitnessError::Refused(WitnessRefusal::Malformed))?;
        let keys_of = |log: &str| self.logs.get(log).map(Vec::as_slice).unwrap_or_default();
        // Before the lock: signatures of strangers must not delay logs.
        let SignedCheckpoint { text, checkpoint } =
            tlog_witness::verify(&request, keys_of).map_err(WitnessError::Refused)?;
        let line = self.cosign(&text, now).map_err(WitnessError::Fault)?;
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let last = store.last(&checkpoint.origin);
        match tlog_witness::check_continuation(&request, &checkpoint, last) {
            Ok(()) if last == Some(&checkpoint) => {}
            Ok(()) => store.replace(checkpoint, &request.note).map_err(WitnessError::Fault)?,
            Err(refusal) => {
                if matches!(refusal, WitnessRefusal::RootDiffers | WitnessRefusal::ProofInvalid) {
                    tracing::error!(
                        log = checkpoint.origin,
                        size = checkpoint.size,
                        cosigned = last.map(|last| last.size),
                        "a log has signed a checkpoint that does not continue what was cosigned; it is kept as evidence"
                    );
                    store.keep_refused(&checkpoint.origin, &request.note).map_err(WitnessError::Fault)?;
                }
                return Err(WitnessError::Refused(refusal));
            }
        }
        Ok(line)
    }

    fn cosign(&self, text: &str, now: OffsetDateTime) -> Result<String, Fault> {
        let time = u64::try_from(now.unix_timestamp()).context("reading the clock")?;
        let signature = self.key.sign_raw(signed_note::cosigned(text, time).as_bytes())?;
        Ok(self.verifier.signature_line(&signed_note::cosignature(time, &signature)))
    }
}

fn new_key(folder: &Path, name: Option<&str>, store: &WitnessStore) -> Result<WitnessKey, Fault> {
    let name = name.ok_or_else(|| {
        Fault::new(format!("{} has no key yet: name the witness (--name)", folder.display()))
    })?;
    let (key, private) = SigningKey::generate(SigningAlg::Ed25519)?;
    verifier_key(&key, name)?;
    let key = WitnessKey { name: name.to_owned(), private };
    store.store_key(&key)?;
    Ok(key)
}

fn verifier_key(key: &SigningKey, name: &str) -> Result<VerifierKey, Fault> {
    let jwk = key.public_jwk();
    let public = jwk.get("x").and_then(|x| x.as_str()).and_then(base64url::decode);
    let public = public.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let public = public.ok_or_else(|| Fault::new("the key of the witness is unusable"))?;
    VerifierKey::of_kind(SignerKind::Witness, name, public)
        .ok_or_else(|| Fault::new(format!("{name:?} is no name of a witness: no spaces and no «+»")))
}
