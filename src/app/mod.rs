//! The parts of a running server, built once: configuration, clock, pool, ledger, keys, caches and limits.

mod caches;
mod detached;
mod limits;
mod status_lists;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLock};

use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgPool};
use time::OffsetDateTime;
use url::Url;

pub use self::caches::Caches;
pub use self::detached::DetachedTasks;
pub use self::limits::RequestLimits;
pub use self::status_lists::StatusLists;
use crate::domain::audit::health::RememberedLog;
use crate::domain::audit::log_watcher::LogWatcher;
use crate::domain::audit::witness::Witnesses;
use crate::domain::capability::CapabilityLevels;
use crate::domain::console::ChangeFeed;
use crate::domain::finding::{self, CurrentRules, RuleSet};
use crate::domain::key::{self, Keyring};
use crate::domain::ledger::Ledger;
use crate::domain::refresh_token::RefreshTokenKey;
use crate::domain::registry::{self, Registry};
use crate::domain::row_mac::RowMac;
use crate::domain::status;
use crate::domain::token::status_reader::StatusReader;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::clock::Clock;
use crate::platform::config::Config;
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::Outbound;
use crate::platform::seal::SealingKey;
use crate::platform::secret::MasterKey;
use crate::platform::{db, postgres_errors, telemetry};
use actchain_protocol::digest::{MacKey, sha256};
use actchain_protocol::dpop_nonce::NonceKey;
use actchain_protocol::status_list::StatusIndex;
use actchain_protocol::{metadata, target_uri};

#[derive(Debug)]
pub struct App {
    pub config: Config,
    /// This server's issuer identifier.
    pub issuer: String,
    /// Token endpoint URL in the form compared with `htu` of DPoP proofs.
    pub token_target: String,
    /// Capabilities in their order.
    pub capability_levels: CapabilityLevels,
    pub clock: Clock,
    /// Connections for reads and for rare writes; exchanges are recorded by the ledger.
    pub pool: PgPool,
    /// Computes and verifies the MACs of rows.
    pub rows: RowMac,
    pub ledger: Ledger,
    /// Reads statuses of tokens, for many requests at once.
    pub statuses: StatusReader,
    /// Credentials of third parties.
    pub vault: CredentialCache,
    /// Seals and opens stored secrets.
    pub seal: SealingKey,
    /// Issues and verifies DPoP nonces; `None` where nonces are not required.
    pub nonces: Option<NonceKey>,
    pub witnesses: Witnesses,
    /// Wakes readers of the event stream when the log grows.
    pub log_watcher: LogWatcher,
    /// What this server has last checked of the log, for the console.
    pub log_health: tokio::sync::Mutex<RememberedLog>,
    /// Wakes open pages of the console when the log has what they show.
    pub change_feed: ChangeFeed,
    pub caches: Caches,
    pub limits: RequestLimits,
    pub status_lists: StatusLists,
    pub refresh_tokens: RefreshTokenKey,
    pub detached: DetachedTasks,
    pub metrics: PrometheusHandle,
    fingerprints: MacKey,
    keyring: RwLock<Arc<Keyring>>,
    registry: RwLock<Arc<Registry>>,
    rules: CurrentRules,
    /// Unix time of the last read of the keys for an unknown `kid`, in seconds.
    unknown_kid_read_at: AtomicI64,
    /// Serializes reads for refused requests.
    refused_reads: tokio::sync::Mutex<()>,
}

impl App {
    /// Builds a server on a database with the current schema and with keys. The receiver completes after the last
    /// handle of the ledger is dropped and all pending entries are recorded.
    pub async fn build(
        config: Config,
        clock: Clock,
        database: PgConnectOptions,
        master: &MasterKey,
        seal: SealingKey,
    ) -> Result<(Arc<Self>, tokio::sync::oneshot::Receiver<()>), Fault> {
        let timeout = config.ledger.timeout;
        let issuer = config.issuer();
        let endpoint = metadata::endpoint(&issuer, "/oauth/token");
        let token_target = target_uri::normalise(&endpoint)
            .ok_or_else(|| Fault::new(format!("{endpoint} is not usable as a token endpoint")))?;
        let capability_levels = CapabilityLevels::new(&config.delegations.capabilities)?;
        let pool = db::pool(database.clone(), config.database_connections, timeout);
        let mut connection = pool.acquire().await?;
        let place = format!("the database at {}", postgres_errors::place(&database));
        db::schema(&mut connection).await?.require_current(&place)?;
        let keyring = Keyring::open(&key::store::list(&mut connection).await?, &seal)?;
        let rows = RowMac::open(&mut connection, &seal).await?;
        let registry = registry::store::load(&rows, &mut connection, &issuer).await?;
        let rules = finding::store::load(&rows, &mut connection).await?;
        let rules = CurrentRules::new(rules.version, rules.active()?);
        let places = key::shared_secret(&mut connection, &seal, key::PLACES).await?;
        drop(connection);
        let nonces = config
            .dpop
            .nonce
            .then(|| NonceKey::new(&master.derive("actchain dpop nonce"), config.dpop.nonce_ttl));
        let log_watcher = LogWatcher::new(database.clone(), timeout);
        let statuses = StatusReader::start(database.clone(), timeout, rows.clone())?;
        let (ledger, writer) = Ledger::start(database, &config.ledger, rows.clone(), rules.clone())?;
        let outbound = Outbound::configured(&config, clock.now())?;
        let witnesses = Witnesses::new(&config.audit.witnesses, config.audit.witness_quorum);
        let witnesses = witnesses.context("reading audit.witnesses and audit.witness_quorum")?;
        let urls = witnesses.iter().filter_map(|witness| witness.url.as_ref());
        if let Some(url) = urls.map(Url::as_str).find(|url| !outbound.may_fetch(url)) {
            return Err(Fault::new(format!("audit.witnesses: this server may not send requests to {url}")));
        }
        let app = Self {
            token_target,
            capability_levels,
            clock,
            pool,
            rows,
            ledger,
            statuses,
            vault: CredentialCache::new(seal.clone(), outbound.clone()),
            seal,
            nonces,
            witnesses,
            log_watcher,
            log_health: tokio::sync::Mutex::default(),
            change_feed: ChangeFeed::default(),
            caches: Caches::new(outbound)?,
            limits: RequestLimits::new(&config),
            status_lists: StatusLists::new(&places),
            refresh_tokens: RefreshTokenKey::new(&places),
            detached: DetachedTasks::new(),
            metrics: telemetry::metrics()?,
            fingerprints: MacKey::new(&MacKey::new(&places).mac(b"actchain fingerprints of requests")),
            keyring: RwLock::new(Arc::new(keyring)),
            registry: RwLock::new(Arc::new(registry)),
            rules,
            unknown_kid_read_at: AtomicI64::new(0),
            refused_reads: tokio::sync::Mutex::new(()),
            issuer,
            config,
        };
        Ok((Arc::new(app), writer))
    }

    /// MAC over the digest of a request. Requests can contain secrets, so a plain hash could be attacked by guessing.
    pub fn fingerprint(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.fingerprints.mac(&sha256(parts))
    }

    /// The nonce for the next DPoP proof, where nonces are required.
    pub fn next_nonce(&self) -> Option<String> {
        self.nonces.as_ref().map(|nonces| nonces.current(self.clock.now()))
    }

    /// The keys from the last refresh.
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The registry from the last refresh.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The rules that are on, from the last refresh.
    pub fn rules(&self) -> RuleSet {
        self.rules.set()
    }

    /// Whether an unknown `kid` justifies a database read: at most once a second, so that made-up `kid` values cause
    /// no load.
    pub fn may_read_keys(&self, now: OffsetDateTime) -> bool {
        let second = now.unix_timestamp();
        self.unknown_kid_read_at.swap(second, Ordering::Relaxed) != second
    }

    /// The stored version of the registry.
    pub async fn registry_version(&self) -> Result<i64, Fault> {
        self.read(async |connection| registry::store::version(connection).await).await
    }

    /// The stored version of the registry, for a refused request. One read at a time, so that invalid tokens cause
    /// little load.
    pub async fn registry_version_for_refusal(&self) -> Result<i64, Fault> {
        let _turn = self.refused_reads.lock().await;
        self.registry_version().await
    }

    /// The registry as stored, for decisions that no guard of the ledger checks.
    pub async fn current_registry(&self) -> Result<Arc<Registry>, Fault> {
        self.registry_at(self.registry_version().await?).await
    }

    /// The registry, read again unless its stored version is the one from the last refresh.
    pub async fn registry_at(&self, stored: i64) -> Result<Arc<Registry>, Fault> {
        if stored != self.registry().version {
            self.refresh_registry().await?;
        }
        Ok(self.registry())
    }

    /// Reads on behalf of a request, within a third of the ledger's timeout. A request that needs a read and a ledger
    /// entry then ends within two seconds when the database hangs.
    pub async fn read<T, F>(&self, work: F) -> Result<T, Fault>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<T, Fault>,
    {
        let patience = self.config.ledger.timeout / 3;
        let reading = async {
            let mut connection = self.pool.acquire().await?;
            work(&mut connection).await
        };
        tokio::time::timeout(patience, reading)
            .await
            .map_err(|_| Fault::new("the database does not answer"))?
    }

    /// A status index that no other token has, on any server: taken from a block reserved in the database.
    pub async fn next_status_index(&self) -> Result<StatusIndex, Fault> {
        let reserve =
            async || self.read(async |connection| status::store::next_block(connection).await).await;
        self.status_lists.next_index(reserve).await
    }

    /// Reloads the keys from the database.
    pub async fn refresh_keyring(&self) -> Result<(), Fault> {
        let keys = self.read(async |connection| key::store::list(connection).await).await?;
        let keyring = Keyring::open(&keys, &self.seal)?;
        *self.keyring.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(keyring);
        Ok(())
    }

    /// Reloads the registry from the database.
    pub async fn refresh_registry(&self) -> Result<(), Fault> {
        let registry = self
            .read(async |connection| registry::store::load(&self.rows, connection, &self.issuer).await)
            .await?;
        self.status_lists.leave_block().await;
        let mut present = self.registry.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A slow read must not overwrite the result of a faster read that began later.
        if registry.version >= present.version {
            *present = Arc::new(registry);
        }
        Ok(())
    }
    /// Reloads the rules from the database, if they have changed.
    pub async fn refresh_rules(&self) -> Result<(), Fault> {
        let version = self.read(async |connection| finding::store::version(connection).await).await?;
        if version == self.rules.version() {
            return Ok(());
        }
        let declared =
            self.read(async |connection| finding::store::load(&self.rows, connection).await).await?;
        let version = declared.version;
        // A thousand expressions are compiled in a good part of a second.
        let set =
            tokio::task::spawn_blocking(move || declared.active()).await.context("compiling rules")??;
        self.rules.replace(version, set);
        Ok(())
    }
}
