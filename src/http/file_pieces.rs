//! Files that are sent in pieces: exports, sessions and evidence. A reader that stops reading is disconnected in a way that
//! no client takes for the end of the file.

use std::time::Duration;

use actix_web::http::header::HeaderName;
use actix_web::web::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

use crate::domain::rate_limit::ConcurrencyPermit;
use crate::platform::fault::Fault;
use crate::services::audit::export::ExportPieces;

/// The most pieces that are buffered.
const WAITING: usize = 4;
/// Number of events in the log of which the file is a part.
pub(super) const SIZE: HeaderName = HeaderName::from_static("actchain-audit-size");

/// Produces a few pieces ahead of the reader. An incomplete export ends in an error.
pub(super) fn pieces(
    mut export: impl ExportPieces,
    slot: ConcurrencyPermit,
    patience: Duration,
) -> impl futures_util::Stream<Item = Result<Bytes, Fault>> + 'static {
    let (sender, receiver) = mpsc::channel::<Option<Bytes>>(WAITING);
    tokio::spawn(async move {
        loop {
            let piece = match export.next_piece().await {
                Ok(piece) => piece,
                Err(fault) => {
                    tracing::error!(error = %fault, "an export failed");
                    metrics::counter!("actchain_errors_total").increment(1);
                    return;
                }
            };
            let last = piece.is_none();
            // An empty chunk would end the body.
            if piece.as_ref().is_some_and(Bytes::is_empty) {
                // The reader has closed the connection, and a long log can have no further match.
                if sender.is_closed() {
                    return;
                }
                continue;
            }
            let sent = tokio::time::timeout(patience, sender.send(piece)).await;
            if sent.is_err() {
                metrics::counter!("actchain_audit_stream_disconnects_total", "reader" => "export")
                    .increment(1);
            }
            if last || !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    });
    // The slot is freed when the connection closes, not before.
    Box::pin(stream::unfold(Some((receiver, slot)), async |state| {
        let (mut receiver, slot) = state?;
        match receiver.recv().await {
            Some(Some(bytes)) => Some((Ok(bytes), Some((receiver, slot)))),
            // `None` marks a complete export.
            Some(None) => None,
            None => Some((Err(Fault::new("the export was broken off")), None)),
        }
    }))
}
