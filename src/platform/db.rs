//! PostgreSQL: the pool, the schema and its version. Everything above talks to it through `PgConnection`.

use std::str::FromStr as _;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection};

use super::fault::{Context, Fault};
use super::postgres_errors::{connecting, place};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// The role that every connection of a running server takes on; it may not change or delete what is in the log.
const SERVER_ROLE: &str = "SET ROLE actchain_server";

/// How the schema in the database relates to the one this program was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// They are the same.
    Current,
    /// The database has the first version, this program needs the second.
    Older(i64, i64),
    /// The database has the first version, this program knows only the second.
    Newer(i64, i64),
}

/// Reads a database URL.
pub fn options(url: &SecretString) -> Result<PgConnectOptions, Fault> {
    // The parse error may quote the URL, which may hold a password: it is dropped on purpose.
    PgConnectOptions::from_str(url.expose_secret())
        .map_err(|_| Fault::new("the database URL cannot be read; it looks like postgres://user@host/name"))
}

/// How long opening a connection for a command may take.
const CONNECT: Duration = Duration::from_secs(30);

/// What is committed is durable, whatever is set for the database or the login: an answer is sent after its event is
/// on disk. Later settings win, so these come last.
pub fn durable(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("synchronous_commit", "on")])
}

/// Opens one connection for a command, as the login itself and not as the server's role.
pub async fn open(options: &PgConnectOptions) -> Result<PgConnection, Fault> {
    // Notices such as "relation already exists, skipping" are of no use to an operator.
    let quiet = durable(options.clone()).options([("client_min_messages", "warning")]);
    match tokio::time::timeout(CONNECT, PgConnection::connect_with(&quiet)).await {
        Ok(opened) => opened.map_err(|error| connecting(options, &error)),
        Err(_) => Err(Fault::new(format!(
            "connecting to PostgreSQL at {} took longer than {} s: check the host in database_url, and the firewalls \
             on the way to it",
            place(options),
            CONNECT.as_secs()
        ))),
    }
}

/// Refuses a database that can lose what it has committed, or parts of it, in a crash of its machine.
pub async fn require_durable(connection: &mut PgConnection) -> Result<(), Fault> {
    let off: Option<String> = sqlx::query_scalar(
        "SELECT string_agg(name || ' = ' || setting, ' and ' ORDER BY name) FROM pg_settings
         WHERE name IN ('fsync', 'full_page_writes') AND setting <> 'on'",
    )
    .fetch_one(connection)
    .await?;
    match off {
        None => Ok(()),
        Some(settings) => Err(Fault::new(format!(
            "PostgreSQL runs with {settings}, so that a crash of its machine can lose tokens and events that were \
             answered: set fsync = on and full_page_writes = on in postgresql.conf, and reload it"
        ))),
    }
}

/// Opens a pool whose connections cannot hang for longer than `timeout` and act as the server's role.
pub fn pool(options: PgConnectOptions, connections: u32, timeout: Duration) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(timeout)
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute(SERVER_ROLE).await.map(drop) })
        })
        .connect_lazy_with(guarded(options, timeout))
}

/// Opens one connection of the same kind.
pub async fn connect(options: PgConnectOptions, timeout: Duration) -> Result<PgConnection, Fault> {
    let guarded = guarded(options, timeout);
    let mut connection = match tokio::time::timeout(timeout, PgConnection::connect_with(&guarded)).await {
        Ok(opened) => opened.map_err(|error| connecting(&guarded, &error))?,
        Err(_) => return Err(Fault::new("connecting to the database took too long")),
    };
    connection.execute(SERVER_ROLE).await?;
    Ok(connection)
}

fn guarded(options: PgConnectOptions, timeout: Duration) -> PgConnectOptions {
    let timeout = format!("{}ms", timeout.as_millis());
    durable(options)
        .application_name("actchain")
        .options([("statement_timeout", timeout.as_str()), ("lock_timeout", timeout.as_str())])
        // Whoever stops in the middle of a transaction may hold what all others wait for.
        .options([("idle_in_transaction_session_timeout", "60s")])
        // Statements are planned once for each connection, often on tables that are still empty, and the plan is kept
        // while they grow: PostgreSQL 15 plans sequential scans of empty and of small tables, and repeats them over a
        // million rows. Each query of the server has an index.
        .options([("enable_seqscan", "off"), ("jit", "off")])
}

/// Brings the schema up to date. Safe to run from several processes at once; later ones wait for the first.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), Fault> {
    let mut connection = open(options).await?;
    MIGRATIONS.run(&mut connection).await.context("migrating the database")?;
    connection.close().await.context("closing a connection")
}

/// Compares the schema with this program.
pub async fn schema(connection: &mut PgConnection) -> Result<Schema, Fault> {
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Schema::Older(0, known));
    }
    let found: i64 =
        sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
            .fetch_one(connection)
            .await?;
    Ok(match found.cmp(&known) {
        std::cmp::Ordering::Less => Schema::Older(found, known),
        std::cmp::Ordering::Equal => Schema::Current,
        std::cmp::Ordering::Greater => Schema::Newer(found, known),
    })
}

impl Schema {
    /// Refuses to work on a schema of another version, and says what to do.
    pub fn require_current(self) -> Result<(), Fault> {
        match self {
            Self::Current => Ok(()),
            Self::Older(found, known) => Err(Fault::new(format!(
                "the database schema is version {found}, older than this program's {known}: run `actchain migrate`"
            ))),
            Self::Newer(found, known) => Err(Fault::new(format!(
                "the database schema is version {found}, newer than this program's {known}: use a newer actchain"
            ))),
        }
    }
}
