//! `/api/v1/audit-logs/export`: the log as a stream. A client that was disconnected resumes at the `seq` after the last
//! complete line that it has.

use actix_web::HttpResponse;

use crate::domain::audit::personal::PeopleMembers;
use crate::domain::refusal::Refusal;
use crate::http::log_file;
use crate::http::management::audit_logs::{filter, reject_unknown_params};
use crate::http::management::request::{ManagementRequest, serve_audit};
use crate::services::audit::export::{ExportFormat, ExportOptions};
use actchain_protocol::csv_export::ByteOrderMark;

pub(in crate::http) async fn get(incoming: ManagementRequest) -> HttpResponse {
    serve_audit(incoming, async |known| {
        let mut parameters = known.parameters()?;
        let filter = filter(&mut parameters)?;
        let format = parameters.remove("format").unwrap_or_else(|| "jsonl".into());
        let format =
            ExportFormat::parse(&format).ok_or(Refusal::Malformed("format is jsonl, csv or sarif"))?;
        let number = |text: Option<String>| -> Result<Option<u64>, Refusal> {
            let malformed = |_| Refusal::Malformed("from_seq and size are places in the log");
            text.map(|text| text.parse().map_err(malformed)).transpose()
        };
        let from = number(parameters.remove("from_seq"))?.unwrap_or_default();
        let size = number(parameters.remove("size"))?;
        let mark = byte_order_mark(parameters.remove("bom"))?;
        let people = match parameters.remove("people").as_deref() {
            None | Some("false") => PeopleMembers::Omitted,
            Some("true") => PeopleMembers::Included,
            Some(_) => return Err(Refusal::Malformed("people is true or false").into()),
        };
        reject_unknown_params(&parameters)?;
        let options = ExportOptions { format, filter, from, size, mark, people };
        Ok(log_file::send(known.app, &known.context, options).await?)
    })
    .await
}

/// The parameter `bom`.
pub(super) fn byte_order_mark(text: Option<String>) -> Result<ByteOrderMark, Refusal> {
    match text.as_deref() {
        None | Some("false") => Ok(ByteOrderMark::Absent),
        Some("true") => Ok(ByteOrderMark::Present),
        Some(_) => Err(Refusal::Malformed("bom is true or false")),
    }
}
