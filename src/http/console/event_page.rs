//! `/console/events/{id}`: one event, by `seq` or id. Its tabs are in the URL: overview, content, forensics.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, VARY};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::agents::agent_path;
use super::event_rows;
use super::events::chain;
use super::evidence;
use super::frame::{ConsolePage, is_fragment};
use super::guard::{ConsoleRequest, Incoming, PageAnswer, require_same_site, serve};
use super::links::{form_encoded, path_segment, seq_path};
use super::live;
use super::live_parts::AwaitedCheckpoint;
use super::proof_check;
use super::sessions::session_path;
use super::words;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::personal::{PersonalState, PersonalView, resolved};
use crate::domain::audit::search::Order;
use crate::domain::console::ConsoleRole;
use crate::domain::refusal::{Error, Refusal};
use crate::http::evidence_file::EvidenceTarget;
use crate::platform::clock::rfc3339;
use crate::services::audit::query::{self, AuditQuery, EventDetail};
use crate::services::audit::registration::{self, ClientRegistration};
use crate::services::audit::transparency::Inclusion;
use crate::services::delegations;

/// Events of the same request, or of the same session, that the page lists.
const RELATED: usize = 20;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EventTab {
    #[default]
    Overview,
    Content,
    Forensics,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EventQuery {
    tab: EventTab,
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let EventQuery { tab } = known.query()?;
        let name = known.segment("id");
        let detail = match query::examine(&known.context, &name).await {
            Ok(detail) => detail,
            Err(error) => return evidence::absent(&known, &EvidenceTarget::Event(name), error).await,
        };
        let path = format!("/console/events/{}?tab=forensics", path_segment(&name));
        let has_check = tab == EventTab::Forensics && detail.inclusion.is_some();
        if has_check && is_fragment(known.request) {
            // htmx does not run the module of a fragment: the browser loads the whole page.
            let whole = HttpResponse::NoContent()
                .insert_header(("hx-redirect", known.url(&path)))
                .insert_header((CACHE_CONTROL, "no-store"))
                .insert_header((VARY, "HX-Request"))
                .finish();
            return Ok(PageAnswer::Response(whole));
        }
        let event = resolved(&detail.event, None, &detail.beside.people);
        let content = match tab {
            EventTab::Overview => overview(&known, &event).await?,
            EventTab::Content => content(&detail, &event),
            EventTab::Forensics => forensics(&known, &detail).await?,
        };
        let action = text(&event, "/action").to_owned();
        let body = html! {
            p { a href=(known.url("/console/events")) data-back { "Events" } }
            h1 { code { (action) } }
            (evidence::button(&known.url(&format!("/console/events/{}", path_segment(&name)))))
            (tabs(&known, &name, tab))
            (content)
        };
        let mut page = ConsolePage::new(format!("Event {name}"), body);
        if let (EventTab::Forensics, None, Some(seq)) = (tab, &detail.inclusion, seq_of(&detail)) {
            page.feed = live::checkpoint_feed(&path, seq + 1);
        }
        Ok(PageAnswer::Shown(page))
    })
    .await
}

fn seq_of(detail: &EventDetail) -> Option<u64> {
    detail.event.get("seq").and_then(Value::as_u64)
}

fn text<'a>(event: &'a Value, at: &str) -> &'a str {
    event.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

fn tabs(known: &ConsoleRequest<'_>, name: &str, current: EventTab) -> Markup {
    let here = known.url(&format!("/console/events/{}", path_segment(name)));
    let all = [
        (EventTab::Overview, "overview"),
        (EventTab::Content, "content"),
        (EventTab::Forensics, "forensics"),
    ];
    html! {
        ul.tabs {
            @for (tab, name) in all { li { a href={ (here) "?tab=" (name) } aria-current=[(tab == current).then_some("page")] { (name) } } }
        }
    }
}

async fn overview(known: &ConsoleRequest<'_>, event: &Value) -> Result<Markup, Error> {
    let session = text(event, "/session_id");
    let list = |at: &str| {
        let items = event.pointer(at).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let findings = event.get("findings").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(html! {
        dl {
            dt { "time" } dd { (words::instant(text(event, "/at"), known.context.now)) }
            dt { "outcome" } dd { (words::outcome(event)) }
            dt { "who for whom" } dd { (chain(known, event)) }
            @if !text(event, "/scope").is_empty() { dt { "scope" } dd { code.scope { (words::visible(text(event, "/scope"))) } } }
            @let audiences = list("/audience");
            @if !audiences.is_empty() { dt { "audience" } dd { (words::names(Some(&audiences), "")) } }
            @if !text(event, "/target").is_empty() { dt { "target" } dd { (words::id(text(event, "/target"))) } }
            @if !session.is_empty() { dt { "session" } dd { a href=(known.url(&session_path(session))) { code { (words::visible(session)) } } } }
            @if let Some(took) = event.get("took_us").and_then(Value::as_u64) { dt { "latency" } dd { (took) " µs, from the arrival of the request to the writing of the event" } }
            @for one in &findings {
                dt { "finding" } dd { span.bad { span.mark aria-hidden="true" { "✗" } " " code { (text(one, "/rule")) } } ", " (text(one, "/severity")) ", in " (text(one, "/target")) ": " (text(one, "/action")) }
            }
        }
        h2 { "Authorization" }
        (authorization(known, event).await?)
    })
}

/// The delegations of an event with the state that they have now, or that there is none.
async fn authorization(known: &ConsoleRequest<'_>, event: &Value) -> Result<Markup, Error> {
    let path = event.get("delegation_path").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut ids: Vec<String> = path.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if ids.is_empty() {
        ids.extend(Some(text(event, "/delegation_id").to_owned()).filter(|id| !id.is_empty()));
    }
    if ids.is_empty() {
        return direct(known, event).await;
    }
    let mut items = Vec::new();
    for id in ids {
        // Auditors have no pages of delegations, and a delegation may be another user's, or deleted.
        let found = match known.has_role(ConsoleRole::Auditor) {
            true => None,
            false => match delegations::show(&known.context, &id).await {
                Ok(found) => Some(found),
                Err(Error::Refused(_)) => None,
                Err(failed) => return Err(failed),
            },
        };
        items.push((id, found));
    }
    Ok(html! {
        ol {
            @for (id, found) in &items {
                li {
                    @match found {
                        Some(one) => {
                            a href=(known.url(&format!("/console/delegations/{}", path_segment(id)))) { code { (words::visible(&words::short(id))) } }
                            " to " bdi { (words::visible(&one.delegate)) } ", now " (words::state(one.state))
                        }
                        None => code { (words::visible(&words::short(id))) },
                    }
                }
            }
        }
    })
}

/// An event without a delegation: the client acts for itself. The log says who registered it.
async fn direct(known: &ConsoleRequest<'_>, event: &Value) -> Result<Markup, Error> {
    let client = text(event, "/actor/client_id");
    if client.is_empty() {
        return Ok(html! { p { "Direct (no delegation)." } });
    }
    let registration = registration::of_client(&known.context, client).await?;
    Ok(html! {
        p {
            "Direct (no delegation), by " a href=(known.url(&agent_path(client))) { bdi { (words::visible(client)) } }
            @if let Some(ClientRegistration { by, at, seq }) = &registration {
                ", registered by " (words::visible(by)) " at "
                @let time = words::instant(at, known.context.now);
                // Users see the events about themselves alone.
                @if known.has_role(ConsoleRole::User) { (time) } @else { a href=(known.url(&seq_path(*seq))) { (time) } }
            }
            "."
        }
    })
}

fn content(detail: &EventDetail, event: &Value) -> Markup {
    let personal = detail.beside.personal.values().next();
    html! {
        h2 { "Members" }
        p.dim { "Users have their names here. The document of the log has pseudonyms." }
        pre tabindex="0" { (words::visible(&format!("{event:#}"))) }
        h2 { "Beside the log" }
        (beside(personal))
        h2 { "Document" }
        pre tabindex="0" { (words::visible(&detail.document)) }
    }
}

/// What is kept beside the document, and whether the document has its digest.
fn beside(personal: Option<&PersonalView>) -> Markup {
    let Some(personal) = personal else { return html! { p.dim { "Nothing." } } };
    match personal.state {
        PersonalState::Erased => html! { p.dim { "It was erased. The document has its digest alone." } },
        PersonalState::DoesNotMatch => {
            html! { p.bad { span.mark aria-hidden="true" { "✗" } " It differs from the digest in the document, and is not shown." } }
        }
        PersonalState::Matches => html! {
            pre tabindex="0" { (words::visible(&format!("{:#}", Value::Object(personal.data.clone())))) }
            p.ok { span.mark aria-hidden="true" { "✓" } " matches the document" }
        },
    }
}

async fn forensics(known: &ConsoleRequest<'_>, detail: &EventDetail) -> Result<Markup, Error> {
    let seq = seq_of(detail).ok_or(Refusal::NotFound)?;
    let now = rfc3339(known.context.now);
    let request = text(&detail.event, "/request_id");
    let session = text(&detail.event, "/session_id");
    Ok(html! {
        dl {
            dt { "seq" } dd { (seq) }
            dt { "id" } dd { (words::id(text(&detail.event, "/id"))) }
            @if !request.is_empty() { dt { "request" } dd { (words::id(request)) } }
        }
        h2 { "Proof" }
        @match &detail.inclusion {
            None => p id=(AwaitedCheckpoint::PLACE) { "No checkpoint covers the event yet. The next one is made within a minute." },
            Some(inclusion) if inclusion.proves(&detail.document) => {
                p.ok {
                    span.mark aria-hidden="true" { "✓" } " This server verified at " (words::instant(&now, known.context.now))
                    " that the document is event " (seq) " of the " (inclusion.size) " events under the root " code { (inclusion.root) } "."
                }
                (proof_facts(inclusion))
            }
            Some(_) => p.bad {
                span.mark aria-hidden="true" { "✗" } " The log does not prove this document at " (seq) ". Run " code { "actchain audit verify" } "."
            }
        }
        @if detail.inclusion.as_ref().is_some_and(|inclusion| inclusion.checkpoint.is_some()) {
            p {
                "As files: " a href={ (known.url(&seq_path(seq))) "/proof" } download { "the proof" } ", "
                a href={ (known.url(&seq_path(seq))) "/document" } download { "the document" }
                ". Anywhere: " code { "actchain audit verify-receipt --proof event-" (seq) ".tlog-proof --event event-" (seq) ".json --key …" }
            }
        }
        p.dim { "A server cannot vouch for itself: compare the root with a checkpoint that you keep." }
        (proof_check::section(known, detail).await?)
        @if !request.is_empty() {
            h2 { "Of the same request" }
            (related(known, Filter { request_id: Some(request.to_owned()), ..Filter::default() }).await?)
            p { a href={ (known.url("/console/events")) "?request_id=" (form_encoded(request)) } { "All of them" } }
        }
        @if !session.is_empty() {
            h2 { "Of the same session" }
            (related(known, Filter { session: Some(session.to_owned()), ..Filter::default() }).await?)
            p { a href={ (known.url("/console/events")) "?session=" (form_encoded(session)) } { "All of them" } }
        }
    })
}

fn proof_facts(inclusion: &Inclusion) -> Markup {
    html! {
        dl {
            dt { "leaf" } dd { code { (inclusion.leaf) } }
            dt { "size" } dd { (inclusion.size) }
            dt { "root" } dd { code { (inclusion.root) } }
            dt { "path" } dd { @for hash in &inclusion.path { code { (hash) } " " } @if inclusion.path.is_empty() { span.dim { "empty" } } }
        }
        @if let Some(checkpoint) = &inclusion.checkpoint { details { summary { "checkpoint" } pre tabindex="0" { (words::visible(checkpoint)) } } }
    }
}

/// The first events that a filter finds.
async fn related(known: &ConsoleRequest<'_>, filter: Filter) -> Result<Markup, Error> {
    let asked = AuditQuery { filter, order: Order::Oldest, limit: Some(RELATED), ..AuditQuery::default() };
    let found = query::list(&known.context, &asked).await?;
    Ok(event_rows::table(known, &found))
}

/// The proof as a file that `actchain audit verify-receipt --proof` checks without this server.
pub(super) async fn proof(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        require_same_site(known.request)?;
        let detail = query::examine(&known.context, &known.segment("id")).await?;
        let inclusion = detail.inclusion.as_ref().ok_or(Refusal::NotFound)?;
        let text = inclusion.proof_file()?.ok_or(Refusal::NotFound)?;
        Ok(PageAnswer::Response(file(&format!("event-{}.tlog-proof", inclusion.seq), text)))
    })
    .await
}

/// The document as it is stored.
pub(super) async fn document(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        require_same_site(known.request)?;
        let detail = query::examine(&known.context, &known.segment("id")).await?;
        let seq = detail.event.get("seq").and_then(Value::as_u64).ok_or(Refusal::NotFound)?;
        Ok(PageAnswer::Response(file(&format!("event-{seq}.json"), detail.document)))
    })
    .await
}

fn file(name: &str, content: String) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/octet-stream"))
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(content)
}
