//! What every command that needs the database stands on: the embedded cluster or an external one, and the master key.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::domain::vault::held::Vault;
use crate::platform::clock::Clock;
use crate::platform::config::Config;
use crate::platform::db;
use crate::platform::fault::{During, Fault};
use crate::platform::jose::SealingKey;
use crate::platform::local_postgres::{Cluster, Role, Settings};
use crate::platform::outbound::{Outbound, Reach};
use crate::platform::secret::MasterKey;

/// The database of the embedded cluster.
const DATABASE: &str = "actchain";
/// Commands may take longer than requests.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A database with a current schema.
pub(super) struct Foundation {
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) database: PgConnectOptions,
    pub(super) cluster: Option<Cluster>,
}

impl Foundation {
    /// Opens the database: the external one, whose schema must be current, or the embedded one, which is made, started
    /// and migrated as needed.
    pub(super) async fn lay(config: Config, role: Role) -> Result<Self, Fault> {
        let clock = Clock::System;
        if let Some(url) = &config.database_url {
            let database = db::options(url)?;
            // Without the server's role, which the migrations make.
            let mut plain =
                sqlx::PgConnection::connect_with(&database).await.during("connecting to the database")?;
            db::schema(&mut plain).await?.require_current()?;
            plain.close().await.during("closing a connection")?;
            return Ok(Self { database, config, clock, cluster: None });
        }
        let settings = Settings {
            data_dir: config.data_dir.clone(),
            bin_dir: config.postgres_bin_dir.clone(),
            path: config.path.clone(),
        };
        let cluster = Cluster::open(settings, role).await?;
        let database = cluster.connect_options(DATABASE);
        if let Err(fault) = db::migrate(&database).await {
            cluster.close().await?;
            return Err(fault);
        }
        Ok(Self { database, config, clock, cluster: Some(cluster) })
    }

    /// Connections for a command.
    pub(super) async fn pool(&self) -> Result<PgPool, Fault> {
        let pool = db::pool(self.database.clone(), 2, TIMEOUT);
        let mut connection = pool.acquire().await.during("connecting to the database")?;
        db::schema(&mut connection).await?.require_current()?;
        drop(connection);
        Ok(pool)
    }

    /// The master key: given, or kept in the data directory by the embedded default, which makes it at first.
    pub(super) fn master_key(&self) -> Result<MasterKey, Fault> {
        master_key(&self.config)
    }

    /// What seals under the master key, and still opens what the one before has sealed.
    pub(super) fn seal(&self) -> Result<SealingKey, Fault> {
        let previous = self.config.previous_master_key_file.as_deref().map(read_key).transpose()?;
        Ok(SealingKey::of(&self.master_key()?).with_previous(previous.as_ref()))
    }

    /// The vault, for a command.
    pub(super) fn vault(&self) -> Result<Vault, Fault> {
        let outbound = Outbound::new(Reach::of_issuer(&self.config.issuer()))?;
        Ok(Vault::new(self.seal()?, outbound))
    }

    /// Leaves the embedded cluster, which stops if nobody else uses it.
    pub(super) async fn close(self) -> Result<(), Fault> {
        match self.cluster {
            Some(cluster) => cluster.close().await,
            None => Ok(()),
        }
    }
}

/// SIGTERM and Ctrl-C, from the moment on that they are listened for.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on, neither ends the process by itself.
    pub(super) fn listen() -> Result<Self, Fault> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).during("waiting for signals")?,
            interrupt: signal(SignalKind::interrupt()).during("waiting for signals")?,
        })
    }

    /// Waits for either.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs a command's work on a foundation, and leaves it whatever came of it.
pub(super) async fn with<T, F>(config: Config, work: F) -> Result<T, Fault>
where
    F: AsyncFnOnce(&Foundation, &PgPool) -> Result<T, Fault>,
{
    // A command that is interrupted leaves in order, too: it may be the only one that keeps the cluster running.
    let mut signals = Signals::listen()?;
    let foundation = Foundation::lay(config, Role::Command).await?;
    let done = match foundation.pool().await {
        Ok(pool) => {
            let done = tokio::select! {
                done = work(&foundation, &pool) => done,
                () = signals.stop() => Err(Fault::new("interrupted")),
            };
            pool.close().await;
            done
        }
        Err(fault) => Err(fault),
    };
    foundation.close().await?;
    done
}

/// `actchain migrate`.
pub(super) async fn migrate(config: &Config) -> Result<ExitCode, Fault> {
    let Some(url) = &config.database_url else {
        println!("The embedded database is migrated whenever it is opened; there is nothing to do.");
        return Ok(ExitCode::SUCCESS);
    };
    db::migrate(&db::options(url)?).await?;
    println!("The database schema is current.");
    Ok(ExitCode::SUCCESS)
}

fn master_key(config: &Config) -> Result<MasterKey, Fault> {
    if let Some(text) = &config.master_key {
        return MasterKey::parse(text);
    }
    if let Some(path) = &config.master_key_file {
        return read_key(path);
    }
    if config.database_url.is_some() {
        return Err(Fault::new(
            "an external database needs a master key: set ACTCHAIN_MASTER_KEY_FILE (or ACTCHAIN_MASTER_KEY) to 32 \
             random bytes in base64url",
        ));
    }
    let path = config.own_master_key_file();
    if !path.exists() {
        write_key(&path)?;
    }
    read_key(&path)
}

fn read_key(path: &Path) -> Result<MasterKey, Fault> {
    let what = format!("reading the master key from {}", path.display());
    let text = std::fs::read_to_string(path).during(&what)?;
    MasterKey::parse(&SecretString::from(text)).during(&what)
}

/// Written aside and then linked into place, so that nobody ever reads half a key, and of two that make one at the same
/// instant both use the first.
fn write_key(path: &Path) -> Result<(), Fault> {
    let what = format!("writing the master key to {}", path.display());
    let aside = path.with_extension(format!("key.{}", std::process::id()));
    let key = MasterKey::generate()?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .during(&what)?;
    file.write_all(key.to_text().expose_secret().as_bytes()).during(&what)?;
    file.sync_all().during(&what)?;
    let linked = std::fs::hard_link(&aside, path);
    std::fs::remove_file(&aside).during(&what)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error).during(&what),
        _ => Ok(()),
    }
}
