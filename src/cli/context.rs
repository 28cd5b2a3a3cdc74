//! What every command that uses the database needs: the embedded cluster or an external database, and the master key.

use std::process::ExitCode;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{Connection as _, PgConnection};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{master_key, stdio};
use crate::domain::audit::RequestOrigin;
use crate::domain::capability::CapabilityLevels;
use crate::domain::row_mac::RowMac;
use crate::domain::server_info;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::clock::Clock;
use crate::platform::config::Config;
use crate::platform::db;
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::Outbound;
use crate::platform::seal::SealingKey;
use crate::platform::secret::MasterKey;
use crate::platform::{postgres_errors, private_file};
use crate::services::caller::Caller;
use crate::services::keys;
use crate::services::request_context::RequestContext;
use actchain_embedded_postgres::{Cluster, PostgresUser, Settings};

/// The name of the database in the embedded cluster.
pub(super) const DATABASE: &str = "actchain";
/// The statement timeout of commands; longer than that of requests.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How a command uses the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Reports on the database in any state.
    Inspect,
    Read,
    /// May change the database: prints first which database it is.
    Change,
}

/// What happens if there is no data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    /// The command fails, and nothing is created.
    Refuse,
    /// Creates an embedded database and a master key.
    Make,
}

/// How a command opens the database.
#[derive(Debug)]
pub(super) struct Opening {
    config: Config,
    access: Access,
    missing: IfMissing,
}

impl Opening {
    /// Combines a configuration with what its command does.
    pub(super) fn new(config: Config, access: Access, missing: IfMissing) -> Result<Self, Fault> {
        if missing == IfMissing::Make && config.database_url.is_some() {
            return Err(Fault::new(
                "--init makes a data directory, but database_url names an external database: prepare that with \
                 `actchain migrate`",
            ));
        }
        Ok(Self { config, access, missing })
    }

    /// The configuration as loaded: the issuer of the database is not read yet.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Fails if the data directory is missing.
    pub(super) fn require_present(&self) -> Result<(), Fault> {
        require_present(&self.config, self.missing)
    }
}

/// A database with a current schema.
pub(super) struct CommandContext {
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) database: PgConnectOptions,
    pub(super) cluster: Option<Cluster>,
}

impl CommandContext {
    /// Opens the database: the external database, whose schema must be current, or the embedded database. The embedded
    /// database is started and migrated as needed, and created if `missing` allows that.
    pub(super) async fn open(config: Config, role: PostgresUser, missing: IfMissing) -> Result<Self, Fault> {
        let clock = Clock::System;
        if let Some(url) = &config.database_url {
            let database = db::durable(db::options(url)?);
            // Without the server's role, which the migrations create.
            let mut plain = db::open(&database).await?;
            db::require_durable(&mut plain).await?;
            db::schema(&mut plain).await?.require_current(&external(&database))?;
            plain.close().await.context("closing a connection")?;
            return Ok(Self { database, config, clock, cluster: None });
        }
        require_present(&config, missing)?;
        master_key::settle_own_key(&config)?;
        let cluster = Cluster::open(settings(&config), role).await?;
        let database = db::durable(cluster.connect_options(DATABASE));
        if let Err(fault) = db::migrate(&database, &embedded(&config)).await {
            cluster.close().await?;
            return Err(fault);
        }
        Ok(Self { database, config, clock, cluster: Some(cluster) })
    }

    /// A pool of at most two connections for a command.
    pub(super) async fn pool(&self) -> Result<PgPool, Fault> {
        let pool = db::pool(self.database.clone(), 2, TIMEOUT);
        let connection = pool.acquire().await;
        let mut connection = connection.map_err(|error| db::connecting(&self.database, &error))?;
        db::schema(&mut connection).await?.require_current(&self.place())?;
        drop(connection);
        Ok(pool)
    }

    /// One more connection with the options of [`Self::pool`].
    pub(super) async fn connect(&self) -> Result<PgConnection, Fault> {
        db::connect(self.database.clone(), TIMEOUT).await
    }

    /// Takes over the issuer under which the database is served, or fails if another issuer is configured. Before a
    /// change, prints which database will be changed.
    async fn agree(&mut self, pool: &PgPool, access: Access) -> Result<(), Fault> {
        let served = server_info::find(&mut *pool.acquire().await?).await?;
        if let Some(served) = served {
            match &self.config.issuer {
                None => self.config.issuer = Some(served.issuer),
                Some(own) if *own != served.issuer && access != Access::Inspect => {
                    return Err(Fault::new(format!(
                        "the issuer is configured as {own}, but {} is served as {} (on {}, by process {}): set issuer \
                         to the latter, or leave it out; to change it, start the server under the new one first",
                        self.place(),
                        served.issuer,
                        served.listen,
                        served.pid
                    )));
                }
                Some(_) => {}
            }
        }
        if access == Access::Change {
            eprintln!("actchain: issuer {}, {}", self.config.issuer(), self.place());
        }
        Ok(())
    }

    /// Names the database in messages.
    pub(super) fn place(&self) -> String {
        match self.cluster {
            Some(_) => embedded(&self.config),
            None => external(&self.database),
        }
    }

    /// The configured master key, or the key in the data directory of the embedded default.
    pub(super) fn master_key(&self) -> Result<MasterKey, Fault> {
        master_key::master_key(&self.config)
    }

    /// Seals with the master key, and opens what the master key or the previous key has sealed.
    pub(super) fn seal(&self) -> Result<SealingKey, Fault> {
        let previous =
            self.config.previous_master_key_file.as_deref().map(master_key::read_key).transpose()?;
        Ok(SealingKey::of(&self.master_key()?).with_previous(previous.as_ref()))
    }

    /// Computes and checks the MACs of rows, for a command.
    pub(super) async fn rows(&self, pool: &PgPool) -> Result<RowMac, Fault> {
        keys::open_row_mac(pool, &self.seal()?, self.clock.now()).await
    }

    /// The vault, for a command.
    pub(super) fn vault(&self) -> Result<CredentialCache, Fault> {
        let outbound = Outbound::configured(&self.config, self.clock.now())?;
        Ok(CredentialCache::new(self.seal()?, outbound))
    }

    /// Releases the embedded cluster, which stops if no other process uses it.
    pub(super) async fn close(self) -> Result<(), Fault> {
        match self.cluster {
            Some(cluster) => Ok(cluster.close().await?),
            None => Ok(()),
        }
    }
}

/// SIGTERM and Ctrl-C, from [`Signals::listen`] on.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on, neither signal ends the process by itself.
    pub(super) fn listen() -> Result<Self, Fault> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("waiting for signals")?,
            interrupt: signal(SignalKind::interrupt()).context("waiting for signals")?,
        })
    }

    /// Waits for SIGTERM or Ctrl-C.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs a command with an open database, and always releases the database at the end.
pub(super) async fn with<T, F>(opening: Opening, work: F) -> Result<T, Fault>
where
    F: AsyncFnOnce(&CommandContext, &PgPool) -> Result<T, Fault>,
{
    // An interrupted command closes in order, too: it can be the last process that uses the cluster.
    let mut signals = Signals::listen()?;
    let Opening { config, access, missing } = opening;
    let mut context = CommandContext::open(config, PostgresUser::Command, missing).await?;
    let done = match context.pool().await {
        Ok(pool) => {
            let agreed = context.agree(&pool, access).await;
            let work = async {
                agreed?;
                work(&context, &pool).await
            };
            let done = tokio::select! {
                done = work => done,
                () = signals.stop() => Err(Fault::new("interrupted")),
                cut = stdio::broken() => Err(cut),
            };
            pool.close().await;
            done
        }
        Err(fault) => Err(fault),
    };
    context.close().await?;
    done
}

/// Runs a command as a request of an operator to the management API.
pub(super) async fn as_operator<T, F>(opening: Opening, work: F) -> Result<T, Fault>
where
    F: AsyncFnOnce(&RequestContext<'_>, &CommandContext) -> Result<T, Fault>,
{
    with(opening, async |context, pool| {
        let ctx = RequestContext {
            caller: Caller::Operator,
            now: context.clock.now(),
            origin: RequestOrigin::default(),
            idempotency_key: None,
            issuer: &context.config.issuer(),
            config: &context.config,
            capability_levels: &CapabilityLevels::new(&context.config.delegations.capabilities)?,
            pool,
            rows: &context.rows(pool).await?,
        };
        work(&ctx, context).await
    })
    .await
}

pub(super) async fn migrate(config: &Config) -> Result<ExitCode, Fault> {
    let Some(url) = &config.database_url else {
        println!("The embedded database is migrated whenever it is opened; there is nothing to do.");
        return Ok(ExitCode::SUCCESS);
    };
    let database = db::options(url)?;
    let place = external(&database);
    eprintln!("actchain: {place}");
    db::migrate(&database, &place).await?;
    println!("The database schema is current.");
    Ok(ExitCode::SUCCESS)
}

/// Names the embedded database in messages.
fn embedded(config: &Config) -> String {
    format!("the database in {}", private_file::shown(&config.data_dir))
}

/// Names an external database in messages.
fn external(database: &PgConnectOptions) -> String {
    format!("the database at {}", postgres_errors::place(database))
}

/// The data directory of the embedded cluster, and the PostgreSQL programs that run it.
pub(super) fn settings(config: &Config) -> Settings {
    Settings {
        data_dir: config.data_dir.clone(),
        bin_dir: config.postgres_bin_dir.clone(),
        path: config.path.clone(),
    }
}

fn require_present(config: &Config, missing: IfMissing) -> Result<(), Fault> {
    if missing == IfMissing::Make || config.database_url.is_some() || Cluster::is_made(&config.data_dir)? {
        return Ok(());
    }
    Err(Fault::new(format!(
        "no data directory at {}: name the one of the server with ACTCHAIN_DATA_DIR or --config, or run this where the \
         server was started; `actchain serve` makes a new one, and so does --init",
        private_file::shown(&config.data_dir)
    )))
}
