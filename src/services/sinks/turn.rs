//! What deliveries of events and notifications share: the lease of a sink, a signed request, and the end of a sink.

use std::ops::ControlFlow;

use time::{Duration, OffsetDateTime};

use crate::app::App;
use crate::domain::audit::health::DECLINED;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::sink::store::{Lease, Progress};
use crate::domain::sink::{SigningSecrets, Sink, store};
use crate::platform::fault::Fault;
use crate::platform::outbound::{MailFailure, WebhookRequest, WebhookResponse};
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::standard_webhooks::{self as webhooks, Secret};

/// Longer than one delivery and one database statement take.
pub(super) const LEASE: Duration = Duration::seconds(30);
/// RFC 9110 §15.5.11: the sink wants no more events.
const GONE: u16 = 410;
/// Statuses of the 4xx class that say nothing about the content: RFC 9110 §15.5.9, RFC 8470 §5.2, RFC 6585 §4.
const TRY_LATER: [u16; 3] = [408, 425, 429];
/// Maximum length of a recorded error, in characters.
const MAX_ERROR_CHARS: usize = 200;

/// The turn of this server at one sink.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) app: &'a App,
    pub(super) id: &'a str,
    pub(super) lease: Lease<'a>,
}

/// Result of a delivery.
pub(super) enum DeliveryAttempt {
    Accepted,
    /// The sink wants no more events.
    Declined,
    Refused(Failure),
}

/// Why a delivery failed.
pub(super) struct Failure {
    pub(super) error: String,
    pub(super) status: Option<u16>,
    /// Seconds until a retry, from `Retry-After` (RFC 9110 §10.2.3).
    pub(super) retry_after: Option<u64>,
    /// Whether the sink objects to what the request contains, so that other requests may be accepted now.
    pub(super) is_about_content: bool,
}

impl Failure {
    pub(super) fn without_response(error: &str) -> Self {
        let error = error.chars().take(MAX_ERROR_CHARS).collect();
        Self { error, status: None, retry_after: None, is_about_content: false }
    }

    fn of_webhook(response: &WebhookResponse) -> Self {
        let status = response.status;
        Self {
            error: format!("status {status}"),
            status: Some(status),
            retry_after: response.retry_after,
            is_about_content: (400..500).contains(&status) && !TRY_LATER.contains(&status),
        }
    }

    pub(super) fn of_mail(failure: &MailFailure) -> Self {
        let is_about_content = failure.is_about_message();
        Self { status: failure.code, is_about_content, ..Self::without_response(&failure.error) }
    }
}

/// A request to a sink, without its signature.
pub(super) struct SinkWebhook<'a> {
    /// The same in all attempts.
    pub(super) id: &'a str,
    pub(super) content_type: &'static str,
    /// Additional header fields.
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) body: &'a str,
}

impl Turn<'_> {
    /// Posts a signed request to the URL of the sink.
    pub(super) async fn post(&self, sink: &Sink, webhook: SinkWebhook<'_>) -> Result<DeliveryAttempt, Fault> {
        let SinkWebhook { id, content_type, fields, body } = webhook;
        let timestamp = self.app.clock.now().unix_timestamp();
        let signed = [
            (webhooks::ID, id.to_owned()),
            (webhooks::TIMESTAMP, timestamp.to_string()),
            (webhooks::SIGNATURE, self.sign(sink, id, timestamp, body).await?),
        ];
        let fields = signed.into_iter().chain(fields).collect();
        let request = WebhookRequest { content_type, fields, body };
        Ok(match self.app.vault.outbound.deliver(&sink.url, request).await {
            Ok(response) if (200..300).contains(&response.status) => DeliveryAttempt::Accepted,
            Ok(response) if response.status == GONE => DeliveryAttempt::Declined,
            Ok(response) => DeliveryAttempt::Refused(Failure::of_webhook(&response)),
            Err(fault) => DeliveryAttempt::Refused(Failure::without_response(&fault.to_string())),
        })
    }

    /// Signs with the stored secrets; reads them again, because a rekey may have resealed them.
    async fn sign(&self, sink: &Sink, id: &str, timestamp: i64, body: &str) -> Result<String, Fault> {
        let mut connection = self.app.pool.acquire().await?;
        let secrets = SigningSecrets::open(&self.app.vault.keys, &mut connection, sink).await?;
        let active: Vec<Secret> = secrets.active(self.app.clock.now());
        Ok(webhooks::signatures(&active, id, timestamp, body))
    }

    /// Events archived before delivery are only in files and cannot be delivered; the skip is recorded.
    pub(super) async fn skip_archived(
        &self,
        sink: &mut Sink,
        first_available: u64,
    ) -> Result<ControlFlow<()>, Fault> {
        let now = self.app.clock.now();
        let mut work = AuditedTransaction::begin(&self.app.pool).await?;
        let progress = Progress { cursor: first_available, delivered_at: None };
        let advanced = store::mark_delivered(work.connection(), self.lease, progress, now + LEASE).await?;
        let Some(advanced) = advanced else { return Ok(ControlFlow::Break(())) };
        let kind = EventKind::SinkSkipped { from: sink.cursor, to: first_available };
        work.commit(&[self.event(kind, now)]).await?;
        *sink = advanced;
        Ok(ControlFlow::Continue(()))
    }

    /// Disables a sink that answered 410.
    pub(super) async fn disable(&self) -> Result<ControlFlow<()>, Fault> {
        let now = self.app.clock.now();
        let mut work = AuditedTransaction::begin(&self.app.pool).await?;
        if store::mark_disabled(work.connection(), self.id, DECLINED, now).await? {
            let kind = EventKind::SinkDisabled { status: Some(GONE) };
            work.commit(&[self.event(kind, now)]).await?;
        }
        Ok(ControlFlow::Break(()))
    }

    pub(super) fn event(&self, kind: EventKind, now: OffsetDateTime) -> Event {
        Event { target: Some(self.id.to_owned()), ..Event::new(now, kind, Actor::Server) }
    }
}
