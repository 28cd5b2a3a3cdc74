//! Agents as administrators and users list them, and what each has done of late. Reads only; counts stop at a bound.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::caller::Caller;
use super::page::{Page, PageRequest, cut};
use super::request_context::RequestContext;
use crate::domain::audit::event_count::{self, BlocksSince};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::newest_events::newest_events;
use crate::domain::audit::search::{self, EventRow, EventSearch, Order, SearchRange};
use crate::domain::client::store::ClientFilter;
use crate::domain::client::{self, AuthMethod, Client, ClientKind};
use crate::domain::delegation::delegates::{self, AgentSearch, DelegateCount};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;

/// Counts above this number are shown as this number, with "at least".
pub const MAX_COUNTED: usize = 100;
/// Number of newest events of an agent that are read for their keys.
pub const EVENTS_WITH_KEYS: usize = 200;
/// Most agents that a form proposes.
const MAX_PROPOSED: i64 = 50;
/// The period of the refusals that a list counts.
const OF_LATE: Duration = Duration::hours(24);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentState {
    Enabled,
    Disabled,
    /// The task or the delegation of an ephemeral agent has ended.
    Deactivated,
}

impl AgentState {
    fn of(client: &Client) -> Self {
        let ephemeral = client.ephemeral.as_ref();
        if ephemeral.is_some_and(|agent| agent.deactivated_at.is_some()) {
            return Self::Deactivated;
        }
        if client.disabled_at.is_some() { Self::Disabled } else { Self::Enabled }
    }
}

/// A number, exact up to [`MAX_COUNTED`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CappedCount(usize);

impl CappedCount {
    /// A count that stopped one above the bound.
    pub fn of(counted: usize) -> Self {
        Self(counted)
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl std::fmt::Display for CappedCount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 > MAX_COUNTED {
            true => write!(formatter, "{MAX_COUNTED}+"),
            false => write!(formatter, "{}", self.0),
        }
    }
}

#[derive(Debug)]
pub struct AgentSummary {
    pub client_id: String,
    pub name: String,
    pub state: AgentState,
    /// The task of an ephemeral agent.
    pub task_id: Option<String>,
    /// Active delegations to it that the caller may see.
    pub active: CappedCount,
    /// For administrators only.
    pub facts: Option<AgentFacts>,
}

#[derive(Debug)]
pub struct AgentFacts {
    pub auth: AuthMethod,
    /// Number of registered keys.
    pub keys: usize,
    /// Time of its newest event.
    pub last_seen: Option<String>,
    /// Refused requests of the last 24 hours.
    pub refusals: CappedCount,
}

/// Criteria of a list of agents; an absent member does not restrict.
#[derive(Debug, Clone, Default)]
pub struct AgentFilter {
    /// Whether the agent is neither disabled nor deactivated.
    pub enabled: Option<bool>,
    /// Beginning of the client id.
    pub prefix: Option<String>,
    pub task_id: Option<String>,
}

/// A page of agents, by id: all for administrators; for a user, those with an active delegation of the user.
///
/// # Errors
/// A refusal of other callers.
pub async fn list(
    ctx: &RequestContext<'_>,
    filter: &AgentFilter,
    page: &PageRequest,
) -> Result<Page<AgentSummary>, Error> {
    let limit = page.limit()?;
    let after = page.cursor.as_deref().unwrap_or_default();
    let root = match &ctx.caller {
        Caller::User(user) => Some(&user.who),
        Caller::Admin(..) | Caller::Operator => None,
        Caller::Agent(..) | Caller::Auditor(..) => return Err(Refusal::InsufficientScope.into()),
    };
    let mut connection = ctx.pool.acquire().await?;
    let (clients, next) = match root {
        Some(root) => {
            let prefix = filter.prefix.as_deref().unwrap_or_default();
            let search = AgentSearch { root: Some(root), prefix, after, limit: limit + 1, now: ctx.now };
            let mut ids = delegates::agents(&mut connection, search).await?;
            let next = cut(&mut ids, limit).cloned();
            (client::store::find_all(ctx.rows, &mut connection, &ids).await?, next)
        }
        None => {
            let filter = ClientFilter {
                kind: Some(ClientKind::Agent),
                enabled: filter.enabled,
                prefix: filter.prefix.clone(),
                name: None,
                task_id: filter.task_id.clone(),
            };
            let mut found = client::store::page(ctx.rows, &mut connection, &filter, after, limit + 1).await?;
            let next = cut(&mut found, limit).map(|last| last.client_id.clone());
            (found, next)
        }
    };
    let ids: Vec<String> = clients.iter().map(|client| client.client_id.clone()).collect();
    let counting = DelegateCount { delegates: &ids, root, most: MAX_COUNTED + 1, now: ctx.now };
    let active = delegates::count_active(&mut connection, counting).await?;
    let log = match root {
        Some(_) => None,
        None => Some(AgentsInLog::read(&mut connection, &ids, ctx.now).await?),
    };
    let mut items = Vec::new();
    for client in clients {
        let facts = match &log {
            None => None,
            Some(log) => Some(log.facts(&mut connection, &client).await?),
        };
        items.push(AgentSummary {
            state: AgentState::of(&client),
            active: CappedCount::of(active.get(&client.client_id).copied().unwrap_or_default()),
            task_id: client.ephemeral.map(|agent| agent.task_id),
            client_id: client.client_id,
            name: client.name,
            facts,
        });
    }
    Ok(Page { items, next })
}

/// Ids of the first agents that the caller may see; none for callers that see no agents.
pub async fn proposed(ctx: &RequestContext<'_>) -> Result<Vec<String>, Error> {
    let mut connection = ctx.pool.acquire().await?;
    Ok(match &ctx.caller {
        Caller::User(user) => {
            let (root, limit) = (Some(&user.who), MAX_PROPOSED);
            let search = AgentSearch { root, prefix: "", after: "", limit, now: ctx.now };
            delegates::agents(&mut connection, search).await?
        }
        Caller::Admin(..) | Caller::Operator => {
            let (kind, enabled) = (Some(ClientKind::Agent), Some(true));
            let filter = ClientFilter { kind, enabled, ..ClientFilter::default() };
            let found = client::store::page(ctx.rows, &mut connection, &filter, "", MAX_PROPOSED).await?;
            found.into_iter().map(|client| client.client_id).collect()
        }
        Caller::Agent(..) | Caller::Auditor(..) => Vec::new(),
    })
}

/// What the log has of the agents of a page.
struct AgentsInLog {
    range: SearchRange,
    /// The period of the refusals that are counted.
    period: BlocksSince,
    newest: HashMap<String, EventRow>,
}

impl AgentsInLog {
    async fn read(connection: &mut PgConnection, ids: &[String], now: OffsetDateTime) -> Result<Self, Fault> {
        let range = search::shared_search_range(connection).await?;
        let period = BlocksSince::read(connection, now - OF_LATE).await?;
        let newest = newest_events(connection, &range, ids).await?;
        Ok(Self { range, period, newest })
    }

    async fn facts(&self, connection: &mut PgConnection, client: &Client) -> Result<AgentFacts, Fault> {
        let last = self.newest.get(&client.client_id);
        let last_seen = last.and_then(|last| time_of(&last.event)).map(str::to_owned);
        let refused = Filter {
            client: Some(client.client_id.clone()),
            outcome: Some("refused".to_owned()),
            ..Filter::default()
        };
        let refusals = match last_seen {
            None => 0,
            Some(_) => {
                event_count::count(connection, &refused, &self.period, &self.range, MAX_COUNTED + 1).await?
            }
        };
        Ok(AgentFacts {
            auth: client.auth,
            keys: number_of_keys(client),
            last_seen,
            refusals: CappedCount::of(refusals),
        })
    }
}

fn number_of_keys(client: &Client) -> usize {
    let keys: BTreeSet<&str> = client
        .keys
        .iter()
        .map(|key| key.thumbprint())
        .chain(client.dpop_keys.iter().map(String::as_str))
        .collect();
    keys.len()
}

fn time_of(event: &Value) -> Option<&str> {
    event.get("at")?.as_str()
}

/// A thumbprint with what is known about its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentKey {
    pub jkt: String,
    /// What it is registered for; empty for a key that was only seen.
    pub registered: Vec<KeyUse>,
    pub is_removed: bool,
    /// The oldest and the newest event with a proof of it.
    pub seen: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// Signs assertions of the client.
    Assertions,
    /// Signs DPoP proofs (RFC 9449).
    Proofs,
}

#[derive(Debug)]
pub struct AgentKeys {
    /// Registered, removed and seen keys, in the order of their thumbprints.
    pub keys: Vec<AgentKey>,
    /// The time of the oldest event that was read, if there are older events.
    pub since: Option<String>,
}

/// The registered and removed keys of an agent, and those that its newest events were proved with.
///
/// # Errors
/// A refusal of callers that do not administer; [`Refusal::NotFound`].
pub async fn keys(ctx: &RequestContext<'_>, client_id: &str) -> Result<AgentKeys, Error> {
    ctx.caller.require_administrator()?;
    let mut connection = ctx.pool.acquire().await?;
    let client = client::store::find(ctx.rows, &mut connection, client_id).await?.ok_or(Refusal::NotFound)?;
    let mut keys: BTreeMap<String, AgentKey> = BTreeMap::new();
    let assertions = client.keys.iter().map(|key| (key.thumbprint().to_owned(), KeyUse::Assertions));
    let proofs = client.dpop_keys.iter().map(|jkt| (jkt.clone(), KeyUse::Proofs));
    for (jkt, purpose) in assertions.chain(proofs) {
        entry(&mut keys, &jkt).registered.push(purpose);
    }
    for jkt in &client.removed_keys {
        entry(&mut keys, jkt).is_removed = true;
    }
    let range = search::search_range(&mut connection).await?;
    let filter = Filter { client: Some(client_id.to_owned()), ..Filter::default() };
    let newest = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Newest };
    let page = search::page(&mut connection, newest, &range, None, EVENTS_WITH_KEYS).await?;
    for found in &page.found {
        let jkt = found.event.pointer("/actor/jkt").and_then(Value::as_str);
        let (Some(jkt), Some(at)) = (jkt, time_of(&found.event)) else { continue };
        let key = entry(&mut keys, jkt);
        let last = key.seen.take().map_or_else(|| at.to_owned(), |(_, last)| last);
        key.seen = Some((at.to_owned(), last));
    }
    let since = page.next.and(page.found.last()).and_then(|oldest| time_of(&oldest.event)).map(str::to_owned);
    Ok(AgentKeys { keys: keys.into_values().collect(), since })
}

fn entry<'a>(keys: &'a mut BTreeMap<String, AgentKey>, jkt: &str) -> &'a mut AgentKey {
    keys.entry(jkt.to_owned()).or_insert_with(|| AgentKey { jkt: jkt.to_owned(), ..AgentKey::default() })
}
