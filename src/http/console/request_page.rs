//! A request of an agent with its decision, and uses that wait for a confirmation. Everything that would be granted is on
//! the page, and comes back with the form, to be compared when it is decided.

use maud::{Markup, html};
use time::Duration;

use super::chosen::Chosen;
use super::error_page::PageError;
use super::guard::ConsoleRequest;
use super::links::form_encoded;
use super::matter::{decided_by, narrowed, used};
use super::{who, words};
use crate::domain::ceremony::CeremonyState;
use crate::domain::ceremony::view::CeremonyView;
use crate::domain::console::ConsoleRole;
use crate::domain::decision::MatterKind;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::store::UseTimes;
use crate::domain::delegation::view::View;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::delegations::{AskingAgent, DecidedView, ShownRequest, matter_of, may_decide};

/// Ends that are offered beside the one that was asked, in seconds.
const QUICK_ENDS: [u32; 2] = [900, 3_600];
/// The prefix of the fields that keep a scope.
pub(super) const SCOPE_FIELD: &str = "scope:";
/// The hidden field with what was shown.
pub(super) const SHOWN_FIELD: &str = "shown";
/// The prefix of the fields that ask for a confirmation of each use of a scope.
pub(super) const CEREMONY_FIELD: &str = "each:";
/// The prefix of the box for offline access, whose name is [`OFFLINE_BOX`].
pub(super) const OFFLINE_FIELD: &str = "offline:";
pub(super) const OFFLINE_BOX: &str = "access";
/// The most scopes that are chosen one by one: a form has a limited number of fields. More are approved as a whole.
pub(super) const MOST_CHOSEN: usize = 40;

/// A request with what helps to decide about it.
pub(super) struct RequestItem<'a> {
    pub(super) one: &'a View,
    /// Confirmations of single uses, newest first.
    pub(super) uses: &'a [CeremonyView],
    pub(super) decisions: &'a [DecidedView],
    /// Other requests of the same agent to the same delegator, newest first.
    pub(super) earlier: &'a [View],
    /// The delegation above it.
    pub(super) above: Option<&'a View>,
    pub(super) agent: &'a AskingAgent,
    /// What the person chose before it signed in once more.
    pub(super) chosen: &'a Chosen,
}

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

/// Whether an approval can narrow: a new key and a review change nothing.
pub(super) fn narrows(one: &View) -> bool {
    matter_of(one) == MatterKind::Request
}

pub(super) fn item_body(known: &ConsoleRequest<'_>, item: &RequestItem<'_>) -> Result<Markup, Fault> {
    let now = known.context.now;
    let one = item.one;
    // Below an ancestor that waits, there is nothing to decide here.
    let waits = one.state == DelegationState::Requested
        && one.ended_by.is_none()
        && one.standing_grant_suspended_at.is_none();
    let unanswered = one.state == DelegationState::Expired && one.activated_at.is_none();
    Ok(html! {
        p { a href=(known.url("/console/approvals")) data-back { "Approvals" } }
        h1 {
            bdi { (one.delegate) }
            @match matter_of(one) {
                MatterKind::KeyRotation => " asks for a new key",
                MatterKind::Review => " waits for a review",
                MatterKind::Request | MatterKind::Use => { " asks to act for " bdi { (words::visible(&one.delegator.sub)) } },
            }
        }
        p { (words::state(one.state)) @if waits { " · waits until " (words::deadline(&one.expires_at, now)) } }
        @for decided in item.decisions {
            p { (decided_by(&decided.decision)) ", " (words::instant(&rfc3339(decided.decision.decided_at), now)) "; " (narrowed(&decided.narrowed)) "; " (used(&decided.delegation, decided.used, now)) "." }
        }
        @if unanswered {
            p.note { "It expired " (words::instant(&one.expires_at, now)) " without a decision. Nothing can be decided any more: the agent has to ask again." }
        }
        @if let Some(by) = one.ended_by.as_ref().filter(|_| one.state == DelegationState::Requested) {
            p.note { "It waits for a decision about " a href=(known.url(&format!("/console/approvals/{by}"))) { "the delegation above it" } "." }
        }
        @if let Some(id) = one.standing_grant_id.as_ref().filter(|_| one.standing_grant_suspended_at.is_some()) {
            p.note { "It waits until the keys of the agent are confirmed for its " a href=(known.url(&format!("/console/standing-grants/{id}"))) { "standing grant" } "." }
        }
        @if let Some(at) = &one.suspended_at {
            p.note {
                "Suspended since " (words::instant(at, now)) ". Either a rule matched a step of this agent, or a backup was put back, and what was changed or revoked since the backup is lost. "
                a href={ (known.url("/console/events")) "?action=delegation.suspended&delegation=" (form_encoded(&one.id)) } { "The event says which" }
                ". Approve it if it is still wanted, or cut it."
            }
        }
        p { (words::sentence(one, now)) }
        @if let Some(reason) = &one.reason { (words::quotation(reason)) }
        @if let Some(agent) = &one.agent {
            (words::quotation(&[agent.kind.as_deref(), agent.model.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ")))
        }
        (facts(known, item))
        @if waits && may_decide(&known.context, &one.delegator) { (decide(known, item)?) }
        @else { p { a href=(known.url(&format!("/console/delegations/{}", one.id))) { "See the delegation" } } }
        @if !item.uses.is_empty() { (confirmations(known, one, item.uses)?) }
        h2 { "Before" }
        @if item.earlier.is_empty() { p.dim { "This agent has asked for nothing else of late." } }
        @else {
            ul {
                @for other in item.earlier {
                    li {
                        a href=(known.url(&format!("/console/approvals/{}", other.id))) { (words::instant(&other.requested_at, now)) }
                        " · " (words::state(other.state)) " · " (words::names(other.scopes.as_ref(), "all scopes")) " · " (used(other, UseTimes::default(), now))
                    }
                }
            }
        }
    })
}

fn facts(known: &ConsoleRequest<'_>, item: &RequestItem<'_>) -> Markup {
    let now = known.context.now;
    let (one, agent) = (item.one, item.agent);
    html! {
        dl {
            dt { "for" } dd { (who::link(known, &one.delegator)) }
            dt { "agent" } dd {
                bdi { (one.delegate) } @if !agent.name.is_empty() { " · " bdi { (words::visible(&agent.name)) } }
                @if let Some(at) = &agent.registered_at {
                    span.dim { " registered " @if let Some(by) = &agent.registered_by { "by " bdi { (words::visible(by)) } " " } (words::instant(at, now)) }
                }
                @if agent.disabled { " " span.bad { "disabled" } }
            }
            @if !agent.keys.is_empty() {
                dt { "keys" } dd { @for (place, jkt) in agent.keys.iter().enumerate() { @if place > 0 { ", " } (words::id(jkt)) } }
            }
            dt { "of late" } dd {
                @match &agent.first_seen { Some(at) => { "first seen " (words::instant(at, now)) }, None => "not seen yet" }
                ", "
                @if agent.refusals.number == 0 { "no refusal" }
                @else { span.warn { span.mark aria-hidden="true" { "!" } " " (words::bounded(&agent.refusals)) @if agent.refusals.number == 1 { " refusal" } @else { " refusals" } } }
                " within a week" @if known.has_role(ConsoleRole::User) { ", of requests for you" }
            }
            @if let Some(by) = one.requested_by.as_ref().filter(|by| by.sub != one.delegate) { dt { "asked by" } dd { (who::link(known, by)) } }
            @if let Some(parent) = &one.parent {
                dt { "below" } dd { a href=(known.url(&format!("/console/delegations/{parent}"))) { (words::short(parent)) } }
            }
            dt { "asked" } dd { (words::instant(&one.requested_at, now)) }
            dt { "delegation" } dd { (words::id(&one.id)) }
            @if !one.ceremony_required_for.is_empty() { dt { "asks each time for" } dd { (words::names(Some(&one.ceremony_required_for), "")) } }
            @if let Some(agent) = &one.ephemeral {
                dt { "for the task" } dd { bdi { (words::visible(&agent.task_id)) } }
                @if let Some(jkt) = &agent.jkt { dt { "present key" } dd { (words::id(jkt)) } }
                @if let Some(jkt) = &agent.pending_jkt { dt { "new key" } dd { (words::id(jkt)) } }
            }
            (words::limits(one))
        }
    }
}

/// The forms of a decision. Inputs can only narrow.
fn decide(known: &ConsoleRequest<'_>, item: &RequestItem<'_>) -> Result<Markup, Fault> {
    let one = item.one;
    let at = |act: &str| known.url(&format!("/console/approvals/{}/{act}", one.id));
    let (approve, deny) = (at("approve"), at("deny"));
    Ok(html! {
        @if is_in_place_of_the_user(known, one) {
            p.note { span.warn { span.mark aria-hidden="true" { "!" } " You decide as an administrator, in place of this user." } " The log will say so." }
        }
        form method="post" action=(approve) {
            (known.hidden(&approve)?)
            input type="hidden" name=(SHOWN_FIELD) value=(ShownRequest::of_delegation(one)?.to_text()?);
            @if narrows(one) { (limits(known, item)) }
            div.moves {
                button.primary type="submit" data-move="a" { "Approve" }
                @if narrows(one) && one.parent.is_none() && one.ephemeral.is_none() && one.ceremony_required_for.is_empty() {
                    a href={ (known.url("/console/standing-grants/new")) "?from=" (form_encoded(&one.id)) } { "Always allow…" }
                }
            }
        }
        form method="post" action=(deny) {
            (known.hidden(&deny)?)
            label.field { "Why not (optional, for the log)" input name="reason" maxlength="500" size="40"; }
            div.moves { button type="submit" data-move="d" { "Deny" } }
        }
    })
}

/// What is asked, what is allowed above it, and what is granted.
fn limits(known: &ConsoleRequest<'_>, item: &RequestItem<'_>) -> Markup {
    let (one, above, agent) = (item.one, item.above, item.agent);
    let now = known.context.now;
    let longest = known.app.config.delegations.max_ttl;
    let end = |seconds: u32| rfc3339(now + Duration::seconds(seconds.into()));
    let quick = QUICK_ENDS.into_iter().filter(|seconds| one.expires_in.is_none_or(|asked| *seconds < asked));
    let number = |limit: Option<String>| limit.unwrap_or_else(|| "any number".to_owned());
    let uses = |one: &View| number(one.max_uses.map(|most| most.to_string()));
    let depth = |one: &View| number(one.max_depth.map(|most| most.to_string()));
    html! {
        table.rows {
            caption { @if above.is_some() { "Above it: the delegation that it comes from." } @else { "Above it: what the agent is registered for, and the limits of this server." } }
            thead { tr { th { "limit" } th { "asked" } th { "above it allows" } th { "you give" } } }
            tbody {
                tr {
                    th scope="row" { "scopes" }
                    td data-label="asked" { (words::names(one.scopes.as_ref(), "every scope")) }
                    td data-label="above it allows" { @match above { Some(above) => (words::names(above.scopes.as_ref(), "every scope")), None => (words::names(Some(&agent.scopes), "")) } }
                    td data-label="you give" { (granted_scopes(one, item.chosen)) }
                }
                tr {
                    th scope="row" { "targets" }
                    td data-label="asked" { (words::names(one.audiences.as_ref(), "every resource")) }
                    td data-label="above it allows" { @match above { Some(above) => (words::names(above.audiences.as_ref(), "every resource")), None => (words::names(Some(&agent.audiences), "")) } }
                    td data-label="you give" { "as asked" }
                }
                tr {
                    th scope="row" { "until" }
                    td data-label="asked" { (words::length(one, now)) }
                    td data-label="above it allows" {
                        @match above { Some(above) => (words::instant(&above.expires_at, now)), None => { "at most " (words::duration(Duration::seconds(longest.into()))) } }
                    }
                    td data-label="you give" {
                        div role="radiogroup" aria-label="until" {
                            label { input type="radio" name="expires_in" value="" checked[item.chosen.text("expires_in").is_none()]; "as asked" @if let Some(seconds) = one.expires_in { ", " (words::instant(&end(seconds.min(longest)), now)) } }
                            @for seconds in quick {
                                br;
                                label { input type="radio" name="expires_in" value=(seconds) checked[item.chosen.text("expires_in") == Some(seconds.to_string().as_str())]; (words::duration(Duration::seconds(seconds.into()))) ", " (words::instant(&end(seconds), now)) }
                            }
                        }
                    }
                }
                tr {
                    th scope="row" { "uses" }
                    td data-label="asked" { (uses(one)) }
                    td data-label="above it allows" { @match above { Some(above) => (uses(above)), None => "any number" } }
                    td data-label="you give" { input type="number" name="max_uses" aria-label="uses at most" min="1" max=[one.max_uses] value=[item.chosen.text("max_uses")] placeholder=(uses(one)); }
                }
                tr {
                    th scope="row" { "agents in a row" }
                    td data-label="asked" { (depth(one)) }
                    td data-label="above it allows" { @match above { Some(above) => (depth(above)), None => "any number" } }
                    td data-label="you give" { input type="number" name="max_depth" aria-label="agents in a row at most" min="1" max=[one.max_depth] value=[item.chosen.text("max_depth")] placeholder=(depth(one)); }
                }
                @if one.offline_access {
                    tr {
                        th scope="row" { "work while you are away" }
                        td data-label="asked" { "yes, with a refresh token" }
                        td data-label="above it allows" { @match above { Some(above) if !above.offline_access => "no", _ => "yes" } }
                        td data-label="you give" { label { input type="checkbox" name={ (OFFLINE_FIELD) (OFFLINE_BOX) } value="on" checked[item.chosen.box_is_ticked(OFFLINE_FIELD, OFFLINE_BOX).unwrap_or(true)]; "it may continue without you" } }
                    }
                }
                @if let Some(scopes) = one.scopes.as_ref().filter(|scopes| !scopes.is_empty() && scopes.len() <= MOST_CHOSEN) {
                    tr {
                        th scope="row" { "ask me each time for" }
                        td data-label="asked" { (words::names(Some(&one.ceremony_required_for).filter(|names| !names.is_empty()), "nothing")) }
                        td data-label="above it allows" {}
                        td data-label="you give" {
                            @for (place, scope) in scopes.iter().enumerate() {
                                @let asked = one.ceremony_required_for.contains(scope);
                                @if place > 0 { br; }
                                label { input type="checkbox" name={ (CEREMONY_FIELD) (scope) } value="on" checked[asked || item.chosen.box_is_ticked(CEREMONY_FIELD, scope).unwrap_or(false)] disabled[asked] aria-label={ "each time: " (scope) }; code.scope { (words::visible(scope)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn granted_scopes(one: &View, chosen: &Chosen) -> Markup {
    html! {
        @match &one.scopes {
            Some(scopes) if scopes.len() <= MOST_CHOSEN => {
                @for (place, scope) in scopes.iter().enumerate() {
                    @if place > 0 { br; }
                    label { input type="checkbox" name={ (SCOPE_FIELD) (scope) } value="on" checked[chosen.box_is_ticked(SCOPE_FIELD, scope).unwrap_or(true)]; code.scope { (words::visible(scope)) } }
                }
            },
            _ => "as asked",
        }
    }
}

fn confirmations(known: &ConsoleRequest<'_>, one: &View, uses: &[CeremonyView]) -> Result<Markup, Fault> {
    Ok(html! {
        h2 { "Uses that you confirm" }
        @for use_ in uses {
            div.note {
                p { a href=(known.url(&format!("/console/approvals/{}/uses/{}", one.id, use_.id))) { "One use" } " by " bdi { (use_.client_id) } }
                (use_body(known, one, use_)?)
            }
        }
    })
}

/// One use with its decision.
pub(super) fn use_body(known: &ConsoleRequest<'_>, one: &View, use_: &CeremonyView) -> Result<Markup, Fault> {
    let now = known.context.now;
    let at = |act: &str| known.url(&format!("/console/approvals/{}/uses/{}/{act}", one.id, use_.id));
    Ok(html! {
        p {
            (use_.state.name()) " · " (words::instant(&use_.requested_at, now)) " · "
            (words::names(Some(&use_.scopes.iter().cloned().collect()), "")) " at "
            (words::names(Some(&use_.audiences.iter().cloned().collect()), ""))
        }
        dl {
            dt { "agent" } dd { bdi { (use_.client_id) } }
            dt { "capability" } dd { @match &use_.capability { Some(name) => code { (name) }, None => "any capability" } }
            dt { "waits until" } dd { (words::deadline(&use_.expires_at, now)) }
            @if let Some(asked) = &use_.authorization_details { dt { "authorization details" } dd { (words::details(asked)) } }
        }
        @if use_.state == CeremonyState::Pending && may_decide(&known.context, &one.delegator) {
            @if is_in_place_of_the_user(known, one) { p.warn { "! You decide as an administrator, in place of this user." } }
            div.moves {
                form method="post" action=(at("approve")) {
                    (known.hidden(&at("approve"))?)
                    input type="hidden" name=(SHOWN_FIELD) value=(ShownRequest::of_use(use_)?.to_text()?);
                    button.primary type="submit" data-move="a" { "Allow this use" }
                }
                form method="post" action=(at("deny")) { (known.hidden(&at("deny"))?) button type="submit" data-move="d" { "Refuse it" } }
            }
        }
        @else if use_.state == CeremonyState::Expired { p { "It expired. Nothing can be decided any more: the agent has to ask again." } }
    })
}
