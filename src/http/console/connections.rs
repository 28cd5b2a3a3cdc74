//! `/console/connections`: accounts at third parties that the vault keeps.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::words;
use crate::domain::vault::ConnectionState;
use crate::platform::fault::Fault;
use crate::services::page::{Page, PageRequest};
use crate::services::vault::{self, ConnectionQuery, ConnectionView};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConnectionsQuery {
    cursor: Option<String>,
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let ConnectionsQuery { cursor } = known.query()?;
        let page = PageRequest { cursor, limit: Some(20) };
        let found =
            vault::list(&known.context, &ConnectionQuery { page, ..ConnectionQuery::default() }).await?;
        Ok(PageAnswer::Shown(ConsolePage::new("Connections", list_body(&known, &found))))
    })
    .await
}

fn list_body(known: &ConsoleRequest<'_>, found: &Page<ConnectionView>) -> Markup {
    let now = known.context.now;
    let here = known.url("/console/connections");
    html! {
        h1 { "Connections" }
        @if found.items.is_empty() { p { "No account is connected." } }
        @else {
            table.rows {
                thead { tr { th { "provider" } th { "name" } th { "owner" } th { "state" } th { "scopes" } th { "expires" } th { "connected" } } }
                tbody {
                    @for one in &found.items {
                        tr data-row {
                            td data-label="provider" { a href=(known.url(&format!("/console/connections/{}", one.id))) { bdi { (one.provider) } } }
                            td data-label="name" { bdi { (words::visible(one.name.as_deref().unwrap_or_default())) } }
                            td data-label="owner" { (words::principal(&one.owner)) }
                            td data-label="state" { (state(one.state)) }
                            td data-label="scopes" { (words::names(one.scopes.as_ref().map(|scopes| scopes.iter().cloned().collect()).as_ref(), "not said")) }
                            td data-label="expires" { @if let Some(at) = &one.expires_at { (words::instant(at, now)) } @if one.has_refresh_token { span.dim { " renews itself" } } }
                            td data-label="connected" { (words::instant(&one.created_at, now)) }
                        }
                    }
                }
            }
        }
        @if let Some(next) = &found.next { p.pages { a rel="next" href={ (here) "?cursor=" (form_encoded(next)) } { "More" } } }
    }
}

fn state(state: ConnectionState) -> Markup {
    let (class, mark, name) = match state {
        ConnectionState::Active => ("ok", "✓", "active"),
        ConnectionState::NeedsReconnect => ("warn", "!", "needs to be connected again"),
        ConnectionState::Disconnected => ("dim", "–", "disconnected"),
    };
    html! { span class=(class) { span.mark aria-hidden="true" { (mark) } " " (name) } }
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = vault::show(&known.context, &known.segment("id")).await?;
        Ok(PageAnswer::Shown(ConsolePage::new(
            format!("Connection to {}", one.provider),
            item_body(&known, &one)?,
        )))
    })
    .await
}

fn item_body(known: &ConsoleRequest<'_>, one: &ConnectionView) -> Result<Markup, Fault> {
    let now = known.context.now;
    let target = known.url(&format!("/console/connections/{}/disconnect", one.id));
    Ok(html! {
        p { a href=(known.url("/console/connections")) data-back { "Connections" } }
        h1 { "Connection to " bdi { (one.provider) } }
        p { (state(one.state)) }
        dl {
            dt { "connection" } dd { (words::id(&one.id)) }
            dt { "owner" } dd { (words::principal(&one.owner)) }
            @if let Some(name) = &one.name { dt { "name" } dd { bdi { (words::visible(name)) } } }
            dt { "connected" } dd { (words::instant(&one.created_at, now)) }
            @if let Some(at) = &one.refreshed_at { dt { "renewed" } dd { (words::instant(at, now)) } }
            @if let Some(at) = &one.disconnected_at { dt { "disconnected" } dd { (words::instant(at, now)) } }
        }
        @if one.state != ConnectionState::Disconnected {
            form method="post" action=(target) {
                (known.hidden(&target)?)
                p { "From then on no agent gets this credential, and it is revoked at the provider where the provider can do that." }
                label.field { "Why (optional, for the log)" input name="reason" maxlength="500" size="40"; }
                div.moves { button.danger type="submit" data-move="x" { "Disconnect" } }
            }
        }
    })
}

pub(super) async fn disconnect(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        vault::disconnect(&known.context, &known.app.vault, &id, known.form.get("reason")).await?;
        Ok(PageAnswer::See(known.url(&format!("/console/connections/{id}"))))
    })
    .await
}
