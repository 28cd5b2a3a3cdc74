//! Following the log: events as they come, each once and in order, from any place on. A reader that does not keep up is sent
//! away, and goes on from where it was.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::app::App;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::follow::Size;
use crate::domain::audit::{parts, search, store};
use crate::domain::refusal::{Refusal, Stop};
use crate::flows::desk::Call;
use crate::platform::fault::Fault;

/// How many events are read at once.
const CHUNK: u64 = 256;
/// How many such portions wait for a reader.
const AHEAD: usize = 4;

/// What a reader gets.
#[derive(Debug)]
pub enum Told {
    /// Events with their places, at least one.
    Events(Vec<(u64, String)>),
    /// Nothing new; everything below has been looked at.
    Nothing(u64),
}

/// Follows the log as the caller may see it, from `from` on or from its present end.
pub async fn follow(
    app: &Arc<App>,
    call: &Call,
    filter: Option<Filter>,
    from: Option<u64>,
) -> Result<mpsc::Receiver<Told>, Stop> {
    let extent = app.read(async |connection| search::extent(connection).await).await?;
    let from = from.unwrap_or(extent.size);
    if from < extent.floor || from > extent.size {
        return Err(Refusal::NotFound.into());
    }
    let (tell, told) = mpsc::channel(AHEAD);
    let follower = Follower {
        app: Arc::clone(app),
        call: call.clone(),
        filter,
        next: from,
        heard: app.follow.subscribe(),
        tell,
    };
    // Where the request is served: it ends with it.
    tokio::spawn(follower.run());
    Ok(told)
}

struct Follower {
    app: Arc<App>,
    call: Call,
    /// Nothing where the caller asks for what is not its own.
    filter: Option<Filter>,
    next: u64,
    heard: watch::Receiver<Size>,
    tell: mpsc::Sender<Told>,
}

impl Follower {
    async fn run(mut self) {
        match self.work().await {
            Ok(()) => {}
            Err(fault) => tracing::warn!(error = %fault, "a reader of the log was sent away"),
        }
    }

    /// Ends when the reader is gone or too slow, the caller may not see the log any more, or the server stops.
    async fn work(&mut self) -> Result<(), Fault> {
        let heartbeat = Duration::from_secs(self.app.config.audit.heartbeat.into());
        let (mut looked, mut said) = (Instant::now(), Instant::now());
        if !self.say(Told::Nothing(self.next)).await {
            return Ok(());
        }
        loop {
            let Some(size) = *self.heard.borrow_and_update() else { return Ok(()) };
            if looked.elapsed() >= heartbeat {
                looked = Instant::now();
                let now = self.app.clock.now();
                let (caller, rows) = (&self.call.caller, &self.app.rows);
                if !self.app.read(async |connection| caller.stands(rows, connection, now).await).await? {
                    return Ok(());
                }
            }
            let mut told = None;
            if self.next < size {
                told = self.read(size).await?;
            } else {
                tokio::select! {
                    changed = self.heard.changed() => if changed.is_err() { return Ok(()) },
                    () = tokio::time::sleep_until(said + heartbeat) => {}
                    () = self.tell.closed() => return Ok(()),
                }
            }
            // Also where all that came was of no interest: the reader's place moves on.
            let quiet = || (said.elapsed() >= heartbeat).then_some(Told::Nothing(self.next));
            if let Some(told) = told.or_else(quiet) {
                if !self.say(told).await {
                    return Ok(());
                }
                said = Instant::now();
            }
        }
    }

    /// Whether the reader took it in time.
    async fn say(&self, told: Told) -> bool {
        let patience = Duration::from_secs(self.app.config.audit.reader_patience.into());
        let taken = self.tell.send_timeout(told, patience).await;
        if matches!(taken, Err(SendTimeoutError::Timeout(_))) {
            metrics::counter!("actchain_audit_readers_cut_off_total", "reader" => "stream").increment(1);
        }
        taken.is_ok()
    }

    async fn read(&mut self, size: u64) -> Result<Option<Told>, Fault> {
        let range = self.next..size.min(self.next + CHUNK);
        let next = range.end;
        let mut rows = self
            .app
            .read(async |connection| {
                let rows = store::documents_in(connection, range.clone()).await?;
                // What was archived meanwhile is not skipped over in silence: looked at behind the rows, so that none can be
                // missing among them.
                if parts::floor(connection).await? > range.start {
                    return Err(Fault::new("what was to come next has been archived"));
                }
                Ok(rows)
            })
            .await?;
        rows.sort_unstable_by_key(|(seq, _)| *seq);
        rows.retain(|(_, document)| self.matches(document));
        self.next = next;
        Ok(if rows.is_empty() { None } else { Some(Told::Events(rows)) })
    }

    fn matches(&self, document: &str) -> bool {
        match &self.filter {
            None => false,
            Some(filter) if *filter == Filter::default() => true,
            Some(filter) => {
                filter.may_match(document)
                    && serde_json::from_str(document).is_ok_and(|event| filter.matches(&event))
            }
        }
    }
}
