//! `/api/v1`: principals, clients and tasks.

use actix_web::HttpResponse;
use actix_web::web::Path;
use serde::Deserialize;

use super::desk::{Incoming, serve};
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::flows::principals::{self, Whom};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cutoff {
    iss: String,
    sub: String,
    reason: String,
}

pub(super) async fn cutoff(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let Cutoff { iss, sub, reason } = known.read()?;
        let who = Principal::new(iss, sub);
        Ok(principals::cutoff(&known.desk(), &known.call, &who, &reason).await?)
    })
    .await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReachQuery {
    iss: Option<String>,
    sub: Option<String>,
    client_id: Option<String>,
    delegation: Option<String>,
}

impl ReachQuery {
    fn read(self) -> Result<Whom, Refusal> {
        match (self.iss, self.sub, self.client_id, self.delegation) {
            (Some(iss), Some(sub), None, None) => Ok(Whom::Principal(Principal::new(iss, sub))),
            (None, None, Some(id), None) => Ok(Whom::Client(id)),
            (None, None, None, Some(id)) => Ok(Whom::Delegation(id)),
            _ => Err(Refusal::Malformed("The query names iss and sub, or client_id, or delegation")),
        }
    }
}

pub(super) async fn reach(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let whom = known.query::<ReachQuery>()?.read()?;
        Ok(principals::foresee(&known.desk(), &known.call, &whom).await?)
    })
    .await
}

pub(super) async fn disable(incoming: Incoming, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(principals::disable(&known.desk(), &known.call, &id).await?)).await
}

pub(super) async fn enable(incoming: Incoming, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(principals::enable(&known.desk(), &known.call, &id).await?)).await
}

pub(super) async fn remove_key(incoming: Incoming, path: Path<(String, String)>) -> HttpResponse {
    let (id, jkt) = path.into_inner();
    serve(incoming, async |known| Ok(principals::remove_key(&known.desk(), &known.call, (&id, &jkt)).await?))
        .await
}

pub(super) async fn end_task(incoming: Incoming, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(principals::end_task(&known.desk(), &known.call, &id).await?)).await
}
