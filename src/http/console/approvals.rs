//! `/console/approvals`: what agents ask, and the decisions. Approvals only narrow, and only what was shown is approved.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, PageResult, serve};
use super::links::form_encoded;
use super::request_page::{
    SCOPE_FIELD, SHOWN_FIELD, changed, is_in_place_of_the_user, item_body, new_key, used,
};
use super::words;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::delegation::view::View;
use crate::domain::refusal::{Error, Refusal};
use crate::services::delegations::ceremonies::{self, CeremonyId, ConfirmationDecision};
use crate::services::delegations::{self, Approval, ShownRequest};
use crate::services::page::{Page, PageRequest};

/// Requests of the same agent that are shown beside a request.
const EARLIER: u32 = 5;
/// Uses that a page shows, newest first.
const USES: u32 = 100;
/// A life above this many seconds gives much.
const LONG: u32 = 86_400;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ApprovalsQuery {
    tab: Option<Tab>,
    cursor: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tab {
    Waiting,
    Decided,
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let ApprovalsQuery { tab, cursor } = known.query()?;
        let tab = tab.unwrap_or(Tab::Waiting);
        let state = match tab {
            Tab::Waiting => Some(DelegationState::Requested),
            Tab::Decided => None,
        };
        let filter = DelegationFilter { state, ..DelegationFilter::default() };
        let mut found =
            delegations::list(&known.context, &filter, &PageRequest { cursor, limit: Some(20) }).await?;
        if tab == Tab::Decided {
            found.items.retain(|one| one.requested_by.is_some() && one.state != DelegationState::Requested);
        }
        Ok(PageAnswer::Shown(ConsolePage::new("Approvals", list_body(&known, tab, &found))))
    })
    .await
}

fn list_body(known: &ConsoleRequest<'_>, tab: Tab, found: &Page<View>) -> Markup {
    let now = known.context.now;
    let here = known.url("/console/approvals");
    html! {
        h1 { "Approvals" }
        ul.tabs {
            @for (name, of, value) in [("Waiting", Tab::Waiting, "waiting"), ("Decided", Tab::Decided, "decided")] {
                li { a href={ (here) "?tab=" (value) } aria-current=[(of == tab).then_some("page")] { (name) } }
            }
        }
        @if found.items.is_empty() {
            @match tab {
                Tab::Waiting => {
                    p { "No agent waits for a decision." }
                    p.dim { "An agent asks with its own token:" }
                    pre tabindex="0" { "POST " (known.app.issuer) "/delegate\n{\"delegator\": {\"iss\": …, \"sub\": …}, \"scopes\": […], \"reason\": …}" }
                }
                Tab::Decided => p { "Nothing on this page was decided." },
            }
        } @else {
            table.rows {
                thead { tr { th { "agent" } th { "for" } th { "scopes" } th { "at" } th { "asked" } th { "state" } @if tab == Tab::Decided { th { "used" } } @else { th { "waits until" } } } }
                tbody {
                    @for one in &found.items {
                        tr data-row {
                            td data-label="agent" { a href=(known.url(&format!("/console/approvals/{}", one.id))) { bdi { (one.delegate) } } }
                            td data-label="for" { (words::principal(&one.delegator)) }
                            td data-label="scopes" { (words::names(one.scopes.as_ref(), "all")) }
                            td data-label="at" { (words::names(one.audiences.as_ref(), "all")) }
                            td data-label="asked" { (words::instant(&one.requested_at, now)) }
                            td data-label="state" { (words::state(one.state)) }
                            @match tab {
                                Tab::Decided => td data-label="used" { (used(one)) },
                                Tab::Waiting => td data-label="waits until" { (words::instant(&one.expires_at, now)) },
                            }
                        }
                    }
                }
            }
        }
        @if let Some(next) = &found.next {
            p.pages { a rel="next" href={ (here) "?tab=" (match tab { Tab::Waiting => "waiting", Tab::Decided => "decided" }) "&cursor=" (form_encoded(next)) } { "Older" } }
        }
    }
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = delegations::show(&known.context, &known.segment("id")).await?;
        let page = PageRequest { cursor: None, limit: Some(USES) };
        let uses = ceremonies::list(&known.context, &one.id, &page).await?;
        let earlier =
            DelegationFilter { delegate: Some(one.delegate.clone()), ..DelegationFilter::default() };
        let page = PageRequest { cursor: None, limit: Some(EARLIER + 1) };
        let mut earlier = delegations::list(&known.context, &earlier, &page).await?.items;
        earlier.retain(|other| other.id != one.id && other.delegator == one.delegator);
        let body = item_body(&known, &one, &uses.items, &earlier)?;
        Ok(PageAnswer::Shown(ConsolePage::new(format!("{} asks", one.delegate), body)))
    })
    .await
}

pub(super) async fn approve(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = delegations::show(&known.context, &known.segment("id")).await?;
        let shown = shown(&known);
        // Whether it gives much depends on what was shown: so it is compared here, and again by what decides.
        let present = ShownRequest::of_delegation(&one)?;
        if one.state == DelegationState::Requested && shown != present {
            return Err(changed(Some(&shown), &present));
        }
        let approval = approval(&known, &one)?;
        if is_in_place_of_the_user(&known, &one) || gives_much(&known, &one, &approval) {
            known.require_fresh()?;
        }
        match delegations::approve(&known.context, &one.id, &approval, Some(&shown)).await {
            Err(Error::Refused(Refusal::RequestChanged)) => {
                let one = delegations::show(&known.context, &one.id).await?;
                Err(changed(Some(&shown), &ShownRequest::of_delegation(&one)?))
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(PageAnswer::See(known.url(&format!("/console/delegations/{}", one.id)))),
        }
    })
    .await
}

/// What was shown with the form. A form without it fits nothing.
fn shown(known: &ConsoleRequest<'_>) -> ShownRequest {
    known.form.get(SHOWN_FIELD).and_then(ShownRequest::parse).unwrap_or_default()
}

/// Whether an approval has no end within a day, or contains the highest capability.
fn gives_much(known: &ConsoleRequest<'_>, one: &View, approval: &Approval) -> bool {
    let life = approval.expires_in.or(one.expires_in);
    let highest = known.app.capability_levels.names().last();
    let is_highest = one.capability_ceiling.is_none() || one.capability_ceiling.as_ref() == highest;
    life.is_none_or(|seconds| seconds > LONG) || is_highest
}

/// The approval of a form: a limit that the form does not narrow stays as it was asked.
fn approval(known: &ConsoleRequest<'_>, one: &View) -> Result<Approval, Refusal> {
    let number = |name: &str| match known.form.get(name) {
        None => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(Refusal::Malformed("A limit is a number of at least 1")),
        },
    };
    let kept: Vec<String> = known.form.names_after(SCOPE_FIELD).into_iter().map(str::to_owned).collect();
    let scopes = match &one.scopes {
        // A new key has no fields: its limits stay.
        Some(asked) if new_key(one).is_none() && one.suspended_at.is_none() && !asked.is_empty() => {
            match kept.len() {
                0 => return Err(Refusal::Malformed("Keep at least one scope, or deny the request")),
                most if most < asked.len() || kept.iter().any(|scope| !asked.contains(scope)) => Some(kept),
                _ => None,
            }
        }
        _ => None,
    };
    Ok(Approval {
        scopes,
        max_uses: number("max_uses")?,
        max_depth: number("max_depth")?,
        expires_in: number("expires_in")?,
        ..Approval::default()
    })
}

pub(super) async fn deny(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        delegations::deny(&known.context, &id, known.form.get("reason")).await?;
        Ok(PageAnswer::See(known.url(&format!("/console/approvals/{id}"))))
    })
    .await
}

pub(super) async fn approve_use(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| decide_use(&known, ConfirmationDecision::Approve).await).await
}

pub(super) async fn deny_use(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| decide_use(&known, ConfirmationDecision::Deny).await).await
}

async fn decide_use(known: &ConsoleRequest<'_>, decision: ConfirmationDecision) -> PageResult {
    let (delegation, ceremony) = (known.segment("id"), known.segment("ceremony"));
    let id = Uuid::parse_str(&ceremony).map_err(|_| Error::Refused(Refusal::NotFound))?;
    let one = CeremonyId { delegation: &delegation, id };
    let done = match decision {
        ConfirmationDecision::Deny => ceremonies::decide(&known.context, one, decision, None).await,
        ConfirmationDecision::Approve => {
            let above = delegations::show(&known.context, &delegation).await?;
            if is_in_place_of_the_user(known, &above) {
                known.require_fresh()?;
            }
            ceremonies::decide(&known.context, one, decision, Some(&shown(known))).await
        }
    };
    match done {
        Err(Error::Refused(Refusal::RequestChanged)) => {
            let present = ceremonies::show(&known.context, one).await?;
            Err(changed(Some(&shown(known)), &ShownRequest::of_use(&present)?))
        }
        Err(error) => Err(error.into()),
        Ok(_) => Ok(PageAnswer::See(known.url(&format!("/console/approvals/{delegation}")))),
    }
}
