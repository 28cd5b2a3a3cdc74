//! The panels: a title each, and lines of pieces.

use time::OffsetDateTime;

use super::state::Reading;
use super::style::{Piece, Tone, piece};
use super::text::{chain, cut, milliseconds, name, time_of, visible};
use crate::domain::audit::activity::WindowActivity;
use crate::domain::audit::health::{LogHealth, LogVerdict};
use crate::domain::audit::log_checks::EndedVerification;
use crate::platform::clock::rfc3339;
use crate::services::top::{
    ChainLine, EventLine, LedgerMetrics, Part, SettingLine, TopSnapshot, WaitingLine, WaitingPart,
};

/// Maximum number of characters of a reason in its column.
const MAX_REASON: usize = 30;

/// The side on which a wide terminal shows a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) side: Side,
    pub(super) lines: Vec<Vec<Piece>>,
}

/// The panels of a reading, the most important first.
pub(super) fn panels(reading: &Reading) -> Vec<Panel> {
    let TopSnapshot { rates, waiting, chains, events, findings, log, settings, .. } = &reading.snapshot;
    let now = reading.at;
    let panel = |title: &str, side, lines| Panel { title: title.to_owned(), side, lines };
    let heads = ["1 min", "5 min", "1 hour"].map(str::to_owned);
    let rates_title = format!("{:<26}{:>7}{}", "Rates", "per s", columns(&heads));
    let refusals_title = format!("{:<33}{}", "Refusals by reason", columns(&heads));
    let waits = match waiting.as_read() {
        Ok(waiting) if waiting.count.at_least => {
            format!("Waiting for a decision: {} or more", waiting.count.number)
        }
        Ok(waiting) => format!("Waiting for a decision: {}", waiting.count.number),
        Err(_) => "Waiting for a decision".to_owned(),
    };
    vec![
        panel(&rates_title, Side::Left, of_part(rates, |rates| rates_of(rates))),
        panel(&waits, Side::Left, of_part(waiting, |waiting| waiting_of(waiting, now))),
        panel(&refusals_title, Side::Left, of_part(rates, |rates| refusals(rates))),
        panel("Newest events", Side::Right, of_part(events, |events| events_of(events, now))),
        panel("Findings", Side::Right, of_part(findings, |events| findings_of(events, now))),
        panel(
            "Active chains of the last hour",
            Side::Right,
            of_part(chains, |chains| chains_of(chains, now)),
        ),
        panel("Ledger", Side::Left, ledger(reading)),
        panel("Log", Side::Left, of_part(log, log_of)),
        panel("Settings", Side::Right, of_part(settings, |settings| settings_of(settings))),
    ]
}

fn of_part<T>(part: &Part<T>, lines: impl FnOnce(&T) -> Vec<Vec<Piece>>) -> Vec<Vec<Piece>> {
    match part.as_read() {
        Ok(read) => lines(read),
        Err(error) => vec![vec![piece(Tone::Bad, format!("✗ cannot be read: {}", visible(error)))]],
    }
}

/// The values of the three windows below each other.
fn columns(values: &[String; 3]) -> String {
    let [first, second, third] = values;
    format!("{first:>8}{second:>8}{third:>9}")
}

/// A sign on numbers that there are more of.
fn at_least(window: &WindowActivity) -> &'static str {
    if window.complete { "" } else { "≥" }
}

fn numbers(rates: &[WindowActivity], count: impl Fn(&WindowActivity) -> u64) -> String {
    let text = |window: &WindowActivity| format!("{}{}", at_least(window), count(window));
    columns(&[0, 1, 2].map(|place| rates.get(place).map(text).unwrap_or_default()))
}

fn rates_of(rates: &[WindowActivity]) -> Vec<Vec<Piece>> {
    type Count = fn(&WindowActivity) -> u64;
    let rows: [(&str, Count); 6] = [
        ("exchanges", |window| window.counts.exchanges),
        ("refusals", |window| window.counts.refusals),
        ("retrievals", |window| window.counts.retrievals),
        ("steps", |window| window.counts.steps),
        ("events with findings", |window| window.counts.findings),
        ("events", |window| window.counts.events),
    ];
    let line = |(name, count): (&str, Count)| {
        let rate = |window: &WindowActivity| {
            let rate = count(window) as f64 / window.seconds.max(1) as f64;
            format!("{}{rate:.1}", at_least(window))
        };
        let rate = rates.first().map(rate).unwrap_or_default();
        vec![piece(Tone::Plain, format!("{name:<26}{rate:>7}{}", numbers(rates, count)))]
    };
    rows.into_iter().map(line).collect()
}

fn refusals(rates: &[WindowActivity]) -> Vec<Vec<Piece>> {
    let of = |window: &WindowActivity, reason: &str| window.reasons.get(reason).copied().unwrap_or_default();
    let Some(longest) = rates.last() else { return Vec::new() };
    let mut reasons: Vec<&String> = longest.reasons.keys().collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(of(longest, reason)));
    if reasons.is_empty() {
        return vec![vec![piece(Tone::Good, "✓ none in the last hour")]];
    }
    let line = |reason: &String| {
        let text =
            format!("✗ {:<31}{}", cut(reason, MAX_REASON), numbers(rates, |window| of(window, reason)));
        vec![piece(Tone::Bad, text)]
    };
    reasons.into_iter().map(line).collect()
}

fn waiting_of(waiting: &WaitingPart, now: OffsetDateTime) -> Vec<Vec<Piece>> {
    if waiting.items.is_empty() {
        return vec![vec![piece(Tone::Good, "✓ nothing waits")]];
    }
    let line = |one: &WaitingLine| {
        vec![
            piece(Tone::Warning, format!("! {}", one.kind)),
            piece(Tone::Plain, format!("{} for {}", name(&one.agent), name(&one.delegator.sub))),
            piece(Tone::Dim, time_of(&one.requested_at, now)),
            piece(Tone::Dim, visible(&one.delegation_id)),
        ]
    };
    waiting.items.iter().map(line).collect()
}

/// Glyph and word of an outcome.
fn outcome(event: &EventLine) -> Piece {
    match event.outcome.as_str() {
        "success" => piece(Tone::Good, "✓"),
        _ => piece(Tone::Bad, format!("✗ {}", visible(&event.outcome))),
    }
}

fn events_of(events: &[EventLine], now: OffsetDateTime) -> Vec<Vec<Piece>> {
    if events.is_empty() {
        return vec![vec![piece(Tone::Dim, "no event yet")]];
    }
    let line = |event: &EventLine| {
        let rules: Vec<&str> = event.findings.iter().map(|finding| finding.rule.as_str()).collect();
        let took = event.took_us.map(|micros| milliseconds(micros as f64 / 1e6));
        let findings =
            if rules.is_empty() { String::new() } else { format!("! {}", visible(&rules.join(" "))) };
        vec![
            piece(Tone::Dim, time_of(&event.at, now)),
            outcome(event),
            piece(Tone::Plain, visible(&event.action)),
            piece(Tone::Bad, event.reason.as_deref().map(visible).unwrap_or_default()),
            piece(Tone::Warning, findings),
            piece(Tone::Plain, chain(event.subject.as_deref(), &event.actors, &event.by)),
            piece(Tone::Dim, event.target.as_deref().map(name).unwrap_or_default()),
            piece(Tone::Dim, took.unwrap_or_default()),
        ]
    };
    events.iter().map(line).collect()
}

fn findings_of(events: &[EventLine], now: OffsetDateTime) -> Vec<Vec<Piece>> {
    if events.is_empty() {
        return vec![vec![piece(Tone::Good, "✓ none")]];
    }
    let line = |event: &EventLine| {
        let rules =
            event.findings.iter().map(|one| format!("{} ({})", visible(&one.rule), visible(&one.severity)));
        vec![
            piece(Tone::Warning, format!("! {}", rules.collect::<Vec<_>>().join(", "))),
            piece(Tone::Dim, time_of(&event.at, now)),
            piece(Tone::Plain, format!("event {}", event.seq)),
            piece(Tone::Plain, visible(&event.action)),
            piece(Tone::Plain, chain(event.subject.as_deref(), &event.actors, &event.by)),
        ]
    };
    events.iter().map(line).collect()
}

fn chains_of(chains: &[ChainLine], now: OffsetDateTime) -> Vec<Vec<Piece>> {
    if chains.is_empty() {
        return vec![vec![piece(Tone::Dim, "none")]];
    }
    let line = |one: &ChainLine| {
        let refusals = match one.refusals {
            0 => String::new(),
            number => format!("✗ {number} refused"),
        };
        vec![
            piece(Tone::Good, "✓ active"),
            piece(Tone::Plain, chain(one.subject.as_deref(), &one.actors, "")),
            piece(Tone::Dim, format!("{} events", one.events)),
            piece(Tone::Bad, refusals),
            piece(Tone::Dim, time_of(&one.last_at, now)),
        ]
    };
    chains.iter().map(line).collect()
}

fn ledger(reading: &Reading) -> Vec<Vec<Piece>> {
    let state = &reading.snapshot.ledger;
    let source = state.source.as_deref().map(visible).unwrap_or_default();
    let metrics = match &state.metrics {
        Err(why) => {
            return vec![
                vec![piece(Tone::Warning, "! metrics not reachable"), piece(Tone::Dim, source)],
                vec![piece(Tone::Plain, visible(why))],
            ];
        }
        Ok(metrics) => metrics,
    };
    let mut lines =
        vec![vec![piece(Tone::Plain, format!("{} requests wait to be recorded", metrics.queue_depth))]];
    if let Some((difference, time)) = &reading.ledger {
        lines.extend(batches(&format!("in the last {} s", time.whole_seconds()), difference));
    }
    lines.extend(batches("since the server's start", metrics));
    lines.push(vec![piece(Tone::Dim, source)]);
    lines
}

fn batches(when: &str, metrics: &LedgerMetrics) -> Vec<Vec<Piece>> {
    let LedgerMetrics { batches, entries, commit_seconds, .. } = metrics;
    let mean = if *batches > 0.0 { format!(", {:.1} a batch", entries / batches) } else { String::new() };
    let limit = |part: f64, name: &str| match (commit_seconds.limit_of(part), commit_seconds.mean()) {
        (Some(limit), _) => format!("{name} ≤ {}", milliseconds(limit)),
        (None, Some(_)) => format!("{name} above 10 s"),
        (None, None) => String::new(),
    };
    let numbers = vec![piece(Tone::Plain, format!("{when}: {batches} batches, {entries} requests{mean}"))];
    let Some(average) = commit_seconds.mean() else { return vec![numbers] };
    let times = vec![
        piece(Tone::Plain, format!("  a batch took {} on average", milliseconds(average))),
        piece(Tone::Plain, limit(0.5, "half")),
        piece(Tone::Plain, limit(0.99, "99 %")),
    ];
    vec![numbers, times]
}

/// The state of the log with its glyph, for the head of the screen.
pub(super) fn badge(log: &Part<LogHealth>) -> Piece {
    match log.as_read().map(|log| &log.verdict) {
        Ok(LogVerdict::Consistent(concerns)) if concerns.is_empty() => piece(Tone::Good, "✓ log consistent"),
        Ok(LogVerdict::Consistent(_)) => piece(Tone::Warning, "! log needs attention"),
        Ok(LogVerdict::Broken(_)) => piece(Tone::Bad, "✗ log broken"),
        Ok(LogVerdict::Unchecked) | Err(_) => piece(Tone::Warning, "! log not checked"),
    }
}

/// What the last verification of every event has found.
fn verified(last: Option<&EndedVerification>) -> String {
    match last {
        None => "no verification of every event has ended yet".to_owned(),
        Some(EndedVerification { events: Some(events), ended_at, .. }) => {
            format!("{events} events verified at {}", rfc3339(*ended_at))
        }
        Some(last) => format!("not valid at {}", rfc3339(last.ended_at)),
    }
}

fn log_of(log: &LogHealth) -> Vec<Vec<Piece>> {
    let covered = match log.checkpoint {
        Some(size) => format!("the newest checkpoint covers {size}"),
        None => "no checkpoint".to_owned(),
    };
    let mut lines = vec![vec![piece(Tone::Plain, format!("{} events, {covered}", log.size))]];
    match &log.verdict {
        LogVerdict::Consistent(concerns) if concerns.is_empty() => {
            lines.push(vec![piece(
                Tone::Good,
                "✓ continues the newest checkpoint; a witness or a person vouches for it",
            )]);
        }
        LogVerdict::Consistent(concerns) => {
            lines.extend(
                concerns.iter().map(|one| vec![piece(Tone::Warning, format!("! {}", one.sentence()))]),
            );
        }
        LogVerdict::Broken(why) => {
            lines.push(vec![piece(Tone::Bad, format!("✗ {}", visible(why)))]);
            lines.push(vec![piece(
                Tone::Bad,
                "  keep a copy of the database, and run `actchain audit verify`",
            )]);
        }
        LogVerdict::Unchecked => {}
    }
    lines.push(vec![piece(Tone::Dim, verified(log.verification.last.as_ref()))]);
    lines
}

/// The settings that are no defaults.
fn settings_of(settings: &[SettingLine]) -> Vec<Vec<Piece>> {
    let changed: Vec<&SettingLine> = settings.iter().filter(|one| one.source != "default").collect();
    let mut lines = vec![vec![piece(
        Tone::Dim,
        format!(
            "{} set, {} defaults; a server has those of its start",
            changed.len(),
            settings.len() - changed.len()
        ),
    )]];
    lines.extend(changed.into_iter().map(|one| {
        let value = match (&one.value, one.secret) {
            (Some(value), _) => name(value),
            (None, Some(_)) => "set".to_owned(),
            (None, None) => "not set".to_owned(),
        };
        let source =
            format!("{} {}", one.source, one.source_name.as_deref().map(visible).unwrap_or_default());
        vec![piece(Tone::Plain, format!("{} = {value}", one.key)), piece(Tone::Dim, source.trim_end())]
    }));
    lines
}

/// The server that was started last.
pub(super) fn server(snapshot: &TopSnapshot) -> Piece {
    match &snapshot.server {
        None => piece(Tone::Dim, "no server was started on this database"),
        Some(server) => piece(
            Tone::Dim,
            format!(
                "server at {}, process {}, started {}",
                visible(&server.listen),
                server.pid,
                rfc3339(server.started_at).get(..19).unwrap_or_default()
            ),
        ),
    }
}
