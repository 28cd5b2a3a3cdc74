//! Data keys seal the secrets of the vault; the master key wraps the data keys. One key seals; retired keys only open
//! until no secret is sealed under them.

pub mod store;

use moka::sync::Cache;
use sqlx::PgConnection;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::platform::fault::Fault;
use crate::platform::seal::SealingKey;
use actchain_protocol::{base64url, random};

#[derive(Debug, Clone)]
pub struct StoredDataKey {
    pub id: String,
    /// The key, sealed under the master key.
    pub wrapped: String,
    pub created_at: OffsetDateTime,
    /// Since when the key seals no further secrets.
    pub retired_at: Option<OffsetDateTime>,
}

impl StoredDataKey {
    pub fn generate(master: &SealingKey, now: OffsetDateTime) -> Result<Self, Fault> {
        let id = base64url::encode(random::bytes::<9>()?);
        let key = Zeroizing::new(random::bytes::<32>()?);
        Ok(Self { wrapped: master.seal(&aad(&id), key.as_slice())?, id, created_at: now, retired_at: None })
    }

    /// Unwraps the key.
    ///
    /// # Errors
    /// A fault that names the master key, if another master key wrapped this data key.
    pub fn open(&self, master: &SealingKey) -> Result<SealingKey, Fault> {
        let bytes = master.open(&aad(&self.id), &self.wrapped)?;
        SealingKey::from_bytes(&self.id, &bytes)
            .ok_or_else(|| Fault::new(format!("data key {} has not 32 bytes", self.id)))
    }

    /// The same key, wrapped by the present master key.
    pub fn rewrapped(&self, master: &SealingKey) -> Result<String, Fault> {
        master.seal(&aad(&self.id), &master.open(&aad(&self.id), &self.wrapped)?)
    }
}

fn aad(id: &str) -> String {
    format!("data_key/{id}")
}

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
