//! Support for API tests: a throwaway cluster with a database for each test, real servers on port 0, and clients with
//! real keys. The test moves the clock.

pub mod audit;
pub mod browser;
pub mod contract;
pub mod ends;
pub mod interrupt;
pub mod life;
pub mod locks;
pub mod management;
pub mod offline;
pub mod refill;
pub mod registrar;
pub mod shapes;
pub mod sign_in;
pub mod smtp;
pub mod vault;
pub mod vault_broker;
pub mod vault_proxy_world;
pub mod vault_story;
pub mod world;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use actchain::app::App;
use actchain::domain::audit::{RequestOrigin, personal};
use actchain::domain::ledger::Entry;
use actchain::domain::server_info::ServerInfo;
use actchain::http::HttpServer;
use actchain::platform::clock::{Clock, from_seconds};
use actchain::platform::config::Config;
use actchain::platform::db;
use actchain::platform::seal::SealingKey;
use actchain::platform::secret::MasterKey;
use actchain::services::apply::{ApplyRequest, apply, read_all};
use actchain::services::audit::log_names::people_in;
use actchain::services::caller::Caller;
use actchain::services::register_server::register_server;
use actchain::services::request_context::RequestContext;
use actchain::services::{clients, delegations, keys, principals, seal_rows};
use actchain_embedded_postgres::{Cluster, Durability};
pub use actchain_testkit::answer::{Answer, claims_of};
use actchain_testkit::endpoint::Endpoint;
pub use actchain_testkit::endpoint::http;
pub use actchain_testkit::provider;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

pub mod agent {
    pub use actchain_testkit::agent::*;
    pub use actchain_testkit::request::Request;
}

/// The start time of tests: 2026-01-01T00:00:00Z.
pub const START: i64 = 1_767_225_600;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);
const TEMPLATE: &str = "migrated";

async fn cluster() -> &'static Cluster {
    CLUSTER
        .get_or_init(async || {
            let cluster = Cluster::throwaway(None, std::env::var_os("PATH"), Durability::Off).await.unwrap();
            let mut admin = PgConnection::connect_with(&cluster.connect_options("postgres")).await.unwrap();
            admin.execute("CREATE DATABASE migrated").await.unwrap();
            admin.close().await.unwrap();
            db::migrate(&cluster.connect_options(TEMPLATE), TEMPLATE).await.unwrap();
            cluster
        })
        .await
}

/// Databases whose tests have ended. A database has some 15 MB, and the tests are a thousand.
static UNUSED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The databases of one test. Each test has its own thread, which ends with it.
#[derive(Default)]
struct OwnDatabases(Vec<String>);

impl Drop for OwnDatabases {
    fn drop(&mut self) {
        UNUSED.lock().unwrap().append(&mut self.0);
    }
}

thread_local! {
    static OWN_DATABASES: RefCell<OwnDatabases> = RefCell::default();
}

/// A new database with the current schema and no rows. The databases of tests that have ended are deleted first.
pub async fn database() -> PgConnectOptions {
    let cluster = cluster().await;
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::SeqCst));
    OWN_DATABASES.with_borrow_mut(|own| own.0.push(name.clone()));
    let mut admin = PgConnection::connect_with(&cluster.connect_options("postgres")).await.unwrap();
    // PostgreSQL refuses two concurrent copies of one template.
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let unused = std::mem::take(&mut *UNUSED.lock().unwrap());
    for name in unused {
        // On a busy machine, a session of the database may take longer to end than PostgreSQL waits.
        if admin.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await.is_err() {
            UNUSED.lock().unwrap().push(name);
        }
    }
    admin
        .execute(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy")))
        .await
        .unwrap();
    cluster.connect_options(&name)
}

/// A server with its database.
pub struct Server {
    pub app: Arc<App>,
    pub base: String,
    pub clock: Clock,
    pub database: PgConnectOptions,
    pub master: MasterKey,
    handle: actix_web::dev::ServerHandle,
    /// The number of events whose shape was checked.
    checked: AtomicUsize,
}

impl Endpoint for Server {
    fn base(&self) -> &str {
        &self.base
    }

    fn issuer(&self) -> &str {
        &self.app.issuer
    }

    fn now(&self) -> i64 {
        self.now()
    }
}

impl Server {
    /// A server with this TOML configuration and this manifest.
    pub async fn start(config: &str, yaml: &str) -> Self {
        let master = MasterKey::generate().unwrap();
        let clock = Clock::manual(from_seconds(START).unwrap());
        let server = Self::on(database().await, config, (clock, master)).await;
        server.apply(yaml).await.unwrap();
        server
    }

    /// Another server with the same database and issuer but its own address, as behind a load balancer.
    pub async fn twin(&self) -> Self {
        self.twin_configured("").await
    }

    /// Like [`Self::twin`], with more lines of TOML.
    pub async fn twin_configured(&self, more: &str) -> Self {
        let config = format!("issuer = {:?}\n{more}", self.app.issuer);
        Self::on(self.database.clone(), &config, (self.clock.clone(), self.master.clone())).await
    }

    /// Another server with the same database and a new master key; it can also open what the old key has sealed.
    pub async fn twin_under(&self, master: &MasterKey) -> Self {
        let seal = SealingKey::of(master).with_previous(Some(&self.master));
        let config = format!("issuer = {:?}", self.app.issuer);
        Self::sealing(self.database.clone(), &config, (self.clock.clone(), master.clone(), seal)).await
    }

    /// Another server with the same database and a new master key alone.
    pub async fn twin_under_only(&self, master: &MasterKey) -> Self {
        let config = format!("issuer = {:?}", self.app.issuer);
        Self::on(self.database.clone(), &config, (self.clock.clone(), master.clone())).await
    }

    async fn on(database: PgConnectOptions, config: &str, (clock, master): (Clock, MasterKey)) -> Self {
        let seal = SealingKey::of(&master);
        Self::sealing(database, config, (clock, master, seal)).await
    }

    async fn sealing(
        database: PgConnectOptions,
        config: &str,
        (clock, master, seal): (Clock, MasterKey, SealingKey),
    ) -> Self {
        let text = config;
        let mut config = Config::parse("test", text, &Default::default()).unwrap();
        let listener = HttpServer::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        config.listen = listener.local_addr().unwrap();
        config.workers = 2;
        // Test machines can be busy. A request that waits without success takes longer and still fails.
        if config.ledger.timeout == actchain::platform::config::LedgerConfig::default().timeout {
            config.ledger.timeout = std::time::Duration::from_secs(120);
        }
        // Many servers share one cluster.
        if !text.contains("database_connections") {
            config.database_connections = 6;
        }
        let pool = PgPool::connect_with(database.clone()).await.unwrap();
        keys::ensure(&pool, &seal, &config.keys, clock.now()).await.unwrap();
        pool.close().await;
        let (app, _writer) =
            App::build(config, clock.clone(), database.clone(), &master, seal).await.unwrap();
        let info = ServerInfo {
            issuer: app.issuer.clone(),
            listen: app.config.listen.to_string(),
            pid: std::process::id().into(),
            started_at: clock.now(),
        };
        register_server(&app.pool, &info).await.unwrap();
        let listening = HttpServer::start(&app, listener).unwrap();
        let base = format!("http://{}", listening.address);
        let handle = listening.handle();
        tokio::spawn(listening.run());
        Self { app, base, clock, database, master, handle, checked: AtomicUsize::new(0) }
    }

    pub async fn apply(&self, yaml: &str) -> Result<(), String> {
        self.apply_replacing(yaml, &[]).await
    }

    /// As `actchain apply --replace`, for these ids.
    pub async fn apply_replacing(&self, yaml: &str, ids: &[&str]) -> Result<(), String> {
        let manifest =
            read_all(&[("test.yaml".to_owned(), yaml.to_owned())]).map_err(|fault| fault.to_string())?;
        let replace = ids.iter().map(|id| (*id).to_owned()).collect();
        let request = ApplyRequest { replace, ..ApplyRequest::apply_all(manifest) };
        let applied = apply(&self.operator(), Some(&self.app.vault), request).await;
        applied.map_err(|error| error.to_string())?;
        self.app.refresh_registry().await.map_err(|fault| fault.to_string())?;
        self.app.refresh_rules().await.map_err(|fault| fault.to_string())
    }

    pub fn token_endpoint(&self) -> String {
        format!("{}/oauth/token", self.app.issuer)
    }

    pub fn now(&self) -> i64 {
        self.clock.now().unix_timestamp()
    }

    pub fn pass(&self, seconds: i64) {
        self.clock.shift(time::Duration::seconds(seconds));
    }

    /// A request of an operator with a shell.
    pub fn operator(&self) -> RequestContext<'_> {
        RequestContext::new(&self.app, Caller::Operator, RequestOrigin::default(), self.clock.now())
    }

    pub async fn revoke(&self, id: &str) -> Value {
        json!(delegations::revoke(&self.operator(), id, Some("enough")).await.unwrap().value)
    }

    /// A new secret of a client; the old one is valid for some more seconds.
    pub async fn rotate_secret(&self, client_id: &str, overlap: i64) -> String {
        let overlap = time::Duration::seconds(overlap);
        let rotated = clients::rotate_secret(&self.operator(), client_id, overlap).await.unwrap();
        rotated.value.client_secret.unwrap()
    }

    pub async fn disable(&self, client_id: &str) -> Value {
        json!(principals::disable(&self.operator(), client_id).await.unwrap().value)
    }

    pub async fn enable(&self, client_id: &str) -> Value {
        json!(principals::enable(&self.operator(), client_id).await.unwrap().value)
    }

    /// A database connection with all rights, to read or change stored rows.
    pub async fn sql(&self) -> PgConnection {
        PgConnection::connect_with(&self.database).await.unwrap()
    }

    /// Adds MACs to rows that a test has inserted by SQL. Rows that SQL has changed need `mac = NULL` first.
    pub async fn seal_rows(&self) {
        seal_rows::seal_unsealed(&self.app.rows, &mut self.sql().await).await.unwrap();
    }

    /// All rows of the database as text.
    pub async fn dump(&self) -> String {
        let mut connection = self.sql().await;
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
             WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let mut all = String::new();
        for table in tables {
            let rows = sqlx::AssertSqlSafe(format!("SELECT t::text FROM {table} t"));
            let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut connection).await.unwrap();
            all.push_str(&rows.join("\n"));
        }
        all
    }

    /// Waits until this many readers of a kind were disconnected, by any server of this process.
    pub async fn disconnected(&self, reader: &str, times: u64) {
        let name = format!("actchain_audit_stream_disconnects_total{{reader=\"{reader}\"}} ");
        loop {
            let metrics = http().get(format!("{}/metrics", self.base)).send().await.unwrap();
            let text = metrics.text().await.unwrap();
            let count = text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok());
            if count.is_some_and(|count| count >= times) {
                return;
            }
        }
    }

    /// Waits until the ledger has recorded its queue: the event of a failed authentication can follow its response.
    pub async fn settled(&self) {
        let _ = self.app.ledger.record(Entry::at(self.clock.now())).await;
    }

    /// All events as people read them: with the names of persons, and their personal data.
    pub async fn events(&self) -> Vec<Value> {
        self.settled().await;
        let documents = self.documents().await;
        let checked = self.checked.fetch_max(documents.len(), Ordering::SeqCst);
        documents.iter().skip(checked).for_each(shapes::assert_described);
        self.resolved(|document| Some(serde_json::from_str(document).unwrap())).await
    }

    /// Like [`Self::events`], without events that a test has damaged.
    pub async fn events_that_can_be_read(&self) -> Vec<Value> {
        self.resolved(|document| serde_json::from_str(document).ok()).await
    }

    async fn resolved(&self, parse: impl Fn(&str) -> Option<Value>) -> Vec<Value> {
        let mut sql = self.sql().await;
        let rows = sqlx::query_as("SELECT document, personal FROM audit_event ORDER BY seq");
        let rows: Vec<(String, Option<String>)> = rows.fetch_all(&mut sql).await.unwrap();
        let events: Vec<(Value, Option<String>)> =
            rows.into_iter().filter_map(|(document, personal)| Some((parse(&document)?, personal))).collect();
        let people = people_in(&mut sql, events.iter().map(|(event, _)| event)).await.unwrap();
        events.iter().map(|(event, text)| personal::resolved(event, text.as_deref(), &people)).collect()
    }

    /// The name of a user in the log.
    pub async fn log_name(&self, iss: &str, sub: &str) -> String {
        let name = sqlx::query_scalar("SELECT pseudonym FROM person WHERE iss = $1 AND sub = $2");
        name.bind(iss).bind(sub).fetch_one(&mut self.sql().await).await.unwrap()
    }

    /// All events as they are in the tree.
    pub async fn documents(&self) -> Vec<Value> {
        self.settled().await;
        let documents = sqlx::query_scalar("SELECT document FROM audit_event ORDER BY seq");
        let documents: Vec<String> = documents.fetch_all(&mut self.sql().await).await.unwrap();
        documents.iter().map(|document| serde_json::from_str(document).unwrap()).collect()
    }

    pub async fn last_event(&self) -> Value {
        self.events().await.pop().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // `stop` takes effect when it is called; the future only waits for the end.
        drop(self.handle.stop(false));
    }
}
