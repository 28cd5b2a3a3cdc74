//! `/api/v1/audit-sinks`: where the audit log is delivered.

use actix_web::HttpResponse;
use actix_web::web::Path;
use serde::{Deserialize, Serialize};

use crate::domain::refusal::Refusal;
use crate::domain::sink::SinkView;
use crate::http::management::request::{
    HttpError, ManagementRequest, declared, ok, replied, serve, serve_audit,
};
use crate::services::apply::DeclarationResult;
use crate::services::sinks::{self, DeclaredSink, SinkDeclaration};
use crate::services::transition::Reply;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DeadLetterQuery {
    after: Option<u64>,
}

/// A declared sink, with a generated secret.
#[derive(Serialize)]
struct SinkBody {
    #[serde(flatten)]
    sink: SinkView,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

pub(in crate::http) async fn list(incoming: ManagementRequest) -> HttpResponse {
    serve_audit(incoming, async |known| Ok(ok(&sinks::list(&known.context).await?))).await
}

pub(in crate::http) async fn show(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| Ok(ok(&sinks::show(&known.context, &id).await?))).await
}

pub(in crate::http) async fn declare(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| {
        let mut declaration: SinkDeclaration = known.read()?;
        if !declaration.id.is_empty() {
            return Err(Refusal::Malformed("id belongs in the path").into());
        }
        if declaration.secret_file.is_some() {
            return Err(Refusal::Malformed(
                "A file can be named only by an operator on the machine of the server",
            )
            .into());
        }
        declaration.id = id.into_inner();
        match sinks::declare(&known.context, &known.app.vault, &declaration).await? {
            DeclarationResult::Stored(Reply { value, replayed }) => {
                let DeclaredSink { change, sink, secret } = value;
                Ok(declared(change, Reply { value: SinkBody { sink, secret }, replayed }))
            }
            DeclarationResult::Invalid(problem) => {
                Err(HttpError::with(DeclarationResult::<DeclaredSink>::REFUSAL, problem))
            }
        }
    })
    .await
}

pub(in crate::http) async fn remove(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(replied(sinks::remove(&known.context, &id).await?))).await
}

pub(in crate::http) async fn dead_letters(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let DeadLetterQuery { after } = known.query()?;
        Ok(ok(&sinks::dead_letters(&known.context, &id, after).await?))
    })
    .await
}

pub(in crate::http) async fn replay(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(replied(sinks::replay(&known.context, &id).await?))).await
}
