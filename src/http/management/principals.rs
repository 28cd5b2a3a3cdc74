//! `/api/v1`: principals, clients and tasks.

use actix_web::HttpResponse;
use actix_web::web::Path;
use serde::{Deserialize, Serialize};

use crate::domain::delegation::impact::Impact;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::http::management::request::{ManagementRequest, ok, replied, serve};
use crate::services::principals::{self, ClientKey, RevocationSubject};
use crate::services::tasks;

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
        Ok(replied(principals::revoke_all(&known.context, &who, &reason).await?))
    })
    .await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ImpactQuery {
    iss: Option<String>,
    sub: Option<String>,
    client_id: Option<String>,
}

impl ImpactQuery {
    fn read(self) -> Result<RevocationSubject, Refusal> {
        match (self.iss, self.sub, self.client_id) {
            (Some(iss), Some(sub), None) => Ok(RevocationSubject::Principal(Principal::new(iss, sub))),
            (None, None, Some(id)) => Ok(RevocationSubject::Client(id)),
            _ => Err(Refusal::Malformed("The query names iss and sub, or client_id")),
        }
    }
}

#[derive(Serialize)]
struct ImpactBody {
    affected: Impact,
}

pub(in crate::http) async fn impact(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let subject = known.query::<ImpactQuery>()?.read()?;
        Ok(ok(&ImpactBody { affected: principals::show_impact(&known.context, &subject).await? }))
    })
    .await
}

/// `/delegate/{id}/impact`.
pub(in crate::http) async fn impact_of_delegation(
    incoming: ManagementRequest,
    id: Path<String>,
) -> HttpResponse {
    serve(incoming, async |known| {
        let subject = RevocationSubject::Delegation(id.into_inner());
        Ok(ok(&ImpactBody { affected: principals::show_impact(&known.context, &subject).await? }))
    })
    .await
}

pub(in crate::http) async fn disable(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(replied(principals::disable(&known.context, &id).await?))).await
}

pub(in crate::http) async fn enable(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(replied(principals::enable(&known.context, &id).await?))).await
}

pub(in crate::http) async fn remove_key(
    incoming: ManagementRequest,
    path: Path<(String, String)>,
) -> HttpResponse {
    let (client_id, jkt) = &*path;
    serve(incoming, async |known| {
        Ok(replied(principals::remove_key(&known.context, ClientKey { client_id, jkt }).await?))
    })
    .await
}

pub(in crate::http) async fn end_task(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(replied(tasks::end_task(&known.context, &id).await?))).await
}
