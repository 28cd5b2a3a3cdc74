//! `/console/approvals`: what waits for a decision, and what was decided. Several can be denied at once; each approval has
//! a page of its own.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::matter::{agent_of, asked_at, decided_by, kind_name, narrowed, page_of, used};
use super::proposals;
use super::{live, who, words};
use crate::domain::decision::{MatterFilter, MatterKind};
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock;
use crate::platform::fault::Fault;
use crate::services::delegations::ceremonies::{self, CeremonyId, ConfirmationDecision};
use crate::services::delegations::{self, DecidedView, MatterScope, WaitingView};
use crate::services::page::{Page, PageRequest};
use crate::services::request_context::RequestContext;
use actchain_protocol::base64url;
use actchain_protocol::digest::sha256;

const ROWS: u32 = 20;
/// The prefix of the fields that choose what is denied.
const DENY_FIELD: &str = "deny:";
/// Characters of an idempotency key that are kept beside a place in the list.
const MOST_KEY: usize = 60;

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ApprovalsQuery {
    tab: Option<ApprovalsTab>,
    kind: Option<String>,
    delegate: Option<String>,
    delegator_sub: Option<String>,
    since: Option<String>,
    cursor: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
enum ApprovalsTab {
    /// What the person decides for itself.
    Waiting,
    /// What waits for any delegator, for administrators.
    All,
    Decided,
}

const KINDS: [MatterKind; 4] =
    [MatterKind::Request, MatterKind::KeyRotation, MatterKind::Review, MatterKind::Use];

impl ApprovalsQuery {
    /// A field of a form that was left empty does not restrict.
    fn filter(&self) -> Result<MatterFilter, Refusal> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let kind = set(&self.kind).map(|name| name.parse::<MatterKind>()).transpose();
        let since = match set(&self.since) {
            None => None,
            Some(text) => {
                let malformed = Refusal::Malformed("since is RFC 3339, or a date such as 2026-01-31");
                Some(clock::instant(&text).ok_or(malformed)?)
            }
        };
        Ok(MatterFilter {
            delegator: None,
            delegator_sub: set(&self.delegator_sub),
            kind: kind.map_err(|_| Refusal::Malformed("There is no such kind"))?,
            delegate: set(&self.delegate),
            since,
        })
    }

    /// The filters that are set, by name.
    fn filters(&self) -> Vec<(&'static str, &str)> {
        let members = [
            ("kind", &self.kind),
            ("delegate", &self.delegate),
            ("delegator_sub", &self.delegator_sub),
            ("since", &self.since),
        ];
        let set = members.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        set.filter(|(_, value)| !value.is_empty()).collect()
    }

    /// The query of the view: without one of its filters, and with another cursor.
    fn text(&self, tab: ApprovalsTab, without: Option<&str>, cursor: Option<&str>) -> String {
        let filters = self.filters().into_iter().filter(|(name, _)| Some(*name) != without);
        let all =
            std::iter::once(("tab", tab.into())).chain(filters).chain(cursor.map(|text| ("cursor", text)));
        all.map(|(name, value)| format!("{name}={}", form_encoded(value))).collect::<Vec<_>>().join("&")
    }
}

/// Whether a person of this session has decisions of its own: an operator has none.
fn decides_for_itself(known: &ConsoleRequest<'_>) -> bool {
    known.session.who.is_some()
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: ApprovalsQuery = known.query()?;
        let first = if decides_for_itself(&known) { ApprovalsTab::Waiting } else { ApprovalsTab::All };
        let tab = query.tab.unwrap_or(first);
        let page = PageRequest { cursor: query.cursor.clone(), limit: Some(ROWS) };
        let filter = query.filter()?;
        let all = match known.context.caller.administers() {
            true => MatterScope::AllDelegators,
            false => MatterScope::Own,
        };
        let mut ends = Vec::new();
        let (rows, next) = match tab {
            ApprovalsTab::Decided => {
                let Page { items, next } = delegations::decided(&known.context, all, &filter, &page).await?;
                (decided_rows(&known, &items), next)
            }
            ApprovalsTab::Waiting | ApprovalsTab::All => {
                let own = tab == ApprovalsTab::Waiting;
                let scope = if own { MatterScope::Own } else { MatterScope::AllDelegators };
                let Page { items, next } = delegations::waiting(&known.context, scope, &filter, &page).await?;
                ends.extend(items.iter().map(|one| waits_until(one).to_owned()));
                (waiting_rows(&known, tab, &items)?, next)
            }
        };
        let here = known.url("/console/approvals");
        let older = next.map(|next| format!("{here}?{}", query.text(tab, None, Some(&next))));
        let proposed = proposals::agents(&known).await?;
        let body = html! {
            h1 { "Approvals" }
            (tabs(&known, tab))
            (filter_form(&known, &query, tab))
            (proposed)
            @match rows {
                Some(rows) => (rows),
                None => (nothing(&known, &query, tab)),
            }
            p.pages {
                @if query.cursor.is_some() { a rel="prev" href={ (here) "?" (query.text(tab, None, None)) } { "Newest" } }
                @if let Some(older) = older { a rel="next" href=(older) { "Older" } }
            }
        };
        let feed = live::deadlines_feed(ends.iter().map(String::as_str));
        Ok(PageAnswer::Shown(ConsolePage { feed, ..ConsolePage::new("Approvals", body) }))
    })
    .await
}

fn tabs(known: &ConsoleRequest<'_>, tab: ApprovalsTab) -> Markup {
    let here = known.url("/console/approvals");
    let administers = known.context.caller.administers();
    let all = [
        (ApprovalsTab::Waiting, "Waiting for you", decides_for_itself(known)),
        (ApprovalsTab::All, "Waiting for all users", administers),
        (ApprovalsTab::Decided, "Decided", true),
    ];
    html! {
        ul.tabs {
            @for (one, name, _) in all.into_iter().filter(|(.., shown)| *shown) {
                li { a href={ (here) "?tab=" (<&str>::from(one)) } aria-current=[(one == tab).then_some("page")] { (name) } }
            }
        }
    }
}

fn filter_form(known: &ConsoleRequest<'_>, query: &ApprovalsQuery, tab: ApprovalsTab) -> Markup {
    let here = known.url("/console/approvals");
    let chosen = query.kind.as_deref().unwrap_or_default();
    html! {
        form.filter method="get" action=(here) {
            input type="hidden" name="tab" value=(<&str>::from(tab));
            label.field { "kind"
                select name="kind" data-move="f" {
                    option value="" selected[chosen.is_empty()] { "any" }
                    @for kind in KINDS { @let name: &str = kind.into(); option value=(name) selected[chosen == name] { (kind_name(kind)) } }
                }
            }
            label.field { "agent" input name="delegate" list=(proposals::AGENTS) value=[&query.delegate]; }
            @if known.context.caller.administers() { label.field { "for" input name="delegator_sub" value=[&query.delegator_sub]; } }
            label.field { "since (UTC)" input name="since" value=[&query.since] placeholder="2026-01-31"; }
            button type="submit" { "Show" }
        }
        @if !query.filters().is_empty() {
            p.filters {
                @for (name, value) in query.filters() {
                    a href={ (here) "?" (query.text(tab, Some(name), None)) } { (name) ": " bdi { (words::visible(value)) } " ✕" } " "
                }
            }
        }
    }
}

/// Why a list is empty, and what to do.
fn nothing(known: &ConsoleRequest<'_>, query: &ApprovalsQuery, tab: ApprovalsTab) -> Markup {
    html! {
        @if !query.filters().is_empty() || query.cursor.is_some() { p { "Nothing matches. Remove a filter, or go back to the newest." } }
        @else if tab == ApprovalsTab::Decided { p { "Nothing was decided yet." } }
        @else {
            @if tab == ApprovalsTab::Waiting && known.context.caller.administers() {
                p { "No agent waits for a decision of yours. " a href={ (known.url("/console/approvals")) "?tab=all" } { "See those of all users" } "." }
            } @else { p { "No agent waits for a decision." } }
            p.dim { "An agent asks with its own token:" }
            pre tabindex="0" { "POST " (known.app.issuer) "/delegate\n{\"delegator\": {\"iss\": …, \"sub\": …}, \"scopes\": […], \"reason\": …}" }
        }
    }
}

fn waits_until(one: &WaitingView) -> &str {
    one.one_use.as_ref().map_or(&one.delegation.expires_at, |one| &one.expires_at)
}

fn waiting_rows(
    known: &ConsoleRequest<'_>,
    tab: ApprovalsTab,
    items: &[WaitingView],
) -> Result<Option<Markup>, Fault> {
    if items.is_empty() {
        return Ok(None);
    }
    let now = known.context.now;
    let target = known.url("/console/approvals/deny");
    Ok(Some(html! {
        table.rows {
            thead { tr { th { "asked" } th { "agent" } th { "kind" } th { "for" } th { "scopes" } th { "at" } th { "ends" } th { "waits until" } th { "deny" } } }
            tbody {
                @for one in items {
                    @let delegation = &one.delegation;
                    tr data-row {
                        td data-label="asked" { (words::instant(asked_at(one), now)) }
                        td data-label="agent" { a href=(page_of(known, one)) { bdi { (agent_of(one)) } } }
                        td data-label="kind" { (kind_name(one.kind)) }
                        td data-label="for" { (who::link(known, &delegation.delegator)) }
                        @match &one.one_use {
                            Some(one) => {
                                td data-label="scopes" { (words::names(Some(&one.scopes.iter().cloned().collect()), "")) }
                                td data-label="at" { (words::names(Some(&one.audiences.iter().cloned().collect()), "")) }
                                td data-label="ends" { "one use" }
                            },
                            None => {
                                td data-label="scopes" { (words::names(delegation.scopes.as_ref(), "all")) }
                                td data-label="at" { (words::names(delegation.audiences.as_ref(), "all")) }
                                td data-label="ends" { (words::length(delegation, now)) }
                            },
                        }
                        td data-label="waits until" { (words::deadline(waits_until(one), now)) }
                        td data-label="deny" { input type="checkbox" form="deny-several" name={ (DENY_FIELD) (place_of(one)) } value="on" aria-label={ "Deny " (agent_of(one)) }; }
                    }
                }
            }
        }
        form #deny-several method="post" action=(target) {
            (known.hidden(&target)?)
            input type="hidden" name="tab" value=(<&str>::from(tab));
            label.field { "Why not (optional, for the log)" input name="reason" maxlength="500" size="40"; }
            div.moves { button type="submit" data-move="d" { "Deny what is marked" } }
        }
    }))
}

/// What a field of the list names: the delegation, and the confirmation where one use waits.
fn place_of(one: &WaitingView) -> String {
    match &one.one_use {
        None => one.delegation.id.clone(),
        Some(one) => format!("{}/{}", one.delegation_id, one.id),
    }
}

fn decided_rows(known: &ConsoleRequest<'_>, items: &[DecidedView]) -> Option<Markup> {
    let now = known.context.now;
    (!items.is_empty()).then(|| {
        html! {
            table.rows {
                thead { tr { th { "decided" } th { "agent" } th { "kind" } th { "for" } th { "decision" } th { "narrowed" } th { "state now" } th { "used" } } }
                tbody {
                    @for one in items {
                        @let decision = &one.decision;
                        tr data-row {
                            td data-label="decided" { (words::instant(&clock::rfc3339(decision.decided_at), now)) }
                            td data-label="agent" { a href=(known.url(&format!("/console/approvals/{}", decision.delegation_id))) { bdi { (decision.delegate) } } }
                            td data-label="kind" { (kind_name(decision.kind)) }
                            td data-label="for" { (who::link(known, &decision.delegator)) }
                            td data-label="decision" { (decided_by(decision)) }
                            td data-label="narrowed" { (narrowed(&one.narrowed)) }
                            td data-label="state now" { (words::state(one.delegation.state)) }
                            td data-label="used" { (used(&one.delegation, one.used, now)) }
                        }
                    }
                }
            }
        }
    })
}

/// Denies each request and each use that was marked. What was decided meanwhile is named, and the others are denied.
pub(super) async fn deny_several(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let marked = known.form.names_after(DENY_FIELD);
        if marked.is_empty() {
            return Err(Refusal::Malformed("Mark what you want to deny").into());
        }
        let mut left = Vec::new();
        for place in &marked {
            match deny_one(&known, place).await {
                Ok(()) => {}
                Err(Error::Refused(refusal)) => left.push((*place, refusal)),
                Err(failed) => return Err(failed.into()),
            }
        }
        let tab = known.form.get("tab").filter(|tab| *tab == "all").unwrap_or("waiting");
        let back = known.url(&format!("/console/approvals?tab={tab}"));
        if left.is_empty() {
            return Ok(PageAnswer::See(back));
        }
        let body = html! {
            p { a href=(back) data-back { "Approvals" } }
            h1 { "Denied: " (marked.len() - left.len()) " of " (marked.len()) }
            ul {
                @for (place, refusal) in &left {
                    li {
                        (words::short(place)) ": " (refusal.sentence())
                        @if let Some(state) = refusal.state() { ". It is " (state) " now" } "."
                    }
                }
            }
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Denied", body)))
    })
    .await
}

async fn deny_one(known: &ConsoleRequest<'_>, place: &str) -> Result<(), Error> {
    // Each has a key of its own: the answer to one is not the answer to the others.
    let key = known.context.idempotency_key.as_ref().map(|one| IdempotencyKey {
        key: format!(
            "{} {}",
            one.key.chars().take(MOST_KEY).collect::<String>(),
            base64url::encode(sha256(&[place.as_bytes()]))
        ),
        fingerprint: one.fingerprint,
    });
    let context = RequestContext { idempotency_key: key, ..known.context.clone() };
    match place.split_once('/') {
        None => delegations::deny(&context, place, known.form.get("reason")).await.map(|_| ()),
        Some((delegation, ceremony)) => {
            let id = Uuid::parse_str(ceremony).map_err(|_| Refusal::NotFound)?;
            let ceremony = CeremonyId { delegation, id };
            ceremonies::decide(&context, ceremony, ConfirmationDecision::Deny, None).await.map(|_| ())
        }
    }
}
