//! The vault in memory: opened credentials for a short time, and locks of refreshes in progress.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Connection, Credential, store};
use crate::domain::data_key::DataKeys;
use crate::domain::provider::{self, OpenedProvider};
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use crate::platform::seal::SealingKey;

#[derive(Debug)]
pub struct OpenedConnection {
    /// The connection, as of one version.
    pub connection: Connection,
    pub credential: Credential,
    pub provider: Arc<OpenedProvider>,
}

/// The vault of a running server or of a command.
#[derive(Debug)]
pub struct CredentialCache {
    /// Seals and opens secrets.
    pub keys: DataKeys,
    /// HTTP client for requests to providers.
    pub outbound: Outbound,
    /// Opened connections by id. An entry may be outdated: the ledger compares its version.
    pub opened: Cache<String, Arc<OpenedConnection>>,
    /// One lock for each connection that this process refreshes; other requests wait for it.
    pub refreshing: Cache<String, Arc<tokio::sync::Mutex<()>>>,
    /// Connections whose provider has just failed: no new request for one second.
    pub unwell: Cache<String, ()>,
    /// Connections for which no token is obtained by exchange before a time.
    resting: Cache<String, OffsetDateTime>,
}

impl CredentialCache {
    pub fn new(master: SealingKey, outbound: Outbound) -> Self {
        Self {
            keys: DataKeys::new(master),
            outbound,
            opened: Cache::builder().max_capacity(5_000).time_to_live(Duration::from_secs(60)).build(),
            refreshing: Cache::builder().max_capacity(50_000).time_to_idle(Duration::from_secs(120)).build(),
            resting: Cache::builder().max_capacity(50_000).time_to_live(Duration::from_secs(600)).build(),
            unwell: Cache::builder().max_capacity(50_000).time_to_live(Duration::from_secs(1)).build(),
        }
    }

    /// Obtains no token for a connection by exchange for some seconds, at most ten minutes.
    pub fn rest(&self, id: &str, now: OffsetDateTime, seconds: u32) {
        self.resting.insert(id.to_owned(), now + time::Duration::seconds(seconds.into()));
    }

    /// Seconds until a token may be obtained by exchange, at least one; `None` if it may be now.
    pub fn rests_for(&self, id: &str, now: OffsetDateTime) -> Option<u32> {
        let rest = self.resting.get(id).map(|until| until - now).filter(|rest| rest.is_positive())?;
        let seconds = rest.whole_seconds() + i64::from(rest.subsec_nanoseconds() > 0);
        Some(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// Reads and opens a connection by its id, past the cache; `None` if it does not exist or has no credential.
    pub async fn open(
        &self,
        connection: &mut PgConnection,
        id: &str,
    ) -> Result<Option<Arc<OpenedConnection>>, Fault> {
        let Some(found) = store::find(connection, id).await? else { return Ok(None) };
        self.open_found(connection, found).await
    }

    /// Opens a connection that was read already.
    pub async fn open_found(
        &self,
        connection: &mut PgConnection,
        found: Connection,
    ) -> Result<Option<Arc<OpenedConnection>>, Fault> {
        let Some(sealed) = &found.sealed else { return Ok(None) };
        let credential = self.keys.open(connection, &found.aad(), sealed).await?;
        let credential = Credential::from_bytes(&credential)?;
        let provider = provider::store::find_of_connection(connection, &found.id).await?;
        let Some(provider) = provider else { return Ok(None) };
        let provider = Arc::new(provider.open(&self.keys, connection).await?);
        Ok(Some(Arc::new(OpenedConnection { connection: found, credential, provider })))
    }
}
