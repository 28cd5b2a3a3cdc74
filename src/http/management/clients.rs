//! `/api/v1/clients`: lists of clients, and new secrets.

use actix_web::HttpResponse;
use actix_web::web::Path;
use serde::Deserialize;
use time::Duration;

use crate::domain::client::ClientKind;
use crate::domain::client::store::ClientFilter;
use crate::http::management::request::{ManagementRequest, ok, replied, serve};
use crate::services::clients;
use crate::services::page::PageRequest;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ClientQuery {
    kind: Option<ClientKind>,
    enabled: Option<bool>,
    prefix: Option<String>,
    name: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

pub(in crate::http) async fn list(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let ClientQuery { kind, enabled, prefix, name, cursor, limit } = known.query()?;
        let filter = ClientFilter { kind, enabled, prefix, name, task_id: None };
        Ok(ok(&clients::list(&known.context, &filter, &PageRequest { cursor, limit }).await?))
    })
    .await
}

pub(in crate::http) async fn show(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(ok(&clients::show(&known.context, &id).await?))).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rotation {
    /// Seconds for which the old secret stays valid.
    overlap: u32,
}

pub(in crate::http) async fn rotate_secret(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let Rotation { overlap } = known.read_if_any()?;
        let overlap = Duration::seconds(overlap.into());
        Ok(replied(clients::rotate_secret(&known.context, &id, overlap).await?))
    })
    .await
}
