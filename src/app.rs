//! The parts of a running server, built once: configuration, clock, pool, ledger, keys and caches.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use moka::sync::Cache;
use sqlx::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgPool};
use time::OffsetDateTime;

use crate::domain::audit::log_watcher::LogWatcher;
use crate::domain::audit::witness::Witnesses;
use crate::domain::capability::CapabilityLevels;
use crate::domain::client::Client;
use crate::domain::delegation::candidates::{CandidatePaths, DelegationQuery};
use crate::domain::jwks_cache::JwksCache;
use crate::domain::key::{self, Keyring};
use crate::domain::ledger::Ledger;
use crate::domain::rate_limit::{ConcurrencyLimit, FailureLimiter, Guesses, PollLimiter, RateLimiter};
use crate::domain::registry::{self, Registry};
use crate::domain::row_mac::RowMac;
use crate::domain::secret_cache::SecretCache;
use crate::domain::status::{self, SignedList};
use crate::domain::subject::VerifiedSubject;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::clock::Clock;
use crate::platform::config::Config;
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::{AddressPolicy, Outbound};
use crate::platform::seal::SealingKey;
use crate::platform::secret::MasterKey;
use crate::platform::{db, postgres_errors, telemetry};
use actchain_protocol::digest::{MacKey, sha256};
use actchain_protocol::dpop_nonce::NonceKey;
use actchain_protocol::status_list::{IndexAllocator, StatusIndex};
use actchain_protocol::{metadata, target_uri};

/// Maximum number of cached delegations; a delegation counts once for each cached path that contains it.
const MOST_DELEGATIONS: u64 = 50_000;

#[derive(Debug)]
pub struct App {
    pub config: Config,
    /// This server's issuer identifier.
    pub issuer: String,
    /// Token endpoint URL in the form compared with `htu` of DPoP proofs.
    pub token_target: String,
    /// Capabilities in their order.
    pub capability_levels: CapabilityLevels,
    /// What time it is.
    pub clock: Clock,
    /// Connections for reads and for rare writes; exchanges are recorded by the ledger.
    pub pool: PgPool,
    /// Computes and verifies the MACs of rows.
    pub rows: RowMac,
    pub ledger: Ledger,
    /// Credentials of third parties.
    pub vault: CredentialCache,
    /// The witnesses of the log.
    pub witnesses: Witnesses,
    /// Seals and opens stored secrets.
    pub seal: SealingKey,
    /// Issues and verifies DPoP nonces; `None` where nonces are not required.
    pub nonces: Option<NonceKey>,
    /// JWK Sets fetched from URLs of issuers and clients.
    pub jwks_cache: JwksCache,
    /// Clients by id. An entry may be outdated; the ledger compares its version.
    pub clients: Cache<String, Arc<Client>>,
    /// Verified subject tokens by digest, for one minute: the longest time that a withdrawn key is still accepted.
    pub subjects: Cache<[u8; 32], Arc<VerifiedSubject>>,
    /// Names that no client has, by registry version. A new client raises the version.
    pub names_of_no_client: Cache<(i64, String), ()>,
    /// Paths of delegations, by what they were searched by. One may have ended since: the ledger looks again.
    pub paths: Cache<DelegationQuery, Arc<CandidatePaths>>,
    /// Secrets that were verified lately.
    pub secrets: SecretCache,
    /// Limits the request rate of each client.
    pub requests: RateLimiter,
    /// Limits recorded failures of each client, so that unauthenticated requests cannot fill the log.
    pub failures: FailureLimiter,
    /// Limits failed secrets for each client id and peer address: an attacker elsewhere does not lock out the client.
    pub guesses: Guesses,
    /// Limits concurrent Argon2 verifications of client secrets.
    pub argon2_permits: tokio::sync::Semaphore,
    /// Limits concurrent dummy verifications for unknown clients, so that unauthenticated requests do not delay
    /// clients. The number equals `argon2_permits`; otherwise the timing of concurrent requests would show which
    /// clients exist.
    pub dummy_argon2_permits: tokio::sync::Semaphore,
    pub metrics: PrometheusHandle,
    /// Signed status lists by number.
    pub status_lists: Cache<u64, Arc<SignedList>>,
    /// Limits how often an agent polls for the decision on a request.
    pub polls: PollLimiter,
    /// Limits the number of long-polling requests.
    pub long_poll_permits: tokio::sync::Semaphore,
    /// Numbers of the status lists that unexpired tokens refer to, with the time of the read.
    pub live_lists: tokio::sync::Mutex<Option<(OffsetDateTime, Vec<u64>)>>,
    /// Wakes readers of the event stream when the log grows.
    pub log_watcher: LogWatcher,
    /// Limits the event streams of each reader.
    pub readers: ConcurrencyLimit,
    /// Serializes the generation of status lists.
    pub making_lists: tokio::sync::Mutex<()>,
    status_indexes: IndexAllocator,
    fingerprints: MacKey,
    runtime: tokio::runtime::Handle,
    under_way: Arc<tokio::sync::RwLock<()>>,
    block: tokio::sync::Mutex<std::ops::Range<u64>>,
    keyring: RwLock<Arc<Keyring>>,
    registry: RwLock<Arc<Registry>>,
    looked_for_keys: AtomicI64,
    strangers: tokio::sync::Mutex<()>,
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
        let places = key::shared_secret(&mut connection, &seal, key::PLACES).await?;
        drop(connection);
        let nonces = config
            .dpop
            .nonce
            .then(|| NonceKey::new(&master.derive("actchain dpop nonce"), config.dpop.nonce_ttl));
        let log_watcher = LogWatcher::new(database.clone(), timeout);
        let (ledger, writer) = Ledger::start(database, &config.ledger, rows.clone())?;
        let outbound = Outbound::new(AddressPolicy::of_issuer(&issuer))?;
        let witnesses = Witnesses::new(&config.audit.witnesses, config.audit.witness_quorum);
        let witnesses = witnesses.context("reading audit.witnesses and audit.witness_quorum")?;
        let app = Self {
            rows,
            witnesses,
            token_target,
            capability_levels,
            status_indexes: IndexAllocator::new(&places),
            runtime: tokio::runtime::Handle::current(),
            under_way: Arc::default(),
            fingerprints: MacKey::new(&MacKey::new(&places).mac(b"actchain fingerprints of requests")),
            block: tokio::sync::Mutex::new(0..0),
            polls: PollLimiter::new(),
            long_poll_permits: tokio::sync::Semaphore::new(256),
            live_lists: tokio::sync::Mutex::new(None),
            making_lists: tokio::sync::Mutex::new(()),
            log_watcher,
            readers: ConcurrencyLimit::new(config.audit.max_streams),
            status_lists: Cache::builder().max_capacity(8).build(),
            nonces,
            jwks_cache: JwksCache::new(outbound.clone()),
            clients: Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(60)).build(),
            subjects: Cache::builder().max_capacity(5_000).time_to_live(Duration::from_secs(60)).build(),
            names_of_no_client: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(Duration::from_secs(60))
                .build(),
            paths: Cache::builder()
                .weigher(|_, found: &Arc<CandidatePaths>| found.weight())
                .max_capacity(MOST_DELEGATIONS)
                .time_to_live(Duration::from_secs(60))
                .build(),
            secrets: SecretCache::new()?,
            requests: RateLimiter::per_second(config.limits.requests_per_second_per_client),
            failures: FailureLimiter::per_minute(config.limits.failed_auth_per_minute.max(1)),
            guesses: Guesses::per_minute(config.limits.failed_auth_per_minute),
            // Argon2 uses a core for about 20 ms; more concurrent runs would starve all other work.
            argon2_permits: tokio::sync::Semaphore::new(2),
            dummy_argon2_permits: tokio::sync::Semaphore::new(2),
            metrics: telemetry::metrics()?,
            keyring: RwLock::new(Arc::new(keyring)),
            registry: RwLock::new(Arc::new(registry)),
            looked_for_keys: AtomicI64::new(0),
            strangers: tokio::sync::Mutex::new(()),
            issuer,
            clock,
            pool,
            ledger,
            vault: CredentialCache::new(seal.clone(), outbound.clone()),
            seal,
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

    /// Spawns the future detached from the request: it completes after a client disconnect or the end of the HTTP
    /// worker.
    pub fn spawn_detached<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let under_way = Arc::clone(&self.under_way);
        self.runtime.spawn(async move {
            let _one_of_them = under_way.read_owned().await;
            work.await
        })
    }

    /// Waits until all detached futures have completed.
    pub async fn drain(&self) {
        drop(self.under_way.write().await);
    }

    /// The keys from the last refresh.
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The registry from the last refresh.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Whether an unknown `kid` justifies a database read: at most once a second, so that made-up `kid` values cause
    /// no load.
    pub fn may_look_for_keys(&self, now: OffsetDateTime) -> bool {
        let second = now.unix_timestamp();
        self.looked_for_keys.swap(second, Ordering::Relaxed) != second
    }

    /// The stored version of the registry.
    pub async fn registry_version(&self) -> Result<i64, Fault> {
        self.read(async |connection| registry::store::version(connection).await).await
    }

    /// The stored version of the registry, for a refused request. One read at a time, so that invalid tokens cause
    /// little load.
    pub async fn registry_version_for_strangers(&self) -> Result<i64, Fault> {
        let _turn = self.strangers.lock().await;
        self.registry_version().await
    }

    /// The registry as stored, for decisions that no guard of the ledger checks.
    pub async fn current_registry(&self) -> Result<Arc<Registry>, Fault> {
        if self.registry_version().await? != self.registry().version {
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
        let mut block = self.block.lock().await;
        if block.is_empty() {
            let number = self.read(async |connection| status::store::next_block(connection).await).await?;
            *block = number * status::BLOCK..(number + 1) * status::BLOCK;
        }
        let next = block.next().ok_or_else(|| Fault::new("a block without places"))?;
        Ok(self.status_indexes.place(next))
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
        let mut present = self.registry.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A slow read must not overwrite the result of a faster read that began later.
        if registry.version >= present.version {
            *present = Arc::new(registry);
        }
        Ok(())
    }
}
