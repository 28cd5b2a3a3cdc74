//! The graph of an agent as SVG from the server: givers above, receivers below. All of it is in the table, too.

use maud::{Markup, html};

use super::guard::ConsoleRequest;
use super::links::form_encoded;
use super::words;
use crate::domain::delegation::DelegationState;
use crate::domain::principal::Principal;
use crate::services::delegations::graph::{Edge, Graph};

const WIDTH: usize = 960;
const BOX: (usize, usize) = (112, 28);
const ROW: usize = 96;

pub(super) fn draw(known: &ConsoleRequest<'_>, agent: &str, edges: &Graph) -> Markup {
    let (inbound, outbound) = (&edges.inbound.items, &edges.outbound.items);
    html! {
        @if inbound.is_empty() && outbound.is_empty() { p.dim { "No delegation." } }
        @else {
            svg.graph viewBox={ "0 0 " (WIDTH) " " (2 * ROW + BOX.1 + 8) } role="group" aria-label={ "Delegations to and by " (agent) } {
                @for (place, edge) in inbound.iter().enumerate() { (neighbour(known, &Neighbour { edge, place, count: inbound.len(), side: Side::Giver })) }
                @for (place, edge) in outbound.iter().enumerate() { (neighbour(known, &Neighbour { edge, place, count: outbound.len(), side: Side::Receiver })) }
                (node(agent, WIDTH / 2, ROW, None))
            }
            table.rows {
                thead { tr { th { "state" } th { "from" } th { "to" } th { "scopes" } th { "ends" } } }
                tbody {
                    @for edge in inbound.iter().chain(outbound) { (row(known, edge)) }
                }
            }
            @if edges.inbound.next.is_some() || edges.outbound.next.is_some() {
                p { "There are more: " a href={ (known.url("/console/delegations")) "?delegate=" (form_encoded(agent)) } { "all delegations to it" } "." }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Giver,
    Receiver,
}

/// A neighbour of the agent, at its place among those of its side.
struct Neighbour<'a> {
    edge: &'a Edge,
    place: usize,
    count: usize,
    side: Side,
}

fn neighbour(known: &ConsoleRequest<'_>, drawn: &Neighbour<'_>) -> Markup {
    let Neighbour { edge, place, count, side } = *drawn;
    let x = WIDTH * (2 * place + 1) / (2 * count.max(1));
    let (other, y) = match side {
        Side::Giver => (&edge.from, 0),
        Side::Receiver => (&edge.to, 2 * ROW),
    };
    let (from, to) = match side {
        Side::Giver => ((x, BOX.1), (WIDTH / 2, ROW)),
        Side::Receiver => ((WIDTH / 2, ROW + BOX.1), (x, 2 * ROW)),
    };
    let one = &edge.delegation;
    let ended = (one.state != DelegationState::Active).then_some("ended");
    let scopes = one.scopes.as_ref().map_or_else(|| "all".to_owned(), |scopes| scopes.join(" "));
    html! {
        line class=[ended] x1=(from.0) y1=(from.1) x2=(to.0) y2=(to.1) {}
        text.edge x=((from.0 + to.0) / 2) y=((from.1 + to.1) / 2) text-anchor="middle" { (shortened(&scopes, 18)) }
        (node(&other.sub, x, y, Some(&known.url(&format!("/console/delegations/{}", one.id)))))
    }
}

fn node(name: &str, x: usize, y: usize, link: Option<&str>) -> Markup {
    let drawn = html! {
        rect x=(x.saturating_sub(BOX.0 / 2)) y=(y) width=(BOX.0) height=(BOX.1) {}
        text x=(x) y=(y + 18) text-anchor="middle" { (shortened(&words::visible(name), 16)) }
        title { (words::visible(name)) }
    };
    html! { @match link { Some(link) => a href=(link) { (drawn) }, None => g.own { (drawn) } } }
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

/// A client of this server links to its page.
fn party(known: &ConsoleRequest<'_>, who: &Principal) -> Markup {
    html! {
        @if who.iss == known.app.issuer {
            a href=(known.url(&format!("/console/agents/{}", form_encoded(&who.sub)))) { bdi { (who.sub) } }
        } @else { (words::principal(who)) }
    }
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        text.to_owned()
    } else {
        format!("{}…", text.chars().take(most - 1).collect::<String>())
    }
}
