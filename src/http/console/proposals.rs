//! What the fields of forms propose from the registry. Any other value can be typed.

use maud::{Markup, html};

use super::guard::ConsoleRequest;
use crate::domain::refusal::Error;
use crate::services::agents;

pub(super) const AGENTS: &str = "proposed-agents";
pub(super) const SCOPES: &str = "proposed-scopes";
pub(super) const AUDIENCES: &str = "proposed-audiences";

/// The agents that the caller may see, by id: the first ones alone.
pub(super) async fn agents(known: &ConsoleRequest<'_>) -> Result<Markup, Error> {
    let proposed = agents::proposed(&known.context).await?;
    Ok(list(AGENTS, proposed.iter().map(String::as_str)))
}

/// The declared scopes and audiences.
pub(super) fn access(known: &ConsoleRequest<'_>) -> Markup {
    let registry = known.app.registry();
    let resources = || registry.resources.values();
    let scopes = resources().flat_map(|one| &one.scopes).map(String::as_str);
    let scopes: std::collections::BTreeSet<&str> = scopes.collect();
    html! {
        (list(SCOPES, scopes.into_iter()))
        (list(AUDIENCES, registry.resources.keys().map(String::as_str)))
    }
}

fn list<'a>(id: &str, values: impl Iterator<Item = &'a str>) -> Markup {
    html! { datalist id=(id) { @for value in values { option value=(value) {} } } }
}
