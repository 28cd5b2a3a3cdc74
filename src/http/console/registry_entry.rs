//! `/console/registry/{kind}/{id}`: one entry, by which events it was declared, and as YAML.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde_json::Value;
use time::OffsetDateTime;

use super::agents::agent_path;
use super::event_rows;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::registry::{KINDS, find, members, name_of};
use super::words;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::Order;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock::rfc3339;
use crate::services::apply::{EntryKind, export_entry};
use crate::services::audit::query::{self, AuditQuery};
use crate::services::page::PageRequest;
use crate::services::trusted_issuers::{IssuerFacts, issuer_facts};

/// Events about the entry.
const EVENTS: usize = 5;

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let (kind, id) = (known.segment("kind"), known.segment("id"));
        let kind = KINDS.into_iter().find(|one| *one == kind).ok_or(Refusal::NotFound)?;
        let one = entry(&known, kind, &id).await?;
        let facts = match kind {
            "issuers" => Some(issuer_facts(&known.context, known.app, &id).await?),
            _ => None,
        };
        let events = events(&known, &id).await?;
        let yaml = yaml(&known, kind, &id).await?;
        let body = html! {
            p { a href=(known.url(&format!("/console/registry/{kind}"))) data-back { (kind) } }
            h1 { bdi { (words::visible(&id)) } }
            @if kind == "clients" { p { a href=(known.url(&agent_path(&id))) { "Disable, enable, or give it a new secret" } } }
            (members(&one))
            @if let Some(facts) = &facts { (of_issuer(&known, facts)) }
            h2 { "Declared and changed by" }
            (events)
            @if let Some(yaml) = &yaml {
                h2 { "As YAML" }
                pre tabindex="0" { code { (words::visible(yaml)) } }
            }
        };
        Ok(PageAnswer::Shown(ConsolePage::new(format!("Registry {id}"), body)))
    })
    .await
}

async fn entry(known: &ConsoleRequest<'_>, kind: &str, id: &str) -> Result<Value, Error> {
    let page = PageRequest { cursor: None, limit: Some(if kind == "keys" { 100 } else { 1 }) };
    // The entry itself is the first one that begins with its whole id.
    let found = find(known, kind, Some(id), &page).await?;
    found.items.into_iter().find(|one| name_of(one) == id).ok_or_else(|| Refusal::NotFound.into())
}

async fn events(known: &ConsoleRequest<'_>, id: &str) -> Result<Markup, Error> {
    let filter = Filter { target: Some(id.to_owned()), ..Filter::default() };
    let asked = AuditQuery { filter, order: Order::Newest, limit: Some(EVENTS), ..AuditQuery::default() };
    let found = query::list(&known.context, &asked).await?;
    Ok(html! {
        @if found.items.is_empty() { p { "The database has no event about it." } }
        @else { (event_rows::table(known, &found)) }
        @if found.next.is_some() { p.dim { "The newest " (EVENTS) " events. There are older ones." } }
    })
}

/// The entry of a manifest; keys of the server are not declared.
async fn yaml(known: &ConsoleRequest<'_>, kind: &str, id: &str) -> Result<Option<String>, Error> {
    let kind = match kind {
        "clients" => EntryKind::Client,
        "issuers" => EntryKind::Issuer,
        "resources" => EntryKind::Resource,
        "providers" => EntryKind::Provider,
        _ => return Ok(None),
    };
    match export_entry(&known.context, kind, id).await {
        Ok(exported) => Ok(Some(exported.to_yaml()?)),
        // This server itself is a resource that is not declared.
        Err(Error::Refused(Refusal::NotFound)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn of_issuer(known: &ConsoleRequest<'_>, facts: &IssuerFacts) -> Markup {
    let now = known.context.now;
    let time = |at: OffsetDateTime| words::instant(&rfc3339(at), now);
    html! {
        h2 { "Keys" }
        @match &facts.keys {
            None => p { "Declared here: nothing is fetched." },
            Some(keys) => dl {
                dt { "from" } dd { code { (words::visible(&keys.url)) } }
                dt { "fetched by this server" } dd { @match keys.fetched_at { Some(at) => { (time(at)) ", " (words::count(keys.number, "key")) }, None => "not yet: with the first token" } }
                dt { "next" } dd { @match keys.due_at { Some(at) => { "with the first token after " (time(at)) }, None => "with the first token" } }
                dt { "last failure" } dd { @match &keys.last_failure { Some((at, why)) => { span.bad { span.mark aria-hidden="true" { "✗" } " " (words::visible(why)) } ", " (time(*at)) }, None => "none since this server was started" } }
            },
        }
        h2 { "Sign-in" }
        @if facts.has_sign_in {
            dl {
                dt { "tested" } dd { "its endpoints were read when it was applied; " a href=(known.url("/console/settings")) { "Settings" } " reads them again on request" }
                dt { "last sign-in" } dd { @match facts.last_sign_in { Some(at) => (time(at)), None => "none in 30 days" } }
            }
        } @else { p { "People of this issuer do not sign in here." } }
    }
}
