//! Delegations as a tree: roots by user, and what was passed on, with what each narrows.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::delegations_query::{PATH, ROWS};
use super::guard::ConsoleRequest;
use super::words;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::view::View;
use crate::domain::principal::Principal;
use crate::domain::refusal::Error;
use crate::services::delegations;
use crate::services::page::Page;

/// Levels below the roots.
const LEVELS: usize = 3;
/// Lines of a page: delegations, and links to more of them. A stream follows as many rows.
pub(super) const LINES: usize = 200;
/// Lines of a branch that is read, at least: children, and the link to more.
const FEWEST: usize = 5;

/// The children that are shown, by their parents.
#[derive(Default)]
pub(super) struct Branches(BTreeMap<String, Page<View>>);

impl Branches {
    /// Reads level by level. The parents of a level share the lines that are left of [`LINES`]; below parents without a
    /// share nothing is read.
    pub(super) async fn below(known: &ConsoleRequest<'_>, roots: &[View]) -> Result<Self, Error> {
        let mut found = Self::default();
        let mut parents: Vec<String> = roots.iter().map(|one| one.id.clone()).collect();
        let mut left = LINES.saturating_sub(parents.len());
        for _ in 0..LEVELS {
            let share = left.checked_div(parents.len()).unwrap_or_default().max(FEWEST);
            parents.truncate(left / share);
            if parents.is_empty() {
                break;
            }
            let limit = u32::try_from(share - 1).unwrap_or(ROWS).min(ROWS);
            let children = delegations::children(&known.context, &parents, limit).await?;
            let lines = |page: &Page<View>| page.items.len() + usize::from(page.next.is_some());
            let used: usize = children.values().map(lines).sum();
            left = left.saturating_sub(used);
            let pages = parents.iter().filter_map(|id| children.get(id));
            parents = pages.flat_map(|page| &page.items).map(|one| one.id.clone()).collect();
            found.0.extend(children);
        }
        Ok(found)
    }

    /// The children that are shown.
    pub(super) fn children(&self) -> impl Iterator<Item = &View> {
        self.0.values().flat_map(|page| &page.items)
    }
}

/// Roots, those of a user together, in the order of their newest.
pub(super) fn roots(known: &ConsoleRequest<'_>, roots: &[View], branches: &Branches) -> Markup {
    let mut users: Vec<(&Principal, Vec<&View>)> = Vec::new();
    for one in roots {
        match users.iter_mut().find(|(user, _)| **user == one.root) {
            Some((_, own)) => own.push(one),
            None => users.push((&one.root, vec![one])),
        }
    }
    html! {
        ul.tree {
            @for (user, own) in &users {
                li {
                    (words::principal(user)) " " span.dim { (counts(own)) }
                    ul { @for one in own { (branch(known, one, None, branches)) } }
                }
            }
        }
    }
}

/// How many of the shown roots are in which state: `3 active · 1 requested`.
fn counts(own: &[&View]) -> String {
    let states = [
        DelegationState::Active,
        DelegationState::Requested,
        DelegationState::Expired,
        DelegationState::Revoked,
    ];
    let of = |state| own.iter().filter(|one| one.state == state).count();
    let counted = states.into_iter().map(|state| (state, of(state))).filter(|(_, number)| *number > 0);
    counted.map(|(state, number)| format!("{number} {}", <&str>::from(state))).collect::<Vec<_>>().join(" · ")
}

fn branch(known: &ConsoleRequest<'_>, one: &View, parent: Option<&View>, branches: &Branches) -> Markup {
    html! {
        li data-row {
            (line(known, one, parent))
            @match branches.0.get(&one.id) {
                // A branch that was not read.
                None => { " " a href=(known.url(&format!("{PATH}/{}", one.id))) { "what is below" } },
                Some(below) if below.items.is_empty() => {},
                Some(below) => (nested(known, one, below, branches)),
            }
        }
    }
}

fn nested(known: &ConsoleRequest<'_>, one: &View, below: &Page<View>, branches: &Branches) -> Markup {
    html! {
        details open[parentless(one)] {
            summary { (below.items.len()) @if below.next.is_some() { "+" } " below" }
            ul {
                @for child in &below.items { (branch(known, child, Some(one), branches)) }
                @if let Some(next) = &below.next { (more(known, one, next)) }
            }
        }
    }
}

fn parentless(one: &View) -> bool {
    one.parent.is_none()
}

/// The link to the children after those that are shown.
pub(super) fn more(known: &ConsoleRequest<'_>, one: &View, next: &str) -> Markup {
    let target = known.url(&format!("{PATH}/{}?cursor={}", one.id, super::links::form_encoded(next)));
    html! { li { a href=(target) hx-get=(target) rel="next" { "more below" } } }
}

/// One delegation of a tree, with what its parent had and it does not.
pub(super) fn line(known: &ConsoleRequest<'_>, one: &View, parent: Option<&View>) -> Markup {
    let now = known.context.now;
    let over = matches!(one.state, DelegationState::Revoked | DelegationState::Expired);
    let page = known.url(&format!("{PATH}/{}", one.id));
    html! {
        span data-state-of=(one.id) { (words::state(one.state)) } " "
        a href=(page) { bdi { (one.delegate) } } " " code.id title=(one.id) { (words::short(&one.id)) } " "
        (words::names(one.scopes.as_ref(), "all scopes"))
        (dropped(one.scopes.as_ref(), parent.and_then(|parent| parent.scopes.as_ref())))
        " → " (words::names(one.audiences.as_ref(), "all resources"))
        (dropped(one.audiences.as_ref(), parent.and_then(|parent| parent.audiences.as_ref())))
        " · " (words::uses(one)) " uses · ends " (words::instant(&one.expires_at, now))
        @if one.state == DelegationState::Requested { " " a href=(known.url(&format!("/console/approvals/{}", one.id))) { "Decide…" } }
        @else if !over { " " a href={ (page) "/cut" } data-move="x" { "Cut…" } }
    }
}

/// Names that the parent has and the child does not. A limit that is absent has all of them.
fn dropped(own: Option<&Vec<String>>, parent: Option<&Vec<String>>) -> Markup {
    let has = |name: &String| own.is_none_or(|own| own.contains(name));
    html! {
        @for name in parent.into_iter().flatten().filter(|name| !has(name)) {
            " " s.dropped { code.scope { (words::visible(name)) } span.visually-hidden { " was not passed on" } }
        }
    }
}
