//! What agents and users are called, on a terminal: on one line, and with every character that is not seen written out.

use time::OffsetDateTime;

use crate::domain::finding::is_invisible;
use crate::platform::clock;

/// Maximum number of characters of a name.
const MAX_NAME: usize = 48;

/// A text in which control characters, marks of direction and characters without a shape are visible, as in `U+202E`.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || is_invisible(letter) || matches!(letter, '\u{2028}' | '\u{2029}') {
            shown.push_str(&format!("U+{:04X}", u32::from(letter)));
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// A visible text that is cut after a number of characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    let whole = visible(text);
    if whole.chars().count() <= most {
        return whole;
    }
    let beginning: String = whole.chars().take(most.saturating_sub(1)).collect();
    format!("{beginning}…")
}

/// A visible name, cut after 48 characters.
pub(super) fn name(text: &str) -> String {
    cut(text, MAX_NAME)
}

/// A user and the actors for that user, root first, or who acts alone.
pub(super) fn chain(subject: Option<&str>, actors: &[String], by: &str) -> String {
    let names: Vec<String> = subject.into_iter().chain(actors.iter().map(String::as_str)).map(name).collect();
    match actors.is_empty() {
        true if names.is_empty() => format!("by {}", name(by)),
        true => format!("{}, by {}", names.join(" → "), name(by)),
        false => names.join(" → "),
    }
}

/// The time of day in UTC, with the date if it is another day.
pub(super) fn time_of(at: &str, now: OffsetDateTime) -> String {
    let today = clock::rfc3339(now);
    let part = |text: &str, range| text.get(range).map(str::to_owned).unwrap_or_default();
    match at.get(..10) == today.get(..10) {
        true => part(at, 11..19),
        false => format!("{} {}", part(at, 0..10), part(at, 11..16)),
    }
}

/// A duration in milliseconds with at most two decimals.
pub(super) fn milliseconds(seconds: f64) -> String {
    let text = format!("{:.2}", seconds * 1_000.0);
    format!("{} ms", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_move_the_cursor_or_turn_text_is_written_out() {
        assert_eq!(visible("a\u{1b}[2J\u{202e}b\n\t\u{9b}1m"), "aU+001B[2JU+202EbU+000AU+0009U+009B1m");
        assert_eq!(visible("é 日本 👩\u{200d}🚀 \u{85}"), "é 日本 👩U+200D🚀 U+0085");
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(name(&"x".repeat(48)), "x".repeat(48));
        assert_eq!(name(&"x".repeat(49)), format!("{}…", "x".repeat(47)));
    }

    #[test]
    fn who_acts_for_whom() {
        let agents = ["a".to_owned(), "b".to_owned()];
        assert_eq!(chain(Some("alice"), &agents, "b"), "alice → a → b");
        assert_eq!(chain(Some("alice"), &[], "web"), "alice, by web");
        assert_eq!(chain(None, &[], "operator"), "by operator");
    }

    #[test]
    fn another_day_has_its_date() {
        let now = time::macros::datetime!(2026-11-02 10:00 UTC);
        assert_eq!(time_of("2026-11-02T09:59:58.123456Z", now), "09:59:58");
        assert_eq!(time_of("2026-11-01T09:59:58.123456Z", now), "2026-11-01 09:59");
        assert_eq!(time_of("", now), " ");
    }

    #[test]
    fn milliseconds_have_no_needless_decimals() {
        assert_eq!([0.0025, 0.01, 0.0001, 2.0].map(milliseconds), ["2.5 ms", "10 ms", "0.1 ms", "2000 ms"]);
    }
}
