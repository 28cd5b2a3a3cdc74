//! The time that a list shows: a window before now, or absolute times.

use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use super::error_page::PageError;
use crate::platform::clock;

const WINDOWS: [(&str, Option<Duration>); 4] = [
    ("1h", Some(Duration::hours(1))),
    ("24h", Some(Duration::hours(24))),
    ("7d", Some(Duration::days(7))),
    ("all", None),
];

/// The names of the windows, the shortest first.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    WINDOWS.into_iter().map(|(name, _)| name)
}

/// The length of a window; `None` for all times.
pub(super) fn length(name: Option<&str>) -> Result<Option<Duration>, PageError> {
    let Some(name) = name else { return Ok(None) };
    let known = WINDOWS.into_iter().find(|(own, _)| *own == name);
    let unknown = PageError::Field { name: "window", sentence: "A window is 1h, 24h, 7d or all." };
    Ok(known.ok_or(unknown)?.1)
}

/// A time of a form, if it is set.
pub(super) fn time(name: &'static str, text: Option<&str>) -> Result<Option<OffsetDateTime>, PageError> {
    let sentence = "A time is written as 2026-01-31 or 2026-01-31T12:00:00Z.";
    text.map(|text| clock::instant(text).ok_or(PageError::Field { name, sentence })).transpose()
}

/// The choice of a window.
pub(super) fn choice(label: &str, chosen: Option<&str>) -> Markup {
    html! {
        label.field { (label)
            select name="window" {
                @for (name, window) in WINDOWS {
                    option value=(name) selected[chosen.unwrap_or("all") == name] { @if window.is_some() { "last " (name) } @else { "at any time" } }
                }
            }
        }
    }
}
