//! The session that reported steps are in.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use crate::app::App;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventSearch, Order};
use crate::domain::delegation::Delegation;
use crate::domain::person;
use crate::domain::refusal::Error;
use crate::domain::session::names::{NameMeaning, UsedName};
use crate::domain::session::report::{NewestExchange, ReportedName, WantedSession};
use crate::domain::session::{self, SessionOwner, SessionRequest};
use crate::platform::fault::Fault;
use crate::services::audit::log_names::with_log_names;
use crate::services::request_context::RequestContext;
use actchain_protocol::random;

fn owner(leaf: &Delegation) -> SessionOwner {
    SessionOwner { client_id: leaf.delegate.clone(), subject: leaf.root.clone() }
}

/// The name in a report, with what it means: the log is searched for it once a minute, before any lock.
pub(super) async fn reported_name(
    app: &App,
    leaf: &Delegation,
    name: Option<String>,
) -> Result<Option<ReportedName>, Fault> {
    let Some(name) = name.filter(|name| session::is_name(name)) else { return Ok(None) };
    let names = &app.caches.session_names;
    let used = UsedName { owner: owner(leaf), name: name.clone() };
    let meaning = match names.find(&used) {
        Some(meaning) => meaning,
        None => {
            let meaning = app.read(async |connection| meaning(connection, &used).await).await?;
            names.keep(used, meaning);
            meaning
        }
    };
    Ok(Some(ReportedName { name, meaning }))
}

/// The request for a session, to the ledger.
pub(super) fn session_request(ctx: &RequestContext<'_>, leaf: &Delegation) -> Result<SessionRequest, Fault> {
    Ok(SessionRequest { owner: owner(leaf), name: None, proposed: random::id(ctx.now)? })
}

/// The session of a report.
pub(super) async fn session_of(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    leaf: &Delegation,
    newest: Option<&NewestExchange>,
    name: Option<&ReportedName>,
) -> Result<String, Error> {
    let owner = owner(leaf);
    match WantedSession::of_report(name, newest, ctx.now) {
        WantedSession::Id(id) => Ok(id.to_owned()),
        WantedSession::Named(name) => {
            let subject = BTreeSet::from([owner.subject.clone()]);
            let persons = person::store::put_persons(connection, &subject).await?;
            Ok(session::named(ctx.rows, &persons, &owner, name)?.to_string())
        }
        WantedSession::Continued => {
            let wanted = BTreeMap::from([(&owner, (random::id(ctx.now)?, ctx.now))]);
            let found = session::store::continue_or_begin(connection, &wanted).await.map_err(Fault::from)?;
            let id = found.get(&owner).ok_or_else(|| Fault::new("a session was not stored"))?;
            Ok(id.to_string())
        }
    }
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
    let range = search::shared_search_range(connection).await?;
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
