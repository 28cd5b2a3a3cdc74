//! Stored secrets as JWEs (RFC 7516): `dir` with A256GCM under a key derived from the master key, or under a data key
//! that is itself sealed this way. The protected header, which the cipher authenticates, names the row, so that values
//! cannot be swapped.

use actchain_protocol::jose::DirectKey;
use actchain_protocol::{base64url, json};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::fault::Fault;
use super::secret::MasterKey;

/// The header member that names the row.
const ROW: &str = "row";

/// Seals and opens secrets. Each key has an id.
#[derive(Clone)]
pub struct SealingKey {
    id: String,
    key: DirectKey,
    /// The previous key, which is used only to open.
    previous: Option<Box<SealingKey>>,
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

impl SealingKey {
    /// Derives the sealing key of a master key.
    pub fn of(master: &MasterKey) -> Self {
        Self { id: master.id(), key: DirectKey::new(master.derive("actchain seal A256GCM")), previous: None }
    }

    /// A data key: 32 random bytes with their own id; `None` for another length.
    pub fn from_bytes(id: impl Into<String>, bytes: &[u8]) -> Option<Self> {
        let key = Zeroizing::new(<[u8; 32]>::try_from(bytes).ok()?);
        Some(Self { id: id.into(), key: DirectKey::new(key), previous: None })
    }

    /// Also opens secrets that were sealed under the previous master key.
    #[must_use]
    pub fn with_previous(self, master: Option<&MasterKey>) -> Self {
        Self { previous: master.map(|master| Box::new(Self::of(master))), ..self }
    }

    /// The key's id, which reveals nothing about the key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether a secret was sealed under this key, by the id in its header.
    pub fn made(&self, sealed: &str) -> bool {
        sealed_under(sealed).is_some_and(|id| id == self.id)
    }

    /// Seals a secret for one row, such as `signing_key/<kid>`.
    pub fn seal(&self, row: &str, secret: &[u8]) -> Result<String, Fault> {
        let header = Map::from_iter(
            [("kid", self.id.as_str()), (ROW, row)].map(|(name, value)| (name.to_owned(), value.into())),
        );
        Ok(self.key.encrypt(header, secret)?)
    }

    /// Opens a secret that was sealed for this row.
    ///
    /// # Errors
    /// A fault that names the key if the secret was sealed under another key. A fault that names the row if the sealed
    /// value was altered or belongs to another row.
    pub fn open(&self, row: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, Fault> {
        if let Some(other) = sealed_under(sealed).filter(|other| *other != self.id) {
            return match &self.previous {
                Some(previous) if previous.id == other => previous.open(row, sealed),
                _ => Err(Fault::new(format!(
                    "{row} was sealed under key {other}, but the one at hand is {}; a master key is known by this name",
                    self.id
                ))),
            };
        }
        let opened =
            self.key.decrypt(sealed).ok_or_else(|| Fault::new(format!("the seal of {row} is broken")))?;
        if opened.header.get(ROW).and_then(Value::as_str) != Some(row) {
            return Err(Fault::new(format!("what is stored in {row} was sealed for another row")));
        }
        Ok(opened.secret)
    }
}

fn sealed_under(sealed: &str) -> Option<String> {
    let header = json::parse_object(&base64url::decode(sealed.split('.').next()?)?)?;
    header.get("kid")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_opens_for_its_row_under_its_key_only() {
        let master = MasterKey::generate().unwrap();
        let key = SealingKey::of(&master);
        let sealed = key.seal("signing_key/a", b"secret").unwrap();
        assert_eq!(key.open("signing_key/a", &sealed).unwrap().as_slice(), b"secret");
        assert!(key.open("signing_key/b", &sealed).unwrap_err().to_string().contains("another row"));
        let other = SealingKey::of(&MasterKey::generate().unwrap());
        let complaint = other.open("signing_key/a", &sealed).unwrap_err().to_string();
        assert!(complaint.contains(&master.id()), "{complaint}");
        let mut broken = sealed.clone();
        let last = if broken.ends_with('A') { 'B' } else { 'A' };
        broken.pop();
        broken.push(last);
        assert!(key.open("signing_key/a", &broken).is_err());
        assert!(key.open("signing_key/a", "plaintext").is_err());
    }
}
