//! The plan of a manifest: its lines, and the events of what changes.

use std::collections::BTreeSet;

use secrecy::SecretString;

use super::change::Line;
use crate::domain::audit::detail::DeclaredChange;
use crate::domain::audit::{Event, EventKind};
use crate::domain::registry::Registry;
use crate::platform::outbound::Outbound;
use crate::services::request_context::RequestContext;

/// Result of a plan, carried out or not.
#[derive(Debug, Default)]
pub struct ApplyOutcome {
    pub lines: Vec<Line>,
    /// Secrets generated for clients and sinks without a declared secret; they cannot be read again.
    pub secrets: Vec<(String, SecretString)>,
}

/// A manifest compared with what is stored, entry by entry.
pub(super) struct Plan<'a> {
    pub(super) ctx: &'a RequestContext<'a>,
    pub(super) outbound: Outbound,
    /// Ids of clients that may lose their kind or their credentials.
    pub(super) replace: BTreeSet<String>,
    pub(super) registry: Registry,
    pub(super) known_clients: BTreeSet<String>,
    pub(super) events: Vec<Event>,
    pub(super) outcome: ApplyOutcome,
}

impl Plan<'_> {
    /// Adds a line. Returns whether the entry has to be written.
    pub(super) fn line(&mut self, line: Line, kind: impl FnOnce(DeclaredChange) -> EventKind) -> bool {
        let (change, target) = (line.change.recorded(), line.id.clone());
        self.outcome.lines.push(line);
        let event = |change| Event { target: Some(target), ..self.ctx.event(kind(change)) };
        self.events.extend(change.map(event));
        change.is_some()
    }
}
