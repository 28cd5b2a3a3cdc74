//! `/console/sinks`: where events are sent, how far behind each is, and what could not be delivered.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::{path_segment, seq_path};
use super::words;
use crate::domain::console::ConsoleRole;
use crate::domain::refusal::Error;
use crate::domain::sink::SinkView;
use crate::platform::fault::Fault;
use crate::services::sinks::{self, EnabledState};

const PATH: &str = "/console/sinks";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SinkQuery {
    /// The `seq` after which the page of dead letters begins.
    after: Option<u64>,
}

fn sink_path(id: &str) -> String {
    format!("{PATH}/{}", path_segment(id))
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let found = sinks::list(&known.context).await?;
        let size = sinks::log_size(&known.context).await?;
        let body = html! {
            h1 { "Sinks" }
            @if found.items.is_empty() {
                p { "No sink. One is declared in a manifest, under " code { "sinks" } ", with " code { "actchain apply" } ", or by " code { "actchain sink add" } "." }
            } @else {
                table.rows {
                    thead { tr { th { "sink" } th { "state" } th { "to" } th { "format" } th { "behind" } th { "last error" } th { "dead letters" } } }
                    tbody { @for one in &found.items { (row(&known, one, size)) } }
                }
            }
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Sinks", body)))
    })
    .await
}

fn row(known: &ConsoleRequest<'_>, one: &SinkView, size: u64) -> Markup {
    html! {
        tr data-row {
            td data-label="sink" { a href=(known.url(&sink_path(&one.id))) { bdi { (words::visible(&one.id)) } } }
            td data-label="state" { (state(one)) }
            td data-label="to" { @if let Some(url) = &one.url { code { (words::visible(url)) } } @else { span.dim { "mail" } } }
            td data-label="format" { code { (words::serialized(&one.format)) } }
            td data-label="behind" { (behind(one, size)) }
            td data-label="last error" { @if let Some(error) = &one.last_error { span.bad { span.mark aria-hidden="true" { "✗" } " " (words::visible(error)) } } @else { span.dim { "–" } } }
            td data-label="dead letters" { (one.dead_letters) }
        }
    }
}

fn state(one: &SinkView) -> Markup {
    html! {
        @if one.enabled { span.ok { span.mark aria-hidden="true" { "✓" } " enabled" } }
        @else { span.bad { span.mark aria-hidden="true" { "✗" } " disabled" } @if let Some(why) = &one.disabled_reason { ": " (words::visible(why)) } }
    }
}

/// Events that have not been sent yet.
fn behind(one: &SinkView, size: u64) -> Markup {
    match size.saturating_sub(one.cursor) {
        0 => html! { "nothing" },
        left => html! { (left) " of " (size) " events" },
    }
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let SinkQuery { after } = known.query()?;
        let one = sinks::show(&known.context, &known.segment("id")).await?;
        let size = sinks::log_size(&known.context).await?;
        let body = html! {
            p { a href=(known.url(PATH)) data-back { "Sinks" } }
            h1 { "Sink " bdi { (words::visible(&one.id)) } }
            (facts(&known, &one, size))
            @if !known.has_role(ConsoleRole::Auditor) { (moves(&known, &one)?) }
            (dead_letters(&known, &one, after).await?)
        };
        Ok(PageAnswer::Shown(ConsolePage::new(format!("Sink {}", one.id), body)))
    })
    .await
}

fn facts(known: &ConsoleRequest<'_>, one: &SinkView, size: u64) -> Markup {
    let now = known.context.now;
    html! {
        dl {
            dt { "state" } dd { (state(one)) @if let Some(at) = &one.disabled_at { " since " (words::instant(at, now)) } }
            @if let Some(url) = &one.url { dt { "to" } dd { code { (words::visible(url)) } } }
            dt { "format" } dd { code { (words::serialized(&one.format)) } }
            dt { "events" } dd { (filter_in_words(&one.filter)) @if one.people { ", with names of people" } }
            dt { "next event" } dd { a href=(known.url(&seq_path(one.cursor))) { (one.cursor) } ", behind by " (behind(one, size)) }
            @if let Some(at) = &one.delivered_at { dt { "last delivery" } dd { (words::instant(at, now)) } }
            @if one.attempts > 0 { dt { "attempts" } dd { (one.attempts) " at the next event" @if let Some(at) = &one.next_attempt_at { ", again " (words::instant(at, now)) } } }
            @if let Some(error) = &one.last_error { dt { "last error" } dd { span.bad { span.mark aria-hidden="true" { "✗" } " " (words::visible(error)) } } }
        }
    }
}

/// Which events a sink gets.
fn filter_in_words(filter: &Map<String, Value>) -> Markup {
    html! {
        @if filter.is_empty() { "all" }
        @for (place, (name, value)) in filter.iter().enumerate() {
            @if place > 0 { ", " }
            (name) " " code { (words::visible(value.as_str().unwrap_or_default())) }
        }
    }
}

/// A disabled sink is enabled by a fresh sign-in alone: it sends events elsewhere.
fn moves(known: &ConsoleRequest<'_>, one: &SinkView) -> Result<Markup, Fault> {
    let page = known.url(&sink_path(&one.id));
    let button = |name: &str, label: &str| -> Result<Markup, Fault> {
        let target = format!("{page}/{name}");
        Ok(
            html! { form method="post" action=(target) { (known.hidden(&target)?) button type="submit" { (label) } } },
        )
    };
    Ok(html! {
        div.moves {
            (if one.enabled { button("disable", "Disable")? } else { button("enable", "Enable")? })
            @if one.dead_letters > 0 { (button("replay", "Send the dead letters again")?) }
            a.button.danger href={ (page) "/remove" } data-move="x" { "Remove…" }
        }
    })
}

async fn dead_letters(
    known: &ConsoleRequest<'_>,
    one: &SinkView,
    after: Option<u64>,
) -> Result<Markup, Error> {
    let found = sinks::dead_letters(&known.context, &one.id, after).await?;
    let page = known.url(&sink_path(&one.id));
    Ok(html! {
        h2 { "Dead letters" }
        @if found.items.is_empty() { p.dim { "None." } } @else {
            table.rows {
                thead { tr { th { "event" } th { "attempts" } th { "error" } th { "abandoned" } th { "again" } } }
                tbody {
                    @for letter in &found.items {
                        tr data-row {
                            td data-label="event" { a href=(known.url(&format!("/console/events/{}", letter.seq))) { (letter.seq) } }
                            td data-label="attempts" { (letter.attempts) }
                            td data-label="error" { (words::visible(&letter.error)) }
                            td data-label="abandoned" { (words::instant(&letter.at, known.context.now)) }
                            td data-label="again" { @if letter.replay { "soon" } @else { span.dim { "–" } } }
                        }
                    }
                }
            }
            p.pages {
                @if after.is_some() { a rel="prev" href=(page) { "First" } }
                @if let Some(next) = found.next { a rel="next" href={ (page) "?after=" (next) } { "Later" } }
            }
        }
    })
}

pub(super) async fn enable(incoming: Incoming) -> HttpResponse {
    set(incoming, EnabledState::Enabled).await
}

pub(super) async fn disable(incoming: Incoming) -> HttpResponse {
    set(incoming, EnabledState::Disabled).await
}

async fn set(incoming: Incoming, state: EnabledState) -> HttpResponse {
    serve(incoming, async |known| {
        if state == EnabledState::Enabled {
            known.require_fresh()?;
        }
        let id = known.segment("id");
        sinks::set_enabled(&known.context, &id, state).await?;
        Ok(PageAnswer::See(known.url(&sink_path(&id))))
    })
    .await
}

pub(super) async fn replay(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        sinks::replay(&known.context, &id).await?;
        Ok(PageAnswer::See(known.url(&sink_path(&id))))
    })
    .await
}

/// What ends with a sink, before it is removed.
pub(super) async fn show_removal(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = sinks::show(&known.context, &known.segment("id")).await?;
        let page = known.url(&sink_path(&one.id));
        let target = format!("{page}/remove");
        let body = html! {
            p { a href=(page) data-back { "Back to the sink" } }
            h1 { "Remove " bdi { (words::visible(&one.id)) } }
            p { "Events from " (one.cursor) " on are not sent there. Its " (words::count(one.dead_letters, "dead letter")) " end with it. The log keeps all events." }
            form method="post" action=(target) {
                (known.hidden(&target)?)
                div.moves { button.danger type="submit" data-move="x" { "Remove" } a href=(page) { "Cancel" } }
            }
        };
        Ok(PageAnswer::Shown(ConsolePage::new(format!("Remove {}", one.id), body)))
    })
    .await
}

pub(super) async fn remove(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        sinks::remove(&known.context, &known.segment("id")).await?;
        Ok(PageAnswer::See(known.url(PATH)))
    })
    .await
}
