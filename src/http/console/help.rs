//! `/console/help`: what the marks mean, and the keys.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::frame::{ConsolePage, PLACES};
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::words;
use crate::domain::delegation::DelegationState;

/// Keys with their effects; the places after `g` are those of the navigation.
const KEYS: &[(&str, &str)] = &[
    ("/", "to the jump box: paste an id, a key thumbprint or a token, then Enter"),
    ("j k", "next row, previous row"),
    (".", "next finding or refusal of a trace"),
    ("Enter", "open the row, press the button"),
    ("Esc", "back to the list"),
    ("n p", "older page, newest page"),
    ("[ ]", "tab before, tab after"),
    ("f", "to the filters"),
    ("y", "copy the id of the row, else the first id of the page"),
    ("l", "copy a link to this view, with absolute times"),
    ("a d", "to Approve, to Deny"),
    ("x", "to Cut"),
    ("c", "to New, Connect or Set up"),
    ("e", "to the file of what is shown"),
    ("?", "this page"),
];

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| Ok(PageAnswer::Shown(ConsolePage::new("Help", body(&known))))).await
}

fn body(known: &ConsoleRequest<'_>) -> Markup {
    html! {
        h1 { "Help" }
        h2 { "Marks" }
        dl {
            dt { (words::state(DelegationState::Requested)) } dd { "Waits for the decision of its delegator." }
            dt { (words::state(DelegationState::Active)) } dd { "May be used, within its limits." }
            dt { (words::state(DelegationState::Expired)) } dd { "Its end has passed, or no use is left." }
            dt { (words::state(DelegationState::Revoked)) } dd { "Was denied or revoked, or an ancestor of it was. This is final." }
        }
        h2 { "Keys" }
        table {
            thead { tr { th scope="col" { "key" } th scope="col" { "effect" } } }
            tbody {
                @for (keys, effect) in KEYS {
                    tr { td { @for key in keys.split(' ') { kbd { (key) } " " } } td { (effect) } }
                }
                @for (path, name, key) in PLACES {
                    tr { td { kbd { "g" } " " kbd { (key) } } td { a href=(known.url(path)) { (name) } } }
                }
            }
        }
        p { "Keys that move focus never press anything by themselves. " a href=(known.url("/console/me")) { "Me" } " switches keys off, and has the time zone, colours and rows." }
        p { "Every page works without JavaScript, except keys, copying, live counts and local times." }
    }
}
