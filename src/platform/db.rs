//! PostgreSQL: the pool, the schema and its version. Other modules use a `PgConnection`.

use std::str::FromStr as _;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, Postgres, Transaction};

use super::fault::{Context, Fault};
use super::postgres_errors::{self, place};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Age above which a connection is closed instead of being used again.
const MAX_AGE: Duration = Duration::from_secs(1_800);
/// The role of every connection of a running server; it must not change or delete events of the log.
const SERVER_ROLE: &str = "SET ROLE actchain_server";

/// The migrations of the database, compared with those of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    Current,
    /// Version of the database, and the newer version that this program needs.
    Older(i64, i64),
    /// Version of the database, and the older version that this program needs.
    Newer(i64, i64),
    /// The first migration of the database that is not this program's.
    Unrelated(i64),
}

/// Parses a database URL.
pub fn options(url: &SecretString) -> Result<PgConnectOptions, Fault> {
    // The parse error is dropped: it may quote the URL, which may contain a password.
    PgConnectOptions::from_str(url.expose_secret())
        .map_err(|_| Fault::new("the database URL cannot be read; its form is postgres://user@host/name"))
}

/// Time limit for opening a connection for a command.
const CONNECT: Duration = Duration::from_secs(30);

/// Makes commits durable, whatever the database or the login sets: a response is sent after its event is on disk.
/// Later options override earlier ones, so these are appended.
pub fn durable(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("synchronous_commit", "on")])
}

/// An error for a connection that could not be opened. Never contains a password.
pub fn connecting(options: &PgConnectOptions, error: &sqlx::Error) -> Fault {
    let (place, user) = (place(options), options.get_username());
    let hint = postgres_errors::hint(error).map(|hint| format!("; {hint}")).unwrap_or_default();
    Fault::new(format!(
        "connecting to PostgreSQL at {place} as {user}: {}{hint}",
        postgres_errors::text(error)
    ))
}

/// Opens one connection for a command, as the login and not as the server's role.
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

/// Refuses a database that can lose committed data in a crash of its machine.
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

/// Opens a pool whose connections act as the server's role. `timeout` limits the wait for a connection, the wait for a
/// lock, and each statement.
pub fn pool(options: PgConnectOptions, connections: u32, timeout: Duration) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(timeout)
        .test_before_acquire(false)
        // Without times of sqlx's own there is no maintenance task. That task counts idle connections with an integer that
        // can pass below zero while a connection is being returned, and then loops for ever.
        .idle_timeout(None)
        .max_lifetime(None)
        .before_acquire(|_, connection| Box::pin(async move { Ok(connection.age < MAX_AGE) }))
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute(SERVER_ROLE).await.map(drop) })
        })
        .connect_lazy_with(guarded(options, timeout))
}

/// Opens one connection with the options of [`pool`].
pub async fn connect(options: PgConnectOptions, timeout: Duration) -> Result<PgConnection, Fault> {
    let guarded = guarded(options, timeout);
    let mut connection = match tokio::time::timeout(timeout, PgConnection::connect_with(&guarded)).await {
        Ok(opened) => opened.map_err(|error| connecting(&guarded, &error))?,
        Err(_) => return Err(Fault::new("connecting to the database took too long")),
    };
    connection.execute(SERVER_ROLE).await?;
    Ok(connection)
}

/// Begins a transaction with a connection of the pool. A `BEGIN` that is dropped before its answer would return its
/// connection to the pool inside a transaction that sqlx does not know of, with its locks. So it runs to its end, and
/// the transaction of a dropped caller is rolled back.
#[expect(clippy::disallowed_methods, reason = "the only place that begins transactions of the pool")]
pub async fn begin(pool: &PgPool, statement: &'static str) -> Result<Transaction<'static, Postgres>, Fault> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(statement).await });
    begun.await.context("beginning a transaction")?.context("beginning a transaction")
}

fn guarded(options: PgConnectOptions, timeout: Duration) -> PgConnectOptions {
    let timeout = format!("{}ms", timeout.as_millis());
    durable(options)
        .application_name("actchain")
        .options([("statement_timeout", timeout.as_str()), ("lock_timeout", timeout.as_str())])
        // An idle transaction may have locks that all other transactions wait for.
        .options([("idle_in_transaction_session_timeout", "60s")])
        // Each connection plans a statement once, often on empty tables, and keeps the plan while they grow.
        // PostgreSQL 15 plans sequential scans of empty and small tables, and would repeat them over a million rows.
        // Each query of the server has an index.
        .options([("enable_seqscan", "off"), ("jit", "off")])
}

/// Brings the schema up to date. Several processes may do so at once: later ones wait for the first. `place` names the
/// database in messages.
pub async fn migrate(options: &PgConnectOptions, place: &str) -> Result<(), Fault> {
    let mut connection = open(options).await?;
    schema(&mut connection).await?.require_migratable(place)?;
    MIGRATIONS.run(&mut connection).await.context("migrating the database")?;
    connection.close().await.context("closing a connection")
}

/// The version of the last migration of this program.
pub fn own_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// The version of PostgreSQL.
pub async fn server_version(connection: &mut PgConnection) -> Result<String, Fault> {
    let version = sqlx::query_scalar("SELECT current_setting('server_version')");
    Ok(version.fetch_one(connection).await?)
}

/// Compares the applied migrations with this program's, by version and checksum: the shorter list must be the beginning
/// of the longer one.
pub async fn schema(connection: &mut PgConnection) -> Result<Schema, Fault> {
    let known = own_version();
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Schema::Older(0, known));
    }
    let applied: Vec<(i64, Vec<u8>, bool)> =
        sqlx::query_as("SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version")
            .fetch_all(connection)
            .await?;
    // A migration and its row are committed together: no migration of this program can have failed in part.
    let differs = MIGRATIONS.iter().zip(&applied).find(|(own, (version, checksum, success))| {
        own.version != *version || *own.checksum != **checksum || !success
    });
    if let Some((_, (version, ..))) = differs {
        return Ok(Schema::Unrelated(*version));
    }
    let found = applied.last().map(|(version, ..)| *version).unwrap_or_default();
    Ok(match found.cmp(&known) {
        std::cmp::Ordering::Less => Schema::Older(found, known),
        std::cmp::Ordering::Equal => Schema::Current,
        std::cmp::Ordering::Greater => Schema::Newer(found, known),
    })
}

impl Schema {
    /// Refuses a schema that this program cannot use, and says what to do. `place` names the database in the message.
    pub fn require_current(self, place: &str) -> Result<(), Fault> {
        if let Self::Older(found, known) = self {
            return Err(Fault::new(format!(
                "the database schema is version {found}, older than this program's {known}: run `actchain migrate`"
            )));
        }
        self.require_migratable(place)
    }

    /// Refuses a schema that this program's migrations cannot bring up to date.
    fn require_migratable(self, place: &str) -> Result<(), Fault> {
        match self {
            Self::Current | Self::Older(..) => Ok(()),
            Self::Newer(found, known) => Err(Fault::new(format!(
                "the database schema is version {found}, newer than this program's {known}: use a newer actchain"
            ))),
            Self::Unrelated(version) => Err(Fault::new(format!(
                "{place} was made by an earlier development version of actchain or by another program (its migration \
                 {version} is not this program's), and its data cannot be carried over: make a new database or data \
                 directory"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_where_and_what_to_do_and_never_the_password() {
        let options: PgConnectOptions = "postgres://me:CANARY@db.example.com:6543/act".parse().unwrap();
        let refused = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(
            connecting(&options, &refused).to_string(),
            "connecting to PostgreSQL at db.example.com:6543/act as me: connection refused; PostgreSQL does not listen \
             there: start it, or correct host and port in database_url"
        );
    }
}
