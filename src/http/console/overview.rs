//! `/console`: what one can do something about.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::words;
use crate::domain::console::ConsoleRole;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::delegation::view::View;
use crate::domain::vault::ConnectionState;
use crate::platform::clock::rfc3339;
use crate::services::delegations;
use crate::services::page::{Page, PageRequest};
use crate::services::vault::{self, ConnectionQuery, ConnectionView};

/// Maximum number of rows in each part of the page.
const SHOWN: u32 = 10;

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let (waiting, reconnect) = match known.has_role(ConsoleRole::Auditor) {
            true => (none(), none()),
            false => (waiting(&known).await?, to_reconnect(&known).await?),
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Overview", body(&known, &waiting, &reconnect))))
    })
    .await
}

fn none<T>() -> Page<T> {
    Page { items: Vec::new(), next: None }
}

async fn waiting(known: &ConsoleRequest<'_>) -> Result<Page<View>, crate::domain::refusal::Error> {
    let filter = DelegationFilter { state: Some(DelegationState::Requested), ..DelegationFilter::default() };
    let page = PageRequest { cursor: None, limit: Some(SHOWN) };
    let mut found = delegations::list(&known.context, &filter, &page).await?;
    // Below an ancestor that waits, there is nothing to decide.
    found.items.retain(|one| one.ended_by.is_none());
    Ok(found)
}

async fn to_reconnect(
    known: &ConsoleRequest<'_>,
) -> Result<Page<ConnectionView>, crate::domain::refusal::Error> {
    let query = ConnectionQuery {
        state: Some(ConnectionState::NeedsReconnect),
        page: PageRequest { cursor: None, limit: Some(SHOWN) },
        ..ConnectionQuery::default()
    };
    vault::list(&known.context, &query).await
}

fn body(known: &ConsoleRequest<'_>, waiting: &Page<View>, reconnect: &Page<ConnectionView>) -> Markup {
    let now = known.context.now;
    html! {
        h1 { "Overview" }
        @if waiting.items.is_empty() && reconnect.items.is_empty() {
            p { span.ok { span.mark aria-hidden="true" { "✓" } " Nothing waits for you." } " Checked at " (words::instant(&rfc3339(now), now)) "." }
        }
        @if !waiting.items.is_empty() {
            h2 { "Waits for a decision" @if waiting.next.is_some() { " (the newest " (SHOWN) ")" } }
            table.rows {
                thead { tr { th { "agent" } th { "for" } th { "scopes" } th { "asked" } } }
                tbody {
                    @for one in &waiting.items {
                        tr data-row {
                            td data-label="agent" { a href=(known.url(&format!("/console/approvals/{}", one.id))) { bdi { (one.delegate) } } }
                            td data-label="for" { (words::principal(&one.delegator)) }
                            td data-label="scopes" { (words::names(one.scopes.as_ref(), "all")) }
                            td data-label="asked" { (words::instant(&one.requested_at, now)) }
                        }
                    }
                }
            }
        }
        @if !reconnect.items.is_empty() {
            h2 { "Has to be connected again" }
            ul {
                @for one in &reconnect.items {
                    li { a href=(known.url(&format!("/console/connections/{}", one.id))) { bdi { (one.provider) } } " of " (words::principal(&one.owner)) }
                }
            }
        }
    }
}
