//! `actchain serve`: listens, prints one line when ready; SIGTERM drains requests and exits 0.

use std::process::ExitCode;
use std::time::Duration;

use super::context::{CommandContext, IfMissing, Signals};
use super::stdio;
use crate::app::App;
use crate::domain::server_info::ServerInfo;
use crate::http::HttpServer;
use crate::jobs;
use crate::platform::config::Config;
use crate::platform::fault::{Context, Fault};
use crate::platform::{process, telemetry};
use crate::services::register_server::register_server;
use crate::services::{audit, keys};
use actchain_embedded_postgres::PostgresUser;

/// How often the embedded cluster is checked.
const WATCH: Duration = Duration::from_millis(500);
/// How long a stopping server waits for calls to providers: all attempts of one refresh.
const LAST: Duration = Duration::from_secs(40);

pub(super) async fn run(mut config: Config) -> Result<ExitCode, Fault> {
    telemetry::start_logs(&config.log)?;
    process::raise_descriptors()?;
    // Before anything slow: an address in use is reported at once. Port 0 becomes the port that the system assigned.
    let listener = HttpServer::bind(config.listen).map_err(|fault| {
        Fault::new(format!("{fault}; choose another address with listen or ACTCHAIN_LISTEN"))
    })?;
    config.listen = listener.local_addr().context("listening")?;
    // Before there is anything to undo: a signal during the start ends the server in order, too.
    let mut signals = Signals::listen()?;
    let context = CommandContext::open(config, PostgresUser::Server, IfMissing::Make).await?;
    let served = serve(&context, listener, &mut signals).await;
    let closed = context.close().await;
    served.and(closed).map(|()| ExitCode::SUCCESS)
}

async fn serve(
    context: &CommandContext,
    listener: std::net::TcpListener,
    signals: &mut Signals,
) -> Result<(), Fault> {
    let config = context.config.clone();
    let master = context.master_key()?;
    let pool = context.pool().await?;
    let seal = context.seal()?;
    keys::ensure(&pool, &seal, &config.keys, context.clock.now()).await?;
    pool.close().await;
    let database = context.database.clone();
    let (app, writer) = App::build(config, context.clock.clone(), database, &master, seal).await?;
    // Before the first event: the log names clients of this issuer by their ids, and users of all others by pseudonyms.
    register_server(
        &app.pool,
        &ServerInfo {
            issuer: app.issuer.clone(),
            listen: app.config.listen.to_string(),
            pid: std::process::id().into(),
            started_at: app.clock.now(),
        },
    )
    .await?;
    let listening = HttpServer::start(&app, listener)?;
    let (address, handle) = (listening.address, listening.handle());
    let mut running = tokio::spawn(listening.run());
    let jobs = jobs::start(&app);
    let version = env!("CARGO_PKG_VERSION");
    stdio::print_if_read(format_args!("actchain {version} serves {} on http://{address}", app.issuer));
    tracing::info!(issuer = app.issuer, %address, "ready");

    tokio::select! {
        () = stop_signal(context, signals) => {}
        ended = &mut running => {
            ended.context("serving")??;
            return Err(Fault::new("the HTTP server ended by itself"));
        }
    }
    tracing::info!("stopping: finishing what is under way");
    app.log_watcher.close();
    handle.stop(true).await;
    for job in jobs {
        job.abort();
    }
    running.await.context("stopping")??;
    if tokio::time::timeout(LAST, app.detached.drain()).await.is_err() {
        tracing::warn!("something is still under way and is abandoned");
    }
    // Signs a last checkpoint; without it, the next checkpoint covers the same events. It uses connections of its own:
    // those of the pool can belong to HTTP threads that have ended.
    let pool = context.pool().await?;
    if let Err(fault) = audit::checkpoint(&pool, &app.seal, &app.issuer, app.clock.now()).await {
        tracing::warn!(error = %fault, "no checkpoint at the end");
    }
    pool.close().await;
    app.pool.close().await;
    // The ledger ends when its last handle is dropped.
    drop(app);
    tokio::time::timeout(Duration::from_secs(5), writer)
        .await
        .context("recording what waited")?
        .context("stopping")?;
    tracing::info!("stopped");
    Ok(())
}

/// Waits for SIGTERM or Ctrl-C, and restarts the embedded cluster if it stops meanwhile.
async fn stop_signal(context: &CommandContext, signals: &mut Signals) {
    loop {
        tokio::select! {
            () = signals.stop() => return,
            () = tokio::time::sleep(WATCH) => {
                let Some(cluster) = &context.cluster else { continue };
                if let Err(fault) = cluster.ensure_running().await {
                    tracing::error!(error = %fault, "the embedded database is down");
                }
            }
        }
    }
}
