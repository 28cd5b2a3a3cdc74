//! Evidence about a chain or an event as one file, for the management API and the console.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::BodyStream;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};

use super::file_pieces::pieces;
use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::services::audit::LogSigner;
use crate::services::audit::evidence;
use crate::services::request_context::RequestContext;

/// What evidence is about.
pub(super) enum EvidenceTarget {
    /// The chain of this `txn`.
    Chain(String),
    /// The event of this id or `seq`.
    Event(String),
}

/// Answers with the file. A caller has as many at a time as it can have streams.
pub(super) async fn send(
    app: &App,
    ctx: &RequestContext<'_>,
    target: EvidenceTarget,
) -> Result<HttpResponse, Error> {
    let slot = app.limits.readers.enter(&ctx.caller.key(&app.issuer)).ok_or(Refusal::RateLimited)?;
    let signer = LogSigner { seal: &app.seal, issuer: &app.issuer };
    let archive = match target {
        EvidenceTarget::Chain(txn) => evidence::of_chain(ctx, signer, &txn).await?,
        EvidenceTarget::Event(name) => evidence::of_event(ctx, signer, &name).await?,
    };
    let patience = Duration::from_secs(app.config.audit.stream_write_timeout.into());
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/gzip"))
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", archive.file_name)))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(BodyStream::new(pieces(archive, slot, patience))))
}
