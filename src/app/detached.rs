//! Work that completes after a client disconnect.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::RwLock;
use tokio::task::JoinHandle;

#[derive(Debug)]
pub struct DetachedTasks {
    runtime: Handle,
    /// Shared by every task until its end.
    running: Arc<RwLock<()>>,
}

impl DetachedTasks {
    pub(super) fn new() -> Self {
        Self { runtime: Handle::current(), running: Arc::default() }
    }

    /// Spawns the future detached from the request: it completes after a client disconnect or the end of the HTTP
    /// worker.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let running = Arc::clone(&self.running);
        self.runtime.spawn(async move {
            let _one_of_them = running.read_owned().await;
            work.await
        })
    }

    /// Waits until all tasks have completed.
    pub async fn drain(&self) {
        drop(self.running.write().await);
    }
}
