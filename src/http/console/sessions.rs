//! `/console/sessions`: pieces of work, those with the newest events first.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use time::OffsetDateTime;

use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::path_segment;
use super::list_query::{self, Cursors, SetFilter, YES};
use super::session_words as said;
use super::{proposals, windows, words};
use crate::domain::audit::filter::Filter;
use crate::domain::console::ConsoleRole;
use crate::services::audit::query::LogPage;
use crate::services::audit::sessions::{self, SessionQuery, SessionSummary};

const PATH: &str = "/console/sessions";
const ROWS: usize = 20;

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
    from: Option<String>,
    to: Option<String>,
    cursor: Option<String>,
}

impl SessionsQuery {
    fn filters(&self) -> Vec<SetFilter<'_>> {
        let members = [
            ("subject_sub", &self.subject_sub),
            ("actor", &self.actor),
            ("window", &self.window),
            ("findings", &self.findings),
            ("refusals", &self.refusals),
            ("rule", &self.rule),
            ("from", &self.from),
            ("to", &self.to),
        ];
        list_query::set(members)
    }

    /// # Errors
    /// Names the field that cannot be read.
    fn filter(&self, now: OffsetDateTime) -> Result<Filter, PageError> {
        let filters = self.filters();
        let value = |name| list_query::value(&filters, name);
        let mut filter = Filter::default();
        for (own, name) in [("subject_sub", "subject_sub"), ("actor", "client_id"), ("rule", "rule")] {
            if let Some(value) = value(own) {
                filter.set(name, value)?;
            }
        }
        for (own, name, value) in [("findings", "has_findings", "true"), ("refusals", "outcome", "refused")] {
            if list_query::is_ticked(&filters, own)? {
                filter.set(name, value)?;
            }
        }
        [filter.from, filter.to] = windows::times(&filters, value("window"), now)?;
        Ok(filter)
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
            @let cursors = Cursors { own: query.cursor.as_deref(), next: found.next.as_deref() };
            (list_query::pages(&known, &list_query::path_with(PATH, &query.filters(), &[]), cursors))
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Sessions", body)))
    })
    .await
}

fn form(known: &ConsoleRequest<'_>, query: &SessionsQuery) -> Markup {
    let filters = query.filters();
    let value = |name| list_query::value(&filters, name);
    let is_ticked = |name| value(name) == Some(YES);
    html! {
        form.filter method="get" action=(known.url(PATH)) {
            @if !known.has_role(ConsoleRole::User) {
                label.field { "for" input name="subject_sub" value=[value("subject_sub")]; }
            }
            label.field { "agent" input name="actor" list=(proposals::AGENTS) value=[value("actor")] data-move="f"; }
            (windows::choice("with an event", value("window")))
            (windows::between(value("from"), value("to")))
            label.field { "rule" input name="rule" value=[value("rule")] placeholder="CE-009" size="10"; }
            label { input type="checkbox" name="findings" value=(YES) checked[is_ticked("findings")]; "with findings" }
            label { input type="checkbox" name="refusals" value=(YES) checked[is_ticked("refusals")]; "with refusals" }
            button type="submit" { "Show" }
        }
        (list_query::removable(known, PATH, &filters, None))
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
