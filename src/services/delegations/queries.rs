//! Queries of delegations and of their agents. Reads only.

use serde_json::{Value, json};

use super::{view, visible};
use crate::domain::client;
use crate::domain::delegation::list::{self, Cursor, DelegationFilter, VisibilityScope};
use crate::domain::delegation::{self, State, View};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::row_mac::RowMac;
use crate::services::request_context::{ApiResponse, Call, Caller, Desk};

/// Maximum and default number of rows of a page.
const MOST: u32 = 100;
const USUAL: u32 = 50;
/// Maximum number of delegations shown with each agent.
const MOST_OF_AGENT: i64 = 20;

/// Cursor and size of a page.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Cursor from the previous page.
    pub cursor: Option<String>,
    pub limit: Option<u32>,
}

impl Page {
    pub(in crate::services) fn limit(&self) -> Result<i64, Refusal> {
        match self.limit.unwrap_or(USUAL) {
            limit @ 1..=MOST => Ok(i64::from(limit)),
            _ => Err(Refusal::Malformed("limit is 1 to 100")),
        }
    }
}

pub async fn show(desk: &Desk<'_>, call: &Call, id: &str) -> Result<(State, ApiResponse), Error> {
    let mut connection = desk.pool.acquire().await?;
    let path = visible(&mut connection, desk, call, id).await?;
    let state = path.state(call.now).0;
    Ok((state, ApiResponse::with(view(desk.rows, &mut connection, &path, call.now).await?)?))
}

/// Those that the caller may see, newest first.
pub async fn list(
    desk: &Desk<'_>,
    call: &Call,
    filter: &DelegationFilter,
    page: &Page,
) -> Result<ApiResponse, Error> {
    let seen = match &call.caller {
        Caller::User(user) => VisibilityScope::RootedAt(user.who.clone()),
        Caller::Agent(..) => {
            VisibilityScope::Of(call.caller.principal(desk.issuer).ok_or(Refusal::NotFound)?)
        }
        Caller::Admin(..) | Caller::Operator => VisibilityScope::Everything,
        Caller::Auditor(..) => return Err(Refusal::InsufficientScope.into()),
    };
    let mut connection = desk.pool.acquire().await?;
    let (ids, next) = ids(&mut connection, (&seen, filter), page, call.now).await?;
    let items = views(desk.rows, &mut connection, &ids, call).await?;
    Ok(ApiResponse::with(json!({"items": items, "next": next.as_ref().map(Cursor::to_text)}))?)
}

/// A page of ids, and the cursor of the next page.
pub(super) async fn ids(
    connection: &mut sqlx::PgConnection,
    wanted: (&VisibilityScope, &DelegationFilter),
    page: &Page,
    now: time::OffsetDateTime,
) -> Result<(Vec<String>, Option<Cursor>), Error> {
    let limit = page.limit()?;
    let after = match &page.cursor {
        None => None,
        Some(text) => Some(Cursor::parse(text).ok_or(Refusal::Malformed("cursor is none of ours"))?),
    };
    // One additional row shows whether there is a next page.
    let mut found = list::page(connection, wanted, (after.as_ref(), limit + 1), now).await?;
    let more = found.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = if more { found.last().cloned() } else { None };
    Ok((found.into_iter().map(|position| position.id).collect(), next))
}

pub(super) async fn views(
    rows: &RowMac,
    connection: &mut sqlx::PgConnection,
    ids: &[String],
    call: &Call,
) -> Result<Vec<View>, Error> {
    let paths = delegation::store::all_paths(rows, connection, ids).await?;
    let holders: Vec<String> = paths.iter().filter_map(|path| Some(path.leaf()?.delegate.clone())).collect();
    let clients = client::store::find_all(rows, connection, &holders).await?;
    let holder = |path: &delegation::DelegationPath| {
        let leaf = path.leaf()?;
        clients.iter().find(|client| client.client_id == leaf.delegate)
    };
    Ok(paths.iter().filter_map(|path| View::of(path, holder(path), call.now)).collect())
}

/// Agents with their active delegations: all for administrators, a user's own for users.
pub async fn agents(desk: &Desk<'_>, call: &Call, page: &Page) -> Result<ApiResponse, Error> {
    let limit = page.limit()?;
    let root = match &call.caller {
        Caller::User(user) => Some(user.who.clone()),
        Caller::Admin(..) | Caller::Operator => None,
        Caller::Agent(..) | Caller::Auditor(..) => return Err(Refusal::InsufficientScope.into()),
    };
    let after = page.cursor.as_deref().unwrap_or_default();
    let mut connection = desk.pool.acquire().await?;
    let mut ids = list::agents(&mut connection, root.as_ref(), (after, limit + 1), call.now).await?;
    let more = ids.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    ids.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = if more { ids.last().cloned() } else { None };
    let seen = root.map_or(VisibilityScope::Everything, VisibilityScope::RootedAt);
    let mut items = Vec::new();
    for client in client::store::find_all(desk.rows, &mut connection, &ids).await? {
        let filter = DelegationFilter {
            delegate: Some(client.client_id.clone()),
            state: Some(State::Active),
            ..DelegationFilter::default()
        };
        let found = list::page(&mut connection, (&seen, &filter), (None, MOST_OF_AGENT), call.now).await?;
        let held: Vec<String> = found.into_iter().map(|position| position.id).collect();
        let delegations = views(desk.rows, &mut connection, &held, call).await?;
        items.push(agent(&client, &delegations));
    }
    Ok(ApiResponse::with(json!({"items": items, "next": next}))?)
}

fn agent(client: &client::Client, delegations: &[View]) -> Value {
    json!({
        "client_id": client.client_id,
        "name": client.name,
        "kind": client.kind,
        "disabled": client.is_inactive(),
        "ephemeral": client.ephemeral.as_ref().map(|agent| {
            json!({"task_id": agent.task_id, "delegation_id": agent.delegation_id, "owner": agent.owner})
        }),
        "delegations": delegations,
    })
}
