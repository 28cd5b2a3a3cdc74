//! `/api/v1/standing-grants`.

use actix_web::HttpResponse;
use actix_web::web::Path;
use serde::Deserialize;

use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::domain::standing_grant::StandingGrantState;
use crate::domain::standing_grant::list::StandingGrantFilter;
use crate::http::management::request::{ManagementRequest, created, ok, replied, serve};
use crate::services::page::PageRequest;
use crate::services::standing_grants::{self, KeyConfirmation, NewStandingGrant};
use actchain_protocol::metadata::endpoint;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LaterEnd {
    expires_in: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GrantListQuery {
    state: Option<StandingGrantState>,
    grantor_iss: Option<String>,
    grantor_sub: Option<String>,
    client_id: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(in crate::http) async fn create(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let request: NewStandingGrant = known.read()?;
        let reply = standing_grants::create(&known.context, &request).await?;
        let location = endpoint(&known.app.issuer, &format!("/api/v1/standing-grants/{}", reply.value.id));
        Ok(created(&location, reply))
    })
    .await
}

pub(in crate::http) async fn list(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let query: GrantListQuery = known.query()?;
        let grantor = match (query.grantor_iss, query.grantor_sub) {
            (Some(iss), Some(sub)) => Some(Principal { iss, sub }),
            (None, None) => None,
            _ => return Err(Refusal::Malformed("grantor_iss and grantor_sub belong together").into()),
        };
        let filter = StandingGrantFilter {
            grantor,
            client_id: query.client_id,
            state: query.state,
            ends_before: None,
        };
        let page = PageRequest { cursor: query.cursor, limit: query.limit };
        Ok(ok(&standing_grants::list(&known.context, &filter, &page).await?))
    })
    .await
}

pub(in crate::http) async fn show(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(ok(&standing_grants::show(&known.context, &id).await?))).await
}

pub(in crate::http) async fn renew(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let LaterEnd { expires_in } = known.read()?;
        Ok(replied(standing_grants::renew(&known.context, &id, expires_in).await?))
    })
    .await
}

pub(in crate::http) async fn revoke(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(replied(standing_grants::revoke(&known.context, &id).await?))).await
}

pub(in crate::http) async fn revalidate(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let confirmation: KeyConfirmation = known.read()?;
        Ok(replied(standing_grants::revalidate(&known.context, &id, &confirmation).await?))
    })
    .await
}
