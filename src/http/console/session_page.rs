//! `/console/sessions/{id}`: what was done in one piece of work, and why: its trace, oldest first; its files; and the end of its
//! texts.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use time::Duration;

use super::agents::agent_path;
use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, require_same_site, serve};
use super::links::{form_encoded, path_segment, seq_path};
use super::session_words as said;
use super::sessions::session_path;
use super::words;
use crate::domain::audit::Actor;
use crate::domain::audit::last_keys::EarlierKey;
use crate::domain::audit::personal::{People, PersonalState, PersonalView};
use crate::domain::audit::trace::{TraceItem, TraceItemKind};
use crate::domain::console::ConsoleRole;
use crate::domain::finding::{Finding, FindingAction};
use crate::domain::refusal::Refusal;
use crate::domain::step::{StepDecision, StepDetail};
use crate::http::session_file::{self, SessionFile};
use crate::platform::clock;
use crate::services::audit::query::LogPage;
use crate::services::audit::session_export::{SessionExportOptions, SessionFormat};
use crate::services::audit::sessions::{self, SessionDetail, TraceQuery};
use crate::services::session_texts;
use actchain_protocol::csv_export::ByteOrderMark;

/// Characters of an input or output that a page shows.
const MAX_TEXT: usize = 4_000;
/// The texts of a step, and the digests in place of texts.
const TEXTS: [&str; 6] =
    ["reasoning", "input", "output", "reasoning_sha256", "input_sha256", "output_sha256"];
/// The field with the newest event that was shown.
const SHOWN_FIELD: &str = "shown";
/// Deeper actors are indented no further.
const MAX_INDENT: usize = 6;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TracePageQuery {
    cursor: Option<String>,
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let TracePageQuery { cursor } = known.query()?;
        let id = known.segment("id");
        let session = sessions::show(&known.context, &id).await?;
        let later = cursor.is_some();
        let trace = sessions::trace(&known.context, &id, &TraceQuery { limit: None, cursor }).await?;
        let here = known.url(&session_path(&id));
        let body = html! {
            p { a href=(known.url("/console/sessions")) data-back { "Sessions" } }
            h1 { "Session " code { (words::visible(&words::short(&id))) } }
            (head(&known, &session))
            (files(&here))
            h2 { "Trace" }
            (timeline(&known, &trace))
            p.pages {
                @if later { a rel="prev" href=(here) { "First" } }
                @if let Some(next) = &trace.next { a rel="next" href={ (here) "?cursor=" (form_encoded(next)) } { "Later" } }
            }
            @if may_erase(&known) { p.moves { a.button.danger href={ (here) "/erase-texts" } data-move="x" { "Erase the texts…" } } }
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Session", body)))
    })
    .await
}

fn head(known: &ConsoleRequest<'_>, SessionDetail { session, people }: &SessionDetail) -> Markup {
    let now = known.context.now;
    let (first, last) = (clock::instant(&session.first_at), clock::instant(&session.last_at));
    let length = first.zip(last).map(|(first, last)| last - first);
    html! {
        dl {
            dt { "id" } dd { (words::id(&session.id)) }
            dt { "for" } dd { (said::subjects(session, people)) }
            dt { "agents" } dd { (said::agents(known, session)) }
            dt { "events by agent" } dd { @for (place, (id, events)) in session.events_by_client.iter().enumerate() { @if place > 0 { ", " } bdi { (words::visible(id)) } ": " (events) } }
            dt { "first event" } dd { (words::instant(&session.first_at, now)) }
            dt { "last event" } dd { (words::instant(&session.last_at, now)) @if let Some(length) = length { ", after " (words::duration(length)) } }
            dt { "steps" } dd { (session.counts.steps) }
            dt { "exchanges" } dd { (session.counts.exchanges) }
            dt { "credentials used" } dd { (session.counts.retrievals) }
            dt { "refusals" } dd { (said::marked(session.counts.refusals)) }
            dt { "findings" } dd { (said::marked(session.counts.findings)) }
        }
    }
}

fn files(here: &str) -> Markup {
    html! {
        p {
            "As a file: "
            @for (place, format) in SessionFormat::ALL.into_iter().enumerate() {
                @if place > 0 { ", " }
                a href={ (here) "/export?format=" (format.name()) } download data-move=[(place == 0).then_some("e")] { (format.name()) }
            }
        }
    }
}

fn timeline(known: &ConsoleRequest<'_>, trace: &LogPage<TraceItem>) -> Markup {
    html! {
        ol.trace {
            @for item in &trace.items {
                @let indent = item.depth.clamp(1, MAX_INDENT);
                li #{ "seq-" (item.seq) } data-row data-depth=(indent) data-finding[is_marked(item)] {
                    p.when {
                        (words::instant(&item.at, known.context.now))
                        @if let Some(gap) = item.gap_ms { " " span.dim { (gap_text(gap)) } }
                        " " span.dim { "event " (item.seq) }
                    }
                    p { (what(known, item, &trace.beside.people)) }
                    @for finding in &item.findings { (found(finding)) }
                    @if let Some(earlier) = &item.earlier_key { (another_key(known, earlier)) }
                    @if let Some(step) = &item.step { (step_facts(step)) (texts(known, item.seq, trace.beside.personal.get(&item.seq))) }
                }
            }
        }
    }
}

/// Whether a reader who goes from finding to finding stops here.
fn is_marked(item: &TraceItem) -> bool {
    let is_rule_match = item.findings.iter().any(|one| one.action > FindingAction::Record);
    item.reason.is_some() || is_rule_match || item.earlier_key.is_some()
}

/// A key that was not the one before.
fn another_key(known: &ConsoleRequest<'_>, earlier: &EarlierKey) -> Markup {
    html! {
        p.bad {
            span.mark aria-hidden="true" { "✗" } " " code { "key_drift" } " another key than in "
            a href=(known.url(&seq_path(earlier.seq))) { "event " (earlier.seq) }
            " of this chain, which had "
            @match &earlier.jkt { Some(jkt) => (words::id(jkt)), None => "no proof" }
        }
    }
}

/// The time since the item before.
fn gap_text(millis: i64) -> String {
    match Duration::milliseconds(millis) {
        gap if gap.is_negative() => format!("{millis} ms: the clocks of two servers differ"),
        gap if gap < Duration::seconds(2) => format!("+{millis} ms"),
        gap => format!("+{}", words::duration(gap)),
    }
}

fn what(known: &ConsoleRequest<'_>, item: &TraceItem, people: &People) -> Markup {
    let kind = match item.kind {
        TraceItemKind::Exchange => "exchange",
        TraceItemKind::Retrieval => "credential",
        TraceItemKind::Refusal => "refused",
        TraceItemKind::Step => "step",
        TraceItemKind::Event => "event",
    };
    html! {
        @match &item.reason {
            Some(reason) => span.bad { span.mark aria-hidden="true" { "✗" } " " (kind) " " (words::reason(reason)) },
            None => strong { (kind) },
        }
        " by " (actor(known, &item.actor, people)) " " code { (item.action) }
        @if let Some(scope) = &item.scope { " " code.scope { (words::visible(scope)) } }
        @if !item.audience.is_empty() { " at " (words::names(Some(&item.audience), "")) }
        @if let Some(target) = &item.target { " at " code { (words::visible(&words::short(target))) } }
        @if let Some(id) = &item.delegation_id {
            " under "
            @let short = html! { code { (words::visible(&words::short(id))) } };
            // Auditors have no pages of delegations.
            @if known.has_role(ConsoleRole::Auditor) { (short) }
            @else { a href=(known.url(&format!("/console/delegations/{}", path_segment(id)))) { (short) } }
        }
        @if let Some(took) = item.took_us { " " span.dim { "the server took " (took) " µs" } }
    }
}

fn actor(known: &ConsoleRequest<'_>, actor: &Actor, people: &People) -> Markup {
    match actor {
        Actor::User(who) => said::person(who, people),
        Actor::Client { client_id, .. } => {
            html! { a href=(known.url(&agent_path(client_id))) { bdi { (words::visible(client_id)) } } }
        }
        other => html! { bdi { (words::visible(&other.to_string())) } },
    }
}

fn found(Finding { rule, severity, action, target }: &Finding) -> Markup {
    html! {
        @let says = html! { "finding " code { (rule) } ", " (severity) ", in " (target) ": " (action) };
        @if *action == FindingAction::Record { p.dim { (says) } }
        @else { p.bad { span.mark aria-hidden="true" { "✗" } " " (says) } }
    }
}

fn step_facts(step: &StepDetail) -> Markup {
    let plan = step.plan_step.map(|own| match step.plan_total {
        Some(total) => format!("step {own}/{total} of its plan"),
        None => format!("step {own} of its plan"),
    });
    html! {
        p {
            "tool " bdi { code { (words::visible(&step.tool)) } } ", " (words::serialized(&step.outcome))
            @if let Some(took) = step.took_ms { ", took " (took) " ms" }
            @if let Some(plan) = plan { ", " (plan) }
            @if let Some(decision) = step.decision { ", answered " (decided(decision)) }
        }
    }
}

fn decided(decision: StepDecision) -> Markup {
    let name = words::serialized(&decision);
    match decision {
        StepDecision::Allow => html! { span.ok { span.mark aria-hidden="true" { "✓" } " " (name) } },
        StepDecision::Flag | StepDecision::Confirm => {
            html! { span.warn { span.mark aria-hidden="true" { "!" } " " (name) } }
        }
        StepDecision::Block => html! { span.bad { span.mark aria-hidden="true" { "✗" } " " (name) } },
    }
}

/// What the agent says about a step, and whether it has the digest that is in the log.
fn texts(known: &ConsoleRequest<'_>, seq: u64, personal: Option<&PersonalView>) -> Markup {
    let Some(personal) = personal else { return Markup::default() };
    let text = |name: &str| personal.data.get(name).and_then(Value::as_str);
    match personal.state {
        PersonalState::Erased => {
            html! { p.dim { "What was kept beside this event was erased. The log has its digest alone." } }
        }
        PersonalState::DoesNotMatch => {
            html! { p.bad { span.mark aria-hidden="true" { "✗" } " What is kept beside this event differs from the digest in it, and is not shown." } }
        }
        PersonalState::Matches if !TEXTS.iter().any(|name| text(name).is_some()) => {
            html! { p.dim { "No text was sent." } }
        }
        PersonalState::Matches => html! {
            @if let Some(reasoning) = text("reasoning") { (words::quotation(reasoning)) }
            @for name in ["input", "output"] {
                @if let Some(text) = text(name) {
                    details { summary { (name) } pre tabindex="0" { (beginning(text)) } }
                }
            }
            @for name in ["input_sha256", "output_sha256", "reasoning_sha256"] {
                @if let Some(digest) = text(name) { p.dim { (name) ": " code { (words::visible(digest)) } ", the text was not sent" } }
            }
            p.ok {
                span.mark aria-hidden="true" { "✓" } " matches the digest in "
                a href=(known.url(&format!("/console/events/{seq}?tab=forensics"))) { "event " (seq) }
            }
        },
    }
}

fn beginning(text: &str) -> String {
    let cut: String = text.chars().take(MAX_TEXT).collect();
    let more =
        if cut.len() < text.len() { "\n… `actchain session trace ID --json` has the rest" } else { "" };
    format!("{}{more}", words::visible(&cut))
}

fn may_erase(known: &ConsoleRequest<'_>) -> bool {
    !known.has_role(ConsoleRole::Auditor)
}

/// What an erasure ends, before it is done. The form names the newest event that was shown.
pub(super) async fn show_erasure(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        let SessionDetail { session, .. } = sessions::show(&known.context, &id).await?;
        let here = known.url(&session_path(&id));
        let target = format!("{here}/erase-texts");
        let body = html! {
            p { a href=(here) data-back { "Back to the session" } }
            h1 { "Erase the texts" }
            p {
                "Ends for good what is kept beside the " (session.counts.steps) " steps of this session: inputs, outputs, reasoning, the address and the program of the agent. "
                "The events stay, and the log is valid as before. Copies that a sink or an export has already sent are not reached."
            }
            form method="post" action=(target) {
                (known.hidden(&target)?)
                input type="hidden" name=(SHOWN_FIELD) value=(session.last_seq);
                div.moves { button.danger type="submit" data-move="x" { "Erase the texts" } }
            }
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Erase the texts", body)))
    })
    .await
}

pub(super) async fn erase_texts(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        known.require_fresh()?;
        let id = known.segment("id");
        let SessionDetail { session, .. } = sessions::show(&known.context, &id).await?;
        if known.form.get(SHOWN_FIELD) != Some(session.last_seq.to_string().as_str()) {
            let changed = html! { p { "The session has newer events than those that were shown. Nothing was erased." } };
            return Err(PageError::Changed(changed));
        }
        session_texts::erase(&known.context, &id).await?;
        Ok(PageAnswer::See(known.url(&session_path(&id))))
    })
    .await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileQuery {
    format: String,
}

/// The session as a file.
pub(super) async fn export(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let FileQuery { format } = known.query()?;
        let format =
            SessionFormat::parse(&format).ok_or(Refusal::Malformed("format is json, csv or sarif"))?;
        let options = SessionExportOptions { format, mark: ByteOrderMark::Absent };
        let (id, reader) = (known.segment("id"), known.context.caller.key(&known.app.issuer));
        // An export is an event of its reader: no other site causes it.
        require_same_site(known.request)?;
        let file = SessionFile { session_id: &id, reader: &reader, options };
        Ok(PageAnswer::Response(session_file::send(known.app, &known.context, file).await?))
    })
    .await
}
