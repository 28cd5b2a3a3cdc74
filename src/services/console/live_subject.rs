//! What an open page follows: the rows of a list, or what the log has that is newer.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::audit::field::{Field, term};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventSearch, Order};
use crate::domain::delegation::list::{Cursor, DelegationFilter, VisibilityScope};
use crate::domain::delegation::waiting::{self, BoundedCount, NewerRows};
use crate::domain::delegation::{self, DelegationState, is_id};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::standing_grant::{self, StandingGrantState};
use crate::domain::vault::{self, ConnectionState};
use crate::platform::fault::Fault;
use crate::services::audit::log_names::with_log_names;
use crate::services::audit::query::visible;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use crate::services::standing_grants::RecentRefusals;

/// Rows of a list whose states are followed.
const MAX_ROWS: usize = 200;
/// Standing grants, whose refusals are counted.
const MAX_GRANTS: usize = 20;
/// Newer events and chains are counted up to this number.
const MAX_NEWER: usize = 100;

/// What the rows of a page are.
#[derive(Debug, Clone)]
pub enum LiveSubject {
    /// A page without a list.
    Nothing,
    Delegations(Box<LiveList>),
    /// Connections, by their ids.
    Connections(Vec<String>),
    /// Standing grants, by their ids.
    StandingGrants(Vec<String>),
    Log(Box<LiveLog>),
}

/// A list of delegations on an open page.
#[derive(Debug, Clone, Default)]
pub struct LiveList {
    pub filter: DelegationFilter,
    /// The newest row; `None` for a list without rows.
    pub newest: Option<Cursor>,
    pub rows: Vec<String>,
}

/// A list of what the log has.
#[derive(Debug, Clone)]
pub struct LiveLog {
    pub filter: Filter,
    /// Size of the log when the list was made.
    pub size: u64,
    pub rows: LogRows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogRows {
    Events,
    Chains,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState {
    Delegation(DelegationState),
    Connection(ConnectionState),
    /// With the number of refusals of late.
    StandingGrant(StandingGrantState, BoundedCount),
}

impl LiveSubject {
    /// What the caller may see of it: a page names its rows, and a person can name others.
    ///
    /// # Errors
    /// Refused where there are too many rows, or ids that are none.
    pub(super) async fn follow(self, ctx: &RequestContext<'_>) -> Result<FollowedSubject, Error> {
        Ok(match self {
            Self::Nothing => FollowedSubject::Nothing,
            Self::Delegations(list) => {
                check_rows(&list.rows)?;
                let visible = match &ctx.caller {
                    Caller::User(user) => VisibilityScope::RootedAt(user.who.clone()),
                    Caller::Admin(..) | Caller::Operator => VisibilityScope::Everything,
                    // Auditors have no list of delegations.
                    Caller::Agent(..) | Caller::Auditor(..) => return Err(Refusal::InsufficientScope.into()),
                };
                let list = LiveList { rows: visible_rows(ctx, list.rows).await?, ..*list };
                FollowedSubject::Delegations { visible, list: Box::new(list) }
            }
            Self::Connections(rows) => {
                check_rows(&rows)?;
                FollowedSubject::Connections { owner: owner_of_rows(ctx)?, rows }
            }
            Self::StandingGrants(rows) => {
                check_rows(&rows)?;
                if rows.len() > MAX_GRANTS {
                    return Err(Refusal::Malformed("The rows of the list are not readable").into());
                }
                FollowedSubject::StandingGrants { grantor: owner_of_rows(ctx)?, rows }
            }
            Self::Log(log) => {
                let LiveLog { filter, size, rows } = *log;
                let Some(filter) = visible(&ctx.caller, filter)? else { return Ok(FollowedSubject::Nothing) };
                let (events, chains, has_more) = (0, BTreeSet::new(), false);
                let count = LogCount { filter, rows, next: size, events, chains, has_more };
                FollowedSubject::Log(Box::new(count))
            }
        })
    }
}

/// Whose rows the caller sees; `None` for those of all.
fn owner_of_rows(ctx: &RequestContext<'_>) -> Result<Option<Principal>, Refusal> {
    match &ctx.caller {
        Caller::User(user) => Ok(Some(user.who.clone())),
        Caller::Admin(..) | Caller::Operator => Ok(None),
        Caller::Agent(..) | Caller::Auditor(..) => Err(Refusal::InsufficientScope),
    }
}

fn check_rows(rows: &[String]) -> Result<(), Refusal> {
    match rows.len() <= MAX_ROWS && rows.iter().all(|id| is_id(id)) {
        true => Ok(()),
        false => Err(Refusal::Malformed("The rows of the list are not readable")),
    }
}

async fn visible_rows(ctx: &RequestContext<'_>, rows: Vec<String>) -> Result<Vec<String>, Fault> {
    let mut connection = ctx.pool.acquire().await?;
    let paths = delegation::store::all_paths(ctx.rows, &mut connection, &rows).await?;
    let seen = paths.iter().filter(|path| ctx.caller.may_see(path, ctx.issuer));
    Ok(seen.filter_map(|path| Some(path.leaf()?.id.clone())).collect())
}

/// The subject of a page, as far as its person may see it.
pub(super) enum FollowedSubject {
    Nothing,
    Delegations {
        visible: VisibilityScope,
        list: Box<LiveList>,
    },
    Connections {
        /// Only connections of this owner.
        owner: Option<Principal>,
        rows: Vec<String>,
    },
    StandingGrants {
        /// Only standing grants of this user.
        grantor: Option<Principal>,
        rows: Vec<String>,
    },
    Log(Box<LogCount>),
}

impl FollowedSubject {
    /// Whether every event can change the page.
    pub(super) fn follows_log(&self) -> bool {
        matches!(self, Self::Log(count) if count.is_open())
    }

    /// Whether the next reading finds more, also without another event.
    pub(super) fn has_more(&self) -> bool {
        matches!(self, Self::Log(count) if count.is_open() && count.has_more)
    }

    /// Rows above the list, where the page has one that begins with the newest.
    pub(super) async fn count_newer(
        &mut self,
        connection: &mut PgConnection,
        now: OffsetDateTime,
    ) -> Result<Option<BoundedCount>, Fault> {
        Ok(match self {
            Self::Nothing | Self::Connections { .. } | Self::StandingGrants { .. } => None,
            // A page that is not the newest has rows and no newest one.
            Self::Delegations { visible, list } if list.newest.is_some() || list.rows.is_empty() => {
                let list = NewerRows { visible, filter: &list.filter, newest: list.newest.as_ref() };
                Some(waiting::count_newer(connection, list, now).await?)
            }
            Self::Delegations { .. } => None,
            Self::Log(count) => Some(count.advance(connection).await?),
        })
    }

    pub(super) async fn states(
        &self,
        connection: &mut PgConnection,
        now: OffsetDateTime,
    ) -> Result<Vec<(String, RowState)>, Fault> {
        Ok(match self {
            Self::Nothing | Self::Log(_) => Vec::new(),
            Self::Delegations { list, .. } => {
                let states = waiting::states(connection, &list.rows, now).await?;
                states.into_iter().map(|(id, state)| (id, RowState::Delegation(state))).collect()
            }
            Self::Connections { owner, rows } => {
                let states = vault::list::states(connection, rows, owner.as_ref()).await?;
                states.into_iter().map(|(id, state)| (id, RowState::Connection(state))).collect()
            }
            Self::StandingGrants { grantor, rows } => {
                let mut states = Vec::with_capacity(rows.len());
                let found = standing_grant::list::states(connection, rows, grantor.as_ref(), now).await?;
                if found.is_empty() {
                    return Ok(states);
                }
                let refusals = RecentRefusals::begin(connection, now).await?;
                for one in found {
                    let refused = refusals.count(connection, &one.id, &one.client_id).await?;
                    states.push((one.id, RowState::StandingGrant(one.state, refused)));
                }
                states
            }
        })
    }
}

/// Counts what is newer in the log. Each event is read once.
pub(super) struct LogCount {
    filter: Filter,
    rows: LogRows,
    /// `seq` of the first event that was not counted.
    next: u64,
    events: usize,
    /// The chains of the events.
    chains: BTreeSet<String>,
    /// Whether there were more than one reading counts.
    has_more: bool,
}

impl LogCount {
    /// Whether every event can change it.
    fn is_open(&self) -> bool {
        self.number() <= MAX_NEWER
    }

    fn number(&self) -> usize {
        match self.rows {
            LogRows::Events => self.events,
            LogRows::Chains => self.chains.len(),
        }
    }

    async fn advance(&mut self, connection: &mut PgConnection) -> Result<BoundedCount, Fault> {
        if self.is_open() {
            let chained = [term(Field::Chained, "")];
            let besides: &[i64] = if self.rows == LogRows::Chains { &chained } else { &[] };
            // A person of newer events may have had no name in the log before.
            let filter = with_log_names(connection, &self.filter).await?;
            let search = EventSearch { filter: &filter, besides, without: &[], order: Order::Oldest };
            let range = search::search_range(connection).await?;
            let page =
                search::page(connection, search, &range, self.next.checked_sub(1), MAX_NEWER + 1).await?;
            self.events += page.found.len();
            let txns = page.found.iter().filter_map(|one| one.event.get("txn")?.as_str().map(str::to_owned));
            self.chains.extend(txns);
            self.next = page.next.map_or(range.size, |last| last + 1);
            self.has_more = page.next.is_some();
        }
        let number = i64::try_from(self.number().min(MAX_NEWER)).unwrap_or(i64::MAX);
        Ok(BoundedCount { number, at_least: !self.is_open() || self.has_more })
    }
}
