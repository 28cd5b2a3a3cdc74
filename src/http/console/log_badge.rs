//! The state of the log in the frame: what was checked, when, and by which server. It is green for what was checked alone.

use maud::{Markup, html};
use time::OffsetDateTime;

use super::words;
use crate::domain::audit::health::{LogConcern, LogHealth, LogVerdict};
use crate::platform::clock::rfc3339;

/// Class, mark and word of a verdict.
fn mark(verdict: &LogVerdict) -> (&'static str, &'static str, &'static str) {
    match verdict {
        LogVerdict::Consistent(concerns) if concerns.is_empty() => ("ok", "✓", "log consistent"),
        LogVerdict::Consistent(_) => ("warn", "!", "log"),
        LogVerdict::Unchecked => ("warn", "!", "log not checked"),
        LogVerdict::Broken(_) => ("bad", "✗", "log broken"),
    }
}

fn sentence(concern: LogConcern) -> &'static str {
    match concern {
        LogConcern::NoCheckpoint => "There is no checkpoint yet.",
        LogConcern::OldCheckpoint => {
            "The newest checkpoint is older than three minutes, and there are later events."
        }
        LogConcern::NoWitness => "No witness is configured: only this server vouches for the log.",
        LogConcern::NotCosigned => {
            "The witnesses have not cosigned the newest checkpoint, and none in the last ten minutes."
        }
        LogConcern::IndexBehind => "The index of searches is more than 4,096 events behind.",
    }
}

/// The badge, which unfolds to what was checked.
pub(super) fn badge(health: &LogHealth, issuer: &str, now: OffsetDateTime) -> Markup {
    let (class, glyph, word) = mark(&health.verdict);
    html! {
        details.badge {
            summary class=(class) title=(title(health, issuer)) { span.mark aria-hidden="true" { (glyph) } " " (word) }
            div { (explained(health, issuer, now)) }
        }
    }
}

fn title(health: &LogHealth, issuer: &str) -> String {
    let covered = health
        .checkpoint
        .map_or_else(|| "no checkpoint".to_owned(), |size| format!("checkpoint over {size}"));
    format!("{} events, {covered}; checked at {} by {issuer}", health.size, rfc3339(health.checked_at))
}

/// What was checked and what was not, in sentences.
pub(super) fn explained(health: &LogHealth, issuer: &str, now: OffsetDateTime) -> Markup {
    let covered = health.checkpoint;
    html! {
        @match &health.verdict {
            LogVerdict::Broken(why) => p.bad { (why) },
            LogVerdict::Unchecked => p.warn { "The log could not be checked. The server's own log has the cause." },
            LogVerdict::Consistent(concerns) => {
                @if let Some(size) = covered {
                    p.ok { "The log of " (health.size) " events continues the newest checkpoint over " (size) ", which a key of the log has signed." }
                }
                @for concern in concerns { p.warn { (sentence(*concern)) } }
            }
        }
        p { "Checked at " (words::instant(&rfc3339(health.checked_at), now)) " by " (issuer) "." }
        p.dim { "Not checked here: each event. A server cannot vouch for itself. Run " code { "actchain audit verify" } " with a checkpoint that you keep." }
    }
}

/// The log at the foot of a printed page.
pub(super) fn printed(health: &LogHealth) -> Markup {
    let (_, glyph, word) = mark(&health.verdict);
    html! {
        (glyph) " " (word) ", " (health.size) " events under the root " code { (health.root) }
        ", checked at " (rfc3339(health.checked_at)) "."
    }
}

/// The banner of every page while the log is broken.
pub(super) fn banner(health: &LogHealth) -> Markup {
    html! {
        @if let LogVerdict::Broken(why) = &health.verdict {
            p.banner role="alert" {
                strong { "The audit log fails a check. " } (why)
                " Change nothing more, keep a copy of the database, and run " code { "actchain audit verify" } "."
            }
        }
    }
}
