//! How parts of a line are shown. A colour repeats what a glyph and a word say.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use crate::cli::stdio;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Strong,
    Dim,
    Good,
    Warning,
    Bad,
}

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Palette {
    Coloured,
    Monochrome,
}

impl Palette {
    /// Without colours where `NO_COLOR` is set.
    pub(super) fn of_terminal() -> Self {
        if stdio::may_colour() { Self::Coloured } else { Self::Monochrome }
    }

    fn style(self, tone: Tone) -> Style {
        let plain = Style::new();
        match (self, tone) {
            (_, Tone::Strong) => plain.add_modifier(Modifier::BOLD),
            (Self::Monochrome, _) | (_, Tone::Plain) => plain,
            (Self::Coloured, Tone::Dim) => plain.fg(Color::DarkGray),
            (Self::Coloured, Tone::Good) => plain.fg(Color::Green),
            (Self::Coloured, Tone::Warning) => plain.fg(Color::Yellow),
            (Self::Coloured, Tone::Bad) => plain.fg(Color::Red),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) tone: Tone,
    pub(super) text: String,
}

pub(super) fn piece(tone: Tone, text: impl Into<String>) -> Piece {
    Piece { tone, text: text.into() }
}

/// A line of pieces, separated by two spaces.
pub(super) fn line(pieces: Vec<Piece>, palette: Palette) -> Line<'static> {
    let mut spans = Vec::with_capacity(pieces.len() * 2);
    for one in pieces.into_iter().filter(|one| !one.text.is_empty()) {
        if !spans.is_empty() {
            spans.push(Span::raw("  "));
        }
        spans.push(Span::styled(one.text, palette.style(one.tone)));
    }
    Line::from(spans)
}
