//! The check of an event's proof in the browser: the bytes that its script reads, and the place of the results. What the server
//! found is elsewhere on the page, for browsers without scripts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};

use super::assets;
use super::guard::ConsoleRequest;
use crate::domain::refusal::Error;
use crate::platform::fault::Context;
use crate::services::audit::log_keys;
use crate::services::audit::query::EventDetail;
use actchain_protocol::signed_note::VerifierKey;

/// Longest document that a page carries, in bytes: the longest of an entry in a tile (c2sp.org/tlog-tiles).
const MAX_DOCUMENT: usize = 65_535;

/// Empty for an event without a checkpoint: there is nothing to compare with.
pub(super) async fn section(known: &ConsoleRequest<'_>, detail: &EventDetail) -> Result<Markup, Error> {
    let Some(proof) = detail.inclusion.as_ref().filter(|proof| proof.checkpoint.is_some()) else {
        return Ok(Markup::default());
    };
    let length = detail.document.len();
    if length > MAX_DOCUMENT {
        return Ok(html! {
            h2 { "Check in this browser" }
            p { "The document has " (length) " bytes, and a page carries at most " (MAX_DOCUMENT) ". The command above checks the files." }
        });
    }
    // Under the name in the checkpoint: the log of a server that was renamed has earlier names.
    let name = proof.checkpoint.as_deref().and_then(|note| note.lines().next()).unwrap_or_default();
    let keys = known.app.read(async |connection| log_keys(connection, name).await).await?;
    let keys = keys.iter().map(VerifierKey::text).collect::<Vec<String>>().join("\n");
    let proof = serde_json::to_string(proof).context("writing a proof")?;
    let script = known.url(&format!("/console/assets/{}", assets::CHECK_PROOF.name));
    Ok(html! {
        section #proof-check data-document=(STANDARD.encode(&detail.document)) data-proof=(proof) data-keys=(keys) {
            h2 { "Check in this browser" }
            p role="status" { "This browser has checked nothing: that needs JavaScript. The command above checks the same files." }
            div data-results hidden {
                ol {}
                label.field { "the key of the log that you kept" textarea rows="2" cols="72" autocomplete="off" spellcheck="false" {} }
            }
            p.dim { "The script comes from this server, too. To check without trust in the server, check the files elsewhere." }
        }
        script type="module" src=(script) {}
    })
}
