//! `actchain backup|restore`: writes the embedded database to one file, and restores the file to a new data directory.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sqlx::{Connection as _, Executor as _, PgConnection};

use super::context::{self, DATABASE, Opening};
use super::master_key;
use crate::domain::{key, server_info};
use crate::platform::config::Config;
use crate::platform::db;
use crate::platform::fault::{Context, Fault};
use crate::platform::private_file;
use crate::platform::seal::SealingKey;
use crate::services::audit;
use actchain_embedded_postgres::{Cluster, PostgresUser};

/// The role that migrations expect; it belongs to the cluster, so a dump of the database does not contain it.
const ROLE: &str = "CREATE ROLE actchain_server NOLOGIN";
const EXTERNAL: &str = "database_url names an external database: back it up and restore it with PostgreSQL's pg_dump \
                        and pg_restore; docs/how-to/operating.md, Backups, has the commands";

#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// The file to write; an existing file is never overwritten
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// A file that `actchain backup` has written
    file: PathBuf,
}

pub(super) async fn backup(config: Opening, args: &Backup) -> Result<ExitCode, Fault> {
    let key = master_key::key_file(config.config());
    context::with(config, async |context, _| {
        let cluster = context.cluster.as_ref().ok_or_else(|| Fault::new(EXTERNAL))?;
        let what = format!("writing {}", args.file.display());
        if args.file.try_exists().context(&what)? {
            return Err(Fault::new(format!("{} is there already: name another file", args.file.display())));
        }
        let aside = aside(&args.file);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&aside).context(&what)?;
        let written = async {
            cluster.dump(DATABASE, file.try_clone().context(&what)?).await?;
            file.sync_all().context(&what)?;
            // Fails if the file was created meanwhile.
            std::fs::hard_link(&aside, &args.file).context(&what)
        };
        let written = written.await;
        std::fs::remove_file(&aside).context(&what)?;
        written?;
        println!("{} is in {}", context.place(), args.file.display());
        println!(
            "it is of no use without the master key, which is not in it: keep a copy of {key} elsewhere"
        );
        Ok(ExitCode::SUCCESS)
    })
    .await
}

fn aside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    PathBuf::from(name)
}

/// All or nothing: an incomplete restore leaves no database behind.
pub(super) async fn restore(config: Config, args: &Restore) -> Result<ExitCode, Fault> {
    if config.database_url.is_some() {
        return Err(Fault::new(EXTERNAL));
    }
    let what = format!("reading {}", args.file.display());
    let file = File::open(&args.file).context(&what)?;
    let place = private_file::shown(&config.data_dir);
    if Cluster::is_made(&config.data_dir)? {
        return Err(Fault::new(format!(
            "there is a database in {place}: restore into a new data directory, named with ACTCHAIN_DATA_DIR or data_dir"
        )));
    }
    let master = master_key::master_key(&config).map_err(|fault| {
        Fault::new(format!(
            "{fault}; a restored database needs the master key that it was used with: put its copy at {}, or name the \
             file with ACTCHAIN_MASTER_KEY_FILE",
            master_key::key_file(&config)
        ))
    })?;
    let mut signals = context::Signals::listen()?;
    let cluster = Cluster::open(context::settings(&config), PostgresUser::Server).await?;
    let seal = SealingKey::of(&master);
    let restored = tokio::select! {
        restored = fill(&cluster, file, &seal) => restored,
        () = signals.stop() => Err(Fault::new("interrupted")),
    };
    let restored = match restored {
        Ok(restored) => restored,
        Err(fault) => {
            cluster.destroy().await?;
            return Err(Fault::new(format!("{}: nothing was restored: {fault}", args.file.display())));
        }
    };
    cluster.close().await?;
    println!(
        "restored into {place}: {} events, the log is whole, the master key opens all keys",
        restored.events
    );
    if let Some(issuer) = restored.issuer {
        println!("it was served as {issuer}: serve it under the same issuer");
    }
    Ok(ExitCode::SUCCESS)
}

struct Restored {
    events: u64,
    issuer: Option<String>,
}

async fn fill(cluster: &Cluster, file: File, seal: &SealingKey) -> Result<Restored, Fault> {
    let options = cluster.connect_options(DATABASE);
    let mut connection = db::open(&options).await?;
    connection.execute(ROLE).await?;
    cluster.load(DATABASE, file).await?;
    connection.close().await.context("closing a connection")?;
    // The backup can come from an older version.
    db::migrate(&options, "the database in the backup").await?;
    let mut connection = db::open(&options).await?;
    let restored = examine(&mut connection, seal).await;
    connection.close().await.context("closing a connection")?;
    restored
}

async fn examine(connection: &mut PgConnection, seal: &SealingKey) -> Result<Restored, Fault> {
    for key in key::store::list(connection).await?.iter().filter(|key| key.state() == key::KeyState::Active) {
        key.open(seal)?;
    }
    let report = audit::verify_database(connection, &audit::TrustAnchors::default()).await?;
    if let Some(integrity_error) = report.integrity_error {
        return Err(Fault::new(format!("the log in the backup is broken at event {}", integrity_error.seq)));
    }
    let server = server_info::find(connection).await?;
    Ok(Restored { events: report.events, issuer: server.map(|server| server.issuer) })
}
