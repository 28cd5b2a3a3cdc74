//! Who used connections, as the log tells.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use sqlx::PgConnection;
use time::Duration;

use super::connections::show;
use crate::domain::audit::Action;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventRow, EventSearch, Order, SearchRange};
use crate::domain::refusal::Error;
use crate::platform::fault::Fault;
use crate::services::request_context::RequestContext;

/// How far back uses are counted.
const COUNTED: Duration = Duration::days(30);
/// Maximum number of uses that are read to count them.
const MAX_COUNTED: usize = 100;
/// Events of these actions are uses.
const USES: [Action; 2] = [Action::VaultTokenRetrieved, Action::VaultProxyCalled];

/// The newest use of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionUse {
    pub agent: String,
    pub at: String,
}

/// The uses of a connection by one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsesByAgent {
    pub count: u64,
    pub last_at: String,
}

/// The uses of a connection in the last 30 days.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecentUses {
    pub agents: BTreeMap<String, UsesByAgent>,
    /// Whether there were more uses than were read.
    pub at_least: bool,
}

/// The newest use of each of these connections, which the caller can see.
pub async fn last_uses(
    ctx: &RequestContext<'_>,
    connections: &[String],
) -> Result<HashMap<String, ConnectionUse>, Error> {
    if connections.is_empty() {
        return Ok(HashMap::new());
    }
    let mut connection = ctx.pool.acquire().await?;
    let range = search::shared_search_range(&mut connection).await?;
    let mut last = HashMap::new();
    for id in connections {
        let mut newest: Option<EventRow> = None;
        for action in USES {
            let found = uses(&mut connection, &range, filter(id, action), 1).await?.found.pop();
            newest = newest.into_iter().chain(found).max_by_key(|one| one.seq);
        }
        if let Some(found) = newest.as_ref().and_then(|one| read(&one.event)) {
            last.insert(id.clone(), found);
        }
    }
    Ok(last)
}

/// The agents that used a connection in the last 30 days.
pub async fn recent_uses(ctx: &RequestContext<'_>, id: &str) -> Result<RecentUses, Error> {
    let shown = show(ctx, id).await?;
    let mut connection = ctx.pool.acquire().await?;
    let range = search::shared_search_range(&mut connection).await?;
    let mut recent = RecentUses::default();
    for action in USES {
        let filter = Filter { from: Some(ctx.now - COUNTED), ..filter(&shown.id, action) };
        let page = uses(&mut connection, &range, filter, MAX_COUNTED).await?;
        recent.at_least |= page.next.is_some();
        for ConnectionUse { agent, at } in page.found.iter().filter_map(|one| read(&one.event)) {
            let one =
                recent.agents.entry(agent).or_insert_with(|| UsesByAgent { count: 0, last_at: at.clone() });
            one.count += 1;
            one.last_at = one.last_at.clone().max(at);
        }
    }
    Ok(recent)
}

/// Whether the provider was informed of the end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderNotice {
    /// The provider confirmed that it revoked the tokens.
    Revoked,
    /// The provider has no way to revoke.
    Impossible,
    /// The provider did not confirm within the time that the credential is kept.
    Failed,
    /// Not yet; the server tries again.
    Pending,
}

/// Whether the provider was informed of the end of a disconnected connection.
pub async fn provider_notice(ctx: &RequestContext<'_>, id: &str) -> Result<ProviderNotice, Error> {
    let shown = show(ctx, id).await?;
    let mut connection = ctx.pool.acquire().await?;
    let range = search::search_range(&mut connection).await?;
    let filter = filter(&shown.id, Action::ConnectionCredentialDeleted);
    let page = uses(&mut connection, &range, filter, 1).await?;
    let Some(deleted) = page.found.first() else { return Ok(ProviderNotice::Pending) };
    Ok(match deleted.event.pointer("/detail/provider_revoked").and_then(Value::as_bool) {
        Some(true) => ProviderNotice::Revoked,
        Some(false) => ProviderNotice::Failed,
        None => ProviderNotice::Impossible,
    })
}

fn filter(connection: &str, action: Action) -> Filter {
    let action = Some(action.name().to_owned());
    Filter { connection: Some(connection.to_owned()), action, ..Filter::default() }
}

async fn uses(
    connection: &mut PgConnection,
    range: &SearchRange,
    filter: Filter,
    most: usize,
) -> Result<search::EventPage, Fault> {
    let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Newest };
    search::page(connection, search, range, None, most).await
}

fn read(event: &Value) -> Option<ConnectionUse> {
    let text = |place: &str| event.pointer(place).and_then(Value::as_str).map(str::to_owned);
    Some(ConnectionUse { agent: text("/actor/client_id")?, at: text("/at")? })
}
