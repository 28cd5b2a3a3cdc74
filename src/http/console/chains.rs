//! `/console/chains`: who acted for whom, one row a chain, the newest first.

use std::collections::HashMap;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::web::Query;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use super::agents::agent_path;
use super::chain_words as said;
use super::error_page::PageError;
use super::frame::{ConsolePage, is_fragment};
use super::guard::{ConsoleRequest, Incoming, PageAnswer, is_unattended, serve};
use super::links::{path_segment, seq_path, url};
use super::list_query::{self, Cursors, SetFilter};
use super::{live, proposals, windows, words};
use crate::domain::audit::chain::{Chain, Hop};
use crate::domain::audit::chain_keys::KeyContinuity;
use crate::domain::audit::filter::Filter;
use crate::domain::console::ConsoleRole;
use crate::domain::delegation::DelegationState;
use crate::domain::refusal::Error;
use crate::services::audit::chain_count;
use crate::services::audit::chains;
use crate::services::audit::query::{AuditQuery, ChainConditions, LogPage};
use crate::services::console::{LiveLog, LogRows};

const PATH: &str = "/console/chains";
const ROWS: usize = 20;
/// The window of a view that names none.
const WINDOW: &str = "24h";
const STATES: [&str; 4] = ["requested", "active", "expired", "revoked"];
const KEYS: [&str; 3] = ["consistent", "no_key", "key_mismatch"];
/// Actors that a row names before it folds those in the middle.
const NAMED: usize = 4;
/// The count is loaded without the person: it does not keep the session from ending.
const BY_ITSELF: &str = r#"{"Actchain-Unattended": "true"}"#;
/// Events of a chain that a row links.
const LINKED: usize = 3;

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ChainsQuery {
    actor: Option<String>,
    subject_sub: Option<String>,
    state: Option<String>,
    keys: Option<String>,
    outcome: Option<String>,
    target: Option<String>,
    session: Option<String>,
    delegation: Option<String>,
    window: Option<String>,
    from: Option<String>,
    to: Option<String>,
    cursor: Option<String>,
}

impl ChainsQuery {
    /// The filters that are set. The window of all times is one here: without a window, a view shows the last day.
    fn filters(&self) -> Vec<SetFilter<'_>> {
        let members = [
            ("actor", &self.actor),
            ("subject_sub", &self.subject_sub),
            ("state", &self.state),
            ("keys", &self.keys),
            ("outcome", &self.outcome),
            ("target", &self.target),
            ("session", &self.session),
            ("delegation", &self.delegation),
            ("from", &self.from),
            ("to", &self.to),
        ];
        let mut filters = list_query::set(members);
        filters.extend(self.window.as_deref().filter(|name| !name.is_empty()).map(|name| ("window", name)));
        filters
    }

    /// The window, unless the view has times.
    fn window(&self) -> Option<&str> {
        let named = self.window.as_deref().filter(|name| !name.is_empty());
        named.or(Some(WINDOW)).filter(|_| !windows::has_times(&self.filters()))
    }

    /// The query of a page of the list.
    fn page(&self, now: OffsetDateTime) -> Result<AuditQuery, PageError> {
        let asked = self.audit_query(now)?;
        Ok(AuditQuery { limit: Some(ROWS), cursor: self.cursor.clone(), ..asked })
    }

    /// The path of the page of a chain, with the list from which it is opened.
    fn chain_page(&self, txn: &str) -> String {
        let more = [("window", self.window()), ("cursor", self.cursor.as_deref())];
        let more: Vec<_> = more.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        list_query::path_with(&chain_path(txn), &self.filters(), &more)
    }

    /// # Errors
    /// Names the field that cannot be read.
    fn audit_query(&self, now: OffsetDateTime) -> Result<AuditQuery, PageError> {
        let filters = self.filters();
        let value = |name| list_query::value(&filters, name);
        let mut filter = Filter::default();
        for (own, value) in &filters {
            let name = match *own {
                "window" | "from" | "to" | "state" | "keys" => continue,
                "session" => "session_id",
                "delegation" => "delegation_id",
                same => same,
            };
            filter.set(name, value)?;
        }
        [filter.from, filter.to] = windows::times(&filters, self.window(), now)?;
        let unreadable = |name, sentence| PageError::Field { name, sentence };
        let state = value("state").map(str::parse::<DelegationState>).transpose();
        let keys = value("keys").map(str::parse::<KeyContinuity>).transpose();
        let chains = ChainConditions {
            state: state.map_err(|_| unreadable("state", "There is no such state."))?,
            key_continuity: keys.map_err(|_| unreadable("keys", "There is no such result."))?,
        };
        Ok(AuditQuery { filter, chains, ..AuditQuery::default() })
    }
}

/// The path of the page of a chain.
pub(super) fn chain_path(txn: &str) -> String {
    format!("{PATH}/{}", path_segment(txn))
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: ChainsQuery = known.query()?;
        let asked = query.page(known.context.now)?;
        let found = chains::list(&known.context, &asked).await?;
        let proposed = proposals::agents(&known).await?;
        let body = html! {
            h1 { "Delegation chains" }
            p { "Who acted for whom: the exchanges and credentials that came of one first token." }
            (form(&known, &query))
            (proposed)
            (count_link(&known, &query))
            p.newer #newer role="status" {}
            @if found.items.is_empty() { (nothing(&known, &query, &found).await?) }
            @else { div data-live[is_live(&query, &asked)] { (table(&known, &query, &found)) } }
            @let cursors = Cursors { own: query.cursor.as_deref(), next: found.next.as_deref() };
            (list_query::pages(&known, &list_query::path_with(PATH, &query.filters(), &[]), cursors))
        };
        let page = ConsolePage::new("Delegation chains", body);
        // The newest page alone counts what is newer, and by its filter: state and keys are not in the index.
        let feed = match is_live(&query, &asked) {
            false => page.feed,
            true => {
                let log = LiveLog { filter: asked.filter, size: found.size, rows: LogRows::Chains };
                live::log_feed(&list_query::path_with(PATH, &query.filters(), &[]), &log)
            }
        };
        Ok(PageAnswer::Shown(ConsolePage { feed, ..page }))
    })
    .await
}

fn is_live(query: &ChainsQuery, asked: &AuditQuery) -> bool {
    query.cursor.is_none() && asked.chains == ChainConditions::default()
}

/// `/admin/delegation-chains`: where other servers of this kind have the page. It says nothing but the other place.
pub(super) async fn redirect((request, _, app): Incoming) -> HttpResponse {
    let query = request.query_string();
    let path = if query.is_empty() { PATH.to_owned() } else { format!("{PATH}?{query}") };
    HttpResponse::PermanentRedirect().insert_header((LOCATION, url(&app.issuer, &path))).finish()
}

/// `/console/chains/count`: how many chains a view has; exact to 1,000.
pub(super) async fn count(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: ChainsQuery = known.query()?;
        let counted = chain_count::count(&known.context, &query.audit_query(known.context.now)?).await?;
        let list = known.url(&list_query::path_with(PATH, &query.filters(), &[]));
        let number = html! {
            p #count { strong { (words::bounded(&counted)) } @if counted.number == 1 { " chain" } @else { " chains" } }
        };
        // As a part of the list, it has no title of its own.
        if is_fragment(known.request) {
            let response = HttpResponse::Ok()
                .insert_header((CACHE_CONTROL, "no-store"))
                .content_type("text/html; charset=utf-8")
                .body(number.into_string());
            return Ok(PageAnswer::Response(response));
        }
        let body = html! {
            h1 { "Chains of a view" }
            (number)
            p { a href=(list) data-back { "The view" } }
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Chains of a view", body)))
    })
    .await
}

/// The count comes after the rows, in a request of its own. State and keys are not in the index, and not counted.
fn count_link(known: &ConsoleRequest<'_>, query: &ChainsQuery) -> Markup {
    let filters = query.filters();
    if filters.iter().any(|(name, _)| ["state", "keys"].contains(name)) {
        return Markup::default();
    }
    let target = known.url(&list_query::path_with("/console/chains/count", &filters, &[]));
    // A list that is shown again by itself is not counted each time.
    if is_unattended(known.request) {
        return html! { p.dim { a href=(target) { "count the chains" } } };
    }
    html! {
        p.dim hx-get=(target) hx-trigger="load" hx-headers=(BY_ITSELF) hx-target="this" hx-select="#count" hx-swap="outerHTML" hx-push-url="false" {
            a href=(target) { "count the chains" }
        }
    }
}

fn form(known: &ConsoleRequest<'_>, query: &ChainsQuery) -> Markup {
    let filters = query.filters();
    let value = |name| list_query::value(&filters, name);
    let choice = |label: &str, name: &'static str, values: &[&str]| {
        html! {
            label.field { (label)
                select name=(name) {
                    option value="" { "any" }
                    @for one in values { option value=(one) selected[value(name) == Some(one)] { (said::word(one)) } }
                }
            }
        }
    };
    html! {
        form.filter method="get" action=(known.url(PATH)) {
            label.field { "agent" input name="actor" list=(proposals::AGENTS) value=[value("actor")] data-move="f"; }
            @if !known.has_role(ConsoleRole::User) {
                label.field { "for" input name="subject_sub" value=[value("subject_sub")]; }
            }
            (choice("state", "state", &STATES))
            (choice("keys", "keys", &KEYS))
            (choice("with an event", "outcome", &["success", "refused"]))
            label.field { "target" input name="target" value=[value("target")] size="16"; }
            (windows::choice("with an event", query.window()))
            (windows::between(value("from"), value("to")))
            button type="submit" { "Show" }
        }
        (list_query::removable(known, PATH, &filters, Some(WINDOW)))
    }
}

/// Why a list is empty, and what to do: the next wider window that has a chain, or how the first chain is made.
async fn nothing(
    known: &ConsoleRequest<'_>,
    query: &ChainsQuery,
    found: &LogPage<Chain>,
) -> Result<Markup, PageError> {
    if found.next.is_some() {
        return Ok(
            html! { p { "Nothing matches among the next events. Older ones were not read: go on with “Older”." } },
        );
    }
    if let Some(wider) = wider(known, query).await? {
        let target = known.url(&list_query::path_with(PATH, &query.filters(), &[("window", wider)]));
        return Ok(html! {
            p { "No chain in this window. " a href=(target) { @if wider == "all" { "Show all" } @else { "Show those of the last " (wider) } } }
        });
    }
    let others = query.filters().iter().any(|(name, _)| *name != "window");
    Ok(html! {
        @if others || query.cursor.is_some() { p { "Nothing matches. " a href={ (known.url(PATH)) "?window=all" } { "Show all" } } }
        @else {
            p { "No chain yet. The first exchange of an agent makes one. To see some:" }
            ul {
                li { code { "actchain demo --keep --open-console" } " acts as a user, four agents and a tool" }
                li { "the first exchange of the README, with " code { "examples/first-exchange.yaml" } " and " code { "curl" } }
            }
        }
    })
}

/// The next wider window that has a chain, or that has so many events that not all of them were searched.
async fn wider(known: &ConsoleRequest<'_>, query: &ChainsQuery) -> Result<Option<&'static str>, PageError> {
    let names: Vec<&'static str> = windows::names().collect();
    let Some(own) = query.window().and_then(|own| names.iter().position(|name| *name == own)) else {
        return Ok(None);
    };
    for name in names.into_iter().skip(own + 1) {
        let wide = ChainsQuery { window: Some(name.to_owned()), cursor: None, ..query.clone() };
        let asked = AuditQuery { limit: Some(1), ..wide.audit_query(known.context.now)? };
        let found = chains::list(&known.context, &asked).await?;
        if !found.items.is_empty() || found.next.is_some() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn table(known: &ConsoleRequest<'_>, query: &ChainsQuery, found: &LogPage<Chain>) -> Markup {
    html! {
        table.rows {
            thead { tr {
                th { "last event" } th { "state" } th { "keys" } th { "who for whom" } th { "hops" } th { "events" }
                th { "last action" } th { "first events" } th { "chain" }
            } }
            tbody {
                @for chain in &found.items { (row(known, &known.url(&query.chain_page(&chain.txn)), chain, found)) }
            }
        }
    }
}

/// The list from which a chain was opened, shown beside it: `list` is the query of that list. Nothing for another query.
pub(super) async fn beside(
    known: &ConsoleRequest<'_>,
    list: &str,
    txn: &str,
) -> Result<Option<Markup>, PageError> {
    let query: Option<ChainsQuery> = Query::from_query(list).ok().map(Query::into_inner);
    let Some(query) = query.filter(|_| !list.is_empty()) else { return Ok(None) };
    let Ok(asked) = query.page(known.context.now) else { return Ok(None) };
    let found = match chains::list(&known.context, &asked).await {
        Ok(found) => found,
        Err(Error::Refused(_)) => return Ok(None),
        Err(failed) => return Err(failed.into()),
    };
    Ok(Some(html! {
        nav.list aria-label="The list of chains" {
            ul {
                @for chain in &found.items {
                    li {
                        a href=(known.url(&query.chain_page(&chain.txn))) aria-current=[(chain.txn == txn).then_some("page")] {
                            (words::instant(chain.last_at.as_str().unwrap_or_default(), known.context.now))
                        }
                        div { (said::keys_of_shown(chain)) " " (said::subject(chain, &found.beside.people)) (actors(known, chain)) }
                    }
                }
            }
        }
    }))
}

fn row(known: &ConsoleRequest<'_>, page: &str, chain: &Chain, found: &LogPage<Chain>) -> Markup {
    let now = known.context.now;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let last = |name: &str| chain.last.get(name).map(text).unwrap_or_default();
    let target = [last("target"), chain.last.pointer("/audience/0").map(text).unwrap_or_default()];
    let target = target.into_iter().find(|one| !one.is_empty());
    html! {
        tr data-row {
            td data-label="last event" { a href=(page) { (words::instant(&text(&chain.last_at), now)) } }
            td data-label="state" { @match chain.state { Some(state) => (words::state(state)), None => span.dim { "–" } } }
            td data-label="keys" { (said::keys_of_shown(chain)) }
            td data-label="who for whom" { (said::subject(chain, &found.beside.people)) (actors(known, chain)) }
            td data-label="hops" { (chain.hops.len()) @if !chain.complete { "+" } }
            td data-label="events" {
                (chain.events)
                @if chain.refusals > 0 { ", " span.bad { span.mark aria-hidden="true" { "✗" } " " (chain.refusals) @if !chain.complete { "+" } " refused" } }
            }
            td data-label="last action" {
                code { (last("action")) }
                @if let Some(target) = target { " at " code { (words::visible(&words::short(&target))) } }
            }
            td data-label="first events" {
                @for hop in chain.hops.iter().take(LINKED) {
                    a href=(known.url(&seq_path(hop.seq))) { (hop.seq) } " "
                }
            }
            td data-label="chain" { (words::id(&chain.txn)) }
        }
    }
}

/// The actors, each with the beginning of its key. Those in the middle of many are folded.
fn actors(known: &ConsoleRequest<'_>, chain: &Chain) -> Markup {
    let keys: HashMap<&str, &str> = chain.hops.iter().filter_map(key).collect();
    let chip = |name: &String| {
        html! {
            " → " a href=(known.url(&agent_path(name))) { bdi { (words::visible(name)) } }
            @if let Some(jkt) = keys.get(name.as_str()) { " " code.dim title=(jkt) { (said::key_start(jkt)) } }
        }
    };
    let folds = chain.actors.len() > NAMED;
    let (first, rest) = chain.actors.split_at(if folds { 1 } else { chain.actors.len() });
    let (middle, last) = rest.split_at(rest.len().saturating_sub(2));
    html! {
        @for name in first { (chip(name)) }
        @if !middle.is_empty() { details.inline { summary { "→ … " (middle.len()) " more …" } @for name in middle { (chip(name)) } } }
        @for name in last { (chip(name)) }
        @if !chain.branches.is_empty() { " " span.dim { "+" (chain.branches.len()) @if chain.branches.len() == 1 { " branch" } @else { " branches" } } }
    }
}

fn key(hop: &Hop) -> Option<(&str, &str)> {
    Some((hop.client_id.as_str()?, hop.jkt.as_str()?))
}
