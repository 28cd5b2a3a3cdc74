//! The log, or the events of a filter, as a file, streamed to the management API and the console.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::BodyStream;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName};

use super::file_pieces::{SIZE, pieces};
use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::services::audit::export::{self, ExportOptions};
use crate::services::request_context::RequestContext;

/// The first exported `seq`.
const FIRST: HeaderName = HeaderName::from_static("actchain-audit-from");

/// Answers with the file; the rest is read while it is sent. A caller has as many at a time as it can have streams.
pub(super) async fn send(
    app: &App,
    ctx: &RequestContext<'_>,
    options: ExportOptions,
) -> Result<HttpResponse, Error> {
    let format = options.format;
    let slot = app.limits.readers.enter(&ctx.caller.key(&app.issuer)).ok_or(Refusal::RateLimited)?;
    let export = export::begin(ctx, &app.seal, options).await?;
    let patience = Duration::from_secs(app.config.audit.stream_write_timeout.into());
    let file = format!("attachment; filename=\"audit-{}-{}.{}\"", export.first, export.size, format.name());
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, format.media_type()))
        .insert_header((CONTENT_DISPOSITION, file))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((SIZE, export.size.to_string()))
        .insert_header((FIRST, export.first.to_string()))
        .body(BodyStream::new(pieces(export, slot, patience))))
}
