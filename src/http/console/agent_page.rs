//! `/console/agents/{id}`: one agent. Its tabs are in the URL: overview, delegations, activity, keys.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::agents::{agent_path, state};
use super::event_rows;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::{graph, words};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::Order;
use crate::domain::client::AuthMethod;
use crate::domain::console::ConsoleRole;
use crate::domain::delegation::DelegationState;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::agents::{self, AgentKey, AgentState, CappedCount, KeyUse, MAX_COUNTED};
use crate::services::audit::query::{self, AuditQuery, LogPage};
use crate::services::clients::{self, ClientView};
use crate::services::delegations::graph::{Graph, GraphQuery, count_edges, graph as edges_of};
use crate::services::page::PageRequest;

/// Edges on each side of the graph.
const EDGES: u32 = 8;
/// Events on a page of the activity.
const EVENTS: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AgentTab {
    Overview,
    Delegations,
    Activity,
    Keys,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AgentQuery {
    tab: Option<AgentTab>,
    /// All delegations, not the active ones alone.
    all: bool,
    cursor: Option<String>,
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: AgentQuery = known.query()?;
        let id = known.segment("id");
        let administers = known.context.caller.administers();
        let tab = query.tab.unwrap_or(if administers { AgentTab::Overview } else { AgentTab::Delegations });
        if !administers && matches!(tab, AgentTab::Overview | AgentTab::Keys) {
            return Err(Refusal::NotFound.into());
        }
        require_visible(&known, &id).await?;
        let content = match tab {
            AgentTab::Overview => overview(&known, &id).await?,
            AgentTab::Delegations => delegations(&known, &id, &query).await?,
            AgentTab::Activity => activity(&known, &id, query.cursor).await?,
            AgentTab::Keys => keys(&known, &id).await?,
        };
        let body = html! {
            p { a href=(known.url("/console/agents")) data-back { "Agents" } }
            h1 { bdi { (id) } }
            (tabs(&known, &id, tab))
            (content)
        };
        Ok(PageAnswer::Shown(ConsolePage::new(format!("Agent {id}"), body)))
    })
    .await
}

/// Auditors and administrators see every agent; a user sees those that act or acted for the user.
async fn require_visible(known: &ConsoleRequest<'_>, id: &str) -> Result<(), Error> {
    let one = || PageRequest { cursor: None, limit: Some(1) };
    let ever = GraphQuery { state: None, inbound: one(), outbound: one() };
    let found = edges_of(&known.context, id, &ever).await?;
    let is_unknown = found.inbound.items.is_empty() && found.outbound.items.is_empty();
    if known.has_role(ConsoleRole::User) && is_unknown { Err(Refusal::NotFound.into()) } else { Ok(()) }
}

fn tabs(known: &ConsoleRequest<'_>, id: &str, current: AgentTab) -> Markup {
    let here = known.url(&agent_path(id));
    let all = [
        (AgentTab::Overview, "overview"),
        (AgentTab::Delegations, "delegations"),
        (AgentTab::Activity, "activity"),
        (AgentTab::Keys, "keys"),
    ];
    let administers = known.context.caller.administers();
    let shown =
        all.into_iter().filter(|(tab, _)| administers || !matches!(tab, AgentTab::Overview | AgentTab::Keys));
    html! {
        ul.tabs {
            @for (tab, name) in shown { li { a href={ (here) "?tab=" (name) } aria-current=[(tab == current).then_some("page")] { (name) } } }
        }
    }
}

async fn overview(known: &ConsoleRequest<'_>, id: &str) -> Result<Markup, Error> {
    let client = clients::show(&known.context, id).await?;
    Ok(html! {
        (facts(&client))
        (moves(known, &client)?)
    })
}

fn facts(client: &ClientView) -> Markup {
    let list =
        |names: &std::collections::BTreeSet<String>| words::names(Some(&names.iter().cloned().collect()), "");
    html! {
        dl {
            dt { "name" } dd { bdi { (words::visible(&client.name)) } }
            dt { "state" } dd { (state(state_of(client))) }
            dt { "kind" } dd { (words::serialized(&client.kind)) }
            dt { "authenticates by" } dd { code { (words::serialized(&client.auth)) } }
            dt { "may use" } dd { @for (place, grant) in client.grant_types.iter().enumerate() { @if place > 0 { ", " } code { (words::serialized(grant)) } } }
            dt { "scopes" } dd { (list(&client.scopes)) }
            dt { "audiences" } dd { (list(&client.audiences)) }
            dt { "DPoP" } dd { (words::serialized(&client.dpop)) }
            @if let Some(seconds) = client.max_token_ttl { dt { "tokens last" } dd { "at most " (seconds) " s" } }
            @if let Some(uri) = &client.jwks_uri { dt { "keys at" } dd { code { (words::visible(uri)) } } }
            @if let Some(task) = &client.task_id { dt { "task" } dd { bdi { (words::visible(task)) } } }
        }
    }
}

fn state_of(client: &ClientView) -> AgentState {
    match (&client.deactivated_at, &client.disabled_at) {
        (Some(_), _) => AgentState::Deactivated,
        (None, Some(_)) => AgentState::Disabled,
        (None, None) => AgentState::Enabled,
    }
}

/// What can be done with an agent. What takes back has a page that shows first what it affects.
fn moves(known: &ConsoleRequest<'_>, client: &ClientView) -> Result<Markup, Fault> {
    let at = |act: &str| known.url(&format!("{}/{act}", agent_path(&client.client_id)));
    let (enable, secret) = (at("enable"), at("rotate-secret"));
    let state = state_of(client);
    let has_secret = matches!(client.auth, AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost);
    Ok(html! {
        p { a href={ (known.url("/console/check")) "?client=" (form_encoded(&client.client_id)) } { "Check an exchange of this agent" } }
        div.moves {
            @if state == AgentState::Enabled { a.button.danger href=(at("disable")) data-move="x" { "Disable…" } }
            @if state != AgentState::Deactivated { a.button.danger href=(at("revoke-all")) { "Revoke all…" } }
            @if client.task_id.is_some() && state != AgentState::Deactivated { a.button.danger href=(at("end-task")) { "End its task…" } }
        }
        @if state == AgentState::Disabled {
            form method="post" action=(enable) {
                (known.hidden(&enable)?)
                p { "Enabled again, its delegations and tokens that have not ended count again. This needs a sign-in of a short time ago." }
                div.moves { button type="submit" { "Enable" } }
            }
        }
        @if has_secret && state != AgentState::Deactivated {
            form method="post" action=(secret) {
                (known.hidden(&secret)?)
                p { "A new secret is shown once. The old one stays valid for an hour. This needs a sign-in of a short time ago." }
                div.moves { button type="submit" { "New secret" } }
            }
        }
    })
}

async fn delegations(known: &ConsoleRequest<'_>, id: &str, query: &AgentQuery) -> Result<Markup, Error> {
    let state = (!query.all).then_some(DelegationState::Active);
    let page = || PageRequest { cursor: None, limit: Some(EDGES) };
    let found: Graph =
        edges_of(&known.context, id, &GraphQuery { state, inbound: page(), outbound: page() }).await?;
    let counts = count_edges(&known.context, id, state, MAX_COUNTED + 1).await?;
    let here = known.url(&agent_path(id));
    let shown = graph::ShownGraph {
        agent: id,
        edges: &found,
        more_inbound: CappedCount::of(counts.inbound.saturating_sub(found.inbound.items.len())),
        more_outbound: CappedCount::of(counts.outbound.saturating_sub(found.outbound.items.len())),
    };
    Ok(html! {
        ul.tabs {
            li { a href={ (here) "?tab=delegations" } aria-current=[(!query.all).then_some("page")] { "Active" } }
            li { a href={ (here) "?tab=delegations&all=true" } aria-current=[query.all.then_some("page")] { "All" } }
        }
        (graph::draw(known, &shown))
    })
}

async fn activity(known: &ConsoleRequest<'_>, id: &str, cursor: Option<String>) -> Result<Markup, Error> {
    let here = known.url(&agent_path(id));
    let later = cursor.is_some();
    let filter = Filter { client: Some(id.to_owned()), ..Filter::default() };
    let asked =
        AuditQuery { filter, order: Order::Newest, limit: Some(EVENTS), cursor, ..AuditQuery::default() };
    let found: LogPage<Value> = query::list(&known.context, &asked).await?;
    Ok(html! {
        @if found.items.is_empty() && found.next.is_some() { p { "Nothing of it is among the next events. Older ones were not read: go on with “Older”." } }
        @else if found.items.is_empty() { p { "It has done nothing yet that the log has." } }
        @else { (event_rows::table(known, &found)) }
        p.pages {
            @if later { a rel="prev" href={ (here) "?tab=activity" } { "Newest" } }
            @if let Some(next) = &found.next { a rel="next" href={ (here) "?tab=activity&cursor=" (form_encoded(next)) } { "Older" } }
        }
    })
}

async fn keys(known: &ConsoleRequest<'_>, id: &str) -> Result<Markup, Error> {
    let found = agents::keys(&known.context, id).await?;
    let now = known.context.now;
    Ok(html! {
        @if found.keys.is_empty() { p { "No key is registered, and none was seen." } }
        @else {
            table.rows {
                thead { tr { th { "thumbprint" } th { "registered for" } th { "first seen" } th { "last seen" } th { "" span.visually-hidden { "moves" } } } }
                tbody {
                    @for key in &found.keys {
                        tr data-row {
                            td data-label="thumbprint" { (words::id(&key.jkt)) }
                            td data-label="registered for" { (registered(key)) }
                            @match &key.seen {
                                Some((first, last)) => { td data-label="first seen" { (words::instant(first, now)) } td data-label="last seen" { (words::instant(last, now)) } },
                                None => { td data-label="first seen" { span.dim { "–" } } td data-label="last seen" { span.dim { "–" } } },
                            }
                            td data-label="moves" { @if !key.is_removed { a.button.danger href=(known.url(&format!("{}/keys/{}", agent_path(id), form_encoded(&key.jkt)))) { "Remove…" } } }
                        }
                    }
                }
            }
        }
        @match &found.since {
            Some(since) => p.dim { "Seen in its newest " (agents::EVENTS_WITH_KEYS) " events, since " (words::instant(since, now)) "." },
            None => p.dim { "Seen in all its events that the database has." },
        }
    })
}

fn registered(key: &AgentKey) -> Markup {
    let purpose = |purpose: &KeyUse| match purpose {
        KeyUse::Assertions => "assertions",
        KeyUse::Proofs => "proofs",
    };
    html! {
        @if key.is_removed { span.bad { span.mark aria-hidden="true" { "✗" } " removed" } }
        @else if key.registered.is_empty() { span.dim { "not registered" } }
        @else { (key.registered.iter().map(purpose).collect::<Vec<_>>().join(", ")) }
    }
}
