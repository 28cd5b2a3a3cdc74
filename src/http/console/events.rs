//! `/console/events`: what the log has, newest first.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use super::agents::agent_path;
use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, require_same_site, serve};
use super::links::event_path;
use super::list_query::{self, Cursors, SetFilter, YES};
use super::sessions::session_path;
use super::{live, proposals, windows, words};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::personal::{PeopleMembers, resolved};
use crate::domain::audit::search::Order;
use crate::domain::console::ConsoleRole;
use crate::domain::refusal::Refusal;
use crate::http::log_file;
use crate::services::audit::export::{ExportFormat, ExportOptions};
use crate::services::audit::query::{self, AuditQuery, LogPage};
use crate::services::console::{LiveLog, LogRows};
use actchain_protocol::csv_export::ByteOrderMark;

const PATH: &str = "/console/events";
const ROWS: usize = 50;
const FORMATS: [ExportFormat; 3] = [ExportFormat::Jsonl, ExportFormat::Csv, ExportFormat::Sarif];
/// Views that many people want, as links.
const VIEWS: [(&str, &str); 5] = [
    ("refusals", "?outcome=refused"),
    ("findings", "?findings=yes"),
    ("credentials", "?action=vault.token.retrieved"),
    ("revocations", "?action=delegation.revoked"),
    ("keys", "?action=key.changed"),
];

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EventsQuery {
    action: Option<String>,
    outcome: Option<String>,
    reason: Option<String>,
    subject_sub: Option<String>,
    actor: Option<String>,
    target: Option<String>,
    session: Option<String>,
    txn: Option<String>,
    delegation: Option<String>,
    request_id: Option<String>,
    ip: Option<String>,
    rule: Option<String>,
    findings: Option<String>,
    window: Option<String>,
    from: Option<String>,
    to: Option<String>,
    cursor: Option<String>,
    /// Of a file with the events of the list.
    format: Option<String>,
}

impl EventsQuery {
    fn filters(&self) -> Vec<SetFilter<'_>> {
        let members = [
            ("action", &self.action),
            ("outcome", &self.outcome),
            ("reason", &self.reason),
            ("subject_sub", &self.subject_sub),
            ("actor", &self.actor),
            ("target", &self.target),
            ("session", &self.session),
            ("txn", &self.txn),
            ("delegation", &self.delegation),
            ("request_id", &self.request_id),
            ("ip", &self.ip),
            ("rule", &self.rule),
            ("findings", &self.findings),
            ("window", &self.window),
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
        for (own, value) in &filters {
            let name = match *own {
                "window" | "from" | "to" | "findings" => continue,
                "actor" => "client_id",
                "session" => "session_id",
                "delegation" => "delegation_id",
                same => same,
            };
            filter.set(name, value)?;
        }
        if list_query::is_ticked(&filters, "findings")? {
            filter.set("has_findings", "true")?;
        }
        [filter.from, filter.to] = windows::times(&filters, value("window"), now)?;
        Ok(filter)
    }
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: EventsQuery = known.query()?;
        let filter = query.filter(known.context.now)?;
        let (limit, cursor) = (Some(ROWS), query.cursor.clone());
        let asked = AuditQuery { filter, order: Order::Newest, limit, cursor, ..AuditQuery::default() };
        let found = query::list(&known.context, &asked).await?;
        let proposed = proposals::agents(&known).await?;
        let body = html! {
            h1 { "Events" }
            (form(&known, &query))
            (proposed)
            p.newer #newer role="status" {}
            @if found.items.is_empty() { (nothing(&known, &query, &found)) }
            @else { div data-live[query.cursor.is_none()] { (table(&known, &found)) } }
            @let cursors = Cursors { own: query.cursor.as_deref(), next: found.next.as_deref() };
            (list_query::pages(&known, &list_query::path_with(PATH, &query.filters(), &[]), cursors))
            (files(&known, &query))
        };
        let page = ConsolePage::new("Events", body);
        // The newest page alone counts what is newer.
        let feed = match query.cursor {
            Some(_) => page.feed,
            None => {
                let log = LiveLog { filter: asked.filter, size: found.size, rows: LogRows::Events };
                live::log_feed(&list_query::path_with(PATH, &query.filters(), &[]), &log)
            }
        };
        Ok(PageAnswer::Shown(ConsolePage { feed, ..page }))
    })
    .await
}

/// The events of the list as a file.
pub(super) async fn export(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let list: EventsQuery = known.query()?;
        let format = list.format.as_deref().and_then(ExportFormat::parse);
        let format = format.ok_or(Refusal::Malformed("format is jsonl, csv or sarif"))?;
        // An export is an event of its reader: no other site causes it.
        require_same_site(known.request)?;
        let options = ExportOptions {
            format,
            filter: list.filter(known.context.now)?,
            from: 0,
            size: None,
            mark: ByteOrderMark::Absent,
            people: PeopleMembers::Omitted,
        };
        Ok(PageAnswer::Response(log_file::send(known.app, &known.context, options).await?))
    })
    .await
}

/// Links to the events of the list as files.
fn files(known: &ConsoleRequest<'_>, query: &EventsQuery) -> Markup {
    let path = format!("{PATH}/export");
    html! {
        p.moves {
            "As a file: "
            @for (place, format) in FORMATS.into_iter().enumerate() {
                @if place > 0 { ", " }
                a href=(known.url(&list_query::path_with(&path, &query.filters(), &[("format", format.name())]))) download data-move=[(place == 0).then_some("e")] { (format.name()) }
            }
        }
    }
}

fn form(known: &ConsoleRequest<'_>, query: &EventsQuery) -> Markup {
    let filters = query.filters();
    let value = |name| list_query::value(&filters, name);
    let field = |label: &str, name: &'static str| html! { label.field { (label) input name=(name) value=[value(name)] size="18"; } };
    html! {
        p.filters { @for (name, link) in VIEWS { a href={ (known.url(PATH)) (link) } { (name) } " " } }
        form.filter method="get" action=(known.url(PATH)) {
            label.field { "action" input name="action" value=[value("action")] size="22" data-move="f"; }
            label.field { "outcome"
                select name="outcome" {
                    @for name in ["", "success", "refused"] {
                        option value=(name) selected[value("outcome").unwrap_or_default() == name] { (if name.is_empty() { "any" } else { name }) }
                    }
                }
            }
            (field("reason", "reason"))
            @if !known.has_role(ConsoleRole::User) { (field("for", "subject_sub")) }
            label.field { "agent" input name="actor" list=(proposals::AGENTS) value=[value("actor")] size="18"; }
            (field("target", "target"))
            (field("rule", "rule"))
            (windows::choice("recorded", value("window")))
            (windows::between(value("from"), value("to")))
            label { input type="checkbox" name="findings" value=(YES) checked[value("findings") == Some(YES)]; "with findings" }
            button type="submit" { "Show" }
        }
        (list_query::removable(known, PATH, &filters, None))
    }
}

/// Why a list is empty, and what to do.
fn nothing(known: &ConsoleRequest<'_>, query: &EventsQuery, found: &LogPage<Value>) -> Markup {
    html! {
        @if found.next.is_some() { p { "Nothing matches among the next events. Older ones were not read: go on with “Older”." } }
        @else if query.filters().is_empty() && query.cursor.is_none() { p { "There is no event yet that you may see." } }
        @else { p { "Nothing matches. " a href=(known.url(PATH)) { "Show all" } } }
    }
}

fn table(known: &ConsoleRequest<'_>, found: &LogPage<Value>) -> Markup {
    html! {
        table.rows {
            thead { tr {
                th { "time" } th { "action" } th { "outcome" } th { "who for whom" } th { "target" } th { "session" }
                th { "latency" } th { "rules" } th { "seq" }
            } }
            tbody { @for event in &found.items { (row(known, &resolved(event, None, &found.beside.people))) } }
        }
    }
}

fn row(known: &ConsoleRequest<'_>, event: &Value) -> Markup {
    let text = |at: &str| event.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let dash = || html! { span.dim { "–" } };
    let session = text("/session_id");
    let target = [text("/target"), text("/audience/0"), text("/delegation_id")];
    let target = target.into_iter().find(|one| !one.is_empty());
    let rules: Vec<&str> = event
        .get("findings")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|one| one.get("rule")?.as_str())
        .collect();
    html! {
        tr data-row {
            td data-label="time" { a href=(known.url(&event_path(event))) { (words::instant(text("/at"), known.context.now)) } }
            td data-label="action" { code { (text("/action")) } }
            td data-label="outcome" { (words::outcome(event)) }
            td data-label="who for whom" { (chain(known, event)) }
            td data-label="target" { @if let Some(target) = target { (words::id(target)) } @else { (dash()) } }
            td data-label="session" {
                @if session.is_empty() { (dash()) }
                @else { a href=(known.url(&session_path(session))) { code.id title=(words::visible(session)) { (words::visible(&words::short(session))) } } " " (words::copy(session)) }
            }
            td data-label="latency" { @if let Some(took) = event.get("took_us").and_then(Value::as_u64) { (took) " µs" } @else { (dash()) } }
            td data-label="rules" { @if rules.is_empty() { (dash()) } @else { span.bad { span.mark aria-hidden="true" { "✗" } " " (rules.join(", ")) } } }
            td data-label="seq" { @if let Some(seq) = event.get("seq") { (seq) } }
        }
    }
}

/// The user and the actors of an event, or who acts alone.
pub(super) fn chain(known: &ConsoleRequest<'_>, event: &Value) -> Markup {
    let text =
        |value: &Value, at: &str| value.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let links = event.get("act_chain").and_then(Value::as_array).cloned().unwrap_or_default();
    let agent = |id: &str| html! { a href=(known.url(&agent_path(id))) { bdi { (words::visible(id)) } } };
    let subject = text(event, "/subject/sub");
    let client = text(event, "/actor/client_id");
    html! {
        @if !subject.is_empty() { bdi { (words::visible(&subject)) } }
        @for link in &links { " → " (agent(&text(link, "/sub"))) }
        @if links.is_empty() {
            @if !subject.is_empty() { " · " }
            @if client.is_empty() { span.dim { (actor(event)) } } @else { (agent(&client)) " " span.dim { "direct" } }
        }
    }
}

/// Who acts, where no client does.
fn actor(event: &Value) -> String {
    match event.pointer("/actor/type").and_then(Value::as_str) {
        Some("user") => {
            let sub = event.pointer("/actor/sub").and_then(Value::as_str).unwrap_or_default();
            format!("by the user {}", words::visible(sub))
        }
        Some("operator") => "by an operator".to_owned(),
        Some("server") => "by the server".to_owned(),
        Some(other) => format!("by a {other}"),
        None => "by an unknown actor".to_owned(),
    }
}
