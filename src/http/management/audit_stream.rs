//! `/api/v1/audit-logs/stream`: the log as server-sent events (HTML Living Standard §9.2), whose `id` is the `seq`.

use std::convert::Infallible;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use futures_util::stream;

use crate::domain::refusal::Refusal;
use crate::http::management::audit_logs::{filter, reject_unknown_params};
use crate::http::management::request::{HttpError, ManagementRequest, serve_audit};
use crate::services::audit::follow::{self, StreamItem};
use crate::services::audit::query::visible;

/// How long a client waits before it reconnects, in milliseconds.
const RETRY: &str = "retry: 2000\n\n";
/// Tells reverse proxies not to buffer this response.
const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

pub(in crate::http) async fn get(incoming: ManagementRequest) -> HttpResponse {
    let app = incoming.2.clone().into_inner();
    serve_audit(incoming, async |known| {
        let mut parameters = known.parameters()?;
        let filter = visible(&known.context.caller, filter(&mut parameters)?)?;
        let from = match (known.header("last-event-id"), parameters.remove("from_seq")) {
            // The header wins: a browser that reconnects sends it with the URL of its first request.
            (Some(last), _) => Some(place(last)?.saturating_add(1)),
            (None, Some(first)) => Some(place(&first)?),
            (None, None) => None,
        };
        reject_unknown_params(&parameters)?;
        let slot = app.limits.readers.enter(&known.caller_name()).ok_or(Refusal::RateLimited)?;
        let events = follow::follow(&app, &known.context.caller, filter, from).await?;
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(RETRY.as_bytes()))]);
        // The slot is freed when the connection closes, not before.
        let rest = stream::unfold((events, slot), async |(mut events, slot)| {
            let bytes = Bytes::from(text(&events.recv().await?));
            Some((Ok(bytes), (events, slot)))
        });
        Ok(HttpResponse::Ok()
            .content_type("text/event-stream; charset=utf-8")
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header(NO_BUFFERING)
            .force_close()
            .streaming(futures_util::StreamExt::chain(first, Box::pin(rest))))
    })
    .await
}

fn place(text: &str) -> Result<u64, HttpError> {
    let place = text
        .trim()
        .parse()
        .map_err(|_| Refusal::Malformed("Last-Event-ID and from_seq are places in the log"))?;
    Ok(place)
}

/// An event without data only advances the `id` at which the client would resume.
fn text(item: &StreamItem) -> String {
    match item {
        StreamItem::Events(events) => {
            let one = |(seq, document): &(u64, String)| format!("id: {seq}\ndata: {document}\n\n");
            events.iter().map(one).collect()
        }
        StreamItem::Heartbeat(0) => ":\n\n".to_owned(),
        StreamItem::Heartbeat(next) => format!("id: {}\n\n", next - 1),
    }
}
