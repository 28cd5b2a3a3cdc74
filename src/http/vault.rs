//! `/vault`: connections at the management API, and credentials for agents.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use secrecy::SecretString;
use serde::Deserialize;

use crate::app::App;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::domain::vault::ConnectionState;
use crate::http::credentials;
use crate::http::management::request::{
    HttpError, ManagementRequest, created, declared, ok, read_if_any, replied, respond, serve,
};
use crate::http::params;
use crate::http::pending_authorization;
use crate::services::apply::DeclarationResult;
use crate::services::page::PageRequest;
use crate::services::transition::Reply;
use crate::services::vault::{
    self, ConnectedAccount, ConnectionOrigin, ConnectionQuery, ConnectionView, DeclaredProvider,
    DeliveryForm, Import, NewConnection, ProviderDeclaration, ProviderView, RetrievalRequest,
    RetrievedCredential,
};
use actchain_protocol::metadata::endpoint;
use actchain_protocol::{base64url, json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    #[serde(deserialize_with = "json::object")]
    credential: Option<Import>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finish {
    code: SecretString,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DisconnectReason {
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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConnectionListQuery {
    /// Issuer of the owner; together with `owner_sub`.
    owner_iss: Option<String>,
    owner_sub: Option<String>,
    provider: Option<String>,
    state: Option<ConnectionState>,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl ConnectionListQuery {
    fn read(self) -> Result<ConnectionQuery, Refusal> {
        let owner = match (self.owner_iss, self.owner_sub) {
            (Some(iss), Some(sub)) => Some(Principal::new(iss, sub)),
            (None, None) => None,
            _ => return Err(Refusal::Malformed("owner_iss and owner_sub belong together")),
        };
        let page = PageRequest { cursor: self.cursor, limit: self.limit };
        Ok(ConnectionQuery { owner, provider: self.provider, state: self.state, page })
    }
}

fn location(app: &App, connection: &ConnectionView) -> String {
    endpoint(&app.issuer, &format!("/api/v1/connections/{}", connection.id))
}

pub(super) async fn create(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let request: NewConnection = known.read()?;
        if request.credential.is_none() {
            return Ok(pending_authorization::begin(&known, &request).await?);
        }
        let reply = vault::create(&known.context, &known.app.vault, &request).await?;
        Ok(created(&location(known.app, &reply.value), reply))
    })
    .await
}

pub(super) async fn list(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let query = known.query::<ConnectionListQuery>()?.read()?;
        Ok(ok(&vault::list(&known.context, &query).await?))
    })
    .await
}

pub(super) async fn providers(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| Ok(ok(&vault::providers(&known.context).await?))).await
}

/// Stores a provider. Members that are not declared come from the provider's metadata.
pub(super) async fn declare(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let mut declaration: ProviderDeclaration = known.read()?;
        if declaration.names_a_file() || !declaration.id.is_empty() {
            return Err(Refusal::Malformed(
                "id belongs in the path, and client_secret is a member of its own",
            )
            .into());
        }
        declaration.id = id.into_inner();
        match vault::declare(&known.context, &known.app.vault, declaration).await? {
            DeclarationResult::Stored(Reply { value, replayed }) => {
                let DeclaredProvider { change, id, settings } = value;
                Ok(declared(change, Reply { value: ProviderView { id, settings }, replayed }))
            }
            DeclarationResult::Invalid(problem) => {
                Err(HttpError::with(DeclarationResult::<DeclaredProvider>::REFUSAL, problem))
            }
        }
    })
    .await
}

pub(super) async fn show(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(ok(&vault::show(&known.context, &id).await?))).await
}

pub(super) async fn rotate(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let body: Rotation = known.read()?;
        let import = body.credential.ok_or(Refusal::Malformed("credential is missing"))?;
        Ok(replied(vault::rotate(&known.context, &known.app.vault, &id, &import).await?))
    })
    .await
}

pub(super) async fn disconnect(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let DisconnectReason { reason } = known.read_if_any()?;
        Ok(replied(vault::disconnect(&known.context, &known.app.vault, &id, reason.as_deref()).await?))
    })
    .await
}

pub(super) async fn finish(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    let app = incoming.2.clone().into_inner();
    serve(incoming, async |known| {
        let Finish { code } = known.read()?;
        let Reply { value, replayed } = vault::finish(&app, &known.context, &id, code).await?;
        let ConnectedAccount { origin, connection } = value;
        let location = location(known.app, &connection);
        let reply = Reply { value: connection, replayed };
        Ok(match origin {
            ConnectionOrigin::Created => created(&location, reply),
            ConnectionOrigin::Reconnected => replied(reply),
        })
    })
    .await
}

/// `POST /vault/connections/{id}/token`: a credential for an agent that acts on the owner's behalf.
pub(super) async fn token(
    request: HttpRequest,
    payload: Payload,
    app: Data<App>,
    id: Path<String>,
) -> HttpResponse {
    let app = app.into_inner();
    let take = async || -> Result<RetrievedCredential, HttpError> {
        let body = params::body(payload, app.config.limits.max_body_bytes).await?;
        let body: Retrieval = read_if_any(&request, &body)?;
        let access = credentials::access(&app.issuer, &request)?;
        let form = if body.seal { DeliveryForm::Sealed } else { DeliveryForm::Open };
        let asked = RetrievalRequest { connection: &id, form, rejected: body.rejected()? };
        let now = app.clock.now();
        Ok(vault::retrieve(&app, &access, asked, now).await?)
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
                RetrievedCredential::Sealed(sealed) => response.json(sealed),
            }
        }),
    )
}
