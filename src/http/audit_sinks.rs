//! `/api/v1/audit-sinks`: where the log is sent.

use actix_web::HttpResponse;
use actix_web::web::Path;
use serde::Deserialize;

use super::desk::{Incoming, Stopped, said, serve, serve_audit};
use crate::domain::refusal::{Refusal, Stop};
use crate::flows::sinks::{self, SinkDeclaration};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Page {
    after: Option<u64>,
}

pub(super) async fn list(incoming: Incoming) -> HttpResponse {
    serve_audit(incoming, async |known| Ok(said(&sinks::list(&known.desk(), &known.call).await?))).await
}

pub(super) async fn show(incoming: Incoming, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| Ok(said(&sinks::show(&known.desk(), &known.call, &id).await?))).await
}

pub(super) async fn declare(incoming: Incoming, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let mut declared: SinkDeclaration = known.read()?;
        if !declared.id.is_empty() {
            return Err(Refusal::Malformed("id is told by the path").into());
        }
        declared.id = id.into_inner();
        match sinks::declare((&known.desk(), &known.app.vault), &known.call, &declared).await {
            Ok(done) => Ok(done),
            Err((Stop::Refused(refusal), Some(why))) => Err(Stopped::with(refusal, why)),
            Err((stop, _)) => Err(stop.into()),
        }
    })
    .await
}

pub(super) async fn remove(incoming: Incoming, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(sinks::remove(&known.desk(), &known.call, &id).await?)).await
}

pub(super) async fn dead_letters(incoming: Incoming, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let page: Page = known.query()?;
        Ok(said(&sinks::dead_letters(&known.desk(), &known.call, (&id, page.after)).await?))
    })
    .await
}

pub(super) async fn replay(incoming: Incoming, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(sinks::replay(&known.desk(), &known.call, &id).await?)).await
}
