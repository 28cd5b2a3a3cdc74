//! The session that reported steps are in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::audit::Action;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventSearch, Order};
use crate::domain::delegation::Delegation;
use crate::domain::person;
use crate::domain::refusal::Error;
use crate::domain::session::{self, SessionOwner};
use crate::platform::fault::Fault;
use crate::services::audit::log_names::with_log_names;
use crate::services::request_context::RequestContext;
use actchain_protocol::random;

/// The session of a report. A client names one in which it works by its events, or has a name of its own for it. Without a
/// name, it is the session of its newest exchange under the delegation, else the one that goes on.
pub(super) async fn session_of(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    leaf: &Delegation,
    named: Option<&str>,
) -> Result<String, Error> {
    let owner = SessionOwner { client_id: leaf.delegate.clone(), subject: leaf.root.clone() };
    let of_client = Filter { client: Some(owner.client_id.clone()), ..Filter::default() };
    let Some(name) = named.filter(|name| session::is_name(name)) else {
        let exchanges = Filter {
            delegation: Some(leaf.id.clone()),
            action: Some(Action::TokenExchanged.name().to_owned()),
            from: Some(ctx.now - session::MAX_IDLE),
            ..of_client
        };
        if let Some(id) = session_of_newest(connection, &exchanges).await? {
            return Ok(id);
        }
        let wanted = BTreeMap::from([(&owner, (random::id(ctx.now)?, ctx.now))]);
        let found = session::store::continue_or_begin(connection, &wanted).await.map_err(Fault::from)?;
        let id = found.get(&owner).ok_or_else(|| Fault::new("a session was not stored"))?;
        return Ok(id.to_string());
    };
    let in_session = Filter {
        session: Some(name.to_owned()),
        // A refused request is no work in a session.
        outcome: Some("success".to_owned()),
        subject_iss: Some(owner.subject.iss.clone()),
        subject_sub: Some(owner.subject.sub.clone()),
        ..of_client
    };
    if let Some(id) = session_of_newest(connection, &in_session).await? {
        return Ok(id);
    }
    let names = person::store::put_persons(connection, &BTreeSet::from([owner.subject.clone()])).await?;
    Ok(session::named(ctx.rows, &names, &owner, name)?.to_string())
}

/// The session of the newest event.
async fn session_of_newest(connection: &mut PgConnection, filter: &Filter) -> Result<Option<String>, Fault> {
    let filter = with_log_names(connection, filter).await?;
    let range = search::search_range(connection).await?;
    let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Newest };
    let mut after = None;
    loop {
        let mut page = search::page(connection, search, &range, after, 1).await?;
        if let Some(newest) = page.found.pop() {
            return Ok(newest.event.get("session_id").and_then(Value::as_str).map(str::to_owned));
        }
        // A page that found nothing may have stopped early.
        after = page.next;
        if after.is_none() {
            return Ok(None);
        }
    }
}
