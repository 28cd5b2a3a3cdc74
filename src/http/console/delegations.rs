//! `/console/delegations`: who may act for whom, as a list or a tree.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::words;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::delegation::view::View;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::delegations;
use crate::services::page::{Page, PageRequest};

/// Rows of a page, and children of a branch.
const ROWS: u32 = 20;

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DelegationsQuery {
    state: Option<String>,
    delegator_sub: Option<String>,
    delegate: Option<String>,
    cursor: Option<String>,
}

impl DelegationsQuery {
    /// A field of a form that was left empty does not restrict.
    fn filter(&self) -> Result<DelegationFilter, Refusal> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let state = match set(&self.state) {
            None => None,
            Some(name) => Some(
                name.parse::<DelegationState>().map_err(|_| Refusal::Malformed("There is no such state"))?,
            ),
        };
        Ok(DelegationFilter {
            state,
            delegator_sub: set(&self.delegator_sub),
            delegate: set(&self.delegate),
            ..DelegationFilter::default()
        })
    }

    /// The query of the view, with another cursor.
    fn with_cursor(&self, cursor: Option<&str>) -> String {
        let members = [
            ("state", self.state.as_deref()),
            ("delegator_sub", self.delegator_sub.as_deref()),
            ("delegate", self.delegate.as_deref()),
            ("cursor", cursor),
        ];
        let set = members
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
        set.map(|(name, value)| format!("{name}={}", form_encoded(value))).collect::<Vec<_>>().join("&")
    }
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: DelegationsQuery = known.query()?;
        let page = PageRequest { cursor: query.cursor.clone(), limit: Some(ROWS) };
        let found = delegations::list(&known.context, &query.filter()?, &page).await?;
        Ok(PageAnswer::Shown(ConsolePage::new("Delegations", list_body(&known, &query, &found))))
    })
    .await
}

fn list_body(known: &ConsoleRequest<'_>, query: &DelegationsQuery, found: &Page<View>) -> Markup {
    let now = known.context.now;
    let here = known.url("/console/delegations");
    let filtered = !DelegationsQuery { cursor: None, ..query.clone() }.with_cursor(None).is_empty();
    html! {
        h1 { "Delegations" }
        form.filter method="get" action=(here) {
            label.field { "state"
                select name="state" data-move="f" {
                    @for name in ["", "requested", "active", "expired", "revoked"] {
                        option value=(name) selected[query.state.as_deref().unwrap_or_default() == name] { (if name.is_empty() { "any" } else { name }) }
                    }
                }
            }
            label.field { "for" input name="delegator_sub" value=[&query.delegator_sub]; }
            label.field { "agent" input name="delegate" value=[&query.delegate]; }
            button type="submit" { "Show" }
            @if filtered { a href=(here) { "Show all" } }
        }
        @if found.items.is_empty() {
            @if filtered || query.cursor.is_some() { p { "Nothing matches. " a href=(here) { "Show all" } } }
            @else { p { "No agent may act for a user yet." } }
        } @else {
            table.rows {
                thead { tr { th { "state" } th { "agent" } th { "for" } th { "scopes" } th { "at" } th { "uses" } th { "ends" } } }
                tbody {
                    @for one in &found.items {
                        tr data-row {
                            td data-label="state" { (words::state(one.state)) }
                            td data-label="agent" { a href=(known.url(&format!("/console/delegations/{}", one.id))) { bdi { (one.delegate) } } }
                            td data-label="for" { (words::principal(&one.delegator)) }
                            td data-label="scopes" { (words::names(one.scopes.as_ref(), "all")) }
                            td data-label="at" { (words::names(one.audiences.as_ref(), "all")) }
                            td data-label="uses" { (uses(one)) }
                            td data-label="ends" { (words::instant(&one.expires_at, now)) }
                        }
                    }
                }
            }
        }
        p.pages {
            @if query.cursor.is_some() { a rel="prev" href={ (here) "?" (query.with_cursor(None)) } { "Newest" } }
            @if let Some(next) = &found.next { a rel="next" href={ (here) "?" (query.with_cursor(Some(next))) } { "Older" } }
        }
    }
}

fn uses(one: &View) -> String {
    match one.max_uses {
        None => one.uses.to_string(),
        Some(most) => format!("{}/{most}", one.uses),
    }
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = delegations::show(&known.context, &known.segment("id")).await?;
        let above = above(&known, &one).await?;
        let below = DelegationFilter { parent: Some(one.id.clone()), ..DelegationFilter::default() };
        let below =
            delegations::list(&known.context, &below, &PageRequest { cursor: None, limit: Some(ROWS) })
                .await?;
        let body = item_body(&known, &one, &above, &below)?;
        Ok(PageAnswer::Shown(ConsolePage::new(format!("Delegation of {}", one.delegate), body)))
    })
    .await
}

/// The ancestors that the person may see, root first.
async fn above(known: &ConsoleRequest<'_>, one: &View) -> Result<Vec<View>, Error> {
    let mut found = Vec::new();
    for id in one.path.iter().filter(|id| **id != one.id) {
        match delegations::show(&known.context, id).await {
            Ok(ancestor) => found.push(ancestor),
            Err(Error::Refused(_)) => {}
            Err(failed) => return Err(failed),
        }
    }
    Ok(found)
}

fn item_body(
    known: &ConsoleRequest<'_>,
    one: &View,
    above: &[View],
    below: &Page<View>,
) -> Result<Markup, Fault> {
    let now = known.context.now;
    let over = matches!(one.state, DelegationState::Revoked | DelegationState::Expired);
    Ok(html! {
        p { a href=(known.url("/console/delegations")) data-back { "Delegations" } }
        h1 { bdi { (one.delegate) } " acts for " bdi { (words::visible(&one.root.sub)) } }
        p { (words::state(one.state)) @if let Some(by) = &one.ended_by { span.dim { " by " (by) } } }
        p { (words::sentence(one, now)) }
        @if let Some(reason) = &one.reason { (words::quotation(reason)) }
        dl {
            dt { "delegation" } dd { (words::id(&one.id)) }
            dt { "granted by" } dd { (words::principal(&one.delegator)) }
            dt { "uses" } dd { (uses(one)) @if let Some(left) = one.uses_left { span.dim { ", " (left) " left" } } }
            dt { "asked" } dd { (words::instant(&one.requested_at, now)) }
            @if let Some(at) = &one.activated_at { dt { "active since" } dd { (words::instant(at, now)) } }
            dt { "ends" } dd { (words::instant(&one.expires_at, now)) }
            @if let Some(at) = &one.revoked_at { dt { "revoked" } dd { (words::instant(at, now)) } }
            @if let Some(why) = &one.revoke_reason { dt { "because" } dd { bdi { (words::visible(why)) } } }
            @if !one.ceremony_required_for.is_empty() { dt { "asks each time for" } dd { (words::names(Some(&one.ceremony_required_for), "")) } }
        }
        div.moves {
            @if !over {
                a.button href=(known.url(&format!("/console/delegations/{}/cut", one.id))) data-move="x" { "Cut…" }
            }
            @if one.state == DelegationState::Requested {
                a.button href=(known.url(&format!("/console/approvals/{}", one.id))) { "Decide…" }
            }
        }
        @if one.state == DelegationState::Active { (renewal(known, one)?) }
        h2 { "The chain" }
        (tree(known, one, above, below))
    })
}

fn renewal(known: &ConsoleRequest<'_>, one: &View) -> Result<Markup, Fault> {
    let target = known.url(&format!("/console/delegations/{}/renew", one.id));
    Ok(html! {
        form method="post" action=(target) {
            (known.hidden(&target)?)
            fieldset {
                legend { "Give it longer" }
                label { input type="radio" name="expires_in" value="3600" checked; "1 h from now" } " "
                label { input type="radio" name="expires_in" value="86400"; "1 day from now" } " "
                button type="submit" { "Renew" }
            }
        }
    })
}

fn tree(known: &ConsoleRequest<'_>, one: &View, above: &[View], below: &Page<View>) -> Markup {
    html! {
        ul.tree {
            li {
                (words::principal(&one.root))
                (branch(known, above, one, below))
            }
        }
    }
}

fn branch(known: &ConsoleRequest<'_>, above: &[View], one: &View, below: &Page<View>) -> Markup {
    match above.split_first() {
        Some((first, rest)) => {
            html! { ul { li { (line(known, first, None)) (branch(known, rest, one, below)) } } }
        }
        None => html! {
            ul {
                li {
                    strong { (line(known, one, None)) }
                    ul {
                        @for child in &below.items { li { (line(known, child, one.scopes.as_ref())) } }
                        @if below.items.is_empty() { li.dim { "nothing below" } }
                        @if below.next.is_some() {
                            li { "more than " (ROWS) " below: " a href=(known.url("/console/delegations")) { "search for them" } }
                        }
                    }
                }
            }
        },
    }
}

/// One delegation of a tree, with what its parent had and it does not.
fn line(known: &ConsoleRequest<'_>, one: &View, parent: Option<&Vec<String>>) -> Markup {
    let now = known.context.now;
    let has = |scope: &String| one.scopes.as_ref().is_none_or(|own| own.contains(scope));
    html! {
        (words::state(one.state)) " "
        a href=(known.url(&format!("/console/delegations/{}", one.id))) { bdi { (one.delegate) } } " "
        (words::names(one.scopes.as_ref(), "all scopes"))
        @for scope in parent.into_iter().flatten().filter(|scope| !has(scope)) {
            " " code.scope.dropped { (scope) }
        }
        " · " (uses(one)) " uses · ends " (words::instant(&one.expires_at, now))
    }
}

pub(super) async fn renew(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        known.require_fresh()?;
        let seconds = known.form.get("expires_in").and_then(|text| text.parse().ok());
        let seconds = seconds.ok_or(Refusal::Malformed("expires_in is a number of seconds"))?;
        let id = known.segment("id");
        delegations::renew(&known.context, &id, seconds).await?;
        Ok(PageAnswer::See(known.url(&format!("/console/delegations/{id}"))))
    })
    .await
}
