//! What a running server is made of: configuration, clock, pool, ledger, keys and caches, built once.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use moka::sync::Cache;
use sqlx::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgPool};
use time::OffsetDateTime;

use crate::domain::audit::log_watcher::LogWatcher;
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
use crate::platform::digest::{MacKey, sha256};
use crate::platform::fault::Fault;
use crate::platform::jose::SealingKey;
use crate::platform::outbound::{AddressPolicy, Outbound};
use crate::platform::secret::MasterKey;
use crate::platform::{db, telemetry};
use crate::protocol::dpop_nonce::NonceKey;
use crate::protocol::signed_note::{Kind, VerifierKey};
use crate::protocol::status_list::{IndexAllocator, StatusIndex};
use crate::protocol::{metadata, target_uri};

/// The most delegations that are remembered, each on each path that it is on.
const MOST_DELEGATIONS: u64 = 50_000;

#[derive(Debug)]
pub struct App {
    pub config: Config,
    /// Our issuer identifier.
    pub issuer: String,
    /// The token endpoint in the form in which proofs are compared with it.
    pub token_target: String,
    /// Capabilities in their order.
    pub capability_levels: CapabilityLevels,
    /// What time it is.
    pub clock: Clock,
    /// Connections for reading, and for the rare writes.
    pub pool: PgPool,
    /// Makes and checks the MACs of rows.
    pub rows: RowMac,
    /// The way to record exchanges.
    pub ledger: Ledger,
    /// Credentials of third parties.
    pub vault: CredentialCache,
    /// Those whose word on our checkpoints is taken.
    pub witnesses: Vec<VerifierKey>,
    /// Opens and makes seals.
    pub seal: SealingKey,
    /// Makes and judges nonces, where they are demanded.
    pub nonces: Option<NonceKey>,
    /// JWK Sets that others publish.
    pub jwks_cache: JwksCache,
    /// Clients by id. An entry may be outdated: the ledger compares its version.
    pub clients: Cache<String, Arc<Client>>,
    /// Verified subject tokens, by what makes them up, for a minute: so long may a key that was withdrawn still vouch.
    pub subjects: Cache<[u8; 32], Arc<VerifiedSubject>>,
    /// What no client is called, by the version of the registry: a new client raises that.
    pub names_of_no_client: Cache<(i64, String), ()>,
    /// Paths of delegations, by what they were searched by. One may have ended since: the ledger looks again.
    pub paths: Cache<DelegationQuery, Arc<CandidatePaths>>,
    /// Secrets that were verified lately.
    pub secrets: SecretCache,
    /// Requests of each client.
    pub requests: RateLimiter,
    /// Failures of each client: bounds what strangers can add to the log.
    pub failures: FailureLimiter,
    /// Tries of secrets for each client id from each peer: bounds guessing, and leaves the client itself alone.
    pub guesses: Guesses,
    /// How many slow secret verifications may run at once.
    pub argon2_permits: tokio::sync::Semaphore,
    /// How many of those that only hide that there is no such client: strangers must not keep clients waiting. As many as
    /// may run for clients, so that several requests at once do not tell one from the other either.
    pub dummy_argon2_permits: tokio::sync::Semaphore,
    pub metrics: PrometheusHandle,
    /// Status lists by number, as last made.
    pub status_lists: Cache<u64, Arc<SignedList>>,
    /// How often agents ask whether they were approved.
    pub polls: PollLimiter,
    /// Places for those that wait for an answer to that.
    pub long_poll_permits: tokio::sync::Semaphore,
    /// The numbers of the lists that tokens still point into, as read at an instant.
    pub live_lists: tokio::sync::Mutex<Option<(OffsetDateTime, Vec<u64>)>>,
    /// Who follows the log.
    pub log_watcher: LogWatcher,
    /// How many streams each of them has.
    pub readers: ConcurrencyLimit,
    /// Lists are made one at a time.
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
    /// Builds a server on a database whose schema is current and which has its keys. The receiver hears when the
    /// last handle of the ledger was dropped and all that waited is recorded.
    pub async fn build(
        config: Config,
        clock: Clock,
        database: PgConnectOptions,
        (master, seal): (&MasterKey, SealingKey),
    ) -> Result<(Arc<Self>, tokio::sync::oneshot::Receiver<()>), Fault> {
        let timeout = config.ledger.timeout;
        let issuer = config.issuer();
        let endpoint = metadata::endpoint(&issuer, "/oauth/token");
        let token_target = target_uri::normalise(&endpoint)
            .ok_or_else(|| Fault::new(format!("{endpoint} is not usable as a token endpoint")))?;
        let capability_levels = CapabilityLevels::new(&config.delegations.capabilities)?;
        let pool = db::pool(database.clone(), config.database_connections, timeout);
        let mut connection = pool.acquire().await?;
        db::schema(&mut connection).await?.require_current()?;
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
        let witness = |text: &String| {
            let key = VerifierKey::parse(text).filter(|key| key.kind() == Kind::Witness);
            key.ok_or_else(|| Fault::new(format!("audit.witnesses: {text:?} is no key of a witness")))
        };
        let witnesses = config.audit.witnesses.iter().map(witness).collect::<Result<_, _>>()?;
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
            // Each takes a core for about 20 ms; more at once would only starve everything else.
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

    /// Stands for a request of which nothing may be guessed from it: there are secrets in some.
    pub fn fingerprint(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.fingerprints.mac(&sha256(parts))
    }

    /// Runs what must not be given up half done: neither when whoever asked hangs up, nor with the HTTP thread on which it
    /// began.
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

    /// Waits until nothing of that is under way any more.
    pub async fn drain(&self) {
        drop(self.under_way.write().await);
    }

    /// The keys, as last read.
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The registry, as last read.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Whether an unknown key is worth a look into the database: once a second, however many strangers make keys up.
    pub fn may_look_for_keys(&self, now: OffsetDateTime) -> bool {
        let second = now.unix_timestamp();
        self.looked_for_keys.swap(second, Ordering::Relaxed) != second
    }

    /// The version of the registry as it is stored.
    pub async fn registry_version(&self) -> Result<i64, Fault> {
        self.read(async |connection| registry::store::version(connection).await).await
    }

    /// The same on behalf of a request that was refused: one at a time, however many strangers send tokens.
    pub async fn registry_version_for_strangers(&self) -> Result<i64, Fault> {
        let _turn = self.strangers.lock().await;
        self.registry_version().await
    }

    /// The registry as it is stored, for what is decided without the ledger's guards.
    pub async fn current_registry(&self) -> Result<Arc<Registry>, Fault> {
        if self.registry_version().await? != self.registry().version {
            self.refresh_registry().await?;
        }
        Ok(self.registry())
    }

    /// Reads something that a request waits for. A third of the ledger's patience is enough for a read, and keeps a
    /// request that needs both within two seconds when the database hangs.
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

    /// A place in the status lists that no other token has, on any server: taken from a block that was set aside.
    pub async fn next_status_index(&self) -> Result<StatusIndex, Fault> {
        let mut block = self.block.lock().await;
        if block.is_empty() {
            let number = self.read(async |connection| status::store::next_block(connection).await).await?;
            *block = number * status::BLOCK..(number + 1) * status::BLOCK;
        }
        let next = block.next().ok_or_else(|| Fault::new("a block without places"))?;
        Ok(self.status_indexes.place(next))
    }

    /// Reads the keys again.
    pub async fn refresh_keyring(&self) -> Result<(), Fault> {
        let keys = self.read(async |connection| key::store::list(connection).await).await?;
        let keyring = Keyring::open(&keys, &self.seal)?;
        *self.keyring.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(keyring);
        Ok(())
    }

    /// Reads the registry again.
    pub async fn refresh_registry(&self) -> Result<(), Fault> {
        let registry = self
            .read(async |connection| registry::store::load(&self.rows, connection, &self.issuer).await)
            .await?;
        let mut present = self.registry.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A slow read must not undo a faster one that began later.
        if registry.version >= present.version {
            *present = Arc::new(registry);
        }
        Ok(())
    }
}
