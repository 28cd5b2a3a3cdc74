//! ENTRY POINT: background jobs of a server, each as `run_once(app, now)`. Correctness never depends on a job.
pub mod audit_index;
pub mod audit_verification;
pub mod checkpoint;
pub mod discovery;
pub mod expiry;
pub mod key_rotation;
pub mod refresh;
pub mod registrars;
pub mod sinks;
pub mod sweep;
pub mod vault;
pub mod witness;

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::audit::cosignatures;

const INDEX: Duration = Duration::from_millis(500);
const REFRESH: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_secs(30);
const ROTATE: Duration = Duration::from_secs(60);
const CHECKPOINT: Duration = Duration::from_secs(60);
/// Shorter than the period of checkpoints, so that a checkpoint is cosigned before the next one.
const WITNESS: Duration = Duration::from_secs(20);

/// Runs all jobs until the returned tasks are aborted.
pub fn start(app: &Arc<App>) -> Vec<tokio::task::JoinHandle<()>> {
    let every = |period, name, job: fn(Arc<App>) -> Job| {
        let app = Arc::clone(app);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                if let Err(fault) = job(Arc::clone(&app)).await {
                    tracing::warn!(job = name, error = %fault, "a job failed and will run again");
                }
            }
        })
    };
    let mut tasks = vec![
        every(REFRESH, "refresh", |app| Box::pin(async move { refresh::run_once(&app).await })),
        every(REFRESH, "registrars", |app| {
            Box::pin(async move { registrars::run_once(&app).await.map(drop) })
        }),
        every(SWEEP, "sweep", |app| {
            Box::pin(async move { sweep::run_once(&app, app.clock.now()).await.map(drop) })
        }),
        every(SWEEP, "expiry", |app| {
            Box::pin(async move { expiry::run_once(&app, app.clock.now()).await.map(drop) })
        }),
        every(ROTATE, "key_rotation", |app| {
            Box::pin(async move { key_rotation::run_once(&app, app.clock.now()).await })
        }),
        every(ROTATE, "vault", |app| {
            Box::pin(async move { vault::run_once(&app, app.clock.now()).await.map(drop) })
        }),
        every(ROTATE, "discovery", |app| {
            Box::pin(async move { discovery::run_once(&app, app.clock.now()).await.map(drop) })
        }),
        every(INDEX, "audit_index", |app| Box::pin(async move { audit_index::run_once(&app).await })),
        every(CHECKPOINT, "audit_partition", |app| {
            Box::pin(async move { audit_index::open_partition(&app, app.clock.now()).await })
        }),
        every(CHECKPOINT, "checkpoint", |app| {
            Box::pin(async move { checkpoint::run_once(&app, app.clock.now()).await })
        }),
        every(WITNESS, "witnessed_events", |app| {
            Box::pin(async move { cosignatures::report_sizes(&app).await })
        }),
        tokio::spawn(sinks::run(Arc::clone(app))),
        tokio::spawn(audit_verification::run(Arc::clone(app))),
    ];
    tasks.extend(witness::start(app, WITNESS));
    tasks
}

type Job = std::pin::Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;
