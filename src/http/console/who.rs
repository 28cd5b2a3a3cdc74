//! Users and agents as links.

use maud::{Markup, html};

use super::agents::agent_path;
use super::guard::ConsoleRequest;
use super::links::form_encoded;
use super::words;
use crate::domain::console::ConsoleRole;
use crate::domain::principal::Principal;

/// A name with its issuer, as a link.
pub(super) fn link(known: &ConsoleRequest<'_>, who: &Principal) -> Markup {
    html! { a href=(place(known, who)) { (words::principal(who)) } }
}

/// An agent leads to its page, a user to the delegations of that user. Auditors see no list of delegations.
pub(super) fn place(known: &ConsoleRequest<'_>, Principal { iss, sub }: &Principal) -> String {
    if *iss == known.app.issuer {
        return known.url(&agent_path(sub));
    }
    let sub = form_encoded(sub);
    match known.has_role(ConsoleRole::Auditor) {
        true => format!("{}?subject_sub={sub}", known.url("/console/events")),
        false => format!(
            "{}?delegator_iss={}&delegator_sub={sub}",
            known.url("/console/delegations"),
            form_encoded(iss)
        ),
    }
}
