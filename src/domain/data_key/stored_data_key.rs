//! A data key as the database has it, wrapped by the master key.

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
