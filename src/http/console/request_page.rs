//! A request of an agent with its decision, and uses that wait for a confirmation. Everything that would be granted is on
//! the page, and comes back with the form, to be compared when it is decided.

use maud::{Markup, html};

use super::error_page::PageError;
use super::guard::ConsoleRequest;
use super::words;
use crate::domain::ceremony::CeremonyState;
use crate::domain::ceremony::view::CeremonyView;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::view::View;
use crate::platform::fault::Fault;
use crate::services::delegations::{ShownRequest, may_decide};
use actchain_protocol::authorization_details::Details;

/// Ends that are offered beside the one that was asked, in seconds.
const QUICK_ENDS: [u32; 2] = [900, 3_600];
/// The prefix of the fields that keep a scope.
pub(super) const SCOPE_FIELD: &str = "scope:";
/// The hidden field with what was shown.
pub(super) const SHOWN_FIELD: &str = "shown";

/// The page of a decision about something else than what was shown: each member that differs, as it was and as it is.
pub(super) fn changed(shown: Option<&ShownRequest>, present: &ShownRequest) -> PageError {
    let differences = shown.map(|shown| shown.differences(present)).unwrap_or_default();
    let absent = || html! { span.dim { "not set" } };
    let value = |text: &Option<String>| match text {
        Some(text) => html! { bdi { (words::visible(text)) } },
        None => absent(),
    };
    PageError::Changed(html! {
        @if !differences.is_empty() {
            table.rows {
                thead { tr { th { "what" } th { "shown to you" } th { "now" } } }
                tbody {
                    @for one in &differences {
                        tr { th scope="row" { (one.name) } td data-label="shown to you" { (value(&one.shown)) } td data-label="now" { (value(&one.present)) } }
                    }
                }
            }
        }
    })
}

pub(super) fn is_in_place_of_the_user(known: &ConsoleRequest<'_>, one: &View) -> bool {
    known.context.caller.principal(known.context.issuer).as_ref() != Some(&one.delegator)
}

/// Details as an agent wrote them.
fn details(text: &Details) -> Markup {
    let shown = serde_json::to_string_pretty(text).unwrap_or_default();
    html! { pre { (words::visible(&shown)) } }
}

pub(super) fn item_body(
    known: &ConsoleRequest<'_>,
    one: &View,
    uses: &[CeremonyView],
    earlier: &[View],
) -> Result<Markup, Fault> {
    let now = known.context.now;
    // Below an ancestor that waits, there is nothing to decide here.
    let waits = one.state == DelegationState::Requested && one.ended_by.is_none();
    let new_key = new_key(one);
    Ok(html! {
        p { a href=(known.url("/console/approvals")) data-back { "Approvals" } }
        h1 { bdi { (one.delegate) } @if new_key.is_some() { " asks for a new key" } @else if one.suspended_at.is_some() { " waits for a review" } @else { " asks to act for " bdi { (words::visible(&one.delegator.sub)) } } }
        p { (words::state(one.state)) @if waits { " · waits until " (words::instant(&one.expires_at, now)) } }
        @if let Some(by) = one.ended_by.as_ref().filter(|_| one.state == DelegationState::Requested) {
            p.note { "It waits for a decision about " a href=(known.url(&format!("/console/approvals/{by}"))) { "the delegation above it" } "." }
        }
        @if let Some(at) = &one.suspended_at {
            p.note { "Suspended since " (words::instant(at, now)) ", after a backup was put back: what was changed or revoked since the backup is lost. Approve it if it is still wanted, or cut it." }
        }
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
            dt { "highest capability" } dd { @match &one.capability_ceiling { Some(ceiling) => code { (ceiling) }, None => "any capability" } }
            @if !one.ceremony_required_for.is_empty() { dt { "asks each time for" } dd { (words::names(Some(&one.ceremony_required_for), "")) } }
            @if let Some(agent) = &one.ephemeral {
                dt { "for the task" } dd { bdi { (words::visible(&agent.task_id)) } }
                @if let Some(jkt) = &agent.jkt { dt { "present key" } dd { (words::id(jkt)) } }
            }
            @if let Some(asked) = &one.authorization_details { dt { "authorization details" } dd { (details(asked)) } }
            @if let Some(jkt) = new_key { dt { "new key" } dd { (words::id(jkt)) } }
        }
        @if waits && may_decide(&known.context, &one.delegator) { (decide(known, one)?) }
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
pub(super) fn new_key(one: &View) -> Option<&String> {
    one.ephemeral.as_ref()?.pending_jkt.as_ref()
}

/// The forms of a decision. Inputs can only narrow.
fn decide(known: &ConsoleRequest<'_>, one: &View) -> Result<Markup, Fault> {
    let at = |act: &str| known.url(&format!("/console/approvals/{}/{act}", one.id));
    let (approve, deny) = (at("approve"), at("deny"));
    let quick = QUICK_ENDS.into_iter().filter(|seconds| one.expires_in.is_none_or(|asked| *seconds < asked));
    let narrows = new_key(one).is_none() && one.suspended_at.is_none();
    Ok(html! {
        @if is_in_place_of_the_user(known, one) {
            p.note { span.warn { span.mark aria-hidden="true" { "!" } " You decide as an administrator, in place of this user." } " The log will say so." }
        }
        form method="post" action=(approve) {
            (known.hidden(&approve)?)
            input type="hidden" name=(SHOWN_FIELD) value=(ShownRequest::of_delegation(one)?.to_text()?);
            @if narrows {
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
                dl {
                    dt { "agent" } dd { bdi { (use_.client_id) } }
                    dt { "capability" } dd { @match &use_.capability { Some(name) => code { (name) }, None => "any capability" } }
                    dt { "waits until" } dd { (words::instant(&use_.expires_at, now)) }
                    @if let Some(asked) = &use_.authorization_details { dt { "authorization details" } dd { (details(asked)) } }
                }
                @if use_.state == CeremonyState::Pending && may_decide(&known.context, &one.delegator) {
                    @if is_in_place_of_the_user(known, one) { p.warn { "! You decide as an administrator, in place of this user." } }
                    div.moves {
                        form method="post" action=(at("approve")) {
                            (known.hidden(&at("approve"))?)
                            input type="hidden" name=(SHOWN_FIELD) value=(ShownRequest::of_use(use_)?.to_text()?);
                            button.primary type="submit" { "Allow this use" }
                        }
                        form method="post" action=(at("deny")) { (known.hidden(&at("deny"))?) button type="submit" { "Refuse it" } }
                    }
                }
            }
        }
    })
}

pub(super) fn used(one: &View) -> Markup {
    html! {
        @match (one.activated_at.is_some(), one.uses) {
            (false, _) => span.dim { "not approved" },
            (true, 0) => "never used",
            (true, 1) => "once",
            (true, many) => { (many) " times" }
        }
    }
}
