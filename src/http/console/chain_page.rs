//! `/console/chains/{txn}`: one chain. Its tabs are in the URL: tree, keys, claims, events.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::chain_tree::{self, HOPS, ShownHops, TreeHop};
use super::chain_words as said;
use super::chains::{self as chains_page, chain_path};
use super::event_rows;
use super::evidence;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, require_same_site, serve};
use super::links::{form_encoded, seq_path};
use super::sessions::session_path;
use super::words;
use crate::domain::audit::chain::{Hop, HopKind};
use crate::domain::audit::chain_keys::{KeyContinuity, KeyStatement};
use crate::domain::audit::personal::resolved;
use crate::domain::refusal::Refusal;
use crate::http::evidence_file::EvidenceTarget;
use crate::platform::clock;
use crate::services::audit::chains::{self, ChainDetail};
use crate::services::audit::log_names::PersonalContext;
use crate::services::audit::query::LogPage;

/// Members of an event that its token had as claims.
const CLAIMS: [(&str, &str); 8] = [
    ("sub", "/subject/sub"),
    ("aud", "/audience"),
    ("scope", "/scope"),
    ("exp", "/detail/exp"),
    ("dlg", "/delegation_id"),
    ("sid", "/session_id"),
    ("txn", "/txn"),
    ("jti", "/jti"),
];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ChainTab {
    #[default]
    Tree,
    Keys,
    Claims,
    Events,
}

impl ChainTab {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Tree, "tree"), (Self::Keys, "keys"), (Self::Claims, "claims"), (Self::Events, "events")];
}

/// The URL may also have the filters of the list from which a person came.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChainQuery {
    tab: ChainTab,
    /// `seq` of the hop that a search led to.
    hop: Option<u64>,
    /// The page of hops, from 1.
    page: Option<usize>,
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let asked: ChainQuery = known.query()?;
        let txn = known.segment("txn");
        let detail = match chains::show(&known.context, &txn).await {
            Ok(detail) => detail,
            Err(error) => return evidence::absent(&known, &EvidenceTarget::Chain(txn), error).await,
        };
        let hops = chain_tree::in_order(&detail.chain.hops);
        let sought = asked.hop.and_then(|seq| hops.iter().position(|one| one.hop.seq == seq));
        let listed = if asked.tab == ChainTab::Events { detail.items.len() } else { hops.len() };
        let last = listed.div_ceil(HOPS).max(1);
        let page = asked.page.or(sought.map(|place| place / HOPS + 1)).unwrap_or(1).clamp(1, last);
        let shown: Vec<&TreeHop<'_>> = hops.iter().skip((page - 1) * HOPS).take(HOPS).collect();
        let view = ShownHops { hops: &shown, sought: asked.hop };
        let content = match asked.tab {
            ChainTab::Tree => chain_tree::tree(&known, &view),
            ChainTab::Keys => keys(&known, &view),
            ChainTab::Claims => claims(&detail, &view),
            ChainTab::Events => events(&known, &detail, page),
        };
        let (here, list) = (known.url(&chain_path(&txn)), list_of(&known));
        let chain = html! {
            p { a href=(known.url(&with_list("/console/chains", &list))) data-back { "Chains" } }
            h1 { "Chain " code { (words::visible(&words::short(&txn))) } }
            (head(&known, &detail))
            (tabs(&here, &list, asked.tab))
            (content)
            (pages(&here, &list, Pages { tab: asked.tab, page, last }))
        };
        let body = match chains_page::beside(&known, &list, &txn).await? {
            None => chain,
            Some(list) => html! { div.beside { (list) div { (chain) } } },
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Chain", body)))
    })
    .await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn head(known: &ConsoleRequest<'_>, detail: &ChainDetail) -> Markup {
    let (chain, now) = (&detail.chain, known.context.now);
    let here = known.url(&chain_path(&chain.txn));
    let session = text(&chain.session_id);
    html! {
        dl {
            dt { "id" } dd { (words::id(&chain.txn)) }
            dt { "for" } dd { (said::subject(chain, &detail.beside.people)) }
            dt { "keys" } dd { (said::keys(chain.key_continuity)) }
            @if let Some(state) = chain.state { dt { "delegation" } dd { (words::state(state)) ", that of the last hop" } }
            dt { "first event" } dd { (words::instant(text(&chain.first_at), now)) }
            dt { "last event" } dd { (words::instant(text(&chain.last_at), now)) }
            dt { "events" } dd { (chain.events) ", " (chain.hops.len()) " hops, " (chain.retrievals) " credentials, " (chain.refusals) " refusals" }
            @if !session.is_empty() { dt { "session" } dd { a href=(known.url(&session_path(session))) { code { (words::visible(&words::short(session))) } } } }
        }
        @if !chain.complete { p.warn { span.mark aria-hidden="true" { "!" } " The chain has more events than are read here. The log has them all." } }
        (evidence::button(&here))
        p { "As shown here: " a href={ (here) "/export" } download { "json" } ". Evidence has proofs, and says how to verify it." }
    }
}

/// The filters of the list from which a person came: what the URL has besides the members of this page.
fn list_of(known: &ConsoleRequest<'_>) -> String {
    let members = form_urlencoded::parse(known.request.query_string().as_bytes());
    let of_list = members.filter(|(name, _)| !["tab", "hop", "page"].contains(&name.as_ref()));
    form_urlencoded::Serializer::new(String::new()).extend_pairs(of_list).finish()
}

/// A path, which may have a query, with the filters of a list.
fn with_list(path: &str, list: &str) -> String {
    let join = if path.contains('?') { '&' } else { '?' };
    if list.is_empty() { path.to_owned() } else { format!("{path}{join}{list}") }
}

fn tabs(here: &str, list: &str, current: ChainTab) -> Markup {
    html! {
        ul.tabs {
            @for (tab, name) in ChainTab::ALL { li { a href=(with_list(&format!("{here}?tab={name}"), list)) aria-current=[(tab == current).then_some("page")] { (name) } } }
        }
    }
}

/// A page of the hops, and how many there are.
struct Pages {
    tab: ChainTab,
    page: usize,
    last: usize,
}

fn pages(here: &str, list: &str, Pages { tab, page, last }: Pages) -> Markup {
    let name = ChainTab::ALL.iter().find(|(one, _)| *one == tab).map_or("tree", |(_, name)| name);
    let link = |page: usize| with_list(&format!("{here}?tab={name}&page={page}"), list);
    html! {
        @if last > 1 {
            p.pages {
                @if page > 1 { a rel="prev" href=(link(page - 1)) { "Earlier" } }
                span.dim { "page " (page) " of " (last) }
                @if page < last { a rel="next" href=(link(page + 1)) { "Later" } }
            }
        }
    }
}

/// What each source says about the key of each hop.
fn keys(known: &ConsoleRequest<'_>, shown: &ShownHops<'_>) -> Markup {
    html! {
        table.rows {
            thead { tr { th { "keys" } th { "event" } th { "agent" } th { "proved key" } th { "said by" } } }
            tbody {
                @for one in shown.hops {
                    @let hop = one.hop;
                    tr data-row #{ "hop-" (hop.seq) } {
                        td data-label="keys" { (said::keys(hop.key_continuity)) }
                        td data-label="event" { a href=(known.url(&seq_path(hop.seq))) { (hop.seq) } }
                        td data-label="agent" { bdi { (words::visible(text(&hop.client_id))) } }
                        td data-label="proved key" { @match hop.jkt.as_str() { Some(jkt) => (words::id(jkt)), None => span.dim { "–" } } }
                        td data-label="said by" { (statements(known, hop)) }
                    }
                }
            }
        }
    }
}

fn statements(known: &ConsoleRequest<'_>, hop: &Hop) -> Markup {
    let agreeing: Vec<String> = hop
        .key_statements
        .iter()
        .filter(|one| !one.contradicts)
        .map(|one| said::word(one.source.name()))
        .collect();
    html! {
        (agreeing.join(", "))
        @for one in hop.key_statements.iter().filter(|one| one.contradicts) { (contradiction(known, hop.seq, one)) }
        @if hop.key_continuity == KeyContinuity::KeyMismatch {
            p.dim { "A client that may come with any key and made itself a new one has such hops, too." }
        }
    }
}

fn contradiction(known: &ConsoleRequest<'_>, hop: u64, one: &KeyStatement) -> Markup {
    html! {
        p.bad {
            span.mark aria-hidden="true" { "✗" } " "
            (said::word(one.source.name()))
            @if let Some(seq) = one.seq { " in " a href=(known.url(&seq_path(seq))) { "event " (seq) } }
            ": "
            @match &one.jkt {
                Some(jkt) => { (words::id(jkt)) },
                None => "does not have this key",
            }
            " of " bdi { (words::visible(&one.actor)) }
            @if let Some(jkt) = &one.instead {
                ", and the token in " a href=(known.url(&seq_path(hop))) { "event " (hop) } " has " (words::id(jkt))
            }
        }
    }
}

/// What the token of each hop said, as recorded.
fn claims(detail: &ChainDetail, shown: &ShownHops<'_>) -> Markup {
    let of =
        |seq: u64| detail.items.iter().find(|event| event.get("seq").and_then(Value::as_u64) == Some(seq));
    html! {
        @for one in shown.hops.iter().filter(|one| matches!(one.hop.kind, HopKind::Issue | HopKind::Exchange)) {
            @if let Some(event) = of(one.hop.seq) {
                @let event = resolved(event, None, &detail.beside.people);
                details #{ "hop-" (one.hop.seq) } open[shown.sought == Some(one.hop.seq)] {
                    summary { "event " (one.hop.seq) ", " bdi { (words::visible(text(&one.hop.client_id))) } }
                    pre tabindex="0" { (words::visible(&format!("{:#}", recorded_claims(&event)))) }
                }
            }
        }
    }
}

/// The claims of a token by its event; the newest actor is the outermost (RFC 8693 §4.1).
fn recorded_claims(event: &Value) -> Value {
    let mut claims = serde_json::Map::new();
    for (name, at) in CLAIMS {
        if let Some(value) = event.pointer(at).filter(|value| !value.is_null()) {
            claims.insert(name.to_owned(), value.clone());
        }
    }
    let links = event.get("act_chain").and_then(Value::as_array).into_iter().flatten();
    let act = links.fold(None, |inner: Option<Value>, link| {
        let mut act = json!({"sub": link.get("sub"), "iss": link.get("iss")});
        if let Some(object) = act.as_object_mut() {
            object.extend(link.get("jkt").map(|jkt| ("cnf".to_owned(), json!({"jkt": jkt}))));
            object.extend(inner.map(|inner| ("act".to_owned(), inner)));
        }
        Some(act)
    });
    claims.extend(act.map(|act| ("act".to_owned(), act)));
    if let Some(jkt) = event.pointer("/actor/jkt").filter(|jkt| !jkt.is_null()) {
        claims.insert("cnf".to_owned(), json!({"jkt": jkt}));
    }
    Value::Object(claims)
}

/// The events of this page of the chain; the list of events has them all.
fn events(known: &ConsoleRequest<'_>, detail: &ChainDetail, page: usize) -> Markup {
    let items = detail.items.iter().skip((page - 1) * HOPS).take(HOPS).cloned().collect();
    let beside = PersonalContext { people: detail.beside.people.clone(), ..PersonalContext::default() };
    html! {
        (event_rows::table(known, &LogPage { items, beside, ..LogPage::empty() }))
        p { a href={ (known.url("/console/events")) "?txn=" (form_encoded(&detail.chain.txn)) } { "All of them" } }
    }
}

/// The chain as JSON, as the API shows it.
pub(super) async fn export(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        require_same_site(known.request)?;
        let txn = known.segment("txn");
        let detail = chains::show(&known.context, &txn).await?;
        let first = clock::instant(text(&detail.chain.first_at)).ok_or(Refusal::NotFound)?;
        let file = format!("attachment; filename=\"chain-{}-{}.json\"", first.date(), detail.chain.first_seq);
        let response = HttpResponse::Ok()
            .insert_header((CONTENT_DISPOSITION, file))
            .insert_header((CACHE_CONTROL, "no-store"))
            .json(&detail);
        Ok(PageAnswer::Response(response))
    })
    .await
}
