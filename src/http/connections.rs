//! How many connections are open, and how long each is kept. A slow client has ten seconds for its first request; actix
//! sets no limit for the head of the next request. So connections are kept alive only while at most half of the
//! connections are open: slow clients cannot occupy the other half.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Extensions, ServiceResponse};
use actix_web::http::{ConnectionType, Version};

use crate::platform::config::Config;
use crate::platform::fault::Fault;
use crate::platform::process;

/// More connections for one thread have no effect.
const MOST_PER_WORKER: usize = 25_000;

#[derive(Debug, Clone)]
pub(super) struct Connections {
    open: Arc<AtomicUsize>,
    per_worker: usize,
    most: usize,
}

/// Counts one open connection until it is dropped.
#[derive(Debug)]
struct OpenConnection(Arc<AtomicUsize>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    /// Derives the number of connections from the limit of file descriptors.
    pub(super) fn fitting(config: &Config, workers: usize) -> Result<Self, Fault> {
        let descriptors = process::descriptors()?;
        let database = usize::try_from(config.database_connections).unwrap_or(usize::MAX);
        let per_worker = (process::connections_below(descriptors, database) / workers.max(1)).max(1);
        let per_worker = per_worker.min(MOST_PER_WORKER);
        let most = per_worker.saturating_mul(workers);
        tracing::info!(descriptors, connections = most, "connections are bounded");
        Ok(Self { open: Arc::default(), per_worker, most })
    }

    /// The maximum of one HTTP thread; further connections wait until one is closed.
    pub(super) fn per_worker(&self) -> usize {
        self.per_worker
    }

    /// Counts a connection as open for as long as actix keeps its data.
    pub(super) fn count(&self, data: &mut Extensions) {
        self.open.fetch_add(1, Ordering::Relaxed);
        data.insert(OpenConnection(Arc::clone(&self.open)));
    }

    fn is_roomy(&self) -> bool {
        self.open.load(Ordering::Relaxed) <= self.most / 2
    }

    /// Decides how a response ends, and whether the connection is kept alive. For a client of HTTP/1.0, a body of
    /// unknown length ends with the connection: HTTP/1.0 has no transfer codings (RFC 9112 §6.1).
    pub(super) fn settle<B: MessageBody>(&self, response: &mut ServiceResponse<B>) {
        let old = response.request().version() < Version::HTTP_11;
        let endless = matches!(response.response().body().size(), BodySize::Stream);
        let head = response.response_mut().head_mut();
        if old && endless {
            head.no_chunking(true);
        }
        if (old && endless) || !self.is_roomy() {
            head.set_connection_type(ConnectionType::Close);
        }
    }
}
