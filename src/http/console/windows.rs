//! The time that a list shows: a window before now, or absolute times.

use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use super::error_page::PageError;
use super::set_filter::{self, SetFilter};
use crate::platform::clock::{self, rfc3339};

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

/// Begin and end of a list. A window before now counts where the list has no absolute times.
pub(super) fn times(
    filters: &[SetFilter<'_>],
    window: Option<&str>,
    now: OffsetDateTime,
) -> Result<[Option<OffsetDateTime>; 2], PageError> {
    let [from, to] = [time(filters, "from")?, time(filters, "to")?];
    let window = length(window)?.filter(|_| !has_times(filters));
    Ok([from.or(window.map(|window| now - window)), to])
}

/// Whether a list has absolute times.
pub(super) fn has_times(filters: &[SetFilter<'_>]) -> bool {
    ["from", "to"].iter().any(|name| set_filter::value(filters, name).is_some())
}

/// A time of a form, if it is set.
fn time(filters: &[SetFilter<'_>], name: &'static str) -> Result<Option<OffsetDateTime>, PageError> {
    let sentence = "A time is written as 2026-01-31 or 2026-01-31T12:00:00Z.";
    let text = set_filter::value(filters, name);
    text.map(|text| clock::instant(text).ok_or(PageError::Field { name, sentence })).transpose()
}

/// The query of the same list with the times that its window has now; `None` without a window.
pub(super) fn fixed(filters: &[SetFilter<'_>], now: OffsetDateTime) -> Option<[(&'static str, String); 3]> {
    let window = set_filter::value(filters, "window").filter(|_| !has_times(filters));
    let length = length(window).ok()??;
    Some([("window", String::new()), ("from", rfc3339(now - length)), ("to", rfc3339(now))])
}

/// Fields for absolute times.
pub(super) fn between(from: Option<&str>, to: Option<&str>) -> Markup {
    html! {
        label.field { "from (UTC)" input name="from" value=[from] placeholder="2026-01-31" size="12"; }
        label.field { "to (UTC)" input name="to" value=[to] placeholder="2026-02-01" size="12"; }
    }
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
