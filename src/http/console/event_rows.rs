//! Events as rows of a page about something else.

use maud::{Markup, html};
use serde_json::Value;

use super::guard::ConsoleRequest;
use super::links::event_path;
use super::words;
use crate::domain::audit::personal::resolved;
use crate::services::audit::query::LogPage;

/// Events with the names of persons, the newest first where the page is.
pub(super) fn table(known: &ConsoleRequest<'_>, page: &LogPage<Value>) -> Markup {
    let text = |event: &Value, at: &str| event.pointer(at).and_then(Value::as_str).map(str::to_owned);
    html! {
        table.rows {
            thead { tr { th { "time" } th { "action" } th { "outcome" } th { "for" } th { "about" } th { "seq" } } }
            tbody {
                @for event in page.items.iter().map(|event| resolved(event, None, &page.beside.people)) {
                    @let about = text(&event, "/target").or_else(|| text(&event, "/delegation_id"));
                    tr data-row {
                        td data-label="time" { a href=(known.url(&event_path(&event))) { (words::instant(&text(&event, "/at").unwrap_or_default(), known.context.now)) } }
                        td data-label="action" { code { (text(&event, "/action").unwrap_or_default()) } }
                        td data-label="outcome" { (words::outcome(&event)) }
                        td data-label="for" { @if let Some(sub) = text(&event, "/subject/sub") { bdi { (words::visible(&sub)) } } @else { span.dim { "–" } } }
                        td data-label="about" { @if let Some(about) = about { code { (words::visible(&words::short(&about))) } } @else { span.dim { "–" } } }
                        td data-label="seq" { @if let Some(seq) = event.get("seq") { (seq) } }
                    }
                }
            }
        }
    }
}
