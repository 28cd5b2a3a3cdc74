//! `/console/delegations`: who may act for whom, as a list or a tree.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::delegation_tree::{self, Branches, LINES};
use super::delegations_query::{DelegationsQuery, DelegationsView, PATH, ROWS};
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::live::{self, LiveRows};
use super::proposals;
use super::{who, words};
use crate::domain::delegation::list::Cursor;
use crate::domain::delegation::view::View;
use crate::platform::clock;
use crate::services::delegations;
use crate::services::page::{Page, PageRequest};

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: DelegationsQuery = known.query()?;
        let filter = query.filter(known.context.now)?;
        let page = PageRequest { cursor: query.cursor.clone(), limit: Some(ROWS) };
        let found = delegations::list(&known.context, &filter, &page).await?;
        let branches = match query.view {
            DelegationsView::List => Branches::default(),
            DelegationsView::Tree => Branches::below(&known, &found.items).await?,
        };
        let rows = match query.view {
            DelegationsView::List => table(&known, &found),
            DelegationsView::Tree => delegation_tree::roots(&known, &found.items, &branches),
        };
        let feed = live::feed(&query.path_with(&[]), &filter, &live_rows(&query, &found, &branches));
        let proposed = proposals::agents(&known).await?;
        let shown = html! { (body(&known, &query, &found, &rows)) (proposed) };
        let page = ConsolePage::new("Delegations", shown);
        Ok(PageAnswer::Shown(ConsolePage { feed, ..page }))
    })
    .await
}

/// Rows whose states are followed. The newest page alone counts what is newer.
fn live_rows(query: &DelegationsQuery, found: &Page<View>, branches: &Branches) -> LiveRows {
    let cursor = |one: &View| {
        Some(Cursor { requested_at: clock::instant(&one.requested_at)?, id: one.id.clone() }.to_text())
    };
    LiveRows {
        newest: found.items.first().filter(|_| query.cursor.is_none()).and_then(cursor),
        ids: found.items.iter().chain(branches.children()).map(|one| one.id.clone()).take(LINES).collect(),
    }
}

fn body(known: &ConsoleRequest<'_>, query: &DelegationsQuery, found: &Page<View>, rows: &Markup) -> Markup {
    let here = known.url(PATH);
    let newest = known.url(&query.path_with(&[]));
    html! {
        h1 { "Delegations" }
        (query.form(known))
        p.newer #newer role="status" {}
        @if found.items.is_empty() {
            @if found.next.is_some() { p { "Nothing matches among the next 2,000. Older ones were not checked: go on with “Older”." } }
            @else if query.is_filtered() || query.cursor.is_some() { p { "Nothing matches. " a href=(here) hx-get=(here) { "Show all" } } }
            @else { p { "No agent may act for a user yet." } }
        } @else {
            div data-live[query.cursor.is_none()] { (rows) }
        }
        p.pages {
            @if query.cursor.is_some() { a rel="prev" href=(newest) hx-get=(newest) { "Newest" } }
            @if let Some(next) = &found.next {
                @let older = known.url(&query.path_with(&[("cursor", next)]));
                a rel="next" href=(older) hx-get=(older) { "Older" }
            }
        }
    }
}

fn table(known: &ConsoleRequest<'_>, found: &Page<View>) -> Markup {
    let now = known.context.now;
    html! {
        table.rows {
            thead { tr { th { "state" } th { "agent" } th { "for" } th { "scopes" } th { "at" } th { "uses" } th { "ends" } th { "since" } } }
            tbody {
                @for one in &found.items {
                    tr data-row {
                        td data-label="state" { span data-state-of=(one.id) { (words::state(one.state)) } }
                        td data-label="agent" { a href=(known.url(&format!("{PATH}/{}", one.id))) { bdi { (one.delegate) } } }
                        td data-label="for" { (who::link(known, &one.delegator)) }
                        td data-label="scopes" { (words::names(one.scopes.as_ref(), "all")) }
                        td data-label="at" { (words::names(one.audiences.as_ref(), "all")) }
                        td data-label="uses" { (words::uses(one)) }
                        td data-label="ends" { (words::instant(&one.expires_at, now)) }
                        td data-label="since" { (words::instant(one.activated_at.as_deref().unwrap_or(&one.requested_at), now)) }
                    }
                }
            }
        }
    }
}
