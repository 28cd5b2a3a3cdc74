//! `/api/v1`: principals, clients and tasks.

use actix_web::HttpResponse;
use actix_web::web::Path;
use serde::Deserialize;

use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::http::management::request::{ManagementRequest, serve};
use crate::services::principals::{self, RevocationSubject};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeAll {
    iss: String,
    sub: String,
    reason: String,
}

pub(in crate::http) async fn revoke_all(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let RevokeAll { iss, sub, reason } = known.read()?;
        let who = Principal::new(iss, sub);
        Ok(principals::revoke_all(&known.desk(), &known.call, &who, &reason).await?)
    })
    .await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ImpactQuery {
    iss: Option<String>,
    sub: Option<String>,
    client_id: Option<String>,
    delegation_id: Option<String>,
}

impl ImpactQuery {
    fn read(self) -> Result<RevocationSubject, Refusal> {
        match (self.iss, self.sub, self.client_id, self.delegation_id) {
            (Some(iss), Some(sub), None, None) => Ok(RevocationSubject::Principal(Principal::new(iss, sub))),
            (None, None, Some(id), None) => Ok(RevocationSubject::Client(id)),
            (None, None, None, Some(id)) => Ok(RevocationSubject::Delegation(id)),
            _ => Err(Refusal::Malformed("The query names iss and sub, or client_id, or delegation_id")),
        }
    }
}

pub(in crate::http) async fn impact(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let whom = known.query::<ImpactQuery>()?.read()?;
        Ok(principals::show_impact(&known.desk(), &known.call, &whom).await?)
    })
    .await
}

pub(in crate::http) async fn disable(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(principals::disable(&known.desk(), &known.call, &id).await?)).await
}

pub(in crate::http) async fn enable(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(principals::enable(&known.desk(), &known.call, &id).await?)).await
}

pub(in crate::http) async fn remove_key(
    incoming: ManagementRequest,
    path: Path<(String, String)>,
) -> HttpResponse {
    let (id, jkt) = path.into_inner();
    serve(incoming, async |known| Ok(principals::remove_key(&known.desk(), &known.call, (&id, &jkt)).await?))
        .await
}

pub(in crate::http) async fn end_task(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(principals::end_task(&known.desk(), &known.call, &id).await?)).await
}
