//! Kinds, decisions and uses in words, alike on the pages of approvals.

use maud::{Markup, html};
use time::OffsetDateTime;

use super::guard::ConsoleRequest;
use super::words;
use crate::domain::decision::{DeciderRole, DecisionOutcome, MatterKind, RecordedDecision};
use crate::domain::delegation::store::UseTimes;
use crate::domain::delegation::view::View;
use crate::platform::clock::rfc3339;
use crate::services::delegations::{ShownDifference, WaitingView};

pub(super) fn kind_name(kind: MatterKind) -> &'static str {
    match kind {
        MatterKind::Request => "request",
        MatterKind::KeyRotation => "new key",
        MatterKind::Review => "review",
        MatterKind::Use => "one use",
    }
}

/// The decision, and the person who made it.
pub(super) fn decided_by(one: &RecordedDecision) -> Markup {
    let (class, mark, name) = match one.outcome {
        DecisionOutcome::Approved => ("ok", "✓", "approved"),
        DecisionOutcome::Denied => ("bad", "✗", "denied"),
    };
    html! {
        span class=(class) { span.mark aria-hidden="true" { (mark) } " " (name) } " by "
        @match (&one.by, one.by_role) {
            (Some(by), DeciderRole::Delegator) => bdi { (words::visible(&by.sub)) },
            (Some(by), _) => { (words::principal(by)) " as administrator" },
            (None, DeciderRole::Operator) => "an operator",
            (None, _) => "a person whose name was erased",
        }
    }
}

/// The members that an approval narrowed.
pub(super) fn narrowed(all: &[ShownDifference]) -> Markup {
    let value = |text: &Option<String>| text.as_deref().map_or("no limit".to_owned(), words::visible);
    html! {
        @if all.is_empty() { span.dim { "as asked" } }
        @else {
            @for (place, one) in all.iter().enumerate() {
                @if place > 0 { br; }
                (one.name) ": " span.dropped { (value(&one.shown)) } " → " bdi { (value(&one.present)) }
            }
        }
    }
}

/// How often a delegation was used, first and last.
pub(super) fn used(one: &View, times: UseTimes, now: OffsetDateTime) -> Markup {
    html! {
        @match (one.activated_at.is_some(), one.uses) {
            (false, _) => span.dim { "not approved" },
            (true, 0) => "never used",
            (true, count) => {
                @if count == 1 { "once" } @else { (count) " times" }
                @match (times.first, times.last) {
                    (Some(first), Some(last)) if first != last => { ", first " (words::instant(&rfc3339(first), now)) ", last " (words::instant(&rfc3339(last), now)) },
                    (_, Some(last)) => { ", " (words::instant(&rfc3339(last), now)) },
                    (_, None) => {},
                }
            }
        }
    }
}

pub(super) fn page_of(known: &ConsoleRequest<'_>, one: &WaitingView) -> String {
    match &one.one_use {
        None => known.url(&format!("/console/approvals/{}", one.delegation.id)),
        Some(one) => known.url(&format!("/console/approvals/{}/uses/{}", one.delegation_id, one.id)),
    }
}

/// The agent that asks: for one use it can be below the agent of the delegation.
pub(super) fn agent_of(one: &WaitingView) -> &str {
    one.one_use.as_ref().map_or(&one.delegation.delegate, |one| &one.client_id)
}

/// When it was asked for.
pub(super) fn asked_at(one: &WaitingView) -> &str {
    one.one_use.as_ref().map_or(&one.delegation.requested_at, |one| &one.requested_at)
}
