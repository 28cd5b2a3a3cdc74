//! Delivering the log to sinks: every event at least once, in order for each sink, by one server at a time. What one sink
//! does holds up no other. A server that dies leaves a lease that ends, and the place up to which events were taken.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::app::App;
use crate::domain::audit::{self, Action, Actor, Event, parts};
use crate::domain::sink::{Secrets, Sink, pause, store};
use crate::flows::work::Work;
use crate::platform::fault::Fault;
use crate::platform::outbound::Delivery;
use crate::platform::random;
use crate::protocol::standard_webhooks::{self as webhooks, Secret};

/// Longer than one delivery takes, and than the database may.
const LEASE: Duration = Duration::seconds(30);
/// How many events are read at once.
const CHUNK: u64 = 256;
/// How many chunks are delivered before the sink is given back, so that others may have it.
const CHUNKS: usize = 64;
/// Whoever wants this is sent nothing any more (RFC 9110 §15.5.11).
const GONE: u16 = 410;
/// The longest account of what went wrong.
const MOST_ERROR: usize = 200;

/// The sinks for which there is something to do.
pub async fn due(app: &App, now: OffsetDateTime) -> Result<Vec<String>, Fault> {
    let mut connection = app.pool.acquire().await?;
    store::due(&mut connection, now).await
}

/// Sends to one sink until there is nothing to send, it does not take something, or it is somebody else's turn.
pub async fn turn(app: &App, id: &str) -> Result<(), Fault> {
    let now = app.clock.now();
    let lease = random::id(now)?;
    let mut connection = app.pool.acquire().await?;
    let Some(sink) = store::mark_leased(&mut connection, (id, lease), (now, LEASE)).await? else {
        return Ok(());
    };
    drop(connection);
    let done = Turn { app, id, lease }.run(sink).await;
    let mut connection = app.pool.acquire().await?;
    store::mark_released(&mut connection, id, lease).await?;
    done
}

struct Turn<'a> {
    app: &'a App,
    id: &'a str,
    lease: Uuid,
}

/// What became of a delivery.
enum Sent {
    Taken,
    /// It wants no more.
    Gone,
    Refused {
        error: String,
        status: Option<u16>,
        retry_after: Option<u64>,
    },
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

impl Turn<'_> {
    async fn run(&self, mut sink: Sink) -> Result<(), Fault> {
        for _ in 0..CHUNKS {
            if self.replay(&mut sink).await? == Go::Stop {
                return Ok(());
            }
            let now = self.app.clock.now();
            if sink.next_attempt_at.is_some_and(|at| at > now) {
                return Ok(());
            }
            if self.chunk(&mut sink).await? == Go::Stop {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Everything before a place is done with. Says to stop if the sink is not ours any more.
    async fn reached(
        &self,
        sink: &mut Sink,
        position: u64,
        delivered: Option<OffsetDateTime>,
    ) -> Result<Go, Fault> {
        let mut connection = self.app.pool.acquire().await?;
        let until = self.app.clock.now() + LEASE;
        let ours = (self.id, self.lease);
        match store::mark_reached(&mut connection, ours, (position, delivered), until).await? {
            Some(now) => {
                *sink = now;
                Ok(Go::On)
            }
            None => Ok(Go::Stop),
        }
    }

    /// Dead letters that are to be sent again, once each.
    async fn replay(&self, sink: &mut Sink) -> Result<Go, Fault> {
        loop {
            let mut connection = self.app.pool.acquire().await?;
            let Some(seq) = store::next_replay(&mut connection, self.id).await? else { return Ok(Go::On) };
            let document = audit::store::documents_of(&mut connection, &[seq]).await?.pop();
            drop(connection);
            let sent = match &document {
                Some((_, document)) => {
                    let event = serde_json::from_str(document).unwrap_or_default();
                    self.send(sink, document, &event).await?
                }
                None => Sent::Refused { error: "archived".into(), status: None, retry_after: None },
            };
            let mut connection = self.app.pool.acquire().await?;
            match sent {
                Sent::Taken => store::mark_taken(&mut connection, self.id, seq).await?,
                Sent::Gone => return self.gone().await,
                Sent::Refused { error, .. } => {
                    let now = self.app.clock.now();
                    store::put_dead_letter(&mut connection, (self.id, seq), (1, &error), now).await?;
                }
            }
            drop(connection);
            let position = sink.position;
            if self.reached(sink, position, None).await? == Go::Stop {
                return Ok(Go::Stop);
            }
        }
    }

    /// The next events, one after the other.
    async fn chunk(&self, sink: &mut Sink) -> Result<Go, Fault> {
        let mut connection = self.app.pool.acquire().await?;
        let floor = parts::floor(&mut connection).await?;
        let size = audit::store::head(&mut connection).await?.size();
        drop(connection);
        if sink.position < floor && self.passed_over(sink, floor).await? == Go::Stop {
            return Ok(Go::Stop);
        }
        let mut connection = self.app.pool.acquire().await?;
        let range = sink.position.max(floor)..size.min(sink.position.max(floor) + CHUNK);
        if range.is_empty() {
            return Ok(Go::Stop);
        }
        let rows = audit::store::documents_in(&mut connection, range.clone()).await?;
        drop(connection);
        let mut filter = sink.filter()?;
        for (seq, document) in rows {
            let event: Value = serde_json::from_str(&document).unwrap_or_default();
            if !filter.matches(&event) {
                continue;
            }
            let go = match self.send(sink, &document, &event).await? {
                Sent::Taken => self.reached(sink, seq + 1, Some(self.app.clock.now())).await?,
                Sent::Gone => self.gone().await?,
                Sent::Refused { error, status, retry_after } => {
                    self.refused(sink, (seq, &event), (&error, status), retry_after).await?
                }
            };
            if go == Go::Stop {
                return Ok(Go::Stop);
            }
            // It may have been declared anew meanwhile.
            filter = sink.filter()?;
        }
        self.reached(sink, range.end, None).await
    }

    /// What was archived before it was sent is in files, and cannot be sent any more: that is recorded, not passed over in
    /// silence.
    async fn passed_over(&self, sink: &mut Sink, floor: u64) -> Result<Go, Fault> {
        let now = self.app.clock.now();
        let mut work = Work::begin(&self.app.pool).await?;
        let reached =
            store::mark_reached(work.connection(), (self.id, self.lease), (floor, None), now + LEASE).await?;
        let Some(reached) = reached else { return Ok(Go::Stop) };
        let mut told = Event::new(now, Action::SinkDeadLetter, Actor::server());
        told.target = Some(self.id.to_owned());
        told.detail = Some(json!({"seq": sink.position, "to": floor, "attempts": 0, "status": null}));
        work.commit(&[told]).await?;
        *sink = reached;
        Ok(Go::On)
    }

    async fn send(&self, sink: &Sink, document: &str, event: &Value) -> Result<Sent, Fault> {
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
        let delivery = Delivery { content_type, fields, body: &body };
        Ok(match self.app.vault.outbound.deliver(&sink.url, delivery).await {
            Ok(said) if (200..300).contains(&said.status) => Sent::Taken,
            Ok(said) if said.status == GONE => Sent::Gone,
            Ok(said) => Sent::Refused {
                error: format!("status {}", said.status),
                status: Some(said.status),
                retry_after: said.retry_after,
            },
            Err(fault) => {
                let error: String = fault.to_string().chars().take(MOST_ERROR).collect();
                Sent::Refused { error, status: None, retry_after: None }
            }
        })
    }

    /// Under the secrets as they are now: opened again when they were sealed anew.
    async fn sign(&self, sink: &Sink, what: (&str, i64), body: &str) -> Result<String, Fault> {
        let mut connection = self.app.pool.acquire().await?;
        let secrets = Secrets::open(&self.app.vault.keys, &mut connection, sink).await?;
        let live: Vec<Secret> = secrets.live(self.app.clock.now());
        Ok(webhooks::signatures(&live, what, body))
    }

    async fn refused(
        &self,
        sink: &mut Sink,
        (seq, event): (u64, &Value),
        (error, status): (&str, Option<u16>),
        retry_after: Option<u64>,
    ) -> Result<Go, Fault> {
        let now = self.app.clock.now();
        // What came between the last one that was taken and this one is not for this sink: done with, too.
        if seq > sink.position && self.reached(sink, seq, None).await? == Go::Stop {
            return Ok(Go::Stop);
        }
        let attempts = sink.attempts + 1;
        metrics::counter!("actchain_sink_failures_total").increment(1);
        if attempts < self.app.config.audit.sink_attempts {
            let [chance] = random::bytes::<1>()?;
            let next = now + pause(attempts, chance, retry_after);
            let mut connection = self.app.pool.acquire().await?;
            store::mark_failed(&mut connection, (self.id, self.lease), (attempts, next), error).await?;
            return Ok(Go::Stop);
        }
        self.put_aside(sink, (seq, event), (attempts, error, status), now).await
    }

    /// It is given up for the sake of those behind it.
    async fn put_aside(
        &self,
        sink: &mut Sink,
        (seq, event): (u64, &Value),
        (attempts, error, status): (u32, &str, Option<u16>),
        now: OffsetDateTime,
    ) -> Result<Go, Fault> {
        let ours = (self.id, self.lease);
        // That a sink did not take the news of a dead letter is not news: else two sinks that are down would tell each
        // other of it for ever.
        if event.get("action").and_then(Value::as_str) == Some(Action::SinkDeadLetter.name()) {
            let mut silent = self.app.pool.begin().await?;
            store::put_dead_letter(&mut silent, (self.id, seq), (attempts, error), now).await?;
            let reached = store::mark_reached(&mut silent, ours, (seq + 1, None), now + LEASE).await?;
            let Some(reached) = reached else { return Ok(Go::Stop) };
            silent.commit().await?;
            *sink = reached;
            return Ok(Go::On);
        }
        let mut work = Work::begin(&self.app.pool).await?;
        store::put_dead_letter(work.connection(), (self.id, seq), (attempts, error), now).await?;
        let reached = store::mark_reached(work.connection(), ours, (seq + 1, None), now + LEASE).await?;
        let Some(reached) = reached else { return Ok(Go::Stop) };
        let mut told = Event::new(now, Action::SinkDeadLetter, Actor::server());
        told.target = Some(self.id.to_owned());
        told.detail = Some(json!({"seq": seq, "attempts": attempts, "status": status}));
        work.commit(&[told]).await?;
        *sink = reached;
        Ok(Go::On)
    }

    /// It wants no more.
    async fn gone(&self) -> Result<Go, Fault> {
        let now = self.app.clock.now();
        let mut work = Work::begin(&self.app.pool).await?;
        if store::mark_disabled(work.connection(), self.id, "answered 410", now).await? {
            let mut event = Event::new(now, Action::SinkChanged, Actor::server());
            event.target = Some(self.id.to_owned());
            event.detail = Some(json!({"change": "disabled", "status": GONE}));
            work.commit(&[event]).await?;
        }
        Ok(Go::Stop)
    }
}
