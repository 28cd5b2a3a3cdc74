//! Tells open pages of this server that something has changed. One reader of the log serves all of them.

use std::sync::{Arc, Weak};

use tokio::sync::{Mutex, watch};

/// The `seq` up to which open pages know the log.
pub type KnownSeq = u64;

/// How far the reader has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogChange {
    /// The last event that changes the rows of pages.
    pub shown: KnownSeq,
    /// The last event of all.
    pub newest: KnownSeq,
}

/// The feed of the reader that runs, if one does. It ends with its last subscriber.
#[derive(Debug, Default)]
pub struct ChangeFeed {
    running: Mutex<Weak<watch::Sender<LogChange>>>,
}

impl ChangeFeed {
    /// Subscribes to the running reader; `start` makes one where none runs.
    ///
    /// # Errors
    /// Those of `start`.
    pub async fn subscribe<E>(
        &self,
        start: impl AsyncFnOnce() -> Result<Arc<watch::Sender<LogChange>>, E>,
    ) -> Result<watch::Receiver<LogChange>, E> {
        let mut running = self.running.lock().await;
        if let Some(sender) = running.upgrade() {
            return Ok(sender.subscribe());
        }
        let sender = start().await?;
        let receiver = sender.subscribe();
        *running = Arc::downgrade(&sender);
        Ok(receiver)
    }
}
