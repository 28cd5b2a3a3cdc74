//! Times, ids, states and limits in words, alike on every page.

use maud::{Markup, html};
use serde::Serialize;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::domain::delegation::DelegationState;
use crate::domain::delegation::view::View;
use crate::domain::delegation::waiting::BoundedCount;
use crate::domain::finding::is_invisible;
use crate::domain::principal::Principal;
use crate::domain::refusal::catalogue;
use crate::domain::standing_grant::StandingGrantState;
use crate::domain::vault::ConnectionState;
use crate::platform::clock;
use actchain_protocol::authorization_details::Details;

/// Maximum number of characters of a quotation.
const MAX_QUOTED: usize = 500;

/// A time with its zone, and how far it is away.
pub(super) fn instant(text: &str, now: OffsetDateTime) -> Markup {
    let Some(at) = clock::instant(text) else { return html! { (text) } };
    html! { (time_of(text, at)) " " span.dim { "(" (distance(at, now)) ")" } }
}

/// The end of a wait. An open page says again and again how far it is away.
pub(super) fn deadline(text: &str, now: OffsetDateTime) -> Markup {
    let Some(at) = clock::instant(text) else { return html! { (text) } };
    html! { (time_of(text, at)) " " span.dim data-until=(at.unix_timestamp()) { (countdown(at, now)) } }
}

pub(super) fn countdown(at: OffsetDateTime, now: OffsetDateTime) -> Markup {
    html! { "(" (distance(at, now)) ")" }
}

fn time_of(text: &str, at: OffsetDateTime) -> Markup {
    let at = at.to_offset(time::UtcOffset::UTC);
    let (date, clock) = (at.date(), at.time());
    let (hour, minute, second) = (clock.hour(), clock.minute(), clock.second());
    html! { time datetime=(text) { (date) " " (format!("{hour:02}:{minute:02}:{second:02}Z")) } }
}

/// How far away a time is: `in 47 min`, `2 h ago`.
pub(super) fn distance(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let length = duration((at - now).abs());
    if at > now { format!("in {length}") } else { format!("{length} ago") }
}

/// A duration by its largest unit.
pub(super) fn duration(length: Duration) -> String {
    let (days, hours, minutes) = (length.whole_days(), length.whole_hours(), length.whole_minutes());
    match (days, hours, minutes) {
        (2.., ..) => format!("{days} days"),
        (_, 2.., _) => format!("{hours} h"),
        (_, _, 2..) => format!("{minutes} min"),
        _ => format!("{} s", length.whole_seconds()),
    }
}

/// A number of things: `1 token`, `3 tokens`.
pub(super) fn count(number: i64, name: &str) -> String {
    if number == 1 { format!("1 {name}") } else { format!("{number} {name}s") }
}

/// The name of a value as the API has it.
pub(super) fn serialized(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value);
    value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The outcome of an event, or why it was refused or ended.
pub(super) fn outcome(event: &Value) -> Markup {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    html! {
        @match text("reason") {
            Some(reason) => span.bad { span.mark aria-hidden="true" { "✗" } " " code { (visible(reason)) } },
            None => span.ok { span.mark aria-hidden="true" { "✓" } " " (text("outcome").unwrap_or_default()) },
        }
    }
}

/// An id, shortened in the middle, with a button that copies it whole, as it is.
pub(super) fn id(text: &str) -> Markup {
    html! {
        code.id title=(visible(text)) { (visible(&short(text))) }
        " " (copy(text))
    }
}

/// A button that copies an id whole, as it is.
pub(super) fn copy(text: &str) -> Markup {
    html! { button.copy type="button" data-copy=(text) aria-label={ "Copy " (visible(text)) } { "copy" } }
}

/// The name of a refusal with its sentence.
pub(super) fn reason(name: &str) -> Markup {
    html! {
        code { (visible(name)) }
        @if let Some(entry) = catalogue::find(name) { ": " (entry.sentence) }
    }
}

pub(super) fn short(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    match letters.as_slice() {
        [first @ .., _, _, _, _] if letters.len() > 16 => {
            let tail: String = letters.iter().skip(letters.len() - 4).collect();
            format!("{}…{tail}", first.iter().take(8).collect::<String>())
        }
        _ => text.to_owned(),
    }
}

pub(super) fn state(state: DelegationState) -> Markup {
    let (class, mark) = match state {
        DelegationState::Active => ("ok", "✓"),
        DelegationState::Requested => ("warn", "◌"),
        DelegationState::Expired => ("dim", "–"),
        DelegationState::Revoked => ("bad", "✗"),
    };
    html! { span class=(class) { span.mark aria-hidden="true" { (mark) } " " (<&str>::from(state)) } }
}

pub(super) fn connection_state(state: ConnectionState) -> Markup {
    let (class, mark, name) = match state {
        ConnectionState::Active => ("ok", "✓", "active"),
        ConnectionState::NeedsReconnect => ("warn", "!", "needs to be connected again"),
        ConnectionState::Disconnected => ("dim", "–", "disconnected"),
    };
    html! { span class=(class) { span.mark aria-hidden="true" { (mark) } " " (name) } }
}

pub(super) fn grant_state(state: StandingGrantState) -> Markup {
    let (class, mark, name) = match state {
        StandingGrantState::Active => ("ok", "✓", "active"),
        StandingGrantState::Suspended => ("bad", "✗", "suspended: key changed"),
        StandingGrantState::Expired => ("dim", "–", "expired"),
        StandingGrantState::Revoked => ("bad", "✗", "revoked"),
    };
    html! { span class=(class) { span.mark aria-hidden="true" { (mark) } " " (name) } }
}

/// A count that is exact up to its bound: `7`, `1,000+`.
pub(super) fn bounded(count: &BoundedCount) -> String {
    let more = if count.at_least { "+" } else { "" };
    match count.number {
        number @ ..1_000 => format!("{number}{more}"),
        number => format!("{},{:03}{more}", number / 1_000, number % 1_000),
    }
}

/// Uses, with their limit if there is one: `14/20`.
pub(super) fn uses(one: &View) -> String {
    match one.max_uses {
        None => one.uses.to_string(),
        Some(most) => format!("{}/{most}", one.uses),
    }
}

pub(super) fn principal(who: &Principal) -> Markup {
    html! { bdi { (visible(&who.sub)) } " " span.dim { (who.iss) } }
}

/// What an agent says of itself, marked as its own words.
pub(super) fn quotation(text: &str) -> Markup {
    quotation_of("says the agent", text)
}

/// The words of another party, marked as its own.
pub(super) fn quotation_of(says: &str, text: &str) -> Markup {
    let cut: String = text.chars().take(MAX_QUOTED).collect();
    html! {
        blockquote {
            span.says { (says) }
            bdi { (visible(&cut)) }
            @if cut.len() < text.len() { " …" }
        }
    }
}

/// A text in which characters without a shape, and those that change the direction of writing, are visible.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\t' => shown.push(letter),
            '\u{2028}' | '\u{2029}' => shown.push_str(&format!("U+{:04X}", u32::from(letter))),
            letter if letter.is_control() || is_invisible(letter) => {
                shown.push_str(&format!("U+{:04X}", u32::from(letter)));
            }
            letter => shown.push(letter),
        }
    }
    shown
}

/// Names, each as code; `all` where there is no limit, and `none` where nothing is allowed.
pub(super) fn names(list: Option<&Vec<String>>, all: &str) -> Markup {
    html! {
        @match list {
            None => span.dim { (all) },
            Some(list) if list.is_empty() => span.bad { "nothing" },
            Some(list) => @for (place, name) in list.iter().enumerate() {
                @if place > 0 { ", " }
                code.scope { (visible(name)) }
            },
        }
    }
}

/// How long a delegation lasts: from the approval on, or from now on.
pub(super) fn length(one: &View, now: OffsetDateTime) -> String {
    match (one.expires_in, clock::instant(&one.expires_at)) {
        (Some(seconds), _) => duration(Duration::seconds(seconds.into())),
        (None, Some(end)) if end > now => duration(end - now),
        (None, _) => "no time any more".to_owned(),
    }
}

/// What a delegation allows, in one sentence.
pub(super) fn sentence(one: &View, now: OffsetDateTime) -> Markup {
    let length = length(one, now);
    html! {
        "May use " (names(one.scopes.as_ref(), "every scope"))
        " at " (names(one.audiences.as_ref(), "every resource"))
        " for " (length) ", "
        @match one.max_uses { None => "any number of uses", Some(1) => "once", Some(most) => { "at most " (most) " uses" } }
        ". "
        @match one.max_depth {
            None => "May pass it on.",
            Some(0 | 1) => "May not pass it on.",
            Some(most) => { "May pass it on (" (most) " deep)." },
        }
        @if one.offline_access { " May work while the user is away." }
    }
}

/// The limits of a delegation beside scopes, targets and numbers, for a list of terms.
pub(super) fn limits(one: &View) -> Markup {
    html! {
        dt { "highest capability" } dd { @match &one.capability_ceiling { Some(ceiling) => code { (ceiling) }, None => "any capability" } }
        @if one.offline_access { dt { "while the user is away" } dd { "it may continue, without a token of the user" } }
        @if let Some(asked) = &one.authorization_details { dt { "authorization details" } dd { (details(asked)) } }
    }
}

/// Details as an agent wrote them.
pub(super) fn details(details: &Details) -> Markup {
    html! { pre { (visible(&format!("{:#}", serde_json::json!(details)))) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_hide_or_turn_text_are_visible() {
        assert_eq!(visible("a\u{202e}b\u{200b}\u{0}\n"), "aU+202EbU+200BU+0000\n");
        assert_eq!(visible("é 日本 ok"), "é 日本 ok");
        assert_eq!(visible("a\u{ad}\u{fe0f}\u{e0041}\tb"), "aU+00ADU+FE0FU+E0041\tb");
    }

    #[test]
    fn a_count_above_its_bound_says_so() {
        let shown = |number, at_least| bounded(&BoundedCount { number, at_least });
        assert_eq!(
            [shown(0, false), shown(999, false), shown(1_000, false), shown(1_000, true)],
            ["0", "999", "1,000", "1,000+"]
        );
    }

    #[test]
    fn a_long_id_is_short_in_the_middle() {
        assert_eq!(short("01a20300-aaaa-bbbb-cccc-0123456789ab"), "01a20300…89ab");
        assert_eq!(short("email-svc"), "email-svc");
    }

    #[test]
    fn a_distance_has_its_largest_unit() {
        let now = OffsetDateTime::UNIX_EPOCH;
        for (seconds, expected) in
            [(30, "in 30 s"), (-130, "2 min ago"), (7_300, "in 2 h"), (-200_000, "2 days ago")]
        {
            assert_eq!(distance(now + Duration::seconds(seconds), now), expected);
        }
    }
}
