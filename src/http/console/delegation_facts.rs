//! What the page of a delegation says beside its chain: its terms beside those above it, its tokens, and its events.

use maud::{Markup, html};

use super::agents::agent_path;
use super::event_rows;
use super::guard::ConsoleRequest;
use super::links::form_encoded;
use super::words;
use crate::domain::audit::filter::Filter;
use crate::domain::delegation::view::View;
use crate::domain::refusal::Error;
use crate::services::audit::query::{self, AuditQuery};
use crate::services::delegations::ceremonies;
use crate::services::page::PageRequest;
use crate::services::principals::{RevocationSubject, show_impact};

/// Events that the page lists.
const EVENTS: usize = 10;
/// Confirmations that the page lists.
const CEREMONIES: u32 = 20;

/// The terms of a delegation beside those of the one above it.
pub(super) fn terms(one: &View, parent: Option<&View>) -> Markup {
    let number = |limit: Option<i64>| limit.map_or_else(|| "any".to_owned(), |limit| limit.to_string());
    let depth = |one: &View| number(one.max_depth.map(i64::from));
    let ceiling = |one: &View| one.capability_ceiling.clone().unwrap_or_else(|| "any".to_owned());
    let offline = |one: &View| if one.offline_access { "allowed" } else { "not allowed" };
    let cell = |text: &dyn Fn(&View) -> Markup| {
        html! {
            td { (text(one)) }
            @if let Some(parent) = parent { td { (text(parent)) } }
        }
    };
    html! {
        table {
            caption { "Terms" }
            thead { tr { th scope="col" { "term" } th scope="col" { "it allows" } @if parent.is_some() { th scope="col" { "above it" } } } }
            tbody {
                tr { th scope="row" { "scopes" } (cell(&|one| words::names(one.scopes.as_ref(), "every scope"))) }
                tr { th scope="row" { "targets" } (cell(&|one| words::names(one.audiences.as_ref(), "every resource"))) }
                tr { th scope="row" { "uses" } (cell(&|one| html! { (number(one.max_uses)) })) }
                tr { th scope="row" { "depth" } (cell(&|one| html! { (depth(one)) })) }
                tr { th scope="row" { "highest capability" } (cell(&|one| html! { (ceiling(one)) })) }
                tr { th scope="row" { "work while the user is away" } (cell(&|one| html! { (offline(one)) })) }
                tr { th scope="row" { "ends" } (cell(&|one| html! { time { (one.expires_at) } })) }
            }
        }
    }
}

/// The active tokens under the delegation, and the keys of its agent.
pub(super) async fn tokens(known: &ConsoleRequest<'_>, one: &View) -> Result<Markup, Error> {
    let impact = show_impact(&known.context, &RevocationSubject::Delegation(one.id.clone())).await?;
    let at_least = if impact.at_least { "at least " } else { "" };
    let keys = format!("{}?tab=keys", known.url(&agent_path(&one.delegate)));
    Ok(html! {
        dt { "active tokens" } dd {
            (at_least) (impact.tokens) ", of it and all below"
            @if let Some(last) = &impact.last_token_exp { ", the last one until " (words::instant(last, known.context.now)) }
        }
        dt { "keys" } dd { a href=(keys) { "those of " bdi { (words::visible(&one.delegate)) } } }
    })
}

/// The newest confirmations of single uses; nothing where none was asked for.
pub(super) async fn ceremonies(known: &ConsoleRequest<'_>, one: &View) -> Result<Markup, Error> {
    let page = PageRequest { cursor: None, limit: Some(CEREMONIES) };
    let found = ceremonies::list(&known.context, &one.id, &page).await?.items;
    let now = known.context.now;
    Ok(html! {
        @if !found.is_empty() {
            h2 { "Confirmations of single uses" }
            table.rows {
                thead { tr { th { "asked" } th { "state" } th { "agent" } th { "scopes" } th { "at" } } }
                tbody {
                    @for use_ in &found {
                        @let page = known.url(&format!("/console/approvals/{}/uses/{}", one.id, use_.id));
                        tr data-row {
                            td data-label="asked" { a href=(page) { (words::instant(&use_.requested_at, now)) } }
                            td data-label="state" { (use_.state.name()) }
                            td data-label="agent" { a href=(known.url(&agent_path(&use_.client_id))) { bdi { (words::visible(&use_.client_id)) } } }
                            td data-label="scopes" { (words::names(Some(&use_.scopes.iter().cloned().collect()), "")) }
                            td data-label="at" { (words::names(Some(&use_.audiences.iter().cloned().collect()), "")) }
                        }
                    }
                }
            }
        }
    })
}

/// The newest events of the delegation, and where the others are.
pub(super) async fn events(known: &ConsoleRequest<'_>, one: &View) -> Result<Markup, Error> {
    let filter = Filter { delegation: Some(one.id.clone()), ..Filter::default() };
    let asked = AuditQuery { filter, limit: Some(EVENTS), ..AuditQuery::default() };
    let found = query::list(&known.context, &asked).await?;
    let id = form_encoded(&one.id);
    Ok(html! {
        h2 { "Its events" }
        @if found.items.is_empty() { p.dim { "None that you may see." } } @else { (event_rows::table(known, &found)) }
        p {
            a href={ (known.url("/console/events")) "?delegation=" (id) } { "All events" } ", "
            a href={ (known.url("/console/events")) "?delegation=" (id) "&outcome=refused" } { "refusals" } ", "
            a href={ (known.url("/console/chains")) "?delegation=" (id) "&window=all" } { "chains" }
        }
    })
}
