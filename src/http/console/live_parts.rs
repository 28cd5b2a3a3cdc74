//! Parts of an open page that change beside its list: ends of waits, the state of the log, and a checkpoint that the page
//! waits for.

use maud::{Markup, html};
use time::OffsetDateTime;

use super::{log_badge, words};
use crate::app::App;
use crate::domain::refusal::Refusal;
use crate::platform::clock;
use crate::services::audit::health::health;
use crate::services::audit::transparency::newest_checkpoint;

/// Ends of waits that one page follows.
const MAX_DEADLINES: usize = 200;

/// New content of what a selector finds.
pub(super) fn part(target: &str, content: Markup) -> Markup {
    html! { hx-partial hx-target=(target) hx-swap="innerHTML" { (content) } }
}

/// Ends of waits on a page.
pub(super) struct Deadlines {
    ends: Vec<OffsetDateTime>,
    /// What the page says about them.
    said: Markup,
}

impl Deadlines {
    pub(super) fn of(ends: Option<&str>) -> Result<Self, Refusal> {
        let unreadable = Refusal::Malformed("until is a list of seconds");
        let texts = ends.unwrap_or_default().split(',').filter(|text| !text.is_empty());
        let instant = |text: &str| clock::from_seconds(text.parse().ok()?);
        let ends: Option<Vec<_>> = texts.map(instant).collect();
        let ends = ends.filter(|ends| ends.len() <= MAX_DEADLINES).ok_or(unreadable)?;
        Ok(Self { ends, said: Markup::default() })
    }

    /// How far away they are; nothing while that reads as before.
    pub(super) fn moved(&mut self, now: OffsetDateTime) -> Markup {
        let target = |end: &OffsetDateTime| format!("[data-until=\"{}\"]", end.unix_timestamp());
        let moved = html! { @for end in &self.ends { (part(&target(end), words::countdown(*end, now))) } };
        if moved.0 == self.said.0 {
            return Markup::default();
        }
        self.said = moved.clone();
        moved
    }
}

/// The state of the log on an open page.
#[derive(Default)]
pub(super) struct LiveBadge {
    /// When the log was checked, as the page has it.
    checked_at: Option<OffsetDateTime>,
    /// The banner, as the page has it. An alert that came again would be read out again.
    banner: Option<String>,
}

impl LiveBadge {
    /// The badge and its banner; nothing until the log was checked again.
    pub(super) async fn moved(&mut self, app: &App) -> Markup {
        let now = app.clock.now();
        let health = health(app, now).await;
        if self.checked_at == Some(health.checked_at) {
            return Markup::default();
        }
        self.checked_at = Some(health.checked_at);
        let (summary, explained) = (log_badge::SUMMARY, log_badge::EXPLAINED);
        let banner = log_badge::banner(&health);
        let is_new = self.banner.as_ref() != Some(&banner.0);
        self.banner = Some(banner.0.clone());
        html! {
            (part(summary, log_badge::summary(&health, &app.issuer)))
            (part(explained, log_badge::explained(&health, &app.issuer, now)))
            @if is_new { (part(log_badge::BANNER, banner)) }
        }
    }
}

/// A checkpoint that a page waits for.
pub(super) struct AwaitedCheckpoint {
    /// Number of events that the checkpoint has to cover.
    pub(super) size: u64,
    /// The URL of the page, which is shown again.
    pub(super) page: String,
}

impl AwaitedCheckpoint {
    /// Where the page says that it waits.
    pub(super) const PLACE: &'static str = "uncovered";

    pub(super) async fn is_covered(&self, app: &App) -> bool {
        let newest = app.read(async |connection| newest_checkpoint(connection).await).await;
        let size = newest.unwrap_or_else(|fault| {
            tracing::warn!(error = %fault, "the newest checkpoint was not read");
            None
        });
        size.is_some_and(|(size, _)| size >= self.size)
    }

    /// What shows the page again.
    pub(super) fn shown_again(self) -> Markup {
        let place = format!("#{}", Self::PLACE);
        part(
            &place,
            // No person made this request: it keeps no session and adds no history.
            html! {
                "A checkpoint was made · "
                a href=(self.page) hx-get=(self.page) hx-trigger="load, click" hx-push-url="false" hx-headers=r#"{"Actchain-Unattended": "true"}"# { "show" }
            },
        )
    }
}
