//! Requests cosignatures of the newest checkpoint from the witnesses.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::services::audit::cosignatures::{self, RequestResult};

/// Asks each witness with a URL once. Returns what came of each request.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Vec<(String, RequestResult)> {
    cosignatures::request_cosignatures(app, now).await
}

/// Asks each witness with a URL once in every period. Each has a task of its own, so that a slow witness delays no
/// other.
pub(super) fn start(app: &Arc<App>, period: Duration) -> Vec<JoinHandle<()>> {
    let asked = app.witnesses.iter().filter(|witness| witness.url.is_some());
    let task = |witness| {
        let (app, witness) = (Arc::clone(app), Clone::clone(witness));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                cosignatures::request_cosignature(&app, &witness, app.clock.now()).await;
            }
        })
    };
    asked.map(task).collect()
}
