//! `/console/approvals`: what agents ask, and the decisions. Approvals only narrow, and only what was shown is approved.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, PageResult, serve};
use super::links::form_encoded;
use super::words;
use crate::domain::ceremony::CeremonyState;
use crate::domain::console::ConsoleRole;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::delegation::view::View;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::{Context as _, Fault};
use crate::services::delegations::ceremonies::{self, CeremonyId, CeremonyView, ConfirmationDecision};
use crate::services::delegations::{self, Approval};
use crate::services::page::{Page, PageRequest};
use actchain_protocol::base64url;

/// Requests of the same agent that are shown beside a request.
const EARLIER: u32 = 5;
/// Ends that are offered beside the one that was asked, in seconds.
const QUICK_ENDS: [u32; 2] = [900, 3_600];
/// The prefix of the fields that keep a scope.
const SCOPE_FIELD: &str = "scope:";

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
                    pre { "POST " (known.app.issuer) "/delegate\n{\"delegator\": {\"iss\": …, \"sub\": …}, \"scopes\": […], \"reason\": …}" }
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

fn used(one: &View) -> Markup {
    html! {
        @match (one.activated_at.is_some(), one.uses) {
            (false, _) => span.dim { "not approved" },
            (true, 0) => "never used",
            (true, 1) => "once",
            (true, many) => { (many) " times" }
        }
    }
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = delegations::show(&known.context, known.segment("id")).await?;
        let uses = ceremonies::list(&known.context, &one.id, &PageRequest::default()).await?;
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

/// What was shown: a request that changes afterwards has another digest.
fn shown(known: &ConsoleRequest<'_>, one: &View) -> Result<String, Fault> {
    // Uses change what is left, not what is asked.
    let whole = serde_json::to_vec(one).context("digesting a request")?;
    Ok(base64url::encode(known.app.fingerprint(&[b"console request ", &whole])))
}

fn item_body(
    known: &ConsoleRequest<'_>,
    one: &View,
    uses: &[CeremonyView],
    earlier: &[View],
) -> Result<Markup, Fault> {
    let now = known.context.now;
    let waits = one.state == DelegationState::Requested;
    let new_key = new_key(one);
    Ok(html! {
        p { a href=(known.url("/console/approvals")) data-back { "Approvals" } }
        h1 { bdi { (one.delegate) } @if new_key.is_some() { " asks for a new key" } @else { " asks to act for " bdi { (words::visible(&one.delegator.sub)) } } }
        p { (words::state(one.state)) @if waits { " · waits until " (words::instant(&one.expires_at, now)) } }
        p { (words::sentence(one, now)) }
        @if let Some(reason) = &one.reason { (words::quotation(reason)) }
        @if let Some(agent) = &one.agent {
            (words::quotation(&[agent.kind.as_deref(), agent.model.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ")))
        }
        dl {
            dt { "for" } dd { (words::principal(&one.delegator)) }
            dt { "agent" } dd { bdi { (one.delegate) } }
            @if let Some(parent) = &one.parent {
                dt { "below" } dd { a href=(known.url(&format!("/console/delegations/{parent}"))) { (words::short(parent)) } }
            }
            dt { "asked" } dd { (words::instant(&one.requested_at, now)) }
            dt { "delegation" } dd { (words::id(&one.id)) }
            @if let Some(ceiling) = &one.capability_ceiling { dt { "highest capability" } dd { code { (ceiling) } } }
            @if let Some(details) = &one.authorization_details { dt { "authorization details" } dd { code { (serde_json::to_string(details).unwrap_or_default()) } } }
            @if let Some(jkt) = new_key { dt { "new key" } dd { (words::id(jkt)) } }
        }
        @if waits { (decide(known, one)?) }
        @else { p { a href=(known.url(&format!("/console/delegations/{}", one.id))) { "See the delegation" } } }
        @if !uses.is_empty() { (confirmations(known, one, uses)?) }
        h2 { "Before" }
        @if earlier.is_empty() { p.dim { "This agent has asked for nothing else of late." } }
        @else {
            ul {
                @for other in earlier {
                    li { (words::state(other.state)) " · " (words::instant(&other.requested_at, now)) " · " (words::names(other.scopes.as_ref(), "all scopes")) " · " (used(other)) }
                }
            }
        }
    })
}

/// The thumbprint of a key that an ephemeral agent asks to use from now on.
fn new_key(one: &View) -> Option<&String> {
    one.ephemeral.as_ref()?.pending_jkt.as_ref()
}

/// The forms of a decision. Inputs can only narrow.
fn decide(known: &ConsoleRequest<'_>, one: &View) -> Result<Markup, Fault> {
    let at = |act: &str| known.url(&format!("/console/approvals/{}/{act}", one.id));
    let (approve, deny) = (at("approve"), at("deny"));
    let quick = QUICK_ENDS.into_iter().filter(|seconds| one.expires_in.is_none_or(|asked| *seconds < asked));
    let as_administrator =
        known.context.caller.principal(known.context.issuer).as_ref() != Some(&one.delegator);
    Ok(html! {
        @if as_administrator {
            p.note { span.warn { span.mark aria-hidden="true" { "!" } " You decide as an administrator, in place of this user." } " The log will say so." }
        }
        form method="post" action=(approve) {
            (known.hidden(&approve)?)
            input type="hidden" name="shown" value=(shown(known, one)?);
            @if new_key(one).is_none() {
                @if let Some(scopes) = &one.scopes {
                    fieldset {
                        legend { "You give" }
                        @for scope in scopes {
                            label { input type="checkbox" name={ (SCOPE_FIELD) (scope) } value="on" checked; code.scope { (scope) } }
                            br;
                        }
                    }
                }
                fieldset {
                    legend { "Until" }
                    label { input type="radio" name="expires_in" value="" checked; "as asked" }
                    @for seconds in quick {
                        br;
                        label { input type="radio" name="expires_in" value=(seconds); (words::duration(time::Duration::seconds(seconds.into()))) }
                    }
                }
                fieldset {
                    legend { "At most" }
                    label.field { "uses" input type="number" name="max_uses" min="1" max=[one.max_uses] placeholder=(one.max_uses.map_or("any number".to_owned(), |most| most.to_string())); }
                    " "
                    label.field { "agents in a row" input type="number" name="max_depth" min="1" max=[one.max_depth] placeholder=(one.max_depth.map_or("any number".to_owned(), |most| most.to_string())); }
                }
            }
            div.moves { button.primary type="submit" data-move="a" { "Approve" } }
        }
        form method="post" action=(deny) {
            (known.hidden(&deny)?)
            label.field { "Why not (optional, for the log)" input name="reason" maxlength="500" size="40"; }
            div.moves { button type="submit" data-move="d" { "Deny" } }
        }
    })
}

fn confirmations(known: &ConsoleRequest<'_>, one: &View, uses: &[CeremonyView]) -> Result<Markup, Fault> {
    let now = known.context.now;
    Ok(html! {
        h2 { "Uses that you confirm" }
        @for use_ in uses {
            @let at = |act: &str| known.url(&format!("/console/approvals/{}/uses/{}/{act}", one.id, use_.id));
            div.note {
                p {
                    (use_.state.name()) " · " (words::instant(&use_.requested_at, now)) " · "
                    (words::names(Some(&use_.scopes.iter().cloned().collect()), "")) " at "
                    (words::names(Some(&use_.audiences.iter().cloned().collect()), ""))
                }
                @if use_.state == CeremonyState::Pending {
                    div.moves {
                        form method="post" action=(at("approve")) { (known.hidden(&at("approve"))?) button.primary type="submit" { "Allow this use" } }
                        form method="post" action=(at("deny")) { (known.hidden(&at("deny"))?) button type="submit" { "Refuse it" } }
                    }
                }
            }
        }
    })
}

pub(super) async fn approve(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = delegations::show(&known.context, known.segment("id")).await?;
        if one.state == DelegationState::Requested
            && known.form.get("shown") != Some(shown(&known, &one)?.as_str())
        {
            return Err(PageError::Changed);
        }
        let asked_by_other =
            known.context.caller.principal(known.context.issuer).as_ref() != Some(&one.delegator);
        if asked_by_other && !known.has_role(ConsoleRole::User) {
            known.require_fresh()?;
        }
        let approval = approval(&known, &one)?;
        delegations::approve(&known.context, &one.id, &approval).await?;
        Ok(PageAnswer::See(known.url(&format!("/console/delegations/{}", one.id))))
    })
    .await
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
        Some(asked) if new_key(one).is_none() && !asked.is_empty() => match kept.len() {
            0 => return Err(Refusal::Malformed("Keep at least one scope, or deny the request")),
            most if most < asked.len() || kept.iter().any(|scope| !asked.contains(scope)) => Some(kept),
            _ => None,
        },
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
        delegations::deny(&known.context, id, known.form.get("reason")).await?;
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
    let id = Uuid::parse_str(ceremony).map_err(|_| Error::Refused(Refusal::NotFound))?;
    ceremonies::decide(&known.context, CeremonyId { delegation, id }, decision).await?;
    Ok(PageAnswer::See(known.url(&format!("/console/approvals/{delegation}"))))
}
