//! `/console/registry/{kind}`: what was declared, without secrets.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::Duration;

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::words;
use crate::domain::client::store::ClientFilter;
use crate::domain::key::{KeyPurpose, KeyState};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock::{self, rfc3339};
use crate::platform::fault::{Context as _, Fault};
use crate::services::page::{Page, PageRequest};
use crate::services::signing_keys::SigningKeyView;
use crate::services::{clients, registrations, signing_keys, vault};

pub(super) const KINDS: [&str; 5] = ["clients", "keys", "issuers", "resources", "providers"];
const ROWS: u32 = 20;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegistryQuery {
    /// Beginning of the id.
    q: Option<String>,
    cursor: Option<String>,
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: RegistryQuery = known.query()?;
        let kind = known.segment("kind");
        let kind = kind.as_str();
        let content = match kind {
            "keys" => keys(&known).await?,
            kind if KINDS.contains(&kind) => entries(&known, kind, &query).await?,
            _ => return Err(Refusal::NotFound.into()),
        };
        let body = html! {
            h1 { "Registry" }
            (tabs(&known, kind))
            (content)
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Registry", body)))
    })
    .await
}

fn tabs(known: &ConsoleRequest<'_>, current: &str) -> Markup {
    html! {
        ul.tabs {
            @for kind in KINDS { li { a href=(known.url(&format!("/console/registry/{kind}"))) aria-current=[(kind == current).then_some("page")] { (kind) } } }
        }
    }
}

/// The path of the page of an entry.
pub(super) fn entry_path(kind: &str, id: &str) -> String {
    format!("/console/registry/{kind}/{}", form_encoded(id))
}

/// Entries of a kind, with the members that all kinds show as they are declared.
pub(super) async fn find(
    known: &ConsoleRequest<'_>,
    kind: &str,
    prefix: Option<&str>,
    page: &PageRequest,
) -> Result<Page<Value>, Error> {
    let ctx = &known.context;
    match kind {
        "clients" => {
            let filter = ClientFilter { prefix: prefix.map(str::to_owned), ..ClientFilter::default() };
            Ok(values(clients::list(ctx, &filter, page).await?)?)
        }
        "issuers" => registrations::list_issuers(ctx, prefix, page).await,
        "resources" => registrations::list_resources(ctx, prefix, page).await,
        "keys" => Ok(values(signing_keys::list(ctx, None, page).await?)?),
        "providers" => {
            let listed = serde_json::to_value(vault::providers(ctx).await?).context("listing providers")?;
            let items = listed.get("items").and_then(Value::as_array).cloned();
            let mut items = items.ok_or_else(|| Fault::new("a list without items"))?;
            let begins = |one: &Value| prefix.is_none_or(|prefix| name_of(one).starts_with(prefix));
            items.retain(begins);
            Ok(Page { items, next: None })
        }
        _ => Err(Refusal::NotFound.into()),
    }
}

fn values<T: Serialize>(list: Page<T>) -> Result<Page<Value>, Fault> {
    let items: Result<Vec<Value>, _> = list.items.iter().map(serde_json::to_value).collect();
    Ok(Page { items: items.context("listing the registry")?, next: list.next })
}

/// The member that names an entry, whatever its kind.
pub(super) fn name_of(one: &Value) -> &str {
    let names = ["client_id", "iss", "id", "kid"];
    names.iter().find_map(|name| one.get(*name)?.as_str()).unwrap_or_default()
}

async fn entries(known: &ConsoleRequest<'_>, kind: &str, query: &RegistryQuery) -> Result<Markup, Error> {
    let prefix = query.q.as_deref().filter(|prefix| !prefix.is_empty());
    let page = PageRequest { cursor: query.cursor.clone(), limit: Some(ROWS) };
    let found = find(known, kind, prefix, &page).await?;
    let here = known.url(&format!("/console/registry/{kind}"));
    let with = |cursor: &str| {
        format!("{here}?q={}&cursor={}", form_encoded(prefix.unwrap_or_default()), form_encoded(cursor))
    };
    Ok(html! {
        form.filter method="get" action=(here) {
            label.field { "begins with" input name="q" value=[prefix] data-move="f"; }
            button type="submit" { "Show" }
            @if prefix.is_some() { a href=(here) { "Show all" } }
        }
        @if found.items.is_empty() {
            @if prefix.is_some() { p { "Nothing matches. " a href=(here) { "Show all" } } }
            @else { p { "Nothing is declared here. Declare it in a manifest, and apply that: " code { "actchain apply" } "." } }
        } @else { (table(known, kind, &found.items)) }
        p.pages {
            @if query.cursor.is_some() { a rel="prev" href=(here) { "First" } }
            @if let Some(next) = &found.next { a rel="next" href=(with(next)) { "More" } }
        }
    })
}

/// The members in the list of a kind.
fn columns(kind: &str) -> &'static [&'static str] {
    match kind {
        "clients" => &["name", "kind", "auth", "keys", "grant_types"],
        "issuers" => &["audiences", "algorithms", "sign_in"],
        "resources" => &["scopes"],
        _ => &["authorization_endpoint", "token_endpoint", "scopes"],
    }
}

fn table(known: &ConsoleRequest<'_>, kind: &str, items: &[Value]) -> Markup {
    html! {
        table.rows {
            thead { tr { th { "id" } @for name in columns(kind) { th { (name) } } @if kind == "clients" { th { "state" } } } }
            tbody {
                @for one in items {
                    tr data-row {
                        td data-label="id" { a href=(known.url(&entry_path(kind, name_of(one)))) { bdi { (words::visible(name_of(one))) } } }
                        @for name in columns(kind) { td data-label=(name) { (cell(name, one.get(*name))) } }
                        @if kind == "clients" { td data-label="state" { (client_state(one)) } }
                    }
                }
            }
        }
    }
}

/// A member in a list: of keys the number, of an object whether it is there.
fn cell(name: &str, value: Option<&Value>) -> Markup {
    html! {
        @match value {
            None | Some(Value::Null) => span.dim { "–" },
            Some(Value::Array(list)) if name == "keys" => (list.len()),
            Some(Value::Object(_)) => "yes",
            Some(value) => (shown(value)),
        }
    }
}

fn client_state(one: &Value) -> Markup {
    let has = |name: &str| one.get(name).is_some_and(|value| !value.is_null());
    html! {
        @if has("deactivated_at") { span.dim { span.mark aria-hidden="true" { "–" } " deactivated" } }
        @else if has("disabled_at") { span.bad { span.mark aria-hidden="true" { "✗" } " disabled" } }
        @else { span.ok { span.mark aria-hidden="true" { "✓" } " enabled" } }
    }
}

pub(super) fn shown(value: &Value) -> Markup {
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

/// The members of an entry that have a value.
pub(super) fn members(one: &Value) -> Markup {
    let empty = Map::new();
    let members = one.as_object().unwrap_or(&empty);
    html! {
        dl {
            @for (member, value) in members.iter().filter(|(_, value)| !is_empty(value)) {
                dt { (member) }
                dd { (shown(value)) }
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

async fn keys(known: &ConsoleRequest<'_>) -> Result<Markup, Error> {
    let page = PageRequest { cursor: None, limit: Some(100) };
    let found = signing_keys::list(&known.context, None, &page).await?;
    let now = known.context.now;
    let time = |at: Option<&String>| html! { @match at { Some(at) => (words::instant(at, now)), None => span.dim { "–" } } };
    Ok(html! {
        p { "Keys of this server. The next one is published before it signs, so that relying parties know it. A command changes them: " code { "actchain key rotate" } "." }
        table.rows {
            thead { tr { th { "kid" } th { "signs" } th { "alg" } th { "stage" } th { "signs since" } th { "leaves" } } }
            tbody {
                @for key in &found.items {
                    tr data-row {
                        td data-label="kid" { a href=(known.url(&entry_path("keys", &key.kid))) { (words::short(&key.kid)) } }
                        td data-label="signs" { (if key.purpose == KeyPurpose::Token { "tokens" } else { "checkpoints of the log" }) }
                        td data-label="alg" { code { (key.alg) } }
                        td data-label="stage" { (words::serialized(&key.stage)) }
                        td data-label="signs since" { (time(key.activated_at.as_ref())) }
                        td data-label="leaves" { (leaves(known, key)) }
                    }
                }
            }
        }
    })
}

/// When a key stops signing, or is published no longer.
fn leaves(known: &ConsoleRequest<'_>, key: &SigningKeyView) -> Markup {
    let config = &known.app.config;
    let after = |at: Option<&String>, seconds: u32| {
        let at = clock::instant(at?)? + Duration::seconds(seconds.into());
        Some(words::instant(&rfc3339(at), known.context.now))
    };
    let (what, at) = match (key.purpose, key.stage) {
        (KeyPurpose::Checkpoint, _) => ("never: it verifies checkpoints that are kept", None),
        (_, KeyState::Active) => {
            ("signs until about ", after(key.activated_at.as_ref(), config.keys.rotate_every))
        }
        (_, KeyState::Retiring) => {
            ("published until about ", after(key.retired_at.as_ref(), config.tokens.max_ttl))
        }
        (_, KeyState::Next | KeyState::Removed) => ("–", None),
    };
    html! { (what) @if let Some(at) = at { (at) } }
}
