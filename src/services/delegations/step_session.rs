//! The session that reported steps are in.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventSearch, Order};
use crate::domain::delegation::Delegation;
use crate::domain::delegation::transitions::LockedUsage;
use crate::domain::person;
use crate::domain::refusal::Error;
use crate::domain::session::names::{NameMeaning, SessionNames, UsedName};
use crate::domain::session::{self, SessionOwner};
use crate::platform::fault::Fault;
use crate::services::audit::log_names::with_log_names;
use crate::services::request_context::RequestContext;
use actchain_protocol::random;

/// The session that a report asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WantedSession {
    /// The one in which the client works.
    Current,
    /// One that the log has, in which the client works.
    Known(String),
    /// The client's own name for a session, with the id that is made of it.
    Named { name: String, id: String },
}

fn owner(leaf: &Delegation) -> SessionOwner {
    SessionOwner { client_id: leaf.delegate.clone(), subject: leaf.root.clone() }
}

/// The name in a report about a delegation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Naming<'a> {
    pub(super) leaf: &'a Delegation,
    pub(super) name: Option<&'a str>,
}

/// Reads what a name means, before any lock: the log is searched for it once a minute.
pub(super) async fn wanted(
    ctx: &RequestContext<'_>,
    names: &SessionNames,
    connection: &mut PgConnection,
    Naming { leaf, name }: Naming<'_>,
) -> Result<WantedSession, Fault> {
    let Some(name) = name.filter(|name| session::is_name(name)) else { return Ok(WantedSession::Current) };
    let used = UsedName { owner: owner(leaf), name: name.to_owned() };
    let meaning = match names.find(&used) {
        Some(meaning) => meaning,
        None => {
            let meaning = meaning(connection, &used).await?;
            names.keep(used, meaning);
            meaning
        }
    };
    let name = name.to_owned();
    if meaning == NameMeaning::Id {
        return Ok(WantedSession::Known(name));
    }
    let owner = owner(leaf);
    let subject = BTreeSet::from([owner.subject.clone()]);
    let persons = person::store::put_persons(connection, &subject).await?;
    let id = session::named(ctx.rows, &persons, &owner, &name)?.to_string();
    Ok(WantedSession::Named { name, id })
}

/// The session of a report. Without a name, it is the session of the newest exchange under the delegation, else the one that
/// goes on.
pub(super) async fn session_of(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    leaf: &Delegation,
    usage: &LockedUsage,
    wanted: &WantedSession,
) -> Result<String, Error> {
    let newest = usage.session_id.as_ref().zip(usage.session_at);
    let owner = owner(leaf);
    match wanted {
        WantedSession::Known(id) => return Ok(id.clone()),
        // An exchange within the last minute may be the first one in the session of this id.
        WantedSession::Named { name, .. } if newest.is_some_and(|(id, _)| id == name) => {
            return Ok(name.clone());
        }
        WantedSession::Named { id, .. } => return Ok(id.clone()),
        WantedSession::Current => {}
    }
    if let Some((id, _)) = newest.filter(|(_, at)| ctx.now - *at <= session::MAX_IDLE) {
        return Ok(id.clone());
    }
    let wanted = BTreeMap::from([(&owner, (random::id(ctx.now)?, ctx.now))]);
    let found = session::store::continue_or_begin(connection, &wanted).await.map_err(Fault::from)?;
    let id = found.get(&owner).ok_or_else(|| Fault::new("a session was not stored"))?;
    Ok(id.to_string())
}

/// What a name is to the client: an id, if the client has an event for the user in that session.
async fn meaning(
    connection: &mut PgConnection,
    UsedName { owner, name }: &UsedName,
) -> Result<NameMeaning, Fault> {
    let filter = Filter {
        session: Some(name.to_owned()),
        client: Some(owner.client_id.clone()),
        // A refused request is no work in a session.
        outcome: Some("success".to_owned()),
        subject_iss: Some(owner.subject.iss.clone()),
        subject_sub: Some(owner.subject.sub.clone()),
        ..Filter::default()
    };
    let filter = with_log_names(connection, &filter).await?;
    let range = search::search_range(connection).await?;
    let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Newest };
    let mut after = None;
    loop {
        let page = search::page(connection, search, &range, after, 1).await?;
        if !page.found.is_empty() {
            return Ok(NameMeaning::Id);
        }
        // A page that found nothing may have stopped early.
        after = page.next;
        if after.is_none() {
            return Ok(NameMeaning::Own);
        }
    }
}
