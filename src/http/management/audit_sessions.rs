//! `/api/v1/sessions`: what the log has of sessions.

use actix_web::HttpResponse;
use actix_web::web::Path;

use crate::domain::audit::filter::Filter;
use crate::domain::refusal::Refusal;
use crate::http::management::audit_export::byte_order_mark;
use crate::http::management::audit_logs::{number, reject_unknown_params};
use crate::http::management::request::{AuthenticatedRequest, HttpError, ManagementRequest, ok, serve_audit};
use crate::http::session_file::{self, SessionFile};
use crate::services::audit::session_export::{SessionExportOptions, SessionFormat};
use crate::services::audit::sessions::{self, SessionQuery, TraceQuery};

/// The parameters of the list that are those of the filter.
const FILTERS: [&str; 8] =
    ["client_id", "subject_iss", "subject_sub", "delegation_id", "from", "to", "rule", "has_findings"];

fn read_query(known: &AuthenticatedRequest<'_>) -> Result<SessionQuery, HttpError> {
    let mut parameters = known.parameters()?;
    let mut filter = Filter::default();
    for name in FILTERS {
        if let Some(value) = parameters.remove(name) {
            filter.set(name, &value)?;
        }
    }
    match parameters.remove("has_refusals").as_deref() {
        None => {}
        Some("true") => {
            filter.set("outcome", "refused")?;
        }
        Some(_) => return Err(Refusal::Malformed("has_refusals is true, or absent").into()),
    }
    let limit = number(parameters.remove("limit"))?;
    let cursor = parameters.remove("cursor");
    reject_unknown_params(&parameters)?;
    Ok(SessionQuery { filter, limit, cursor })
}

pub(in crate::http) async fn list(incoming: ManagementRequest) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let query = read_query(&known)?;
        Ok(ok(&sessions::list(&known.context, &query).await?))
    })
    .await
}

pub(in crate::http) async fn show(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        reject_unknown_params(&known.parameters()?)?;
        Ok(ok(&sessions::show(&known.context, &id).await?))
    })
    .await
}

/// A session as a file, streamed like an export of the log.
pub(in crate::http) async fn export(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let mut parameters = known.parameters()?;
        let format = parameters.remove("format").unwrap_or_else(|| "json".into());
        let format =
            SessionFormat::parse(&format).ok_or(Refusal::Malformed("format is json, csv or sarif"))?;
        let mark = byte_order_mark(parameters.remove("bom"))?;
        reject_unknown_params(&parameters)?;
        let options = SessionExportOptions { format, mark };
        let file = SessionFile { session_id: &id, reader: &known.caller_name(), options };
        Ok(session_file::send(known.app, &known.context, file).await?)
    })
    .await
}

pub(in crate::http) async fn trace(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let mut parameters = known.parameters()?;
        let limit = number(parameters.remove("limit"))?;
        let cursor = parameters.remove("cursor");
        reject_unknown_params(&parameters)?;
        Ok(ok(&sessions::trace(&known.context, &id, &TraceQuery { limit, cursor }).await?))
    })
    .await
}
