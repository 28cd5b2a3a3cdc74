//! A request of an agent with its decision, and uses that wait for a confirmation. Everything that would be granted is on
//! the page; its digest comes back with the form.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::guard::ConsoleRequest;
use super::words;
use crate::domain::ceremony::CeremonyState;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::view::View;
use crate::platform::fault::{Context as _, Fault};
use crate::services::delegations::ceremonies::CeremonyView;
use crate::services::delegations::may_decide;
use actchain_protocol::authorization_details::Details;
use actchain_protocol::base64url;

/// Ends that are offered beside the one that was asked, in seconds.
const QUICK_ENDS: [u32; 2] = [900, 3_600];
/// The prefix of the fields that keep a scope.
pub(super) const SCOPE_FIELD: &str = "scope:";

/// What was shown: a request that changes afterwards has another digest. Uses change what is left, not what is asked.
pub(super) fn shown(known: &ConsoleRequest<'_>, one: &View) -> Result<String, Fault> {
    let asked = json!([
        one.id,
        one.delegate,
        one.delegator,
        one.path,
        one.scopes,
        one.audiences,
        one.authorization_details,
        one.capability_ceiling,
        one.ceremony_required_for,
        one.max_uses,
        one.max_depth,
        one.expires_in,
        one.reason,
        one.agent,
        new_key(one),
        one.suspended_at,
    ]);
    digest(known, &asked)
}

/// What was shown of one use.
pub(super) fn shown_use(known: &ConsoleRequest<'_>, one: &CeremonyView) -> Result<String, Fault> {
    let asked = json!([
        one.id,
        one.client_id,
        one.scopes,
        one.audiences,
        one.authorization_details,
        one.capability,
        one.expires_at,
    ]);
    digest(known, &asked)
}

fn digest(known: &ConsoleRequest<'_>, asked: &Value) -> Result<String, Fault> {
    let whole = serde_json::to_vec(asked).context("digesting a request")?;
    Ok(base64url::encode(known.app.fingerprint(&[b"console request ", &whole])))
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
            input type="hidden" name="shown" value=(shown(known, one)?);
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
                            input type="hidden" name="shown" value=(shown_use(known, use_)?);
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
