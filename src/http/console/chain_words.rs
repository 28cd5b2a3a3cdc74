//! What both pages of chains say alike.

use maud::{Markup, html};

use super::words;
use crate::domain::audit::chain::Chain;
use crate::domain::audit::chain_keys::KeyContinuity;
use crate::domain::audit::personal::{People, PersonView};

/// Letters of a key that a row shows.
const KEY_LETTERS: usize = 4;

/// Whether the keys of a chain or hop agree.
pub(super) fn keys(continuity: KeyContinuity) -> Markup {
    match continuity {
        KeyContinuity::Consistent => html! { span.ok { span.mark aria-hidden="true" { "✓" } " consistent" } },
        KeyContinuity::NoKey => html! { span.dim { "– no key" } },
        KeyContinuity::KeyMismatch => html! { span.bad { span.mark aria-hidden="true" { "✗" } " mismatch" } },
    }
}

/// The keys of a chain of which a list has read only the beginning and the end: a mismatch may be between.
pub(super) fn keys_of_shown(chain: &Chain) -> Markup {
    match chain.key_continuity {
        KeyContinuity::Consistent | KeyContinuity::NoKey if !chain.complete => {
            html! { span.warn { span.mark aria-hidden="true" { "!" } " not checked in full" } }
        }
        continuity => keys(continuity),
    }
}

/// A name of the API as words.
pub(super) fn word(name: &str) -> String {
    name.replace('_', " ")
}

pub(super) fn key_start(jkt: &str) -> String {
    jkt.chars().take(KEY_LETTERS).collect()
}

/// The user of a chain.
pub(super) fn subject(chain: &Chain, people: &People) -> Markup {
    let sub = chain.subject.get("sub").and_then(|sub| sub.as_str()).unwrap_or_default();
    match people.get(sub) {
        Some(PersonView::Known { sub, .. }) => html! { bdi { (words::visible(sub)) } },
        Some(PersonView::Erased) => html! { span.dim { "an erased person" } },
        Some(PersonView::DoesNotMatch) => html! { span.bad { "✗ a person whose row was changed" } },
        None if sub.is_empty() => html! { span.dim { "no user" } },
        None => html! { bdi { (words::visible(sub)) } },
    }
}
