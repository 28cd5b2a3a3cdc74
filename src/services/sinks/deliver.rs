//! Delivers the log to sinks: every event at least once, in order for each sink, by one server at a time. A slow sink
//! delays no other sink. After a crash, the server's lease expires and the cursor is kept.

use std::ops::ControlFlow;

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::app::App;
use crate::domain::audit::{self, Action, Actor, Event, partitions};
use crate::domain::sink::{SigningSecrets, Sink, pause, store};
use crate::platform::fault::Fault;
use crate::platform::outbound::WebhookRequest;
use crate::platform::random;
use crate::protocol::standard_webhooks::{self as webhooks, Secret};
use crate::services::transaction::AuditedTransaction;

/// Longer than one delivery and one database statement take.
const LEASE: Duration = Duration::seconds(30);
/// Number of events per read.
const CHUNK: u64 = 256;
/// Number of chunks before the sink is released to other servers.
const CHUNKS: usize = 64;
/// RFC 9110 §15.5.11: the sink wants no more events.
const GONE: u16 = 410;
/// Maximum length of a recorded error, in characters.
const MAX_ERROR_CHARS: usize = 200;

/// Ids of sinks that have undelivered events and no live lease.
pub async fn due(app: &App, now: OffsetDateTime) -> Result<Vec<String>, Fault> {
    let mut connection = app.pool.acquire().await?;
    store::due(&mut connection, now).await
}

/// Delivers to one sink until no event is left, a delivery fails, or the turn ends.
pub async fn run(app: &App, id: &str) -> Result<(), Fault> {
    let now = app.clock.now();
    let lease = random::id(now)?;
    let mut connection = app.pool.acquire().await?;
    let Some(sink) = store::mark_leased(&mut connection, (id, lease), (now, LEASE)).await? else {
        return Ok(());
    };
    drop(connection);
    let done = DeliveryRun { app, id, lease }.run(sink).await;
    let mut connection = app.pool.acquire().await?;
    store::mark_released(&mut connection, id, lease).await?;
    done
}

struct DeliveryRun<'a> {
    app: &'a App,
    id: &'a str,
    lease: Uuid,
}

/// Result of a delivery.
enum Attempt {
    Accepted,
    Gone,
    Refused {
        error: String,
        status: Option<u16>,
        /// Seconds until a retry, from `Retry-After` (RFC 9110 §10.2.3).
        retry_after: Option<u64>,
    },
}

impl DeliveryRun<'_> {
    async fn run(&self, mut sink: Sink) -> Result<(), Fault> {
        for _ in 0..CHUNKS {
            if self.replay(&mut sink).await? == ControlFlow::Break(()) {
                return Ok(());
            }
            let now = self.app.clock.now();
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
        delivered: Option<OffsetDateTime>,
    ) -> Result<ControlFlow<()>, Fault> {
        let mut connection = self.app.pool.acquire().await?;
        let until = self.app.clock.now() + LEASE;
        let ours = (self.id, self.lease);
        match store::mark_delivered(&mut connection, ours, (cursor, delivered), until).await? {
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
            let mut connection = self.app.pool.acquire().await?;
            let Some(seq) = store::next_replay(&mut connection, self.id).await? else {
                return Ok(ControlFlow::Continue(()));
            };
            let document = audit::store::documents_of(&mut connection, &[seq]).await?.pop();
            drop(connection);
            let sent = match &document {
                Some((_, document)) => {
                    let event = serde_json::from_str(document).unwrap_or_default();
                    self.send(sink, document, &event).await?
                }
                None => Attempt::Refused { error: "archived".into(), status: None, retry_after: None },
            };
            let mut connection = self.app.pool.acquire().await?;
            match sent {
                Attempt::Accepted => store::remove_dead_letter(&mut connection, self.id, seq).await?,
                Attempt::Gone => return self.gone().await,
                Attempt::Refused { error, .. } => {
                    let now = self.app.clock.now();
                    store::put_dead_letter(&mut connection, (self.id, seq), (1, &error), now).await?;
                }
            }
            drop(connection);
            let cursor = sink.cursor;
            if self.advance(sink, cursor, None).await? == ControlFlow::Break(()) {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// Delivers the next events, one after the other.
    async fn chunk(&self, sink: &mut Sink) -> Result<ControlFlow<()>, Fault> {
        let mut connection = self.app.pool.acquire().await?;
        let first_available = partitions::first_available(&mut connection).await?;
        let size = audit::store::head(&mut connection).await?.size();
        drop(connection);
        if sink.cursor < first_available
            && self.skip_archived(sink, first_available).await? == ControlFlow::Break(())
        {
            return Ok(ControlFlow::Break(()));
        }
        let mut connection = self.app.pool.acquire().await?;
        let range = sink.cursor.max(first_available)..size.min(sink.cursor.max(first_available) + CHUNK);
        if range.is_empty() {
            return Ok(ControlFlow::Break(()));
        }
        let rows = audit::store::documents_in(&mut connection, range.clone()).await?;
        drop(connection);
        let mut filter = sink.filter()?;
        for (seq, document) in rows {
            let event: Value = serde_json::from_str(&document).unwrap_or_default();
            if !filter.matches(&event) {
                continue;
            }
            let flow = match self.send(sink, &document, &event).await? {
                Attempt::Accepted => self.advance(sink, seq + 1, Some(self.app.clock.now())).await?,
                Attempt::Gone => self.gone().await?,
                Attempt::Refused { error, status, retry_after } => {
                    self.refused(sink, (seq, &event), (&error, status), retry_after).await?
                }
            };
            if flow == ControlFlow::Break(()) {
                return Ok(ControlFlow::Break(()));
            }
            // The declaration may have changed meanwhile.
            filter = sink.filter()?;
        }
        self.advance(sink, range.end, None).await
    }

    /// Events archived before delivery are only in files and cannot be delivered; the skip is recorded.
    async fn skip_archived(&self, sink: &mut Sink, first_available: u64) -> Result<ControlFlow<()>, Fault> {
        let now = self.app.clock.now();
        let mut work = AuditedTransaction::begin(&self.app.pool).await?;
        let advanced = store::mark_delivered(
            work.connection(),
            (self.id, self.lease),
            (first_available, None),
            now + LEASE,
        )
        .await?;
        let Some(advanced) = advanced else { return Ok(ControlFlow::Break(())) };
        let mut event = Event::new(now, Action::SinkDeadLetter, Actor::server());
        event.target = Some(self.id.to_owned());
        event.detail =
            Some(json!({"seq": sink.cursor, "to": first_available, "attempts": 0, "status": null}));
        work.commit(&[event]).await?;
        *sink = advanced;
        Ok(ControlFlow::Continue(()))
    }

    async fn send(&self, sink: &Sink, document: &str, event: &Value) -> Result<Attempt, Fault> {
        let now = self.app.clock.now();
        let id = event.get("id").and_then(Value::as_str).unwrap_or_default();
        let seq = event.get("seq").and_then(Value::as_u64).unwrap_or_default();
        let (content_type, body) = sink.format.body(document, event);
        let timestamp = now.unix_timestamp();
        let signatures = self.sign(sink, (id, timestamp), &body).await?;
        let fields = vec![
            (webhooks::ID, id.to_owned()),
            (webhooks::TIMESTAMP, timestamp.to_string()),
            (webhooks::SIGNATURE, signatures),
            ("actchain-audit-seq", seq.to_string()),
        ];
        let delivery = WebhookRequest { content_type, fields, body: &body };
        Ok(match self.app.vault.outbound.deliver(&sink.url, delivery).await {
            Ok(response) if (200..300).contains(&response.status) => Attempt::Accepted,
            Ok(response) if response.status == GONE => Attempt::Gone,
            Ok(response) => Attempt::Refused {
                error: format!("status {}", response.status),
                status: Some(response.status),
                retry_after: response.retry_after,
            },
            Err(fault) => {
                let error: String = fault.to_string().chars().take(MAX_ERROR_CHARS).collect();
                Attempt::Refused { error, status: None, retry_after: None }
            }
        })
    }

    /// Signs with the stored secrets; reads them again, because a rekey may have resealed them.
    async fn sign(&self, sink: &Sink, what: (&str, i64), body: &str) -> Result<String, Fault> {
        let mut connection = self.app.pool.acquire().await?;
        let secrets = SigningSecrets::open(&self.app.vault.keys, &mut connection, sink).await?;
        let active: Vec<Secret> = secrets.active(self.app.clock.now());
        Ok(webhooks::signatures(&active, what, body))
    }

    async fn refused(
        &self,
        sink: &mut Sink,
        (seq, event): (u64, &Value),
        (error, status): (&str, Option<u16>),
        retry_after: Option<u64>,
    ) -> Result<ControlFlow<()>, Fault> {
        let now = self.app.clock.now();
        // Events between the last delivered event and this one do not match the filter; the cursor passes them.
        if seq > sink.cursor && self.advance(sink, seq, None).await? == ControlFlow::Break(()) {
            return Ok(ControlFlow::Break(()));
        }
        let attempts = sink.attempts + 1;
        metrics::counter!("actchain_sink_failures_total").increment(1);
        if attempts < self.app.config.audit.sink_attempts {
            let [chance] = random::bytes::<1>()?;
            let next = now + pause(attempts, chance, retry_after);
            let mut connection = self.app.pool.acquire().await?;
            store::mark_failed(&mut connection, (self.id, self.lease), (attempts, next), error).await?;
            return Ok(ControlFlow::Break(()));
        }
        self.dead_letter(sink, (seq, event), (attempts, error, status), now).await
    }

    /// Stores the event as a dead letter, so that later events can be delivered.
    async fn dead_letter(
        &self,
        sink: &mut Sink,
        (seq, event): (u64, &Value),
        (attempts, error, status): (u32, &str, Option<u16>),
        now: OffsetDateTime,
    ) -> Result<ControlFlow<()>, Fault> {
        let ours = (self.id, self.lease);
        // A failed delivery of a dead-letter event records no further event: two failing sinks would otherwise cause
        // events without end.
        if event.get("action").and_then(Value::as_str) == Some(Action::SinkDeadLetter.name()) {
            let mut silent = self.app.pool.begin().await?;
            store::put_dead_letter(&mut silent, (self.id, seq), (attempts, error), now).await?;
            let advanced = store::mark_delivered(&mut silent, ours, (seq + 1, None), now + LEASE).await?;
            let Some(advanced) = advanced else { return Ok(ControlFlow::Break(())) };
            silent.commit().await?;
            *sink = advanced;
            return Ok(ControlFlow::Continue(()));
        }
        let mut work = AuditedTransaction::begin(&self.app.pool).await?;
        store::put_dead_letter(work.connection(), (self.id, seq), (attempts, error), now).await?;
        let advanced = store::mark_delivered(work.connection(), ours, (seq + 1, None), now + LEASE).await?;
        let Some(advanced) = advanced else { return Ok(ControlFlow::Break(())) };
        let mut event = Event::new(now, Action::SinkDeadLetter, Actor::server());
        event.target = Some(self.id.to_owned());
        event.detail = Some(json!({"seq": seq, "attempts": attempts, "status": status}));
        work.commit(&[event]).await?;
        *sink = advanced;
        Ok(ControlFlow::Continue(()))
    }

    async fn gone(&self) -> Result<ControlFlow<()>, Fault> {
        let now = self.app.clock.now();
        let mut work = AuditedTransaction::begin(&self.app.pool).await?;
        if store::mark_disabled(work.connection(), self.id, "answered 410", now).await? {
            let mut event = Event::new(now, Action::SinkChanged, Actor::server());
            event.target = Some(self.id.to_owned());
            event.detail = Some(json!({"change": "disabled", "status": GONE}));
            work.commit(&[event]).await?;
        }
        Ok(ControlFlow::Break(()))
    }
}
