//! `/console/connections`: accounts at third parties that the vault keeps.

use std::collections::HashMap;

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;

use super::connect::{again_url, finish_url, may_connect_again, new_url};
use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::{live, who, words};
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::delegation::view::View;
use crate::domain::pending_authorization::store::OpenAuthorization;
use crate::domain::provider::ProviderKind;
use crate::domain::vault::ConnectionState;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::delegations;
use crate::services::page::{Page, PageRequest};
use crate::services::vault::{
    self, ConnectableProvider, ConnectionQuery, ConnectionUse, ConnectionView, ProviderNotice, RecentUses,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConnectionsQuery {
    provider: Option<String>,
    state: Option<ConnectionState>,
    cursor: Option<String>,
}

struct Connections {
    query: ConnectionsQuery,
    found: Page<ConnectionView>,
    last: HashMap<String, ConnectionUse>,
    providers: Vec<ConnectableProvider>,
    under_way: Vec<OpenAuthorization>,
}

impl Connections {
    /// How accounts are connected at a provider, if they are.
    fn kind(&self, provider: &str) -> Option<ProviderKind> {
        self.providers.iter().find(|one| one.id == provider).map(|one| one.kind)
    }
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: ConnectionsQuery = known.query()?;
        let page = PageRequest { cursor: query.cursor.clone(), limit: Some(20) };
        let wanted =
            ConnectionQuery { provider: query.provider.clone(), state: query.state, page, owner: None };
        let found = vault::list(&known.context, &wanted).await?;
        let ids: Vec<String> = found.items.iter().map(|one| one.id.clone()).collect();
        let last = vault::last_uses(&known.context, &ids).await?;
        let providers = vault::connectable(&known.context).await?;
        let under_way = vault::open_authorizations(&known.context).await?;
        let all = Connections { query, found, last, providers, under_way };
        let feed = live::connections_feed(ids.iter().map(String::as_str));
        Ok(PageAnswer::Shown(ConsolePage {
            feed,
            ..ConsolePage::new("Connections", list_body(&known, &all))
        }))
    })
    .await
}

fn list_body(known: &ConsoleRequest<'_>, all: &Connections) -> Markup {
    let now = known.context.now;
    let here = known.url("/console/connections");
    let found = &all.found;
    let administers = known.context.caller.administers();
    html! {
        h1 { "Connections" }
        @if !all.providers.is_empty() {
            p.moves {
                @for (place, one) in all.providers.iter().enumerate() {
                    @if place > 0 { " " }
                    a href=(new_url(known, &one.id)) data-move=[(place == 0).then_some("c")] { "Connect " bdi { (words::visible(&one.name)) } }
                }
            }
        }
        @for one in &all.under_way {
            p.note {
                bdi { (one.provider) } " is not connected yet: "
                a href=(finish_url(known, &one.connection)) { "finish it" } " until " (words::instant(&rfc3339(one.expires_at), now)) "."
            }
        }
        (filters(known, &all.query))
        @if found.items.is_empty() {
            p { @if filtered(&all.query) { "No connection fits these filters." } @else { "No account is connected." } }
        } @else {
            table.rows {
                thead { tr {
                    th { "provider" } th { "name" } @if administers { th { "owner" } } th { "state" } th { "scopes" } th { "expires" } th { "last used" } th { "connected" }
                } }
                tbody { @for one in &found.items { (row(known, one, all)) } }
            }
        }
        @if let Some(next) = &found.next { p.pages { a rel="next" href={ (here) "?" (query_text(&all.query)) "cursor=" (form_encoded(next)) } { "More" } } }
    }
}

fn row(known: &ConsoleRequest<'_>, one: &ConnectionView, all: &Connections) -> Markup {
    let now = known.context.now;
    let kind = all.kind(&one.provider).filter(|kind| may_connect_again(known, one, *kind));
    html! {
        tr data-row {
            td data-label="provider" { a href=(known.url(&format!("/console/connections/{}", one.id))) { bdi { (one.provider) } } }
            td data-label="name" { bdi { (words::visible(one.name.as_deref().unwrap_or_default())) } }
            @if known.context.caller.administers() { td data-label="owner" { (who::link(known, &one.owner)) } }
            td data-label="state" {
                span data-state-of=(one.id) { (words::connection_state(one.state)) }
                @if one.state == ConnectionState::NeedsReconnect && kind.is_some() { " " a href=(again_url(known, one)) { "Connect again" } }
            }
            td data-label="scopes" { (words::names(one.scopes.as_ref().map(|scopes| scopes.iter().cloned().collect()).as_ref(), "not said")) }
            td data-label="expires" { @if let Some(at) = &one.expires_at { (words::instant(at, now)) } @else { span.dim { "not said" } } @if one.has_refresh_token { span.dim { " renews itself" } } }
            td data-label="last used" { (last_use(known, all.last.get(&one.id))) }
            td data-label="connected" { (words::instant(&one.created_at, now)) }
        }
    }
}

fn last_use(known: &ConsoleRequest<'_>, last: Option<&ConnectionUse>) -> Markup {
    html! {
        @match last {
            Some(last) => { (agent(known, &last.agent)) " " (words::instant(&last.at, known.context.now)) },
            None => span.dim { "never" },
        }
    }
}

fn agent(known: &ConsoleRequest<'_>, id: &str) -> Markup {
    html! { a href=(known.url(&format!("/console/agents/{}", form_encoded(id)))) { bdi { (id) } } }
}

fn filtered(query: &ConnectionsQuery) -> bool {
    query.provider.is_some() || query.state.is_some()
}

fn query_text(query: &ConnectionsQuery) -> String {
    let mut text = String::new();
    if let Some(provider) = &query.provider {
        text.push_str(&format!("provider={}&", form_encoded(provider)));
    }
    if let Some(state) = query.state {
        text.push_str(&format!("state={}&", state.name()));
    }
    text
}

/// The active filters, each as the link that removes it.
fn filters(known: &ConsoleRequest<'_>, query: &ConnectionsQuery) -> Markup {
    let here = known.url("/console/connections");
    let without_provider = ConnectionsQuery { state: query.state, ..ConnectionsQuery::default() };
    let without_state = ConnectionsQuery { provider: query.provider.clone(), ..ConnectionsQuery::default() };
    html! {
        @if filtered(query) {
            p.filters {
                @if let Some(provider) = &query.provider { a href={ (here) "?" (query_text(&without_provider)) } { "provider: " bdi { (words::visible(provider)) } " ✕" } " " }
                @if let Some(state) = query.state { a href={ (here) "?" (query_text(&without_state)) } { "state: " (state.name()) " ✕" } }
            }
        } @else {
            p.filters { a href={ (here) "?state=needs_reconnect" } { "Only those to be connected again" } }
        }
    }
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = vault::show(&known.context, &known.segment("id")).await?;
        let uses = vault::recent_uses(&known.context, &one.id).await?;
        let providers = vault::connectable(&known.context).await?;
        let kind = providers.iter().find(|other| other.id == one.provider).map(|other| other.kind);
        let notice = match one.state {
            ConnectionState::Disconnected => Some(vault::provider_notice(&known.context, &one.id).await?),
            ConnectionState::Active | ConnectionState::NeedsReconnect => None,
        };
        let again = kind.filter(|kind| may_connect_again(&known, &one, *kind));
        let body = html! {
            (summary(&known, &one))
            @if let Some(notice) = notice { p { (notice_text(notice)) } }
            (users(&known, &uses))
            @match (one.state, again) {
                (ConnectionState::Disconnected, Some(_)) => p { a href=(new_url(&known, &one.provider)) data-move="c" { "Connect another account" } },
                (ConnectionState::Disconnected, None) => {},
                (_, again) => p.moves {
                    @if again.is_some() { a href=(again_url(&known, &one)) data-move="c" { "Connect again" } " " }
                    a href=(known.url(&format!("/console/connections/{}/disconnect", one.id))) data-move="x" { "Disconnect…" }
                },
            }
        };
        let feed = live::connections_feed(std::iter::once(one.id.as_str()));
        let page = ConsolePage::new(format!("Connection to {}", one.provider), body);
        Ok(PageAnswer::Shown(ConsolePage { feed, ..page }))
    })
    .await
}

fn summary(known: &ConsoleRequest<'_>, one: &ConnectionView) -> Markup {
    let now = known.context.now;
    html! {
        p { a href=(known.url("/console/connections")) data-back { "Connections" } }
        h1 { "Connection to " bdi { (one.provider) } }
        p { span data-state-of=(one.id) { (words::connection_state(one.state)) } }
        dl {
            dt { "connection" } dd { (words::id(&one.id)) }
            dt { "owner" } dd { (who::link(known, &one.owner)) }
            @if let Some(name) = &one.name { dt { "name" } dd { bdi { (words::visible(name)) } } }
            dt { "scopes" } dd { (words::names(one.scopes.as_ref().map(|scopes| scopes.iter().cloned().collect()).as_ref(), "not said")) }
            @if let Some(at) = &one.expires_at { dt { "expires" } dd { (words::instant(at, now)) @if one.has_refresh_token { " and renews itself" } } }
            dt { "connected" } dd { (words::instant(&one.created_at, now)) }
            @if let Some(at) = &one.refreshed_at { dt { "renewed" } dd { (words::instant(at, now)) } }
            @if let Some(at) = &one.disconnected_at { dt { "disconnected" } dd { (words::instant(at, now)) } }
        }
    }
}

/// Whether the provider knows of the end.
fn notice_text(notice: ProviderNotice) -> &'static str {
    match notice {
        ProviderNotice::Revoked => "The provider was informed, and has revoked the tokens.",
        ProviderNotice::Impossible => {
            "The provider has no way to revoke this credential. Revoke it in your account there."
        }
        ProviderNotice::Failed => {
            "The provider did not confirm within a day that it revoked the tokens. Revoke them in your account there."
        }
        ProviderNotice::Pending => {
            "The provider has not confirmed yet that it revoked the tokens. This server tries again for a day."
        }
    }
}

fn users(known: &ConsoleRequest<'_>, uses: &RecentUses) -> Markup {
    html! {
        h2 { "Used in the last 30 days" }
        @if uses.at_least { p.note { "Only the newest uses were read: other agents may have used it, too." } }
        @if uses.agents.is_empty() { @if !uses.at_least { p.dim { "No agent used it." } } }
        @else {
            ul {
                @for (name, one) in &uses.agents {
                    li { (agent(known, name)) " · " @if uses.at_least { "at least " } (one.count) " ×, last " (words::instant(&one.last_at, known.context.now)) }
                }
            }
        }
    }
}

/// The page before a connection is disconnected: who used it, and which delegations name it.
pub(super) async fn disconnect_page(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = vault::show(&known.context, &known.segment("id")).await?;
        if one.state == ConnectionState::Disconnected {
            return Ok(PageAnswer::See(known.url(&format!("/console/connections/{}", one.id))));
        }
        let uses = vault::recent_uses(&known.context, &one.id).await?;
        let filter = DelegationFilter { connection: Some(one.id.clone()), ..DelegationFilter::default() };
        let page = PageRequest { cursor: None, limit: Some(20) };
        let naming = delegations::list(&known.context, &filter, &page).await?;
        let body = disconnect_body(&known, &one, &uses, &naming)?;
        Ok(PageAnswer::Shown(ConsolePage::new(format!("Disconnect {}", one.provider), body)))
    })
    .await
}

fn disconnect_body(
    known: &ConsoleRequest<'_>,
    one: &ConnectionView,
    uses: &RecentUses,
    naming: &Page<View>,
) -> Result<Markup, Fault> {
    let target = known.url(&format!("/console/connections/{}/disconnect", one.id));
    Ok(html! {
        p { a href=(known.url(&format!("/console/connections/{}", one.id))) data-back { "The connection" } }
        h1 { "Disconnect " bdi { (one.provider) } "?" }
        p { "From then on no agent gets this credential, and it is revoked at the provider where the provider can do that." }
        (users(known, uses))
        h2 { "Delegations that name it" }
        @if naming.items.is_empty() { p.dim { "No delegation names it." } }
        @else {
            ul {
                @for delegation in &naming.items {
                    li { a href=(known.url(&format!("/console/delegations/{}", delegation.id))) { (words::short(&delegation.id)) } " · " (words::state(delegation.state)) " · " bdi { (delegation.delegate) } " for " (who::link(known, &delegation.delegator)) }
                }
            }
            @if naming.next.is_some() { p.dim { "There are more." } }
            p { "They stay, and no longer lead to this account." }
        }
        form method="post" action=(target) {
            (known.hidden(&target)?)
            label.field { "Why (optional, for the log)" input name="reason" maxlength="500" size="40"; }
            div.moves { button.danger type="submit" data-move="x" autofocus { "Disconnect" } }
        }
    })
}

pub(super) async fn disconnect(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        vault::disconnect(&known.context, &known.app.vault, &id, known.form.get("reason")).await?;
        Ok::<_, PageError>(PageAnswer::See(known.url(&format!("/console/connections/{id}"))))
    })
    .await
}
