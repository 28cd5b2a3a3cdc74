//! Tells whoever follows the log how far it goes. A notification of the database wakes, from whichever server it comes; the
//! table is what counts, and is looked at now and then without any.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::sync::watch;

use super::store;
use crate::platform::db;
use crate::platform::fault::Fault;

/// How long a silence is believed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Whatever comes within so much time is one growth.
const DEBOUNCE: Duration = Duration::from_millis(10);
const CHANNEL: &str = "actchain_audit";

/// How far the log goes; `None` when the server stops.
pub type LogSize = Option<u64>;

/// Looks at the log on behalf of all that follow it, as long as there are any.
#[derive(Debug)]
pub struct LogWatcher {
    database: PgConnectOptions,
    timeout: Duration,
    runtime: tokio::runtime::Handle,
    sizes: watch::Sender<LogSize>,
    /// Whether somebody looks; changed only together with who follows.
    running: Arc<Mutex<bool>>,
}

impl LogWatcher {
    /// Looks at nothing until somebody follows.
    pub fn new(database: PgConnectOptions, timeout: Duration) -> Self {
        Self {
            database,
            timeout,
            runtime: tokio::runtime::Handle::current(),
            sizes: watch::Sender::new(Some(0)),
            running: Arc::default(),
        }
    }

    /// Hears of every growth from now on.
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

    /// Sends everybody away who follows: the server stops.
    pub fn close(&self) {
        self.sizes.send_replace(None);
    }
}

/// Somebody who looks.
struct PollerGuard(Arc<Mutex<bool>>);

impl PollerGuard {
    /// Whether to stop: said under the lock, so that nobody who comes just then is left without anybody who looks.
    fn is_done(&self, sizes: &watch::Sender<LogSize>) -> bool {
        let mut running = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *running = sizes.receiver_count() > 0 && sizes.borrow().is_some();
        !*running
    }
}

/// Looks until nobody follows any more.
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
    // One to listen, one to look; neither is kept from those that serve requests.
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
