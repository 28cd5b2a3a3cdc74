//! The hops of a chain as a tree: each below the one whose token it exchanged.

use std::collections::HashMap;

use maud::{Markup, html};
use serde_json::Value;
use time::OffsetDateTime;

use super::agents::agent_path;
use super::chain_words as said;
use super::guard::ConsoleRequest;
use super::links::{path_segment, seq_path};
use super::words;
use crate::domain::audit::chain::{Hop, HopKind};
use crate::domain::console::ConsoleRole;
use crate::domain::delegation::DelegationState;
use crate::platform::clock;

pub(super) const HOPS: usize = 100;
/// Deeper hops are indented no further.
const MAX_INDENT: usize = 6;
/// The drawing of time and depth.
const WIDTH: i64 = 1_080;
const MARGIN: i64 = 12;
const ROW: i64 = 24;

/// A hop with its place in the tree.
pub(super) struct TreeHop<'a> {
    pub(super) hop: &'a Hop,
    /// Hops above it, and itself.
    depth: usize,
    /// Scopes of the hop above that this one does not have.
    dropped: Vec<&'a str>,
}

/// The hops of one page.
pub(super) struct ShownHops<'a> {
    pub(super) hops: &'a [&'a TreeHop<'a>],
    /// `seq` of the hop that a search led to.
    pub(super) sought: Option<u64>,
}

/// The hops, each before those below it. A hop below another one has a later place in the log, so that this ends.
pub(super) fn in_order(hops: &[Hop]) -> Vec<TreeHop<'_>> {
    let by_seq: HashMap<u64, &Hop> = hops.iter().map(|hop| (hop.seq, hop)).collect();
    let mut order = Vec::with_capacity(hops.len());
    let mut waiting: Vec<(&Hop, usize)> =
        hops.iter().rev().filter(|hop| hop.parent.is_none()).map(|hop| (hop, 1)).collect();
    while let Some((hop, depth)) = waiting.pop() {
        let above = hop.parent.and_then(|seq| by_seq.get(&seq));
        let kept: Vec<&str> = scopes(hop).collect();
        let dropped = match hop.kind {
            HopKind::Issue | HopKind::Exchange => above.into_iter().flat_map(|above| scopes(above)).collect(),
            HopKind::Retrieval | HopKind::Refusal => Vec::new(),
        };
        let dropped = dropped.into_iter().filter(|scope| !kept.contains(scope)).collect();
        order.push(TreeHop { hop, depth, dropped });
        let below = hop.children.iter().rev().filter_map(|seq| by_seq.get(seq));
        waiting.extend(below.map(|hop| (*hop, depth + 1)));
    }
    order
}

fn scopes(hop: &Hop) -> impl Iterator<Item = &str> {
    hop.scope.as_str().unwrap_or_default().split_ascii_whitespace()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn tree(known: &ConsoleRequest<'_>, shown: &ShownHops<'_>) -> Markup {
    html! {
        (drawing(shown))
        ol.trace { @for one in shown.hops { (item(known, one, shown.sought)) } }
    }
}

fn item(known: &ConsoleRequest<'_>, one: &TreeHop<'_>, sought: Option<u64>) -> Markup {
    let hop = one.hop;
    let is_bad = hop.kind == HopKind::Refusal || hop.key_continuity.contradicts();
    let is_sought = sought == Some(hop.seq);
    html! {
        li #{ "hop-" (hop.seq) } data-row data-depth=(one.depth.min(MAX_INDENT)) data-finding[is_bad] aria-current=[is_sought.then_some("true")] {
            p.when {
                (words::instant(text(&hop.at), known.context.now)) " "
                a href=(known.url(&seq_path(hop.seq))) { "event " (hop.seq) }
            }
            p {
                (outcome(hop)) " "
                a href=(known.url(&agent_path(text(&hop.client_id)))) { bdi { (words::visible(text(&hop.client_id))) } }
                @if let Some(jkt) = hop.jkt.as_str() { " " code.dim title=(jkt) { (said::key_start(jkt)) } }
                " " (said::keys(hop.key_continuity))
            }
            p {
                @if !text(&hop.scope).is_empty() { code.scope { (words::visible(text(&hop.scope))) } " " }
                @for scope in &one.dropped { s { code { (words::visible(scope)) } span.visually-hidden { " dropped" } } " " }
                @for audience in hop.audience.as_array().into_iter().flatten().filter_map(Value::as_str) { "at " code { (words::visible(audience)) } " " }
                @if !text(&hop.target).is_empty() { "at " code { (words::visible(&words::short(text(&hop.target)))) } }
            }
            (delegation(known, hop, sought))
        }
    }
}

fn outcome(hop: &Hop) -> Markup {
    match hop.kind {
        HopKind::Issue => html! { strong { "token of its own" } },
        HopKind::Exchange => html! { strong { "exchange" } },
        HopKind::Retrieval => html! { strong { "credential" } },
        HopKind::Refusal => html! {
            span.bad { span.mark aria-hidden="true" { "✗" } " refused " (words::reason(text(&hop.reason))) }
        },
    }
}

/// The delegation of a hop, and the way to cut the chain there.
fn delegation(known: &ConsoleRequest<'_>, hop: &Hop, sought: Option<u64>) -> Markup {
    let id = text(&hop.delegation_id);
    if id.is_empty() {
        return Markup::default();
    }
    let short = html! { code { (words::visible(&words::short(id))) } };
    let page = known.url(&format!("/console/delegations/{}", path_segment(id)));
    // Auditors have no pages of delegations.
    let may_open = !known.has_role(ConsoleRole::Auditor) && hop.delegation_state.is_some();
    html! {
        p {
            "under " @if may_open { a href=(page) { (short) } } @else { (short) }
            @if let Some(state) = hop.delegation_state {
                " " (words::state(state))
                @if may_open && matches!(state, DelegationState::Requested | DelegationState::Active) { " " a.button.danger href={ (page) "/cut" } data-move=[(sought == Some(hop.seq)).then_some("x")] { "Cut here…" } }
            }
        }
    }
}

/// Time from left to right, depth from top to bottom. The list below has all of it.
fn drawing(shown: &ShownHops<'_>) -> Markup {
    let times: Vec<Option<OffsetDateTime>> =
        shown.hops.iter().map(|one| clock::instant(text(&one.hop.at))).collect();
    let (first, last) = (times.iter().flatten().min(), times.iter().flatten().max());
    let (Some(first), Some(last)) = (first, last) else { return Markup::default() };
    let length = (*last - *first).whole_microseconds().max(1);
    let x = |at: OffsetDateTime| {
        let share = (at - *first).whole_microseconds() * i128::from(WIDTH - 2 * MARGIN) / length;
        MARGIN + i64::try_from(share).unwrap_or_default()
    };
    let y = |depth: usize| {
        MARGIN + ROW * i64::try_from(depth.saturating_sub(1).min(MAX_INDENT)).unwrap_or_default()
    };
    let places: HashMap<u64, (i64, i64)> = shown
        .hops
        .iter()
        .zip(&times)
        .filter_map(|(one, at)| Some((one.hop.seq, (x((*at)?), y(one.depth)))))
        .collect();
    let height = places.values().map(|(_, y)| *y).max().unwrap_or_default() + MARGIN;
    html! {
        @if shown.hops.len() > 1 {
            svg.graph viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label="The hops by time and depth; the list has all of it" {
                @for one in shown.hops {
                    @if let (Some((x, y)), Some((from_x, from_y))) = (places.get(&one.hop.seq), one.hop.parent.and_then(|seq| places.get(&seq))) {
                        line x1=(from_x) y1=(from_y) x2=(x) y2=(y) {}
                    }
                }
                @for one in shown.hops {
                    @if let Some((x, y)) = places.get(&one.hop.seq) {
                        circle cx=(x) cy=(y) r="4" class=[(one.hop.kind == HopKind::Refusal).then_some("bad")] { title { (words::visible(text(&one.hop.client_id))) ", event " (one.hop.seq) } }
                    }
                }
            }
        }
    }
}
