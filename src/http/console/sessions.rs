//! `/console/sessions`: pieces of work, those with the newest events first.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use time::OffsetDateTime;

use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::{form_encoded, path_segment};
use super::session_words as said;
use super::{proposals, windows, words};
use crate::domain::audit::filter::Filter;
use crate::domain::console::ConsoleRole;
use crate::services::audit::query::LogPage;
use crate::services::audit::sessions::{self, SessionQuery, SessionSummary};

const PATH: &str = "/console/sessions";
const ROWS: usize = 20;
const YES: &str = "yes";

/// A session is listed if one of its events has everything that is named here.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SessionsQuery {
    subject_sub: Option<String>,
    actor: Option<String>,
    window: Option<String>,
    findings: Option<String>,
    refusals: Option<String>,
    rule: Option<String>,
    cursor: Option<String>,
}

impl SessionsQuery {
    /// The filters that are set. A field of a form that was left empty does not restrict.
    fn filters(&self) -> Vec<(&'static str, &str)> {
        let members = [
            ("subject_sub", &self.subject_sub),
            ("actor", &self.actor),
            ("window", &self.window),
            ("findings", &self.findings),
            ("refusals", &self.refusals),
            ("rule", &self.rule),
        ];
        let set = members.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        set.filter(|(name, value)| !value.is_empty() && (*name, *value) != ("window", "all")).collect()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.filters().into_iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// # Errors
    /// Names the field that cannot be read.
    fn filter(&self, now: OffsetDateTime) -> Result<Filter, PageError> {
        let mut filter = Filter::default();
        for (own, name) in [("subject_sub", "subject_sub"), ("actor", "client_id"), ("rule", "rule")] {
            if let Some(value) = self.value(own) {
                filter.set(name, value)?;
            }
        }
        for (own, name, value) in [("findings", "has_findings", "true"), ("refusals", "outcome", "refused")] {
            match self.value(own) {
                None => {}
                Some(YES) => {
                    filter.set(name, value)?;
                }
                Some(_) => {
                    return Err(PageError::Field { name: own, sentence: "It is “yes”, or absent." });
                }
            }
        }
        filter.from = windows::length(self.value("window"))?.map(|window| now - window);
        Ok(filter)
    }

    /// Path and query of this view, with another value of one member; an empty value takes it away.
    fn path_with(&self, name: &str, value: &str) -> String {
        let kept = self.filters().into_iter().filter(|(own, _)| *own != name);
        let set = kept.chain([(name, value)].into_iter().filter(|(_, value)| !value.is_empty()));
        let query: Vec<String> = set.map(|(name, value)| format!("{name}={}", form_encoded(value))).collect();
        if query.is_empty() { PATH.to_owned() } else { format!("{PATH}?{}", query.join("&")) }
    }
}

/// The path of the page of a session. An issuer can name a session by any text.
pub(super) fn session_path(id: &str) -> String {
    format!("{PATH}/{}", path_segment(id))
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: SessionsQuery = known.query()?;
        let filter = query.filter(known.context.now)?;
        let page = SessionQuery { filter, limit: Some(ROWS), cursor: query.cursor.clone() };
        let found = sessions::list(&known.context, &page).await?;
        let proposed = proposals::agents(&known).await?;
        let body = html! {
            h1 { "Sessions" }
            (form(&known, &query))
            (proposed)
            @if found.items.is_empty() { (nothing(&known, &query, &found)) } @else { (table(&known, &found)) }
            p.pages {
                @if query.cursor.is_some() { a rel="prev" href=(known.url(&query.path_with("cursor", ""))) { "Newest" } }
                @if let Some(next) = &found.next { a rel="next" href=(known.url(&query.path_with("cursor", next))) { "Older" } }
            }
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Sessions", body)))
    })
    .await
}

fn form(known: &ConsoleRequest<'_>, query: &SessionsQuery) -> Markup {
    let is_set = |name: &str| query.value(name) == Some(YES);
    html! {
        form.filter method="get" action=(known.url(PATH)) {
            @if !known.has_role(ConsoleRole::User) {
                label.field { "for" input name="subject_sub" value=[query.value("subject_sub")]; }
            }
            label.field { "agent" input name="actor" list=(proposals::AGENTS) value=[query.value("actor")] data-move="f"; }
            (windows::choice("with an event", query.value("window")))
            label.field { "rule" input name="rule" value=[query.value("rule")] placeholder="CE-009" size="10"; }
            label { input type="checkbox" name="findings" value=(YES) checked[is_set("findings")]; "with findings" }
            label { input type="checkbox" name="refusals" value=(YES) checked[is_set("refusals")]; "with refusals" }
            button type="submit" { "Show" }
        }
        @let filters = query.filters();
        @if !filters.is_empty() {
            ul.filters {
                @for (name, value) in filters {
                    li { a href=(known.url(&query.path_with(name, ""))) { (name) ": " bdi { (words::visible(value)) } " " span aria-hidden="true" { "✕" } span.visually-hidden { " remove" } } }
                }
            }
        }
    }
}

/// Why a list is empty, and what to do.
fn nothing(known: &ConsoleRequest<'_>, query: &SessionsQuery, found: &LogPage<SessionSummary>) -> Markup {
    html! {
        @if found.next.is_some() { p { "Nothing matches among the next events. Older ones were not read: go on with “Older”." } }
        @else if query.filters().is_empty() && query.cursor.is_none() {
            p { "No session yet. The first exchange of an agent begins one, and " code { "POST /delegate/{id}/steps" } " reports what the agent does in it." }
        } @else { p { "Nothing matches. " a href=(known.url(PATH)) { "Show all" } } }
    }
}

fn table(known: &ConsoleRequest<'_>, found: &LogPage<SessionSummary>) -> Markup {
    let now = known.context.now;
    html! {
        table.rows {
            thead { tr {
                th { "session" } th { "for" } th { "agents" } th { "first" } th { "last" }
                th { "steps" } th { "refusals" } th { "findings" }
            } }
            tbody {
                @for one in &found.items {
                    tr data-row {
                        td data-label="session" { a href=(known.url(&session_path(&one.id))) { code { (words::visible(&words::short(&one.id))) } } }
                        td data-label="for" { (said::subjects(one, &found.beside.people)) }
                        td data-label="agents" { (said::agents(known, one)) }
                        td data-label="first" { (words::instant(&one.first_at, now)) }
                        td data-label="last" { (words::instant(&one.last_at, now)) }
                        td data-label="steps" { (one.counts.steps) }
                        td data-label="refusals" { (said::marked(one.counts.refusals)) }
                        td data-label="findings" { (said::marked(one.counts.findings)) }
                    }
                }
            }
        }
    }
}
