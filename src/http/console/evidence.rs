//! `/console/chains/{txn}/evidence` and `/console/events/{id}/evidence`: one file that verifies without this server. And the page
//! of an event that is archived.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use maud::{Markup, html};

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, PageResult, require_same_site, serve};
use super::words;
use crate::domain::refusal::{Error, Refusal};
use crate::http::evidence_file::{self, EvidenceTarget};
use crate::services::audit::archived::{self, ArchivedPlace};

pub(super) async fn of_chain(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let txn = known.segment("txn");
        send(&known, EvidenceTarget::Chain(txn)).await
    })
    .await
}

pub(super) async fn of_event(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let name = known.segment("id");
        send(&known, EvidenceTarget::Event(name)).await
    })
    .await
}

async fn send(known: &ConsoleRequest<'_>, target: EvidenceTarget) -> PageResult {
    // A download is an event of its reader: no other site causes it.
    require_same_site(known.request)?;
    Ok(PageAnswer::Response(evidence_file::send(known.app, &known.context, target).await?))
}

/// The link to the evidence about the page at `here`.
pub(super) fn button(here: &str) -> Markup {
    html! { p.moves { a.button href={ (here) "/evidence" } data-move="e" { "Evidence" } } }
}

/// The page in place of an event or a chain that cannot be shown: what is archived has one that names its file.
pub(super) async fn absent(known: &ConsoleRequest<'_>, target: &EvidenceTarget, error: Error) -> PageResult {
    let (EvidenceTarget::Event(name) | EvidenceTarget::Chain(name)) = target;
    if !matches!(error, Error::Refused(Refusal::EventsArchived)) {
        return Err(error.into());
    }
    let Some(ArchivedPlace { file, seqs }) = archived::find(&known.context, name).await? else {
        return Err(error.into());
    };
    let (list, kind, command) = match target {
        EvidenceTarget::Event(_) => {
            let lookup = if name.parse::<u64>().is_ok() { "--seq" } else { "--id" };
            (
                ("/console/events", "Events"),
                "Event",
                format!("actchain audit show --archive {file} {lookup} {name}"),
            )
        }
        // Each line of the file has a document. An id of a chain that is archived is a UUID.
        EvidenceTarget::Chain(_) => {
            (("/console/chains", "Chains"), "Chain", format!("grep -F {name} {file}"))
        }
    };
    let body = html! {
        p { a href=(known.url(list.0)) data-back { (list.1) } }
        h1 { (kind) " " code { (words::visible(&words::short(name))) } }
        p {
            "It is archived, and not in the database any more. The events from " (seqs.start) " up to " (seqs.end.saturating_sub(1))
            " are in the file " code { (words::visible(&file)) } "."
        }
        p { "To read it: " code { (words::visible(&command)) } }
        p { "To verify the file: " code { "actchain audit verify " (words::visible(&file)) } }
        p.dim { "The folder of the file is that of " code { "actchain audit archive --dir" } ". Its events are still in the tree, so proofs for them exist." }
    };
    let page = ConsolePage::new(format!("{kind} {name}"), body);
    Ok(PageAnswer::Shown(ConsolePage { status: StatusCode::GONE, ..page }))
}
