//! `actchain serve`: listens; one line when ready; SIGTERM drains and exits 0.

use std::process::ExitCode;
use std::time::Duration;

use super::foundation::{Foundation, IfMissing, Signals};
use super::out;
use crate::app::App;
use crate::domain::server_info::ServerInfo;
use crate::flows::register_server::register_server;
use crate::flows::{audit, keys};
use crate::http::Listening;
use crate::jobs;
use crate::platform::config::Config;
use crate::platform::fault::{During, Fault};
use crate::platform::local_postgres::Role;
use crate::platform::{process, telemetry};

/// How often the embedded cluster is looked at.
const WATCH: Duration = Duration::from_millis(500);
/// How long what was begun at a provider is waited for when the server stops: all attempts of one refresh.
const LAST: Duration = Duration::from_secs(40);

/// Runs the server.
pub(super) async fn run(mut config: Config) -> Result<ExitCode, Fault> {
    telemetry::start_logs(&config.log)?;
    process::raise_descriptors()?;
    // Before anything that takes time: an address in use is said at once. Port 0 becomes the one that was given.
    let listener = Listening::bind(config.listen).map_err(|fault| {
        Fault::new(format!("{fault}; choose another address with listen or ACTCHAIN_LISTEN"))
    })?;
    config.listen = listener.local_addr().during("listening")?;
    // Before there is anything to undo: a signal during the start ends it in order, too.
    let mut signals = Signals::listen()?;
    let foundation = Foundation::lay(config, Role::Server, IfMissing::Make).await?;
    let served = serve(&foundation, listener, &mut signals).await;
    let closed = foundation.close().await;
    served.and(closed).map(|()| ExitCode::SUCCESS)
}

async fn serve(
    foundation: &Foundation,
    listener: std::net::TcpListener,
    signals: &mut Signals,
) -> Result<(), Fault> {
    let config = foundation.config.clone();
    let master = foundation.master_key()?;
    let pool = foundation.pool().await?;
    let seal = foundation.seal()?;
    keys::ensure(&pool, &seal, &config.keys, foundation.clock.now()).await?;
    pool.close().await;
    let database = foundation.database.clone();
    let (app, writer) = App::build(config, foundation.clock.clone(), database, (&master, seal)).await?;
    let listening = Listening::start(&app, listener)?;
    let (address, handle) = (listening.address, listening.handle());
    let mut running = tokio::spawn(listening.run());
    let jobs = jobs::start(&app);
    register_server(
        &app.pool,
        &ServerInfo {
            issuer: app.issuer.clone(),
            listen: address.to_string(),
            pid: std::process::id().into(),
            started_at: app.clock.now(),
        },
    )
    .await?;
    let version = env!("CARGO_PKG_VERSION");
    out::print_if_read(format_args!("actchain {version} serves {} on http://{address}", app.issuer));
    tracing::info!(issuer = app.issuer, %address, "ready");

    tokio::select! {
        () = stop_signal(foundation, signals) => {}
        ended = &mut running => {
            ended.during("serving")??;
            return Err(Fault::new("the HTTP server ended by itself"));
        }
    }
    tracing::info!("stopping: finishing what is under way");
    app.follow.close();
    handle.stop(true).await;
    for job in jobs {
        job.abort();
    }
    running.await.during("stopping")??;
    if tokio::time::timeout(LAST, app.all_ended()).await.is_err() {
        tracing::warn!("something is still under way and is given up");
    }
    // The last word on what happened in this life; without it the next checkpoint vouches for the same events. Over
    // connections of its own: those of the pool may belong to HTTP threads that have ended.
    let pool = foundation.pool().await?;
    if let Err(fault) = audit::checkpoint(&pool, &app.seal, &app.issuer, app.clock.now()).await {
        tracing::warn!(error = %fault, "no checkpoint at the end");
    }
    pool.close().await;
    app.pool.close().await;
    // With the last handle of the ledger, the ledger ends.
    drop(app);
    tokio::time::timeout(Duration::from_secs(5), writer)
        .await
        .during("recording what waited")?
        .during("stopping")?;
    tracing::info!("stopped");
    Ok(())
}

/// Waits for SIGTERM or Ctrl-C, and keeps the embedded cluster running meanwhile.
async fn stop_signal(foundation: &Foundation, signals: &mut Signals) {
    loop {
        tokio::select! {
            () = signals.stop() => return,
            () = tokio::time::sleep(WATCH) => {
                let Some(cluster) = &foundation.cluster else { continue };
                if let Err(fault) = cluster.ensure_running().await {
                    tracing::error!(error = %fault, "the embedded database is down");
                }
            }
        }
    }
}
