//! A session as a file, streamed like an export of the log.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::BodyStream;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};

use super::file_pieces::{SIZE, pieces};
use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::services::audit::session_export::{self, SessionExportOptions};
use crate::services::request_context::RequestContext;

/// What to send of which session, and to whom.
pub(super) struct SessionFile<'a> {
    pub(super) session_id: &'a str,
    /// Limits the files that one reader reads at a time.
    pub(super) reader: &'a str,
    pub(super) options: SessionExportOptions,
}

/// Answers with the file; the rest is read while it is sent.
pub(super) async fn send(
    app: &App,
    ctx: &RequestContext<'_>,
    SessionFile { session_id, reader, options }: SessionFile<'_>,
) -> Result<HttpResponse, Error> {
    let slot = app.limits.readers.enter(reader).ok_or(Refusal::RateLimited)?;
    let export = session_export::begin(ctx, session_id, options).await?;
    let patience = Duration::from_secs(app.config.audit.stream_write_timeout.into());
    let format = options.format;
    // The id can be any text of an issuer; the first event identifies the session, too.
    let first = export.session.first_seq;
    let file = format!("attachment; filename=\"session-{first}-{}.{}\"", export.size, format.name());
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, format.media_type()))
        .insert_header((CONTENT_DISPOSITION, file))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((SIZE, export.size.to_string()))
        .body(BodyStream::new(pieces(export, slot, patience))))
}
