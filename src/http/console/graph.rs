//! The graph of an agent as SVG from the server: givers above, receivers below. All of it is in the table, too.

use maud::{Markup, html};

use super::guard::ConsoleRequest;
use super::links::form_encoded;
use super::{who, words};
use crate::domain::delegation::DelegationState;
use crate::domain::principal::Principal;
use crate::platform::clock;
use crate::services::agents::CappedCount;
use crate::services::delegations::graph::{Edge, Graph};

const WIDTH: usize = 1_080;
const BOX: (usize, usize) = (112, 28);
/// From the top of one row of boxes to the next.
const ROW: usize = 116;
/// Line height of labels.
const LINE: usize = 14;

/// Neighbours of an agent, and how many more there are than are drawn.
pub(super) struct ShownGraph<'a> {
    pub(super) agent: &'a str,
    pub(super) edges: &'a Graph,
    pub(super) more_inbound: CappedCount,
    pub(super) more_outbound: CappedCount,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Giver,
    Receiver,
}

pub(super) fn draw(known: &ConsoleRequest<'_>, shown: &ShownGraph<'_>) -> Markup {
    let ShownGraph { agent, edges, .. } = shown;
    let (inbound, outbound) = (&edges.inbound.items, &edges.outbound.items);
    html! {
        @if inbound.is_empty() && outbound.is_empty() { p.dim { "No delegation." } }
        @else {
            svg.graph viewBox={ "0 0 " (WIDTH) " " (2 * ROW + BOX.1 + 8) } role="group" aria-label={ "Delegations to and by " (agent) } {
                (side(known, shown, Side::Giver))
                (side(known, shown, Side::Receiver))
                g.own { (node(agent, WIDTH / 2, ROW)) }
            }
            table.rows {
                thead { tr { th { "state" } th { "from" } th { "to" } th { "scopes" } th { "ends" } } }
                tbody {
                    @for edge in inbound.iter().chain(outbound) { (row(known, edge)) }
                }
            }
            @for side in [Side::Giver, Side::Receiver] {
                @let (count, list) = more(known, shown, side);
                @if !count.is_zero() { p { a href=(list) { (count) " more delegations " (if side == Side::Giver { "to it" } else { "by it" }) } } }
            }
        }
    }
}

/// How many neighbours of a side are not drawn, and where they are listed.
fn more(known: &ConsoleRequest<'_>, shown: &ShownGraph<'_>, side: Side) -> (CappedCount, String) {
    let list = known.url("/console/delegations");
    let agent = form_encoded(shown.agent);
    match side {
        Side::Giver => (shown.more_inbound, format!("{list}?delegate={agent}")),
        Side::Receiver => (shown.more_outbound, format!("{list}?delegator_sub={agent}")),
    }
}

fn side(known: &ConsoleRequest<'_>, shown: &ShownGraph<'_>, side: Side) -> Markup {
    let items = match side {
        Side::Giver => &shown.edges.inbound.items,
        Side::Receiver => &shown.edges.outbound.items,
    };
    let (more, list) = more(known, shown, side);
    let slots = items.len() + usize::from(!more.is_zero());
    let y = if side == Side::Giver { 0 } else { 2 * ROW };
    let x = |place: usize| WIDTH * (2 * place + 1) / (2 * slots.max(1));
    html! {
        @for (place, edge) in items.iter().enumerate() { (neighbour(known, edge, x(place), side)) }
        @if !more.is_zero() { a href=(list) { (node(&format!("+{more}"), x(items.len()), y)) } }
    }
}

/// An edge, with the box of the neighbour at `x`.
fn neighbour(known: &ConsoleRequest<'_>, edge: &Edge, x: usize, side: Side) -> Markup {
    // Labels are beside the boxes, where edges are far enough from each other.
    let (other, y, from, to, label) = match side {
        Side::Giver => (&edge.from, 0, (x, BOX.1), (WIDTH / 2, ROW), BOX.1 + LINE),
        Side::Receiver => (&edge.to, 2 * ROW, (WIDTH / 2, ROW + BOX.1), (x, 2 * ROW), 2 * ROW - LINE - 6),
    };
    let one = &edge.delegation;
    let is_active = one.state == DelegationState::Active;
    let scopes = one.scopes.as_ref().map_or_else(|| "all scopes".to_owned(), |scopes| scopes.join(" "));
    let time = match (is_active, clock::instant(&one.expires_at)) {
        (true, Some(ends)) => format!("ends {}", words::distance(ends, known.context.now)),
        _ => <&str>::from(one.state).to_owned(),
    };
    html! {
        line class=[(!is_active).then_some("ended")] x1=(from.0) y1=(from.1) x2=(to.0) y2=(to.1) {}
        a href=(known.url(&format!("/console/delegations/{}", one.id))) {
            text.edge x=(x) y=(label) text-anchor="middle" { (shortened(&words::visible(&scopes), 15)) }
            text.edge x=(x) y=(label + LINE) text-anchor="middle" { (time) }
            title { (words::visible(&scopes)) ", " (time) }
        }
        a href=(who::place(known, other)) { (node(&other.sub, x, y)) }
    }
}

fn node(name: &str, x: usize, y: usize) -> Markup {
    html! {
        rect x=(x.saturating_sub(BOX.0 / 2)) y=(y) width=(BOX.0) height=(BOX.1) {}
        text x=(x) y=(y + 18) text-anchor="middle" { (shortened(&words::visible(name), 15)) }
        title { (words::visible(name)) }
    }
}

fn row(known: &ConsoleRequest<'_>, edge: &Edge) -> Markup {
    let one = &edge.delegation;
    html! {
        tr data-row {
            td data-label="state" { a href=(known.url(&format!("/console/delegations/{}", one.id))) { (words::state(one.state)) } }
            td data-label="from" { (party(known, &edge.from)) }
            td data-label="to" { (party(known, &edge.to)) }
            td data-label="scopes" { (words::names(one.scopes.as_ref(), "all")) }
            td data-label="ends" { (words::instant(&one.expires_at, known.context.now)) }
        }
    }
}

fn party(known: &ConsoleRequest<'_>, who: &Principal) -> Markup {
    html! {
        a href=(who::place(known, who)) { bdi { (words::visible(&who.sub)) } }
        @if who.iss != known.app.issuer { " " span.dim { (who.iss) } }
    }
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        text.to_owned()
    } else {
        format!("{}…", text.chars().take(most - 1).collect::<String>())
    }
}
