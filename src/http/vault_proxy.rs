//! `/vault/proxy/{connection}/{host}/{path}`: forwards requests upstream with a credential of the vault.

use actix_web::body::{BodyStream, SizedStream};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;

use crate::app::App;
use crate::domain::refusal::Refusal;
use crate::domain::vault::target::ProxyTarget;
use crate::http::credentials;
use crate::http::management::request::{HttpError, respond};
use crate::platform::fault::Context as _;
use crate::platform::outbound::{Chunks, ForwardedField};
use crate::services::vault::{self, ProxyRequest, ProxyResponse};

/// The most chunks of a body that are buffered.
const WAITING: usize = 8;
/// Names the sender of the response (RFC 9209).
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

pub(super) async fn call(request: HttpRequest, payload: Payload, app: Data<App>) -> HttpResponse {
    let app = app.into_inner();
    let pass = async || -> Result<HttpResponse, HttpError> {
        let access = credentials::access(&app.issuer, &request)?;
        // The raw path: the router's decoded path is neither validated nor forwarded.
        let path = credentials::path(&app.issuer, &request);
        let rest = path.strip_prefix("/vault/proxy/").ok_or(Refusal::NotFound)?;
        let (connection, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let method = request.method().as_str();
        let (length, has_body) = framing(request.headers())?;
        let onward = ProxyRequest {
            connection,
            target: ProxyTarget::read(method, rest, request.uri().query()),
            fields: fields(request.headers()),
            length,
            body: has_body.then(|| chunks(payload)),
        };
        let now = app.clock.now();
        let passed = vault::call(&app, &access, onward, now).await?;
        Ok(answer(passed))
    };
    let passed = pass().await;
    respond(&app, passed)
}

/// The length of the body if it is declared, and whether there is a body (RFC 9112 §6.3).
fn framing(headers: &HeaderMap) -> Result<(Option<u64>, bool), Refusal> {
    let malformed = Refusal::Malformed("Content-Length is not a number");
    let length = match headers.get(CONTENT_LENGTH) {
        None => None,
        Some(value) => Some(value.to_str().ok().and_then(|text| text.parse().ok()).ok_or(malformed)?),
    };
    if headers.contains_key(TRANSFER_ENCODING) {
        return Ok((None, true));
    }
    Ok((length, length.is_some_and(|length: u64| length > 0)))
}

fn fields(headers: &HeaderMap) -> Vec<ForwardedField> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// Sends the body from the HTTP worker to the forwarding task. Stops reading when that task drops its receiver.
fn chunks(mut payload: Payload) -> Chunks {
    let (sender, receiver) = mpsc::channel(WAITING);
    actix_web::rt::spawn(async move {
        loop {
            let chunk = tokio::select! {
                () = sender.closed() => break,
                chunk = payload.next() => chunk,
            };
            let Some(chunk) = chunk else { break };
            let failed = chunk.is_err();
            let chunk = chunk.map_err(|error| error.to_string()).context("reading a body");
            if sender.send(chunk).await.is_err() || failed {
                break;
            }
        }
    });
    Box::pin(stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))))
}

fn answer(passed: ProxyResponse) -> HttpResponse {
    let status = StatusCode::from_u16(passed.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::build(status);
    for (name, value) in &passed.fields {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            response.append_header((name, value));
        }
    }
    // No cache may keep a response to an authorized request, unless the upstream server says otherwise.
    if !passed.fields.iter().any(|(name, _)| name == CACHE_CONTROL.as_str()) {
        response.insert_header((CACHE_CONTROL, "no-store"));
    }
    response.insert_header((PROXY_STATUS, format!("actchain; received-status={}", passed.status)));
    match (status, passed.length) {
        (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => response.finish(),
        // Also for HEAD, where it is the length of the response to GET.
        (_, Some(length)) => response.body(SizedStream::new(length, passed.body)),
        (_, None) => response.body(BodyStream::new(passed.body)),
    }
}
