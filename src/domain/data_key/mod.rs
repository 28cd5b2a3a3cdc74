//! Data keys seal the secrets of the vault; the master key wraps the data keys. One key seals; retired keys only open
//! until no secret is sealed under them.

pub mod store;
mod stored_data_key;

use moka::sync::Cache;
use sqlx::PgConnection;
use zeroize::Zeroizing;

pub use self::stored_data_key::StoredDataKey;
use crate::platform::fault::Fault;
use crate::platform::seal::SealingKey;

/// A sealed secret, with the id of its data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub key: String,
    /// A JWE in compact serialization.
    pub text: String,
}

/// Seals and opens secrets. Unwrapped keys are cached.
#[derive(Debug)]
pub struct DataKeys {
    master: SealingKey,
    opened: Cache<String, SealingKey>,
}

impl DataKeys {
    pub fn new(master: SealingKey) -> Self {
        Self { master, opened: Cache::builder().max_capacity(64).build() }
    }

    pub fn master(&self) -> &SealingKey {
        &self.master
    }

    /// Seals a secret for a row, in the transaction that writes the row: the sealing key cannot be retired meanwhile.
    pub async fn seal(
        &self,
        connection: &mut PgConnection,
        row: &str,
        secret: &[u8],
    ) -> Result<Sealed, Fault> {
        let active = store::lock_active(connection).await?;
        let key = self.unwrap(&active)?;
        Ok(Sealed { text: key.seal(row, secret)?, key: active.id })
    }

    pub async fn open(
        &self,
        connection: &mut PgConnection,
        row: &str,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let key = match self.opened.get(&sealed.key) {
            Some(key) => key,
            None => self.unwrap(&store::get(connection, &sealed.key).await?)?,
        };
        key.open(row, &sealed.text)
    }

    fn unwrap(&self, stored: &StoredDataKey) -> Result<SealingKey, Fault> {
        if let Some(key) = self.opened.get(&stored.id) {
            return Ok(key);
        }
        let key = stored.open(&self.master)?;
        self.opened.insert(stored.id.clone(), key.clone());
        Ok(key)
    }
}
