//! Shared by all endpoints of the management API: authentication, strict JSON bodies, idempotency keys, and responses.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use crate::app::App;
use crate::domain::idempotency::{self, IdempotencyKey};
use crate::domain::refusal::{Error, Refusal};
use crate::http::credentials;
use crate::http::params;
use crate::http::problem;
use crate::services::access_token_auth::{PresentedAccessToken, RequestProof, identify, identify_unsettled};
use crate::services::apply::{Change, ManifestFormat};
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use crate::services::transition::Reply;
use actchain_protocol::json;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Maximum length of a manifest, in bytes.
const MAX_MANIFEST_BYTES: usize = 16 * 1024 * 1024;
/// The longest report of steps: a hundred steps with three texts each, as JSON writes them.
const MAX_STEPS_BYTES: usize = 8 * 1024 * 1024;
/// The media type of a manifest in YAML.
pub(in crate::http) const MANIFEST_YAML: HeaderValue = HeaderValue::from_static("application/yaml");

/// Why a request fails, with a detail for this case.
pub(in crate::http) struct HttpError {
    stop: Error,
    detail: Option<String>,
    retry_after: Option<u32>,
}

impl<T: Into<Error>> From<T> for HttpError {
    fn from(stop: T) -> Self {
        Self { stop: stop.into(), detail: None, retry_after: None }
    }
}

impl HttpError {
    /// A refusal with a detail for this case.
    pub(in crate::http) fn with(refusal: Refusal, detail: String) -> Self {
        Self { stop: refusal.into(), detail: Some(detail), retry_after: None }
    }

    /// The same error with a detail for this case, if there is one.
    pub(in crate::http) fn with_detail(self, detail: Option<String>) -> Self {
        Self { detail, ..self }
    }

    /// A refusal with the number of seconds after which the client may retry.
    pub(in crate::http) fn later(refusal: Refusal, retry_after: u32) -> Self {
        Self { stop: refusal.into(), detail: None, retry_after: Some(retry_after) }
    }
}

/// The parts of an incoming request that actix extracts.
pub(in crate::http) type ManagementRequest = (HttpRequest, Payload, Data<App>);

pub(in crate::http) type ManagementResult = Result<HttpResponse, HttpError>;

/// A request whose caller is authenticated.
pub(in crate::http) struct AuthenticatedRequest<'a> {
    pub(in crate::http) app: &'a App,
    pub(in crate::http) context: RequestContext<'a>,
    request: &'a HttpRequest,
    body: Bytes,
}

/// Authenticates the caller, runs the endpoint and converts its result. Auditors are refused: their tokens read the
/// audit log only.
pub(in crate::http) async fn serve<F>(incoming: ManagementRequest, work: F) -> HttpResponse
where
    F: AsyncFnOnce(AuthenticatedRequest<'_>) -> ManagementResult,
{
    serve_audit(incoming, async |known| match known.context.caller {
        Caller::Auditor(_) => Err(Refusal::InsufficientScope.into()),
        _ => work(known).await,
    })
    .await
}

/// Like [`serve`], for endpoints that auditors may call, too.
pub(in crate::http) async fn serve_audit<F>(
    (request, payload, app): ManagementRequest,
    work: F,
) -> HttpResponse
where
    F: AsyncFnOnce(AuthenticatedRequest<'_>) -> ManagementResult,
{
    let result = match known(&app, &request, payload).await {
        Ok(known) => work(known).await,
        Err(error) => Err(error),
    };
    respond(&app, result)
}

/// Like [`serve`], for a manifest, which may be longer than other bodies if the caller may apply it.
pub(in crate::http) async fn serve_manifest<F>(
    (request, payload, app): ManagementRequest,
    work: F,
) -> HttpResponse
where
    F: AsyncFnOnce(AuthenticatedRequest<'_>, Bytes) -> ManagementResult,
{
    let result = async {
        let Sender { access, caller, now } = sender(&app, &request).await?;
        let most = match caller.administers() {
            true => MAX_MANIFEST_BYTES,
            false => app.config.limits.max_body_bytes,
        };
        let body = params::body(payload, most).await?;
        if !body.is_empty() && manifest_format(content_type(&request)).is_none() {
            let detail = "The body is application/yaml or application/json".to_owned();
            return Err(HttpError::with(Refusal::MediaType, detail));
        }
        // The query has options that a repeated request must have, too.
        let query = request.query_string().as_bytes();
        let idempotency_key = idempotency_key(&app, &request, &access, &[query, b"\n", &body])?;
        let context =
            RequestContext { idempotency_key, ..RequestContext::new(&app, caller, access.origin, now) };
        let known = AuthenticatedRequest { app: &app, context, request: &request, body: Bytes::new() };
        work(known, body).await
    };
    let result = result.await;
    respond(&app, result)
}

/// The format of a manifest, by its media type (RFC 9512 for YAML).
pub(in crate::http) fn manifest_format(media_type: Option<&str>) -> Option<ManifestFormat> {
    let essence = media_type?.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Some(ManifestFormat::Json),
        "application/yaml" => Some(ManifestFormat::Yaml),
        _ => None,
    }
}

fn content_type(request: &HttpRequest) -> Option<&str> {
    request.headers().get(CONTENT_TYPE)?.to_str().ok()
}

/// Who sent a request, before its body is read.
struct Sender {
    access: PresentedAccessToken,
    caller: Caller,
    now: OffsetDateTime,
}

/// Authenticates the caller.
async fn sender(app: &App, request: &HttpRequest) -> Result<Sender, HttpError> {
    let now = app.clock.now();
    let access = credentials::access(&app.issuer, request)?;
    let caller = identify(app, &access, now).await?;
    Ok(Sender { access, caller, now })
}

impl Sender {
    fn with_body<'a>(
        self,
        app: &'a App,
        request: &'a HttpRequest,
        body: Bytes,
    ) -> Result<AuthenticatedRequest<'a>, HttpError> {
        let Self { access, caller, now } = self;
        let idempotency_key = idempotency_key(app, request, &access, &[&body])?;
        let context =
            RequestContext { idempotency_key, ..RequestContext::new(app, caller, access.origin, now) };
        Ok(AuthenticatedRequest { app, context, request, body: checked(request, body)? })
    }
}

/// The length of the body, if the request says it.
fn content_length(request: &HttpRequest) -> Option<usize> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Like [`serve`], for steps: those of an authenticated agent may be longer than other bodies, and their ledger entry uses up
/// the proof.
pub(in crate::http) async fn serve_steps<F>(
    (request, payload, app): ManagementRequest,
    work: F,
) -> HttpResponse
where
    F: AsyncFnOnce(AuthenticatedRequest<'_>, &RequestProof) -> ManagementResult,
{
    let result = async {
        let now = app.clock.now();
        let access = credentials::access(&app.issuer, &request)?;
        let (caller, proof) = identify_unsettled(&app, &access, now).await?;
        let most = match caller {
            Caller::Agent(_) => MAX_STEPS_BYTES,
            _ => app.config.limits.max_body_bytes,
        };
        // What takes long is done for a caller that was checked.
        if content_length(&request).is_none_or(|length| length > app.config.limits.max_body_bytes) {
            proof.settle(&app, &caller, now).await?;
        }
        let worked = async {
            let body = params::body(payload, most).await?;
            // A body can take its time.
            let sender = Sender { access, caller: caller.clone(), now: app.clock.now() };
            work(sender.with_body(&app, &request, body)?, &proof).await
        };
        let worked = worked.await;
        // A request that is refused before its entry is settled, too.
        proof.settle(&app, &caller, now).await?;
        worked
    };
    let result = result.await;
    respond(&app, result)
}

/// Authenticates the caller and reads the idempotency key.
async fn known<'a>(
    app: &'a App,
    request: &'a HttpRequest,
    payload: Payload,
) -> Result<AuthenticatedRequest<'a>, HttpError> {
    let body = params::body(payload, app.config.limits.max_body_bytes).await?;
    sender(app, request).await?.with_body(app, request, body)
}

/// The idempotency key, bound to a fingerprint of method, path and the rest of the request.
fn idempotency_key(
    app: &App,
    request: &HttpRequest,
    access: &PresentedAccessToken,
    rest: &[&[u8]],
) -> Result<Option<IdempotencyKey>, Refusal> {
    let mut keys = request.headers().get_all(IDEMPOTENCY_KEY);
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(key), other) => {
            let key = key.to_str().ok().filter(|key| idempotency::is_key(key) && other.is_none()).ok_or(
                Refusal::Malformed("Idempotency-Key is one key of 1 to 128 printable ASCII characters"),
            )?;
            let PresentedAccessToken { method, path, .. } = access;
            let parts = [&[method.as_bytes(), b" ", path.as_bytes(), b"\n"], rest].concat();
            Ok(Some(IdempotencyKey { key: key.to_owned(), fingerprint: app.fingerprint(&parts) }))
        }
    }
}

/// Accepts an empty body, or one whose content type is JSON.
fn checked(request: &HttpRequest, body: Bytes) -> Result<Bytes, Refusal> {
    if body.is_empty() {
        return Ok(body);
    }
    let kind = content_type(request).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") { Ok(body) } else { Err(Refusal::MediaType) }
}

impl AuthenticatedRequest<'_> {
    /// Reads the query; unknown parameters are refused.
    pub(in crate::http) fn query<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        params::query(self.request)
    }

    /// The parameters of the query; a repeated parameter is refused.
    pub(in crate::http) fn parameters(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let pairs: Vec<(String, String)> = params::query(self.request)?;
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            if parameters.insert(name, value).is_some() {
                return Err(Refusal::Malformed("A query parameter is repeated"));
            }
        }
        Ok(parameters)
    }

    /// The caller's key in limits and logs.
    pub(in crate::http) fn caller_name(&self) -> String {
        self.context.caller.key(&self.app.issuer)
    }

    /// A header of the request; `None` if it is absent or not visible ASCII.
    pub(in crate::http) fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name)?.to_str().ok()
    }

    /// Reads the body; unknown members and repeated members are refused.
    pub(in crate::http) fn read<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        read(&self.body)
    }

    /// Reads the body; an empty body means that every optional member is absent.
    pub(in crate::http) fn read_if_any<T: DeserializeOwned + Default>(&self) -> Result<T, HttpError> {
        if self.body.is_empty() { Ok(T::default()) } else { self.read() }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, HttpError> {
    let malformed = |detail: String| HttpError {
        stop: Refusal::Malformed("The body is not what this endpoint reads").into(),
        detail: Some(detail),
        retry_after: None,
    };
    let value = json::parse(body)
        .ok_or_else(|| malformed("It is not JSON, repeats a name, or has the NUL character".into()))?;
    // serde would read a list as the members in their order.
    if !value.is_object() {
        return Err(malformed("It is not an object".into()));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        malformed(if path == "." { error.inner().to_string() } else { format!("{path}: {}", error.inner()) })
    })
}

/// Reads an optional body before the caller is authenticated.
pub(in crate::http) fn read_if_any<T: DeserializeOwned + Default>(
    request: &HttpRequest,
    body: &Bytes,
) -> Result<T, HttpError> {
    let body = checked(request, body.clone())?;
    if body.is_empty() { Ok(T::default()) } else { read(&body) }
}

pub(in crate::http) fn respond(app: &App, result: Result<HttpResponse, HttpError>) -> HttpResponse {
    let mut response = match result {
        Ok(response) => response,
        Err(stopped) => {
            let mut response = problem::of(&stopped.stop, stopped.detail.as_deref());
            if let Some(seconds) = stopped.retry_after {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            response
        }
    };
    if let Some(nonce) = app.next_nonce().and_then(|nonce| nonce.parse().ok()) {
        response.headers_mut().insert(DPOP_NONCE, nonce);
    }
    response
}

/// 200 with the result of a query.
pub(in crate::http) fn ok(value: &impl Serialize) -> HttpResponse {
    uncached(StatusCode::OK).json(value)
}

/// 200 with the result of an operation.
pub(in crate::http) fn replied<T: Serialize>(reply: Reply<T>) -> HttpResponse {
    with_status(StatusCode::OK, &reply).json(&reply.value)
}

/// 201 with the URL of what was created.
pub(in crate::http) fn created<T: Serialize>(location: &str, reply: Reply<T>) -> HttpResponse {
    at(StatusCode::CREATED, location, reply)
}

/// A response with a `Location`.
pub(in crate::http) fn at<T: Serialize>(status: StatusCode, location: &str, reply: Reply<T>) -> HttpResponse {
    with_status(status, &reply).insert_header((LOCATION, location)).json(&reply.value)
}

/// 202 with the result of an operation.
pub(in crate::http) fn accepted<T: Serialize>(reply: Reply<T>) -> HttpResponse {
    with_status(StatusCode::ACCEPTED, &reply).json(&reply.value)
}

/// 201 if a declaration created something, 200 otherwise.
pub(in crate::http) fn declared<T: Serialize>(change: Change, reply: Reply<T>) -> HttpResponse {
    let status = if change == Change::Create { StatusCode::CREATED } else { StatusCode::OK };
    with_status(status, &reply).json(&reply.value)
}

fn with_status<T>(status: StatusCode, reply: &Reply<T>) -> HttpResponseBuilder {
    let mut response = uncached(status);
    if reply.replayed {
        response.insert_header((REPLAYED, "true"));
    }
    response
}

fn uncached(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response.insert_header((CACHE_CONTROL, "no-store"));
    response
}
