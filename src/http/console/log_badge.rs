//! The state of the log in the frame: what was checked, when, and by which server. It is green for what was checked alone.

use maud::{Markup, html};
use time::OffsetDateTime;

use super::words;
use crate::domain::audit::health::{LogConcern, LogHealth, LogVerdict};
use crate::domain::audit::log_checks::EndedVerification;
use crate::domain::console::ConsoleRole;
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

/// What the parts of the badge and its banner are found by.
pub(super) const SUMMARY: &str = ".badge summary";
pub(super) const EXPLAINED: &str = ".badge div";
pub(super) const BANNER: &str = "#log-banner";

/// Whether these people see the state of the log.
pub(super) const fn sees_log(role: ConsoleRole) -> bool {
    match role {
        ConsoleRole::User => false,
        ConsoleRole::Auditor | ConsoleRole::Admin | ConsoleRole::Operator => true,
    }
}

/// The badge, which unfolds to what was checked.
pub(super) fn badge(health: &LogHealth, issuer: &str, now: OffsetDateTime) -> Markup {
    html! {
        details.badge {
            summary { (summary(health, issuer)) }
            div { (explained(health, issuer, now)) }
        }
    }
}

/// What the badge says while it is folded.
pub(super) fn summary(health: &LogHealth, issuer: &str) -> Markup {
    let (class, glyph, word) = mark(&health.verdict);
    html! { span class=(class) title=(title(health, issuer)) { span.mark aria-hidden="true" { (glyph) } " " (word) } }
}

fn title(health: &LogHealth, issuer: &str) -> String {
    let covered = health
        .checkpoint
        .map_or_else(|| "no checkpoint".to_owned(), |size| format!("checkpoint over {size}"));
    let verified = health.verification.last.map_or_else(
        || "never verified".to_owned(),
        |last| match last.events {
            Some(events) => format!("{events} verified at {}", rfc3339(last.ended_at)),
            None => format!("not valid at {}", rfc3339(last.ended_at)),
        },
    );
    let at = rfc3339(health.checked_at);
    format!("{} events, {covered}, {verified}; checked at {at} by {issuer}", health.size)
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
                @for concern in concerns { p.warn { (concern.sentence()) } }
            }
        }
        p { "Checked at " (words::instant(&rfc3339(health.checked_at), now)) " by " (issuer) "." }
        (verified(health, now))
        @if let Some(kept) = health.kept_checkpoint {
            p { "A checkpoint over " (kept.known.size) " events that a person kept was compared at " (words::instant(&rfc3339(kept.compared_at), now)) "." }
        }
        p.dim { "A server cannot vouch for itself. Run " code { "actchain audit verify" } " with a checkpoint that you keep." }
    }
}

/// What is checked, with the concerns that say that it is not so.
const CHECKS: [(&str, &[LogConcern]); 6] = [
    (
        "The log continues what is known of it: checkpoints, cosignatures, verified events.",
        &[LogConcern::NoCheckpoint],
    ),
    ("The newest checkpoint covers what is older than three minutes.", &[LogConcern::OldCheckpoint]),
    ("A witness or a person outside vouches for the log.", &[LogConcern::NoWitness, LogConcern::NotCosigned]),
    ("Every event was verified within a day.", &[LogConcern::NotVerified]),
    ("The index of searches follows the log.", &[LogConcern::IndexBehind]),
    ("Every sink accepts events.", &[LogConcern::SinkStopped]),
];

/// A line for each check.
pub(super) fn checks(verdict: &LogVerdict) -> Markup {
    let line = |place: usize, concerns: &[LogConcern]| match verdict {
        LogVerdict::Consistent(found) => match found.iter().find(|one| concerns.contains(one)) {
            None => ("ok", "✓", "yes", String::new()),
            Some(concern) => ("warn", "!", "no", concern.sentence().to_owned()),
        },
        LogVerdict::Broken(why) if place == 0 => ("bad", "✗", "no", why.clone()),
        LogVerdict::Broken(_) => {
            ("dim", "–", "not checked", "A log that is broken is not checked any further.".into())
        }
        LogVerdict::Unchecked => ("dim", "–", "not checked", "The server's own log has the cause.".into()),
    };
    html! {
        table.rows {
            thead { tr { th { "result" } th { "check" } th { "why not" } } }
            tbody {
                @for (place, (check, concerns)) in CHECKS.iter().enumerate() {
                    @let (class, glyph, word, otherwise) = line(place, concerns);
                    tr {
                        td data-label="result" { span class=(class) { span.mark aria-hidden="true" { (glyph) } " " (word) } }
                        td data-label="check" { (check) }
                        td data-label="why not" { (otherwise) }
                    }
                }
            }
        }
    }
}

/// How far every event was verified.
fn verified(health: &LogHealth, now: OffsetDateTime) -> Markup {
    html! {
        @match health.verification.last {
            None => p { "No verification of every event has ended yet." },
            Some(EndedVerification { events: Some(events), began_at, hashes_only, .. }) => p.ok {
                "Every event was verified, up to " (events) " events, from " (words::instant(&rfc3339(began_at), now)) " on."
                @if hashes_only > 0 { " " (hashes_only) " of them are archived: only their hashes were compared." }
            },
            Some(EndedVerification { events: None, ended_at, .. }) => p { "The last verification ended at " (words::instant(&rfc3339(ended_at), now)) " with an error." },
        }
        @if let Some(running) = &health.verification.running {
            p.dim { "A verification goes on: " (running.size) " of " (health.size) " events." }
        }
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
