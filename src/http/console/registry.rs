//! `/console/registry/{kind}`: what was declared, without secrets.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::words;
use crate::domain::client::store::ClientFilter;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::{Context as _, Fault};
use crate::services::page::{Page, PageRequest};
use crate::services::{clients, registrations, signing_keys, vault};

const KINDS: [&str; 5] = ["clients", "issuers", "resources", "keys", "providers"];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegistryQuery {
    prefix: Option<String>,
    cursor: Option<String>,
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: RegistryQuery = known.query()?;
        let kind = known.segment("kind");
        let kind = kind.as_str();
        let found = find(&known, kind, &query).await?;
        Ok(PageAnswer::Shown(ConsolePage::new("Registry", body(&known, kind, &query, &found))))
    })
    .await
}

async fn find(known: &ConsoleRequest<'_>, kind: &str, query: &RegistryQuery) -> Result<Page<Value>, Error> {
    let ctx = &known.context;
    let prefix = query.prefix.as_deref().filter(|prefix| !prefix.is_empty());
    let page = PageRequest { cursor: query.cursor.clone(), limit: Some(20) };
    match kind {
        "clients" => {
            let filter = ClientFilter { prefix: prefix.map(str::to_owned), ..ClientFilter::default() };
            Ok(values(clients::list(ctx, &filter, &page).await?)?)
        }
        "issuers" => registrations::list_issuers(ctx, prefix, &page).await,
        "resources" => registrations::list_resources(ctx, prefix, &page).await,
        "keys" => Ok(values(signing_keys::list(ctx, None, &page).await?)?),
        "providers" => {
            let listed = serde_json::to_value(vault::providers(ctx).await?).context("listing providers")?;
            let items = listed.get("items").and_then(Value::as_array).cloned();
            Ok(Page { items: items.ok_or_else(|| Fault::new("a list without items"))?, next: None })
        }
        _ => Err(Refusal::NotFound.into()),
    }
}

fn values<T: Serialize>(list: Page<T>) -> Result<Page<Value>, Fault> {
    let items: Result<Vec<Value>, _> = list.items.iter().map(serde_json::to_value).collect();
    Ok(Page { items: items.context("listing the registry")?, next: list.next })
}

fn body(known: &ConsoleRequest<'_>, kind: &str, query: &RegistryQuery, found: &Page<Value>) -> Markup {
    let here = known.url(&format!("/console/registry/{kind}"));
    let prefix = query.prefix.as_deref().unwrap_or_default();
    html! {
        h1 { "Registry" }
        ul.tabs {
            @for one in KINDS { li { a href=(known.url(&format!("/console/registry/{one}"))) aria-current=[(one == kind).then_some("page")] { (one) } } }
        }
        @if ["clients", "issuers", "resources"].contains(&kind) {
            form.filter method="get" action=(here) {
                label.field { "begins with" input name="prefix" value=(prefix) data-move="f"; }
                button type="submit" { "Show" }
                @if !prefix.is_empty() { a href=(here) { "Show all" } }
            }
        }
        @if found.items.is_empty() { p { "Nothing is declared here." } }
        @for one in &found.items { (entry(known, kind, one)) }
        @if let Some(next) = &found.next {
            p.pages { a rel="next" href={ (here) "?prefix=" (form_encoded(prefix)) "&cursor=" (form_encoded(next)) } { "More" } }
        }
    }
}

fn entry(known: &ConsoleRequest<'_>, kind: &str, one: &Value) -> Markup {
    let empty = Map::new();
    let members = one.as_object().unwrap_or(&empty);
    let name = ["client_id", "iss", "id", "kid"]
        .iter()
        .find_map(|name| members.get(*name)?.as_str())
        .unwrap_or_default();
    html! {
        details data-row {
            summary { bdi { (name) } }
            @if kind == "clients" && members.get("kind").and_then(Value::as_str) == Some("agent") {
                p { a href=(known.url(&format!("/console/agents/{}", form_encoded(name)))) { "See the agent" } }
            }
            dl {
                @for (member, value) in members.iter().filter(|(_, value)| !is_empty(value)) {
                    dt { (member) }
                    dd { (shown(value)) }
                }
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

fn shown(value: &Value) -> Markup {
    html! {
        @match value {
            Value::String(text) => code { (words::visible(text)) },
            Value::Array(list) if list.iter().all(Value::is_string) => {
                @for (place, one) in list.iter().filter_map(Value::as_str).enumerate() { @if place > 0 { ", " } code { (words::visible(one)) } }
            }
            other => code { (words::visible(&other.to_string())) },
        }
    }
}
