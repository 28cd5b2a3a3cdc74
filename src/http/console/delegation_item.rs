//! `/console/delegations/{id}`: one delegation with its chain, and its renewal.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;

use super::delegation_tree::{line, more};
use super::delegations_query::ROWS;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::{delegation_facts, give_again, who, words};
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::delegation::view::View;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::delegations;
use crate::services::page::{Page, PageRequest};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ItemQuery {
    /// Where the page of children begins.
    cursor: Option<String>,
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let ItemQuery { cursor } = known.query()?;
        let one = delegations::show(&known.context, &known.segment("id")).await?;
        let above = above(&known, &one).await?;
        let below = DelegationFilter { parent: Some(one.id.clone()), ..DelegationFilter::default() };
        let page = PageRequest { cursor, limit: Some(ROWS) };
        let below = delegations::list(&known.context, &below, &page).await?;
        let tokens = match is_over(&one) {
            true => Markup::default(),
            false => delegation_facts::tokens(&known, &one).await?,
        };
        let body = html! {
            (item_body(&known, &one, &above, Shown { below: &below, tokens })?)
            (delegation_facts::ceremonies(&known, &one).await?)
            (delegation_facts::events(&known, &one).await?)
        };
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

fn is_over(one: &View) -> bool {
    matches!(one.state, DelegationState::Revoked | DelegationState::Expired)
}

/// What is shown beside the delegation and those above it.
struct Shown<'a> {
    below: &'a Page<View>,
    /// The active tokens, unless the delegation is over.
    tokens: Markup,
}

fn item_body(
    known: &ConsoleRequest<'_>,
    one: &View,
    above: &[View],
    Shown { below, tokens }: Shown<'_>,
) -> Result<Markup, Fault> {
    let now = known.context.now;
    Ok(html! {
        p { a href=(known.url("/console/delegations")) data-back { "Delegations" } }
        h1 { bdi { (one.delegate) } " acts for " bdi { (words::visible(&one.root.sub)) } }
        p { (words::state(one.state)) @if let Some(by) = &one.ended_by { span.dim { " by " (by) } } }
        p { (words::sentence(one, now)) }
        @if let Some(reason) = &one.reason { (words::quotation(reason)) }
        dl {
            dt { "delegation" } dd { (words::id(&one.id)) }
            dt { "granted by" } dd { (who::link(known, &one.delegator)) }
            dt { "uses" } dd { (words::uses(one)) @if let Some(left) = one.uses_left { span.dim { ", " (left) " left" } } }
            dt { "asked" } dd { (words::instant(&one.requested_at, now)) }
            @if let Some(at) = &one.activated_at { dt { "active since" } dd { (words::instant(at, now)) } }
            dt { "ends" } dd { (words::instant(&one.expires_at, now)) }
            @if let Some(at) = &one.revoked_at { dt { "revoked" } dd { (words::instant(at, now)) } }
            @if let Some(why) = &one.revoke_reason { dt { "because" } dd { (words::quotation_of("says the party that ended it", why)) } }
            (tokens)
            (words::limits(one))
            @if !one.ceremony_required_for.is_empty() { dt { "asks each time for" } dd { (words::names(Some(&one.ceremony_required_for), "")) } }
        }
        div.moves {
            @if !is_over(one) {
                a.button href=(known.url(&format!("/console/delegations/{}/cut", one.id))) data-move="x" { "Cut…" }
            }
            @if one.state == DelegationState::Requested {
                a.button href=(known.url(&format!("/console/approvals/{}", one.id))) { "Decide…" }
            }
            @if give_again::is_possible(known, one) {
                a.button href=(known.url(&format!("/console/delegations/{}/again", one.id))) data-move="c" { "Give again…" }
            }
        }
        @if one.state == DelegationState::Active { (renewal(known, one)?) }
        (delegation_facts::terms(one, above.last()))
        h2 { "The chain" }
        ul.tree { li { (who::link(known, &one.root)) (chain(known, above, None, Leaf { one, below })) } }
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

/// The delegation of the page, with its children.
#[derive(Clone, Copy)]
struct Leaf<'a> {
    one: &'a View,
    below: &'a Page<View>,
}

/// The ancestors one below the other, then the delegation with its children.
fn chain(known: &ConsoleRequest<'_>, above: &[View], parent: Option<&View>, leaf: Leaf<'_>) -> Markup {
    let Leaf { one, below } = leaf;
    match above.split_first() {
        Some((first, rest)) => html! {
            ul { li data-row { (line(known, first, parent)) (chain(known, rest, Some(first), leaf)) } }
        },
        None => html! {
            ul {
                li data-row {
                    strong { (line(known, one, parent)) }
                    ul {
                        @for child in &below.items { li data-row { (line(known, child, Some(one))) } }
                        @if below.items.is_empty() { li.dim { "nothing below" } }
                        @if let Some(next) = &below.next { (more(known, one, next)) }
                    }
                }
            }
        },
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
