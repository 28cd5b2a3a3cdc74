//! `/vault`: connections at the management API, and credentials for agents.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use tracing_actix_web::RequestId;

use crate::app::App;
use crate::domain::refusal::Refusal;
use crate::http::credentials;
use crate::http::management::request::{HttpError, ManagementRequest, respond, serve};
use crate::http::params;
use crate::http::pending_authorization;
use crate::platform::{base64url, json};
use crate::protocol::metadata::issuer_path;
use crate::services::vault::{
    self, Declared, DeliveryForm, Import, ListQuery, NewConnection, ProviderDeclaration, RetrievalRequest,
    RetrievedCredential, UNUSABLE,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    #[serde(deserialize_with = "json::object")]
    credential: Option<Import>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Reason {
    reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Retrieval {
    seal: bool,
    rejected_sha256: Option<String>,
}

impl Retrieval {
    /// SHA-256 of the access token that the provider's API has rejected.
    fn rejected(&self) -> Result<Option<[u8; 32]>, Refusal> {
        let malformed = Refusal::Malformed("rejected_sha256 is a SHA-256 in base64url");
        let digest = self.rejected_sha256.as_deref().map(base64url::decode);
        digest.map(|bytes| bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(malformed)).transpose()
    }
}

pub(super) async fn create(incoming: ManagementRequest) -> HttpResponse {
    let mut cookie = None;
    let response = serve(incoming, async |known| {
        let wanted: NewConnection = known.read()?;
        if wanted.credential.is_some() {
            return Ok(vault::create((&known.desk(), &known.app.vault), &known.call, &wanted).await?);
        }
        let (done, browser) = pending_authorization::begin(&known, &wanted).await?;
        cookie = Some(browser);
        Ok(done)
    })
    .await;
    pending_authorization::with_cookie(response, cookie)
}

pub(super) async fn list(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let query: ListQuery = known.query()?;
        Ok(vault::list(&known.desk(), &known.call, &query).await?)
    })
    .await
}

pub(super) async fn providers(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| Ok(vault::providers(&known.desk(), &known.call).await?)).await
}

/// Stores a provider. Members that are not declared come from the provider's metadata.
pub(super) async fn declare(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let mut declared: ProviderDeclaration = known.read()?;
        if declared.names_a_file() || !declared.id.is_empty() {
            return Err(Refusal::Malformed("id is told by the path, and client_secret by itself").into());
        }
        declared.id = id.into_inner();
        match vault::declare((&known.desk(), &known.app.vault), &known.call, declared).await? {
            Declared::Done(done) => Ok(done),
            Declared::Unusable(why) => Err(HttpError::with(UNUSABLE, why)),
        }
    })
    .await
}

pub(super) async fn show(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(vault::show(&known.desk(), &known.call, &id).await?)).await
}

pub(super) async fn rotate(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let body: Rotation = known.read()?;
        let import = body.credential.ok_or(Refusal::Malformed("credential is missing"))?;
        Ok(vault::rotate((&known.desk(), &known.app.vault), &known.call, (&id, &import)).await?)
    })
    .await
}

pub(super) async fn disconnect(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let body: Reason = known.read_if_any()?;
        let why = (id.as_str(), body.reason.as_deref());
        Ok(vault::disconnect((&known.desk(), &known.app.vault), &known.call, why).await?)
    })
    .await
}

/// `POST /vault/connections/{id}/token`: a credential for an agent that acts on the owner's behalf.
pub(super) async fn token(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    app: Data<App>,
    id: Path<String>,
) -> HttpResponse {
    let app = app.into_inner();
    let take = async || -> Result<RetrievedCredential, HttpError> {
        let body = params::body(payload, app.config.limits.max_body_bytes).await?;
        let body: Retrieval = crate::http::management::request::read_if_any(&request, &body)?;
        let access = credentials::access(request.headers())?;
        let base = issuer_path(&app.issuer);
        let path = request.path().strip_prefix(base.as_str()).unwrap_or(request.path());
        let form = if body.seal { DeliveryForm::Sealed } else { DeliveryForm::Open };
        let origin = credentials::origin(&request, request_id);
        let at = (request.method().as_str(), path);
        let asked = RetrievalRequest { connection: &id, form, rejected: body.rejected()? };
        let now = app.clock.now();
        Ok(vault::retrieve(&app, (&access, at), asked, origin, now).await?)
    };
    let taken = take().await;
    respond(
        &app,
        taken.map(|answer| {
            let mut response = HttpResponse::Ok();
            response
                .insert_header((CACHE_CONTROL, "no-store"))
                .insert_header((CONTENT_TYPE, "application/json"));
            match answer {
                RetrievedCredential::Open(document) => response.body(document.to_vec()),
                RetrievedCredential::Sealed(document) => response.body(document.to_string()),
            }
        }),
    )
}
