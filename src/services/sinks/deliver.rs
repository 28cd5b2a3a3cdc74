//! Delivers the log to sinks: every event at least once, in order for each sink, by one server at a time. A slow sink
//! delays no other sink. After a crash, the server's lease expires and the cursor is kept: only the last request is
//! repeated.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::batch::{Batch, BatchEvent, SinkChoice};
use super::notifications;
use super::turn::{DeliveryAttempt, Failure, LEASE, SinkWebhook, Turn};
use crate::app::App;
use crate::domain::audit::personal::{People, collect_pseudonyms};
use crate::domain::audit::{self, EventKind, partitions};
use crate::domain::sink::store::{FailedDelivery, Lease, Progress, Undelivered};
use crate::domain::sink::{Sink, pause, store};
use crate::platform::db;
use crate::platform::fault::Fault;
use crate::services::audit::log_names::{people_of, with_log_names};
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::random;

/// Number of events per read, at least those of a batch.
const CHUNK: u64 = 1_024;
/// Number of chunks before the sink is released to other servers.
const CHUNKS: usize = 16;
/// Ids of sinks that have undelivered events and no live lease.
pub async fn due(app: &App, now: OffsetDateTime) -> Result<Vec<String>, Fault> {
    let mut connection = app.pool.acquire().await?;
    store::due(&mut connection, now).await
}

/// Delivers to one sink until no event is left, a delivery fails, or the turn ends.
pub async fn run(app: &App, id: &str) -> Result<(), Fault> {
    let now = app.clock.now();
    let lease = Lease { sink: id, id: random::id(now)? };
    let mut connection = app.pool.acquire().await?;
    let Some(sink) = store::mark_leased(&mut connection, lease, now, now + LEASE).await? else {
        return Ok(());
    };
    drop(connection);
    let turn = Turn { app, id, lease };
    let done = match sink.notification.clone() {
        Some(settings) => notifications::run(&turn, sink, settings).await,
        None => DeliveryRun { turn, window: usize::MAX }.run(sink).await,
    };
    let mut connection = app.pool.acquire().await?;
    store::mark_released(&mut connection, lease).await?;
    done
}

struct DeliveryRun<'a> {
    turn: Turn<'a>,
    /// Maximum number of events of the next request. After a failure it is one, so that an event that the sink does not
    /// accept fails alone; each accepted request doubles it.
    window: usize,
}

impl DeliveryRun<'_> {
    async fn run(&mut self, mut sink: Sink) -> Result<(), Fault> {
        if sink.attempts > 0 {
            self.window = 1;
        }
        for _ in 0..CHUNKS {
            if self.replay(&mut sink).await? == ControlFlow::Break(()) {
                return Ok(());
            }
            let now = self.turn.app.clock.now();
            if sink.next_attempt_at.is_some_and(|at| at > now) {
                return Ok(());
            }
            if self.chunk(&mut sink).await? == ControlFlow::Break(()) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Moves the cursor. Returns `Break` if this server has lost the lease.
    async fn advance(
        &self,
        sink: &mut Sink,
        cursor: u64,
        delivered_at: Option<OffsetDateTime>,
    ) -> Result<ControlFlow<()>, Fault> {
        let mut connection = self.turn.app.pool.acquire().await?;
        let until = self.turn.app.clock.now() + LEASE;
        let progress = Progress { cursor, delivered_at };
        match store::mark_delivered(&mut connection, self.turn.lease, progress, until).await? {
            Some(now) => {
                *sink = now;
                Ok(ControlFlow::Continue(()))
            }
            None => Ok(ControlFlow::Break(())),
        }
    }

    /// Resends dead letters marked for replay, once each.
    async fn replay(&self, sink: &mut Sink) -> Result<ControlFlow<()>, Fault> {
        loop {
            let mut connection = self.turn.app.pool.acquire().await?;
            let Some(seq) = store::next_replay(&mut connection, self.turn.id).await? else {
                return Ok(ControlFlow::Continue(()));
            };
            let row = audit::store::events_of(&mut connection, &[seq]).await?.pop();
            drop(connection);
            let sent = match &row {
                Some(row) => {
                    let mut names = BTreeSet::new();
                    let document = serde_json::from_str(&row.document).unwrap_or_default();
                    collect_pseudonyms(&document, &mut names);
                    let choice = self.choice(sink, &names).await?;
                    self.send(sink, &Batch::of(sink, &choice, row)?).await?
                }
                None => DeliveryAttempt::Refused(Failure::without_response("archived")),
            };
            let failed = match sent {
                DeliveryAttempt::Accepted => None,
                DeliveryAttempt::Declined => return self.turn.disable().await,
                DeliveryAttempt::Refused(Failure { error, .. }) => Some(error),
            };
            let mut connection = self.turn.app.pool.acquire().await?;
            match &failed {
                None => store::remove_dead_letter(&mut connection, self.turn.id, seq).await?,
                Some(error) => {
                    let event = Undelivered { seq, attempts: 1, error };
                    store::put_dead_letter(&mut connection, self.turn.id, event, self.turn.app.clock.now())
                        .await?;
                }
            }
            drop(connection);
            let cursor = sink.cursor;
            if self.advance(sink, cursor, None).await? == ControlFlow::Break(()) {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// Delivers the next events, one request after the other.
    async fn chunk(&mut self, sink: &mut Sink) -> Result<ControlFlow<()>, Fault> {
        let mut connection = self.turn.app.pool.acquire().await?;
        let first_available = partitions::first_available(&mut connection).await?;
        let head = audit::store::head(&mut connection).await?;
        drop(connection);
        if sink.cursor < first_available
            && self.turn.skip_archived(sink, first_available).await? == ControlFlow::Break(())
        {
            return Ok(ControlFlow::Break(()));
        }
        let mut connection = self.turn.app.pool.acquire().await?;
        let range =
            sink.cursor.max(first_available)..head.size().min(sink.cursor.max(first_available) + CHUNK);
        if range.is_empty() {
            return Ok(ControlFlow::Break(()));
        }
        let erasures = audit::store::erasures(&mut connection).await?;
        let rows = audit::store::events_in(&mut connection, range.clone()).await?;
        drop(connection);
        let mut names = BTreeSet::new();
        for row in rows.iter().filter(|_| sink.people) {
            let document = serde_json::from_str(&row.document).unwrap_or_default();
            collect_pseudonyms(&document, &mut names);
        }
        loop {
            // The declaration may change with each request.
            let choice = self.choice(sink, &names).await?;
            if sink.people && self.erasures().await? != erasures {
                // The rows have personal data that may be erased by now: they are read again.
                return Ok(ControlFlow::Continue(()));
            }
            let rest = rows.get(rows.partition_point(|row| row.seq < sink.cursor)..).unwrap_or_default();
            let Some(batch) = Batch::next(sink, &choice, rest, self.window)? else { break };
            if self.deliver(sink, &batch).await? == ControlFlow::Break(()) {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.advance(sink, range.end, None).await
    }

    /// The sink's filter, and who these persons are, at present: both can change with each request.
    async fn choice(&self, sink: &Sink, names: &BTreeSet<String>) -> Result<SinkChoice, Fault> {
        let (mut filter, mut people) = (sink.filter()?, People::default());
        if filter.names_persons() || sink.people {
            let mut connection = self.turn.app.pool.acquire().await?;
            filter = with_log_names(&mut connection, &filter).await?;
            if sink.people {
                people = people_of(&mut connection, names.clone()).await?;
            }
        }
        Ok(SinkChoice { filter, people, issuer: self.turn.app.issuer.clone() })
    }

    async fn erasures(&self) -> Result<i64, Fault> {
        let mut connection = self.turn.app.pool.acquire().await?;
        audit::store::erasures(&mut connection).await
    }

    async fn deliver(&mut self, sink: &mut Sink, batch: &Batch) -> Result<ControlFlow<()>, Fault> {
        match self.send(sink, batch).await? {
            DeliveryAttempt::Accepted => {
                self.window = self.window.saturating_mul(2);
                self.advance(sink, batch.last.seq + 1, Some(self.turn.app.clock.now())).await
            }
            DeliveryAttempt::Declined => self.turn.disable().await,
            DeliveryAttempt::Refused(failure) => {
                self.window = 1;
                // An event becomes a dead letter only after it was sent alone.
                let is_last = sink.attempts + 1 >= self.turn.app.config.audit.sink_attempts;
                if batch.len() > 1 && (failure.is_about_content || is_last) {
                    return self.advance(sink, sink.cursor, None).await;
                }
                self.refused(sink, &batch.first, failure).await
            }
        }
    }

    async fn send(&self, sink: &Sink, batch: &Batch) -> Result<DeliveryAttempt, Fault> {
        let mut fields = vec![("actchain-audit-seq", batch.first.seq.to_string())];
        if sink.batch.is_some() {
            fields.push(("actchain-audit-last-seq", batch.last.seq.to_string()));
        }
        let (id, body) = (batch.id(), batch.body(sink));
        let webhook = SinkWebhook { id: &id, content_type: sink.format.media_type(), fields, body: &body };
        self.turn.post(sink, webhook).await
    }

    async fn refused(
        &self,
        sink: &mut Sink,
        event: &BatchEvent,
        failure: Failure,
    ) -> Result<ControlFlow<()>, Fault> {
        let seq = event.seq;
        // Events between the last delivered event and this one do not match the filter; the cursor passes them.
        if seq > sink.cursor && self.advance(sink, seq, None).await? == ControlFlow::Break(()) {
            return Ok(ControlFlow::Break(()));
        }
        let attempts = sink.attempts + 1;
        metrics::counter!("actchain_sink_failures_total").increment(1);
        if attempts < self.turn.app.config.audit.sink_attempts {
            let [chance] = random::bytes::<1>()?;
            let next_attempt_at = self.turn.app.clock.now() + pause(attempts, chance, failure.retry_after);
            let attempt = FailedDelivery { attempts, error: &failure.error, next_attempt_at };
            let mut connection = self.turn.app.pool.acquire().await?;
            store::mark_failed(&mut connection, self.turn.lease, attempt).await?;
            return Ok(ControlFlow::Break(()));
        }
        let undelivered = Undelivered { seq, attempts, error: &failure.error };
        // A failed delivery of a dead-letter event records no further event: two failing sinks would otherwise cause
        // events without end.
        let advanced = match event.is_dead_letter {
            true => self.dead_letter_silently(undelivered).await?,
            false => self.dead_letter(undelivered, failure.status).await?,
        };
        let Some(advanced) = advanced else { return Ok(ControlFlow::Break(())) };
        *sink = advanced;
        Ok(ControlFlow::Continue(()))
    }

    /// Stores the event as a dead letter, so that later events can be delivered. `None` if the lease is lost.
    async fn dead_letter(
        &self,
        undelivered: Undelivered<'_>,
        status: Option<u16>,
    ) -> Result<Option<Sink>, Fault> {
        let now = self.turn.app.clock.now();
        let mut work = AuditedTransaction::begin(&self.turn.app.pool).await?;
        let Some(advanced) = self.store_dead_letter(work.connection(), undelivered, now).await? else {
            return Ok(None);
        };
        let Undelivered { seq, attempts, .. } = undelivered;
        let kind = EventKind::SinkDeadLetter { seq, attempts, status };
        work.commit(&[self.turn.event(kind, now)]).await?;
        Ok(Some(advanced))
    }

    /// Like [`Self::dead_letter`], without an event.
    async fn dead_letter_silently(&self, undelivered: Undelivered<'_>) -> Result<Option<Sink>, Fault> {
        let mut silent = db::begin(&self.turn.app.pool, "BEGIN").await?;
        let advanced = self.store_dead_letter(&mut silent, undelivered, self.turn.app.clock.now()).await?;
        if advanced.is_some() {
            silent.commit().await?;
        }
        Ok(advanced)
    }

    /// Stores a dead letter and moves the cursor past it.
    async fn store_dead_letter(
        &self,
        connection: &mut PgConnection,
        undelivered: Undelivered<'_>,
        now: OffsetDateTime,
    ) -> Result<Option<Sink>, Fault> {
        store::put_dead_letter(connection, self.turn.id, undelivered, now).await?;
        let progress = Progress { cursor: undelivered.seq + 1, delivered_at: None };
        store::mark_delivered(connection, self.turn.lease, progress, now + LEASE).await
    }
}
