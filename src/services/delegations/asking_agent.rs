//! What helps to decide about the request of an agent: its registration, and what the log has about it.

use sqlx::PgConnection;
use time::Duration;

use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventRow, EventSearch, Order, SearchRange};
use crate::domain::client;
use crate::domain::delegation::waiting::BoundedCount;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::audit::log_names::with_log_names;
use crate::services::audit::query::visible;
use crate::services::audit::registration;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;

/// The period of the refusals that are counted.
const OF_LATE: Duration = Duration::days(7);
/// Refusals are counted up to this number.
const MAX_REFUSALS: usize = 100;

/// The agent of a request, for those who decide about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskingAgent {
    pub name: String,
    pub registered_at: Option<String>,
    /// Who registered it, as the log says it.
    pub registered_by: Option<String>,
    pub scopes: Vec<String>,
    pub audiences: Vec<String>,
    /// Thumbprints of the registered keys: of proofs, and of assertions.
    pub keys: Vec<String>,
    pub disabled: bool,
    /// Time of its first event that the database has.
    pub first_seen: Option<String>,
    /// Refused requests of the last week that the caller may see.
    pub refusals: BoundedCount,
}

/// The agent of a delegation that the caller can see.
pub async fn asking_agent(ctx: &RequestContext<'_>, delegate: &str) -> Result<AskingAgent, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let found = client::store::find(ctx.rows, &mut connection, delegate).await?.ok_or(Refusal::NotFound)?;
    let registered_at = client::store::registered_at(&mut connection, delegate).await?;
    let range = search::shared_search_range(&mut connection).await?;
    let own = Filter { client: Some(delegate.to_owned()), ..Filter::default() };
    let first = first(&mut connection, &range, &own).await?;
    let assertion_keys = found.keys.iter().map(|key| key.thumbprint().to_owned());
    Ok(AskingAgent {
        registered_by: registration::find(&mut connection, &range, delegate).await?.map(|found| found.by),
        refusals: refusals(ctx, &mut connection, &range, own).await?,
        disabled: found.is_inactive(),
        keys: found.dpop_keys.iter().cloned().chain(assertion_keys).collect(),
        name: found.name,
        registered_at: registered_at.map(rfc3339),
        scopes: found.scopes.into_iter().collect(),
        audiences: found.audiences.into_iter().collect(),
        first_seen: first.and_then(|one| one.event.get("at")?.as_str().map(str::to_owned)),
    })
}

async fn refusals(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    range: &SearchRange,
    own: Filter,
) -> Result<BoundedCount, Error> {
    let of_late = Some(ctx.now - OF_LATE);
    let refused = Filter { outcome: Some("refused".to_owned()), from: of_late, ..own };
    // Agents decide about nothing, and an agent sees no event.
    let visible = match ctx.caller {
        Caller::Agent(_) => None,
        _ => visible(&ctx.caller, refused)?,
    };
    let Some(filter) = visible else { return Ok(BoundedCount::default()) };
    let filter = with_log_names(connection, &filter).await?;
    let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Newest };
    let page = search::page(connection, search, range, None, MAX_REFUSALS).await?;
    let number = i64::try_from(page.found.len()).unwrap_or(i64::MAX);
    Ok(BoundedCount { number, at_least: page.next.is_some() })
}

/// The first event that matches.
async fn first(
    connection: &mut PgConnection,
    range: &SearchRange,
    filter: &Filter,
) -> Result<Option<EventRow>, Fault> {
    let search = EventSearch { filter, besides: &[], without: &[], order: Order::Oldest };
    Ok(search::page(connection, search, range, None, 1).await?.found.pop())
}
