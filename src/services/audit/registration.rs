//! Who registered a client, and when, as the log says it.

use serde_json::Value;
use sqlx::PgConnection;

use super::log_names::people_in;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::personal::resolved;
use crate::domain::audit::search::{self, EventSearch, Order, SearchRange};
use crate::domain::audit::{Action, Actor};
use crate::domain::refusal::Error;
use crate::platform::fault::Fault;
use crate::services::request_context::RequestContext;

/// The event that registered a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRegistration {
    pub by: String,
    pub at: String,
    pub seq: u64,
}

/// The registration of a client, for any caller.
pub async fn of_client(
    ctx: &RequestContext<'_>,
    client_id: &str,
) -> Result<Option<ClientRegistration>, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let range = search::search_range(&mut connection).await?;
    Ok(find(&mut connection, &range, client_id).await?)
}

/// The registration of a client; `None` once its event is archived. A later change of the client is no registration.
pub async fn find(
    connection: &mut PgConnection,
    range: &SearchRange,
    client_id: &str,
) -> Result<Option<ClientRegistration>, Fault> {
    for action in [Action::AgentCreated, Action::ClientChanged] {
        let (name, target) = (Some(action.name().to_owned()), Some(client_id.to_owned()));
        let filter = Filter { action: name, target, ..Filter::default() };
        let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Oldest };
        let oldest = search::page(connection, search, range, None, 1).await?.found.pop();
        let is_registration = |event: &Value| {
            action == Action::AgentCreated
                || event.pointer("/detail/change").and_then(Value::as_str) == Some("create")
        };
        let Some(found) = oldest.filter(|one| is_registration(&one.event)) else { continue };
        let people = people_in(connection, std::iter::once(&found.event)).await?;
        let event: Value = resolved(&found.event, None, &people);
        let by = Actor::of(&event).map(|actor| actor.to_string());
        let at = event.get("at").and_then(Value::as_str);
        return Ok(by.zip(at).map(|(by, at)| ClientRegistration { by, at: at.to_owned(), seq: found.seq }));
    }
    Ok(None)
}
