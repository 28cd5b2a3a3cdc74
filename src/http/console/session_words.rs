//! What both pages of sessions say alike.

use maud::{Markup, html};

use super::agents::agent_path;
use super::guard::ConsoleRequest;
use super::words;
use crate::domain::audit::personal::{People, PersonView};
use crate::domain::principal::Principal;
use crate::services::audit::sessions::SessionSummary;

/// Agents that a row names.
const NAMED: usize = 4;

/// Whom the events of a session are about.
pub(super) fn subjects(one: &SessionSummary, people: &People) -> Markup {
    html! {
        @for (place, who) in one.subjects.iter().enumerate() {
            @if place > 0 { ", " }
            (person(who, people))
        }
        @if one.subjects.is_empty() { span.dim { "–" } }
    }
}

/// A user whom a document names by a pseudonym.
pub(super) fn person(who: &Principal, people: &People) -> Markup {
    html! {
        @match people.get(&who.sub) {
            Some(PersonView::Known { sub, .. }) => bdi { (words::visible(sub)) },
            Some(PersonView::Erased) => span.dim { "an erased person" },
            Some(PersonView::DoesNotMatch) => span.bad { "✗ a person whose row was changed" },
            None => bdi { (words::visible(&who.sub)) },
        }
    }
}

pub(super) fn agents(known: &ConsoleRequest<'_>, one: &SessionSummary) -> Markup {
    html! {
        @for (place, id) in one.client_ids.iter().take(NAMED).enumerate() {
            @if place > 0 { " → " }
            a href=(known.url(&agent_path(id))) { bdi { (words::visible(id)) } }
        }
        @if one.client_ids.len() > NAMED { " … " (one.client_ids.len() - NAMED) " more" }
        @if !one.complete { " " span.dim title="Of a long session, the beginning and the end are read." { "and perhaps others" } }
    }
}

/// A number that is bad unless it is none.
pub(super) fn marked(number: u64) -> Markup {
    html! { @if number == 0 { "0" } @else { span.bad { span.mark aria-hidden="true" { "✗" } " " (number) } } }
}
