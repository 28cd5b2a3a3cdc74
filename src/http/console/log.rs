//! `/console/log`: what was checked of the log, what vouches for it, and how it compares with a checkpoint that a person kept.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::live_parts::AwaitedCheckpoint;
use super::{live, log_badge, words};
use crate::domain::audit::partitions::Partition;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::audit::log_state::{
    self, KeptComparison, ListedCheckpoint, LogState, ShownCheckpoint, WitnessState,
};

const PATH: &str = "/console/log";
/// The field with a kept checkpoint.
const NOTE_FIELD: &str = "note";

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let state = log_state::read(known.app, &known.context).await?;
        let mut shown = ConsolePage::new("Log", page(&known, &state, None)?);
        if state.checkpoint.is_none() {
            shown.feed = live::checkpoint_feed(PATH, 1);
        }
        Ok(PageAnswer::Shown(shown))
    })
    .await
}

/// Compares the log with the checkpoint that was pasted.
pub(super) async fn compare(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let pasted = known.form.get(NOTE_FIELD).unwrap_or_default();
        // Browsers send line ends as CR LF, and people lose the last one.
        let note = format!("{}\n", pasted.replace("\r\n", "\n").trim_end());
        let found = log_state::compare(known.app, &known.context, &note).await?;
        let state = log_state::read(known.app, &known.context).await?;
        Ok(PageAnswer::Shown(ConsolePage::new("Log", page(&known, &state, Some(found))?)))
    })
    .await
}

fn page(
    known: &ConsoleRequest<'_>,
    state: &LogState,
    compared: Option<KeptComparison>,
) -> Result<Markup, Fault> {
    let now = known.context.now;
    Ok(html! {
        h1 { "Log" }
        (log_badge::explained(&state.health, &known.app.issuer, now))
        h2 { "Checks" }
        (log_badge::checks(&state.health.verdict))
        dl {
            dt { "events" } dd { (state.health.size) }
            dt { "root" } dd { code { (state.health.root) } }
            dt { "indexed" } dd { (state.indexed) @if state.indexed < state.health.size { span.dim { ", " (state.health.size - state.indexed) " are searched one by one" } } }
        }
        h2 { "Newest checkpoint" }
        (checkpoint(state))
        (checkpoints(known, &state.checkpoints))
        (witnesses(&state.witnesses))
        h2 { "Compare with one that you kept" }
        (comparison(known, compared)?)
        h2 { "Keys of the log" }
        pre tabindex="0" { (words::visible(&state.keys)) }
        h2 { "Where the events are" }
        (partitions(known, &state.partitions))
    })
}

fn checkpoint(state: &LogState) -> Markup {
    html! {
        @match &state.checkpoint {
            None => p id=(AwaitedCheckpoint::PLACE) { "None yet. One is signed within a minute of the first event." },
            Some(ShownCheckpoint { note, cosigned_by }) => {
                pre tabindex="0" { (words::visible(note)) }
                @if cosigned_by.is_empty() { p.dim { "No witness has cosigned it yet." } }
                @else { p.ok { span.mark aria-hidden="true" { "✓" } " Cosigned by " @for (place, name) in cosigned_by.iter().enumerate() { @if place > 0 { ", " } code { (words::visible(name)) } } } }
            }
        }
    }
}

/// The newest checkpoints, and who vouches for them.
fn checkpoints(known: &ConsoleRequest<'_>, all: &[ListedCheckpoint]) -> Markup {
    html! {
        @if !all.is_empty() {
            table.rows {
                thead { tr { th { "checkpoint of" } th { "signed" } th { "cosigned by" } } }
                tbody {
                    @for one in all {
                        tr data-row {
                            td data-label="checkpoint of" { (one.size) " events" }
                            td data-label="signed" { (words::instant(&rfc3339(one.made_at), known.context.now)) }
                            td data-label="cosigned by" { @if one.cosigned_by.is_empty() { span.dim { "no witness" } } @else { (words::visible(&one.cosigned_by.join(", "))) } }
                        }
                    }
                }
            }
        }
    }
}

/// The witnesses of the configuration.
fn witnesses(all: &[WitnessState]) -> Markup {
    html! {
        h2 { "Witnesses" }
        @if all.is_empty() { p { "No witness is configured. Without one, only a checkpoint that you kept vouches for the log." } }
        @else {
            ul {
                @for WitnessState { name, cosigned } in all {
                    li {
                        code { (words::visible(name)) }
                        @match cosigned {
                            Some(size) => { ": has cosigned " (size) " events" }
                            None => ": no valid cosignature",
                        }
                    }
                }
            }
        }
    }
}

fn comparison(known: &ConsoleRequest<'_>, compared: Option<KeptComparison>) -> Result<Markup, Fault> {
    let target = known.url(&format!("{PATH}/compare"));
    Ok(html! {
        @if let Some(found) = compared { div #compared role="status" { (result(found)) } }
        form method="post" action=(target) {
            (known.hidden(&target)?)
            label.field { "the checkpoint, with its signatures"
                textarea name=(NOTE_FIELD) rows="6" cols="72" spellcheck="false" required {}
            }
            button type="submit" { "Compare" }
        }
        p.dim { "A server cannot vouch for itself. Elsewhere: " code { "actchain audit verify --checkpoint FILE" } }
    })
}

fn result(found: KeptComparison) -> Markup {
    let bad = |text: String| html! { p.bad { span.mark aria-hidden="true" { "✗" } " " (text) } };
    match found {
        KeptComparison::NotOurs => bad(
            "No key of this log has signed this text as a checkpoint: it is of another log, or was changed."
                .into(),
        ),
        KeptComparison::Empty => {
            bad("This checkpoint covers no event, so every log continues it: keep a later one.".into())
        }
        KeptComparison::Truncated { kept, size } => bad(format!(
            "The log has {size} events, and your checkpoint covers {kept}: events were removed from its end."
        )),
        KeptComparison::Rewritten { kept, size } => bad(format!(
            "The log of {size} events does not begin with the {kept} events of your checkpoint: it was rewritten."
        )),
        KeptComparison::Continued { kept, size } => html! {
            p.ok { span.mark aria-hidden="true" { "✓" } " The tree of the log of " (size) " events begins with that of the " (kept) " events of your checkpoint, which a key of this log has signed. That each event is the one of the tree, " code { "actchain audit verify" } " checks." }
        },
    }
}

fn partitions(known: &ConsoleRequest<'_>, all: &[Partition]) -> Markup {
    let now = known.context.now;
    html! {
        table.rows {
            thead { tr { th { "partition" } th { "from event" } th { "opened" } th { "archived" } } }
            tbody {
                @for one in all {
                    tr data-row {
                        td data-label="partition" { (one.partition) }
                        td data-label="from event" { (one.first_seq) }
                        td data-label="opened" { (words::instant(&rfc3339(one.opened_at), now)) }
                        td data-label="archived" {
                            @match one.archived_at {
                                None => "in the database",
                                Some(at) => {
                                    (words::instant(&rfc3339(at), now))
                                    @if let Some(statement) = &one.statement { details { summary { "statement" } pre tabindex="0" { (words::visible(statement)) } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
