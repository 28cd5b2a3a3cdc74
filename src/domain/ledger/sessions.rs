//! The sessions of a batch: one statement for those that have no name and were not stored within the last minute.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::batch_error::BatchError;
use super::entry::Entry;
use super::writing::Writing;
use crate::domain::session::cache::StoredSession;
use crate::domain::session::{self, SessionOwner, SessionRequest, store};

/// The session of each entry that asks for one.
pub(super) struct AssignedSessions {
    pub(super) ids: Vec<Option<Uuid>>,
    stored: Vec<(SessionOwner, StoredSession)>,
}

impl AssignedSessions {
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
    entries: &mut [Entry],
) -> Result<AssignedSessions, BatchError> {
    let mut ids = Vec::with_capacity(entries.len());
    let mut wanted = BTreeMap::new();
    for entry in &*entries {
        ids.push(match &entry.session {
            None => None,
            Some(SessionRequest { owner, name: Some(name), .. }) => {
                Some(session::named(writing.rows, writing.names, owner, name)?)
            }
            Some(SessionRequest { owner, name: None, proposed }) => {
                let cached = writing.sessions.find(owner, writing.names, entry.now);
                if cached.is_none() {
                    let (_, last_at) = wanted.entry(owner).or_insert((*proposed, entry.now));
                    *last_at = (*last_at).max(entry.now);
                }
                cached
            }
        });
    }
    let mut stored = Vec::with_capacity(wanted.len());
    if !wanted.is_empty() {
        let found = store::continue_or_begin(connection, &wanted).await?;
        for (entry, id) in entries.iter().zip(&mut ids) {
            let owner = entry.session.as_ref().map(|request| &request.owner);
            *id = id.or_else(|| owner.and_then(|owner| found.get(owner)).copied());
        }
        stored.extend(wanted.into_iter().filter_map(|(owner, (_, last_at))| {
            let (owner, id) = found.get_key_value(owner)?;
            Some((owner.clone(), StoredSession { id: *id, last_at }))
        }));
    }
    for (entry, id) in entries.iter_mut().zip(&ids) {
        if let (Some(event), Some(id)) = (&mut entry.event, id) {
            event.session_id = Some(id.to_string());
        }
    }
    Ok(AssignedSessions { ids, stored })
}
