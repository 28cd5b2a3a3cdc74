//! `/console/agents`: agents, what they may do, and for whom they act.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::{graph, words};
use crate::domain::console::ConsoleRole;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::impact::Impact;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::clients::{self, ClientView};
use crate::services::delegations::graph::{Graph, GraphQuery, graph as delegations_graph};
use crate::services::delegations::{self, AgentView};
use crate::services::page::{Page, PageRequest};
use crate::services::principals::{self, RevocationSubject, show_impact};

/// Edges on each side of the graph.
const EDGES: u32 = 8;
/// Above this number of delegations, the id is typed first.
const TYPED_ABOVE: i64 = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AgentsQuery {
    cursor: Option<String>,
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let AgentsQuery { cursor } = known.query()?;
        let found = delegations::agents(&known.context, &PageRequest { cursor, limit: Some(20) }).await?;
        Ok(PageAnswer::Shown(ConsolePage::new("Agents", list_body(&known, &found))))
    })
    .await
}

fn list_body(known: &ConsoleRequest<'_>, found: &Page<AgentView>) -> Markup {
    let here = known.url("/console/agents");
    html! {
        h1 { "Agents" }
        @if found.items.is_empty() {
            p { "No agent may act for a user yet." }
        } @else {
            table.rows {
                thead { tr { th { "agent" } th { "name" } th { "state" } th { "active delegations" } } }
                tbody {
                    @for one in &found.items {
                        tr data-row {
                            td data-label="agent" { a href=(known.url(&format!("/console/agents/{}", form_encoded(&one.client_id)))) { bdi { (one.client_id) } } }
                            td data-label="name" { bdi { (words::visible(&one.name)) } }
                            td data-label="state" { @if one.disabled { (disabled()) } @else { (enabled()) } @if one.ephemeral.is_some() { span.dim { " for one task" } } }
                            td data-label="active delegations" { (one.delegations.len()) }
                        }
                    }
                }
            }
        }
        @if let Some(next) = &found.next { p.pages { a rel="next" href={ (here) "?cursor=" (form_encoded(next)) } { "More" } } }
    }
}

fn enabled() -> Markup {
    html! { span.ok { span.mark aria-hidden="true" { "✓" } " enabled" } }
}

fn disabled() -> Markup {
    html! { span.bad { span.mark aria-hidden="true" { "✗" } " disabled" } }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AgentQuery {
    /// All delegations, not the active ones alone.
    all: bool,
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let AgentQuery { all } = known.query()?;
        let id = known.segment("id");
        let id = id.as_str();
        let page = || PageRequest { cursor: None, limit: Some(EDGES) };
        let state = (!all).then_some(DelegationState::Active);
        let edges =
            delegations_graph(&known.context, id, &GraphQuery { state, inbound: page(), outbound: page() })
                .await?;
        let client = match known.context.caller.administers() {
            true => Some(clients::show(&known.context, id).await?),
            false => None,
        };
        let reached = match client {
            Some(_) => Some(show_impact(&known.context, &RevocationSubject::Client(id.to_owned())).await?),
            None => None,
        };
        let nothing = |edges: &Graph| edges.inbound.items.is_empty() && edges.outbound.items.is_empty();
        // A user may learn of agents that act for the user, also of those that did.
        if known.has_role(ConsoleRole::User) && nothing(&edges) {
            let ever = GraphQuery { state: None, inbound: page(), outbound: page() };
            if nothing(&delegations_graph(&known.context, id, &ever).await?) {
                return Err(Error::Refused(Refusal::NotFound).into());
            }
        }
        let shown =
            AgentPage { id, state, edges: &edges, client: client.as_ref(), reached: reached.as_ref() };
        let body = item_body(&known, &shown)?;
        Ok(PageAnswer::Shown(ConsolePage::new(format!("Agent {id}"), body)))
    })
    .await
}

/// What the page of an agent shows; administrators see its declaration, too.
struct AgentPage<'a> {
    id: &'a str,
    /// The state of the shown delegations; all of them without one.
    state: Option<DelegationState>,
    edges: &'a Graph,
    client: Option<&'a ClientView>,
    reached: Option<&'a Impact>,
}

fn item_body(known: &ConsoleRequest<'_>, shown: &AgentPage<'_>) -> Result<Markup, Fault> {
    let AgentPage { id, state, edges, client, reached } = *shown;
    let all = state.is_none();
    let here = known.url(&format!("/console/agents/{}", form_encoded(id)));
    Ok(html! {
        p { a href=(known.url("/console/agents")) data-back { "Agents" } }
        h1 { "Agent " bdi { (id) } }
        @if let Some(client) = client { (facts(client)) }
        h2 { "For whom, and who for it" }
        ul.tabs {
            li { a href=(here) aria-current=[(!all).then_some("page")] { "Active" } }
            li { a href={ (here) "?all=true" } aria-current=[all.then_some("page")] { "All" } }
        }
        (graph::draw(known, id, edges))
        @if let (Some(client), Some(reached)) = (client, reached) { (moves(known, client, reached)?) }
    })
}

fn facts(client: &ClientView) -> Markup {
    let list =
        |names: &std::collections::BTreeSet<String>| words::names(Some(&names.iter().cloned().collect()), "");
    html! {
        dl {
            dt { "name" } dd { bdi { (words::visible(&client.name)) } }
            dt { "state" } dd { @if client.disabled_at.is_none() && client.deactivated_at.is_none() { (enabled()) } @else { (disabled()) } }
            dt { "authenticates by" } dd { code { (serde_json::to_value(client.auth).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()) } }
            dt { "scopes" } dd { (list(&client.scopes)) }
            dt { "audiences" } dd { (list(&client.audiences)) }
            @if let Some(uri) = &client.jwks_uri { dt { "keys at" } dd { code { (uri) } } }
            @if !client.keys.is_empty() { dt { "keys" } dd { @for key in &client.keys { (words::id(key)) " " } } }
            @if !client.dpop_keys.is_empty() { dt { "DPoP keys" } dd { @for key in &client.dpop_keys { (words::id(key)) " " } } }
            @if !client.removed_keys.is_empty() { dt { "removed keys" } dd { @for key in &client.removed_keys { (words::id(key)) " " } } }
            @if let Some(task) = &client.task_id { dt { "task" } dd { bdi { (words::visible(task)) } } }
        }
    }
}

fn moves(known: &ConsoleRequest<'_>, client: &ClientView, reached: &Impact) -> Result<Markup, Fault> {
    let at = |act: &str| known.url(&format!("/console/agents/{}/{act}", form_encoded(&client.client_id)));
    let (disable, enable) = (at("disable"), at("enable"));
    let at_least = if reached.at_least { "at least " } else { "" };
    Ok(html! {
        @if client.disabled_at.is_none() && client.deactivated_at.is_none() {
            form method="post" action=(disable) {
                (known.hidden(&disable)?)
                p { "Disabling stops " (at_least) (reached.delegations) " delegations and " (at_least) (reached.tokens) " tokens at once, until it is enabled again." }
                @if reached.delegations > TYPED_ABOVE {
                    label.field { "This reaches many. Type the agent's id." input name="typed" required autocomplete="off"; }
                }
                div.moves { button.danger type="submit" data-move="x" { "Disable" } }
            }
        } @else if client.deactivated_at.is_none() {
            form method="post" action=(enable) {
                (known.hidden(&enable)?)
                p { "Enabled again, its delegations and tokens that have not ended count again." }
                div.moves { button type="submit" { "Enable" } }
            }
        }
    })
}

pub(super) async fn disable(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        let reached = show_impact(&known.context, &RevocationSubject::Client(id.clone())).await?;
        if reached.delegations > TYPED_ABOVE && known.form.get("typed") != Some(id.as_str()) {
            return Err(Refusal::Malformed("This reaches many: type the id of the agent").into());
        }
        principals::disable(&known.context, &id).await?;
        Ok(PageAnswer::See(known.url(&format!("/console/agents/{}", form_encoded(&id)))))
    })
    .await
}

pub(super) async fn enable(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        known.require_fresh()?;
        let id = known.segment("id");
        principals::enable(&known.context, &id).await?;
        Ok(PageAnswer::See(known.url(&format!("/console/agents/{}", form_encoded(&id)))))
    })
    .await
}
