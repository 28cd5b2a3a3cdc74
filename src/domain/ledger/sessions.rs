//! The sessions of a batch: one statement for those that have no name and were not stored within the last minute.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::batch_error::BatchError;
use super::entry::{Entry, Write};
use super::snapshot::Snapshot;
use super::writing::Writing;
use crate::domain::session::cache::StoredSession;
use crate::domain::session::report::WantedSession;
use crate::domain::session::{self, SessionOwner, SessionRequest, store};

/// The session of each entry that asks for one.
pub(super) struct AssignedSessions {
    pub(super) ids: Vec<Option<String>>,
    stored: Vec<(SessionOwner, StoredSession)>,
}

impl AssignedSessions {
    pub(super) fn has_stored(&self) -> bool {
        !self.stored.is_empty()
    }

    /// Keeps what was stored, after the commit.
    pub(super) fn keep(&self, writing: Writing<'_>) {
        for (owner, stored) in &self.stored {
            writing.sessions.keep(owner.clone(), writing.names, *stored);
        }
    }
}

/// Decides the sessions, and writes them into the events.
pub(super) async fn assign(
    writing: Writing<'_>,
    connection: &mut PgConnection,
    snapshot: &Snapshot,
    entries: &mut [Entry],
) -> Result<AssignedSessions, BatchError> {
    let mut ids = Vec::with_capacity(entries.len());
    let mut wanted = BTreeMap::new();
    for entry in &*entries {
        let Some(SessionRequest { owner, name, proposed }) = &entry.session else {
            ids.push(None);
            continue;
        };
        ids.push(match wanted_session(entry, name.as_deref(), snapshot) {
            WantedSession::Id(id) => Some(id.to_owned()),
            WantedSession::Named(name) => {
                Some(session::named(writing.rows, writing.names, owner, name)?.to_string())
            }
            WantedSession::Continued => {
                let cached = writing.sessions.find(owner, writing.names, entry.now);
                if cached.is_none() {
                    let (_, last_at) = wanted.entry(owner).or_insert((*proposed, entry.now));
                    *last_at = (*last_at).max(entry.now);
                }
                cached.map(|id| id.to_string())
            }
        });
    }
    let mut stored = Vec::with_capacity(wanted.len());
    if !wanted.is_empty() {
        let found = store::continue_or_begin(connection, &wanted).await?;
        for (entry, id) in entries.iter().zip(&mut ids) {
            let owner = entry.session.as_ref().map(|request| &request.owner);
            if id.is_none() {
                *id = owner.and_then(|owner| found.get(owner)).map(Uuid::to_string);
            }
        }
        stored.extend(wanted.into_iter().filter_map(|(owner, (_, last_at))| {
            let (owner, id) = found.get_key_value(owner)?;
            Some((owner.clone(), StoredSession { id: *id, last_at }))
        }));
    }
    for (entry, id) in entries.iter_mut().zip(&ids) {
        let steps = match &mut entry.write {
            Write::Steps(report) => report.steps.as_mut_slice(),
            Write::Nothing | Write::Token(_) | Write::Ceremony(_) | Write::Retrieval => &mut [],
        };
        let events = steps.iter_mut().map(|step| &mut step.event).chain(&mut entry.event);
        if let Some(id) = id {
            events.for_each(|event| event.session_id = Some(id.clone()));
        }
    }
    Ok(AssignedSessions { ids, stored })
}

/// The session that an entry asks for; `name` is that of an exchange.
fn wanted_session<'a>(entry: &'a Entry, name: Option<&'a str>, snapshot: &'a Snapshot) -> WantedSession<'a> {
    match entry.steps() {
        Some(report) => {
            let leaf = entry.guards.path.last();
            let newest = leaf.and_then(|id| snapshot.exchanges.get(id));
            WantedSession::of_report(report.session.as_ref(), newest, entry.now)
        }
        None => name.map_or(WantedSession::Continued, WantedSession::Named),
    }
}
