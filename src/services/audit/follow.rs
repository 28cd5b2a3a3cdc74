//! The event stream: events in order, each once, from any position. A slow reader is disconnected and can resume at
//! its position.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::app::App;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::log_watcher::LogSize;
use crate::domain::audit::store::{self, StoredEvent};
use crate::domain::audit::{partitions, search};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::audit::log_names::with_log_names;
use crate::services::caller::Caller;

/// Number of events per read.
const CHUNK: u64 = 256;
/// Number of chunks that wait for a reader.
const AHEAD: usize = 4;

#[derive(Debug)]
pub enum StreamItem {
    /// Events with their `seq`, at least one.
    Events(Vec<(u64, String)>),
    /// No new event; all events before this `seq` have been read.
    Heartbeat(u64),
}

/// Streams the events that the caller can see, from `from` or from the end of the log.
pub async fn follow(
    app: &Arc<App>,
    caller: &Caller,
    filter: Option<Filter>,
    from: Option<u64>,
) -> Result<mpsc::Receiver<StreamItem>, Error> {
    let search_range = app.read(async |connection| search::search_range(connection).await).await?;
    let from = from.unwrap_or(search_range.size);
    if from < search_range.first_available || from > search_range.size {
        return Err(Refusal::NotFound.into());
    }
    let (sender, receiver) = mpsc::channel(AHEAD);
    let follower = Follower {
        app: Arc::clone(app),
        caller: caller.clone(),
        filter,
        next: from,
        sizes: app.log_watcher.subscribe(),
        sender,
    };
    // Runs on the worker of the request and ends with the worker.
    tokio::spawn(follower.run());
    Ok(receiver)
}

struct Follower {
    app: Arc<App>,
    caller: Caller,
    /// `None` if the caller can see none of the requested events.
    filter: Option<Filter>,
    next: u64,
    sizes: watch::Receiver<LogSize>,
    sender: mpsc::Sender<StreamItem>,
}

impl Follower {
    async fn run(mut self) {
        match self.work().await {
            Ok(()) => {}
            Err(fault) => tracing::warn!(error = %fault, "a reader of the log was sent away"),
        }
    }

    /// Runs until the reader disconnects or is too slow, the caller loses access to the log, or the server stops.
    async fn work(&mut self) -> Result<(), Fault> {
        let heartbeat = Duration::from_secs(self.app.config.audit.heartbeat.into());
        let (mut last_checked, mut last_sent) = (Instant::now(), Instant::now());
        if !self.send(StreamItem::Heartbeat(self.next)).await {
            return Ok(());
        }
        loop {
            let Some(size) = *self.sizes.borrow_and_update() else { return Ok(()) };
            if last_checked.elapsed() >= heartbeat {
                last_checked = Instant::now();
                let now = self.app.clock.now();
                let (caller, rows) = (&self.caller, &self.app.rows);
                if !self.app.read(async |connection| caller.is_active(rows, connection, now).await).await? {
                    return Ok(());
                }
            }
            let mut item = None;
            if self.next < size {
                item = self.read(size).await?;
            } else {
                tokio::select! {
                    changed = self.sizes.changed() => if changed.is_err() { return Ok(()) },
                    () = tokio::time::sleep_until(last_sent + heartbeat) => {}
                    () = self.sender.closed() => return Ok(()),
                }
            }
            // Sent also if no new event matches the filter, so that the reader's position advances.
            let heartbeat_due =
                || (last_sent.elapsed() >= heartbeat).then_some(StreamItem::Heartbeat(self.next));
            if let Some(item) = item.or_else(heartbeat_due) {
                if !self.send(item).await {
                    return Ok(());
                }
                last_sent = Instant::now();
            }
        }
    }

    /// Whether the reader took the item within `audit.stream_write_timeout`.
    async fn send(&self, item: StreamItem) -> bool {
        let write_timeout = Duration::from_secs(self.app.config.audit.stream_write_timeout.into());
        let taken = self.sender.send_timeout(item, write_timeout).await;
        if matches!(taken, Err(SendTimeoutError::Timeout(_))) {
            metrics::counter!("actchain_audit_stream_disconnects_total", "reader" => "stream").increment(1);
        }
        taken.is_ok()
    }

    async fn read(&mut self, size: u64) -> Result<Option<StreamItem>, Fault> {
        let range = self.next..size.min(self.next + CHUNK);
        let next = range.end;
        let filter = &self.filter;
        let (mut rows, filter) = self
            .app
            .read(async |connection| {
                let rows = store::events_in(connection, range.clone()).await?;
                // Events archived meanwhile must not be skipped silently. The check follows the read, so no archived
                // event can be missing among the rows.
                if partitions::first_available(connection).await? > range.start {
                    return Err(Fault::new("what was to come next has been archived"));
                }
                // A person of these events may have had no name in the log before.
                let filter = match filter {
                    Some(filter) => Some(with_log_names(connection, filter).await?),
                    None => None,
                };
                Ok((rows, filter))
            })
            .await?;
        rows.sort_unstable_by_key(|row| row.seq);
        rows.retain(|row| is_visible(filter.as_ref(), row));
        self.next = next;
        let events: Vec<(u64, String)> = rows.into_iter().map(|row| (row.seq, row.document)).collect();
        Ok(if events.is_empty() { None } else { Some(StreamItem::Events(events)) })
    }
}

fn is_visible(filter: Option<&Filter>, row: &StoredEvent) -> bool {
    match filter {
        None => false,
        Some(filter) if *filter == Filter::default() => true,
        Some(filter) => {
            filter.may_match(&row.document)
                && serde_json::from_str(&row.document)
                    .is_ok_and(|event| filter.matches(&event, row.personal.as_deref()))
        }
    }
}
