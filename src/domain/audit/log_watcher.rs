//! Publishes the size of the log to subscribers. A PostgreSQL notification, from any server, wakes the
//! poller; the size is always read from the table, which is also polled without notifications.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::sync::watch;

use super::store;
use crate::platform::db;
use crate::platform::fault::Fault;

/// Poll interval without notifications.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Notifications within this time are merged into one.
const DEBOUNCE: Duration = Duration::from_millis(10);
const CHANNEL: &str = "actchain_audit";

/// Number of events in the log; `None` after shutdown.
pub type LogSize = Option<u64>;

/// Polls the log for all subscribers, and only while there are any.
#[derive(Debug)]
pub struct LogWatcher {
    database: PgConnectOptions,
    timeout: Duration,
    runtime: tokio::runtime::Handle,
    sizes: watch::Sender<LogSize>,
    /// Whether a poller runs; changed only under the same lock as subscriptions.
    running: Arc<Mutex<bool>>,
}

impl LogWatcher {
    /// Does not poll until the first subscription.
    pub fn new(database: PgConnectOptions, timeout: Duration) -> Self {
        Self {
            database,
            timeout,
            runtime: tokio::runtime::Handle::current(),
            sizes: watch::Sender::new(Some(0)),
            running: Arc::default(),
        }
    }

    /// Receives every later change of the size. Starts the poller if none runs.
    pub fn subscribe(&self) -> watch::Receiver<LogSize> {
        let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let receiver = self.sizes.subscribe();
        if !*running {
            *running = true;
            let (database, timeout) = (self.database.clone(), self.timeout);
            let guard = PollerGuard(Arc::clone(&self.running));
            self.runtime.spawn(poll(database, timeout, self.sizes.clone(), guard));
        }
        receiver
    }

    /// Ends all subscriptions at shutdown.
    pub fn close(&self) {
        self.sizes.send_replace(None);
    }
}

struct PollerGuard(Arc<Mutex<bool>>);

impl PollerGuard {
    /// Whether the poller must stop. Checked under the lock, so a new subscriber starts another poller.
    fn is_done(&self, sizes: &watch::Sender<LogSize>) -> bool {
        let mut running = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *running = sizes.receiver_count() > 0 && sizes.borrow().is_some();
        !*running
    }
}

/// Polls until no subscriber is left.
async fn poll(
    database: PgConnectOptions,
    timeout: Duration,
    sizes: watch::Sender<LogSize>,
    guard: PollerGuard,
) {
    while !guard.is_done(&sizes) {
        if let Err(fault) = listen(&database, timeout, &sizes).await {
            tracing::warn!(error = %fault, "the log cannot be followed at the moment");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

async fn listen(
    database: &PgConnectOptions,
    timeout: Duration,
    sizes: &watch::Sender<LogSize>,
) -> Result<(), Fault> {
    // A separate pool of two connections, to listen and to read: request handling keeps its connections.
    let pool = db::pool(database.clone(), 2, timeout);
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(CHANNEL).await?;
    while sizes.receiver_count() > 0 && sizes.borrow().is_some() {
        let mut connection = pool.acquire().await?;
        let size = store::head(&mut connection).await?.size();
        drop(connection);
        sizes.send_if_modified(|known| {
            let grown = known.is_some_and(|known| known != size);
            if grown {
                *known = Some(size);
            }
            grown
        });
        if let Ok(heard) = tokio::time::timeout(POLL_INTERVAL, listener.recv()).await {
            heard?;
            tokio::time::sleep(DEBOUNCE).await;
            while listener.next_buffered().is_some() {}
        }
    }
    Ok(())
}
