//! `/api/v1/audit-sinks`: where the audit log is delivered.

use actix_web::HttpResponse;
use actix_web::web::Path;
use serde::Deserialize;

use crate::domain::refusal::{Error, Refusal};
use crate::http::management::request::{HttpError, ManagementRequest, said, serve, serve_audit};
use crate::services::sinks::{self, SinkDeclaration};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Page {
    after: Option<u64>,
}

pub(in crate::http) async fn list(incoming: ManagementRequest) -> HttpResponse {
    serve_audit(incoming, async |known| Ok(said(&sinks::list(&known.desk(), &known.call).await?))).await
}

pub(in crate::http) async fn show(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| Ok(said(&sinks::show(&known.desk(), &known.call, &id).await?))).await
}

pub(in crate::http) async fn declare(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let mut declared: SinkDeclaration = known.read()?;
        if !declared.id.is_empty() {
            return Err(Refusal::Malformed("id is told by the path").into());
        }
        declared.id = id.into_inner();
        match sinks::declare((&known.desk(), &known.app.vault), &known.call, &declared).await {
            Ok(done) => Ok(done),
            Err((Error::Refused(refusal), Some(why))) => Err(HttpError::with(refusal, why)),
            Err((stop, _)) => Err(stop.into()),
        }
    })
    .await
}

pub(in crate::http) async fn remove(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(sinks::remove(&known.desk(), &known.call, &id).await?)).await
}

pub(in crate::http) async fn dead_letters(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let page: Page = known.query()?;
        Ok(said(&sinks::dead_letters(&known.desk(), &known.call, (&id, page.after)).await?))
    })
    .await
}

pub(in crate::http) async fn replay(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(sinks::replay(&known.desk(), &known.call, &id).await?)).await
}
