//! Sessions, read from the log: a list, a session in numbers, and its trace. Reads only. Administrators and auditors see all
//! events of a session, users the events about them, agents none.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::log_names::{PersonalContext, context_of, people_of, with_log_names};
use super::query::{LogPage, visible};
use super::trace_keys;
use crate::domain::audit::event_counts::EventCounts;
use crate::domain::audit::field::{Field, term};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::personal::People;
use crate::domain::audit::search::{self, EventRow, EventSearch, Order, SearchRange};
use crate::domain::audit::session_events::{self, SessionEvents, SessionSelection};
use crate::domain::audit::trace::{TraceBuilder, TraceItem};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use actchain_protocol::pseudonym::is_pseudonym;

/// Maximum and default number of sessions of a page.
const MAX_SESSIONS: usize = 100;
const DEFAULT_SESSIONS: usize = 20;
/// Maximum and default number of items of a page of a trace.
const MAX_ITEMS: usize = 200;
/// Maximum number of events that are read of a session in a list, and of a single session.
const MAX_EVENTS_LISTED: usize = 64;
const MAX_EVENTS: usize = 10_000;
/// A page of sessions ends early after this many events, sessions or postings.
const MAX_SCANNED: usize = 4_000;
const MAX_SEEN: usize = 200;
const MAX_BLOCKS: usize = 20_000;
/// Minimum and maximum number of events read at once.
const STRIDE: [usize; 2] = [16, 128];
/// Number of sessions loaded at once.
const LOADED: usize = 10;

#[derive(Debug, Clone, Default)]
pub struct SessionQuery {
    /// A session is listed if one of its events matches.
    pub filter: Filter,
    pub limit: Option<usize>,
    /// Cursor from the previous page.
    pub cursor: Option<String>,
}

/// A session in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct SessionSummary {
    pub id: String,
    /// The clients that made its requests, in order of appearance.
    pub client_ids: Vec<String>,
    /// Number of events that each of these clients caused, among those that were read.
    pub events_by_client: BTreeMap<String, u64>,
    /// Whom its events are about: one, unless an issuer uses the same id for several.
    pub subjects: Vec<Principal>,
    pub first_seq: u64,
    /// When the first event happened, by the clock of the server that recorded the event.
    pub first_at: String,
    pub last_seq: u64,
    pub last_at: String,
    #[serde(flatten)]
    pub counts: EventCounts,
    /// Number of delegations that its events name.
    pub delegations: usize,
    /// Whether clients with their numbers, subjects and delegations are those of all events.
    pub complete: bool,
}

impl SessionSummary {
    fn of(id: String, events: &SessionEvents) -> Option<Self> {
        let SessionEvents { found, counts } = events;
        let (first, last) = (found.first()?, found.last()?);
        let mut delegations = BTreeSet::new();
        let (mut client_ids, mut subjects) = (Vec::new(), Vec::new());
        let mut events_by_client: BTreeMap<String, u64> = BTreeMap::new();
        for event in found {
            delegations.extend(event.delegation_id.as_deref());
            if let Some(client) = event.client_id() {
                if !events_by_client.contains_key(client) {
                    client_ids.push(client.to_owned());
                }
                *events_by_client.entry(client.to_owned()).or_default() += 1;
            }
            if let Some(subject) = event.subject.as_ref().filter(|who| !subjects.contains(*who)) {
                subjects.push(subject.clone());
            }
        }
        Some(Self {
            id,
            client_ids,
            events_by_client,
            subjects,
            first_seq: first.seq,
            first_at: first.at.clone(),
            last_seq: last.seq,
            last_at: last.at.clone(),
            counts: *counts,
            delegations: delegations.len(),
            complete: u64::try_from(found.len()) == Ok(counts.events),
        })
    }
}

/// A session with who the persons in it are.
#[derive(Debug, Clone, Serialize)]
pub struct SessionDetail {
    #[serde(flatten)]
    pub session: SessionSummary,
    pub people: People,
}

/// The events that the caller can see.
pub(super) struct SessionReader {
    pub(super) filter: Filter,
    /// Of a user: its names in the log.
    pseudonyms: Option<Vec<String>>,
}

impl SessionReader {
    /// `None` if the caller can see no event that matches.
    pub(super) async fn of(
        ctx: &RequestContext<'_>,
        connection: &mut PgConnection,
        filter: Filter,
    ) -> Result<Option<Self>, Error> {
        let Some(filter) = visible(&ctx.caller, filter)? else { return Ok(None) };
        let filter = with_log_names(connection, &filter).await?;
        let pseudonyms = match &ctx.caller {
            // A client can have the name of a user; its events are about the client.
            Caller::User(_) => {
                Some(filter.subject_names.iter().filter(|name| is_pseudonym(name)).cloned().collect())
            }
            _ => None,
        };
        Ok(Some(Self { filter, pseudonyms }))
    }

    fn selection<'a>(&'a self, ids: &'a [String]) -> SessionSelection<'a> {
        SessionSelection { ids, pseudonyms: self.pseudonyms.as_deref() }
    }

    /// The session, if it has an event that the caller can see.
    pub(super) async fn summary(
        &self,
        connection: &mut PgConnection,
        search_range: &SearchRange,
        id: &str,
    ) -> Result<SessionSummary, Error> {
        let ids = [id.to_owned()];
        let mut loaded =
            session_events::load(connection, search_range, self.selection(&ids), MAX_EVENTS).await?;
        let events = loaded.by_id.remove(id).ok_or(Refusal::NotFound)?;
        Ok(SessionSummary::of(id.to_owned(), &events).ok_or(Refusal::NotFound)?)
    }
}

/// The filter of one session's events.
pub(super) fn of_session(id: &str) -> Result<Filter, Refusal> {
    let mut filter = Filter::default();
    // What cannot be in the log names no session.
    filter.set("session_id", id).map_err(|_| Refusal::NotFound)?;
    Ok(filter)
}

/// Where the next page of a list begins. `size` is the size of the log at the first page: events that are recorded between
/// two pages neither move a session to an earlier page nor hide it.
#[derive(Debug, Clone, Copy)]
struct ListCursor {
    seq: u64,
    size: u64,
}

impl ListCursor {
    fn read(cursor: Option<&String>, fingerprint: &str) -> Result<Option<Self>, Refusal> {
        let Some(cursor) = cursor else { return Ok(None) };
        let mut parts = cursor.split('.');
        let mut number = || parts.next()?.parse().ok();
        let place = number().zip(number()).map(|(seq, size)| Self { seq, size });
        match (place, parts.next(), parts.next()) {
            (Some(place), Some(query), None) if query == fingerprint => Ok(Some(place)),
            (Some(_), Some(_), None) => Err(Refusal::Malformed("cursor belongs to another query")),
            _ => Err(Refusal::Malformed("cursor is not from this server")),
        }
    }

    fn text(self, fingerprint: &str) -> String {
        format!("{}.{}.{fingerprint}", self.seq, self.size)
    }
}

/// A page of sessions with a matching event, in the order of the newest matching event of each session.
pub async fn list(ctx: &RequestContext<'_>, query: &SessionQuery) -> Result<LogPage<SessionSummary>, Error> {
    let limit = match query.limit.unwrap_or(DEFAULT_SESSIONS) {
        limit @ 1..=MAX_SESSIONS => limit,
        _ => return Err(Refusal::Malformed("limit is 1 to 100").into()),
    };
    let fingerprint = query.filter.fingerprint("sessions");
    let cursor = ListCursor::read(query.cursor.as_ref(), &fingerprint)?;
    let mut connection = ctx.pool.acquire().await?;
    let Some(reader) = SessionReader::of(ctx, &mut connection, query.filter.clone()).await? else {
        return Ok(LogPage::empty());
    };
    let present = search::search_range(&mut connection).await?;
    present.unindexed("sessions")?;
    let size = cursor.map_or(present.size, |cursor| cursor.size.min(present.size));
    let listed = SearchRange { indexed: present.indexed.min(size), size, ..present.clone() };
    let mut finder = SessionFinder { filter: &reader.filter, range: listed, cursor, seen: BTreeSet::new() };
    let (mut items, mut last_listed) = (Vec::new(), None);
    let mut after = cursor.map(|cursor| cursor.seq);
    let [min, max] = STRIDE;
    let (mut scanned, mut blocks) = (0, 0);
    let next = 'pages: loop {
        let page = finder.page(&mut connection, after, (limit + 1 - items.len()).clamp(min, max)).await?;
        scanned += page.found.len() + page.scanned;
        let mut new = finder.first_events(&mut connection, &page.found).await?;
        let room = limit - items.len();
        let is_full = new.len() > room;
        new.truncate(room);
        for part in new.chunks(LOADED) {
            let ids: Vec<String> = part.iter().map(|(_, id)| id.clone()).collect();
            let mut loaded =
                session_events::load(&mut connection, &present, reader.selection(&ids), MAX_EVENTS_LISTED)
                    .await?;
            for (seq, id) in part {
                last_listed = Some(*seq);
                let events = loaded.by_id.remove(id);
                items.extend(events.and_then(|events| SessionSummary::of(id.clone(), &events)));
            }
            blocks += loaded.blocks;
            if blocks >= MAX_BLOCKS {
                break 'pages last_listed;
            }
        }
        if is_full {
            break last_listed;
        }
        after = page.next;
        if after.is_none() || scanned >= MAX_SCANNED || finder.seen.len() >= MAX_SEEN {
            break after;
        }
    };
    let next = next.map(|seq| ListCursor { seq, size }.text(&fingerprint));
    let people = people(&mut connection, &items).await?;
    let beside = PersonalContext { people, ..PersonalContext::default() };
    Ok(LogPage { items, next, beside, size })
}

async fn people(connection: &mut PgConnection, sessions: &[SessionSummary]) -> Result<People, Fault> {
    let subjects = sessions.iter().flat_map(|session| &session.subjects);
    let pseudonyms = subjects.map(|who| who.sub.clone()).filter(|sub| is_pseudonym(sub)).collect();
    people_of(connection, pseudonyms).await
}

/// Finds each session by its newest matching event.
struct SessionFinder<'a> {
    filter: &'a Filter,
    range: SearchRange,
    cursor: Option<ListCursor>,
    /// The sessions of this page, and those of earlier pages that were met again.
    seen: BTreeSet<String>,
}

impl SessionFinder<'_> {
    /// The next events of sessions that were not seen yet.
    async fn page(
        &self,
        connection: &mut PgConnection,
        after: Option<u64>,
        stride: usize,
    ) -> Result<search::EventPage, Fault> {
        let besides = [term(Field::InSession, "")];
        let without: Vec<i64> = self.seen.iter().map(|id| term(Field::Session, id)).collect();
        let search =
            EventSearch { filter: self.filter, besides: &besides, without: &without, order: Order::Newest };
        search::page(connection, search, &self.range, after, stride).await
    }

    /// The newest matching event of each session that no earlier page has listed.
    async fn first_events(
        &mut self,
        connection: &mut PgConnection,
        found: &[EventRow],
    ) -> Result<Vec<(u64, String)>, Fault> {
        let mut new = Vec::new();
        for row in found {
            let Some(id) = row.event.get("session_id").and_then(Value::as_str) else { continue };
            if !self.seen.insert(id.to_owned()) {
                continue;
            }
            if !self.was_listed(connection, id).await? {
                new.push((row.seq, id.to_owned()));
            }
        }
        Ok(new)
    }

    async fn was_listed(&self, connection: &mut PgConnection, id: &str) -> Result<bool, Fault> {
        let Some(cursor) = self.cursor else { return Ok(false) };
        let filter = Filter { session: Some(id.to_owned()), ..self.filter.clone() };
        let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Oldest };
        // The event at the cursor was on the page before.
        let mut after = cursor.seq.checked_sub(1);
        loop {
            let page = search::page(connection, search, &self.range, after, 1).await?;
            if !page.found.is_empty() {
                return Ok(true);
            }
            after = page.next;
            if after.is_none() {
                return Ok(false);
            }
        }
    }
}

/// A session in numbers.
pub async fn show(ctx: &RequestContext<'_>, id: &str) -> Result<SessionDetail, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let reader = SessionReader::of(ctx, &mut connection, of_session(id)?).await?.ok_or(Refusal::NotFound)?;
    let search_range = search::search_range(&mut connection).await?;
    let session = reader.summary(&mut connection, &search_range, id).await?;
    let people = people(&mut connection, std::slice::from_ref(&session)).await?;
    Ok(SessionDetail { session, people })
}

#[derive(Debug, Clone, Default)]
pub struct TraceQuery {
    pub limit: Option<usize>,
    /// Cursor from the previous page.
    pub cursor: Option<String>,
}

/// A page of the events of a session, oldest first.
pub async fn trace(
    ctx: &RequestContext<'_>,
    id: &str,
    query: &TraceQuery,
) -> Result<LogPage<TraceItem>, Error> {
    let limit = match query.limit.unwrap_or(MAX_ITEMS) {
        limit @ 1..=MAX_ITEMS => limit,
        _ => return Err(Refusal::Malformed("limit is 1 to 200").into()),
    };
    let filter = of_session(id)?;
    let fingerprint = filter.fingerprint("trace");
    let after = after(query.cursor.as_deref(), &fingerprint)?;
    let mut connection = ctx.pool.acquire().await?;
    let reader = SessionReader::of(ctx, &mut connection, filter).await?.ok_or(Refusal::NotFound)?;
    let search_range = search::search_range(&mut connection).await?;
    search_range.unindexed("sessions")?;
    let search = EventSearch { filter: &reader.filter, besides: &[], without: &[], order: Order::Oldest };
    let page = search::page(&mut connection, search, &search_range, after, limit).await?;
    if after.is_none() && page.found.is_empty() && page.next.is_none() {
        return Err(Refusal::NotFound.into());
    }
    let mut builder = match after {
        Some(seq) => builder_after(&mut connection, &search_range, &reader.filter, seq).await?,
        None => TraceBuilder::default(),
    };
    let mut items = page.found.iter().map(|row| builder.item(row)).collect::<Result<Vec<_>, _>>()?;
    trace_keys::remove_confirmed(&mut connection, &search_range, &page.found, &mut items).await?;
    let beside = context_of(&mut connection, page.found.iter()).await?;
    let next = page.next.map(|seq| format!("{seq}.{fingerprint}"));
    Ok(LogPage { items, next, beside, size: search_range.size })
}

fn after(cursor: Option<&str>, fingerprint: &str) -> Result<Option<u64>, Refusal> {
    let Some(cursor) = cursor else { return Ok(None) };
    let unknown = Refusal::Malformed("cursor is not from this server");
    let (seq, query) = cursor.split_once('.').ok_or(unknown)?;
    let seq = seq.parse().map_err(|_| unknown)?;
    match query == fingerprint {
        true => Ok(Some(seq)),
        false => Err(Refusal::Malformed("cursor belongs to another query")),
    }
}

/// A cursor can be made up: the time of an event that the caller cannot see is not shown.
async fn builder_after(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    filter: &Filter,
    seq: u64,
) -> Result<TraceBuilder, Fault> {
    let row = search::at(connection, seq).await?;
    let row = row.filter(|row| filter.matches(&row.event, row.personal.as_deref()));
    let mut builder = row.as_ref().map_or_else(TraceBuilder::default, TraceBuilder::after);
    trace_keys::note_before(connection, search_range, filter, seq, &mut builder).await?;
    Ok(builder)
}
