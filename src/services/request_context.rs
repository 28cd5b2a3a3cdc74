//! The context of a request to the management API, or of an operator's command.

use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::caller::Caller;
use crate::app::App;
use crate::domain::audit::{Event, EventKind, RequestOrigin};
use crate::domain::capability::CapabilityLevels;
use crate::domain::delegation::DelegationPath;
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::row_mac::RowMac;
use crate::platform::config::Config;

/// The caller, the time, and what services need to serve the request.
#[derive(Debug, Clone)]
pub struct RequestContext<'a> {
    pub caller: Caller,
    pub now: OffsetDateTime,
    pub origin: RequestOrigin,
    /// Idempotency key of the request. A key makes the server store the result.
    pub idempotency_key: Option<IdempotencyKey>,
    /// This server's issuer identifier.
    pub issuer: &'a str,
    pub config: &'a Config,
    /// Capabilities in their order.
    pub capability_levels: &'a CapabilityLevels,
    pub pool: &'a PgPool,
    /// Computes and verifies the MACs of rows.
    pub rows: &'a RowMac,
}

impl<'a> RequestContext<'a> {
    /// A request to a running server, without an idempotency key.
    pub fn new(app: &'a App, caller: Caller, origin: RequestOrigin, now: OffsetDateTime) -> Self {
        Self {
            caller,
            now,
            origin,
            idempotency_key: None,
            issuer: &app.issuer,
            config: &app.config,
            capability_levels: &app.capability_levels,
            pool: &app.pool,
            rows: &app.rows,
        }
    }

    /// An event with the caller as actor.
    pub fn event(&self, kind: EventKind) -> Event {
        let console = self.caller.session();
        Event { origin: self.origin.clone(), console, ..Event::new(self.now, kind, self.caller.actor()) }
    }

    /// An event with the caller as actor, about the last delegation of a path.
    pub fn event_about(&self, kind: EventKind, path: &DelegationPath) -> Event {
        Event {
            origin: self.origin.clone(),
            console: self.caller.session(),
            ..Event::of_delegation(self.now, kind, self.caller.actor(), path, self.issuer)
        }
    }
}

/// The parts of a context that belong to one request, for a task that outlives the request.
#[derive(Debug)]
pub(super) struct OwnedRequest {
    caller: Caller,
    now: OffsetDateTime,
    origin: RequestOrigin,
    idempotency_key: Option<IdempotencyKey>,
}

impl OwnedRequest {
    pub(super) fn of(ctx: &RequestContext<'_>) -> Self {
        Self {
            caller: ctx.caller.clone(),
            now: ctx.now,
            origin: ctx.origin.clone(),
            idempotency_key: ctx.idempotency_key.clone(),
        }
    }

    pub(super) fn context(self, app: &App) -> RequestContext<'_> {
        let Self { caller, now, origin, idempotency_key } = self;
        RequestContext { idempotency_key, ..RequestContext::new(app, caller, origin, now) }
    }
}
