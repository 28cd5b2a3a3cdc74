//! A manifest compared with what is stored, and the result of it.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::change::{EntryKind, Line};
use super::error::ApplyError;
use crate::domain::audit::detail::DeclaredChange;
use crate::domain::audit::{Event, EventKind};
use crate::domain::client::Client;
use crate::domain::registry::Registry;
use crate::platform::outbound::Outbound;
use crate::platform::seal::SealingKey;
use crate::platform::yaml::Place;
use crate::services::request_context::RequestContext;

/// Whether the plan is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Apply,
    DryRun,
}

/// A secret that was generated because none was declared; it cannot be read again.
#[derive(Debug)]
pub struct GeneratedSecret {
    pub kind: EntryKind,
    pub id: String,
    pub secret: SecretString,
}

/// Result of a plan, carried out or not. The stored result of a request has no secrets.
#[derive(Debug, Serialize, Deserialize)]
pub struct ApplyOutcome {
    pub mode: Mode,
    pub lines: Vec<Line>,
    #[serde(skip)]
    pub secrets: Vec<GeneratedSecret>,
}

/// The outcome as commands and the management API show it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ApplyReport {
    pub dry_run: bool,
    pub plan: Vec<Line>,
    pub secrets: Vec<ShownSecret>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ShownSecret {
    pub kind: EntryKind,
    pub id: String,
    pub secret: String,
}

impl From<ApplyOutcome> for ApplyReport {
    fn from(outcome: ApplyOutcome) -> Self {
        let warning = |line: &Line| {
            line.warning.as_ref().map(|warning| format!("{} {} is {warning}", line.kind, line.id))
        };
        let shown = |one: GeneratedSecret| ShownSecret {
            kind: one.kind,
            id: one.id,
            secret: one.secret.expose_secret().to_owned(),
        };
        Self {
            dry_run: outcome.mode == Mode::DryRun,
            warnings: outcome.lines.iter().filter_map(warning).collect(),
            secrets: outcome.secrets.into_iter().map(shown).collect(),
            plan: outcome.lines,
        }
    }
}

/// A manifest compared with what is stored, entry by entry.
pub(super) struct Plan<'a> {
    pub(super) ctx: &'a RequestContext<'a>,
    pub(super) outbound: Outbound,
    /// Seals the secrets of issuers; `None` without the master key.
    pub(super) seal: Option<SealingKey>,
    /// Ids of clients that may lose their kind or their credentials.
    pub(super) replace: BTreeSet<String>,
    pub(super) registry: Registry,
    pub(super) known_clients: BTreeSet<String>,
    /// The stored clients that the manifest declares, by id.
    pub(super) stored_clients: BTreeMap<String, Client>,
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

    /// Refuses an entry that decides who users are, who administers, what a user has delegated, or who gets credentials
    /// and personal data, unless the caller is an operator. Otherwise a stolen token of an administrator could become any
    /// user, or outlast its revocation.
    pub(super) fn require_operator(&self, place: &Place, what: &str) -> Result<(), ApplyError> {
        self.ctx.caller.require_operator().map_err(|_| self.only_an_operator(place, what))
    }

    /// Why only an operator may write an entry.
    pub(super) fn only_an_operator(&self, place: &Place, what: &str) -> ApplyError {
        ApplyError::for_operators(
            &place.whole(format!(
                "{what}: only an operator can, by `actchain apply` on the machine of the server"
            )),
        )
    }
}
