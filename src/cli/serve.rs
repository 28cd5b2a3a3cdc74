//! `actchain serve`: listens; one line when ready; SIGTERM drains and exits 0.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::foundation::Foundation;
use crate::app::App;
use crate::flows::keys;
use crate::http::Listening;
use crate::jobs;
use crate::platform::config::Config;
use crate::platform::fault::{During, Fault};
use crate::platform::jose::SealingKey;
use crate::platform::local_postgres::Role;
use crate::platform::telemetry;

/// How often the embedded cluster is looked at.
const WATCH: Duration = Duration::from_millis(500);

/// Runs the server.
pub(super) async fn run(mut config: Config) -> Result<ExitCode, Fault> {
    telemetry::start_logs(&config.log)?;
    // Before anything that takes time: an address in use is said at once. Port 0 becomes the one that was given.
    let listener = Listening::bind(config.listen)?;
    config.listen = listener.local_addr().during("listening")?;
    let foundation = Foundation::lay(config, Role::Server).await?;
    let served = serve(&foundation, listener).await;
    let closed = foundation.close().await;
    served.and(closed).map(|()| ExitCode::SUCCESS)
}

async fn serve(foundation: &Foundation, listener: std::net::TcpListener) -> Result<(), Fault> {
    let config = foundation.config.clone();
    let master = foundation.master_key()?;
    let pool = foundation.pool().await?;
    keys::ensure(&pool, &SealingKey::of(&master), &config.keys, foundation.clock.now()).await?;
    pool.close().await;
    let database = foundation.database.clone();
    let (app, writer) = App::build(config, foundation.clock.clone(), database, &master).await?;
    let listening = Listening::start(&app, listener)?;
    let (address, handle) = (listening.address, listening.handle());
    let running = tokio::spawn(listening.run());
    let jobs = jobs::start(&app);
    println!("actchain {} serves {} on http://{address}", env!("CARGO_PKG_VERSION"), app.issuer);
    tracing::info!(issuer = app.issuer, %address, "ready");

    stop_signal(foundation).await?;
    tracing::info!("stopping: finishing what is under way");
    handle.stop(true).await;
    for job in jobs {
        job.abort();
    }
    running.await.during("stopping")??;
    // The last word on what happened in this life; without it the next checkpoint vouches for the same events.
    if let Err(fault) = jobs::checkpoint::run_once(&app, app.clock.now()).await {
        tracing::warn!(error = %fault, "no checkpoint at the end");
    }
    app.pool.close().await;
    drop_last(app);
    tokio::time::timeout(Duration::from_secs(5), writer)
        .await
        .during("recording what waited")?
        .during("stopping")?;
    tracing::info!("stopped");
    Ok(())
}

/// Lets go of the server's parts; with the last handle of the ledger, the ledger ends.
fn drop_last(app: Arc<App>) {
    drop(app);
}

/// Waits for SIGTERM or Ctrl-C, and keeps the embedded cluster running meanwhile.
async fn stop_signal(foundation: &Foundation) -> Result<(), Fault> {
    let mut terminate = signal(SignalKind::terminate()).during("waiting for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).during("waiting for signals")?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = tokio::time::sleep(WATCH) => {
                let Some(cluster) = &foundation.cluster else { continue };
                if let Err(fault) = cluster.ensure_running().await {
                    tracing::error!(error = %fault, "the embedded database is down");
                }
            }
        }
    }
}
