//! Delivers events to sinks, each separately: a slow sink delays no other.

use std::collections::HashSet;
use std::time::Duration;

use std::sync::Arc;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::task::JoinSet;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::sinks::deliver;

/// Interval between checks for undelivered events.
const INTERVAL: Duration = Duration::from_secs(1);

/// Gives every due sink one turn, waits for all of them, and returns their number.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<usize, Fault> {
    let due = deliver::due(app, now).await?;
    for done in join_all(due.iter().map(|id| deliver::run(app, id))).await {
        done?;
    }
    Ok(due.len())
}

/// Runs until aborted; does not wait for a single sink.
pub(super) async fn run(app: Arc<App>) {
    let mut turns = JoinSet::new();
    let mut busy: HashSet<String> = HashSet::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        while let Some(done) = turns.try_join_next() {
            match done {
                Ok((id, Ok(()))) => drop(busy.remove(&id)),
                Ok((id, Err(fault))) => {
                    let fault: Fault = fault;
                    tracing::warn!(job = "sinks", sink = id, error = %fault, "a job failed and will run again");
                    busy.remove(&id);
                }
                // A turn panicked; its lease keeps other servers away until it expires.
                Err(_) => busy.clear(),
            }
        }
        let due = match deliver::due(&app, app.clock.now()).await {
            Ok(due) => due,
            Err(fault) => {
                tracing::warn!(job = "sinks", error = %fault, "a job failed and will run again");
                continue;
            }
        };
        for id in due {
            if busy.insert(id.clone()) {
                let app = Arc::clone(&app);
                turns.spawn(async move {
                    let done = deliver::run(&app, &id).await;
                    (id, done)
                });
            }
        }
    }
}
