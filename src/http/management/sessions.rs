//! `/api/v1/sessions`: the texts of steps, erased on request.

use actix_web::HttpResponse;
use actix_web::web::Path;

use crate::http::management::request::{ManagementRequest, replied, serve};
use crate::services::session_texts;

pub(in crate::http) async fn erase_texts(incoming: ManagementRequest, id: Path<String>) -> HttpResponse {
    serve(incoming, async |known| Ok(replied(session_texts::erase(&known.context, &id).await?))).await
}
