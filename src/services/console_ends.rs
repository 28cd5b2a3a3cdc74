//! Sessions in the console that end without their person, each with its event.

use time::{Duration, OffsetDateTime};

use super::request_context::RequestContext;
use super::transaction::AuditedTransaction;
use crate::app::App;
use crate::domain::audit::detail::SessionEnd;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::console::store::{self, EndedSession, OverSession};
use crate::platform::fault::Fault;

/// The events of sessions that an operation ends.
pub(super) fn ended_by(ctx: &RequestContext<'_>, ended: Vec<EndedSession>, cause: SessionEnd) -> Vec<Event> {
    let event = |one: EndedSession| {
        let kind = EventKind::ConsoleSessionEnded { ended: one.id, cause };
        Event { subject: one.who, ..ctx.event(kind) }
    };
    ended.into_iter().map(event).collect()
}

/// Ends the sessions that were not used for long, or are too old, each with its event. Returns their number.
pub async fn end_over(app: &App, now: OffsetDateTime) -> Result<u64, Fault> {
    let idle = Duration::seconds(app.config.console.idle.into());
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    let over = store::mark_over(work.connection(), now - idle, now).await?;
    let event = |OverSession { session, is_expired }: OverSession| {
        let cause = if is_expired { SessionEnd::Expired } else { SessionEnd::Idle };
        let kind = EventKind::ConsoleSessionEnded { ended: session.id, cause };
        Event { subject: session.who, ..Event::new(now, kind, Actor::Server) }
    };
    let events: Vec<Event> = over.into_iter().map(event).collect();
    match events.is_empty() {
        true => work.abandon().await?,
        false => work.commit(&events).await?,
    }
    Ok(u64::try_from(events.len()).unwrap_or(u64::MAX))
}
