//! What a running server holds of the vault: opened credentials for a short while, and who waits for a new one.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use sqlx::PgConnection;

use super::{Connection, Credential, store};
use crate::domain::data_key::DataKeys;
use crate::domain::provider::{self, OpenedProvider};
use crate::platform::fault::Fault;
use crate::platform::jose::SealingKey;
use crate::platform::outbound::Outbound;

/// A connection with its opened credential.
#[derive(Debug)]
pub struct OpenedConnection {
    /// It, as of one version.
    pub connection: Connection,
    /// What its provider honours.
    pub credential: Credential,
    /// Its provider.
    pub provider: Arc<OpenedProvider>,
}

/// The vault of a running server, or of a command.
#[derive(Debug)]
pub struct CredentialCache {
    /// Seals and opens.
    pub keys: DataKeys,
    /// Talks to providers.
    pub outbound: Outbound,
    /// Connections by id, opened. An entry may be outdated: the ledger compares its version.
    pub opened: Cache<String, Arc<OpenedConnection>>,
    /// Whoever refreshes a connection here; the others wait.
    pub refreshing: Cache<String, Arc<tokio::sync::Mutex<()>>>,
    /// Connections whose provider has just failed us: nobody asks again at once.
    pub unwell: Cache<String, ()>,
}

impl CredentialCache {
    /// A vault under a master key.
    pub fn new(master: SealingKey, outbound: Outbound) -> Self {
        Self {
            keys: DataKeys::new(master),
            outbound,
            opened: Cache::builder().max_capacity(5_000).time_to_live(Duration::from_secs(60)).build(),
            refreshing: Cache::builder().max_capacity(50_000).time_to_idle(Duration::from_secs(120)).build(),
            unwell: Cache::builder().max_capacity(50_000).time_to_live(Duration::from_secs(1)).build(),
        }
    }

    /// A connection by its id, opened anew; `None` if there is none, or its credential is kept no more.
    pub async fn open(
        &self,
        connection: &mut PgConnection,
        id: &str,
    ) -> Result<Option<Arc<OpenedConnection>>, Fault> {
        let Some(found) = store::find(connection, id).await? else { return Ok(None) };
        self.open_found(connection, found).await
    }

    /// The same of one that was read.
    pub async fn open_found(
        &self,
        connection: &mut PgConnection,
        found: Connection,
    ) -> Result<Option<Arc<OpenedConnection>>, Fault> {
        let Some(sealed) = &found.sealed else { return Ok(None) };
        let credential = self.keys.open(connection, &found.aad(), sealed).await?;
        let credential = Credential::from_bytes(&credential)?;
        let provider = provider::store::find(connection, &found.provider).await?;
        let provider = provider.ok_or_else(|| Fault::new("a connection without its provider"))?;
        let provider = Arc::new(provider.open(&self.keys, connection).await?);
        Ok(Some(Arc::new(OpenedConnection { connection: found, credential, provider })))
    }
}
