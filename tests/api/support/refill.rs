//! Refills a cache with an old value, like slow requests that read before a change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Refills a cache in a loop until dropped.
pub struct Refill {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Refill {
    pub fn with(put: impl Fn() + Send + 'static) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stopped = Arc::clone(&stopped);
            move || {
                while !stopped.load(Ordering::Relaxed) {
                    put();
                    std::thread::yield_now();
                }
            }
        });
        Self { stopped, thread: Some(thread) }
    }
}

impl Drop for Refill {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
