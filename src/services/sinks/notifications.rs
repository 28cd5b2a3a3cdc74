//! Notifies users of what waits for their decision. Each sink reads the log, collects what waits for each user, and sends one
//! message for all of it when the first request has waited for a while. Neither a restart nor a failure loses a message;
//! after a crash the last one is repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use time::OffsetDateTime;

use super::message::Message;
use super::turn::{DeliveryAttempt, Failure, LEASE, SinkWebhook, Turn};
use super::waiting::{Ask, WaitingItem, still_waiting};
use crate::domain::audit::personal::PersonView;
use crate::domain::audit::{self, EventKind, partitions};
use crate::domain::principal::Principal;
use crate::domain::sink::recipients::{self, DueRecipient, PendingNotice};
use crate::domain::sink::store::{FailedDelivery, Undelivered};
use crate::domain::sink::{
    MAX_KEPT, MAX_NAMED, MailSettings, NotificationSettings, Sink, is_address, open_password, pause, store,
};
use crate::platform::db;
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::{MailLogin, OutgoingMail};
use crate::services::audit::log_names::people_of;
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::{metadata, random};

/// Number of events per read.
const CHUNK: u64 = 1_024;
/// Number of chunks before the sink is released to other servers.
const CHUNKS: usize = 16;
/// Number of messages before the sink is released to other servers.
const MESSAGES: usize = 256;

/// Reads the log, then sends the messages that are due, until one fails or the turn ends.
pub(super) async fn run(turn: &Turn<'_>, sink: Sink, settings: NotificationSettings) -> Result<(), Fault> {
    let mut run = NotificationRun { turn, sink, settings };
    for _ in 0..CHUNKS {
        run.replay().await?;
        if run.sink.next_attempt_at.is_some_and(|at| at > turn.app.clock.now()) {
            return Ok(());
        }
        if run.collect().await? == ControlFlow::Break(()) {
            break;
        }
    }
    for _ in 0..MESSAGES {
        if run.notify().await? == ControlFlow::Break(()) {
            break;
        }
    }
    let mut connection = turn.app.pool.acquire().await?;
    recipients::delete_idle(&mut connection, turn.id, turn.app.clock.now()).await
}

struct NotificationRun<'a> {
    turn: &'a Turn<'a>,
    sink: Sink,
    settings: NotificationSettings,
}

impl NotificationRun<'_> {
    /// Adds the next events to the messages of recipients. `Break` at the end of the log, or if the lease is lost.
    async fn collect(&mut self) -> Result<ControlFlow<()>, Fault> {
        let app = self.turn.app;
        let mut connection = app.pool.acquire().await?;
        let first_available = partitions::first_available(&mut connection).await?;
        let size = audit::store::head(&mut connection).await?.size();
        drop(connection);
        if self.sink.cursor < first_available
            && self.turn.skip_archived(&mut self.sink, first_available).await? == ControlFlow::Break(())
        {
            return Ok(ControlFlow::Break(()));
        }
        let range = self.sink.cursor..size.min(self.sink.cursor + CHUNK);
        if range.is_empty() {
            return Ok(ControlFlow::Break(()));
        }
        let mut connection = app.pool.acquire().await?;
        let rows = audit::store::events_in(&mut connection, range.clone()).await?;
        drop(connection);
        let now = app.clock.now();
        let waiting = self.waiting(rows.iter().filter_map(Ask::of).collect(), now).await?;
        let mut collecting = db::begin(&app.pool, "BEGIN").await?;
        let collected =
            store::mark_collected(&mut collecting, self.turn.lease, range.end, now + LEASE).await?;
        if self.redeclared(collected) == ControlFlow::Break(()) {
            return Ok(ControlFlow::Break(()));
        }
        for pending in self.pending(&waiting)? {
            recipients::put_pending(&mut collecting, self.turn.id, &pending, &self.settings, now).await?;
        }
        collecting.commit().await?;
        Ok(ControlFlow::Continue(()))
    }

    /// Goes on with the sink as declared at present. `Break` if the lease is lost, or the sink is no longer for
    /// notifications.
    fn redeclared(&mut self, sink: Option<Sink>) -> ControlFlow<()> {
        let Some((sink, settings)) = sink.and_then(|sink| Some((sink.clone(), sink.notification?))) else {
            return ControlFlow::Break(());
        };
        (self.sink, self.settings) = (sink, settings);
        ControlFlow::Continue(())
    }

    /// What waits, of users whose pseudonyms can still be resolved.
    async fn waiting(&self, asks: Vec<Ask>, now: OffsetDateTime) -> Result<Vec<WaitingItem>, Fault> {
        let mut connection = self.turn.app.pool.acquire().await?;
        let mut waiting = still_waiting(self.turn.app, &mut connection, asks, now).await?;
        let names: BTreeSet<String> = waiting.iter().map(|one| one.ask.person.clone()).collect();
        let people = people_of(&mut connection, names).await?;
        waiting.retain(|one| match people.get(&one.ask.person) {
            Some(PersonView::Known { iss, sub }) => one.delegator == Principal::new(iss, sub),
            _ => false,
        });
        Ok(waiting)
    }

    /// Sends the next message that is due. `Break` if there is none, or no other may follow.
    async fn notify(&mut self) -> Result<ControlFlow<()>, Fault> {
        let app = self.turn.app;
        let now = app.clock.now();
        let mut connection = app.pool.acquire().await?;
        let Some(due) = recipients::next_due(&mut connection, self.turn.id, now).await? else {
            return Ok(ControlFlow::Break(()));
        };
        // The declaration may change with each message.
        let (lease, cursor) = (self.turn.lease, self.sink.cursor);
        let renewed = store::mark_collected(&mut connection, lease, cursor, now + LEASE).await?;
        drop(connection);
        if self.redeclared(renewed) == ControlFlow::Break(()) {
            return Ok(ControlFlow::Break(()));
        }
        let Some(message) = self.message(&due, now).await? else {
            let mut connection = app.pool.acquire().await?;
            recipients::mark_notified(&mut connection, lease, &due, 0, now).await?;
            return Ok(ControlFlow::Continue(()));
        };
        // The limits of a message are together shorter than a lease that begins now.
        let mut connection = app.pool.acquire().await?;
        let until = app.clock.now() + LEASE;
        let renewed = store::mark_collected(&mut connection, lease, cursor, until).await?;
        drop(connection);
        if renewed.is_none() {
            return Ok(ControlFlow::Break(()));
        }
        match self.send(&message).await? {
            DeliveryAttempt::Accepted => self.accepted(&due).await,
            DeliveryAttempt::Declined => self.turn.disable().await,
            DeliveryAttempt::Refused(failure) => self.refused(&due, failure).await,
        }
    }

    /// The message to a recipient; `None` if nothing waits any more.
    async fn message(&self, due: &DueRecipient, now: OffsetDateTime) -> Result<Option<Message>, Fault> {
        let mut connection = self.turn.app.pool.acquire().await?;
        let seqs: Vec<u64> = due.seqs.iter().filter_map(|seq| u64::try_from(*seq).ok()).collect();
        let mut rows = audit::store::events_of(&mut connection, &seqs).await?;
        drop(connection);
        rows.sort_by_key(|row| row.seq);
        let asks: Vec<Ask> = rows.iter().filter_map(Ask::of).collect();
        let Some(newest) = asks.last().cloned() else { return Ok(None) };
        let mut items = self.waiting(asks, now).await?;
        let mail = self.settings.mail.as_ref();
        let (user, to) = if is_address(&due.recipient) {
            let is_declared = mail.is_some_and(|mail| mail.to.contains(&due.recipient));
            (None, is_declared.then(|| due.recipient.clone()))
        } else {
            let mut connection = self.turn.app.pool.acquire().await?;
            let people = people_of(&mut connection, BTreeSet::from([due.recipient.clone()])).await?;
            let Some(PersonView::Known { iss, sub }) = people.get(&due.recipient) else { return Ok(None) };
            let user = Principal::new(iss, sub);
            items.retain(|one| one.delegator == user);
            let address = mail.and_then(|mail| mail.address_of(iss, sub)).map(str::to_owned);
            (Some(user), address)
        };
        // The addresses may have changed since the events were read.
        if to.is_none() && (mail.is_some() || user.is_none()) {
            return Ok(None);
        }
        let count = |number: usize| i64::try_from(number).context("counting requests");
        let unchecked = due.waiting - count(due.seqs.len())?;
        if items.is_empty() && unchecked <= 0 {
            return Ok(None);
        }
        let unnamed = items.len().saturating_sub(MAX_NAMED);
        items.drain(..unnamed);
        let more = unchecked + count(unnamed)?;
        Ok(Some(Message {
            id: newest.event_id,
            user,
            to,
            items,
            more,
            unchecked,
            url: metadata::endpoint(&self.turn.app.issuer, "/console/approvals"),
            at: newest.at,
        }))
    }

    async fn send(&self, message: &Message) -> Result<DeliveryAttempt, Fault> {
        if let Some(mail) = &self.settings.mail {
            return self.mail(mail, message).await;
        }
        let body = message.webhook()?;
        let webhook = SinkWebhook {
            id: &message.id,
            content_type: "application/json",
            fields: Vec::new(),
            body: &body,
        };
        self.turn.post(&self.sink, webhook).await
    }

    async fn mail(&self, settings: &MailSettings, message: &Message) -> Result<DeliveryAttempt, Fault> {
        let server = settings.server(&self.sink.url);
        let server = server.ok_or_else(|| Fault::new(format!("sink {}: its url", self.turn.id)))?;
        let login = match &settings.username {
            None => None,
            Some(username) => {
                let mut connection = self.turn.app.pool.acquire().await?;
                let keys = &self.turn.app.vault.keys;
                let password = open_password(keys, &mut connection, &self.sink).await?;
                password.map(|password| MailLogin { username: username.clone(), password })
            }
        };
        let to = message.to.as_ref().ok_or_else(|| Fault::new("a mail without an address"))?;
        let (subject, text) = (message.subject(), message.text());
        let at = self.turn.app.clock.now();
        let id = &message.mail_id();
        let mail = OutgoingMail { id, from: &settings.from, to, subject: &subject, text: &text, at };
        Ok(match self.turn.app.vault.outbound.mail(&server, login, &mail).await {
            Ok(()) => DeliveryAttempt::Accepted,
            Err(failure) => DeliveryAttempt::Refused(Failure::of_mail(&failure)),
        })
    }

    async fn accepted(&mut self, due: &DueRecipient) -> Result<ControlFlow<()>, Fault> {
        let now = self.turn.app.clock.now();
        let mut notifying = db::begin(&self.turn.app.pool, "BEGIN").await?;
        let sink = store::mark_accepted(&mut notifying, self.turn.lease, now, now + LEASE).await?;
        let Some(sink) = sink else { return Ok(ControlFlow::Break(())) };
        recipients::mark_notified(&mut notifying, self.turn.lease, due, 1, now).await?;
        notifying.commit().await?;
        self.sink = sink;
        Ok(ControlFlow::Continue(()))
    }

    /// Sets the time of the next attempt. Where the receiver objects to this message only, others follow at once.
    async fn refused(&mut self, due: &DueRecipient, failure: Failure) -> Result<ControlFlow<()>, Fault> {
        metrics::counter!("actchain_sink_failures_total").increment(1);
        let app = self.turn.app;
        let now = app.clock.now();
        let attempts = u32::try_from(due.attempts).context("counting attempts")? + 1;
        let [chance] = random::bytes::<1>()?;
        if attempts >= app.config.audit.sink_attempts {
            self.dead_letter(due, attempts, &failure).await?;
        } else {
            let next = now + pause(attempts, chance, failure.retry_after);
            let mut connection = app.pool.acquire().await?;
            recipients::mark_postponed(&mut connection, self.turn.lease, &due.recipient, next).await?;
        }
        let mut attempt =
            FailedDelivery { attempts: self.sink.attempts, error: &failure.error, next_attempt_at: now };
        let is_about_this = failure.is_about_content;
        if !is_about_this {
            attempt.attempts += 1;
            attempt.next_attempt_at = now + pause(attempt.attempts, chance, failure.retry_after);
        }
        let mut connection = app.pool.acquire().await?;
        store::mark_failed(&mut connection, self.turn.lease, attempt).await?;
        Ok(if is_about_this { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    /// Gives up a message. The dead letter is the newest event of the message.
    async fn dead_letter(&self, due: &DueRecipient, attempts: u32, failure: &Failure) -> Result<(), Fault> {
        let now = self.turn.app.clock.now();
        let seq = due.newest()?;
        let mut work = AuditedTransaction::begin(&self.turn.app.pool).await?;
        let letter = Undelivered { seq, attempts, error: &failure.error };
        store::put_dead_letter(work.connection(), self.turn.id, letter, now).await?;
        recipients::mark_notified(work.connection(), self.turn.lease, due, 0, now).await?;
        let kind = EventKind::SinkDeadLetter { seq, attempts, status: failure.status };
        work.commit(&[self.turn.event(kind, now)]).await
    }

    /// Notifies again of dead letters that are marked for it, as far as they still wait.
    async fn replay(&mut self) -> Result<(), Fault> {
        let app = self.turn.app;
        loop {
            let mut connection = app.pool.acquire().await?;
            let Some(seq) = store::next_replay(&mut connection, self.turn.id).await? else { return Ok(()) };
            let rows = audit::store::events_of(&mut connection, &[seq]).await?;
            drop(connection);
            let now = app.clock.now();
            let waiting = self.waiting(rows.iter().filter_map(Ask::of).collect(), now).await?;
            let mut replaying = db::begin(&app.pool, "BEGIN").await?;
            let cursor = self.sink.cursor;
            let renewed = store::mark_collected(&mut replaying, self.turn.lease, cursor, now + LEASE).await?;
            if self.redeclared(renewed) == ControlFlow::Break(()) {
                return Ok(());
            }
            for pending in self.pending(&waiting)? {
                recipients::put_pending(&mut replaying, self.turn.id, &pending, &self.settings, now).await?;
            }
            store::remove_dead_letter(&mut replaying, self.turn.id, seq).await?;
            replaying.commit().await?;
        }
    }

    /// What waits, by recipient: the number, and the newest events.
    fn pending(&self, waiting: &[WaitingItem]) -> Result<Vec<PendingNotice>, Fault> {
        let mail = self.settings.mail.as_ref();
        // Each address has its own message: one that refuses it delays no other.
        let addresses: BTreeSet<&str> =
            mail.map(|mail| mail.to.iter().map(String::as_str).collect()).unwrap_or_default();
        let mut by_recipient: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for one in waiting {
            let seq = i64::try_from(one.ask.seq).context("reading an event")?;
            let Principal { iss, sub } = &one.delegator;
            if mail.is_none_or(|mail| mail.address_of(iss, sub).is_some()) {
                by_recipient.entry(&one.ask.person).or_default().push(seq);
            }
            for address in addresses.iter().copied() {
                by_recipient.entry(address).or_default().push(seq);
            }
        }
        let of = |(recipient, seqs): (&str, Vec<i64>)| {
            let newest = seqs.get(seqs.len().saturating_sub(MAX_KEPT)..).unwrap_or_default().to_vec();
            let waiting = i64::try_from(seqs.len()).context("counting requests")?;
            Ok(PendingNotice { recipient: recipient.to_owned(), waiting, seqs: newest })
        };
        by_recipient.into_iter().map(of).collect()
    }
}
