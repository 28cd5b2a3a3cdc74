//! The query of the delegations page: the view, its filters and its time. All of a view is in its URL.

use maud::{Markup, html};
use serde::Deserialize;
use time::OffsetDateTime;

use super::error_page::PageError;
use super::guard::ConsoleRequest;
use super::list_query::{self, SetFilter};
use super::{proposals, windows};
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::DelegationFilter;

/// Rows of a page, and children of a branch.
pub(super) const ROWS: u32 = 20;
pub(super) const PATH: &str = "/console/delegations";
const STATES: [&str; 4] = ["requested", "active", "expired", "revoked"];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DelegationsView {
    #[default]
    List,
    Tree,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DelegationsQuery {
    pub(super) view: DelegationsView,
    state: Option<String>,
    delegator_iss: Option<String>,
    delegator_sub: Option<String>,
    delegate: Option<String>,
    parent: Option<String>,
    /// The task of the ephemeral agent that is the delegate.
    task: Option<String>,
    /// Requested within this time before now.
    window: Option<String>,
    from: Option<String>,
    to: Option<String>,
    pub(super) cursor: Option<String>,
}

impl DelegationsQuery {
    fn filters(&self) -> Vec<SetFilter<'_>> {
        let members = [
            ("state", &self.state),
            ("delegator_iss", &self.delegator_iss),
            ("delegator_sub", &self.delegator_sub),
            ("delegate", &self.delegate),
            ("parent", &self.parent),
            ("task", &self.task),
            ("window", &self.window),
            ("from", &self.from),
            ("to", &self.to),
        ];
        list_query::set(members)
    }

    fn value(&self, name: &str) -> Option<String> {
        list_query::value(&self.filters(), name).map(str::to_owned)
    }

    pub(super) fn is_filtered(&self) -> bool {
        !self.filters().is_empty()
    }

    /// # Errors
    /// Names the field that cannot be read.
    pub(super) fn filter(&self, now: OffsetDateTime) -> Result<DelegationFilter, PageError> {
        let unreadable = |name, sentence| PageError::Field { name, sentence };
        let state = self.value("state").map(|name| name.parse::<DelegationState>()).transpose();
        let [from, to] = windows::times(&self.filters(), self.value("window").as_deref(), now)?;
        Ok(DelegationFilter {
            state: state.map_err(|_| unreadable("state", "There is no such state."))?,
            delegator_iss: self.value("delegator_iss"),
            delegator_sub: self.value("delegator_sub"),
            delegate: self.value("delegate"),
            parent: self.value("parent"),
            task_id: self.value("task"),
            from,
            to,
            // Below a delegation there is no root: the tree begins with its children.
            is_root: self.view == DelegationsView::Tree && self.value("parent").is_none(),
            ..DelegationFilter::default()
        })
    }

    /// Path and query of this view, with other members; an empty value takes one away.
    pub(super) fn path_with(&self, changes: &[(&str, &str)]) -> String {
        let view = if self.view == DelegationsView::Tree { Some(("view", "tree")) } else { None };
        let kept: Vec<SetFilter<'_>> = view.into_iter().chain(self.filters()).collect();
        list_query::path_with(PATH, &kept, changes)
    }

    pub(super) fn form(&self, known: &ConsoleRequest<'_>) -> Markup {
        let here = known.url(PATH);
        let registry = known.app.registry();
        let chosen = |name: &str, value: &str| self.value(name).as_deref() == Some(value);
        html! {
            ul.tabs {
                @for (name, view) in [("List", DelegationsView::List), ("Tree", DelegationsView::Tree)] {
                    @let value = if view == DelegationsView::Tree { "tree" } else { "" };
                    @let target = known.url(&self.path_with(&[("view", value)]));
                    li { a href=(target) hx-get=(target) aria-current=[(self.view == view).then_some("page")] { (name) } }
                }
            }
            form.filter method="get" action=(here) hx-get=(here) {
                @if self.view == DelegationsView::Tree { input type="hidden" name="view" value="tree"; }
                label.field { "state"
                    select name="state" data-move="f" {
                        option value="" { "any" }
                        @for name in STATES { option value=(name) selected[chosen("state", name)] { (name) } }
                    }
                }
                label.field { "for" input name="delegator_sub" value=[self.value("delegator_sub")]; }
                label.field { "of issuer"
                    select name="delegator_iss" {
                        option value="" { "any" }
                        @for iss in registry.issuers.keys() { option value=(iss) selected[chosen("delegator_iss", iss)] { (iss) } }
                    }
                }
                label.field { "agent" input name="delegate" list=(proposals::AGENTS) value=[self.value("delegate")]; }
                label.field { "below" input name="parent" value=[self.value("parent")] placeholder="delegation"; }
                label.field { "task" input name="task" value=[self.value("task")]; }
                (windows::choice("requested", self.value("window").as_deref()))
                (windows::between(self.value("from").as_deref(), self.value("to").as_deref()))
                button type="submit" { "Show" }
            }
            (self.active(known))
        }
    }

    /// The active filters, each with a link that removes it, and a link with absolute times.
    fn active(&self, known: &ConsoleRequest<'_>) -> Markup {
        let fixed = windows::fixed(&self.filters(), known.context.now);
        let fixed =
            fixed.map(|times| self.path_with(&times.each_ref().map(|(name, value)| (*name, value.as_str()))));
        html! {
            @if self.is_filtered() {
                p.filters {
                    @for (name, value) in self.filters() {
                        @let without = known.url(&self.path_with(&[(name, "")]));
                        a.button href=(without) hx-get=(without) { (name) ": " bdi { (super::words::visible(value)) } " " span aria-hidden="true" { "✕" } span.visually-hidden { ", remove this filter" } } " "
                    }
                    @if let Some(fixed) = fixed { a href=(known.url(&fixed)) data-link { "Link with these times" } }
                }
            }
        }
    }
}
