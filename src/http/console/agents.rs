//! `/console/agents`: agents, what they may do, and what they did of late.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::proposals;
use super::words;
use crate::domain::console::ConsoleRole;
use crate::domain::refusal::Refusal;
use crate::services::agents::{self, AgentFacts, AgentFilter, AgentState, AgentSummary};
use crate::services::page::{Page, PageRequest};

const ROWS: u32 = 20;

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AgentsQuery {
    state: Option<String>,
    /// Beginning of the id.
    q: Option<String>,
    task: Option<String>,
    cursor: Option<String>,
}

impl AgentsQuery {
    /// A field of a form that was left empty does not restrict.
    fn filter(&self) -> Result<AgentFilter, Refusal> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let enabled = match set(&self.state).as_deref() {
            None => None,
            Some("enabled") => Some(true),
            Some("disabled") => Some(false),
            Some(_) => return Err(Refusal::Malformed("state is enabled or disabled")),
        };
        Ok(AgentFilter { enabled, prefix: set(&self.q), task_id: set(&self.task) })
    }

    /// The query of the view, with another cursor and without one of its filters.
    fn with(&self, cursor: Option<&str>, without: Option<&str>) -> String {
        let members = [
            ("state", self.state.as_deref()),
            ("q", self.q.as_deref()),
            ("task", self.task.as_deref()),
            ("cursor", cursor),
        ];
        let set = members.into_iter().filter_map(|(name, value)| {
            Some((name, value.filter(|value| !value.is_empty() && without != Some(name))?))
        });
        set.map(|(name, value)| format!("{name}={}", form_encoded(value))).collect::<Vec<_>>().join("&")
    }

    /// The filters that restrict, each as it is shown.
    fn active(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [("state", &self.state), ("q", &self.q), ("task", &self.task)];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref().filter(|text| !text.is_empty())?)))
    }
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: AgentsQuery = known.query()?;
        let filter = query.filter()?;
        if known.has_role(ConsoleRole::User) && (filter.enabled.is_some() || filter.task_id.is_some()) {
            return Err(Refusal::Malformed("Only administrators filter agents by state and task").into());
        }
        let page = PageRequest { cursor: query.cursor.clone(), limit: Some(ROWS) };
        let found = agents::list(&known.context, &filter, &page).await?;
        let proposed = proposals::agents(&known).await?;
        let body = html! { (list_body(&known, &query, &found)) (proposed) };
        Ok(PageAnswer::Shown(ConsolePage::new("Agents", body)))
    })
    .await
}

fn list_body(known: &ConsoleRequest<'_>, query: &AgentsQuery, found: &Page<AgentSummary>) -> Markup {
    let here = known.url("/console/agents");
    let administers = known.context.caller.administers();
    let filtered = query.active().next().is_some();
    let link = |query: String| if query.is_empty() { here.clone() } else { format!("{here}?{query}") };
    html! {
        h1 { "Agents" }
        @if administers { p { a href=(known.url("/console/agents/new")) data-move="c" { "Set up an agent" } } }
        form.filter method="get" action=(here) {
            @if administers {
                label.field { "state"
                    select name="state" data-move="f" {
                        @for name in ["", "enabled", "disabled"] {
                            option value=(name) selected[query.state.as_deref().unwrap_or_default() == name] { (if name.is_empty() { "any" } else { name }) }
                        }
                    }
                }
            }
            label.field { "id begins with" input name="q" list=(proposals::AGENTS) value=[&query.q]; }
            @if administers { label.field { "task" input name="task" value=[&query.task]; } }
            button type="submit" { "Show" }
        }
        @if filtered {
            ul.filters {
                @for (name, value) in query.active() {
                    li { a href=(link(query.with(None, Some(name)))) { (name) ": " bdi { (words::visible(value)) } " " span aria-hidden="true" { "✕" } span.visually-hidden { " remove" } } }
                }
            }
        }
        @if found.items.is_empty() {
            @if filtered || query.cursor.is_some() { p { "Nothing matches. " a href=(here) { "Show all" } } }
            @else if administers { p { "There is no agent yet. " a href=(known.url("/console/agents/new")) { "Set up an agent" } } }
            @else { p { "No agent may act for you yet." } }
        } @else {
            (table(known, &found.items))
        }
        p.pages {
            @if query.cursor.is_some() { a rel="prev" href=(link(query.with(None, None))) { "First" } }
            @if let Some(next) = &found.next { a rel="next" href=(link(query.with(Some(next), None))) { "More" } }
        }
    }
}

fn table(known: &ConsoleRequest<'_>, items: &[AgentSummary]) -> Markup {
    let with_facts = items.iter().any(|one| one.facts.is_some());
    html! {
        table.rows {
            thead { tr {
                th { "name" } th { "id" }
                @if with_facts { th { "auth" } th { "keys" } }
                th { "state" } th { "active delegations" }
                @if with_facts { th { "last seen" } th { "refusals 24 h" } }
                th { "task" }
            } }
            tbody {
                @for one in items {
                    tr data-row {
                        td data-label="name" { bdi { (words::visible(&one.name)) } }
                        td data-label="id" { a href=(known.url(&agent_path(&one.client_id))) { bdi { (one.client_id) } } }
                        @if let Some(facts) = &one.facts {
                            td data-label="auth" { code { (words::serialized(&facts.auth)) } }
                            td data-label="keys" { (facts.keys) }
                        }
                        td data-label="state" { (state(one.state)) }
                        td data-label="active delegations" { (one.active) }
                        @if let Some(facts) = &one.facts { (of_late(known, facts)) }
                        td data-label="task" { @match &one.task_id { Some(task) => bdi { (words::visible(task)) }, None => span.dim { "–" } } }
                    }
                }
            }
        }
    }
}

fn of_late(known: &ConsoleRequest<'_>, facts: &AgentFacts) -> Markup {
    html! {
        td data-label="last seen" {
            @match &facts.last_seen { Some(at) => (words::instant(at, known.context.now)), None => span.dim { "never" } }
        }
        td data-label="refusals 24 h" {
            @if facts.refusals.is_zero() { "0" } @else { span.bad { span.mark aria-hidden="true" { "✗" } " " (facts.refusals) } }
        }
    }
}

/// The path of the page of an agent.
pub(super) fn agent_path(client_id: &str) -> String {
    format!("/console/agents/{}", form_encoded(client_id))
}

pub(super) fn state(state: AgentState) -> Markup {
    html! {
        @match state {
            AgentState::Enabled => span.ok { span.mark aria-hidden="true" { "✓" } " enabled" },
            AgentState::Disabled => span.bad { span.mark aria-hidden="true" { "✗" } " disabled" },
            AgentState::Deactivated => span.dim { span.mark aria-hidden="true" { "–" } " deactivated" },
        }
    }
}
