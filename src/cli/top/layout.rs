//! Where the panels are: two columns on a wide terminal, one on a narrow one. What does not fit is cut and counted.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::panels::{self, Panel, Side};
use super::state::State;
use super::style::{Palette, Piece, Tone, line, piece};
use super::text::{time_of, visible};
use crate::platform::clock::rfc3339;

/// The width from which there are two columns.
const WIDE: u16 = 110;
/// The width of the left column of two, with the gap.
const LEFT: u16 = 60;

pub(super) fn draw(state: &State, palette: Palette, area: Rect, buffer: &mut Buffer) {
    let head = head(state);
    let mut rest = area;
    for one in head {
        let Some(below) = take_row(&mut rest) else { return };
        put(buffer, below, &line(one, palette));
    }
    let Some(reading) = &state.reading else { return };
    let panels = panels::panels(reading);
    if area.width < WIDE {
        return stack(&panels.iter().collect::<Vec<_>>(), palette, rest, buffer);
    }
    let left = Rect { width: LEFT - 2, ..rest };
    let right = Rect { x: rest.x + LEFT, width: rest.width - LEFT, ..rest };
    for (side, area) in [(Side::Left, left), (Side::Right, right)] {
        let own: Vec<&Panel> = panels.iter().filter(|panel| panel.side == side).collect();
        stack(&own, palette, area, buffer);
    }
}

/// The screen as plain text, in one column and without cuts.
pub(super) fn plain(state: &State) -> String {
    let of_panel = |panel: Panel| std::iter::once(vec![piece(Tone::Strong, panel.title)]).chain(panel.lines);
    let panels = state.reading.iter().flat_map(panels::panels).flat_map(of_panel);
    let lines = head(state).into_iter().chain(panels);
    let text = |one: Vec<Piece>| format!("{}\n", line(one, Palette::Monochrome).to_string().trim_end());
    lines.map(text).collect()
}

fn head(state: &State) -> Vec<Vec<Piece>> {
    let mut title = vec![piece(Tone::Strong, "actchain top"), piece(Tone::Plain, visible(&state.issuer))];
    if let Some(every) = state.every {
        title.push(piece(Tone::Dim, format!("every {}", humantime::format_duration(every))));
        title.push(piece(Tone::Dim, "q ends"));
    }
    title.push(piece(Tone::Dim, visible(&state.place)));
    let mut lines = vec![title];
    if let Some(outage) = &state.outage {
        let since = rfc3339(outage.since);
        let since = since.get(..19).unwrap_or_default();
        lines.push(vec![piece(
            Tone::Bad,
            format!("✗ database not reachable since {since}Z: {}", visible(&outage.why)),
        )]);
    }
    match &state.reading {
        None => lines.push(vec![piece(Tone::Dim, "reading")]),
        Some(reading) => {
            let at = format!("{}Z", time_of(&rfc3339(reading.at), reading.at));
            let read = if state.outage.is_some() { format!("! as of {at}") } else { at };
            lines.push(vec![
                piece(Tone::Plain, read),
                panels::badge(&reading.snapshot.log),
                panels::server(&reading.snapshot),
            ]);
        }
    }
    lines
}

/// Draws panels one below the other.
fn stack(panels: &[&Panel], palette: Palette, area: Rect, buffer: &mut Buffer) {
    let wanted: Vec<u16> = panels
        .iter()
        .map(|panel| u16::try_from(panel.lines.len()).unwrap_or(u16::MAX).saturating_add(1))
        .collect();
    let mut rest = area;
    for (panel, rows) in panels.iter().zip(heights(&wanted, area.height)) {
        let Some(mut lines_left) = rows.checked_sub(1) else { continue };
        let Some(row) = take_row(&mut rest) else { return };
        put(buffer, row, &title(&panel.title, palette, row.width));
        let mut hidden = panel.lines.len().saturating_sub(usize::from(lines_left));
        // The line that counts the others takes the place of one.
        hidden += usize::from(hidden > 0);
        for one in &panel.lines {
            if lines_left == 0 {
                break;
            }
            let Some(row) = take_row(&mut rest) else { return };
            let is_cut = lines_left == 1 && hidden > 0 && panel.lines.len() > 1 && rows > 2;
            let shown =
                if is_cut { vec![piece(Tone::Dim, format!("… {hidden} more"))] } else { one.clone() };
            put(buffer, row, &line(shown, palette));
            lines_left -= 1;
        }
    }
}

/// How many rows each panel gets, with its title: two each as far as they go, then one more in turn.
fn heights(wanted: &[u16], mut left: u16) -> Vec<u16> {
    let mut all = vec![0; wanted.len()];
    for (own, wanted) in all.iter_mut().zip(wanted) {
        let first = 2.min(*wanted);
        if left < first {
            break;
        }
        *own = first;
        left -= first;
    }
    while left > 0 {
        let mut is_progress = false;
        for (own, wanted) in all.iter_mut().zip(wanted) {
            if left > 0 && *own > 0 && *own < *wanted {
                *own += 1;
                left -= 1;
                is_progress = true;
            }
        }
        if !is_progress {
            break;
        }
    }
    all
}

fn title(text: &str, palette: Palette, width: u16) -> Line<'static> {
    let mut whole = line(vec![piece(Tone::Strong, text)], palette);
    let room = usize::from(width).saturating_sub(text.chars().count() + 1);
    whole.push_span(Span::raw(format!(" {}", "─".repeat(room))));
    whole
}

fn take_row(area: &mut Rect) -> Option<Rect> {
    let row = Rect { height: 1, ..*area };
    area.height = area.height.checked_sub(1)?;
    area.y += 1;
    Some(row)
}

fn put(buffer: &mut Buffer, row: Rect, line: &Line<'static>) {
    buffer.set_line(row.x, row.y, line, row.width);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_the_first_panels_and_then_in_turn() {
        assert_eq!(heights(&[7, 4, 3], 30), [7, 4, 3]);
        assert_eq!(heights(&[7, 4, 3], 10), [4, 3, 3]);
        assert_eq!(heights(&[7, 4, 3], 5), [3, 2, 0]);
        assert_eq!(heights(&[7, 4, 3], 1), [0, 0, 0]);
        assert_eq!(heights(&[], 5), [0_u16; 0]);
    }

    fn panel(lines: usize) -> Panel {
        let lines = (0..lines).map(|number| vec![piece(Tone::Plain, format!("line {number}"))]).collect();
        Panel { title: "Title".to_owned(), side: Side::Left, lines }
    }

    fn drawn(panel: &Panel, width: u16, height: u16) -> Vec<String> {
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        stack(&[panel], Palette::Monochrome, area, &mut buffer);
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
        (0..height).map(|y| row(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(drawn(&panel(3), 10, 4), ["Title ────", "line 0", "line 1", "line 2"]);
        assert_eq!(drawn(&panel(5), 10, 4), ["Title ────", "line 0", "line 1", "… 3 more"]);
        assert_eq!(drawn(&panel(5), 10, 2), ["Title ────", "line 0"]);
        assert_eq!(drawn(&panel(5), 3, 2), ["Tit", "lin"]);
    }

    #[test]
    fn every_size_of_a_terminal_can_be_drawn() {
        let state = State::new("https://as.example.com".to_owned(), "the database".to_owned());
        for width in [0, 1, 59, 60, 110, 200] {
            for height in [0, 1, 2, 50] {
                let area = Rect::new(0, 0, width, height);
                draw(&state, Palette::Coloured, area, &mut Buffer::empty(area));
            }
        }
    }
}
